//! nf_tables: messages into the decoders, and states through the bytes of a transaction and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::Ipv4Net;
use tombolo_core::datapath::{HostPort, NatState};
use tombolo_core::types::{Family, HostAddress, Protocol};
use tombolo_fuzz::Target;
use tombolo_fuzz::arbitrary::{Result, Unstructured};

use super::elements::{self, Elements};
use super::{fixed, foreign, observe, summary};
use crate::fuzz::read_back;
use crate::message::Reply;

/// Runs everything of nf_tables that takes a message on it.
pub fn decode_all(reply: &Reply<'_>) {
    observe::is_this_version(reply);
    for (_, table) in fixed::TABLES {
        drop(observe::chain(reply, table));
        drop(observe::rule(reply, table));
        drop(observe::set(reply, table));
    }
    drop(summary(reply));
    drop(foreign::forward_drop(reply));
    let found: std::collections::BTreeSet<_> = elements::parse(reply).into_iter().collect();
    if found.is_empty() {
        return;
    }
    for set in fixed::sets() {
        let all = Elements::from([(set.name, found.clone())]);
        drop(elements::decode(&all));
        let mut whole = elements::encode(&NatState::default());
        whole.insert(set.name, found.clone());
        if let Some(state) = elements::decode(&whole) {
            assert_eq!(elements::encode(&state), whole);
        }
    }
}

fn any_state(u: &mut Unstructured<'_>) -> Result<NatState> {
    let mut state = NatState::default();
    for _ in 0..u.int_in_range(0..=6)? {
        let (ifindex, mark) = (u.int_in_range(0..=9)?, u.arbitrary()?);
        match u.int_in_range(0..=5)? {
            0 => {
                let ip = Ipv4Addr::from(u.arbitrary::<[u8; 4]>()?);
                state.pods4.insert((ifindex, ip), mark);
            }
            1 => {
                let ip = Ipv6Addr::from(u.arbitrary::<[u8; 16]>()?);
                state.pods6.insert((ifindex, ip), mark);
            }
            2 => {
                state.nics.insert(ifindex, mark);
            }
            3 => {
                let (port, to) = any_port(u)?;
                state.host_ports.insert(port, to);
            }
            4 => state.snat4 = Some((ifindex, Ipv4Addr::from(u.arbitrary::<[u8; 4]>()?))),
            _ => {
                let ip = Ipv4Addr::from(u.arbitrary::<[u8; 4]>()?);
                let net = Ipv4Net::new(ip, u.int_in_range(0..=32)?).expect("in range");
                // As desired state has them: merged, so that none overlaps another.
                let mut nets: Vec<_> = state.vpc4.into_iter().collect();
                nets.push(net);
                state.vpc4 = Ipv4Net::aggregate(&nets).into_iter().collect();
            }
        }
    }
    Ok(state)
}

fn any_port(u: &mut Unstructured<'_>) -> Result<(HostPort, SocketAddr)> {
    let family = *u.choose(&Family::ALL)?;
    let any_ip = |u: &mut Unstructured<'_>| -> Result<IpAddr> {
        Ok(match family {
            Family::V4 => u.arbitrary::<[u8; 4]>()?.into(),
            Family::V6 => u.arbitrary::<[u8; 16]>()?.into(),
        })
    };
    let host = if u.arbitrary()? {
        HostAddress::Any(family)
    } else {
        HostAddress::One(any_ip(u)?)
    };
    let port = HostPort {
        host,
        protocol: *u.choose(&Protocol::ALL)?,
        port: u.arbitrary()?,
    };
    Ok((port, SocketAddr::new(any_ip(u)?, u.arbitrary()?)))
}

#[test]
fn a_state_survives_the_bytes() {
    Target::new("nft-state").runs(5000).check(|bytes| {
        let Ok(state) = any_state(&mut Unstructured::new(bytes)) else {
            return;
        };
        let all: Elements = elements::encode(&state)
            .into_iter()
            .map(|(set, wanted)| {
                let requests = elements::add(set, &wanted);
                let read = requests
                    .iter()
                    .filter_map(|request| read_back(request, |reply| Some(elements::parse(reply))));
                (set, read.flatten().collect())
            })
            .collect();
        assert_eq!(elements::decode(&all), Some(state));
    });
}
