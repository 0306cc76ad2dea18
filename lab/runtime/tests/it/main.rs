//! Real runtimes with the shipped plugin and agent, in a lab of one node: what they do to a network, told by the calls that
//! they really made, and seen from outside with other programs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bed;
mod calls;
mod faults;
mod lab;
mod networks;
mod podman;
mod ports;
mod sandboxes;
