//! The simulated VPC's API: its wire types (shared with the simulator, which serves them) and a client.
//!
//! One `POST /v1/<Verb>` a call, JSON both ways. Errors come as HTTP 4xx/5xx with [`wire::ApiError`], whose codes are EC2's.
#![forbid(unsafe_code)]
pub mod client;
pub mod wire;
