//! Router advertisements to primary NICs: at plug-in, periodically, and in answer to solicitations. They carry a router
//! lifetime and the router's link-layer address, no prefix: instances get their addresses otherwise.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, netdevice, sockopt};
use tombolo_core::types::Mac;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;

/// A raw ICMPv6 socket in the router's namespace, and the links to advertise on.
#[derive(Clone, Debug)]
pub struct RaSocket {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// A raw socket: the type only lends its calls, which fit every socket with internet addresses.
    socket: UdpSocket,
    lifetime_s: u16,
    /// By link name: index, and MAC to advertise.
    links: Mutex<BTreeMap<String, (u32, Mac)>>,
}

impl RaSocket {
    /// Opens the socket in the calling thread's namespace.
    ///
    /// # Errors
    /// No raw sockets allowed.
    pub fn open(lifetime_s: u16) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(
            AddressFamily::INET6,
            SocketType::RAW,
            flags,
            Some(ipproto::ICMPV6),
        )?;
        // Receivers drop advertisements with any other hop limit.
        sockopt::set_ipv6_multicast_hops(&socket, 255)?;
        // A copy looped back would enter by the NIC's link and count as a spoof.
        sockopt::set_ipv6_multicast_loop(&socket, false)?;
        Ok(Self {
            inner: Arc::new(Inner {
                socket: UdpSocket::from(socket),
                lifetime_s,
                links: Mutex::default(),
            }),
        })
    }

    /// Advertises on a link now and from now on.
    ///
    /// # Errors
    /// No such link, or the send failed.
    pub fn advertise_on(&self, link: &str, mac: Mac) -> io::Result<()> {
        let index = netdevice::name_to_index(&self.inner.socket, link)?;
        self.links().insert(link.to_owned(), (index, mac));
        self.send(index, mac)
    }

    /// Advertises on a link no more.
    pub fn forget(&self, link: &str) {
        self.links().remove(link);
    }

    /// Sends periodically and answers solicitations, until dropped.
    ///
    /// # Errors
    /// The socket cannot be watched or read.
    pub async fn serve(self, interval: Duration) -> io::Result<()> {
        let socket = tokio::net::UdpSocket::from_std(self.inner.socket.try_clone()?)?;
        let mut ticks = tokio::time::interval(interval);
        let mut buffer = [0_u8; 256];
        loop {
            let (len, from) = tokio::select! {
                _ = ticks.tick() => {
                    self.send_all(None);
                    continue;
                }
                got = socket.recv_from(&mut buffer) => got?,
            };
            if len >= 8 && buffer[0] == ROUTER_SOLICITATION {
                let index = match from {
                    SocketAddr::V6(from) => from.scope_id(),
                    SocketAddr::V4(_) => 0,
                };
                // A solicitation from the unspecified address does not tell its link: all are answered.
                self.send_all((index != 0).then_some(index));
            }
        }
    }

    fn send_all(&self, only: Option<u32>) {
        let links = self.links().clone();
        for (link, (index, mac)) in links {
            if only.is_none_or(|o| o == index)
                && let Err(error) = self.send(index, mac)
            {
                tracing::debug!(link, %error, "router advertisement not sent");
            }
        }
    }

    fn send(&self, index: u32, mac: Mac) -> io::Result<()> {
        let message = advertisement(self.inner.lifetime_s, mac);
        let to = SocketAddrV6::new(ALL_NODES, 0, 0, index);
        self.inner.socket.send_to(&message, to)?;
        Ok(())
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<String, (u32, Mac)>> {
        // The map is whole between any two statements, whoever panicked.
        self.inner
            .links
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// RFC 4861, section 4.2, with one option: the source link-layer address. The kernel fills in the checksum.
fn advertisement(lifetime_s: u16, mac: Mac) -> [u8; 24] {
    let mut message = [0; 24];
    message[0] = ROUTER_ADVERTISEMENT;
    message[4] = 64; // hop limit
    message[6..8].copy_from_slice(&lifetime_s.to_be_bytes());
    message[16] = 1; // source link-layer address
    message[17] = 1; // in units of 8 octets
    message[18..24].copy_from_slice(&mac.0);
    message
}
