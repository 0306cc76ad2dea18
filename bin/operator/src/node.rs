//! One task a node: observe → plan → write the spec → make calls → take in what they did, and again.
//!
//! ```text
//!            ┌───────────────── wake-up: status, Node, profile, inventory; a call ended; a timer ───────────────┐
//!            ▼                                                                                                  │
//!   look at objects and inventory ─▶ planner ─▶ NetResourceSet.spec ─▶ calls begin ─▶ Eni objects, conditions ──┘
//! ```
//! The task is the only writer of its NetResourceSet's spec and of its Eni objects. Cancel safety: the whole task may be
//! dropped at any await; the next one begins from what the cloud and the objects show.

mod execute;
#[cfg(test)]
mod fuzz;
mod ledger;
mod problems;
mod reclaim;
mod reply;
mod spec;
mod view;
mod worker;

pub use execute::delete_nic;
pub use view::is_ours;
pub use worker::Worker;
