//! The node's address pool: which address goes to which pod, and how many the node needs.
//!
//! | file | holds |
//! |---|---|
//! | `pool.rs` | what goes in and out, the state, and queries |
//! | `machine.rs` | the transitions |
//! | `sizing.rs` | demand, and what to give back first |
//! | `canonical.rs` | one form for pools that behave alike |
mod canonical;
mod machine;
mod pool;
mod sizing;
#[cfg(test)]
mod tests;

pub use pool::*;
