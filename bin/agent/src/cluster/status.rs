//! Writes what the operator needs of us: demand, addresses in use, answers about marked addresses; and our `Ready`.
//!
//! Changes wait a moment for others, but not those that somebody waits for: an ADD without address, an answer to a mark.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::sleep;
use tombolo_api::{
    AgentStatus, CONDITION_READY, DemandStatus, NetResourceSet, ReleaseAnswer, merge,
};
use tombolo_core::ipam::AddressState;
use tracing::warn;

use super::client::resource;
use super::{Cluster, RETRY};
use crate::error::{Error, chain};
use crate::http::word;
use crate::steps;

/// Runs as long as the agent.
pub async fn run(cluster: Arc<Cluster>, client: Client) {
    let api: Api<DynamicObject> = Api::all_with(client, &resource::<NetResourceSet>());
    let node = &cluster.node;
    let (mut pool, mut wired, mut object) = (
        node.pool.version(),
        node.wired.subscribe(),
        cluster.object.subscribe(),
    );
    let mut urgent_before = Urgent::default();
    loop {
        pool.mark_unchanged();
        wired.mark_unchanged();
        object.mark_unchanged();
        match write(&cluster, &api).await {
            Ok(()) => {
                let pause = sleep(node.config.status_debounce);
                let changed = async {
                    tokio::select! {
                        changed = pool.changed() => changed.is_ok(),
                        changed = wired.changed() => changed.is_ok(),
                        changed = object.changed() => changed.is_ok(),
                    }
                };
                if !changed.await {
                    return;
                }
                let urgent = Urgent::of(&cluster).await;
                if urgent == urgent_before {
                    pause.await;
                }
                urgent_before = Urgent::of(&cluster).await;
            }
            Err(error) => {
                warn!(error, "the status could not be written");
                sleep(RETRY).await;
            }
        }
    }
}

/// What somebody waits for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Urgent {
    waiting: u32,
    answers: BTreeMap<String, ReleaseAnswer>,
    nics: usize,
    /// The operator tells the Node, and pods are scheduled by that.
    ready: bool,
}

impl Urgent {
    async fn of(cluster: &Cluster) -> Self {
        let Ok(snapshot) = cluster.node.pool.snapshot().await else {
            return Self::default();
        };
        Self {
            waiting: snapshot
                .counts
                .values()
                .map(|c| c.waiting)
                .max()
                .unwrap_or_default(),
            answers: answers(&snapshot.consents),
            nics: cluster.node.wired.borrow().nics.len(),
            ready: cluster.node.wired.borrow().is_ready(),
        }
    }
}

fn answers(consents: &BTreeMap<std::net::IpAddr, bool>) -> BTreeMap<String, ReleaseAnswer> {
    let answer = |yes: bool| {
        if yes {
            ReleaseAnswer::Ready
        } else {
            ReleaseAnswer::Refused
        }
    };
    consents
        .iter()
        .map(|(ip, yes)| (ip.to_string(), answer(*yes)))
        .collect()
}

/// Writes the difference between what we want to say and what the object says; nothing where there is none.
async fn write(cluster: &Cluster, api: &Api<DynamicObject>) -> Result<(), String> {
    let Some(object) = cluster.object.borrow().clone() else {
        return Ok(());
    };
    let before = object
        .get("status")
        .filter(|s| !s.is_null())
        .cloned()
        .unwrap_or_else(|| json!({}));
    let agent = agent_status(cluster).await.map_err(|e| e.chain())?;
    let now = before
        .get("conditions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    // Only ours is replaced, whatever else a newer operator writes there.
    let mut wanted = before.clone();
    wanted["agent"] = serde_json::to_value(agent).map_err(|e| chain(&e))?;
    wanted["conditions"] = Value::Array(conditions(cluster, now).map_err(|e| chain(&e))?);
    let Some(change) = merge::diff(&before, &wanted) else {
        return Ok(());
    };
    // Against the version that we saw: a write of the operator in between must not be undone.
    let version = object
        .pointer("/metadata/resourceVersion")
        .cloned()
        .unwrap_or_default();
    let patch = json!({ "metadata": { "resourceVersion": version }, "status": change });
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let write = api.patch_status(&cluster.node_name, &params, &patch);
    match steps::OBJECT_STATUS.during(write).await {
        Ok(written) => {
            let written = serde_json::to_value(written).map_err(|e| chain(&e))?;
            // The watch brings it, too; the next write must not wait for that.
            cluster
                .object
                .send_if_modified(|object| replace_if_newer(object, written));
            Ok(())
        }
        // Somebody wrote in between: the watch brings that version, and we look again. Or the object is gone.
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(()),
        Err(error) => Err(chain(&error)),
    }
}

/// Resource versions of one server rise; those that are no numbers are left to the watch.
fn replace_if_newer(object: &mut Option<Arc<Value>>, written: Value) -> bool {
    let version = |value: &Value| {
        value
            .pointer("/metadata/resourceVersion")?
            .as_str()?
            .parse::<u64>()
            .ok()
    };
    let newer = object.as_deref().and_then(version) < version(&written);
    if newer {
        *object = Some(Arc::new(written));
    }
    newer
}

async fn agent_status(cluster: &Cluster) -> Result<AgentStatus, Error> {
    // The generation first: answers may be newer than the spec that they are said to be about, never older.
    let wired = cluster.node.wired.borrow().clone();
    let snapshot = cluster.node.pool.snapshot().await?;
    let in_use = |(_, state): &(_, AddressState)| {
        matches!(
            state,
            AddressState::Bound(_) | AddressState::Draining(_) | AddressState::Cooling { .. }
        )
    };
    let sum =
        |count: fn(&tombolo_core::ipam::Counts) -> u32| snapshot.counts.values().map(count).sum();
    Ok(AgentStatus {
        observed_generation: wired.plan.as_ref().map_or(0, |plan| plan.generation),
        nics: u32::try_from(wired.nics.len()).unwrap_or(u32::MAX),
        used: sum(|c| c.bound),
        total: sum(|c| c.total),
        demand: snapshot
            .demand
            .iter()
            .map(|(family, demand)| {
                (
                    family.to_string(),
                    DemandStatus {
                        low: demand.low,
                        high: demand.high,
                    },
                )
            })
            .collect(),
        in_use: snapshot
            .addresses
            .iter()
            .filter(|(_, entry)| in_use(entry))
            .map(|(ip, (_, state))| (ip.to_string(), word(state).0.to_owned()))
            .collect(),
        releasable: snapshot
            .releasable
            .iter()
            .map(|address| address.ip.to_string())
            .collect(),
        release: answers(&snapshot.consents),
    })
}

/// All conditions as they are, ours as it should be.
fn conditions(cluster: &Cluster, mut now: Vec<Value>) -> Result<Vec<Value>, serde_json::Error> {
    let wired = cluster.node.wired.borrow().clone();
    let problem = wired
        .problems
        .iter()
        .find(|p| !p.serving)
        .or_else(|| wired.problems.first());
    let (status, reason, message) = match problem {
        _ if wired.plan.is_none() => (
            "False",
            "NotReady",
            "the operator has not yet described this node".to_owned(),
        ),
        Some(problem) if problem.serving => {
            ("True", problem.reason.word(), problem.message.clone())
        }
        Some(problem) => ("False", problem.reason.word(), problem.message.clone()),
        None => ("True", "Serving", "pods can be attached".to_owned()),
    };
    let is_ours = |condition: &Value| condition["type"] == CONDITION_READY;
    let old = now.iter().position(is_ours);
    let since = old.map(|at| &now[at]).filter(|old| old["status"] == status);
    let since =
        since.and_then(|old| serde_json::from_value(old["lastTransitionTime"].clone()).ok());
    let ours = serde_json::to_value(Condition {
        type_: CONDITION_READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: since.unwrap_or_else(|| Time(Timestamp::now())),
        observed_generation: wired.plan.as_ref().map(|plan| plan.generation),
    })?;
    match old {
        Some(at) => now[at] = ours,
        None => now.push(ours),
    }
    Ok(now)
}
