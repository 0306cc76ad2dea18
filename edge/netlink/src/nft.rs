//! Our nf_tables tables (`inet tombolo`, `arp tombolo`).
//!
//! ```text
//!   fixed     chains, rules, sets: constant         ┐
//!   elements  NatState <-> elements of the sets     ├─▶ one transaction (all or nothing)
//!   expr      the expressions of rules              ┘
//!   observe   what the kernel holds; whether the fixed part is ours, whole and unchanged
//! ```

mod abi;
mod elements;
mod expr;
mod fixed;
mod foreign;
mod observe;

use std::net::IpAddr;

use rustix::io::Errno;
use tombolo_core::datapath::NatState;
use tombolo_core::datapath::conventions::NFT_TABLE;

pub use foreign::{ForwardDrop, forward_drops};
pub use observe::observe;

use crate::events::Changed;
use crate::message::{Body, Reply, text};
use crate::{Error, Request, Socket};

/// An element of the source maps: (index of the host end, the pod's address, mark of the NIC that owns it).
pub type Source = (u32, IpAddr, u32);

/// Replaces both tables, whatever they hold, in one transaction. No packet sees anything in between. Ranges in `vpc4`
/// must not overlap.
///
/// # Errors
/// [`Error::Refused`] (nothing was changed); [`Error::System`].
pub fn install(socket: &mut Socket, state: &NatState) -> Result<(), Error> {
    let mut requests = fixed::replace();
    for (set, elements) in elements::encode(state) {
        requests.extend(elements::add(set, &elements));
    }
    transaction(socket, &requests)
}

/// Removes both tables; absent ones are no error.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn remove(socket: &mut Socket) -> Result<(), Error> {
    for family in [abi::INET, abi::ARP] {
        tolerate_missing(transaction(socket, &[fixed::del_table(family)]))?;
    }
    Ok(())
}

/// Changes elements only, in one transaction.
///
/// # Errors
/// [`Error::Refused`] (nothing was changed), also when the tables are missing or do not hold `from`; [`Error::System`].
pub fn update(socket: &mut Socket, from: &NatState, to: &NatState) -> Result<(), Error> {
    let (from, to) = (elements::encode(from), elements::encode(to));
    let mut requests = Vec::new();
    for (set, wanted) in &to {
        let held = from.get(set).cloned().unwrap_or_default();
        if held == *wanted {
            continue;
        }
        if *set == fixed::VPC4 {
            // Start and end of an interval cannot be changed one by one.
            requests.push(elements::flush(set));
            requests.extend(elements::add(set, wanted));
        } else {
            requests.extend(elements::del(set, held.difference(wanted)));
            requests.extend(elements::add(set, wanted.difference(&held)));
        }
    }
    transaction(socket, &requests)
}

/// Adds elements to the source maps in one transaction; those already there are no error, a different mark is replaced.
///
/// # Errors
/// [`Error::Refused`] (nothing was changed), `ENOENT` where the tables are missing; [`Error::System`].
pub fn add_sources(socket: &mut Socket, sources: &[Source]) -> Result<(), Error> {
    let add = |source: &Source| {
        let (set, element) = elements::source(source.0, source.1, source.2);
        elements::add(set, [&element])
    };
    let requests: Vec<_> = sources.iter().flat_map(add).collect();
    match transaction(socket, &requests) {
        // One is there with another mark.
        Err(error) if matches!(error.errno(), Some(Errno::BUSY | Errno::EXIST)) => {
            del_sources(socket, sources)?;
            transaction(socket, &requests)
        }
        outcome => outcome,
    }
}

/// Removes elements from the source maps; those not there, and missing tables, are no error. The mark does not matter.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn del_sources(socket: &mut Socket, sources: &[Source]) -> Result<(), Error> {
    let del = |source: &Source| {
        let (set, element) = elements::source(source.0, source.1, source.2);
        elements::del(set, [&element])
    };
    let requests: Vec<_> = sources.iter().flat_map(del).collect();
    match transaction(socket, &requests) {
        // One is missing, so that none was removed: one by one.
        Err(error) if error.errno() == Some(Errno::NOENT) => {
            requests.iter().try_for_each(|request| {
                tolerate_missing(transaction(socket, std::slice::from_ref(request)))
            })
        }
        outcome => outcome,
    }
}

fn tolerate_missing(outcome: Result<(), Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
        outcome => outcome,
    }
}

fn transaction(socket: &mut Socket, requests: &[Request]) -> Result<(), Error> {
    // The header of these two names the subsystem, in network order.
    let [high, low] = (abi::SUBSYS >> 8).to_be_bytes();
    let bound = |kind| Body::new(kind, 0, &[0, 0, high, low]);
    socket.transaction(&bound(abi::BATCH_BEGIN), requests, &bound(abi::BATCH_END))
}

/// What a notification says: about our tables everything, about others' what concerns forwarding.
pub(crate) fn summary(reply: &Reply<'_>) -> Option<Changed> {
    let gone = match reply.kind {
        abi::NEW_TABLE | abi::NEW_CHAIN | abi::NEW_RULE | abi::NEW_SET | abi::NEW_ELEMENT => false,
        abi::DEL_TABLE | abi::DEL_CHAIN | abi::DEL_RULE | abi::DEL_SET | abi::DEL_ELEMENT => true,
        _ => return None,
    };
    // In all of them attribute 1 is the table's name.
    let table = reply
        .attributes(abi::HEADER)
        .value(abi::table::NAME)
        .and_then(text)?;
    if table == NFT_TABLE {
        return Some(Changed::Nft { gone });
    }
    foreign::concerns_forwarding(reply).then_some(Changed::Firewall { gone })
}

#[cfg(test)]
pub(crate) mod fuzz;
