//! What fails is what is known to fail, with a reason; and the page says so.

use std::collections::BTreeSet;
use std::path::Path;

use tombolo_lab_conformance::run::Report;
use tombolo_lab_conformance::{gaps, page};

use crate::{possible, reports};

fn fails_what_is_known(report: &Report) {
    let known: BTreeSet<&str> = gaps::of(&report.subject).map(|gap| gap.case).collect();
    let failed = report.failed();
    let surplus: Vec<String> = failed
        .difference(&known)
        .map(|case| format!("{case}\n  {}", report.why(case).join("\n  ")))
        .collect();
    let missing: Vec<_> = known.difference(&failed).collect();
    assert!(
        surplus.is_empty() && missing.is_empty(),
        "{}: known to fail, but did not: {missing:?}; failed:\n{}",
        report.subject,
        surplus.join("\n")
    );
    assert!(report.lines.len() > 100, "hardly anything was tried");
}

#[test]
fn tombolo_conforms() {
    if possible("tombolo_conforms") {
        fails_what_is_known(&reports()[0]);
    }
}

#[test]
fn ptp_fails_what_is_known() {
    if possible("ptp_fails_what_is_known") {
        fails_what_is_known(&reports()[1]);
    }
}

#[test]
fn bridge_fails_what_is_known() {
    if possible("bridge_fails_what_is_known") {
        fails_what_is_known(&reports()[2]);
    }
}

#[test]
fn the_page_says_what_a_run_gives() {
    if !possible("the_page_says_what_a_run_gives") {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance.md");
    let written = std::fs::read_to_string(path).unwrap();
    let given = page::page(&reports());
    let mut lines = written.lines().zip(given.lines());
    let first = lines.find(|(written, given)| written != given);
    assert!(
        written == given,
        "docs/conformance.md is not what a run gives (make conformance writes it); first difference: {first:?}"
    );
}
