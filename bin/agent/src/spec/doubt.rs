//! A specification that went back (the API server was restored from a backup) may list addresses that this node gave back
//! since, and that are another's by now. Of such a one only those addresses are believed that the node had anyway, until
//! somebody writes the object again: the operator writes what the cloud shows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Cached;

/// `new` as far as it may be believed after `before`, and how many addresses are withheld.
pub fn believed(before: Option<Cached>, mut new: Cached) -> (Cached, usize) {
    let Some(before) = before.filter(|before| before.uid == new.uid) else {
        return (new, 0);
    };
    let back = new.generation < before.generation;
    let still = before.doubted && new.generation == before.generation;
    if !back && !still {
        return (new, 0);
    }
    let held: BTreeSet<IpAddr> = before
        .spec
        .nics
        .iter()
        .flat_map(|nic| &nic.addresses)
        .filter(|ip| !before.spec.release.contains(ip))
        .copied()
        .collect();
    let mut withheld = 0;
    for nic in &mut new.spec.nics {
        let listed = nic.addresses.len();
        nic.addresses.retain(|ip| held.contains(ip));
        withheld += listed - nic.addresses.len();
    }
    new.doubted = true;
    (new, withheld)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(generation: i64, addresses: &[&str], release: &[&str]) -> Cached {
        let nic = serde_json::json!({
            "id": "eni-0", "mac": "02:00:00:00:00:00", "deviceIndex": 0, "subnet": "s", "cidr4": "10.0.0.0/24",
            "gateway4": "10.0.0.1", "primary4": "10.0.0.10", "mtu": 1500, "addresses": addresses,
        });
        let spec = serde_json::json!({
            "instanceId": "i-1", "instanceType": "t", "zone": "z",
            "profile": {"name": "default", "ipFamilies": "DualStack", "pool": {}, "snat": true},
            "limits": {"maxNics": 2, "ipv4PerNic": 4, "ipv6PerNic": 4},
            "vpcCidrs": ["10.0.0.0/16"], "nics": [nic], "release": release,
        });
        Cached {
            uid: "u".to_owned(),
            generation,
            doubted: false,
            spec: serde_json::from_value(spec).unwrap(),
        }
    }

    fn addresses(cached: &Cached) -> Vec<String> {
        let all = cached.spec.nics.iter().flat_map(|nic| &nic.addresses);
        all.map(ToString::to_string).collect()
    }

    #[test]
    fn what_went_back_is_believed_as_far_as_it_was_known() {
        let now = at(9, &["10.0.0.20", "10.0.0.21"], &["10.0.0.21"]);
        // .21 may be gone since we agreed, .22 since it was listed long ago.
        let old = || at(4, &["10.0.0.20", "10.0.0.21", "10.0.0.22"], &[]);
        let (kept, withheld) = believed(Some(now), old());
        assert_eq!(
            (addresses(&kept), withheld),
            (vec!["10.0.0.20".to_owned()], 2)
        );
        // The same object again, as with each change of its status, and after a restart of the agent.
        let (kept, withheld) = believed(Some(kept), old());
        assert_eq!(
            (addresses(&kept), withheld, kept.doubted),
            (vec!["10.0.0.20".to_owned()], 2, true)
        );
        // Back once more.
        let (kept, _) = believed(Some(kept), at(3, &["10.0.0.22"], &[]));
        assert_eq!(addresses(&kept), Vec::<String>::new());
        // Written again, though with a number that was there before.
        let (kept, withheld) = believed(Some(kept), at(5, &["10.0.0.22"], &[]));
        assert_eq!(
            (addresses(&kept), withheld, kept.doubted),
            (vec!["10.0.0.22".to_owned()], 0, false)
        );
    }

    #[test]
    fn what_goes_forward_or_is_another_object_is_believed() {
        let before = at(9, &["10.0.0.20"], &[]);
        let next = at(10, &["10.0.0.21"], &[]);
        assert_eq!(addresses(&believed(Some(before), next).0), ["10.0.0.21"]);
        let before = at(9, &["10.0.0.20"], &[]);
        let mut other = at(1, &["10.0.0.21"], &[]);
        other.uid = "v".to_owned();
        assert_eq!(addresses(&believed(Some(before), other).0), ["10.0.0.21"]);
        assert_eq!(believed(None, at(1, &["10.0.0.21"], &[])).1, 0);
    }
}
