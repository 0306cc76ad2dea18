//! The API objects of `tombolo.dev/v1alpha1`. Field ownership is docs/adr/0002: `spec` of NetResourceSet and Eni is the
//! operator's, `status.agent` of NetResourceSet and all of PodEndpoint the agent's, NetworkProfile the user's.
#![forbid(unsafe_code)]

mod backoff;
mod client;
mod eni;
mod labels;
pub mod merge;
mod nrs;
mod pep;
mod profile;

pub use backoff::WatchBackoff;
pub use client::{MAX_ANSWER, TooLong, client};
pub use eni::*;
pub use labels::*;
pub use nrs::*;
pub use pep::*;
pub use profile::*;

/// API group.
pub const GROUP: &str = "tombolo.dev";
/// Version served and stored.
pub const VERSION: &str = "v1alpha1";
