//! Tests of core by what it shows to the outside: goldens, properties, and a model of the kernel that takes its output.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod datapath;
mod together;
