//! Properties of plans: they end where they should, and on the way no pod's packet leaves by a NIC that it never had.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;
use tombolo_core::datapath::conventions::{
    MARK_MASK, NIC_TABLE_BASE, NO_POD_METRIC, POD_TABLE, PRIORITY_END, PRIORITY_FROM_NIC,
    PRIORITY_MARK_NIC, PRIORITY_UNMARKED_POD, ROUTE_METRIC, nic_mark,
};
use tombolo_core::datapath::diff::{Op, plan};
use tombolo_core::datapath::{
    Address, Neighbour, NodeInput, NodeState, Route, RouteKind, Rule, RuleAction, Selector, desired,
};
use tombolo_core::types::{Family, Mac};

use super::input::{PRIMARY, any_node};
use super::kernel::{FORWARDING, Kernel, Packet, Verdict};

/// Objects that carry our mark and that no node asks for in this form.
fn litter() -> impl Strategy<Value = NodeState> {
    let route = (0_u8..6, 0_u32..4, 0_u8..4).prop_map(|(number, ifindex, kind)| Route {
        table: if kind == 0 {
            NIC_TABLE_BASE + u32::from(number)
        } else {
            POD_TABLE
        },
        dst: if kind == 0 {
            "0.0.0.0/0".to_owned()
        } else {
            format!("10.0.{number}.101/32")
        }
        .parse()
        .unwrap(),
        kind: if kind == 1 {
            RouteKind::Unreachable
        } else {
            RouteKind::Link {
                ifindex: 200 + ifindex,
            }
        },
        metric: match number {
            _ if kind == 2 => 7,
            0 | 1 => NO_POD_METRIC,
            _ => ROUTE_METRIC,
        },
    });
    let neighbour = (0_u32..12, 0_u8..6).prop_map(|(pod, nic)| Neighbour {
        ifindex: 100 + pod,
        ip: IpAddr::from([10, 0, nic, 100 + u8::try_from(pod).unwrap()]),
        mac: Mac([2; 6]),
    });
    let address = (1_u8..5, prop_oneof![Just(24_u8), Just(32)]).prop_map(|(nic, length)| Address {
        ifindex: 2 + u32::from(nic),
        ip: format!("10.0.{nic}.10/{length}").parse().unwrap(),
    });
    let rule = (0_u32..8, 0_u8..4).prop_map(|(number, kind)| {
        let (priority, selector, action) = match kind {
            0 => (
                PRIORITY_MARK_NIC,
                Selector::Mark(nic_mark(1), MARK_MASK),
                RuleAction::Lookup(NIC_TABLE_BASE + number),
            ),
            1 => (
                PRIORITY_MARK_NIC - number,
                Selector::Mark(nic_mark(1), MARK_MASK),
                RuleAction::Lookup(NIC_TABLE_BASE + 1),
            ),
            2 => (
                PRIORITY_UNMARKED_POD,
                Selector::From(format!("10.0.{number}.0/25").parse().unwrap()),
                RuleAction::Blackhole,
            ),
            _ => (
                PRIORITY_FROM_NIC,
                Selector::Iif(format!("old{number}")),
                RuleAction::Goto(PRIORITY_END),
            ),
        };
        Rule {
            family: Family::V4,
            priority,
            selector,
            action,
        }
    });
    let sets = (
        prop::collection::btree_set(rule, 0..4),
        prop::collection::btree_set(route, 0..6),
        prop::collection::btree_set(neighbour, 0..4),
        prop::collection::btree_set(address, 0..3),
    );
    sets.prop_map(|(rules, routes, neighbours, addresses)| NodeState {
        rules,
        routes,
        neighbours,
        addresses,
        ..NodeState::default()
    })
}

/// The kernel of a node, with litter in it; an entry that the kernel knows by a part only is there once.
fn littered(node: &NodeInput, litter: NodeState) -> NodeState {
    let mut state = desired::node(node);
    state.rules.extend(litter.rules);
    state.routes.extend(litter.routes);
    for new in litter.neighbours {
        state
            .neighbours
            .retain(|old| (old.ifindex, old.ip) != (new.ifindex, new.ip));
        state.neighbours.insert(new);
    }
    for new in litter.addresses {
        state
            .addresses
            .retain(|old| (old.ifindex, old.ip.addr()) != (new.ifindex, new.ip.addr()));
        state.addresses.insert(new);
    }
    state
}

/// Equal but for links and settings that nobody asks for, which plans leave alone.
fn reached(desired: &NodeState, kernel: &Kernel) -> NodeState {
    let mut seen = kernel.observe(desired);
    seen.links
        .retain(|index, _| desired.links.contains_key(index));
    seen
}

fn pods(input: &NodeInput) -> BTreeSet<(u32, IpAddr)> {
    let all = input.endpoints.iter();
    all.flat_map(|pod| {
        pod.addresses
            .iter()
            .map(|address| (pod.host_ifindex, address.ip))
    })
    .collect()
}

fn elsewhere(source: IpAddr) -> IpAddr {
    if source.is_ipv4() {
        "10.0.200.1".parse().unwrap()
    } else {
        "fd00:0:0:c8::1".parse().unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_to_do_when_all_is_there(node in any_node()) {
        let state = desired::node(&node);
        prop_assert_eq!(plan(&state, &state, true), vec![]);
    }

    #[test]
    fn a_plan_ends_at_what_is_desired(
        was in any_node(), is in any_node(), litter in litter(), nft in any::<bool>(), virgin in prop::bool::weighted(0.2),
    ) {
        let start = if virgin { NodeState::default() } else { littered(&was, litter) };
        let mut kernel = Kernel::new(start, nft);
        let desired = desired::node(&is);
        for op in plan(&desired, &kernel.observe(&desired), nft) {
            kernel.apply(op);
        }
        prop_assert_eq!(&reached(&desired, &kernel), &desired);
        prop_assert_eq!(plan(&desired, &kernel.observe(&desired), true), vec![]);
    }

    /// Before, after, or not at all: after every single operation a pod's packet takes no third way.
    #[test]
    fn no_step_opens_a_wrong_way(
        was in any_node(), is in any_node(), litter in litter(), nft in prop::bool::weighted(0.8),
    ) {
        let (before, desired) = (Kernel::new(littered(&was, litter), nft), desired::node(&is));
        let mut after = Kernel::new(desired.clone(), true);
        after.settings = before.settings.clone().into_iter().chain(after.settings).collect();
        let mut kernel = before.clone();
        let senders: BTreeSet<_> = pods(&was).union(&pods(&is)).copied().collect();
        for op in plan(&desired, &before.observe(&desired), nft) {
            kernel.apply(op.clone());
            for (ifindex, source) in &senders {
                let way = |kernel: &Kernel| kernel.pod_sends(*ifindex, *source, elsewhere(*source));
                let now = way(&kernel);
                let allowed = [Verdict::Dropped, way(&before), way(&after)];
                prop_assert!(allowed.contains(&now), "{source} goes {now:?} after {op:?}, allowed are {allowed:?}");
            }
        }
    }

    /// The node's own traffic is never caught by a drop on the way.
    #[test]
    fn no_step_cuts_the_node_off(was in any_node(), is in any_node(), nft in any::<bool>()) {
        let desired = desired::node(&is);
        let mut kernel = Kernel::new(desired::node(&was), nft);
        for op in plan(&desired, &kernel.observe(&desired), nft) {
            kernel.apply(op.clone());
            for source in ["10.0.0.10", "fd00::10"] {
                let source: IpAddr = source.parse().unwrap();
                for iif in ["lo", "eth0"] {
                    if iif == "eth0" && !both_have_primary(&was, &is) {
                        continue;
                    }
                    let packet = Packet { iif: iif.to_owned(), source, destination: elsewhere(source), mark: 0 };
                    prop_assert_eq!(kernel.route(&packet), Verdict::Out(PRIMARY), "{} after {:?}", iif, op);
                }
            }
        }
    }
}

fn both_have_primary(was: &NodeInput, is: &NodeInput) -> bool {
    [was, is]
        .iter()
        .all(|node| node.nics.iter().any(|nic| nic.is_primary()))
}

#[test]
fn settings_that_forward_come_last_and_the_primary_keeps_its_router() {
    let node = super::input::node(
        tombolo_core::types::Families::Dual,
        vec![super::input::nic(0, 0)],
        vec![],
    );
    let ops = plan(&desired::node(&node), &NodeState::default(), false);
    let position = |path: &str| {
        ops.iter()
            .position(|op| matches!(op, Op::SetSysctl(each) if each.path == path))
            .unwrap()
    };
    assert!(position("ipv6/conf/eth0/accept_ra") < position("ipv6/conf/all/forwarding"));
    let nat = ops
        .iter()
        .position(|op| matches!(op, Op::ReplaceNat(_)))
        .unwrap();
    assert!(nat < position("ipv4/ip_forward") && nat < position("ipv6/conf/all/forwarding"));
}

/// The cloud may list an instance before its NICs.
#[test]
fn a_node_whose_primary_nic_is_unknown_does_not_forward() {
    let families = tombolo_core::types::Families::Dual;
    for nics in [vec![], vec![super::input::nic(1, 1)]] {
        let state = desired::node(&super::input::node(families, nics, vec![]));
        let forwards: Vec<_> = state
            .sysctls
            .iter()
            .filter(|each| FORWARDING[0] == each.path || each.path.ends_with("/forwarding"))
            .collect();
        assert!(forwards.is_empty(), "{forwards:?}");
    }
}
