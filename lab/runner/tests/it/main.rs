//! The runner against plugins of our own making and against Debian's reference plugins.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod debian;
mod kubelet;
mod libcni;
mod netns;
mod privilege;
