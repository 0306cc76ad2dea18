//! What there is on a node, as a set of lines, so that before and after can be compared.
//!
//! Left out is what changes by itself or may stay by design: neighbours that the kernel learned, addresses of the link alone,
//! counters, handles, chains of iptables, the files in which host-local remembers its last address and which it locks.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::tools::{ip_json_batch, run_inside};

/// What `ip` is asked, for each family.
const LISTS: [&str; 5] = [
    "link show",
    "address show",
    "route show table all",
    "rule show",
    "neigh show nud permanent",
];

/// The lines.
pub type Snapshot = BTreeSet<String>;

/// What is on the node and below the directory.
///
/// # Errors
/// Where it cannot be asked.
pub fn snapshot(node: &Path, dir: &Path) -> Result<Snapshot> {
    let mut lines = Snapshot::new();
    for family in ["-4", "-6"] {
        let lists = ip_json_batch(node, family, &LISTS)?;
        let [links, addresses, routes, rules, neighbours] = lists.as_slice() else {
            bail!("ip {family} printed {} lists", lists.len());
        };
        lines.extend(links.iter().map(|link| format!("link {}", link["ifname"])));
        for link in addresses {
            for info in link["addr_info"].as_array().into_iter().flatten() {
                if info["scope"] != "link" {
                    let (local, length) = (&info["local"], &info["prefixlen"]);
                    lines.insert(format!("address {local}/{length} of {}", link["ifname"]));
                }
            }
        }
        for route in routes {
            // Each link has a route of its own to its link addresses and to multicast, as long as it is up.
            let dst = route["dst"].as_str().unwrap_or_default();
            if !dst.starts_with("fe80:") && !dst.starts_with("ff00:") {
                let field = |name: &str| format!(" {name} {}", route[name]);
                let fields = ["type", "dst", "gateway", "dev", "table"].map(field);
                lines.insert(format!("route {family}{}", fields.concat()));
            }
        }
        lines.extend(rules.iter().map(|rule| format!("rule {family} {rule}")));
        for neighbour in neighbours {
            lines.insert(format!(
                "neighbour {} {}",
                neighbour["dst"], neighbour["dev"]
            ));
        }
    }
    let text = run_inside(node, "nft", "-j list ruleset")?;
    let ruleset: Value = serde_json::from_str(&text).context("nft -j list ruleset")?;
    for mut object in ruleset["nftables"].as_array().cloned().unwrap_or_default() {
        let elements = take_elements(&mut object);
        lines.extend(elements);
        forget(&mut object);
        if !is_iptables(&object) {
            lines.insert(format!("nft {object}"));
        }
    }
    files(dir, dir, &mut lines)?;
    Ok(lines)
}

/// What iptables makes belongs to Debian's chained plugins, which keep chains for the next container.
fn is_iptables(object: &Value) -> bool {
    ["table", "chain", "rule"].iter().any(|kind| {
        let table = if *kind == "table" { "name" } else { "table" };
        matches!(object[kind][table].as_str(), Some("nat" | "filter"))
    })
}

/// Elements one by one: their order means nothing.
fn take_elements(object: &mut Value) -> Vec<String> {
    let mut lines = Vec::new();
    for kind in ["set", "map"] {
        let name = object[kind]["name"].clone();
        if let Some(elements) = object.get_mut(kind).and_then(|set| set.get_mut("elem")) {
            let taken = elements.take();
            for mut element in taken.as_array().cloned().unwrap_or_default() {
                forget(&mut element);
                lines.push(format!("nft element of {name}: {element}"));
            }
        }
    }
    lines
}

/// Removes what counts.
fn forget(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in ["handle", "packets", "bytes", "elem", "expires", "metainfo"] {
                fields.remove(name);
            }
            fields.values_mut().for_each(forget);
        }
        Value::Array(values) => values.iter_mut().for_each(forget),
        _ => {}
    }
}

fn files(root: &Path, dir: &Path, lines: &mut Snapshot) -> Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("list {}", dir.display()))?,
    };
    for entry in entries {
        let path = entry
            .with_context(|| format!("list {}", dir.display()))?
            .path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && !(dir == root && name == "bin") {
            files(root, &path, lines)?;
        } else if path.is_file() && name != "lock" && !name.starts_with("last_reserved_ip") {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            lines.insert(format!("file {}", relative.display()));
        }
    }
    Ok(())
}

/// Whether our agent still has something on record: an attachment, or one that is being taken apart.
#[must_use]
pub fn has_records(snapshot: &Snapshot) -> bool {
    let mut lines = snapshot.iter();
    lines.any(|line| line.starts_with("file run/journal/"))
}

/// The difference, for people; empty where there is none.
#[must_use]
pub fn difference(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let gone = before.difference(after).map(|line| format!("gone: {line}"));
    let left = after.difference(before).map(|line| format!("left: {line}"));
    gone.chain(left).collect()
}
