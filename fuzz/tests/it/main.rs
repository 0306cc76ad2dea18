//! The runner finds what it must find; the table of docs/fuzzing.md says what there is.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod planted;
mod table;
