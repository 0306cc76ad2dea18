//! Connection tracking entries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use tombolo_core::types::Protocol;

use crate::message::{Attributes, Reply, ip_of};
use crate::{Error, Request, Socket};

const SUBSYS: u16 = 1 << 8;
const GET: u16 = SUBSYS + 1;
const DELETE: u16 = SUBSYS + 2;
/// `struct nfgenmsg`.
const HEADER: usize = 4;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// Where addresses stand inside a tuple's addresses: source and destination, of IPv4 and of IPv6.
const PLACES: [u16; 4] = [1, 2, 3, 4];

/// Deletes all entries that name one of these addresses as a source or destination in either direction, translated ones
/// included; returns for each which address it named.
///
/// The kernel walks its whole table once, however many addresses there are: an empty table of 2^18 buckets takes it some
/// 10 ms, so that this is for the time when addresses come and go, not for ADD or DEL. Its own filter would compare one
/// address in one place in a walk.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn delete_addresses(socket: &mut Socket, ips: &BTreeSet<IpAddr>) -> Result<Vec<IpAddr>, Error> {
    let entries = find(socket, ips)?;
    delete(socket, entries)
}

/// Deletes the entries of UDP that were made for one of these destinations and do not lead to where it leads now: their
/// clients would be answered from elsewhere, or not at all, as long as they send. Returns how many there were. The cost is
/// that of [`delete_addresses`].
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn delete_stale_udp(
    socket: &mut Socket,
    now: &BTreeMap<SocketAddr, SocketAddr>,
) -> Result<usize, Error> {
    let request = Request::new(
        "list connections",
        "of UDP".to_owned(),
        GET,
        0,
        &[0; HEADER],
    );
    let stale = socket.dump(&request, |reply| {
        let attributes = reply.attributes(HEADER);
        let asked = udp_end(attributes.inside(TUPLE_ORIGINAL), End::Destination)?;
        let answers = udp_end(attributes.inside(TUPLE_REPLY), End::Source)?;
        (*now.get(&asked)? != answers).then(|| {
            let deletion = delete_entry(reply, asked.ip())?;
            Some(Found {
                ip: asked.ip(),
                deletion,
            })
        })?
    })?;
    Ok(delete(socket, stale)?.len())
}

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

/// One end of a tuple of UDP.
fn udp_end(tuple: Attributes<'_>, end: End) -> Option<SocketAddr> {
    let protocol = tuple.inside(TUPLE_PROTOCOL);
    if protocol.value(PROTOCOL_NUMBER)? != [Protocol::Udp.number()] {
        return None;
    }
    let (places, port) = match end {
        End::Source => ([PLACES[0], PLACES[2]], SOURCE_PORT),
        End::Destination => ([PLACES[1], PLACES[3]], DESTINATION_PORT),
    };
    let addresses = tuple.inside(TUPLE_IP);
    let ip = places
        .into_iter()
        .find_map(|place| addresses.value(place).and_then(ip_of))?;
    let port = protocol.value(port)?.try_into().ok()?;
    Some(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

/// An entry that names an address, and what deletes this one entry: not one that takes its place.
#[derive(Clone, Debug)]
pub struct Found {
    /// The address.
    pub ip: IpAddr,
    deletion: Request,
}

/// The entries that name one of these addresses; the cost is that of [`delete_addresses`].
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn find(socket: &mut Socket, ips: &BTreeSet<IpAddr>) -> Result<Vec<Found>, Error> {
    if ips.is_empty() {
        return Ok(Vec::new());
    }
    // Family 0: both.
    let request = Request::new("list connections", "all".to_owned(), GET, 0, &[0; HEADER]);
    socket.dump(&request, |reply| {
        let (ip, deletion) = deletion(reply, ips)?;
        Some(Found { ip, deletion })
    })
}

/// Deletes these; returns of each that was still there which address it named.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn delete(socket: &mut Socket, entries: Vec<Found>) -> Result<Vec<IpAddr>, Error> {
    let mut deleted = Vec::new();
    let entries = entries.into_iter().map(|found| (found.ip, found.deletion));
    let (named, requests): (Vec<IpAddr>, Vec<Request>) = entries.unzip();
    for (ip, outcome) in named.into_iter().zip(socket.batch_each(requests)?) {
        match outcome {
            Ok(()) => deleted.push(ip),
            // It ended by itself.
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// The request that deletes a listed entry, if it names one of the addresses, and which.
pub(crate) fn deletion(reply: &Reply<'_>, ips: &BTreeSet<IpAddr>) -> Option<(IpAddr, Request)> {
    let attributes = reply.attributes(HEADER);
    let named = [TUPLE_ORIGINAL, TUPLE_REPLY].iter().find_map(|tuple| {
        let addresses = attributes.inside(*tuple).inside(TUPLE_IP);
        let mut found = addresses
            .filter_map(|(place, value)| PLACES.contains(&place).then(|| ip_of(value)).flatten());
        found.find(|ip| ips.contains(ip))
    })?;
    Some((named, delete_entry(reply, named)?))
}

/// The request that deletes a listed entry.
fn delete_entry(reply: &Reply<'_>, named: IpAddr) -> Option<Request> {
    let attributes = reply.attributes(HEADER);
    let header = [*reply.payload.first()?, 0, 0, 0];
    let mut delete = Request::new(
        "delete connection",
        format!("of {named}"),
        DELETE,
        0,
        &header,
    );
    delete
        .body
        .put(TUPLE_ORIGINAL | NESTED, attributes.value(TUPLE_ORIGINAL)?);
    for kind in [ID, ZONE] {
        if let Some(value) = attributes.value(kind) {
            delete.body.put(kind, value);
        }
    }
    Some(delete)
}

/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
