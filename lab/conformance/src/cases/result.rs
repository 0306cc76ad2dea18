//! The result of ADD beside what `ip` says of the pod and of the host.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::shape::{has, list};
use crate::case::{Case, Tier, case};
use crate::rig::Pod;
use crate::stage::Stage;
use crate::tools::ip_json;

use Tier::Netns;

pub const CASES: &[Case] = &[
    case(
        Netns,
        "the_pods_interface_is_as_told",
        &["20a", "21f"],
        interface,
    ),
    case(
        Netns,
        "interfaces_of_the_host_have_no_sandbox_and_are_there",
        &["20b"],
        host,
    ),
    case(Netns, "addresses_are_as_told", &["20c", "20i"], addresses),
    case(
        Netns,
        "the_index_leads_to_the_pods_interface",
        &["20d"],
        index,
    ),
    case(Netns, "routes_are_as_told", &["20e"], routes),
    case(Netns, "the_mtu_is_as_told", &["20f"], mtu),
    case(Netns, "an_empty_dns_is_left_out", &["20g"], dns),
    case(Netns, "names_of_interfaces_are_unique", &["21e"], unique),
];

/// The pod's entry, and its index.
fn pods_entry<'a>(result: &'a Value, pod: &Pod) -> Result<(usize, &'a Value)> {
    let sandbox = pod.path.to_string_lossy();
    let ours = |entry: &&Value| entry["name"] == "eth0" && entry["sandbox"] == *sandbox;
    let mut entries = list(result, "interfaces").iter().enumerate();
    let found = entries.find(|(_, entry)| ours(entry));
    found.with_context(|| format!("no eth0 with sandbox {sandbox:?} in {result}"))
}

/// ADD, a look at it, DEL.
fn look(stage: &Stage<'_>, judge: impl FnOnce(&Value, &Pod) -> Result<()>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let judged = judge(&result, &pod);
    stage.del(&pod, &result)?;
    judged
}

fn is_mac(text: &str) -> bool {
    let octet = |part: &str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
    text.split(':').count() == 6 && text.split(':').all(octet)
}

fn interface(stage: &mut Stage<'_>) -> Result<()> {
    look(stage, |result, pod| {
        let (_, entry) = pods_entry(result, pod)?;
        let link = pod.eth0()?;
        ensure!(entry["mac"] == link["address"], "{entry}, but {link}");
        for entry in list(result, "interfaces") {
            if let Some(mac) = entry.get("mac") {
                ensure!(mac.as_str().is_some_and(is_mac), "mac {mac} in {entry}");
            }
        }
        Ok(())
    })
}

fn host(stage: &mut Stage<'_>) -> Result<()> {
    let node = stage.rig.fabric()?.node();
    look(stage, |result, pod| {
        let (own, _) = pods_entry(result, pod)?;
        let links = ip_json(&node, "link show")?;
        for (index, entry) in list(result, "interfaces").iter().enumerate() {
            if index == own {
                continue;
            }
            let sandbox = entry
                .get("sandbox")
                .and_then(Value::as_str)
                .unwrap_or_default();
            ensure!(sandbox.is_empty(), "sandbox in {entry}");
            let link = links.iter().find(|link| link["ifname"] == entry["name"]);
            let link = link.with_context(|| format!("{entry} is not on the host"))?;
            ensure!(link["address"] == entry["mac"], "{entry}, but {link}");
        }
        Ok(())
    })
}

fn addresses(stage: &mut Stage<'_>) -> Result<()> {
    look(stage, |result, pod| {
        let (own, _) = pods_entry(result, pod)?;
        let mut told = BTreeSet::new();
        for ip in list(result, "ips") {
            let address = ip["address"].as_str().context("no address")?;
            let ours = ip["interface"].as_u64() == u64::try_from(own).ok();
            ensure!(ours, "{ip} is of another interface");
            if let Some(gateway) = ip.get("gateway") {
                let gateway: std::net::IpAddr = gateway.as_str().unwrap_or_default().parse()?;
                ensure!(gateway.is_ipv6() == address.contains(':'), "{ip}");
            }
            told.insert(address.to_owned());
        }
        let there = pod.addresses()?;
        ensure!(told == there, "told {told:?}, there {there:?}");
        ensure!(!told.is_empty(), "no address");
        Ok(())
    })
}

fn index(stage: &mut Stage<'_>) -> Result<()> {
    look(stage, |result, pod| {
        let (own, _) = pods_entry(result, pod)?;
        for ip in list(result, "ips") {
            ensure!(
                ip["interface"].as_u64() == u64::try_from(own).ok(),
                "{ip}, but eth0 is {own}"
            );
        }
        Ok(())
    })
}

fn routes(stage: &mut Stage<'_>) -> Result<()> {
    look(stage, |result, pod| {
        let there = pod.routes()?;
        ensure!(!list(result, "routes").is_empty(), "no routes in {result}");
        for route in list(result, "routes") {
            let dst = route["dst"].as_str().context("no dst")?;
            let gateway = route["gw"].as_str();
            let same = |(its, via): &(String, Option<String>)| {
                its == dst && (gateway.is_none() || via.as_deref() == gateway)
            };
            ensure!(there.iter().any(same), "{route} is not among {there:?}");
        }
        Ok(())
    })
}

fn mtu(stage: &mut Stage<'_>) -> Result<()> {
    look(stage, |result, pod| {
        let (_, entry) = pods_entry(result, pod)?;
        let link = pod.eth0()?;
        if let Some(mtu) = entry.get("mtu") {
            ensure!(*mtu == link["mtu"], "{entry}, but {link}");
        }
        Ok(())
    })
}

fn dns(stage: &mut Stage<'_>) -> Result<()> {
    look(stage, |result, _| {
        let empty = result["dns"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty);
        ensure!(!has(result, "dns") || !empty, "{result}");
        Ok(())
    })
}

fn unique(stage: &mut Stage<'_>) -> Result<()> {
    look(stage, |result, _| {
        let mut names = BTreeSet::new();
        for entry in list(result, "interfaces") {
            let name = entry["name"].as_str().context("no name")?;
            ensure!(names.insert(name), "{name} twice in {result}");
        }
        Ok(())
    })
}
