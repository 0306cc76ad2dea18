//! Host ports as text: from the journal's files, and from what `nft -j` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::snapshot::KernelView;
use crate::kubeapi::text;
use crate::node::{in_netns, output};

/// What an entry of the journal asks for.
pub fn of_journal(entry: &Value) -> Result<BTreeMap<String, String>> {
    let mut ports = BTreeMap::new();
    let list = |pointer| {
        entry
            .pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    for mapping in list("/host_ports") {
        let given = text(mapping, "/host_ip");
        for address in list("/addresses") {
            let ip: IpAddr = text(address, "/ip").parse().context("address")?;
            let family = if ip.is_ipv4() { "4" } else { "6" };
            let host = match given.parse::<IpAddr>() {
                Err(_none) => format!("any{family}"),
                Ok(host) if host.is_ipv4() != ip.is_ipv4() => continue,
                Ok(host) if host.is_unspecified() => format!("any{family}"),
                Ok(host) => host.to_string(),
            };
            let protocol = text(mapping, "/protocol");
            let from = format!("{host} {protocol} {}", mapping["host_port"]);
            ports.insert(from, format!("{ip} {}", mapping["container_port"]));
        }
    }
    Ok(ports)
}

/// What the kernel holds.
pub fn of_kernel(netns: &str, view: &mut KernelView) -> Result<()> {
    for (map, prefix) in [
        ("ports4", "any4 "),
        ("ports6", "any6 "),
        ("ports4at", ""),
        ("ports6at", ""),
    ] {
        for element in elements(netns, "map", map)? {
            let (Some(from), Some(to)) = (element.get(0), element.get(1)) else {
                bail!("map {map}: element {element}")
            };
            let from = format!("{prefix}{}", words(from)?);
            view.host_ports.insert(from, words(to)?);
        }
    }
    let mut hairpins = BTreeSet::new();
    for set in ["self4", "self6"] {
        for element in elements(netns, "set", set)? {
            hairpins.insert(words(&element)?);
        }
    }
    view.hairpins = hairpins;
    Ok(())
}

fn elements(netns: &str, kind: &str, name: &str) -> Result<Vec<Value>> {
    let mut command = in_netns(netns, "nft");
    command.args(["-j", "list", kind, "inet", "tombolo-hostports", name]);
    let value: Value = serde_json::from_str(&output(command)?)
        .with_context(|| format!("decode nft {kind} {name}"))?;
    let objects = value.pointer("/nftables").and_then(Value::as_array);
    let lists = objects.into_iter().flatten();
    let lists = lists.filter_map(|object| object.pointer(&format!("/{kind}/elem")));
    Ok(lists
        .filter_map(Value::as_array)
        .flatten()
        .cloned()
        .collect())
}

/// The parts of a concatenation.
fn words(value: &Value) -> Result<String> {
    let parts = value.get("concat").and_then(Value::as_array);
    let parts = parts.with_context(|| format!("no concatenation: {value}"))?;
    let word = |part: &Value| {
        part.as_str()
            .map_or_else(|| part.to_string(), str::to_owned)
    };
    Ok(parts.iter().map(word).collect::<Vec<_>>().join(" "))
}
