//! Real container runtimes inside the lab's nodes, and images for them that are made here: nothing is pulled.
//!
//! | module | owns |
//! |---|---|
//! | `images` | an OCI archive from the machine's static busybox |
//! | `inside` | a node's namespaces: commands and paths in them, what runs in them |
//! | `cgroups` | the control groups of a node's containers |
//! | `containerd` | containerd in a node, with all of its state in the node |
//! | `cri` | the client of the Container Runtime Interface |
//!
//! `generated.rs` follows from `proto/cri.proto` by `cargo xtask codegen`.

pub mod cgroups;
pub mod containerd;
pub mod cri;
pub mod images;
pub mod inside;

#[rustfmt::skip]
#[allow(
    missing_docs, unused_qualifications, clippy::all, clippy::pedantic, clippy::unwrap_used,
    reason = "generated"
)]
mod generated;

pub use inside::Inside;
