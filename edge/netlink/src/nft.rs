//! Our nf_tables tables (`inet tombolo`, `arp tombolo`, `inet tombolo-hostports`).
//!
//! ```text
//!   fixed, host_ports   chains, rules, sets: constant       ┐
//!   elements            NatState <-> elements of the sets   ├─▶ one transaction (all or nothing)
//!   expr                the expressions of rules            ┘
//!   observe             what the kernel holds; whether the fixed part is ours, whole and unchanged
//! ```

mod abi;
mod elements;
mod expr;
mod fixed;
mod foreign;
mod host_ports;
mod observe;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use tombolo_core::datapath::{HostPort, NatState};

pub use foreign::{ForwardDrop, forward_drops};
pub use observe::observe;

use crate::events::Changed;
use crate::message::{Body, Reply, text};
use crate::{Error, Request, Socket};

/// An element of the source maps: (index of the host end, the pod's address, mark of the NIC that owns it).
pub type Source = (u32, IpAddr, u32);

/// A host port and where it leads.
pub type Mapped = (HostPort, SocketAddr);

/// Replaces our tables, whatever they hold, in one transaction. No packet sees anything in between. Ranges in `vpc4`
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

/// Removes our tables; absent ones are no error.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn remove(socket: &mut Socket) -> Result<(), Error> {
    for (family, table) in fixed::TABLES {
        tolerate_missing(transaction(socket, &[fixed::del_table(family, table)]))?;
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

/// Adds what belongs to one pod in one transaction: elements of the source maps and of the maps of host ports. Those
/// already there are no error; one that leads elsewhere is replaced.
///
/// # Errors
/// [`Error::Refused`] (nothing was changed), `ENOENT` where the tables are missing; [`Error::System`].
pub fn add_pod(socket: &mut Socket, sources: &[Source], ports: &[Mapped]) -> Result<(), Error> {
    let add = |(set, element): &Placed| elements::add(set, [element]);
    let requests: Vec<_> = of_pod(sources, ports).iter().flat_map(add).collect();
    match transaction(socket, &requests) {
        // One is there with another mark or pod.
        Err(error) if matches!(error.errno(), Some(Errno::BUSY | Errno::EXIST)) => {
            del_pod(socket, sources, ports)?;
            transaction(socket, &requests)
        }
        outcome => outcome,
    }
}

/// Removes what belongs to one pod; what is not there, and missing tables, are no error. Marks and where ports lead do not
/// matter: the caller knows that they are the pod's.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn del_pod(socket: &mut Socket, sources: &[Source], ports: &[Mapped]) -> Result<(), Error> {
    let del = |(set, element): &Placed| elements::del(set, [element]);
    let requests: Vec<_> = of_pod(sources, ports).iter().flat_map(del).collect();
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

/// A set and an element of it.
type Placed = (&'static str, elements::Element);

/// Each element once: several ports lead to one pod.
fn of_pod(sources: &[Source], ports: &[Mapped]) -> BTreeSet<Placed> {
    let sources = sources
        .iter()
        .map(|(ifindex, ip, mark)| elements::source(*ifindex, *ip, *mark));
    let ports = ports
        .iter()
        .flat_map(|(port, to)| [elements::host_port(port, *to), elements::hairpin(to.ip())]);
    sources.chain(ports).collect()
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
    if fixed::TABLES.iter().any(|(_, name)| *name == table) {
        return Some(Changed::Nft { gone });
    }
    foreign::concerns_forwarding(reply).then_some(Changed::Firewall { gone })
}

#[cfg(test)]
pub(crate) mod fuzz;
