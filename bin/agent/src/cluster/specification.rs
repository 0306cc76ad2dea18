//! Follows our NetResourceSet. An object that cannot be decoded changes nothing: the last good one stays in force, and the
//! reason is reported once.

use std::sync::Arc;

use futures::TryStreamExt as _;
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde_json::Value;
use tombolo_api::{CONDITION_READY, NetResourceSet, NetResourceSetSpec, WatchBackoff};
use tombolo_core::types::Reason;
use tracing::{error, warn};

use super::Cluster;
use super::client::resource;
use crate::error::chain;
use crate::node::Shortage;

/// Runs as long as the agent.
pub async fn run(cluster: Arc<Cluster>, client: Client) {
    let api: Api<DynamicObject> = Api::all_with(client, &resource::<NetResourceSet>());
    let ours = watcher::Config::default().fields(&format!("metadata.name={}", cluster.node_name));
    let mut stream = std::pin::pin!(watcher(api, ours).backoff(WatchBackoff::default()));
    let mut told = None;
    loop {
        match stream.try_next().await {
            Ok(Some(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => {
                let problem = take(&cluster, object).await.err();
                if let Some((reason, message)) = &problem
                    && told != problem
                {
                    error!(%reason, message, "the NetResourceSet is not taken as it is");
                    cluster.node.metrics.failed("specification", *reason);
                    cluster.events.warn(*reason, message);
                }
                told = problem;
            }
            // Without its object the node goes on with what it has: the operator makes the object again.
            Ok(Some(watcher::Event::Delete(_))) => drop(cluster.object.send_replace(None)),
            Ok(Some(watcher::Event::Init | watcher::Event::InitDone)) => {}
            Ok(None) => return,
            Err(error) => warn!(
                error = chain(&error),
                "watch of the NetResourceSet interrupted"
            ),
        }
    }
}

async fn take(cluster: &Cluster, object: DynamicObject) -> Result<(), (Reason, String)> {
    let generation = object.metadata.generation.unwrap_or_default();
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let undecodable = |error: serde_json::Error| {
        (
            Reason::UndecodableObject,
            format!("NetResourceSet {}: {error}", cluster.node_name),
        )
    };
    let value = serde_json::to_value(&object).map_err(undecodable)?;
    let spec: NetResourceSetSpec = part(&value, "spec").map_err(undecodable)?;
    let shortage = shortage(&value);
    cluster.object.send_replace(Some(Arc::new(value)));
    cluster.node.shortage.send_replace(shortage);
    let accepted = cluster.node.accept(&uid, generation, spec).await;
    match accepted.map_err(|error| (error.reason(), error.chain()))? {
        0 => Ok(()),
        withheld => Err((
            Reason::ApiRestored,
            format!(
                "NetResourceSet {} went back to generation {generation}: {withheld} addresses are withheld until it is \
                 written again",
                cluster.node_name
            ),
        )),
    }
}

/// A part of the object; absent is like empty.
fn part<T: serde::de::DeserializeOwned>(
    object: &Value,
    name: &str,
) -> Result<T, serde_json::Error> {
    let empty = || Value::Object(serde_json::Map::new());
    serde_json::from_value(
        object
            .get(name)
            .filter(|v| !v.is_null())
            .cloned()
            .unwrap_or_else(empty),
    )
}

/// Why the operator cannot supply more, in its own word, for the message of an ADD that waited in vain. Conditions that
/// cannot be decoded say nothing.
fn shortage(object: &Value) -> Shortage {
    let conditions = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let text = |condition: &Value, name: &str| -> String {
        condition
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let failing = conditions
        .into_iter()
        .flatten()
        .find(|c| text(c, "status") == "False" && text(c, "type") != CONDITION_READY);
    failing.map_or_else(Shortage::default, |condition| {
        let word = text(condition, "reason");
        Shortage {
            reason: Reason::ALL
                .iter()
                .copied()
                .find(|reason| reason.word() == word),
            message: text(condition, "message"),
        }
    })
}
