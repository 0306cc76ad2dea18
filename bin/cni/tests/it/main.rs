//! The plugin from outside: environment and stdin in, exit code and stdout out, an agent of our own in between.
//!
//! Needs no privilege: the pod's namespace is the plugin's own, with `CNI_NETNS_OVERRIDE`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod chains;
mod fake_agent;
mod faults;
mod gc_status;
mod notes;
mod plugin;
mod protocol;
