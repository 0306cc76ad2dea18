//! The suite judged by plugins of which it is known what they do: ours, Debian's, and some that do nothing right. One run
//! of each serves all tests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad;
mod known;
mod table;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tombolo_lab_conformance::case::Tier;
use tombolo_lab_conformance::run::{Report, Selection, obstacle, run};
use tombolo_lab_conformance::subject::Subject;

/// The programs that were built with this test.
fn programs() -> PathBuf {
    let own = Path::new(env!("CARGO_BIN_EXE_tombolo-conformance"));
    own.parent().unwrap().to_owned()
}

/// Whether all tiers can run here. In CI they must.
fn possible(test: &str) -> bool {
    let Some(reason) = Tier::ALL.into_iter().find_map(obstacle) else {
        return true;
    };
    let ci = std::env::var("CI").as_deref() == Ok("true");
    assert!(!ci, "{test}: {reason}");
    println!("SKIP {test}: {reason}");
    false
}

static REPORTS: Mutex<Vec<Report>> = Mutex::new(Vec::new());

/// The whole suite on Tombolo, `ptp` and `bridge`, in this order; run once.
fn reports() -> Vec<Report> {
    let mut reports = REPORTS.lock().unwrap_or_else(PoisonError::into_inner);
    if reports.is_empty() {
        let subjects = [
            Subject::tombolo(&programs()).unwrap(),
            Subject::reference("ptp").unwrap(),
            Subject::reference("bridge").unwrap(),
        ];
        *reports = subjects
            .iter()
            .map(|subject| run(subject, &Selection::default(), &mut |_| {}).unwrap())
            .collect();
    }
    reports.clone()
}
