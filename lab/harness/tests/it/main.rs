//! Scenarios on whole labs. Each brings its lab up, says what it does, lets the invariant checker judge, takes the lab
//! down and looks for residue. They run one after the other: a lab wants the machine for itself.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;
mod torture;

mod bad_days;
mod burst;
mod captures;
mod first_syn;
mod growth;
mod objects;
mod planted;
mod repair;
mod restart;
mod rp_filter;
mod spoofing;
