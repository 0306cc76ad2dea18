//! The runner finds what it must find; the table of docs/fuzzing.md says what there is.

#![allow(clippy::unwrap_used, reason = "tests")]

mod planted;
mod table;
