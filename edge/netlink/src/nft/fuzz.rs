//! nf_tables: messages into the decoders, and states through the bytes of a transaction and back.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use tombolo_core::datapath::NatState;
use tombolo_fuzz::Target;
use tombolo_fuzz::arbitrary::{Result, Unstructured};

use super::elements::{self, Elements};
use super::{fixed, foreign, observe, summary};
use crate::fuzz::read_back;
use crate::message::Reply;

/// Runs everything of nf_tables that takes a message on it.
pub fn decode_all(reply: &Reply<'_>) {
    observe::is_this_version(reply);
    drop(observe::chain(reply));
    drop(observe::rule(reply));
    drop(observe::set(reply));
    drop(summary(reply));
    drop(foreign::forward_drop(reply));
    let found: std::collections::BTreeSet<_> = elements::parse(reply).into_iter().collect();
    if found.is_empty() {
        return;
    }
    for set in &fixed::SETS {
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
        match u.int_in_range(0..=4)? {
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
            3 => state.snat4 = Some((ifindex, Ipv4Addr::from(u.arbitrary::<[u8; 4]>()?))),
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
