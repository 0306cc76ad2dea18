//! The objects that the operator follows, decoded one by one: one that cannot be decoded is reported and passed over, and
//! the watch of the others goes on. Its last good version, if any, stays in force.

mod store;

use std::sync::Arc;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tombolo_api::{Eni, NetResourceSet, NetworkProfile, WatchBackoff};
use tombolo_core::types::Reason;

use crate::events::{Events, Subject};
use crate::metrics::{KindLabels, Metrics};
use crate::wakers::Wakers;
pub use store::Store;

/// All that is followed.
#[derive(Debug, Default)]
pub struct Objects {
    pub nodes: Store<Node>,
    pub nrs: Store<NetResourceSet>,
    pub enis: Store<Eni>,
    pub profiles: Store<NetworkProfile>,
}

impl Objects {
    /// Whether everything was listed once.
    pub fn synced(&self) -> bool {
        self.nodes.synced() && self.nrs.synced() && self.enis.synced() && self.profiles.synced()
    }

    /// Eni objects of a node, by name.
    pub fn enis_of(&self, node: &str) -> Vec<Arc<Eni>> {
        self.enis.select(|eni| eni.spec.node == node)
    }
}

/// What a kind needs to be followed.
pub trait Followed:
    Resource<DynamicType = ()> + DeserializeOwned + Clone + Send + Sync + 'static
{
}
impl<K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Send + Sync + 'static> Followed
    for K
{
}

/// Follows one kind for ever; `changed` is told of every object that came, changed or went (old and new).
pub async fn follow<K: Followed>(
    client: Client,
    store: &Store<K>,
    events: &Events,
    metrics: &Metrics,
    wakers: &Wakers,
    changed: impl Fn(&str, Option<&K>, Option<&K>),
) {
    let kind = K::kind(&());
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let stream = watcher(api, watcher::Config::default()).backoff(WatchBackoff::default());
    let mut stream = std::pin::pin!(stream);
    // Objects of a list under way; takes the store's place when it is complete.
    let mut listing: Vec<(String, Option<Arc<K>>)> = Vec::new();
    loop {
        let event = match stream.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%kind, error = &error as &dyn std::error::Error, "watch interrupted");
                continue;
            }
        };
        match event {
            watcher::Event::Init => listing.clear(),
            watcher::Event::InitApply(object) => {
                let name = object.name_any();
                listing.push((name, decode(&kind, object, store, events)));
            }
            watcher::Event::InitDone => {
                for (name, old, new) in store.replace(std::mem::take(&mut listing)) {
                    changed(&name, old.as_deref(), new.as_deref());
                }
                // Some wait until everything was listed.
                wakers.wake_all();
            }
            watcher::Event::Apply(object) => {
                let name = object.name_any();
                if let Some(new) = decode(&kind, object, store, events)
                    && let Some(old) = store.put(Arc::clone(&new))
                {
                    changed(&name, old.as_deref(), Some(&new));
                }
            }
            watcher::Event::Delete(object) => {
                let old = store.remove(&object);
                changed(&object.name_any(), old.as_deref(), None);
            }
        }
        let undecodable = i64::try_from(store.undecodable()).unwrap_or(i64::MAX);
        metrics
            .undecodable
            .get_or_create(&KindLabels {
                kind: kind_word::<K>(),
            })
            .set(undecodable);
    }
}

fn kind_word<K: Followed>() -> &'static str {
    match K::kind(&()) {
        std::borrow::Cow::Borrowed(word) => word,
        std::borrow::Cow::Owned(_) => "object",
    }
}

fn decode<K: Followed>(
    kind: &str,
    object: DynamicObject,
    store: &Store<K>,
    events: &Events,
) -> Option<Arc<K>> {
    let name = object.name_any();
    let version = object.resource_version().unwrap_or_default();
    let subject = Subject::of_dynamic(&object);
    match parse::<K>(&object) {
        Ok(good) => {
            store.decoded(&name);
            Some(Arc::new(good))
        }
        Err(error) => {
            if store.failed(&name, &version) {
                let detail = error.to_string();
                tracing::error!(%kind, %name, reason = %Reason::UndecodableObject, %detail, "object passed over");
                events.warn(
                    subject,
                    Reason::UndecodableObject,
                    format!("{kind} {name}: {detail}"),
                );
            }
            None
        }
    }
}

/// Why an object cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Undecodable {
    #[error("read it as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{path}: {source}")]
    Field {
        path: String,
        source: serde_json::Error,
    },
}

pub fn parse<K: Followed>(object: &DynamicObject) -> Result<K, Undecodable> {
    let value = serde_json::to_value(object)?;
    serde_path_to_error::deserialize(value).map_err(|error| Undecodable::Field {
        path: error.path().to_string(),
        source: error.into_inner(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_undecodable_object_names_its_field() {
        let profile = |spec: serde_json::Value| -> DynamicObject {
            let object = json!({
                "apiVersion": "tombolo.dev/v1alpha1", "kind": "NetworkProfile",
                "metadata": {"name": "p"}, "spec": spec,
            });
            serde_json::from_value(object).unwrap()
        };
        parse::<NetworkProfile>(&profile(json!({"mtu": 1500}))).unwrap();
        for (spec, field) in [
            (
                json!({"snat": {"exclude": ["10.0.0.0/8", "nowhere"]}}),
                "spec.snat.exclude[1]: ",
            ),
            (
                json!({"pool": {"warm": 1}}),
                "spec.pool.warm: unknown field",
            ),
            (json!({"ipFamilies": "both"}), "spec.ipFamilies: "),
            (json!({"mtu": "big"}), "spec.mtu: "),
        ] {
            let error = parse::<NetworkProfile>(&profile(spec))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }
}
