//! Connection tracking entries.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustix::io::Errno;

use crate::message::{Attributes, Reply, ip_of};
use crate::{Error, Request, Socket};

const SUBSYS: u16 = 1 << 8;
const GET: u16 = SUBSYS + 1;
const DELETE: u16 = SUBSYS + 2;
/// `struct nfgenmsg`; its first byte is the family.
const HEADER: usize = 4;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
/// Source and destination inside [`TUPLE_IP`], of IPv4 and of IPv6.
const PLACES: [u16; 4] = [1, 2, 3, 4];
/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;

/// Deletes all entries that name one of these addresses as a source or destination in either direction; returns how many.
///
/// The kernel walks its whole table once, however many addresses there are: an empty table of 2^18 buckets takes it some
/// 10 ms, so that this is for the time when addresses cool, not for ADD or DEL. Its own filter would compare one address
/// in one place in a walk.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn delete_addresses(socket: &mut Socket, ips: &BTreeSet<IpAddr>) -> Result<usize, Error> {
    if ips.is_empty() {
        return Ok(0);
    }
    let all_families = [0; HEADER];
    let subject = format!("of {} addresses", ips.len());
    let list = Request::new("list", "connections", GET, 0, &all_families);
    let doomed = socket.dump(&list, |reply| {
        let header = *reply.payload.first_chunk::<HEADER>()?;
        let attributes = reply.attributes(HEADER);
        if !names(reply, ips) {
            return None;
        }
        let original = attributes.value(TUPLE_ORIGINAL)?;
        let header = [header[0], 0, 0, 0];
        let mut delete = Request::new("delete connection", subject.as_str(), DELETE, 0, &header);
        delete.body.put(TUPLE_ORIGINAL | NESTED, original);
        for kind in [ID, ZONE] {
            if let Some(value) = attributes.value(kind) {
                delete.body.put(kind, value);
            }
        }
        Some(delete)
    })?;
    let mut deleted = 0;
    for outcome in socket.batch_each(doomed)? {
        match outcome {
            Ok(()) => deleted += 1,
            // It ended by itself.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// Whether a connection has one of the addresses at one of its four ends.
fn names(reply: &Reply<'_>, ips: &BTreeSet<IpAddr>) -> bool {
    let attributes = reply.attributes(HEADER);
    let tuples = [TUPLE_ORIGINAL, TUPLE_REPLY].map(|kind| attributes.value(kind));
    tuples.into_iter().flatten().any(|tuple| {
        let Some(addresses) = Attributes(tuple).value(TUPLE_IP) else {
            return false;
        };
        let at = |place: &u16| Attributes(addresses).value(*place).and_then(ip_of);
        PLACES.iter().filter_map(at).any(|ip| ips.contains(&ip))
    })
}
