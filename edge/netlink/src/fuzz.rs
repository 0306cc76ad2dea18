//! Bytes that no kernel sends, into every decoder; and what we encode, read back by our own decoders.
//!
//! Kept inputs are datagrams of a real kernel: lists of every kind, acknowledgements, refusals.

use std::net::IpAddr;

use ipnet::IpNet;
use tombolo_core::datapath::conventions::PROTOCOL;
use tombolo_core::datapath::{Address, Neighbour, Route, RouteKind, Rule, RuleAction, Selector};
use tombolo_core::types::{Family, Mac};
use tombolo_fuzz::Target;
use tombolo_fuzz::arbitrary::{Result, Unstructured};

use crate::abi::diag;
use crate::message::{Attributes, Reply};
use crate::{Request, addr, conntrack, events, link, neigh, nft, route, rule, sockets};

/// Runs everything that takes a message on it.
fn decode_all(reply: &Reply<'_>) {
    drop(reply.verdict());
    drop(link::decode(reply));
    if let Some(Ok(route)) = route::decode(reply) {
        // What passes for ours is in the form in which desired state has it.
        assert_eq!(
            read_back(&route::add(&route), route::decode),
            Some(Ok(route))
        );
    }
    if let Some(Ok(rule)) = rule::decode(reply) {
        assert_eq!(read_back(&rule::add(&rule), rule::decode), Some(Ok(rule)));
    }
    if let Some(neighbour) = neigh::decode(reply) {
        assert_eq!(
            read_back(&neigh::add(&neighbour), neigh::decode),
            Some(neighbour)
        );
    }
    if let Some(found) = addr::decode(reply) {
        let again = read_back(&addr::add(&found.address), addr::decode);
        assert_eq!(again.map(|again| again.address), Some(found.address));
    }
    let ips = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into();
    if let Some((named, request)) = conntrack::deletion(reply, &ips) {
        assert!(ips.contains(&named));
        drop(read_back(&request, |reply| {
            reply.attributes(4).value(1).map(<[u8]>::to_vec)
        }));
    }
    if let Some(request) = sockets::destruction(reply, 6, &ips) {
        // What is to be closed is what was listed.
        let listed = reply.payload.get(diag::ID..diag::ID + diag::ID_LENGTH);
        let told = read_back(&request, |told| told.payload.get(8..).map(<[u8]>::to_vec));
        assert_eq!(told.as_deref(), listed);
    }
    drop(events::decode(reply));
    nft::fuzz::decode_all(reply);
    walk(Attributes(reply.payload), 0);
}

/// Every attribute and, taken for a nest, what is inside.
fn walk(attributes: Attributes<'_>, depth: u32) {
    for (_, value) in attributes {
        if depth < 3 {
            walk(Attributes(value), depth + 1);
        }
    }
}

/// What a decoder makes of the message that a request is.
pub fn read_back<T>(request: &Request, decode: impl FnOnce(&Reply<'_>) -> Option<T>) -> Option<T> {
    let mut bytes = Vec::new();
    request.body.finish(0, 1, &mut bytes);
    let (reply, rest) = Reply::split(&bytes).expect("we send whole messages");
    assert_eq!(rest, [] as [u8; 0]);
    decode(&reply)
}

#[test]
fn messages() {
    Target::new("netlink-messages").check(|bytes| {
        let mut rest = bytes;
        while let Some((reply, next)) = Reply::split(rest) {
            assert!(next.len() < rest.len(), "it comes to an end");
            decode_all(&reply);
            rest = next;
        }
        // Whatever the header says: the same bytes as a message of each kind.
        for kind in [2, 16, 20, 24, 28, 32, 2560] {
            decode_all(&Reply {
                kind,
                flags: u16::MAX,
                seq: 1,
                port: 0,
                payload: bytes,
            });
        }
    });
}

fn ip(u: &mut Unstructured<'_>, family: Family) -> Result<IpAddr> {
    Ok(match family {
        Family::V4 => u.arbitrary::<[u8; 4]>()?.into(),
        Family::V6 => u.arbitrary::<[u8; 16]>()?.into(),
    })
}

fn family(u: &mut Unstructured<'_>) -> Result<Family> {
    u.choose(&Family::ALL).copied()
}

fn net(u: &mut Unstructured<'_>, family: Family) -> Result<IpNet> {
    let ip = ip(u, family)?;
    let prefix = u.int_in_range(0..=family.host_prefix())?;
    Ok(IpNet::new(ip, prefix).expect("in range"))
}

fn any_route(u: &mut Unstructured<'_>) -> Result<Route> {
    let own = family(u)?;
    let kind = match u.int_in_range(0..=2)? {
        0 => RouteKind::Unreachable,
        1 => RouteKind::Link {
            ifindex: u.arbitrary()?,
        },
        _ => {
            let gateway = family(u)?;
            RouteKind::Via {
                gateway: ip(u, gateway)?,
                ifindex: u.arbitrary()?,
            }
        }
    };
    Ok(Route {
        table: u.arbitrary()?,
        dst: net(u, own)?.trunc(),
        kind,
        metric: u.arbitrary()?,
    })
}

fn any_rule(u: &mut Unstructured<'_>) -> Result<Rule> {
    let family = family(u)?;
    let name = u.choose(&["lo", "eth0", "a-name-of-15-by"])?;
    Ok(Rule {
        family,
        priority: u.arbitrary()?,
        selector: match u.int_in_range(0..=4)? {
            0 => Selector::All,
            1 => Selector::Iif((*name).to_owned()),
            // One of length 0 selects everything, which is Selector::All.
            2 => match net(u, family)?.trunc() {
                all if all.prefix_len() == 0 => Selector::All,
                some => Selector::From(some),
            },
            3 => Selector::Mark(u.arbitrary()?, u.arbitrary()?),
            _ => Selector::Oif((*name).to_owned()),
        },
        action: match u.int_in_range(0..=3)? {
            0 => RuleAction::Lookup(u.arbitrary()?),
            1 => RuleAction::Goto(u.arbitrary()?),
            2 => RuleAction::Blackhole,
            _ => RuleAction::Nop,
        },
    })
}

fn read_backs(u: &mut Unstructured<'_>) -> Result<()> {
    let route = any_route(u)?;
    let read = read_back(&route::add(&route), route::decode);
    // Routes of that table are the kernel's: they are not shown.
    if route.table == 255 {
        assert_eq!(read, None);
    } else {
        assert_eq!(read, Some(Ok(route)));
    }

    let rule = any_rule(u)?;
    assert_eq!(read_back(&rule::add(&rule), rule::decode), Some(Ok(rule)));

    let family = family(u)?;
    let neighbour = Neighbour {
        ifindex: u.arbitrary()?,
        ip: ip(u, family)?,
        mac: Mac(u.arbitrary()?),
    };
    assert_eq!(
        read_back(&neigh::add(&neighbour), neigh::decode),
        Some(neighbour)
    );

    let address = Address {
        ifindex: u.arbitrary()?,
        ip: net(u, family)?,
    };
    let read = read_back(&addr::add(&address), addr::decode).expect("an address");
    assert_eq!((read.address, read.ours), (address, PROTOCOL != 0));
    Ok(())
}

#[test]
fn what_is_encoded_is_read_back() {
    Target::new("netlink-objects").runs(5000).check(|bytes| {
        // An input that is too short for all of it has shown what it could.
        let _enough = read_backs(&mut Unstructured::new(bytes));
    });
}
