//! Addresses on links. Ours carry our protocol number (kernels before 5.18 do not keep it; none is taken for ours there).

use ipnet::IpNet;
use rustix::io::Errno;
use tombolo_core::datapath::Address;
use tombolo_core::datapath::conventions::PROTOCOL;
use tombolo_core::types::Family;

use crate::abi::{ifa, nlm, rtm};
use crate::message::{Reply, family_number, ip_of, u32_at, u32_of};
use crate::{Error, Request, Socket};

/// An address as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Link, address, length.
    pub address: Address,
    /// Whether we added it.
    pub ours: bool,
    /// Scope (0 global, 253 link, 254 host).
    pub scope: u8,
    /// Not yet usable, or found to be a duplicate.
    pub tentative: bool,
}

/// Adds an address without duplicate detection and without prefix route, or updates it to that.
#[must_use]
pub fn add(address: &Address) -> Request {
    let mut request = encode(
        "add address",
        address,
        rtm::NEWADDR,
        nlm::CREATE | nlm::REPLACE,
    );
    request
        .body
        .put_u32(ifa::FLAGS, ifa::F_NODAD | ifa::F_NOPREFIXROUTE)
        .put_u8(ifa::PROTO, PROTOCOL);
    request
}

/// Removes exactly this address.
#[must_use]
pub fn del(address: &Address) -> Request {
    encode("delete address", address, rtm::DELADDR, 0)
}

fn encode(operation: &'static str, address: &Address, kind: u16, flags: u16) -> Request {
    let Address { ifindex, ip } = address;
    let family = Family::of(ip.addr());
    let subject = format!("{ip} on link {ifindex}");
    let mut request = Request::new(
        operation,
        subject,
        kind,
        flags,
        &header(family, ip.prefix_len(), *ifindex),
    );
    request
        .body
        .put_ip(ifa::LOCAL, ip.addr())
        .put_ip(ifa::ADDRESS, ip.addr());
    request
}

/// All addresses of the socket's namespace, both families.
///
/// # Errors
/// [`Error::Refused`], [`Error::System`]; [`Error::Malformed`] where the list never held still.
pub fn list(socket: &mut Socket) -> Result<Vec<Observed>, Error> {
    let mut all = Vec::new();
    for family in Family::ALL {
        let request = Request::new(
            "list",
            format!("{family} addresses"),
            rtm::GETADDR,
            0,
            &header(family, 0, 0),
        );
        all.extend(absent_family_is_empty(socket.dump(&request, decode))?);
    }
    Ok(all)
}

/// A kernel without IPv6 has nothing to list.
pub(crate) fn absent_family_is_empty<T>(outcome: Result<Vec<T>, Error>) -> Result<Vec<T>, Error> {
    match outcome {
        Err(error) if matches!(error.errno(), Some(Errno::AFNOSUPPORT | Errno::OPNOTSUPP)) => {
            Ok(Vec::new())
        }
        outcome => outcome,
    }
}

/// `struct ifaddrmsg`.
fn header(family: Family, prefix: u8, ifindex: u32) -> [u8; ifa::HEADER] {
    let [a, b, c, d] = ifindex.to_ne_bytes();
    [family_number(family), prefix, 0, 0, a, b, c, d]
}

pub(crate) fn decode(reply: &Reply<'_>) -> Option<Observed> {
    let [_, prefix, low_flags, scope, ..] = *reply.payload else {
        return None;
    };
    let attributes = reply.attributes(ifa::HEADER);
    // For a point-to-point address ADDRESS is the peer's; LOCAL is absent for IPv6.
    let ip = attributes
        .value(ifa::LOCAL)
        .or(attributes.value(ifa::ADDRESS))
        .and_then(ip_of)?;
    let flags = attributes
        .value(ifa::FLAGS)
        .and_then(u32_of)
        .unwrap_or(low_flags.into());
    Some(Observed {
        address: Address {
            ifindex: u32_at(reply.payload, 4)?,
            ip: IpNet::new(ip, prefix).ok()?,
        },
        ours: attributes.value(ifa::PROTO) == Some(&[PROTOCOL]),
        scope,
        tentative: flags & (ifa::F_TENTATIVE | ifa::F_DADFAILED) != 0,
    })
}
