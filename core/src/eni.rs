//! The cluster's NIC planner: which cloud calls give each node the addresses that it needs.
mod planner;
pub use planner::*;
