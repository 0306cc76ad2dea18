//! Tables and properties of one computed state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::collection::btree_set;
use proptest::prelude::*;
use tombolo_core::datapath::conventions::{
    self, MARK_MAGIC, MARK_MAGIC_MASK, MARK_MASK, POD_TABLE, nic_mark,
};
use tombolo_core::datapath::{NodeInput, NodeState, Route, RouteKind, Rule, Selector, desired};
use tombolo_core::types::{Families, Family};

use super::input::{PRIMARY, address4, address6, any_node, endpoint, nic, node};
use super::kernel::{Kernel, Packet, Verdict};

const OUTSIDE: [&str; 2] = ["10.0.200.1", "fd00:0:0:c8::1"];

fn outside(family: Family) -> IpAddr {
    OUTSIDE[usize::from(family == Family::V6)].parse().unwrap()
}

/// (host end, address, NIC) of every pod address.
fn pod_addresses(
    input: &NodeInput,
) -> impl Iterator<Item = (u32, IpAddr, Option<&tombolo_core::types::Nic>)> {
    input.endpoints.iter().flat_map(|pod| {
        let nic_of = |id| input.nics.iter().find(|nic| nic.id == id);
        pod.addresses
            .iter()
            .map(move |address| (pod.host_ifindex, address.ip, nic_of(address.nic.clone())))
    })
}

fn rules_of(state: &NodeState, family: Family) -> usize {
    state
        .rules
        .iter()
        .filter(|rule| rule.family == family)
        .count()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_node_holds_and_nothing_else_is_refused(held in btree_set(0_u8..64, 0..=64)) {
        let ips = |number: u8| [IpAddr::from([10, 0, 9, number]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 9, u16::from(number)])];
        let mut input = node(Families::Dual, vec![nic(0, 0)], vec![]);
        input.addresses = held.iter().copied().flat_map(ips).collect();
        let routes = desired::node(&input).routes;
        let refused = |ip: &IpAddr| {
            let over = |route: &&Route| route.table == POD_TABLE && route.dst.contains(ip);
            routes.iter().filter(over).count()
        };
        for number in 0..64 {
            let once = usize::from(held.contains(&number));
            prop_assert_eq!(ips(number).map(|ip| refused(&ip)), [once; 2], "{}", number);
        }
        let of_pods = routes.iter().filter(|route| route.table == POD_TABLE);
        prop_assert!(of_pods.clone().all(|route| route.kind == RouteKind::Unreachable));
        // The largest block of all is two routes.
        prop_assert!(held.len() < 64 || of_pods.count() == 2);
    }

    #[test]
    fn every_slice_is_part_of_the_node(input in any_node()) {
        let whole = desired::node(&input);
        for each in &input.endpoints {
            let slice = desired::endpoint(each, &input.nics);
            prop_assert!(slice.routes.iter().all(|route| whole.routes.contains(route)));
            prop_assert!(slice.neighbours.iter().all(|entry| whole.neighbours.contains(entry)));
            prop_assert!(slice.sysctls.iter().all(|setting| whole.sysctls.contains(setting)));
            prop_assert_eq!(&whole.links[&each.host_ifindex].name, &slice.host_ifname.0);
            for (ip, mark) in slice.sources {
                let held = match ip {
                    IpAddr::V4(ip) => whole.nat.pods4.get(&(each.host_ifindex, ip)),
                    IpAddr::V6(ip) => whole.nat.pods6.get(&(each.host_ifindex, ip)),
                };
                prop_assert_eq!(held, Some(&mark));
            }
        }
    }

    #[test]
    fn a_packet_of_a_pod_leaves_by_its_nic_or_not_at_all(input in any_node()) {
        let kernel = Kernel::new(desired::node(&input), true).forwarding();
        for (host_end, source, nic) in pod_addresses(&input) {
            let family = Family::of(source);
            let expected = match nic {
                Some(nic) if nic.is_primary() => Verdict::Out(PRIMARY),
                Some(nic) if nic.gateway(family).is_some() => Verdict::Out(nic.ifindex),
                _ => Verdict::Dropped,
            };
            prop_assert_eq!(kernel.pod_sends(host_end, source, outside(family)), expected);
            // A neighbour's source is not the pod's.
            for (other_end, _, _) in pod_addresses(&input).filter(|(other, ..)| *other != host_end) {
                prop_assert_eq!(kernel.pod_sends(other_end, source, outside(family)), Verdict::Dropped);
            }
        }
    }

    #[test]
    fn without_nft_nothing_of_a_pod_leaves(input in any_node()) {
        let kernel = Kernel::new(desired::node(&input), false).forwarding();
        for (host_end, source, _) in pod_addresses(&input) {
            prop_assert_eq!(kernel.pod_sends(host_end, source, outside(Family::of(source))), Verdict::Dropped);
        }
    }

    #[test]
    fn without_its_routes_a_nic_sends_nothing(input in any_node()) {
        let mut state = desired::node(&input);
        state.routes.clear();
        let kernel = Kernel::new(state, true).forwarding();
        for (host_end, source, nic) in pod_addresses(&input) {
            if !nic.is_some_and(|nic| nic.is_primary()) {
                prop_assert_eq!(kernel.pod_sends(host_end, source, outside(Family::of(source))), Verdict::Dropped);
            }
        }
    }

    #[test]
    fn what_is_not_a_pods_reaches_main(input in any_node()) {
        let kernel = Kernel::new(desired::node(&input), true);
        let pods: Vec<IpAddr> = pod_addresses(&input).map(|(_, ip, _)| ip).collect();
        for family in Family::ALL {
            let to = |iif: &str, source: &str, mark| Packet { iif: iif.to_owned(), source: source.parse().unwrap(), destination: outside(family), mark };
            let own = if family == Family::V4 { "10.0.0.10" } else { "fd00::10" };
            let foreign = if family == Family::V4 { "172.17.0.2" } else { "fd99::2" };
            prop_assert_eq!(kernel.route(&to("lo", own, 0)), Verdict::Out(PRIMARY));
            prop_assert_eq!(kernel.route(&to("docker0", foreign, 0)), Verdict::Out(PRIMARY));
            for nic in &input.nics {
                // What a NIC delivers carries its mark, and goes to a pod or where the OS sends it.
                prop_assert_eq!(kernel.route(&to(&nic.ifname, own, nic_mark(nic.device_index))), Verdict::Out(PRIMARY));
            }
        }
        for (host_end, ip, _) in pod_addresses(&input) {
            for iif in input.nics.iter().map(|nic| nic.ifname.as_str()).chain(["lo", "docker0"]) {
                let packet = Packet { iif: iif.to_owned(), source: outside(Family::of(ip)), destination: ip, mark: 0 };
                prop_assert_eq!(kernel.route(&packet), Verdict::Out(host_end));
            }
        }
        prop_assert_eq!(pods.len(), kernel.state.neighbours.len());
    }

    /// Neither back to the VPC, nor to a pod that has it no more: not even with a mark, or from a neighbour.
    #[test]
    fn what_is_for_an_address_without_pod_goes_nowhere(input in any_node()) {
        let kernel = Kernel::new(desired::node(&input), true).forwarding();
        let pods: BTreeSet<IpAddr> = pod_addresses(&input).map(|(_, ip, _)| ip).collect();
        let served: BTreeSet<Family> = kernel.state.rules.iter().map(|rule| rule.family).collect();
        let unused = input.addresses.iter().filter(|ip| !pods.contains(ip) && served.contains(&Family::of(**ip)));
        for ip in unused {
            let source = outside(Family::of(*ip));
            for (iif, mark) in input.nics.iter().map(|nic| (nic.ifname.as_str(), nic_mark(nic.device_index))).chain([("lo", 0)]) {
                let packet = Packet { iif: iif.to_owned(), source, destination: *ip, mark };
                prop_assert_eq!(kernel.route(&packet), Verdict::Dropped);
            }
            for (host_end, source, _) in pod_addresses(&input).filter(|(_, source, _)| Family::of(*source) == Family::of(*ip)) {
                prop_assert_eq!(kernel.pod_sends(host_end, source, *ip), Verdict::Dropped);
            }
        }
    }

    /// The source check of the kernel (`rp_filter=1`) asks for the way back with the mark that the NIC gave.
    #[test]
    fn the_way_back_of_what_a_nic_delivers_is_that_nic(input in any_node()) {
        let kernel = Kernel::new(desired::node(&input), true);
        for nic in input.nics.iter().filter(|nic| nic.is_primary() || nic.gateway4.is_some()) {
            let mark = nic_mark(nic.device_index);
            for (_, ip, _) in pod_addresses(&input).filter(|(_, ip, _)| ip.is_ipv4()) {
                let back = Packet { iif: "lo".to_owned(), source: ip, destination: outside(Family::V4), mark };
                prop_assert_eq!(kernel.route(&back), Verdict::Out(nic.ifindex));
            }
        }
    }

    #[test]
    fn the_nics_own_addresses_answer_by_their_nic(input in any_node()) {
        let kernel = Kernel::new(desired::node(&input), true);
        for nic in input.nics.iter().filter(|nic| !nic.is_primary()) {
            for family in input.families.iter() {
                if let (Some(source), Some(_)) = (nic.own_address(family), nic.gateway(family)) {
                    let packet = Packet { iif: "lo".to_owned(), source, destination: outside(family), mark: 0 };
                    prop_assert_eq!(kernel.route(&packet), Verdict::Out(nic.ifindex));
                }
            }
        }
    }
}

#[test]
fn rules_do_not_follow_pods() {
    let nics = || vec![nic(0, 0), nic(1, 1), nic(2, 2)];
    let pods = |count: u8| {
        (0..count)
            .map(|n| endpoint(n, vec![address4(n % 3, n), address6(n % 3, n)]))
            .collect()
    };
    let with = |count| desired::node(&node(Families::Dual, nics(), pods(count))).rules;
    assert_eq!(with(1), with(100));
    // 4 fixed, 2 of the primary with its subnet's, 5 of each other NIC with its subnet's.
    let state = desired::node(&node(Families::Dual, nics(), pods(100)));
    assert_eq!(rules_of(&state, Family::V4), 4 + 3 + 2 * 5);
    // Other NICs have no IPv6 address of their own.
    assert_eq!(rules_of(&state, Family::V6), 4 + 3 + 2 * 4);
}

#[test]
fn pods_of_a_missing_nic_share_one_rule() {
    let orphans = (0..50).map(|n| endpoint(n, vec![address4(7, n)])).collect();
    let state = desired::node(&node(Families::V4, vec![nic(0, 0)], orphans));
    assert_eq!(rules_of(&state, Family::V4), 4 + 3 + 1);
    assert!(state.nat.pods4.is_empty());
}

/// "Translate nothing" is a range that holds every address: a drop of everything would take what others forward.
#[test]
fn a_pod_outside_all_subnets_is_dropped_alone_where_nothing_is_translated() {
    let strays = vec![endpoint(1, vec![address4(7, 1), address6(7, 1)])];
    let mut input = node(Families::Dual, vec![nic(0, 0)], strays);
    input.vpc_cidrs = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let state = desired::node(&input);
    let kernel = Kernel::new(state.clone(), false).forwarding();
    for (host_end, ip, _) in pod_addresses(&input) {
        assert_eq!(
            kernel.pod_sends(host_end, ip, outside(Family::of(ip))),
            Verdict::Dropped
        );
    }
    for (source, family) in [("172.17.0.2", Family::V4), ("fd99::2", Family::V6)] {
        let others = Packet {
            iif: "docker0".to_owned(),
            source: source.parse().unwrap(),
            destination: outside(family),
            mark: 0,
        };
        assert_eq!(kernel.route(&others), Verdict::Out(PRIMARY));
    }
    let everything =
        |rule: &Rule| matches!(&rule.selector, Selector::From(net) if net.prefix_len() == 0);
    assert!(!state.rules.iter().any(everything));
}

#[test]
fn a_family_that_the_profile_dropped_stays_with_its_pods() {
    let pods = vec![endpoint(1, vec![address4(0, 1), address6(0, 1)])];
    let state = desired::node(&node(Families::V4, vec![nic(0, 0)], pods));
    assert_eq!(rules_of(&state, Family::V6), rules_of(&state, Family::V4));
    let without = desired::node(&node(Families::V4, vec![nic(0, 0)], vec![]));
    assert_eq!(rules_of(&without, Family::V6), 0);
}

#[test]
fn the_primary_nic_belongs_to_the_os() {
    let state = desired::node(&node(Families::Dual, vec![nic(0, 0)], vec![]));
    assert!(state.links.is_empty() && state.addresses.is_empty() && state.routes.is_empty());
}

#[test]
fn overlapping_ranges_are_merged() {
    let mut input = node(Families::V4, vec![nic(0, 0)], vec![]);
    for net in [
        "10.0.0.0/8",
        "10.1.2.0/24",
        "192.168.0.0/17",
        "192.168.128.0/17",
    ] {
        input.vpc_cidrs.push(net.parse().unwrap());
    }
    let merged: Vec<String> = desired::node(&input)
        .nat
        .vpc4
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(merged, ["10.0.0.0/8", "192.168.0.0/16"]);
}

#[test]
fn translation_by_profile_family_and_primary() {
    let snat = |families, nics, enabled| {
        let input = NodeInput {
            snat: enabled,
            ..node(families, nics, vec![])
        };
        desired::node(&input).nat.snat4
    };
    let own = Some((PRIMARY, "10.0.0.10".parse().unwrap()));
    for (families, nics, enabled, expected) in [
        (Families::V4, vec![nic(0, 0)], true, own),
        (Families::Dual, vec![nic(0, 0)], true, own),
        (Families::V6, vec![nic(0, 0)], true, None),
        (Families::V4, vec![nic(0, 0)], false, None),
        (Families::V4, vec![nic(1, 1)], true, None),
    ] {
        assert_eq!(
            snat(families, nics, enabled),
            expected,
            "{families:?} {enabled}"
        );
    }
}

#[test]
fn marks_are_apart_and_inside_their_mask() {
    let mut seen = BTreeMap::new();
    for index in 0..=conventions::MAX_DEVICE_INDEX {
        let mark = nic_mark(index);
        assert_eq!(mark & !MARK_MASK, 0, "index {index}");
        assert_eq!(mark & MARK_MAGIC_MASK, MARK_MAGIC, "index {index}");
        assert_eq!(seen.insert(mark, index), None);
    }
}
