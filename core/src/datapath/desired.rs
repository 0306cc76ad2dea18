//! Desired kernel state, computed. [`node`] is the union of what the NICs ask for and of every [`endpoint`]'s slice.
//!
//! ```text
//!   NIC       ── addresses, own table's default route, rules 900 1000 1024 1536 1537, blackhole 1800 of its subnet
//!   endpoint  ── routes in the pod table, neighbours, source elements, host ports
//!   address   ── an unreachable route in the pod table, under that of the pod that has it, if one has
//!   node      ── rules 512 1600 1700 2000, translation, forwarding
//! ```
//! Families are those of the profile and those that pods still have: a profile that drops a family does not take the
//! rules away from under the pods that were made before.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use super::conventions::{
    MAIN_TABLE, MARK_MAGIC, MARK_MAGIC_MASK, MARK_MASK, NO_POD_METRIC, POD_LINK_GROUP, POD_TABLE,
    PRIORITY_BACK, PRIORITY_END, PRIORITY_FROM_NIC, PRIORITY_LOCAL, PRIORITY_MARK_MISS,
    PRIORITY_MARK_NIC, PRIORITY_MARK_PRIMARY, PRIORITY_NIC_SOURCE, PRIORITY_TO_POD,
    PRIORITY_UNMARKED_POD, ROUTE_METRIC, nic_mark, nic_table, pod_own_table,
};
use super::{
    Address, Endpoint, EndpointAddress, EndpointState, HostPort, LinkState, NatState, Neighbour,
    NodeInput, NodeState, OwnTable, Route, RouteKind, Rule, RuleAction, Selector, sysctls,
};
use crate::types::{Family, Mac, Nic, PortMapping};

/// The whole node.
#[must_use]
pub fn node(input: &NodeInput) -> NodeState {
    let families = families(input);
    let mut state = NodeState {
        nat: nat_frame(input, &families),
        ..NodeState::default()
    };

    state
        .sysctls
        .extend(sysctls::node(families.iter().copied(), &input.nics));
    for family in &families {
        state.rules.extend(rules(*family, input));
        for nic in input.nics.iter().filter(|nic| !nic.is_primary()) {
            state.routes.extend(nic_default(*family, nic));
            state
                .addresses
                .extend(nic.own_address(*family).map(|ip| Address {
                    ifindex: nic.ifindex,
                    ip: host_net(ip),
                }));
        }
    }
    for nic in input.nics.iter().filter(|nic| !nic.is_primary()) {
        state.links.insert(
            nic.ifindex,
            LinkState {
                name: nic.ifname.clone(),
                up: true,
                mtu: nic.mtu,
                group: None,
            },
        );
    }
    state.routes.extend(without_pod(&input.addresses));
    for each in &input.endpoints {
        let slice = endpoint(each, &input.nics);
        state.links.insert(
            each.host_ifindex,
            LinkState {
                name: slice.host_ifname.0,
                up: true,
                mtu: slice.mtu,
                group: Some(POD_LINK_GROUP),
            },
        );
        state.routes.extend(slice.routes);
        state.neighbours.extend(slice.neighbours);
        state.sysctls.extend(slice.sysctls);
        for (ip, mark) in slice.sources {
            match ip {
                IpAddr::V4(ip) => state.nat.pods4.insert((each.host_ifindex, ip), mark),
                IpAddr::V6(ip) => state.nat.pods6.insert((each.host_ifindex, ip), mark),
            };
        }
        for (port, to) in slice.host_ports {
            // ADD refuses what is another's; should two have one all the same, it stays the first one's.
            state.nat.host_ports.entry(port).or_insert(to);
        }
    }
    state
}

/// What one endpoint contributes. `nics` must hold every NIC that the endpoint's addresses name; an address whose NIC is
/// absent gets its host route but no source element, so that its packets are dropped rather than sent out elsewhere.
#[must_use]
pub fn endpoint(endpoint: &Endpoint, nics: &[Nic]) -> EndpointState {
    let ifindex = endpoint.host_ifindex;
    let (pod_mac, host_mac) = endpoint.key.macs();
    let host_ifname = endpoint.key.host_ifname();
    let ips = || endpoint.addresses.iter().map(|address| address.ip);

    let mut pod_addresses: Vec<IpNet> = ips().map(host_net).collect();
    let mut pod_families: Vec<Family> = ips().map(Family::of).collect();
    pod_families.sort_unstable();
    pod_families.dedup();
    if pod_families.contains(&Family::V6) {
        pod_addresses.push(host_net(IpAddr::V6(link_local(pod_mac))));
    }
    let loopback = ips().any(|ip| ip.is_ipv4())
        && endpoint
            .host_ports
            .iter()
            .any(PortMapping::answers_on_loopback4);
    EndpointState {
        sysctls: sysctls::host_end(&host_ifname, loopback),
        host_ports: host_ports(&endpoint.host_ports, &endpoint.addresses),
        host_ifname,
        macs: (pod_mac, host_mac),
        mtu: endpoint.mtu,
        routes: ips()
            .map(|ip| Route {
                table: POD_TABLE,
                dst: host_net(ip),
                kind: RouteKind::Link { ifindex },
                metric: ROUTE_METRIC,
            })
            .collect(),
        neighbours: ips()
            .map(|ip| Neighbour {
                ifindex,
                ip,
                mac: pod_mac,
            })
            .collect(),
        sources: endpoint
            .addresses
            .iter()
            .filter_map(|address| {
                let nic = nics.iter().find(|nic| nic.id == address.nic)?;
                Some((address.ip, nic_mark(nic.device_index)))
            })
            .collect(),
        pod_addresses,
        pod_families,
        own_table: OwnTable {
            table: pod_own_table(ifindex),
            families: BTreeSet::new(),
        },
    }
}

/// Where these ports of the node lead: to the pod's address of their family.
#[must_use]
pub fn host_ports(
    mappings: &[PortMapping],
    addresses: &[EndpointAddress],
) -> Vec<(HostPort, SocketAddr)> {
    let of_family = |family| {
        let mut ips = addresses.iter().map(|address| address.ip);
        ips.find(|ip| Family::of(*ip) == family)
    };
    let one = |mapping: &PortMapping| {
        let (protocol, port) = (mapping.protocol, mapping.host_port);
        let to = mapping.container_port;
        mapping.hosts().filter_map(move |host| {
            let pod = of_family(host.family())?;
            let port = HostPort {
                host,
                protocol,
                port,
            };
            Some((port, SocketAddr::new(pod, to)))
        })
    };
    mappings.iter().flat_map(one).collect()
}

/// What these addresses lead to as long as no pod has them. Neighbours share a route, so that a node with a block of addresses
/// has few: the routes cover these addresses and no other.
fn without_pod(addresses: &BTreeSet<IpAddr>) -> impl Iterator<Item = Route> {
    let nets: Vec<IpNet> = addresses.iter().copied().map(host_net).collect();
    IpNet::aggregate(&nets).into_iter().map(|dst| Route {
        table: POD_TABLE,
        dst,
        kind: RouteKind::Unreachable,
        metric: NO_POD_METRIC,
    })
}

/// The profile's families and those of living pods.
fn families(input: &NodeInput) -> BTreeSet<Family> {
    let addresses = input
        .endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.addresses);
    input
        .families
        .iter()
        .chain(addresses.map(|address| Family::of(address.ip)))
        .collect()
}

/// The policy rules of a family: see the table in [`super::conventions`].
fn rules(family: Family, input: &NodeInput) -> Vec<Rule> {
    let rule = |priority, selector, action| Rule {
        family,
        priority,
        selector,
        action,
    };
    let mut rules = vec![
        rule(
            PRIORITY_TO_POD,
            Selector::All,
            RuleAction::Lookup(POD_TABLE),
        ),
        rule(
            PRIORITY_MARK_MISS,
            Selector::Mark(MARK_MAGIC, MARK_MAGIC_MASK),
            RuleAction::Blackhole,
        ),
        rule(
            PRIORITY_LOCAL,
            Selector::Iif("lo".to_owned()),
            RuleAction::Goto(PRIORITY_END),
        ),
        rule(PRIORITY_END, Selector::All, RuleAction::Nop),
    ];
    for nic in &input.nics {
        let mark = Selector::Mark(nic_mark(nic.device_index), MARK_MASK);
        let table = RuleAction::Lookup(nic_table(nic.device_index));
        rules.push(rule(
            PRIORITY_FROM_NIC,
            Selector::Iif(nic.ifname.clone()),
            RuleAction::Goto(PRIORITY_END),
        ));
        if nic.is_primary() {
            rules.push(rule(
                PRIORITY_MARK_PRIMARY,
                mark,
                RuleAction::Lookup(MAIN_TABLE),
            ));
            continue;
        }
        rules.push(rule(PRIORITY_MARK_NIC, mark, table.clone()));
        // What the node itself sends on, for a Service, leaves by main: by the primary NIC. So do the answers come.
        if let Some(primary) = input.nics.iter().find(|nic| nic.is_primary()) {
            let selector = Selector::IifMark(
                primary.ifname.clone(),
                nic_mark(nic.device_index),
                MARK_MASK,
            );
            rules.push(rule(PRIORITY_BACK, selector, table.clone()));
        }
        if let Some(own) = nic.own_address(family) {
            rules.push(rule(
                PRIORITY_NIC_SOURCE,
                Selector::From(host_net(own)),
                table,
            ));
        }
    }
    let drop = |range| {
        rule(
            PRIORITY_UNMARKED_POD,
            Selector::From(range),
            RuleAction::Blackhole,
        )
    };
    rules.extend(pod_ranges(family, input).into_iter().map(drop));
    rules
}

/// Where pod addresses of this node lie: the subnets of its NICs. A pod whose NIC went away may lie in none of them; then
/// the range of the VPC that holds it, so that the number of rules still does not follow the number of pods. A range of
/// everything (translate nothing) tells pods from others no better than no range: then its address alone.
fn pod_ranges(family: Family, input: &NodeInput) -> BTreeSet<IpNet> {
    let mut ranges: BTreeSet<IpNet> = input
        .nics
        .iter()
        .filter_map(|nic| match family {
            Family::V4 => nic.subnet4.map(|net| IpNet::V4(net.trunc())),
            Family::V6 => nic.subnet6.map(|net| IpNet::V6(net.trunc())),
        })
        .collect();
    let addresses = input
        .endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.addresses);
    for address in addresses.filter(|address| family == Family::of(address.ip)) {
        if !ranges.iter().any(|range| range.contains(&address.ip)) {
            let holders = input
                .vpc_cidrs
                .iter()
                .filter(|range| range.contains(&address.ip) && range.prefix_len() > 0);
            let range = holders
                .max_by_key(|range| range.prefix_len())
                .map_or_else(|| host_net(address.ip), IpNet::trunc);
            ranges.insert(range);
        }
    }
    ranges
}

/// The one route of a NIC's own table.
fn nic_default(family: Family, nic: &Nic) -> Option<Route> {
    let dst = match family {
        Family::V4 => IpNet::V4(Ipv4Net::default()),
        Family::V6 => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    let gateway = nic.gateway(family)?;
    let kind = RouteKind::Via {
        gateway,
        ifindex: nic.ifindex,
    };
    Some(Route {
        table: nic_table(nic.device_index),
        dst,
        kind,
        metric: ROUTE_METRIC,
    })
}

/// The nft state without pods. Ranges are merged: intervals of an nft set must not overlap.
fn nat_frame(input: &NodeInput, families: &BTreeSet<Family>) -> NatState {
    let vpc4: Vec<Ipv4Net> = input
        .vpc_cidrs
        .iter()
        .filter_map(|net| match net {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        })
        .collect();
    let translate = input.snat && families.contains(&Family::V4);
    let primary = input
        .nics
        .iter()
        .find(|nic| nic.is_primary())
        .filter(|_| translate);
    NatState {
        nics: input
            .nics
            .iter()
            .map(|nic| (nic.ifindex, nic_mark(nic.device_index)))
            .collect(),
        vpc4: Ipv4Net::aggregate(&vpc4).into_iter().collect(),
        snat4: primary.and_then(|nic| Some((nic.ifindex, nic.addr4?))),
        ..NatState::default()
    }
}

/// A single address as a network.
fn host_net(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

/// The link-local address that follows from a MAC (RFC 4291, appendix A).
fn link_local(Mac([a, b, c, d, e, f]): Mac) -> Ipv6Addr {
    let word = |high, low| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        word(a ^ 2, b),
        word(c, 0xff),
        word(0xfe, d),
        word(e, f),
    )
}
