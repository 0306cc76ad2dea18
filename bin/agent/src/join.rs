//! Joins the cloud's view of the NICs with the kernel's links, by MAC: names and order change over reboots.

use tombolo_core::datapath::conventions::{DOOMED_LINK_GROUP, POD_LINK_GROUP};
use tombolo_core::types::{Nic, Reason};
use tombolo_netlink::link::Link;

use crate::node::Problem;
use crate::spec::{NicPlan, Plan};

/// NICs found, and what is wrong with the others.
#[derive(Debug, Default)]
pub struct Joined {
    pub nics: Vec<Nic>,
    pub problems: Vec<Problem>,
}

/// Joins all. Without its primary NIC a node cannot serve; without another it only has fewer addresses.
pub fn join(plan: &Plan, links: &[Link]) -> Joined {
    let mut joined = Joined::default();
    for nic in &plan.nics {
        match candidates(nic, links).as_slice() {
            [link] => joined.nics.push(found(nic, link)),
            [] => joined.problems.push(Problem {
                reason: Reason::AttachTimeout,
                message: format!(
                    "NIC {} ({}) is not to be seen in the kernel",
                    nic.id, nic.mac
                ),
                serving: nic.device_index != 0,
            }),
            several => joined.problems.push(Problem {
                reason: Reason::ForeignConflict,
                message: format!(
                    "NIC {} ({}) could be any of {}",
                    nic.id,
                    nic.mac,
                    several
                        .iter()
                        .map(|link| link.name.as_str())
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
                serving: nic.device_index != 0,
            }),
        }
    }
    if !plan.nics.iter().any(|nic| nic.device_index == 0) {
        joined.problems.push(Problem {
            reason: Reason::NotReady,
            message: "the node's primary NIC is not listed yet".to_owned(),
            serving: false,
        });
    }
    joined
}

/// Links with the NIC's MAC that are a NIC and not something on top of it (a bridge, VLAN or macvlan has its MAC, too).
fn candidates<'a>(nic: &NicPlan, links: &'a [Link]) -> Vec<&'a Link> {
    let is_nic = |link: &Link| {
        let hardware = matches!(link.kind.as_deref(), None | Some("veth"));
        let pods = [POD_LINK_GROUP, DOOMED_LINK_GROUP].contains(&link.group);
        hardware && !pods && !link.loopback
    };
    links
        .iter()
        .filter(|link| link.mac == Some(nic.mac) && is_nic(link))
        .collect()
}

fn found(nic: &NicPlan, link: &Link) -> Nic {
    Nic {
        id: nic.id.clone(),
        device_index: nic.device_index,
        mac: nic.mac,
        ifindex: link.index,
        ifname: link.name.clone(),
        // The primary NIC is the OS's: its present MTU holds. Others get the cloud's.
        mtu: if nic.device_index == 0 {
            link.mtu
        } else {
            nic.mtu
        },
        addr4: Some(nic.primary4),
        addr6: nic.primary6,
        subnet4: Some(nic.subnet4),
        subnet6: nic.subnet6,
        gateway4: Some(nic.gateway4),
        gateway6: nic.gateway6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(index: u16) -> NicPlan {
        NicPlan {
            id: tombolo_core::types::NicId(format!("eni-{index}")),
            mac: format!("02:00:00:00:00:{index:02x}").parse().unwrap(),
            device_index: index,
            subnet4: "10.0.0.0/24".parse().unwrap(),
            subnet6: None,
            gateway4: "10.0.0.1".parse().unwrap(),
            gateway6: None,
            primary4: "10.0.0.9".parse().unwrap(),
            primary6: None,
            mtu: 9001,
            addresses: Vec::new(),
        }
    }

    fn link(index: u32, mac: u16, kind: Option<&str>) -> Link {
        Link {
            index,
            name: format!("l{index}"),
            mac: Some(nic(mac).mac),
            mtu: 1500,
            up: true,
            running: true,
            loopback: false,
            group: 0,
            alias: None,
            kind: kind.map(str::to_owned),
            peer: None,
            peer_netns: None,
            master: None,
        }
    }

    fn plan(nics: Vec<NicPlan>) -> Plan {
        Plan {
            generation: 1,
            pool: crate::spec::unknown_pool(1),
            wait: std::time::Duration::ZERO,
            mtu: None,
            untranslated: Vec::new(),
            snat: true,
            nics,
            release: std::collections::BTreeSet::new(),
        }
    }

    #[test]
    fn joins_by_mac_and_ignores_what_lies_on_top() {
        let links = [
            link(2, 0, None),
            link(3, 0, Some("vlan")),
            link(4, 1, Some("veth")),
        ];
        let joined = join(&plan(vec![nic(0), nic(1)]), &links);
        let seen: Vec<_> = joined
            .nics
            .iter()
            .map(|nic| (nic.ifindex, nic.mtu))
            .collect();
        assert_eq!(seen, [(2, 1500), (4, 9001)]);
        assert_eq!(joined.problems, []);
    }

    #[test]
    fn only_the_primary_is_vital() {
        let joined = join(
            &plan(vec![nic(0), nic(1), nic(2)]),
            &[link(2, 0, None), link(5, 2, None), link(6, 2, None)],
        );
        let seen: Vec<_> = joined
            .problems
            .iter()
            .map(|p| (p.reason, p.serving))
            .collect();
        assert_eq!(
            seen,
            [
                (Reason::AttachTimeout, true),
                (Reason::ForeignConflict, true)
            ]
        );
        assert!(
            join(&plan(vec![nic(0)]), &[])
                .problems
                .iter()
                .any(|p| !p.serving)
        );
        assert!(join(&plan(vec![]), &[]).problems.iter().any(|p| !p.serving));
    }
}
