//! The only product crate that talks to the kernel: rtnetlink, nf_tables, conntrack, `/proc/sys/net`, namespaces.
//!
//! Everything is synchronous and blocks only for the kernel's own work. Two layers:
//!
//! ```text
//!   wire      one pod: create, configure, check, detach         ┐ what the agent calls
//!   kernel    one namespace: observe_node, apply(Op)            ┘
//!   ───────────────────────────────────────────────────────────
//!   link addr route rule neigh  nft conntrack  sockets sysctl events   one kernel object each
//!   socket, message             requests, dumps, batches          bytes on a netlink socket
//!   netns                       which namespace all of that is in
//! ```
//! A function that only builds a message returns a [`Request`]; send one with [`Socket::request`], or many in one system
//! call with [`Socket::batch`].
//!
//! The codec is our own, in `message`: one for rtnetlink, nf_tables and conntrack. A dump decodes only the attributes
//! that we look at, so that an attribute of another program's object, or of a newer kernel, cannot fail it.
#![warn(missing_docs)]

mod abi;
pub mod addr;
pub mod conntrack;
mod error;
pub mod events;
#[cfg(test)]
mod fuzz;
mod kernel;
pub mod link;
mod message;
pub mod neigh;
pub mod netns;
pub mod nft;
pub mod route;
pub mod rule;
mod socket;
pub mod sockets;
pub mod sysctl;
pub mod wire;

pub use error::Error;
pub use kernel::{Kernel, Observation};
pub use message::Request;
pub use netns::{Netns, NetnsId};
pub use socket::Socket;
