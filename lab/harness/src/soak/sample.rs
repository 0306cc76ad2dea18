//! Counts what there is, with `/proc`, `ip -j`, `nft -j`, `conntrack` and the API: nothing that the product says of itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::check::gather::ip_json;
use crate::kubeapi::Api;
use crate::node::{in_netns, output};
use crate::process::Process;
use crate::state::{Lab, Node};

/// Everything that was counted at one moment, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Pods that had come and gone.
    pub after: usize,
    /// Name of a row (see [`super::judge::ROWS`]) -> count.
    pub counts: BTreeMap<&'static str, u64>,
}

/// Counts everything.
pub async fn take(lab: &Lab, after: usize) -> Result<Sample> {
    let node = &lab.nodes[0];
    let mut counts = BTreeMap::new();
    let agent = node.agent.as_ref().context("the node has no agent")?;
    let operator = lab.services.iter().find(|p| p.name == "operator");
    let operator = operator.context("the lab has no operator")?;
    for (process, names) in [
        (agent, ["agent RSS, KiB", "agent fds", "agent threads"]),
        (
            operator,
            ["operator RSS, KiB", "operator fds", "operator threads"],
        ),
    ] {
        counts.extend(names.into_iter().zip(of_process(process)?));
    }
    counts.extend(files(&node.path("/run/tombolo"))?);
    counts.extend(kernel(node)?);
    let api = Api::new(&lab.api_url)?;
    let endpoints = api.list("/apis/tombolo.dev/v1alpha1/podendpoints").await?;
    counts.insert("PodEndpoints", count(endpoints.len()));
    let enis = api.list("/apis/tombolo.dev/v1alpha1/enis").await?;
    counts.insert("Enis", count(enis.len()));
    Ok(Sample { after, counts })
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Resident memory in KiB, open files, threads.
fn of_process(process: &Process) -> Result<[u64; 3]> {
    let dir = format!("/proc/{}", process.pid);
    let read = |file: &str| {
        fs::read_to_string(format!("{dir}/{file}"))
            .with_context(|| format!("{}: read {dir}/{file}", process.name))
    };
    let status = read("status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("{dir}/status: {name}"))
    };
    let fds = fs::read_dir(format!("{dir}/fd")).with_context(|| format!("list {dir}/fd"))?;
    Ok([field("VmRSS:")?, count(fds.count()), field("Threads:")?])
}

/// Files and bytes below the agent's directory.
fn files(dir: &Path) -> Result<[(&'static str, u64); 2]> {
    let (mut number, mut bytes) = (0, 0);
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry?;
            let meta = entry.metadata()?;
            if meta.is_dir() {
                dirs.push(entry.path());
            } else {
                number += 1;
                bytes += meta.len();
            }
        }
    }
    Ok([("journal files", number), ("journal bytes", bytes)])
}

fn kernel(node: &Node) -> Result<BTreeMap<&'static str, u64>> {
    let netns = node.netns();
    let (mut rules, mut routes, mut neighbours) = (0, 0, 0);
    for family in ["-4", "-6"] {
        rules += ip_json(&netns, &[family, "rule", "show"])?.len();
        routes += ip_json(&netns, &[family, "route", "show", "table", "all"])?.len();
        let all = ip_json(&netns, &[family, "neigh", "show", "nud", "permanent"])?;
        neighbours += all.len();
    }
    let mut nft = in_netns(&netns, "nft");
    nft.args(["-j", "list", "ruleset"]);
    let ruleset: Value = serde_json::from_str(&output(nft)?).context("decode nft's ruleset")?;
    let (objects, elements) = nft_size(&ruleset);
    let mut conntrack = in_netns(&netns, "conntrack");
    conntrack.args(["-L", "-o", "extended"]);
    let connections = output(conntrack)?;
    // Names of pods' addresses: the connections of agent, kubelet and probe are the lab's own.
    let udp = connections.lines().filter(|l| l.contains("dport=9 "));
    Ok(BTreeMap::from([
        ("links", count(ip_json(&netns, &["link", "show"])?.len())),
        ("rules", count(rules)),
        ("routes", count(routes)),
        ("permanent neighbours", count(neighbours)),
        ("nft rules, sets, chains", objects),
        ("nft elements", elements),
        ("connections to pods", count(udp.count())),
    ]))
}

/// Objects of a ruleset, and the elements of its sets and maps.
fn nft_size(ruleset: &Value) -> (u64, u64) {
    let objects = ruleset.get("nftables").and_then(Value::as_array);
    let (mut number, mut elements) = (0, 0);
    for object in objects.into_iter().flatten() {
        number += 1;
        for kind in ["set", "map"] {
            let list = object.pointer(&format!("/{kind}/elem"));
            elements += count(list.and_then(Value::as_array).map_or(0, Vec::len));
        }
    }
    (number, elements)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn elements_of_sets_and_maps_count() {
        let ruleset = json!({"nftables": [
            {"metainfo": {}},
            {"set": {"name": "a", "elem": [1, 2]}},
            {"map": {"name": "b", "elem": [[1, 2]]}},
            {"map": {"name": "empty"}},
        ]});
        assert_eq!(nft_size(&ruleset), (4, 3));
    }

    #[test]
    fn our_own_process_has_memory_files_and_threads() {
        let own = i32::try_from(std::process::id()).unwrap();
        let own = Process::adopt("test", own).unwrap();
        assert!(of_process(&own).unwrap().iter().all(|n| *n > 0));
    }
}
