//! Nodes by hand and at random. A NIC's number gives its id, link index, MAC and subnet; its device index is free.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use tombolo_core::datapath::{Endpoint, EndpointAddress, NodeInput};
use tombolo_core::types::{AttachmentKey, Families, Mac, Nic, NicId, PortMapping, Protocol};

/// Link index of the primary NIC.
pub const PRIMARY: u32 = 2;

pub fn nic(number: u8, device_index: u16) -> Nic {
    let gateway6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xff);
    let subnet6 = Ipv6Addr::new(0xfd00, 0, 0, number.into(), 0, 0, 0, 0);
    Nic {
        id: NicId(format!("eni-{number}")),
        device_index,
        mac: Mac([2, 0, 0, 0, 0, number]),
        ifindex: PRIMARY + u32::from(number),
        ifname: format!("eth{number}"),
        mtu: 9001,
        addr4: Some(Ipv4Addr::new(10, 0, number, 10)),
        addr6: (number == 0).then(|| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x10)),
        subnet4: Some(format!("10.0.{number}.0/24").parse().unwrap()),
        subnet6: Some(ipnet::Ipv6Net::new(subnet6, 64).unwrap()),
        gateway4: Some(Ipv4Addr::new(10, 0, number, 1)),
        gateway6: Some(gateway6),
    }
}

/// An address of pod `number` in the subnet of a NIC.
pub fn address4(nic: u8, number: u8) -> EndpointAddress {
    let ip = IpAddr::from([10, 0, nic, 100 + number]);
    EndpointAddress {
        ip,
        nic: NicId(format!("eni-{nic}")),
    }
}

pub fn address6(nic: u8, number: u8) -> EndpointAddress {
    let ip = IpAddr::from([0xfd00, 0, 0, nic.into(), 0, 0, 1, number.into()]);
    EndpointAddress {
        ip,
        nic: NicId(format!("eni-{nic}")),
    }
}

pub fn endpoint(number: u8, addresses: Vec<EndpointAddress>) -> Endpoint {
    Endpoint {
        key: AttachmentKey::new("tombolo", &format!("c{number}"), "eth0").unwrap(),
        host_ifindex: 100 + u32::from(number),
        addresses,
        host_ports: Vec::new(),
        mtu: 9001,
    }
}

/// `host_ip` may be empty: all addresses.
pub fn mapping(host_ip: &str, protocol: Protocol, ports: (u16, u16)) -> PortMapping {
    PortMapping {
        host_ip: (!host_ip.is_empty()).then(|| host_ip.parse().unwrap()),
        host_port: ports.0,
        container_port: ports.1,
        protocol,
    }
}

pub fn node(families: Families, nics: Vec<Nic>, endpoints: Vec<Endpoint>) -> NodeInput {
    let vpc_cidrs = ["10.0.0.0/16", "fd00::/48"]
        .map(|net| net.parse().unwrap())
        .to_vec();
    NodeInput {
        families,
        nics,
        endpoints,
        addresses: BTreeSet::new(),
        vpc_cidrs,
        snat: true,
    }
}

fn families() -> impl Strategy<Value = Families> {
    prop_oneof![Just(Families::V4), Just(Families::V6), Just(Families::Dual)]
}

/// Any node of up to five NICs (the primary one may be missing) and twelve pods, some of whose NICs are missing. Two of
/// them are alike enough that a plan between them keeps, changes, adds and removes things.
pub fn any_node() -> impl Strategy<Value = NodeInput> {
    let secondary = (
        any::<bool>(),
        0_u16..3,
        any::<bool>(),
        any::<bool>(),
        prop_oneof![Just(9001), Just(1500)],
    );
    let nics = (
        prop::bool::weighted(0.95),
        prop::collection::vec(secondary, 4),
        Just([1_u16, 2, 3, 4]).prop_shuffle(),
    );
    let pod = (any::<bool>(), 1_u8..4, 0_u8..6, 0_u8..6);
    // Of pods that are, were, or never came.
    let address = (0_u8..6, 0_u8..12, any::<bool>()).prop_map(|(nic, pod, six)| {
        if six {
            address6(nic, pod).ip
        } else {
            address4(nic, pod).ip
        }
    });
    (
        families(),
        nics,
        prop::collection::vec(pod, 12),
        prop::collection::btree_set(address, 0..40),
        any::<bool>(),
    )
        .prop_map(
            |(families, (primary, secondaries, order), pods, addresses, snat)| {
                let mut nics: Vec<Nic> = primary.then(|| nic(0, 0)).into_iter().collect();
                for (number, (present, spread, gateways, own6, mtu)) in (1..).zip(secondaries) {
                    // Few device indices for many NICs, so that two nodes often use one for different NICs.
                    let index = order[usize::from(number) - 1] + spread * 4;
                    if present {
                        let mut nic = nic(number, index);
                        nic.mtu = mtu;
                        nic.addr6 =
                            own6.then(|| Ipv6Addr::new(0xfd00, 0, 0, number.into(), 0, 0, 0, 0x10));
                        if !gateways {
                            (nic.gateway4, nic.gateway6) = (None, None);
                        }
                        nics.push(nic);
                    }
                }
                let endpoints = (0..).zip(pods).filter(|(_, (present, ..))| *present).map(
                    |(number, (_, which, nic4, nic6))| {
                        let four = (which & 1 != 0).then(|| address4(nic4, number));
                        let six = (which & 2 != 0).then(|| address6(nic6, number));
                        let pod = endpoint(number, four.into_iter().chain(six).collect());
                        // Often asked for by several, as after a journal that contradicts itself.
                        let port = mapping("", Protocol::Udp, (u16::from(nic4), 53));
                        let host_ports = (nic6 > 2).then_some(port).into_iter().collect();
                        Endpoint { host_ports, ..pod }
                    },
                );
                NodeInput {
                    snat,
                    addresses,
                    ..node(families, nics, endpoints.collect())
                }
            },
        )
}
