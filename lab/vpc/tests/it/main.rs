//! The VPC with real namespaces and packets, and its API.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod api;
mod attach;
mod faults;
mod frames;
mod internet;
mod life;
mod spoof;
mod support;
mod traffic;
