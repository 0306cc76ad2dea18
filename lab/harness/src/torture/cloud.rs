//! What is done to the cloud: knobs, and other people's hands.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tombolo_lab_vpc::knobs::Knob;

use super::step::Meddling;
use crate::check::gather;
use crate::http::post_unix;
use crate::kubeapi::{Api, text};
use crate::state::Lab;

/// Turns a knob.
pub async fn turn(lab: &Lab, knob: &Knob) -> Result<()> {
    let body = json!({ "knob": knob });
    post_unix(&lab.vpc_socket(), "/lab/v1/SetKnob", &body).await?;
    Ok(())
}

/// All NICs of the nodes; ones that are plugged nowhere are among them.
async fn nics(lab: &Lab) -> Result<Vec<Value>> {
    let all = post_unix(&lab.vpc_socket(), "/v1/DescribeNics", &json!({})).await?;
    let nodes: BTreeSet<&str> = lab.nodes.iter().map(|n| n.instance.as_str()).collect();
    let ours = |nic: &&Value| {
        nodes.contains(text(nic, "/attachment/instance").as_str())
            || text(nic, "/tags/tombolo.dev~1cluster") == lab.topology.name
    };
    let all = all.as_array().context("DescribeNics: not a list")?;
    Ok(all.iter().filter(ours).cloned().collect())
}

fn addresses(nic: &Value) -> impl Iterator<Item = &str> {
    let list = nic.get("secondary").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// Somebody else's hand. What the cloud refuses does not happen. Knobs are no obstacle to it, but to our look at what
/// there is: a look that they spoil leads to nothing.
pub async fn meddle(lab: &Lab, what: Meddling, nth: usize, to: usize) -> Result<()> {
    let Ok(nics) = nics(lab).await else {
        return Ok(());
    };
    let made: Vec<&Value> = nics.iter().filter(|nic| !is_primary(nic)).collect();
    let (verb, body) = match what {
        Meddling::TakeAddress | Meddling::MoveAddress => {
            let all: Vec<&str> = nics.iter().flat_map(addresses).collect();
            let (Some(address), Some(to)) = (pick(&all, nth), pick(&nics, to)) else {
                return Ok(());
            };
            if what == Meddling::TakeAddress {
                ("TakeAddress", json!({ "address": address }))
            } else {
                let to = text(to, "/id");
                ("MoveAddress", json!({ "address": address, "to": to }))
            }
        }
        Meddling::DetachNic | Meddling::DeleteNic => {
            let Some(nic) = pick(&made, nth) else {
                return Ok(());
            };
            let verb = if what == Meddling::DetachNic {
                "ForceDetach"
            } else {
                "VanishNic"
            };
            (verb, json!({ "nic": text(nic, "/id") }))
        }
    };
    let outcome = post_unix(&lab.vpc_socket(), &format!("/lab/v1/{verb}"), &body).await;
    tracing::info!(verb, %body, done = outcome.is_ok(), "somebody else's hand");
    match outcome {
        Err(error) if !format!("{error:#}").contains("HTTP 4") => Err(error),
        _ => Ok(()),
    }
}

/// Leaves one of our NICs out of what the cloud shows.
pub async fn hide_nic(lab: &Lab, nth: usize, replies: u32) -> Result<()> {
    let nics = nics(lab).await.unwrap_or_default();
    let Some(nic) = pick(&nics, nth) else {
        return Ok(());
    };
    let what = text(nic, "/id");
    turn(lab, &Knob::Hide { what, replies }).await
}

/// Names of pods that will not run as they should: those that hold an address which the NIC that they have it from has not any
/// more, and those that were refused because an earlier pod of a full node was still ending. Only for use while no knob is
/// turned. An address is in the cloud before a pod can have it, so pods and pools are read first.
pub async fn lost_pods(lab: &Lab, api: &Api) -> Result<Vec<String>> {
    let pods = api.list("/api/v1/namespaces/default/pods").await?;
    let mut pools = BTreeMap::new();
    for node in &lab.nodes {
        // One that is just starting tells the next time.
        if let Ok(pool) = gather::pool(node).await {
            pools.insert(node.instance.as_str(), pool);
        }
    }
    let nics = nics(lab).await?;
    let mut lost = Vec::new();
    for pod in &pods {
        let node = text(pod, "/spec/nodeName");
        let Ok(node) = lab.node(&node) else { continue };
        let pool = pools.get(node.instance.as_str());
        let elsewhere = |nic: &str, ip: &str| {
            let entry = pool
                .zip(ip.parse().ok())
                .and_then(|(pool, ip)| pool.get(&ip));
            entry.is_some_and(|(from, ..)| from != nic)
        };
        let has: BTreeSet<&str> = nics
            .iter()
            .filter(|nic| text(nic, "/attachment/instance") == node.instance)
            .flat_map(|nic| {
                let id = text(nic, "/id");
                addresses(nic).filter(move |ip| !elsewhere(&id, ip))
            })
            .collect();
        let ips = pod.pointer("/status/podIPs").and_then(Value::as_array);
        let mut ips = ips.into_iter().flatten().map(|ip| text(ip, "/ip"));
        let refused = text(pod, "/status/reason") == "OutOfpods";
        if refused || ips.any(|ip| !has.contains(ip.as_str())) {
            lost.push(text(pod, "/metadata/name"));
        }
    }
    Ok(lost)
}

fn is_primary(nic: &Value) -> bool {
    nic.pointer("/attachment/device_index")
        .and_then(Value::as_u64)
        == Some(0)
}

fn pick<T>(from: &[T], nth: usize) -> Option<&T> {
    from.get(nth.checked_rem(from.len())?)
}
