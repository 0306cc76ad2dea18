//! Statements, claims, cases and gaps fit each other.

use std::collections::BTreeSet;

use tombolo_lab_conformance::case::Case;
use tombolo_lab_conformance::statements::{STATEMENTS, claim_of};
use tombolo_lab_conformance::version::Version;
use tombolo_lab_conformance::{cases, gaps};

#[test]
fn every_claim_has_a_case_or_a_reason() {
    let shown: BTreeSet<&str> = cases::all().flat_map(|case| case.claims).copied().collect();
    for claim in STATEMENTS.iter().flat_map(|statement| statement.claims) {
        let has_case = shown.contains(claim.id);
        assert_ne!(has_case, claim.untestable.is_some(), "{}", claim.id);
        assert!(
            !claim.text.contains('|'),
            "{} would break the table",
            claim.id
        );
    }
    for id in shown {
        assert!(claim_of(id).is_some(), "no claim {id}");
    }
}

#[test]
fn names_are_unique_and_gaps_name_cases() {
    let names: Vec<&str> = cases::all().map(|case| case.name).collect();
    let unique: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(names.len(), unique.len());
    let mut seen = BTreeSet::new();
    for gap in gaps::GAPS {
        assert!(unique.contains(gap.case), "no case {}", gap.case);
        assert!(!gap.reason.is_empty() && !gap.subjects.is_empty());
        assert!(seen.insert(gap.case), "{} twice", gap.case);
    }
    assert!(names.len() >= 100, "{} cases", names.len());
}

#[test]
fn a_gap_explains_its_own_failures_only() {
    let gap = |case: &str| gaps::GAPS.iter().find(|gap| gap.case == case).unwrap();
    let failures = |texts: &[&str]| {
        texts
            .iter()
            .map(|&text| text.to_owned())
            .collect::<Vec<_>>()
    };
    let always = gap("check_with_another_mtu");
    assert!(always.explains(&failures(&["1.0.0: whatever"])));
    assert!(!always.explains(&[]), "it passed: no gap any more");
    let race = gap("dels_at_the_same_time");
    let lost =
        r#"1.0.0: DEL 2: it failed (stdout "failed to delete \\\"eth0\\\": no such device")"#;
    assert!(race.explains(&[]) && race.explains(&failures(&[lost])));
    assert!(!race.explains(&failures(&["1.0.0: eth0 is still there"])));
    assert!(!race.explains(&failures(&[lost, "1.0.0: set up"])));
}

#[test]
fn a_case_runs_at_the_versions_that_it_is_about() {
    let case: &Case = cases::all()
        .find(|case| case.name == "check_prints_nothing")
        .unwrap();
    let tried = |spoken: &[Version]| case.versions(spoken);
    assert_eq!(tried(&Version::ALL), Version::ALL[2..]);
    assert_eq!(tried(&Version::ALL[..2]), []);
    let once = case.once();
    assert_eq!(once.versions(&Version::ALL[..4]), [Version::V1_0_0]);
}
