//! Direction of dependencies between the workspace's packages, by the folder in which each lies.

use std::path::Path;

use anyhow::Context;
use cargo_metadata::{DependencyKind, MetadataCommand};

use super::{Ban, Breach};

/// Edges that may know another edge: whatever two of them share belongs into core. A failpoint ends the process, which
/// core must not, and speaks to no outside system.
const EDGE_TO_EDGE: &[(&str, &str)] = &[
    ("edge/netlink", "edge/failpoint"),
    ("edge/cni-dir", "edge/failpoint"),
];

/// What any package may use in its tests, and none otherwise.
const TEST_TOOL: &str = "fuzz";

/// A dependency of one workspace package on another, whatever its kind (but for tests on [`TEST_TOOL`]); folders relative to
/// the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    pub from: String,
    pub to: String,
}

/// All dependencies inside the workspace at `root`.
pub fn read(root: &Path) -> anyhow::Result<Vec<Edge>> {
    let metadata = MetadataCommand::new()
        .current_dir(root)
        .no_deps()
        .other_options(vec!["--locked".to_owned()])
        .exec()
        .context("run cargo metadata")?;
    let folder = |path: &Path| {
        path.strip_prefix(root)
            .map(|below| below.display().to_string())
    };
    let mut edges = Vec::new();
    for package in &metadata.packages {
        let manifest = package.manifest_path.as_std_path();
        let from = folder(manifest.parent().context("a manifest has a folder")?)?;
        for dependency in &package.dependencies {
            if let Some(path) = &dependency.path {
                let to = folder(path.as_std_path())?;
                if to == TEST_TOOL && dependency.kind == DependencyKind::Development {
                    continue;
                }
                edges.push(Edge {
                    from: from.clone(),
                    to,
                });
            }
        }
    }
    edges.sort();
    edges.dedup();
    Ok(edges)
}

/// What is wrong with these dependencies.
pub fn breaches(edges: &[Edge]) -> Vec<Breach> {
    edges
        .iter()
        .filter_map(|edge| {
            let (from, to) = (tier(&edge.from), tier(&edge.to));
            let ban = match (from, to) {
                ("lab" | "bench" | "e2e", _) => return None,
                (_, "lab" | "bench" | "model" | "e2e") => Ban::Lab,
                // The model explores decisions, so it may know nothing but them.
                ("edge" | "model", "core") | ("bin" | "xtask" | "fuzz", "edge" | "core") => {
                    return None;
                }
                ("edge", "edge")
                    if EDGE_TO_EDGE.contains(&(edge.from.as_str(), edge.to.as_str())) =>
                {
                    return None;
                }
                _ => Ban::Tiers,
            };
            Some(Breach {
                place: edge.from.clone(),
                ban,
                found: format!("depends on {}", edge.to),
            })
        })
        .collect()
}

/// The first part of a folder.
fn tier(folder: &str) -> &str {
    folder.split('/').next().unwrap_or(folder)
}
