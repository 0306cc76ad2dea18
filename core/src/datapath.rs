//! The kernel state that a node should have, as data, and the difference to what it has.
//!
//! ```text
//!   NICs + endpoints + settings ── desired::node ──▶ NodeState ─┐
//!                                                               ├─ diff ──▶ [Op]  (an edge applies them)
//!   kernel dumps (edge/netlink) ────────────────▶ NodeState ────┘
//! ```
//! ADD applies the slice of one endpoint ([`desired::endpoint`]); only resync computes the whole node. Both come from
//! the same functions, so what ADD made is what resync expects.

pub mod conventions;
pub mod desired;
pub mod diff;
mod model;
mod sysctls;
pub mod system_rules;

pub use model::{
    Address, Endpoint, EndpointAddress, EndpointState, LinkState, NatState, Neighbour, NodeInput,
    NodeState, OwnTable, Route, RouteKind, Rule, RuleAction, Selector, Sysctl,
};
