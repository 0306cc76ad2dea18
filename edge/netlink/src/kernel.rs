//! One namespace (the node's): observe all that is ours in it, apply one operation.

use std::collections::BTreeSet;

use tombolo_core::datapath::NodeState;
use tombolo_core::datapath::diff::Op;

use crate::link::Link;
use crate::route::ForeignRoute;
use crate::rule::ForeignRule;
use crate::{Error, Netns, Socket};

/// Sockets into the namespace in which it was opened. Sysctls follow the calling thread, which must therefore be in the
/// same namespace.
#[derive(Debug)]
pub struct Kernel {
    /// rtnetlink.
    pub route: Socket,
    /// nf_tables and conntrack.
    pub netfilter: Socket,
    /// The namespace.
    pub netns: Netns,
}

/// What the namespace holds.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Ours. `state.links` holds the links that were asked for and all pod links (both link groups are listed with
    /// their group); `state.addresses` the addresses on the links that were asked for.
    pub state: NodeState,
    /// Whether our nf_tables tables are there and as this build writes them.
    pub nat_intact: bool,
    /// All links.
    pub links: Vec<Link>,
    /// Rules of others, for conflicts.
    pub foreign_rules: Vec<ForeignRule>,
    /// Routes of others in any table but the kernel's local one.
    pub foreign_routes: Vec<ForeignRoute>,
}

impl Kernel {
    /// Opens sockets into the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        todo!()
    }

    /// Looks at everything. `sysctls`: paths to read (absent ones are left out of the result). `links`: indices of the
    /// NICs; absent ones are left out.
    pub fn observe_node(&mut self, _sysctls: &BTreeSet<String>, _links: &BTreeSet<u32>) -> Result<Observation, Error> {
        todo!()
    }

    /// Carries out one operation. Adding what is there, and removing what is not, succeeds.
    pub fn apply(&mut self, _op: &Op) -> Result<(), Error> {
        todo!()
    }
}
