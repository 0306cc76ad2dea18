//! The built agent in network namespaces: requests over its socket as the plugin makes them, the outcome looked at with
//! `ip -j`, `nft -j` and packets.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

mod bed;
mod boot;
mod failpoints;
mod flushed;
mod gc_status;
mod isolation;
mod lifecycle;
mod lookalikes;
mod networks;
mod notes;
mod plugin;
mod ranges;
mod recovery;
mod recycling;
mod repair;
