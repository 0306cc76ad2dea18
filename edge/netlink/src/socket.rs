//! A netlink socket: requests with acknowledgement, dumps, batches.

use std::os::fd::OwnedFd;

use crate::{Error, Netns, Request};

/// A netlink socket, bound to the namespace it was opened in whatever thread uses it later.
#[derive(Debug)]
pub struct Socket {
    #[allow(dead_code)]
    fd: OwnedFd,
    port: u32,
}

impl Socket {
    /// An rtnetlink socket in the calling thread's namespace.
    pub fn route() -> Result<Self, Error> {
        todo!()
    }

    /// An rtnetlink socket in another namespace.
    pub fn route_in(_netns: &Netns) -> Result<Self, Error> {
        todo!()
    }

    /// A netfilter socket (nf_tables, conntrack) in the calling thread's namespace. Keep it: closing one makes the
    /// kernel wait for pending nf_tables clean-up.
    pub fn netfilter() -> Result<Self, Error> {
        todo!()
    }

    /// The port id by which the kernel names this socket in notifications.
    #[must_use]
    pub const fn port(&self) -> u32 {
        self.port
    }

    /// Sends one request and waits for its acknowledgement.
    pub fn request(&mut self, _request: Request) -> Result<(), Error> {
        todo!()
    }

    /// Sends all requests in as few system calls as possible and waits for all acknowledgements. Later requests are
    /// carried out also when an earlier one fails (rtnetlink has no transactions); the first error is returned.
    pub fn batch(&mut self, _requests: Vec<Request>) -> Result<(), Error> {
        todo!()
    }

    /// As [`Socket::batch`], with the outcome of each request in order.
    pub fn batch_each(&mut self, _requests: Vec<Request>) -> Result<Vec<Result<(), Error>>, Error> {
        todo!()
    }
}
