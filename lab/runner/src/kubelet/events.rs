//! Events about pods; one that repeats is counted instead of written again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

/// Beyond this many different events, counting starts over.
const REMEMBERED: usize = 1000;

/// Writes events. A failure to write one is logged: events are for people, nothing depends on them.
pub struct Events {
    api: kube::Client,
    node: String,
    seen: Mutex<HashMap<String, (String, i32)>>,
}

impl Events {
    pub fn new(api: kube::Client, node: &str) -> Self {
        Self {
            api,
            node: node.to_owned(),
            seen: Mutex::default(),
        }
    }

    /// Writes a Warning.
    pub async fn warn(&self, pod: &Pod, reason: &str, message: &str) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.api.clone(), namespace);
        let written = match self.count(pod, reason, message) {
            (name, 1) => {
                let event = self.event(pod, name, reason, message);
                api.create(&PostParams::default(), &event).await
            }
            (name, count) => {
                let patch = json!({ "count": count, "lastTimestamp": Time(Timestamp::now()) });
                api.patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                    .await
            }
        };
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        tracing::warn!(namespace, pod, reason, message, "event");
        if let Err(error) = written {
            tracing::warn!(namespace, pod, reason, %error, "event not written");
        }
    }

    /// The name of the event and how often it has now happened.
    fn count(&self, pod: &Pod, reason: &str, message: &str) -> (String, i32) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() > REMEMBERED {
            seen.clear();
        }
        let entry = seen.entry(format!("{uid} {reason} {message}"));
        let (name, count) = entry.or_insert_with(|| {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            (format!("{pod}.{:x}", Timestamp::now().as_nanosecond()), 0)
        });
        *count += 1;
        (name.clone(), *count)
    }

    fn event(&self, pod: &Pod, name: String, reason: &str, message: &str) -> Event {
        let namespace = pod.metadata.namespace.clone();
        let now = Time(Timestamp::now());
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: namespace.clone(),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace,
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            },
            reason: Some(reason.into()),
            message: Some(message.into()),
            type_: Some("Warning".into()),
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            source: Some(EventSource {
                component: Some("kubelet".into()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        }
    }
}
