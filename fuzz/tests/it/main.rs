//! The runner finds what it must find; the table of docs/fuzzing.md says what there is.

mod planted;
mod table;
