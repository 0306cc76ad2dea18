//! Our nf_tables tables (`inet tombolo`, `arp tombolo`).

use std::net::IpAddr;

use tombolo_core::datapath::NatState;

use crate::{Error, Socket};

/// An element of the source maps: (index of the host end, the pod's address, mark of the NIC that owns it).
pub type Source = (u32, IpAddr, u32);

/// Replaces both tables, whatever they hold, in one transaction.
pub fn install(_socket: &mut Socket, _state: &NatState) -> Result<(), Error> {
    todo!()
}

/// Removes both tables in one transaction; absent ones are no error.
pub fn remove(_socket: &mut Socket) -> Result<(), Error> {
    todo!()
}

/// Changes elements only, in one transaction. Fails without effect when the tables are missing or do not hold `from`.
pub fn update(_socket: &mut Socket, _from: &NatState, _to: &NatState) -> Result<(), Error> {
    todo!()
}

/// Adds elements to the source maps in one transaction; those already there are no error, a different mark is replaced.
pub fn add_sources(_socket: &mut Socket, _sources: &[Source]) -> Result<(), Error> {
    todo!()
}

/// Removes elements from the source maps; those not there, and missing tables, are no error.
pub fn del_sources(_socket: &mut Socket, _sources: &[Source]) -> Result<(), Error> {
    todo!()
}

/// What the tables hold. `None`: a table is missing, or its fixed part is not what this build writes.
pub fn observe(_socket: &mut Socket) -> Result<Option<NatState>, Error> {
    todo!()
}
