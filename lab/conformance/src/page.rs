//! docs/conformance.md: every statement, its cases, how they ended for each subject.

use std::fmt::Write;

use crate::case::Case;
use crate::cases;
use crate::gaps;
use crate::run::{Cell, Report};
use crate::statements::{Claim, STATEMENTS};

const HEAD: &str = "\
# Conformance

What a CNI plugin must do, statement by statement, and how Tombolo and Debian's `ptp` and `bridge` (1.1.1) do it. This page is
written by `make conformance`, and `make test` fails where it is not what a run gives. Do not edit it.

`tombolo-conformance` tries plugins from outside: variables and stdin in; exit code, JSON, and what `ip`, `nft`, `tc` and
`iptables` see out. Any plugin can be tried, in network namespaces of its own:

```
tombolo-conformance --plugin /opt/cni/bin/PLUGIN --conf FILE      exit code 1 where a case fails
```

Each case runs at every version from 0.3.0 to 1.1.0 that the plugin claims and that the case is about, and must leave the node as
it was. **pass**: at all of them. **FAIL**: the reason is among the [known gaps](#known-gaps); one more or one less fails the test.
**RACE**: it fails now and then, for a known reason, and how a single run ends says nothing.
\u{2013}: not about this plugin (the reasons are [below](#not-applicable)).
";

/// How a case ends, in a word.
const PASS: &str = "pass";
const FAIL: &str = "**FAIL**";
const RACE: &str = "**RACE**";
const NOT_APPLICABLE: &str = "\u{2013}";

/// The whole page.
#[must_use]
pub fn page(reports: &[Report]) -> String {
    let mut page = HEAD.to_owned();
    totals(&mut page, reports);
    for statement in STATEMENTS {
        let names: Vec<&str> = reports
            .iter()
            .map(|report| report.subject.as_str())
            .collect();
        line(&mut page, format_args!("\n## {}\n", statement.title));
        line(
            &mut page,
            format_args!("| | must hold | cases | {} |", names.join(" | ")),
        );
        line(
            &mut page,
            format_args!("|---|---|---|{}", "---|".repeat(names.len())),
        );
        for claim in statement.claims {
            row(&mut page, claim, reports);
        }
    }
    known_gaps(&mut page, reports);
    inapplicable(&mut page, reports);
    ported(&mut page);
    page
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _infallible = writeln!(page, "{text}");
}

fn totals(page: &mut String, reports: &[Report]) {
    let claims = STATEMENTS
        .iter()
        .map(|statement| statement.claims.len())
        .sum::<usize>();
    let cases = cases::all().count();
    line(page, format_args!("\n{cases} cases for {claims} claims:\n"));
    line(
        page,
        format_args!(
            "| | versions | passed | failed | race | not applicable |\n|---|---|---|---|---|---|"
        ),
    );
    for report in reports {
        let count = |wanted: &str| {
            cases::all()
                .filter(|case| word(case, report) == wanted)
                .count()
        };
        let versions: Vec<&str> = report
            .versions
            .iter()
            .map(|version| version.text())
            .collect();
        line(
            page,
            format_args!(
                "| {} | {} | {} | {} | {} | {} |",
                report.subject,
                versions.join(", "),
                count(PASS),
                count(FAIL),
                count(RACE),
                count(NOT_APPLICABLE),
            ),
        );
    }
}

fn row(page: &mut String, claim: &Claim, reports: &[Report]) {
    let Claim {
        id,
        text,
        untestable,
    } = claim;
    if let Some(why) = untestable {
        let dashes = " \u{2013} |".repeat(reports.len());
        return line(
            page,
            format_args!("| {id} | {text} | cannot be tested from outside: {why} |{dashes}"),
        );
    }
    let shown: Vec<&Case> = cases::all()
        .filter(|case| case.claims.contains(id))
        .collect();
    let names: Vec<String> = shown
        .iter()
        .map(|case| format!("`{}`", case.name))
        .collect();
    let verdicts: Vec<String> = reports
        .iter()
        .map(|report| verdict(&shown, report))
        .collect();
    line(
        page,
        format_args!(
            "| {id} | {text} | {} | {} |",
            names.join("<br>"),
            verdicts.join(" | ")
        ),
    );
}

/// One word for each case of a claim, or one for all where it is the same.
fn verdict(shown: &[&Case], report: &Report) -> String {
    let words: Vec<&str> = shown.iter().map(|case| word(case, report)).collect();
    match words.as_slice() {
        [first, rest @ ..] if rest.iter().all(|word| word == first) => (*first).to_owned(),
        words => words.join("<br>"),
    }
}

fn word(case: &Case, report: &Report) -> &'static str {
    if gaps::race(report, case).is_some() {
        return RACE;
    }
    match report.cell(case) {
        Cell::Passed => PASS,
        Cell::Failed(_) => FAIL,
        Cell::Inapplicable(_) => NOT_APPLICABLE,
    }
}

fn known_gaps(page: &mut String, reports: &[Report]) {
    line(page, format_args!("\n## Known gaps\n"));
    line(
        page,
        format_args!("| | case | fails at | why |\n|---|---|---|---|"),
    );
    for report in reports {
        for case in cases::all() {
            let at = match (gaps::race(report, case), report.cell(case)) {
                (Some(_), _) => "now and then".to_owned(),
                (None, Cell::Failed(versions)) => {
                    let texts: Vec<&str> = versions.iter().map(|version| version.text()).collect();
                    texts.join(", ")
                }
                (None, _) => continue,
            };
            let reason = gaps::of(&report.subject, case).map_or("NOT KNOWN", |gap| gap.reason);
            line(
                page,
                format_args!("| {} | `{}` | {at} | {reason} |", report.subject, case.name),
            );
        }
    }
}

fn inapplicable(page: &mut String, reports: &[Report]) {
    line(page, format_args!("\n## Not applicable\n"));
    line(page, format_args!("| | why | cases |\n|---|---|---|"));
    for report in reports {
        let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
        for case in cases::all() {
            if let Cell::Inapplicable(why) = report.cell(case) {
                let name = format!("`{}`", case.name);
                match reasons.iter_mut().find(|(reason, _)| *reason == why) {
                    Some((_, names)) => names.push(name),
                    None => reasons.push((why, vec![name])),
                }
            }
        }
        for (why, names) in reasons {
            line(
                page,
                format_args!("| {} | {why} | {} |", report.subject, names.join(", ")),
            );
        }
    }
}

fn ported(page: &mut String) {
    line(page, format_args!("\n## Cases with a model\n"));
    line(
        page,
        format_args!(
            "What CNI's own suites for their libraries try, tried here on whole plugins.\n"
        ),
    );
    line(page, format_args!("| there | here | tier |\n|---|---|---|"));
    for case in cases::all() {
        for name in case.ported {
            line(
                page,
                format_args!("| {name} | `{}` | {} |", case.name, case.tier.word()),
            );
        }
    }
}
