//! Connection tracking entries.

use std::net::IpAddr;

use crate::{Error, Socket};

/// Deletes all entries that name this address as a source or destination in either direction; returns how many.
pub fn delete_address(_socket: &mut Socket, _ip: IpAddr) -> Result<usize, Error> {
    todo!()
}
