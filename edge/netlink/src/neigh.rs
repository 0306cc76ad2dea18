//! Permanent neighbour entries.

use std::collections::BTreeSet;

use tombolo_core::datapath::Neighbour;

use crate::{Error, Request, Socket};

/// Adds a permanent entry, or replaces what is there for the same address and link.
#[must_use]
pub fn add(_neighbour: &Neighbour) -> Request {
    todo!()
}

/// Removes the entry for this address and link.
#[must_use]
pub fn del(_neighbour: &Neighbour) -> Request {
    todo!()
}

/// All permanent entries of the socket's namespace, both families.
pub fn list_permanent(_socket: &mut Socket) -> Result<BTreeSet<Neighbour>, Error> {
    todo!()
}
