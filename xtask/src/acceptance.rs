//! docs/acceptance.md and the sources name the same tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The rows: T1 to T22.
const ROWS: usize = 22;

/// A row of the page.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    name: &'a str,
    tests: Vec<&'a str>,
    waiting: &'a str,
}

/// What is between the bars of a table's row.
fn rows(page: &str) -> Vec<Row<'_>> {
    // Programs and files have blanks or dots in their names.
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let is_test = |word: &&str| word.contains('_') && word.bytes().all(letter);
    let row = |line| -> Option<Row<'_>> {
        let mut cells = str::split(line, '|').map(str::trim).skip(1);
        let name = cells.next().filter(|name| name.starts_with('T'))?;
        let (_what, shown, waiting) = (cells.next()?, cells.next()?, cells.next()?);
        let quoted = shown.split('`').skip(1).step_by(2);
        Some(Row {
            name,
            tests: quoted.filter(is_test).collect(),
            waiting,
        })
    };
    page.lines().filter_map(row).collect()
}

/// Names of all test functions below a folder, with their files.
fn tests(folder: &Path, found: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_dir() && !hidden && !path.ends_with("target") && !path.ends_with("fixtures") {
            tests(&path, found)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            for name in tests_of(&std::fs::read_to_string(&path)?) {
                found.insert(name, path.clone());
            }
        }
    }
    Ok(())
}

/// Functions that follow a test attribute, those inside `proptest!` included.
fn tests_of(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if line == "#[test]" || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ").or(line.strip_prefix("async fn ")) {
            if std::mem::take(&mut marked) {
                names.push(rest.split('(').next().unwrap_or_default().to_owned());
            }
        } else if !line.starts_with("#[") && !line.starts_with("//") && !line.is_empty() {
            marked = false;
        }
    }
    names
}

#[test]
fn every_row_names_tests_that_exist_or_what_it_waits_for() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/acceptance.md")).unwrap();
    let rows = rows(&page);
    let names: Vec<String> = rows.iter().map(|row| row.name.to_owned()).collect();
    let wanted: Vec<String> = (1..=ROWS).map(|n| format!("T{n}")).collect();
    assert_eq!(names, wanted);
    let mut found = BTreeMap::new();
    tests(&root, &mut found).unwrap();
    for row in &rows {
        let missing: Vec<_> = row
            .tests
            .iter()
            .filter(|test| !found.contains_key(**test))
            .collect();
        assert!(
            missing.is_empty(),
            "{}: no such tests: {missing:?}",
            row.name
        );
        let distinct: BTreeSet<_> = row.tests.iter().collect();
        assert_eq!(
            distinct.len(),
            row.tests.len(),
            "{}: a test twice",
            row.name
        );
        assert!(
            !row.tests.is_empty() || !row.waiting.is_empty(),
            "{} shows nothing",
            row.name
        );
    }
    // A test that is named after a row stands in that row.
    for name in found.keys() {
        let number = name
            .strip_prefix('t')
            .and_then(|rest| rest.split_once('_')?.0.parse::<usize>().ok());
        let row = number.and_then(|n| rows.iter().find(|row| row.name == format!("T{n}")));
        if let Some(row) = row {
            assert!(
                row.tests.contains(&name.as_str()),
                "{name} is not on the page"
            );
        }
    }
}

#[test]
fn the_page_and_the_sources_are_read_as_they_are_meant() {
    let page = "| T1 | holds | `one_test`, `make soak`, `a_b` | |\n| T22 | - | | a feature; another |\ntext\n";
    let one = Row {
        name: "T1",
        tests: vec!["one_test", "a_b"],
        waiting: "",
    };
    let last = Row {
        name: "T22",
        tests: vec![],
        waiting: "a feature; another",
    };
    assert_eq!(rows(page), [one, last]);
    let source = "
        #[test]
        #[ignore]
        fn one_test() {
        fn helper() {
        #[tokio::test(flavor = \"x\")]
        // Why.
        async fn a_b(in_it: u8) {
        #[test]
        struct S;
        fn no_test() {
    ";
    assert_eq!(tests_of(source), ["one_test", "a_b"]);
}
