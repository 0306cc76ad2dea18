//! Addresses on links.

use tombolo_core::datapath::Address;

use crate::{Error, Request, Socket};

/// An address as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Link, address, length.
    pub address: Address,
    /// Without duplicate detection and without prefix route, as we add them.
    pub plain: bool,
    /// Scope (0 global, 253 link, 254 host).
    pub scope: u8,
    /// Not yet usable, or found to be a duplicate.
    pub tentative: bool,
}

/// Adds an address without duplicate detection and without prefix route, or updates it to that.
#[must_use]
pub fn add(_address: &Address) -> Request {
    todo!()
}

/// Removes exactly this address.
#[must_use]
pub fn del(_address: &Address) -> Request {
    todo!()
}

/// All addresses of the socket's namespace, both families.
pub fn list(_socket: &mut Socket) -> Result<Vec<Observed>, Error> {
    todo!()
}
