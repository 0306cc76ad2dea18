//! A subscription to what changes in a namespace: what changed and by whom, not how. Whoever reacts looks again.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{Protocol, RecvFlags, sockopt};
use tombolo_core::datapath::conventions::PROTOCOL;
use tombolo_core::types::{Family, Mac};

use crate::abi::{group, nda, netconf, rtm};
use crate::message::{Reply, family_of, u16_at, u32_at, u32_of};
use crate::socket::{NETFILTER, ROUTE, open, receive, set_option};
use crate::{Error, link, nft, route, rule};

/// Receive buffer of each socket in bytes (the kernel doubles it).
const BUFFER: usize = 8 * 1024 * 1024;
/// One read; the kernel never sends a larger datagram.
const READ: usize = 64 * 1024;

const ROUTE_GROUPS: [u32; 10] = [
    group::LINK,
    group::NEIGH,
    group::IPV4_IFADDR,
    group::IPV4_ROUTE,
    group::IPV4_RULE,
    group::IPV6_IFADDR,
    group::IPV6_ROUTE,
    group::IPV6_RULE,
    group::IPV4_NETCONF,
    group::IPV6_NETCONF,
];

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Changed {
    /// A link appeared, changed or went (`gone`).
    Links {
        /// Its index.
        ifindex: u32,
        /// Its name.
        name: String,
        /// Its Ethernet address, where it has one.
        mac: Option<Mac>,
        /// Whether it went.
        gone: bool,
    },
    /// An address was added or removed.
    Addresses {
        /// Link index.
        ifindex: u32,
        /// Whether it was removed.
        gone: bool,
    },
    /// A route was added or removed. Routes that the kernel drops because their link went down or away are not all
    /// reported: see [`Changed::Links`].
    Routes {
        /// Family.
        family: Family,
        /// Table.
        table: u32,
        /// Protocol number of the route.
        protocol: u8,
        /// Whether it was removed.
        gone: bool,
    },
    /// A rule was added or removed.
    Rules {
        /// Family.
        family: Family,
        /// Priority.
        priority: u32,
        /// Protocol number of the rule.
        protocol: u8,
        /// Whether it was removed.
        gone: bool,
    },
    /// A permanent neighbour entry was added, or an entry was removed.
    Neighbours {
        /// Link index.
        ifindex: u32,
        /// Whether it carries our protocol number.
        ours: bool,
        /// Whether it was removed.
        gone: bool,
    },
    /// Something in one of our nf_tables tables changed.
    Nft {
        /// Whether something was removed.
        gone: bool,
    },
    /// Forwarding was switched, on one link or on all. Of most other settings the kernel does not tell.
    Forwarding {
        /// Family.
        family: Family,
        /// Link index; `None`: all links.
        ifindex: Option<u32>,
        /// Whether it is on now.
        on: bool,
    },
    /// Another's chain that sees forwarded packets was added or changed, or (`gone`) some chain of another went.
    Firewall {
        /// Whether it went.
        gone: bool,
    },
    /// The kernel dropped notifications: anything may have changed.
    Overrun,
}

/// One notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What changed.
    pub changed: Changed,
    /// Port id of the socket that asked for the change (see [`crate::Socket::port`]); 0: the kernel itself.
    pub port: u32,
}

/// The subscription. Poll its descriptor for readability, then call [`Events::read`] until it is empty.
#[derive(Debug)]
pub struct Events {
    epoll: OwnedFd,
    sockets: Vec<OwnedFd>,
    buffer: Vec<u8>,
}

impl Events {
    /// Subscribes in the calling thread's namespace.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn open() -> Result<Self, Error> {
        Self::of(&[(ROUTE, &ROUTE_GROUPS), (NETFILTER, &[group::NFTABLES])])
    }

    /// Subscribes to everything but nf_tables.
    pub(crate) fn open_route() -> Result<Self, Error> {
        Self::of(&[(ROUTE, &ROUTE_GROUPS)])
    }

    fn of(subscriptions: &[(Option<Protocol>, &[u32])]) -> Result<Self, Error> {
        let build = || {
            let sockets = subscriptions
                .iter()
                .map(|(protocol, groups)| subscribe(*protocol, groups));
            let sockets: Vec<_> = sockets.collect::<rustix::io::Result<_>>()?;
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            for socket in &sockets {
                epoll::add(
                    &epoll,
                    socket,
                    epoll::EventData::new_u64(0),
                    epoll::EventFlags::IN,
                )?;
            }
            Ok(Self {
                epoll,
                sockets,
                buffer: vec![0; READ],
            })
        };
        build().map_err(|source| Error::System {
            operation: "subscribe to",
            subject: "kernel events".to_owned(),
            source,
        })
    }

    /// All events that are queued, without blocking; empty when there are none.
    ///
    /// # Errors
    /// [`Error::System`]. Lost notifications are no error but [`Changed::Overrun`].
    pub fn read(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        for socket in &self.sockets {
            loop {
                let outcome = receive(
                    socket.as_fd(),
                    &mut self.buffer,
                    RecvFlags::DONTWAIT,
                    |reply| {
                        events.extend(decode(reply).map(|changed| Event {
                            changed,
                            port: reply.port,
                        }));
                    },
                );
                match outcome {
                    Ok(_) => {}
                    Err(Errno::AGAIN) => break,
                    // Lost, or not to be read as a whole.
                    Err(Errno::NOBUFS | Errno::MSGSIZE | Errno::BADMSG) => events.push(Event {
                        changed: Changed::Overrun,
                        port: 0,
                    }),
                    Err(source) => {
                        return Err(Error::System {
                            operation: "read",
                            subject: "kernel events".to_owned(),
                            source,
                        });
                    }
                }
            }
        }
        Ok(events)
    }

    /// Blocks until there is something to read or the time is over; whether there is.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        let failed = |source| Error::System {
            operation: "wait for",
            subject: "kernel events".to_owned(),
            source,
        };
        let timeout = Timespec::try_from(timeout).map_err(|_| failed(Errno::INVAL))?;
        let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
        let ready = retry_on_intr(|| poll(&mut fds, Some(&timeout))).map_err(failed)?;
        Ok(ready > 0)
    }
}

fn subscribe(protocol: Option<Protocol>, groups: &[u32]) -> rustix::io::Result<OwnedFd> {
    let (fd, _) = open(protocol)?;
    sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER)?;
    for group in groups {
        set_option(fd.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, *group)?;
    }
    Ok(fd)
}

pub(crate) fn decode(reply: &Reply<'_>) -> Option<Changed> {
    Some(match reply.kind {
        rtm::NEWLINK | rtm::DELLINK => {
            // A bridge reports its ports in the bridge family: a port that leaves is not a link that goes.
            if reply.payload.first() != Some(&0) {
                return None;
            }
            let link = link::decode(reply)?;
            Changed::Links {
                ifindex: link.index,
                name: link.name,
                mac: link.mac,
                gone: reply.kind == rtm::DELLINK,
            }
        }
        rtm::NEWADDR | rtm::DELADDR => Changed::Addresses {
            ifindex: u32_at(reply.payload, 4)?,
            gone: reply.kind == rtm::DELADDR,
        },
        rtm::NEWROUTE | rtm::DELROUTE => {
            let (family, table, protocol) = route::summary(reply)?;
            Changed::Routes {
                family,
                table,
                protocol,
                gone: reply.kind == rtm::DELROUTE,
            }
        }
        rtm::NEWRULE | rtm::DELRULE => {
            let (family, priority, protocol) = rule::summary(reply)?;
            Changed::Rules {
                family,
                priority,
                protocol,
                gone: reply.kind == rtm::DELRULE,
            }
        }
        rtm::DELNEIGH => neighbours(reply, true)?,
        rtm::NEWNEIGH if u16_at(reply.payload, 8)? & nda::PERMANENT != 0 => {
            neighbours(reply, false)?
        }
        rtm::NEWNETCONF => forwarding(reply)?,
        _ => nft::summary(reply)?,
    })
}

/// The kernel tells of all settings of a link at once when it appears.
fn forwarding(reply: &Reply<'_>) -> Option<Changed> {
    let attributes = reply.attributes(netconf::HEADER);
    let number = |kind| attributes.value(kind).and_then(u32_of);
    let ifindex = number(netconf::IFINDEX)?.cast_signed();
    Some(Changed::Forwarding {
        family: family_of(*reply.payload.first()?)?,
        ifindex: match ifindex {
            netconf::ALL => None,
            // Below: what links to come get.
            1.. => Some(ifindex.cast_unsigned()),
            _ => return None,
        },
        on: number(netconf::FORWARDING)? != 0,
    })
}

fn neighbours(reply: &Reply<'_>, gone: bool) -> Option<Changed> {
    Some(Changed::Neighbours {
        ifindex: u32_at(reply.payload, 4)?,
        ours: reply.attributes(nda::HEADER).value(nda::PROTOCOL) == Some(&[PROTOCOL]),
        gone,
    })
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}
