//! Scenarios on whole labs. Each brings its lab up, says what it does, lets the invariant checker judge, takes the lab
//! down and looks for residue. They run one after the other: a lab wants the machine for itself.
//!
//! `half_done`, `lies` and `behind_our_back` need less: the shipped operator between the simulated cloud and the API server
//! (`bed`), without packets and without privileges.

#![allow(clippy::unwrap_used, reason = "tests")]

mod acceptance;
mod bed;
mod support;
mod torture;

mod bad_days;
mod behind_our_back;
mod beyond;
mod burst;
mod captures;
mod failpoints;
mod first_syn;
mod growth;
mod half_done;
mod headless;
mod host_ports;
mod identity;
mod ingress;
mod kills;
mod leaders;
mod lies;
mod objects;
mod planted;
mod reasons;
mod repair;
mod restart;
mod rp_filter;
mod soak;
mod spoofing;
mod swap;
