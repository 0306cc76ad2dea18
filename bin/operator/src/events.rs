//! Events: one when a problem begins. They are for people; that one cannot be written delays nothing.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Client, ResourceExt};
use tombolo_core::types::Reason;

use crate::clock;
use crate::steps;

/// Namespace of Events about objects without one. Kubernetes 1.20 takes those of `events.k8s.io` in no other; later versions take
/// `default` as well.
const NAMESPACE: &str = "kube-system";
const CONTROLLER: &str = "tombolo.dev/operator";

/// Writes Events.
#[derive(Clone, Debug)]
pub struct Events {
    api: Api<Event>,
    identity: String,
}

/// What an Event is about.
#[derive(Clone, Debug)]
pub struct Subject(ObjectReference);

impl Subject {
    /// A node; Kubernetes' own Events name it by its name instead of a UID, and `kubectl describe node` asks for that.
    pub fn node(name: &str) -> Self {
        Self(ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(name.to_owned()),
            ..ObjectReference::default()
        })
    }

    /// A namespace, for what is about the cluster: an Event can only be about an object of its own namespace or of none.
    pub fn namespace(name: &str) -> Self {
        Self(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Namespace".to_owned()),
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        })
    }

    pub fn of_dynamic(object: &DynamicObject) -> Self {
        let types = object.types.clone().unwrap_or_default();
        Self(ObjectReference {
            api_version: Some(types.api_version),
            kind: Some(types.kind),
            name: Some(object.name_any()),
            uid: object.uid(),
            resource_version: object.resource_version(),
            ..ObjectReference::default()
        })
    }
}

impl Events {
    pub fn new(client: Client, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, NAMESPACE),
            identity: identity.to_owned(),
        }
    }

    /// Tells of a problem.
    pub fn warn(&self, subject: Subject, reason: Reason, mut message: String) {
        let reason = reason.word();
        // The API takes 1024 bytes.
        if message.len() > 1000 {
            let end = (0..=1000)
                .rev()
                .find(|end| message.is_char_boundary(*end))
                .unwrap_or(0);
            message.truncate(end);
        }
        let name = subject.0.name.clone().unwrap_or_default();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:016x}", clock::random())),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            regarding: Some(subject.0),
            type_: Some("Warning".to_owned()),
            reason: Some(reason.to_owned()),
            action: Some("Plan".to_owned()),
            note: Some(message),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.identity.clone()),
            ..Event::default()
        };
        let api = self.api.clone();
        tokio::spawn(async move {
            let params = PostParams::default();
            let create = api.create(&params, &event);
            if let Err(error) = steps::OBJECT_EVENT.during(create).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    reason,
                    "writing an Event failed"
                );
            }
        });
    }
}
