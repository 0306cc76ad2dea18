//! Connection tracking entries.

use std::net::IpAddr;

use rustix::io::Errno;
use tombolo_core::types::Family;

use crate::message::family_number;
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
const FILTER: u16 = 25;
const TUPLE_IP: u16 = 1;

/// One place in an entry where an address may stand.
struct Place {
    /// The tuple.
    tuple: u16,
    /// The attribute inside its addresses, by family (IPv4, IPv6).
    attribute: (u16, u16),
    /// The bit that makes the kernel compare it.
    flag: u32,
}

const PLACES: [Place; 4] = [
    Place {
        tuple: TUPLE_ORIGINAL,
        attribute: (1, 3),
        flag: 1,
    },
    Place {
        tuple: TUPLE_ORIGINAL,
        attribute: (2, 4),
        flag: 2,
    },
    Place {
        tuple: TUPLE_REPLY,
        attribute: (1, 3),
        flag: 1,
    },
    Place {
        tuple: TUPLE_REPLY,
        attribute: (2, 4),
        flag: 2,
    },
];

/// Deletes all entries that name this address as a source or destination in either direction; returns how many. The
/// kernel walks its whole table four times: this is for the time when an address cools, not for ADD or DEL.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`].
pub fn delete_address(socket: &mut Socket, ip: IpAddr) -> Result<usize, Error> {
    let family = Family::of(ip);
    let header = [family_number(family), 0, 0, 0];
    let mut deleted = 0;
    for place in &PLACES {
        let mut request = Request::new("list connections", format!("of {ip}"), GET, 0, &header);
        request.body.nest(place.tuple, |tuple| {
            tuple.nest(TUPLE_IP, |addresses| {
                let attribute = if family == Family::V4 {
                    place.attribute.0
                } else {
                    place.attribute.1
                };
                addresses.put_ip(attribute, ip);
            });
        });
        // Flags for the original (1) and for the reply tuple (2).
        request.body.nest(FILTER, |filter| {
            filter.put_u32(place.tuple, place.flag);
        });
        let entries = socket.dump(&request, |reply| {
            let attributes = reply.attributes(HEADER);
            let original = attributes.value(TUPLE_ORIGINAL)?;
            let mut delete =
                Request::new("delete connection", format!("of {ip}"), DELETE, 0, &header);
            delete.body.put(TUPLE_ORIGINAL | NESTED, original);
            for kind in [ID, ZONE] {
                if let Some(value) = attributes.value(kind) {
                    delete.body.put(kind, value);
                }
            }
            Some(delete)
        })?;
        for outcome in socket.batch_each(entries)? {
            match outcome {
                Ok(()) => deleted += 1,
                // It ended by itself.
                Err(error) if error.errno() == Some(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(deleted)
}

/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
