//! A simulated VPC on one machine: instances are network namespaces, NICs are veths, and one namespace is the VPC's router,
//! with anti-spoofing, forwarding by owner of the address, an internet behind it, and the cloud's API with EC2's semantics.
//!
//! - [`model`] owns the state and is pure; [`plan`] is what it wants plugged; [`fabric`] plugs it.
//! - [`server`] joins them and serves `wire` (cloud) and [`admin`] (lab) calls; [`knobs`] make the cloud misbehave.
//! - [`client::AdminClient`] makes every call typed; [`capture`] records packets; [`cli`] is `tombolo-lab vpc`.
#![forbid(unsafe_code)]

pub mod admin;
pub mod capture;
mod catalog;
pub mod cli;
pub mod client;
pub mod config;
pub mod fabric;
pub mod knobs;
pub mod model;
pub mod plan;
pub mod server;

pub use cli::{Args, run};
pub use client::{AdminClient, ClientError};
pub use config::Config;
pub use server::{Options, Server};
