//! The node's address pool: which address goes to which pod, and how many the node needs.
mod pool;
pub use pool::*;
