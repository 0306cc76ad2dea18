//! Keeps the PodEndpoints of this node equal to its attachments: made after ADD answered, gone when DEL began.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt as _;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::time::sleep;
use tombolo_api::{
    EndpointIp, EndpointPhase, LABEL_NODE, PodEndpoint, PodEndpointSpec, WatchBackoff,
};
use tombolo_core::types::Family;
use tracing::warn;

use super::client::resource;
use super::{Cluster, RETRY};
use crate::error::chain;
use crate::journal::{Phase, Record};
use crate::steps;

/// Namespace and name.
type Id = (String, String);

/// Objects as the API server shows them; `None`: there, but not to be decoded.
type Seen = BTreeMap<Id, Option<PodEndpointSpec>>;

/// Runs as long as the agent.
pub async fn run(cluster: Arc<Cluster>, client: Client) {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource::<PodEndpoint>());
    let ours = watcher::Config::default().labels(&format!("{LABEL_NODE}={}", cluster.node_name));
    let mut stream = std::pin::pin!(watcher(api, ours).backoff(WatchBackoff::default()));
    let mut changed = cluster.node.changed.subscribe();
    let mut seen = Seen::new();
    let mut listing = Seen::new();
    let mut listed = false;
    loop {
        tokio::select! {
            event = stream.try_next() => match event {
                Ok(Some(watcher::Event::Init)) => listing.clear(),
                Ok(Some(watcher::Event::InitApply(object))) => drop(listing.insert(id(&object), decode(object))),
                Ok(Some(watcher::Event::InitDone)) => {
                    seen = std::mem::take(&mut listing);
                    listed = true;
                }
                Ok(Some(watcher::Event::Apply(object))) => drop(seen.insert(id(&object), decode(object))),
                Ok(Some(watcher::Event::Delete(object))) => drop(seen.remove(&id(&object))),
                Ok(None) => return,
                Err(error) => warn!(error = chain(&error), "watch of the PodEndpoints interrupted"),
            },
            changed = changed.changed() => if changed.is_err() { return },
        }
        if listed && !converge(&cluster, &client, &mut seen).await {
            sleep(RETRY).await;
            cluster.node.changed.send_modify(|version| *version += 1);
        }
    }
}

fn id(object: &DynamicObject) -> Id {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn decode(object: DynamicObject) -> Option<PodEndpointSpec> {
    serde_json::from_value(object.data.get("spec")?.clone()).ok()
}

/// Writes every difference; whether all writes went through.
async fn converge(cluster: &Cluster, client: &Client, seen: &mut Seen) -> bool {
    let wanted = wanted(cluster);
    let mut all = true;
    for (id, spec) in &wanted {
        if seen.get(id).and_then(Option::as_ref) == Some(spec) {
            continue;
        }
        match put(cluster, client, id, spec, seen.contains_key(id)).await {
            // The watch brings it, too; until then it must not be written again.
            Ok(()) => drop(seen.insert(id.clone(), Some(spec.clone()))),
            Err(error) => {
                warn!(
                    error = chain(&error),
                    pod = spec.pod,
                    "a PodEndpoint could not be written"
                );
                all = false;
            }
        }
    }
    let extra: Vec<Id> = seen
        .keys()
        .filter(|id| !wanted.contains_key(*id))
        .cloned()
        .collect();
    for id in extra {
        let api: Api<PodEndpoint> = Api::namespaced(client.clone(), &id.0);
        let params = DeleteParams::default();
        let delete = api.delete(&id.1, &params);
        match steps::OBJECT_ENDPOINT_DELETE.during(delete).await {
            Ok(_) => drop(seen.remove(&id)),
            Err(kube::Error::Api(status)) if status.code == 404 => drop(seen.remove(&id)),
            Err(error) => {
                warn!(
                    error = chain(&error),
                    name = id.1,
                    "a PodEndpoint could not be deleted"
                );
                all = false;
            }
        }
    }
    all
}

async fn put(
    cluster: &Cluster,
    client: &Client,
    id: &Id,
    spec: &PodEndpointSpec,
    exists: bool,
) -> Result<(), kube::Error> {
    let api: Api<PodEndpoint> = Api::namespaced(client.clone(), &id.0);
    let labels = BTreeMap::from([(LABEL_NODE.to_owned(), cluster.node_name.clone())]);
    let metadata = ObjectMeta {
        name: Some(id.1.clone()),
        labels: Some(labels),
        ..ObjectMeta::default()
    };
    let object = PodEndpoint {
        metadata,
        spec: spec.clone(),
    };
    if !exists {
        let params = PostParams::default();
        let create = api.create(&params, &object);
        match steps::OBJECT_ENDPOINT_CREATE.during(create).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            result => return result.map(|_| ()),
        }
    }
    let (params, patch) = (PatchParams::default(), Patch::Merge(&object));
    let replace = api.patch(&id.1, &params, &patch);
    steps::OBJECT_ENDPOINT_REPLACE
        .during(replace)
        .await
        .map(|_| ())
}

fn wanted(cluster: &Cluster) -> BTreeMap<Id, PodEndpointSpec> {
    let records = cluster.node.all_records();
    let ready = records.iter().filter(|record| record.phase == Phase::Ready);
    ready
        .map(|record| (name(record), spec(&cluster.node_name, record)))
        .collect()
}

/// The pod's name for people, and enough of the key's hash to tell its attachments and its successors apart.
fn name(record: &Record) -> Id {
    let or = |text: &str, other: &str| {
        if text.is_empty() {
            other.to_owned()
        } else {
            text.to_owned()
        }
    };
    // Names have at most 253 characters, of few kinds; outside Kubernetes a runtime may say anything.
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    let pod: String = or(&record.pod.name, "pod")
        .chars()
        .take(240)
        .map(|c| if allowed(c) { c } else { '-' })
        .collect();
    let stem = record.key.file_stem();
    (
        or(&record.pod.namespace, "default"),
        format!("{pod}-{}", stem.get(..10).unwrap_or(&stem)),
    )
}

fn spec(node_name: &str, record: &Record) -> PodEndpointSpec {
    let of = |family| {
        let address = record
            .addresses
            .iter()
            .find(|address| Family::of(address.ip) == family)?;
        Some(EndpointIp {
            ip: address.ip,
            nic: address.nic.0.clone(),
        })
    };
    PodEndpointSpec {
        node: node_name.to_owned(),
        pod: record.pod.name.clone(),
        pod_uid: record.pod.uid.clone(),
        network: record.key.network.clone(),
        container_id: record.key.container_id.clone(),
        ifname: record.key.ifname.clone(),
        host_ifname: record.key.host_ifname().0,
        ipv4: of(Family::V4),
        ipv6: of(Family::V6),
        state: EndpointPhase::Ready,
    }
}
