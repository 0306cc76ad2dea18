//! Tombolo's decisions, and nothing else: no clock, no I/O, no environment, no randomness, no async.
//!
//! Time comes in as [`types::Millis`]; effects go out as values that an edge executes. Each folder is one decision:
//!
//! | module | decides |
//! |---|---|
//! | [`types`] | the vocabulary that all parts share |
//! | [`ipam`] | which address of the node goes to which pod, and how many addresses the node needs |
//! | [`eni`] | which cloud calls give each node the addresses that it needs |
//! | [`datapath`] | the kernel state that a node should have, and the difference to what it has |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod datapath;
pub mod eni;
pub mod ipam;
pub mod types;
