//! Whether a reply is one to the call that was made. Pure.
//!
//! Replies get lost, but proxies and retries also repeat them and mix them up. One that does not fit is no reply: what it
//! says is not taken in, the outcome is unknown, and a reading tells.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tombolo_cloud_sim::wire::{AssignAddresses, AttachNic, Attachment, CreateNic, NicInfo};
use tombolo_core::types::Family;

use crate::inventory::Snapshot;

/// A NIC that was made: where it was asked for, and with our tags, which name the one Eni object that it is for.
pub fn made(nic: &NicInfo, asked: &CreateNic) -> bool {
    let tagged = asked
        .tags
        .iter()
        .all(|(key, value)| nic.tags.get(key) == Some(value));
    tagged && nic.subnet == asked.subnet
}

/// An attachment: to this instance and where it was asked for.
pub fn attached(attachment: &Attachment, asked: &AttachNic) -> bool {
    attachment.instance == asked.instance && attachment.device_index == asked.device_index
}

/// Addresses given: some, no more than asked for, of the family and the NIC's subnet, on no other NIC, and not on this one
/// when the call was made (`had`). A reading may have shown them meanwhile.
pub fn assigned(
    addresses: &[IpAddr],
    asked: &AssignAddresses,
    had: &BTreeSet<IpAddr>,
    known: &Snapshot,
) -> bool {
    let subnet = known
        .nics
        .get(&asked.nic)
        .and_then(|record| known.subnets.get(&record.info.subnet));
    let fits = |ip: &IpAddr| {
        let inside = subnet.is_some_and(|subnet| match ip {
            IpAddr::V4(ip) => subnet.cidr4.contains(ip),
            IpAddr::V6(ip) => subnet.cidr6.is_some_and(|cidr| cidr.contains(ip)),
        });
        Family::of(*ip) == asked.family && inside
    };
    let new: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    let elsewhere = known
        .nics
        .iter()
        .filter(|(id, _)| **id != asked.nic)
        .any(|(_, record)| record.info.secondary.iter().any(|ip| new.contains(ip)));
    let count = new.len() == addresses.len() && (1..=usize::from(asked.count)).contains(&new.len());
    count && new.iter().all(fits) && new.is_disjoint(had) && !elsewhere
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::samples;
    use tombolo_core::types::Millis;

    #[test]
    fn addresses_of_another_call_are_no_reply() {
        let mut known = Snapshot::default();
        let nics = vec![
            samples::nic("eni-1", Some(("i-1", 1)), &["10.0.0.11", "10.0.0.14"]),
            samples::nic("eni-2", Some(("i-2", 1)), &["10.0.0.12"]),
        ];
        known.absorb(samples::reading(vec![], nics), 0, Millis(0), samples::TRUST);
        let asked = AssignAddresses {
            nic: "eni-1".to_owned(),
            family: Family::V4,
            count: 2,
        };
        let had = BTreeSet::from([samples::ip("10.0.0.11")]);
        let cases: [(&[&str], bool); 10] = [
            (&["10.0.0.21", "10.0.0.22"], true),
            (&["10.0.0.14"], true),
            (&["10.0.0.21"], true),
            (&[], false),
            (&["10.0.0.21", "10.0.0.21"], false),
            (&["10.0.0.21", "10.0.0.22", "10.0.0.23"], false),
            (&["10.0.0.21", "10.0.0.11"], false),
            (&["10.0.0.21", "10.0.0.12"], false),
            (&["10.0.1.21"], false),
            (&["fd00::21"], false),
        ];
        for (addresses, wanted) in cases {
            let list: Vec<IpAddr> = addresses.iter().map(|text| samples::ip(text)).collect();
            assert_eq!(
                assigned(&list, &asked, &had, &known),
                wanted,
                "{addresses:?}"
            );
        }
        let unknown = AssignAddresses {
            nic: "eni-9".to_owned(),
            ..asked
        };
        assert!(!assigned(
            &[samples::ip("10.0.0.21")],
            &unknown,
            &had,
            &known
        ));
    }

    #[test]
    fn a_nic_or_an_attachment_of_another_call_is_no_reply() {
        let nic = |eni: &str, subnet: &str| {
            let mut nic = samples::nic("eni-1", None, &[]);
            nic.tags
                .insert(tombolo_api::TAG_ENI.to_owned(), eni.to_owned());
            nic.subnet = subnet.to_owned();
            nic
        };
        let asked = CreateNic {
            subnet: "s1".to_owned(),
            description: String::new(),
            client_token: None,
            ipv4_count: 0,
            ipv6_count: 0,
            security_groups: Vec::new(),
            tags: nic("n1-1-x", "s1").tags,
        };
        assert!(made(&nic("n1-1-x", "s1"), &asked));
        assert!(!made(&nic("n1-2-y", "s1"), &asked));
        assert!(!made(&nic("n1-1-x", "s2"), &asked));

        let asked = AttachNic {
            nic: "eni-1".to_owned(),
            instance: "i-1".to_owned(),
            device_index: 1,
            delete_on_termination: true,
        };
        let to = |instance: &str, device_index| Attachment {
            instance: instance.to_owned(),
            device_index,
            delete_on_termination: true,
        };
        assert!(attached(&to("i-1", 1), &asked));
        assert!(!attached(&to("i-1", 2), &asked));
        assert!(!attached(&to("i-2", 1), &asked));
    }
}
