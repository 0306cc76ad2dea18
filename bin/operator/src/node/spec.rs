//! The spec that a node's NetResourceSet should have. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tombolo_api::{Limits, NetResourceSetSpec, NicEntry};
use tombolo_cloud_sim::wire::NicStatus;
use tombolo_core::eni::{Ownership, Term};
use tombolo_core::types::NicLimits;

use super::view::{CloudView, NodeNic};
use crate::profile::Chosen;

/// The spec. `release`: addresses marked; what is on no NIC any more is left out. `taking`: addresses that the cloud is
/// asked to take; they stay, seen or not. `leaving`: NICs about to be detached. `signed`: the last leader that wrote.
pub fn desired(
    cloud: &CloudView,
    limits: NicLimits,
    chosen: &Chosen,
    release: &BTreeSet<IpAddr>,
    taking: &BTreeSet<IpAddr>,
    leaving: &BTreeSet<String>,
    signed: Term,
) -> NetResourceSetSpec {
    let serves = |nic: &&NodeNic| {
        nic.ownership != Ownership::Foreign
            && nic.info.status == NicStatus::InUse
            && !leaving.contains(&nic.info.id)
    };
    let nics: Vec<NicEntry> = cloud
        .nics
        .iter()
        .filter(serves)
        .filter_map(|nic| entry(cloud, nic))
        .collect();
    let held = |ip: &&IpAddr| nics.iter().any(|nic| nic.addresses.contains(*ip));
    let release = release.iter().filter(held).copied().collect();
    NetResourceSetSpec {
        instance_id: cloud.instance.id.clone(),
        instance_type: cloud.instance.instance_type.clone(),
        zone: cloud.instance.zone.clone(),
        profile: chosen.resolved.clone(),
        limits: Limits {
            max_nics: limits.max_nics,
            ipv4_per_nic: limits.ipv4_per_nic,
            ipv6_per_nic: limits.ipv6_per_nic,
        },
        vpc_cidrs: cloud.vpc_cidrs.clone(),
        nics,
        release,
        taking: taking.iter().copied().collect(),
        term: signed.0,
    }
}

fn entry(cloud: &CloudView, nic: &NodeNic) -> Option<NicEntry> {
    let info = &nic.info;
    let subnet = cloud.subnets.get(&info.subnet)?;
    let mut addresses = info.secondary.clone();
    addresses.sort();
    Some(NicEntry {
        id: info.id.clone(),
        mac: info.mac.to_string(),
        device_index: nic.index()?,
        subnet: info.subnet.clone(),
        cidr4: subnet.cidr4,
        cidr6: subnet.cidr6,
        gateway4: subnet.gateway4,
        gateway6: subnet.cidr6.map(|_| subnet.gateway6),
        primary4: info.primary4,
        primary6: info.primary6,
        mtu: info.mtu,
        addresses,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::samples::ip;
    use crate::node::view::tests::{chosen, snapshot};

    #[test]
    fn nics_in_use_that_are_ours_by_device_index() {
        let cloud = CloudView::of(&snapshot(), "demo", "n1", "i-1").unwrap();
        let limits = cloud.limits.unwrap();
        let marked = BTreeSet::from([ip("10.0.0.21"), ip("10.9.9.9")]);
        let none = BTreeSet::new();
        let spec = desired(
            &cloud,
            limits,
            &chosen(),
            &marked,
            &none,
            &BTreeSet::new(),
            Term(4),
        );
        let nics: Vec<(&str, u16, usize)> = spec
            .nics
            .iter()
            .map(|nic| (nic.id.as_str(), nic.device_index, nic.addresses.len()))
            .collect();
        assert_eq!(nics, [("eni-0", 0, 1), ("eni-1", 1, 2)]);
        assert_eq!(
            spec.nics[1].addresses,
            [ip("10.0.0.21"), ip("10.0.0.22")],
            "in order"
        );
        assert_eq!(
            spec.release,
            [ip("10.0.0.21")],
            "what is gone is not asked for"
        );
        let leaving = BTreeSet::from(["eni-1".to_owned()]);
        let spec = desired(
            &cloud,
            limits,
            &chosen(),
            &marked,
            &marked,
            &leaving,
            Term(4),
        );
        assert_eq!((spec.nics.len(), spec.release.len()), (1, 0));
        assert_eq!(spec.taking.len(), 2, "seen or not");
    }
}
