//! What the plugin links: it is started for every pod, so it stays tiny and runs one thread.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::{Ban, Breach};

/// Package of the plugin.
const PLUGIN: &str = "tombolo-cni";

/// Packages that have no business in the plugin; a trailing `*` stands for any ending.
const BANNED: &[(&str, &str)] = &[
    ("kube*", "the plugin knows no Kubernetes API"),
    ("k8s-openapi*", "the plugin knows no Kubernetes API"),
    ("tombolo-api", "the plugin knows no Kubernetes API"),
    ("tombolo-netlink", "the agent does all wiring"),
    ("netlink-*", "the agent does all wiring"),
    ("rtnetlink", "the agent does all wiring"),
    ("aya*", "the agent does all wiring"),
    ("axum*", "the plugin serves nothing"),
    ("rustls*", "the plugin speaks to a unix socket only"),
    ("openssl*", "the plugin speaks to a unix socket only"),
    ("rayon*", "the plugin runs one thread"),
];

/// A package that the plugin links, with its features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linked {
    pub name: String,
    pub features: Vec<String>,
}

/// The plugin's dependency closure, with the features that it asks for itself (a build of the whole workspace unifies
/// them with those of others).
pub fn read(root: &Path) -> anyhow::Result<Vec<Linked>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args([
            "tree",
            "--locked",
            "--package",
            PLUGIN,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p} {f}",
        ])
        .output()
        .context("run cargo tree")?;
    if !output.status.success() {
        bail!(
            "cargo tree failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines `name vX.Y.Z [(where)] [features] [(*)]`, where features are joined by commas.
pub fn parse(text: &str) -> Vec<Linked> {
    let mut all: Vec<Linked> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let features = words
            .skip(1)
            .filter(|word| !word.starts_with('('))
            .flat_map(|word| word.split(','));
        let linked = Linked {
            name: name.to_owned(),
            features: features.map(str::to_owned).collect(),
        };
        if !all.contains(&linked) {
            all.push(linked);
        }
    }
    all
}

/// What is wrong with this closure.
pub fn breaches(linked: &[Linked]) -> Vec<Breach> {
    let breach = |found| Breach {
        place: PLUGIN.to_owned(),
        ban: Ban::PluginLinks,
        found,
    };
    let mut breaches = Vec::new();
    for package in linked {
        for (name, why) in BANNED {
            let matches = match name.strip_suffix('*') {
                Some(start) => package.name.starts_with(start),
                None => package.name == *name,
            };
            if matches {
                breaches.push(breach(format!("links {}: {why}", package.name)));
            }
        }
        if package.name == "tokio"
            && package
                .features
                .iter()
                .any(|feature| feature == "rt-multi-thread")
        {
            breaches.push(breach(
                "links tokio with rt-multi-thread: the plugin runs one thread".to_owned(),
            ));
        }
    }
    breaches
}
