//! What others put into the kernel and what takes packets for our pods, or of our pods, elsewhere: named, never removed.
//! Where it stands in the very place of ours, ours gives way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tombolo_core::datapath::conventions::{MAIN_TABLE, POD_TABLE, PRIORITY_TO_POD, PROTOCOL};
use tombolo_core::datapath::{NodeInput, NodeState};
use tombolo_core::types::{Nic, Reason};
use tombolo_netlink::Observation;
use tombolo_netlink::route::ForeignRoute;
use tombolo_netlink::rule::ForeignRule;

use crate::node::Problem;

/// Kernel type of a route that leads somewhere.
const UNICAST: u8 = 1;

/// All conflicts; `desired` loses what cannot be put beside another's without replacing it.
pub fn find(desired: &mut NodeState, observed: &Observation, input: &NodeInput) -> Vec<Problem> {
    let (rules, routes) = (&observed.foreign_rules, &observed.foreign_routes);
    let mut problems = takers(rules, routes, &input.addresses);
    problems.extend(astray(routes, &input.nics));
    problems.extend(occupied(desired, observed));
    problems
}

fn problem(message: String) -> Problem {
    Problem {
        reason: Reason::ForeignConflict,
        message,
        serving: true,
    }
}

/// Packets of the primary NIC's pods ask main. A route there by another NIC, as DHCP clients and network managers make
/// them, sends those by a NIC that does not own their source: the VPC drops them. One problem a NIC.
fn astray(routes: &[ForeignRoute], nics: &[Nic]) -> Vec<Problem> {
    let by = |route: &ForeignRoute, nic: &Nic| {
        (route.table, route.kind, route.ifindex) == (MAIN_TABLE, UNICAST, Some(nic.ifindex))
    };
    let primary = nics.iter().find(|nic| nic.is_primary());
    let stays_unused = |route: &ForeignRoute| {
        let better = |other: &&ForeignRoute| {
            other.dst == route.dst
                && other.metric <= route.metric
                && primary.is_some_and(|nic| by(other, nic))
        };
        routes.iter().any(|other| better(&other))
    };
    let mut found: BTreeMap<&str, Vec<&ForeignRoute>> = BTreeMap::new();
    for nic in nics.iter().filter(|nic| !nic.is_primary()) {
        let by_it = routes.iter().filter(|route| by(route, nic));
        for route in by_it.filter(|route| leaves_the_link(route.dst.addr()) && !stays_unused(route))
        {
            found.entry(&nic.ifname).or_default().push(route);
        }
    }
    let told = found.into_iter().filter_map(|(name, routes)| {
        let first = routes.first()?;
        Some(problem(format!(
            "{} route(s) in table main by {name}, the first of protocol {} to {}, take packets of pods of the primary NIC",
            routes.len(),
            first.protocol,
            first.dst
        )))
    });
    told.collect()
}

fn leaves_the_link(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local() && !ip.is_multicast(),
    }
}

/// A route of another in the place (table, destination, metric) of ours would be replaced by it; an address that another
/// put on the NIC would become ours.
fn occupied(desired: &mut NodeState, observed: &Observation) -> Vec<Problem> {
    let mut problems = Vec::new();
    desired.routes.retain(|route| {
        let in_place = |other: &&ForeignRoute| {
            (other.table, other.dst, other.metric) == (route.table, route.dst, route.metric)
        };
        let other = observed.foreign_routes.iter().find(in_place);
        let Some(other) = other.filter(|_| !observed.state.routes.contains(route)) else {
            return true;
        };
        problems.push(problem(format!(
            "a route of protocol {} to {} with metric {} in table {} is in the place of ours",
            other.protocol, other.dst, other.metric, other.table
        )));
        false
    });
    desired.addresses.retain(|address| {
        let same =
            |(ifindex, ip): (u32, IpAddr)| (ifindex, ip) == (address.ifindex, address.ip.addr());
        let others = &observed.foreign_addresses;
        observed.state.addresses.contains(address)
            || !others
                .iter()
                .any(|other| same((other.ifindex, other.ip.addr())))
    });
    problems
}

/// One problem a rule or route. `addresses` are the node's, whether pods have them or not.
fn takers(
    rules: &[ForeignRule],
    routes: &[ForeignRoute],
    addresses: &BTreeSet<IpAddr>,
) -> Vec<Problem> {
    // One with our mark is removed instead.
    let rules = rules.iter().filter(|rule| rule.protocol != PROTOCOL);
    let rules = rules.filter_map(|rule| {
        let to = rule.to.filter(|_| rule.priority < PRIORITY_TO_POD)?;
        let ip = addresses.iter().find(|ip| to.contains(*ip))?;
        Some(format!(
            "rule {} of protocol {} for {to} comes before ours and takes what is for {ip}",
            rule.priority, rule.protocol
        ))
    });
    let routes = routes.iter().filter_map(|route| {
        let ip = route.dst.addr();
        let is_host = route.dst.prefix_len() == route.dst.max_prefix_len();
        (route.table == POD_TABLE && is_host && addresses.contains(&ip)).then(|| {
            format!(
                "a route of protocol {} with metric {} in table {POD_TABLE} may take what is for {ip}",
                route.protocol, route.metric
            )
        })
    });
    rules.chain(routes).map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tombolo_core::types::Family;

    fn rule(priority: u32, to: Option<&str>) -> ForeignRule {
        ForeignRule {
            family: Family::V4,
            priority,
            to: to.map(|net| net.parse().unwrap()),
            protocol: 3,
            table: 77,
            action: 1,
            for_all: false,
        }
    }

    fn route(table: u32, dst: &str) -> ForeignRoute {
        ForeignRoute {
            table,
            dst: dst.parse().unwrap(),
            protocol: 4,
            kind: 1,
            ifindex: Some(2),
            gateway: None,
            metric: 0,
        }
    }

    #[test]
    fn only_what_takes_packets_for_pods_is_named() {
        let addresses = BTreeSet::from(["10.0.0.5".parse().unwrap()]);
        let rules = [
            rule(0, None),
            rule(100, Some("10.0.0.0/24")),
            rule(100, Some("10.9.0.0/24")),
            rule(600, Some("10.0.0.5/32")),
            rule(511, Some("10.0.0.5/32")),
        ];
        let routes = [
            route(990, "10.0.0.5/32"),
            route(990, "10.0.0.6/32"),
            route(990, "10.0.0.0/24"),
            route(254, "10.0.0.5/32"),
        ];
        let found = takers(&rules, &routes, &addresses);
        let all = "rule 100 of protocol 3 for 10.0.0.0/24, rule 511 of protocol 3 for 10.0.0.5/32, a route of protocol 4";
        assert_eq!(found.len(), 3, "{found:?}");
        for (problem, words) in found.iter().zip(all.split(", ")) {
            assert!(problem.message.starts_with(words), "{}", problem.message);
            assert_eq!(
                (problem.reason, problem.serving),
                (Reason::ForeignConflict, true)
            );
        }
    }

    fn nic(index: u16) -> Nic {
        Nic {
            id: tombolo_core::types::NicId(format!("eni-{index}")),
            device_index: index,
            mac: "02:00:00:00:00:01".parse().unwrap(),
            ifindex: 2 + u32::from(index),
            ifname: format!("eth{index}"),
            mtu: 1500,
            addr4: None,
            addr6: None,
            subnet4: None,
            subnet6: None,
            gateway4: None,
            gateway6: None,
        }
    }

    #[test]
    fn a_way_in_main_by_another_nic_is_named_unless_the_primary_has_a_better_one() {
        let main = |dst: &str, ifindex, metric| ForeignRoute {
            ifindex: Some(ifindex),
            metric,
            ..route(MAIN_TABLE, dst)
        };
        let nics = [nic(0), nic(1)];
        let found = |routes: &[ForeignRoute]| astray(routes, &nics);
        let harmless = [
            main("0.0.0.0/0", 2, 100),
            main("0.0.0.0/0", 3, 100),
            main("0.0.0.0/0", 3, 101),
            main("fe80::/64", 3, 256),
            main("169.254.169.254/32", 3, 0),
            main("10.9.0.0/16", 77, 0),
            ForeignRoute {
                table: 77,
                ..main("10.0.0.0/8", 3, 0)
            },
        ];
        assert_eq!(found(&harmless), []);
        let taken = [
            main("0.0.0.0/0", 2, 100),
            main("0.0.0.0/0", 3, 50),
            main("10.0.1.0/24", 3, 0),
        ];
        let all = found(&taken);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(
            all[0]
                .message
                .starts_with("2 route(s) in table main by eth1"),
            "{all:?}"
        );
    }
}
