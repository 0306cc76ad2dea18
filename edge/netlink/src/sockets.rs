//! The node's own connected sockets, by where they lead.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use crate::abi::{AF_INET, AF_INET6, diag};
use crate::message::Reply;
use crate::{Error, Request, Socket};

/// Closes every TCP connection and connected UDP socket of this namespace that leads to one of these addresses; its owner
/// gets `ECONNABORTED`. Returns how many. Without it a connection to a pod that is gone would repeat its packets, for
/// minutes, until the next pod of that address gets them. `socket` is of [`Socket::sock_diag`].
///
/// # Errors
/// [`Error::Refused`] (`EOPNOTSUPP` or `ENOENT` where the kernel was built without it); [`Error::System`].
pub fn close_to(socket: &mut Socket, ips: &BTreeSet<IpAddr>) -> Result<usize, Error> {
    let mut closed = 0;
    if ips.is_empty() {
        return Ok(closed);
    }
    for protocol in [diag::TCP, diag::UDP] {
        for family in [AF_INET, AF_INET6] {
            let mut header = [0; diag::REQUEST];
            header[..2].copy_from_slice(&[family, protocol]);
            header[4..8].copy_from_slice(&diag::CONNECTED.to_ne_bytes());
            let request = Request::new("list", "sockets", diag::BY_FAMILY, 0, &header);
            let found = socket.dump(&request, |reply| destruction(reply, protocol, ips))?;
            for outcome in socket.batch_each(found)? {
                match outcome {
                    Ok(()) => closed += 1,
                    // It was closed by its owner.
                    Err(error) if error.errno() == Some(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(closed)
}

/// The request that closes a listed socket, if it leads to one of the addresses.
pub(crate) fn destruction(
    reply: &Reply<'_>,
    protocol: u8,
    ips: &BTreeSet<IpAddr>,
) -> Option<Request> {
    let family = *reply.payload.first()?;
    let id = reply.payload.get(diag::ID..diag::ID + diag::ID_LENGTH)?;
    let to = diag::TO..;
    let to: IpAddr = if family == AF_INET {
        Ipv4Addr::from(<[u8; 4]>::try_from(id.get(to)?.get(..4)?).ok()?).into()
    } else {
        // An IPv6 socket may speak IPv4.
        Ipv6Addr::from(<[u8; 16]>::try_from(id.get(to)?.get(..16)?).ok()?).to_canonical()
    };
    ips.contains(&to).then(|| {
        let mut header = [0; diag::REQUEST];
        header[..2].copy_from_slice(&[family, protocol]);
        header[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        header[8..].copy_from_slice(id);
        Request::new(
            "close socket",
            format!("to {to}"),
            diag::DESTROY,
            0,
            &header,
        )
    })
}
