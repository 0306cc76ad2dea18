//! Permanent neighbour entries. Ours carry our protocol number.

use std::collections::BTreeSet;

use tombolo_core::datapath::Neighbour;
use tombolo_core::datapath::conventions::PROTOCOL;
use tombolo_core::types::Family;

use crate::abi::{nda, nlm, rtm};
use crate::addr::absent_family_is_empty;
use crate::message::{Reply, family_number, ip_of, mac_of, u16_at, u32_at};
use crate::{Error, Request, Socket};

/// Adds a permanent entry, or replaces what is there for the same address and link.
#[must_use]
pub fn add(neighbour: &Neighbour) -> Request {
    let mut request = encode(
        "add neighbour",
        neighbour,
        rtm::NEWNEIGH,
        nlm::CREATE | nlm::REPLACE,
        nda::PERMANENT,
    );
    request
        .body
        .put_mac(nda::LLADDR, neighbour.mac)
        .put_u8(nda::PROTOCOL, PROTOCOL);
    request
}

/// Removes the entry for this address and link.
#[must_use]
pub fn del(neighbour: &Neighbour) -> Request {
    encode("delete neighbour", neighbour, rtm::DELNEIGH, 0, 0)
}

fn encode(
    operation: &'static str,
    neighbour: &Neighbour,
    kind: u16,
    flags: u16,
    state: u16,
) -> Request {
    let Neighbour { ifindex, ip, .. } = neighbour;
    let mut header = header(Family::of(*ip));
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    let mut request = Request::new(
        operation,
        format!("{ip} on link {ifindex}"),
        kind,
        flags,
        &header,
    );
    request.body.put_ip(nda::DST, *ip);
    request
}

/// Our permanent entries in the socket's namespace, both families.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`]; [`Error::Malformed`] where the list never held still.
pub fn list_ours(socket: &mut Socket) -> Result<BTreeSet<Neighbour>, Error> {
    let mut all = BTreeSet::new();
    for family in Family::ALL {
        let request = Request::new(
            "list",
            format!("{family} neighbours"),
            rtm::GETNEIGH,
            0,
            &header(family),
        );
        all.extend(absent_family_is_empty(socket.dump(&request, decode))?);
    }
    Ok(all)
}

/// `struct ndmsg`.
fn header(family: Family) -> [u8; nda::HEADER] {
    let mut header = [0; nda::HEADER];
    header[0] = family_number(family);
    header
}

pub(crate) fn decode(reply: &Reply<'_>) -> Option<Neighbour> {
    let attributes = reply.attributes(nda::HEADER);
    if u16_at(reply.payload, 8)? & nda::PERMANENT == 0
        || attributes.value(nda::PROTOCOL) != Some(&[PROTOCOL])
    {
        return None;
    }
    Some(Neighbour {
        ifindex: u32_at(reply.payload, 4)?,
        ip: attributes.value(nda::DST).and_then(ip_of)?,
        mac: attributes.value(nda::LLADDR).and_then(mac_of)?,
    })
}
