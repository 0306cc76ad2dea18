//! Events of the agent: one when a problem begins, about its Node. They are for people; that one cannot be written delays
//! nothing.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tombolo_core::types::Reason;
use tracing::warn;

use crate::error::chain;
use crate::steps;

/// Namespace of Events about objects without one. Kubernetes 1.20 takes those of `events.k8s.io` in no other; later versions take
/// `default` as well.
const NAMESPACE: &str = "kube-system";

/// Writes Events.
#[derive(Clone, Debug)]
pub struct Events {
    api: Api<Event>,
    node_name: String,
}

impl Events {
    pub fn new(client: Client, node_name: &str) -> Self {
        Self {
            api: Api::namespaced(client, NAMESPACE),
            node_name: node_name.to_owned(),
        }
    }

    /// Tells of a problem of this node.
    pub fn warn(&self, reason: Reason, message: &str) {
        // The API takes 1024 bytes.
        let note = message
            .char_indices()
            .take_while(|(at, _)| *at < 1000)
            .map(|(_, c)| c)
            .collect();
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(self.node_name.clone()),
            // Kubernetes' own Events name a Node by its name; `kubectl describe node` asks for that.
            uid: Some(self.node_name.clone()),
            ..ObjectReference::default()
        };
        let event = Event {
            metadata: ObjectMeta {
                // What comes before the suffix must be a name by itself, but for a dash at its end.
                generate_name: Some(format!("{}-", self.node_name)),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            regarding: Some(about),
            type_: Some("Warning".to_owned()),
            reason: Some(reason.word().to_owned()),
            action: Some("Serve".to_owned()),
            note: Some(note),
            reporting_controller: Some("tombolo.dev/agent".to_owned()),
            reporting_instance: Some(self.node_name.clone()),
            ..Event::default()
        };
        let api = self.api.clone();
        tokio::spawn(async move {
            let params = PostParams::default();
            let create = api.create(&params, &event);
            if let Err(error) = steps::OBJECT_EVENT.during(create).await {
                warn!(error = chain(&error), %reason, "an Event could not be written");
            }
        });
    }
}
