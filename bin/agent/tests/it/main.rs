//! The built agent in network namespaces: requests over its socket as the plugin makes them, the outcome looked at with
//! `ip -j`, `nft -j` and packets.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

mod bed;
mod beside;
mod boot;
mod conflist;
mod failpoints;
mod flushed;
mod host_ports;
mod isolation;
mod lifecycle;
mod lookalikes;
mod notes;
mod plugin;
mod ranges;
mod recovery;
mod recycling;
mod repair;
