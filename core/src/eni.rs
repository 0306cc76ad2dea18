//! The NIC planner: which cloud calls give each node the addresses that it needs.
mod backoff;
mod capacity;
mod provider_id;
pub use backoff::*;
pub use capacity::*;
pub use provider_id::*;
