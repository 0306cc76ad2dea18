//! Keeps the Node's condition NetworkUnavailable, and takes the start-up taint away once pods can be attached. Problems
//! that begin become Events.

use std::sync::Arc;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node as KubeNode;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::time::sleep;
use tombolo_api::{CONDITION_NETWORK_UNAVAILABLE, TAINT_NOT_READY};
use tracing::{info, warn};

use super::{Cluster, RETRY};
use crate::error::chain;
use crate::node::{Problem, Wired};
use crate::steps;

/// Runs as long as the agent.
pub async fn run(cluster: Arc<Cluster>, client: Client) {
    let api: Api<KubeNode> = Api::all(client);
    let ours = watcher::Config::default().fields(&format!("metadata.name={}", cluster.node_name));
    let mut stream = std::pin::pin!(watcher(api.clone(), ours).default_backoff());
    let mut wired = cluster.node.wired.subscribe();
    let mut told: Vec<Problem> = Vec::new();
    let mut seen: Option<KubeNode> = None;
    loop {
        tokio::select! {
            event = stream.try_next() => match event {
                Ok(Some(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => seen = Some(node),
                Ok(Some(watcher::Event::Delete(_))) => seen = None,
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => warn!(error = chain(&error), "watch of the Node interrupted"),
            },
            changed = wired.changed() => if changed.is_err() { return },
        }
        let now = wired.borrow_and_update().clone();
        for problem in now.problems.iter().filter(|p| !told.contains(p)) {
            cluster.events.warn(problem.reason, &problem.message);
        }
        told.clone_from(&now.problems);
        let Some(node) = &seen else { continue };
        if let Err(error) = converge(&api, node, &now).await {
            warn!(error = chain(&error), "the Node could not be written");
            sleep(RETRY).await;
            // Seen through our own channel, so that the loop looks again.
            wired.mark_changed();
        }
    }
}

async fn converge(api: &Api<KubeNode>, node: &KubeNode, wired: &Wired) -> Result<(), kube::Error> {
    let name = node.name_any();
    let problem = wired.problems.iter().find(|p| !p.serving);
    let (status, reason, message) = match problem {
        Some(problem) => ("True", problem.reason.word(), problem.message.as_str()),
        None if wired.plan.is_none() => (
            "True",
            "NotReady",
            "the operator has not yet described this node",
        ),
        None => ("False", "TomboloServes", "pods can be attached"),
    };
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let now = conditions.and_then(|c| c.iter().find(|c| c.type_ == CONDITION_NETWORK_UNAVAILABLE));
    if now.is_none_or(|c| c.status != status || c.reason.as_deref() != Some(reason)) {
        let time = Timestamp::now();
        let condition = json!({
            "type": CONDITION_NETWORK_UNAVAILABLE, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": time, "lastTransitionTime": time,
        });
        let patch = json!({ "status": { "conditions": [condition] } });
        let (params, patch) = (PatchParams::default(), Patch::Strategic(&patch));
        let write = api.patch_status(&name, &params, &patch);
        steps::OBJECT_NODE_CONDITION.during(write).await?;
    }
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
    let tainted = taints.is_some_and(|t| t.iter().any(|t| t.key == TAINT_NOT_READY));
    if tainted && wired.is_ready() {
        let rest: Vec<_> = taints
            .into_iter()
            .flatten()
            .filter(|t| t.key != TAINT_NOT_READY)
            .collect();
        // Against the version that we saw: a taint that somebody else set in between must not be lost.
        let patch = json!({ "metadata": { "resourceVersion": node.resource_version() }, "spec": { "taints": rest } });
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        let write = api.patch(&name, &params, &patch);
        match steps::OBJECT_NODE_TAINT.during(write).await {
            Ok(_) => info!("the start-up taint is removed"),
            // The watch brings the version in between.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
