//! The scheduler: gives each pending pod the ready node with the fewest pods that takes it.
//!
//! Looked at: `nodeSelector`, taints and tolerations (NoSchedule and NoExecute), `unschedulable`, the node's Ready condition,
//! `status.allocatable.pods`, `schedulingGates`. Not looked at: resources, affinity, topology spread, priorities.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::{Api, WriteOptions, set_condition};
use crate::object::{self, list, stamp, text};
use crate::registry::Resource;
use crate::table::condition;

const NAME: &str = "default-scheduler";

/// Runs until dropped.
pub async fn run(api: Arc<Api>) {
    let mut pods = api.store.signal(&Arc::from("pods"));
    let mut nodes = api.store.signal(&Arc::from("nodes"));
    loop {
        pods.mark_unchanged();
        nodes.mark_unchanged();
        schedule(&api);
        tokio::select! {
            r = pods.changed() => if r.is_err() { return },
            r = nodes.changed() => if r.is_err() { return },
        }
    }
}

/// A node that pods may go to.
struct Candidate {
    node: Arc<Value>,
    pods: usize,
}

/// One pass over all pending pods, oldest first.
fn schedule(api: &Api) {
    let Some(res) = api.registry().find("", "v1", "pods") else {
        return;
    };
    let (pods, nodes) = api.store.tx(|s| (s.list("pods", ""), s.list("nodes", "")));
    let mut pending: Vec<&Arc<Value>> = pods.iter().filter(|p| is_pending(p)).collect();
    if pending.is_empty() {
        return;
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods.iter().filter(|p| !is_over(p)) {
        *counts.entry(text(pod, "/spec/nodeName")).or_default() += 1;
    }
    let mut candidates: Vec<Candidate> = nodes
        .iter()
        .map(|node| Candidate {
            pods: counts.get(object::name(node)).copied().unwrap_or(0),
            node: node.clone(),
        })
        .collect();
    pending.sort_by_key(|p| {
        let version = object::version(p).parse::<u64>().unwrap_or(0);
        (text(p, "/metadata/creationTimestamp"), version)
    });
    for pod in pending {
        place(api, &res, pod, &mut candidates);
    }
}

fn is_pending(pod: &Value) -> bool {
    let scheduler = text(pod, "/spec/schedulerName");
    text(pod, "/spec/nodeName").is_empty()
        && !object::deleting(pod)
        && !is_over(pod)
        && (scheduler.is_empty() || scheduler == NAME)
        && list(pod, "/spec/schedulingGates").is_empty()
}

fn is_over(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn place(api: &Api, res: &Resource, pod: &Value, candidates: &mut [Candidate]) {
    let total = candidates.len();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<&mut Candidate> = None;
    for candidate in candidates {
        match refusal(pod, candidate) {
            Some(reason) => *reasons.entry(reason).or_default() += 1,
            // On a tie the earlier name stays.
            None if best.as_ref().is_none_or(|b| candidate.pods < b.pods) => best = Some(candidate),
            None => {}
        }
    }
    let at = (object::namespace(pod), object::name(pod));
    let Some(best) = best else {
        return report(api, res, pod, total, &reasons);
    };
    let node = object::name(&best.node).to_owned();
    match api.bind(res, at, &json!({"target": {"kind": "Node", "name": node}})) {
        Ok(()) => {
            best.pods += 1;
            let message = format!("Successfully assigned {}/{} to {node}", at.0, at.1);
            event(api, pod, "Normal", "Scheduled", &message);
        }
        // It changed or went meanwhile; the next pass sees that.
        Err(error) => tracing::debug!(%error, pod = at.1, "could not bind"),
    }
}

/// Why a node does not take a pod.
fn refusal(pod: &Value, candidate: &Candidate) -> Option<String> {
    let node = &candidate.node;
    if condition(node, "Ready") != "True" {
        return Some("node(s) were not ready".to_owned());
    }
    if node.pointer("/spec/unschedulable") == Some(&json!(true)) {
        return Some("node(s) were unschedulable".to_owned());
    }
    let labels = node.pointer("/metadata/labels");
    let wanted = pod.pointer("/spec/nodeSelector").and_then(Value::as_object);
    let selected = wanted
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value));
    if !selected {
        return Some("node(s) didn't match Pod's node selector".to_owned());
    }
    let tolerations = list(pod, "/spec/tolerations");
    let untolerated = list(node, "/spec/taints").iter().find(|taint| {
        matches!(text(taint, "/effect"), "NoSchedule" | "NoExecute")
            && !tolerations.iter().any(|t| tolerates(t, taint))
    });
    if let Some(taint) = untolerated {
        let (key, value) = (text(taint, "/key"), text(taint, "/value"));
        return Some(format!(
            "node(s) had taint {{{key}: {value}}}, that the pod didn't tolerate"
        ));
    }
    let room = match node.pointer("/status/allocatable/pods") {
        Some(Value::String(n)) => n.parse().ok(),
        Some(n) => n.as_u64().and_then(|n| usize::try_from(n).ok()),
        None => None,
    };
    if room.is_some_and(|room| candidate.pods >= room) {
        return Some("Too many pods".to_owned());
    }
    None
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let (effect, key) = (text(toleration, "/effect"), text(toleration, "/key"));
    let exists = text(toleration, "/operator") == "Exists";
    (effect.is_empty() || effect == text(taint, "/effect"))
        && (key == text(taint, "/key") || (key.is_empty() && exists))
        && (exists || text(toleration, "/value") == text(taint, "/value"))
}

/// Says on the pod why no node takes it, once for each different answer.
fn report(api: &Api, res: &Resource, pod: &Value, total: usize, reasons: &BTreeMap<String, usize>) {
    let mut parts: Vec<String> = reasons
        .iter()
        .map(|(why, n)| format!("{n} {why}"))
        .collect();
    parts.sort();
    let mut message = format!("0/{total} nodes are available");
    if !parts.is_empty() {
        message = format!("{message}: {}", parts.join(", "));
    }
    message.push('.');
    let told = list(pod, "/status/conditions")
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["message"] == message.as_str());
    if told {
        return;
    }
    let key = crate::api::key(res, object::namespace(pod), object::name(pod));
    let stored = api.store.tx(|s| {
        let mut current = (*s.get(&key)?).clone();
        if !is_pending(&current) {
            return None;
        }
        set_condition(
            &mut current,
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}),
        );
        Some(s.put(&key, current))
    });
    if stored.is_some() {
        event(api, pod, "Warning", "FailedScheduling", &message);
    }
}

fn event(api: &Api, pod: &Value, kind: &str, reason: &str, message: &str) {
    let Some(res) = api.registry().find("", "v1", "events") else {
        return;
    };
    let now = stamp(jiff::Timestamp::now());
    let namespace = object::namespace(pod);
    let body = json!({
        "metadata": {"generateName": format!("{}.", object::name(pod))},
        "involvedObject": {
            "kind": "Pod", "apiVersion": "v1", "namespace": namespace,
            "name": object::name(pod), "uid": object::uid(pod),
        },
        "type": kind, "reason": reason, "message": message, "source": {"component": NAME},
        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
    });
    if let Err(error) = api.create(&res, namespace, body, WriteOptions::default()) {
        tracing::debug!(%error, "could not store an event");
    }
}

#[cfg(test)]
mod tests;
