//! The NIC planner: which cloud calls give each node the addresses that it needs, and take back what it does not.
//!
//! | module | owns |
//! |---|---|
//! | `model` | what the planner sees ([`Observation`]) and what it asks for ([`Action`]) |
//! | `planner` | the machine: calls under way, back-off, hold-offs, what was reported |
//! | `plan` | one observation turned into actions; no memory of its own |
//! | `growth` | the half of the plan that meets a demand |
//! | `shape` | a node's NICs as counts of usable addresses, the arithmetic of pairs |
//! | `handshake` | the release handshake as the objects carry it |
//! | `problem` | what cannot be done, with its numbers |
//! | `capacity` | how many pods an instance type can address |
//! | `provider_id` | `Node.spec.providerID` |
mod backoff;
mod capacity;
mod growth;
mod handshake;
mod model;
mod plan;
mod planner;
mod problem;
mod provider_id;
mod shape;
pub use backoff::*;
pub use capacity::*;
pub use handshake::*;
pub use model::*;
pub use planner::*;
pub use problem::*;
pub use provider_id::*;
