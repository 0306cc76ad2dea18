//! All cases, by what they are about.

mod add;
mod chain;
mod check;
mod config;
mod del;
mod delegation;
mod env;
mod fault;
mod gc;
mod likeness;
mod networks;
mod process;
mod result;
mod shape;
mod status;
mod version;

use crate::case::Case;

const GROUPS: [&[Case]; 16] = [
    process::CASES,
    env::CASES,
    config::CASES,
    version::CASES,
    shape::CASES,
    add::CASES,
    result::CASES,
    del::CASES,
    check::CASES,
    gc::CASES,
    status::CASES,
    networks::CASES,
    delegation::CASES,
    chain::CASES,
    fault::CASES,
    likeness::CASES,
];

/// All cases.
pub fn all() -> impl Iterator<Item = &'static Case> {
    GROUPS.iter().flat_map(|group| group.iter())
}
