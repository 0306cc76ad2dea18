//! What was on its way before a host port led to a pod: UDP has no end of a connection, so that a client that goes on sending
//! keeps the entry of connection tracking that leads to where the port led before.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use tombolo_core::types::{Family, HostAddress, Protocol};

use crate::nft::Mapped;
use crate::{Error, Kernel, addr, conntrack};

/// How often connections are looked at until none is left: a packet that was just being looked up may leave one behind.
const LOOKS: usize = 4;

/// Whether any of these is of UDP.
#[must_use]
pub fn any_udp(ports: &[Mapped]) -> bool {
    let udp = |(port, _): &Mapped| port.protocol == Protocol::Udp;
    ports.iter().any(udp)
}

/// Forgets the connections of UDP to these ports that lead elsewhere; how many there were. To be called when the ports lead to
/// where they should.
///
/// # Errors
/// The kernel's reason.
pub fn forget_stale_udp(kernel: &mut Kernel, ports: &[Mapped]) -> Result<usize, Error> {
    let udp = |(port, _): &&Mapped| port.protocol == Protocol::Udp;
    let own: Vec<IpAddr> = addr::list(&mut kernel.route)?
        .into_iter()
        .map(|found| found.address.ip.addr())
        .collect();
    let mut now: BTreeMap<SocketAddr, SocketAddr> = BTreeMap::new();
    for (port, to) in ports.iter().filter(udp) {
        match port.host {
            HostAddress::One(ip) => {
                now.insert(SocketAddr::new(ip, port.port), *to);
            }
            HostAddress::Any(family) => {
                for ip in own.iter().filter(|ip| Family::of(**ip) == family) {
                    // The port at one address counts, wherever it stands in the list.
                    now.entry(SocketAddr::new(*ip, port.port)).or_insert(*to);
                }
            }
        }
    }
    let mut forgotten = 0;
    for _ in 0..LOOKS {
        match conntrack::delete_stale_udp(&mut kernel.netfilter, &now)? {
            0 => break,
            some => forgotten += some,
        }
    }
    Ok(forgotten)
}
