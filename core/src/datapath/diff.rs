//! From what is to what should be, as ordered operations.
//!
//! The order of a plan, so that no packet of a pod ever leaves by a wrong NIC on the way:
//!
//! | step | what | why here |
//! |---|---|---|
//! | 1 | settings, but those that enable forwarding | the primary NIC must keep its default route when forwarding comes on |
//! | 2 | nft elements that go or change are taken out | a pod that may no longer send, or by another NIC, falls silent before any route moves |
//! | 3 | links, addresses, neighbours, routes | what rules lead to exists before the rule |
//! | 4 | new rules: targets of jumps, jumps, lookups, drops | the node's own traffic passes the drops by the jumps |
//! | 5 | lookups, routes, neighbours, addresses that go | a stale one must not catch what step 6 admits; what misses now is dropped |
//! | 6 | nft elements or tables that come | only now may a pod send with a mark |
//! | 7 | other rules that go: drops, jumps, targets of jumps | the reverse of 4 |
//! | 8 | forwarding | it admits, and all that steers is in place |
//!
//! Links that are observed and not desired are left alone: whose pod is gone is not ours to decide here.

use std::cmp::Reverse;

use super::{
    Address, LinkState, NatState, Neighbour, NodeState, Route, Rule, RuleAction, Sysctl, sysctls,
};

/// One change. Removals name exactly what was observed, and succeed when it is already gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write a kernel setting.
    SetSysctl(Sysctl),
    /// Bring the link with this index into this state.
    SetLink(u32, LinkState),
    /// Add an address.
    AddAddress(Address),
    /// Remove an address.
    DelAddress(Address),
    /// Add a neighbour entry, in place of one for the same address on the same link.
    AddNeighbour(Neighbour),
    /// Remove a neighbour entry.
    DelNeighbour(Neighbour),
    /// Add a route, in place of the one with the same table, destination and metric (`NLM_F_REPLACE`).
    AddRoute(Route),
    /// Remove a route.
    DelRoute(Route),
    /// Add a rule.
    AddRule(Rule),
    /// Remove a rule.
    DelRule(Rule),
    /// Replace the tables as one transaction (they are missing, or their fixed part differs).
    ReplaceNat(NatState),
    /// Change elements only, as one transaction: from the first to the second.
    UpdateNat(Box<(NatState, NatState)>),
}

/// The operations that turn `observed` into `desired`, in the order of the table above. Empty when they agree.
/// `nat_intact` is false when our nft tables are missing or their fixed part is not what this build writes;
/// `observed.nat` does not count then.
#[must_use]
pub fn plan(desired: &NodeState, observed: &NodeState, nat_intact: bool) -> Vec<Op> {
    let (before, after) = nat(&desired.nat, &observed.nat, nat_intact);
    let (forwarding, settings): (Vec<_>, Vec<_>) = desired
        .sysctls
        .difference(&observed.sysctls)
        .cloned()
        .partition(sysctls::admits);

    let mut ops: Vec<Op> = settings.into_iter().map(Op::SetSysctl).collect();
    ops.extend(before);
    let links = desired
        .links
        .iter()
        .filter(|(index, link)| observed.links.get(index) != Some(link));
    ops.extend(links.map(|(index, link)| Op::SetLink(*index, link.clone())));
    let late_addresses = addresses(desired, observed, &mut ops);
    let late_neighbours = neighbours(desired, observed, &mut ops);
    let late_routes = routes(desired, observed, &mut ops);

    let mut rules: Vec<&Rule> = desired.rules.difference(&observed.rules).collect();
    rules.sort_by_key(|rule| rank(rule));
    ops.extend(rules.into_iter().cloned().map(Op::AddRule));

    let (lookups, mut rules): (Vec<&Rule>, Vec<&Rule>) = observed
        .rules
        .difference(&desired.rules)
        .partition(|rule| matches!(rule.action, RuleAction::Lookup(_)));
    ops.extend(lookups.into_iter().cloned().map(Op::DelRule));
    ops.extend(late_routes.into_iter().map(Op::DelRoute));
    ops.extend(late_neighbours.into_iter().map(Op::DelNeighbour));
    ops.extend(late_addresses.into_iter().map(Op::DelAddress));
    ops.extend(after);
    rules.sort_by_key(|rule| Reverse(rank(rule)));
    ops.extend(rules.into_iter().cloned().map(Op::DelRule));
    ops.extend(forwarding.into_iter().map(Op::SetSysctl));
    ops
}

/// Order in which rules come; they go in the reverse one.
fn rank(rule: &Rule) -> u8 {
    match rule.action {
        RuleAction::Nop => 0,
        RuleAction::Goto(_) => 1,
        RuleAction::Lookup(_) => 2,
        RuleAction::Blackhole => 3,
    }
}

/// What to do to the nft tables before and after routes and rules change. Ranges and translation change in one step,
/// afterwards: a connection inside the VPC that met half of them would be translated for its whole life.
fn nat(desired: &NatState, observed: &NatState, intact: bool) -> (Option<Op>, Option<Op>) {
    if !intact {
        return (None, Some(Op::ReplaceNat(desired.clone())));
    }
    let mut common = observed.clone();
    common
        .pods4
        .retain(|key, mark| desired.pods4.get(key) == Some(mark));
    common
        .pods6
        .retain(|key, mark| desired.pods6.get(key) == Some(mark));
    common
        .host_ports
        .retain(|port, to| desired.host_ports.get(port) == Some(to));
    common
        .nics
        .retain(|key, mark| desired.nics.get(key) == Some(mark));
    let step = |from: &NatState, to: &NatState| {
        (from != to).then(|| Op::UpdateNat(Box::new((from.clone(), to.clone()))))
    };
    (step(observed, &common), step(&common, desired))
}

/// Additions go into `ops`; removals that must wait are returned. An address that is there with another length goes
/// first: IPv6 refuses the same address twice.
fn addresses(desired: &NodeState, observed: &NodeState, ops: &mut Vec<Op>) -> Vec<Address> {
    let same = |a: &Address, b: &Address| a.ifindex == b.ifindex && a.ip.addr() == b.ip.addr();
    let (first, late): (Vec<_>, Vec<_>) = observed
        .addresses
        .difference(&desired.addresses)
        .cloned()
        .partition(|old| desired.addresses.iter().any(|new| same(old, new)));
    ops.extend(first.into_iter().map(Op::DelAddress));
    ops.extend(
        desired
            .addresses
            .difference(&observed.addresses)
            .cloned()
            .map(Op::AddAddress),
    );
    late
}

/// Additions go into `ops`; removals are returned. The kernel knows an entry by link and address: one that is replaced
/// must not be removed afterwards.
fn neighbours(desired: &NodeState, observed: &NodeState, ops: &mut Vec<Op>) -> Vec<Neighbour> {
    ops.extend(
        desired
            .neighbours
            .difference(&observed.neighbours)
            .cloned()
            .map(Op::AddNeighbour),
    );
    let replaced = |old: &Neighbour| {
        desired
            .neighbours
            .iter()
            .any(|new| (new.ifindex, new.ip) == (old.ifindex, old.ip))
    };
    observed
        .neighbours
        .difference(&desired.neighbours)
        .filter(|old| !replaced(old))
        .cloned()
        .collect()
}

/// Additions go into `ops`; removals that must wait are returned. An addition takes the place of the first route with its
/// key; further ones of that key go before it.
fn routes(desired: &NodeState, observed: &NodeState, ops: &mut Vec<Op>) -> Vec<Route> {
    fn key(route: &Route) -> (u32, ipnet::IpNet, u32) {
        (route.table, route.dst, route.metric)
    }
    let mut late: Vec<Route> = observed
        .routes
        .difference(&desired.routes)
        .cloned()
        .collect();
    for route in desired.routes.difference(&observed.routes) {
        let (same, rest): (Vec<_>, Vec<_>) =
            late.into_iter().partition(|old| key(old) == key(route));
        late = rest;
        ops.extend(same.into_iter().skip(1).map(Op::DelRoute));
        ops.push(Op::AddRoute(route.clone()));
    }
    late
}
