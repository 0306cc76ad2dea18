//! What others put into the kernel and what takes packets for our pods elsewhere: named, never removed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tombolo_core::datapath::conventions::{POD_TABLE, PRIORITY_TO_POD, PROTOCOL};
use tombolo_core::types::Reason;
use tombolo_netlink::route::ForeignRoute;
use tombolo_netlink::rule::ForeignRule;

use crate::node::Problem;

/// One problem a rule or route. `addresses` are the node's, whether pods have them or not.
pub fn find(
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
    let problem = |message| Problem {
        reason: Reason::ForeignConflict,
        message,
        serving: true,
    };
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
        let found = find(&rules, &routes, &addresses);
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
}
