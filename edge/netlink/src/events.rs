//! A subscription to what changes in a namespace: what changed and by whom, not how. Whoever reacts looks again.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use tombolo_core::types::Family;

use crate::Error;

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
    /// A route was added or removed.
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
        /// Whether it was removed.
        gone: bool,
    },
    /// Something in one of our nf_tables tables changed.
    Nft {
        /// Whether something was removed.
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

/// The subscription. Poll its descriptor for readability, then call [`Events::read`].
#[derive(Debug)]
pub struct Events {
    epoll: OwnedFd,
}

impl Events {
    /// Subscribes in the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        todo!()
    }

    /// All events that are queued, without blocking; empty when there are none.
    pub fn read(&mut self) -> Result<Vec<Event>, Error> {
        todo!()
    }

    /// Blocks until there is something to read or the time is over; whether there is.
    pub fn wait(&self, _timeout: std::time::Duration) -> Result<bool, Error> {
        todo!()
    }
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
