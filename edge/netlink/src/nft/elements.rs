//! Elements of our sets: from [`NatState`] to bytes and back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::Ipv4Net;
use tombolo_core::datapath::conventions::POD_LINK_GROUP;
use tombolo_core::datapath::{HostPort, NatState};
use tombolo_core::types::{Family, HostAddress, Protocol};

use super::abi::{self, element};
use super::expr::put_value;
use super::fixed::{
    self, EGRESS4, NICS, OUTS, OWN4, PODS4, PODS6, SNAT4, VPC4, WAYS, header, table_of,
};
use super::host_ports::{PORTS4, PORTS4_AT, PORTS6, PORTS6_AT, SELF4, SELF6};
use crate::Request;
use crate::abi::nlm;
use crate::message::{Attributes, Reply, be32_of, ip_of};

/// Elements that go into one message: its list is an attribute, which holds at most 64 KiB.
const PER_MESSAGE: usize = 500;

/// One element as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    pub key: Vec<u8>,
    /// An end comes before a start with the same key.
    pub is_start: bool,
    pub data: Option<Vec<u8>>,
}

/// Elements of each set, by its name.
pub type Elements = BTreeMap<&'static str, BTreeSet<Element>>;

impl Element {
    fn new(key: Vec<u8>, data: Option<[u8; 4]>) -> Self {
        Self {
            key,
            is_start: true,
            data: data.map(Vec::from),
        }
    }
}

/// The set and the element of a pod's address.
pub fn source(ifindex: u32, ip: IpAddr, mark: u32) -> (&'static str, Element) {
    let mut key = ifindex.to_ne_bytes().to_vec();
    let set = match ip {
        IpAddr::V4(ip) => {
            key.extend_from_slice(&ip.octets());
            PODS4
        }
        IpAddr::V6(ip) => {
            key.extend_from_slice(&ip.octets());
            PODS6
        }
    };
    (set, Element::new(key, Some(mark.to_ne_bytes())))
}

/// The set and the element of a host port. Each part of key and data fills whole registers of 4 bytes.
pub fn host_port(port: &HostPort, to: SocketAddr) -> (&'static str, Element) {
    let (set, mut key) = match port.host {
        HostAddress::Any(Family::V4) => (PORTS4, Vec::new()),
        HostAddress::Any(Family::V6) => (PORTS6, Vec::new()),
        HostAddress::One(IpAddr::V4(ip)) => (PORTS4_AT, ip.octets().to_vec()),
        HostAddress::One(IpAddr::V6(ip)) => (PORTS6_AT, ip.octets().to_vec()),
    };
    let padded = |number: u16| [number.to_be_bytes(), [0; 2]].concat();
    key.extend([port.protocol.number(), 0, 0, 0]);
    key.extend(padded(port.port));
    let mut data = octets(to.ip());
    data.extend(padded(to.port()));
    let element = Element {
        key,
        is_start: true,
        data: Some(data),
    };
    (set, element)
}

/// The set and the element of a pod that may reach itself by a host port.
pub fn hairpin(ip: IpAddr) -> (&'static str, Element) {
    let set = match ip {
        IpAddr::V4(_) => SELF4,
        IpAddr::V6(_) => SELF6,
    };
    (set, Element::new(octets(ip).repeat(2), None))
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

/// All elements that a state stands for.
pub fn encode(state: &NatState) -> Elements {
    let mut all: Elements = fixed::sets()
        .map(|set| (set.name, BTreeSet::new()))
        .collect();
    let mut put = |set, element| {
        all.entry(set).or_default().insert(element);
    };
    for ((ifindex, ip), mark) in &state.pods4 {
        let (set, element) = source(*ifindex, (*ip).into(), *mark);
        put(set, element);
    }
    for ((ifindex, ip), mark) in &state.pods6 {
        let (set, element) = source(*ifindex, (*ip).into(), *mark);
        put(set, element);
    }
    for (ifindex, mark) in &state.nics {
        put(
            NICS,
            Element::new(ifindex.to_ne_bytes().into(), Some(mark.to_ne_bytes())),
        );
        put(OUTS, Element::new(ifindex.to_ne_bytes().into(), None));
        let way = [mark.to_ne_bytes(), ifindex.to_ne_bytes()].concat();
        put(WAYS, Element::new(way, None));
    }
    if let Some((ifindex, ip)) = state.snat4 {
        put(
            SNAT4,
            Element::new(ifindex.to_ne_bytes().into(), Some(ip.octets())),
        );
        put(
            OWN4,
            Element::new([ifindex.to_ne_bytes(), ip.octets()].concat(), None),
        );
        if state.nics.contains_key(&ifindex) {
            put(
                EGRESS4,
                Element::new(POD_LINK_GROUP.to_ne_bytes().into(), None),
            );
        }
    }
    for (port, to) in &state.host_ports {
        for (set, element) in [host_port(port, *to), hairpin(to.ip())] {
            put(set, element);
        }
    }
    for net in &state.vpc4 {
        put(VPC4, Element::new(net.network().octets().into(), None));
        // An interval ends before this; the last one of all has no end.
        if let Some(end) = u32::from(net.broadcast()).checked_add(1) {
            put(
                VPC4,
                Element {
                    key: end.to_be_bytes().into(),
                    is_start: false,
                    data: None,
                },
            );
        }
    }
    all
}

/// The state that elements stand for; `None` where there is none that [`encode`] makes them from.
pub fn decode(all: &Elements) -> Option<NatState> {
    let mut state = NatState::default();
    let of = |set| all.get(set).into_iter().flatten();
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
    for element in of(PODS4) {
        let (ifindex, ip) = element.key.split_at_checked(4)?;
        let ip = Ipv4Addr::from(<[u8; 4]>::try_from(ip).ok()?);
        state
            .pods4
            .insert((number(ifindex)?, ip), number(element.data.as_ref()?)?);
    }
    for element in of(PODS6) {
        let (ifindex, ip) = element.key.split_at_checked(4)?;
        let ip = Ipv6Addr::from(<[u8; 16]>::try_from(ip).ok()?);
        state
            .pods6
            .insert((number(ifindex)?, ip), number(element.data.as_ref()?)?);
    }
    for element in of(NICS) {
        state
            .nics
            .insert(number(&element.key)?, number(element.data.as_ref()?)?);
    }
    for element in of(SNAT4) {
        let ip = <[u8; 4]>::try_from(element.data.as_deref()?).ok()?;
        state.snat4 = Some((number(&element.key)?, ip.into()));
    }
    for set in [PORTS4, PORTS6, PORTS4_AT, PORTS6_AT] {
        for element in of(set) {
            let (port, to) = port_of(set, element)?;
            state.host_ports.insert(port, to);
        }
    }
    let mut intervals = of(VPC4).peekable();
    while let Some(start) = intervals.next() {
        let end = intervals.next_if(|next| !next.is_start);
        state
            .vpc4
            .insert(net(&start.key, end.map(|end| end.key.as_slice()))?);
    }
    (encode(&state) == *all).then_some(state)
}

/// The host port of an element, and where it leads.
fn port_of(set: &str, element: &Element) -> Option<(HostPort, SocketAddr)> {
    let (rest, port) = element.key.split_last_chunk::<4>()?;
    let (host, protocol) = rest.split_last_chunk::<4>()?;
    let host = match set {
        PORTS4 if host.is_empty() => HostAddress::Any(Family::V4),
        PORTS6 if host.is_empty() => HostAddress::Any(Family::V6),
        _ => HostAddress::One(ip_of(host)?),
    };
    let number = |[high, low, ..]: [u8; 4]| u16::from_be_bytes([high, low]);
    let (ip, to) = element.data.as_ref()?.split_last_chunk::<4>()?;
    let key = HostPort {
        host,
        protocol: Protocol::of_number(protocol[0])?,
        port: number(*port),
    };
    Some((key, SocketAddr::new(ip_of(ip)?, number(*to))))
}

/// The range from `start` to before `end`, where that is a CIDR.
fn net(start: &[u8], end: Option<&[u8]>) -> Option<Ipv4Net> {
    let address = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let first = address(start)?;
    let last = match end {
        Some(end) => address(end)?.checked_sub(1)?,
        None => u32::MAX,
    };
    let prefix = (first ^ last).leading_zeros();
    let net = Ipv4Net::new(first.into(), u8::try_from(prefix).ok()?).ok()?;
    (net.network() == Ipv4Addr::from(first) && net.broadcast() == Ipv4Addr::from(last))
        .then_some(net)
}

/// Messages that add these elements to a set.
pub fn add<'a>(set: &str, elements: impl IntoIterator<Item = &'a Element>) -> Vec<Request> {
    messages(
        "add nft elements",
        abi::NEW_ELEMENT,
        nlm::CREATE,
        set,
        elements,
    )
}

/// Messages that remove these elements from a set.
pub fn del<'a>(set: &str, elements: impl IntoIterator<Item = &'a Element>) -> Vec<Request> {
    messages("delete nft elements", abi::DEL_ELEMENT, 0, set, elements)
}

/// The message that empties a set.
pub fn flush(set: &str) -> Request {
    message("empty nft set", abi::DEL_ELEMENT, 0, set)
}

/// The message that asks for the elements of a set.
pub fn get(set: &str) -> Request {
    message("list nft elements", abi::GET_ELEMENT, 0, set)
}

fn message(operation: &'static str, kind: u16, flags: u16, set: &str) -> Request {
    let mut request = Request::new(
        operation,
        format!("of {set}"),
        kind,
        flags,
        &header(abi::INET),
    );
    request
        .body
        .put_str(element::TABLE, table_of(set))
        .put_str(element::SET, set);
    request
}

fn messages<'a>(
    operation: &'static str,
    kind: u16,
    flags: u16,
    set: &str,
    elements: impl IntoIterator<Item = &'a Element>,
) -> Vec<Request> {
    let elements: Vec<_> = elements.into_iter().collect();
    let one = |chunk: &[&Element]| {
        let mut request = message(operation, kind, flags, set);
        request.body.nest(element::LIST, |list| {
            for each in chunk {
                list.nest(abi::LIST_ELEM, |body| {
                    if !each.is_start {
                        body.put_be32(element::FLAGS, element::F_INTERVAL_END);
                    }
                    put_value(body, element::KEY, &each.key);
                    // A removal names the key; the data would have to agree.
                    if let Some(data) = each.data.as_ref().filter(|_| kind == abi::NEW_ELEMENT) {
                        put_value(body, element::DATA, data);
                    }
                });
            }
        });
        request
    };
    elements.chunks(PER_MESSAGE).map(one).collect()
}

/// The elements in one message of a dump.
pub fn parse(reply: &Reply<'_>) -> Vec<Element> {
    let value = |attributes: Attributes<'_>, kind| {
        attributes
            .inside(kind)
            .value(abi::DATA_VALUE)
            .map(<[u8]>::to_vec)
    };
    let one = |(_, body)| {
        let attributes = Attributes(body);
        let flags = attributes
            .value(element::FLAGS)
            .and_then(be32_of)
            .unwrap_or(0);
        let data = value(attributes, element::DATA);
        let key = value(attributes, element::KEY)?;
        Some(Element {
            key,
            is_start: flags & element::F_INTERVAL_END == 0,
            data,
        })
    };
    reply
        .attributes(abi::HEADER)
        .inside(element::LIST)
        .filter_map(one)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> NatState {
        NatState {
            pods4: [
                ((7, Ipv4Addr::new(10, 0, 1, 5)), 0x0b01_0000),
                ((8, Ipv4Addr::new(10, 0, 1, 6)), 0x0b02_0000),
            ]
            .into(),
            pods6: [((7, "fd00::5".parse().unwrap()), 0x0b01_0000)].into(),
            nics: [(2, 0x0b01_0000), (3, 0x0b02_0000)].into(),
            vpc4: [
                "10.0.0.0/16",
                "10.2.0.0/15",
                "192.168.0.0/24",
                "192.168.1.0/24",
                "255.0.0.0/8",
            ]
            .map(|net| net.parse().unwrap())
            .into(),
            snat4: Some((2, Ipv4Addr::new(10, 0, 0, 4))),
            host_ports: [
                port(HostAddress::Any(Family::V4), Protocol::Tcp, "10.0.1.5:8080"),
                port(
                    HostAddress::Any(Family::V6),
                    Protocol::Sctp,
                    "[fd00::5]:8080",
                ),
                port(at("10.0.0.4"), Protocol::Udp, "10.0.1.5:53"),
                port(at("fd00::4"), Protocol::Udp, "[fd00::5]:53"),
            ]
            .into(),
        }
    }

    fn at(ip: &str) -> HostAddress {
        HostAddress::One(ip.parse().unwrap())
    }

    fn port(host: HostAddress, protocol: Protocol, to: &str) -> (HostPort, SocketAddr) {
        let port = HostPort {
            host,
            protocol,
            port: 80,
        };
        (port, to.parse().unwrap())
    }

    #[test]
    fn a_state_survives_the_way_to_elements_and_back() {
        for state in [
            NatState::default(),
            state(),
            NatState {
                vpc4: ["0.0.0.0/0".parse().unwrap()].into(),
                ..state()
            },
        ] {
            assert_eq!(decode(&encode(&state)), Some(state));
        }
    }

    #[test]
    fn elements_that_contradict_each_other_are_no_state() {
        let full = encode(&state());
        // What follows from other elements is missing, or an interval is no CIDR.
        for set in [OWN4, EGRESS4, SNAT4, OUTS, WAYS, SELF4, SELF6] {
            let mut broken = full.clone();
            broken.get_mut(set).unwrap().clear();
            assert_eq!(decode(&broken), None, "{set} emptied");
        }
        let mut broken = full.clone();
        broken.get_mut(VPC4).unwrap().pop_first();
        assert_eq!(decode(&broken), None, "an interval without start");
    }

    #[test]
    fn without_translation_nothing_leads_to_the_primary_nic() {
        let elements = encode(&NatState {
            snat4: None,
            ..state()
        });
        for set in [OWN4, EGRESS4, SNAT4] {
            assert!(elements[set].is_empty(), "{set}");
        }
    }
}
