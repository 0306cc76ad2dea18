//! What fails is what is known to fail, with a reason; and the page says so.

use std::path::Path;

use tombolo_lab_conformance::run::Report;
use tombolo_lab_conformance::{cases, gaps, page};

use crate::{possible, reports};

fn fails_what_is_known(report: &Report) {
    let mut surprises = Vec::new();
    for case in cases::all() {
        let failures = report.why(case.name);
        let known = match gaps::of(&report.subject, case) {
            Some(gap) => gap.explains(&failures),
            None => failures.is_empty(),
        };
        if !known {
            surprises.push(format!("{}: {failures:#?}", case.name));
        }
    }
    assert!(
        surprises.is_empty(),
        "{}: not as it is known ([]: it passed):\n{}",
        report.subject,
        surprises.join("\n")
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
