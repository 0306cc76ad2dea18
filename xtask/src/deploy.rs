//! What `deploy/` says agrees with what is built.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All manifests: path, text.
fn manifests() -> Vec<(String, String)> {
    let mut open = vec![root().join("deploy")];
    let mut all = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                all.push((path.display().to_string(), text));
            }
        }
    }
    assert!(all.len() > 10);
    all
}

#[test]
fn manifests_name_the_image_of_this_version() {
    let mut images = 0;
    for (path, text) in manifests() {
        for line in text.lines().map(str::trim) {
            let tag = line
                .strip_prefix("image: tombolo.dev/tombolo:")
                .or(line.strip_prefix("newTag: "));
            let Some(tag) = tag else { continue };
            assert_eq!(tag, env!("CARGO_PKG_VERSION"), "{path}: {line}");
            images += 1;
        }
    }
    assert!(images > 5, "{images}");
}

#[test]
fn every_variable_in_a_manifest_is_one_that_a_program_reads() {
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut variables = 0;
    for (path, text) in manifests() {
        for word in text.split(|c: char| !c.is_ascii_uppercase() && c != '_') {
            if word.starts_with("TOMBOLO_") {
                assert!(page.contains(&format!("`{word}`")), "{path}: {word}");
                variables += 1;
            }
        }
    }
    assert!(variables > 5, "{variables}");
}

/// Every flag in a command of a manifest.
#[test]
fn every_flag_in_a_manifest_is_one_that_a_program_takes() {
    let page = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let mut flags = 0;
    for (path, text) in manifests() {
        for line in text.lines().filter(|line| line.contains("command: [")) {
            let words = line.split(['[', ']', ',', ' ']);
            for word in words.filter(|word| word.starts_with("--")) {
                assert!(page.contains(&format!("`{word}`")), "{path}: {word}");
                flags += 1;
            }
        }
    }
    assert!(flags > 2, "{flags}");
}
