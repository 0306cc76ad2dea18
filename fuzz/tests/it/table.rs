//! docs/fuzzing.md names every decoder of outside bytes and its target: no more, no fewer.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a product source that reads outside bytes has in it.
const DECODES: &[&str] = &[
    "::from_slice",
    "from_value",
    "from_reader",
    "serde_json::from_str",
    "fn from_str(",
    "read_to_end",
    "read_to_string",
    "fs::read(",
    "io::read(",
    "net::recv(",
    "collect().await",
    "Reply<'_>",
    "DynamicObject",
    "-> Result<Duration, String>",
    "OsString",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust source below these folders: path from the root, text without its test module.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let root = root();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut sources = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                sources.push((name, text));
            }
        }
    }
    sources
}

fn product() -> Vec<(String, String)> {
    let is_test = |path: &str| {
        [
            "/tests/",
            "/tests.rs",
            "/fuzz.rs",
            "/fuzz/",
            "/examples/",
            "/generated.rs",
        ]
        .iter()
        .any(|part| path.contains(part))
    };
    sources(&["core", "edge", "bin"])
        .into_iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| {
            let tests = [
                "\n#[cfg(test)]\nmod tests {",
                "\n#[cfg(test)]\npub mod tests {",
            ];
            let end = tests.iter().find_map(|tests| text.find(tests));
            (path, text[..end.unwrap_or(text.len())].to_owned())
        })
        .collect()
}

/// The words in backticks of a cell.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The rows of the table below a heading, cell by cell.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let below = text.split_once(heading).expect(heading).1;
    let section = below.split("\n## ").next().unwrap_or_default();
    section
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|-"))
        .skip(1)
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

struct Table {
    /// Target, and files whose decoders it runs.
    targets: Vec<(String, Vec<String>)>,
    /// Files that need none.
    exempt: Vec<String>,
}

fn table() -> Table {
    let text = fs::read_to_string(root().join("docs/fuzzing.md")).unwrap();
    let owned = |cell| quoted(cell).map(str::to_owned).collect::<Vec<_>>();
    let targets = rows(&text, "\n## Targets\n")
        .iter()
        .map(|row| {
            assert_eq!(row.len(), 4, "{row:?}");
            let target = owned(row[0]);
            assert_eq!(target.len(), 1, "{row:?}");
            assert!(!row[3].is_empty(), "{row:?} has no limit on size");
            (target[0].clone(), owned(row[2]))
        })
        .collect();
    let exempt = rows(&text, "\n## Without a target\n")
        .iter()
        .flat_map(|row| {
            assert!(row.len() == 2 && !row[1].is_empty(), "{row:?}");
            owned(row[0])
        })
        .collect();
    Table { targets, exempt }
}

#[test]
fn the_table_lists_the_targets_that_there_are() {
    let mut written = BTreeSet::new();
    for (_, text) in sources(&["core", "edge", "bin", "lab"]) {
        for part in text.split("Target::new(\"").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(
                written.insert(name.to_owned()),
                "two targets are named {name}"
            );
        }
    }
    let listed: Vec<String> = table().targets.into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), written);
    assert_eq!(listed.len(), written.len(), "a target is listed twice");
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let listed: BTreeSet<String> = table().targets.into_iter().map(|(name, _)| name).collect();
    let corpus = root().join("fuzz/corpus");
    let kept: BTreeSet<String> = fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(kept, listed);
    for name in kept {
        let files = fs::read_dir(corpus.join(&name)).unwrap().count();
        assert!(files > 0, "the corpus of {name} is empty");
    }
}

#[test]
fn every_source_that_decodes_is_in_the_table() {
    let table = table();
    let mut listed: BTreeSet<&String> = table.exempt.iter().collect();
    listed.extend(table.targets.iter().flat_map(|(_, files)| files));
    for file in &listed {
        assert!(root().join(file).is_file(), "docs/fuzzing.md names {file}");
    }
    let missing: Vec<String> = product()
        .into_iter()
        .filter(|(path, text)| {
            !listed.contains(path) && DECODES.iter().any(|word| text.contains(word))
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(
        missing,
        [] as [&str; 0],
        "these read bytes from outside and are in neither table of docs/fuzzing.md"
    );
}

#[test]
fn a_source_that_decodes_is_recognised() {
    let found = |path: &str| {
        let (_, text) = product()
            .into_iter()
            .find(|(name, _)| name == path)
            .expect(path);
        DECODES.iter().any(|word| text.contains(word))
    };
    for path in [
        "bin/cni/src/config.rs",
        "bin/cni/src/env.rs",
        "bin/agent/src/journal/file.rs",
        "edge/netlink/src/route.rs",
        "edge/netlink/src/socket.rs",
        "edge/cloud-sim/src/client.rs",
        "core/src/eni/provider_id.rs",
        "bin/operator/src/objects.rs",
    ] {
        assert!(found(path), "{path}");
    }
    assert!(!found("core/src/datapath/desired.rs"));
}
