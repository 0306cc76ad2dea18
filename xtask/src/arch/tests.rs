//! Each ban can fail: its fixture below `xtask/fixtures` breaks it, and nothing else.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::packages::Edge;
use super::sources::{MAX_LINES, Source};
use super::{Ban, Breach, closure, packages, points, sources};

fn fixtures(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(folder);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    paths
        .iter()
        .map(|path| (stem(path), std::fs::read_to_string(path).unwrap()))
        .collect()
}

/// Lines that end in `// ban: <word>` must break that ban, all others none.
#[track_caller]
fn breaks_as_marked(path: &str, text: &str) -> BTreeSet<Ban> {
    let file = Source {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let mut found = sources::breaches(&file).unwrap();
    found.extend(points::breaches(&file).unwrap());
    let mut marked = BTreeSet::new();
    for (number, line) in (1..).zip(text.lines()) {
        let here = found
            .iter()
            .filter(|breach| breach.place == format!("{path}:{number}"));
        let words: BTreeSet<&str> = here.map(|breach| breach.ban.word()).collect();
        let expected: BTreeSet<&str> = line
            .split_once("// ban: ")
            .map(|(_, word)| word)
            .into_iter()
            .collect();
        assert_eq!(words, expected, "{path}:{number}: {line}");
        marked.extend(
            Ban::ALL
                .into_iter()
                .filter(|ban| expected.contains(ban.word())),
        );
    }
    marked
}

fn package_edges(text: &str) -> Vec<Edge> {
    let edge = |line: &str| {
        let (from, to) = line.split_once(" -> ").unwrap();
        Edge {
            from: from.to_owned(),
            to: to.to_owned(),
        }
    };
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(edge)
        .collect()
}

fn bans(breaches: &[Breach]) -> BTreeSet<Ban> {
    breaches.iter().map(|breach| breach.ban).collect()
}

#[test]
fn every_ban_can_fail() {
    let mut broken = BTreeSet::new();
    for (name, text) in fixtures("core") {
        // A fixture of the folders' direction says where it would lie.
        let place = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("//! As "))
            .map(|line| line.trim_end_matches('.'));
        let marked = breaks_as_marked(place.unwrap_or("core/src/ipam/fixture.rs"), &text);
        let words: Vec<&str> = marked.iter().map(|ban| ban.word()).collect();
        assert_eq!(
            words,
            if name == "clean" {
                vec![]
            } else {
                vec![name.as_str()]
            }
        );
        broken.extend(marked);
    }
    for (name, text) in fixtures("plugin") {
        let marked = breaks_as_marked("bin/cni/src/fixture.rs", &text);
        assert_eq!(marked.is_empty(), name == "clean", "{name}");
        broken.extend(marked);
    }
    for (name, text) in fixtures("points") {
        let marked = breaks_as_marked("bin/agent/src/fixture.rs", &text);
        assert_eq!(marked.is_empty(), name == "clean", "{name}");
        broken.extend(marked);
    }
    for (name, text) in fixtures("packages") {
        let edges = package_edges(&text);
        let found = packages::breaches(&edges);
        // Every line of a failing fixture fails.
        assert_eq!(
            found.len(),
            if name == "clean" { 0 } else { edges.len() },
            "{name}: {found:?}"
        );
        broken.extend(bans(&found));
    }
    for (name, text) in fixtures("closure") {
        let linked = closure::parse(&text);
        let found = closure::breaches(&linked);
        assert_eq!(
            found.len(),
            usize::from(name != "clean"),
            "{name}: {found:?}"
        );
        broken.extend(bans(&found));
    }
    let long = Source {
        path: "edge/netlink/src/long.rs".to_owned(),
        text: "\n".repeat(MAX_LINES + 1),
    };
    broken.extend(bans(&sources::breaches(&long).unwrap()));
    let fits = Source {
        path: "edge/netlink/src/fits.rs".to_owned(),
        text: "\n".repeat(MAX_LINES),
    };
    assert_eq!(sources::breaches(&fits).unwrap(), vec![]);

    assert_eq!(broken, BTreeSet::from(Ban::ALL));
}

#[test]
fn this_repository_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let edges = packages::read(root).unwrap();
    assert!(
        edges.contains(&Edge {
            from: "edge/netlink".to_owned(),
            to: "core".to_owned()
        }),
        "{edges:?}"
    );
    let linked = closure::read(root).unwrap();
    let tokio = linked
        .iter()
        .find(|package| package.name == "tokio")
        .unwrap();
    assert!(
        tokio.features.iter().any(|feature| feature == "rt"),
        "{tokio:?}"
    );
    assert!(
        sources::read(root)
            .unwrap()
            .iter()
            .any(|file| file.path == "core/src/datapath/desired.rs")
    );
}
