//! Pods: the defaults that clients look at, and which fields of the spec may change.

use serde_json::{Value, json};

use crate::error::Cause;
use crate::object::{child_mut, list, map_mut, text};

/// Defaults of a new pod; its status starts over.
pub fn create(pod: &mut Value) {
    let spec = child_mut(pod, "spec");
    for (key, value) in [
        ("restartPolicy", json!("Always")),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("enableServiceLinks", json!(true)),
        ("securityContext", json!({})),
    ] {
        spec.entry(key).or_insert(value);
    }
    for key in ["containers", "initContainers"] {
        let Some(Value::Array(containers)) = spec.get_mut(key) else {
            continue;
        };
        for container in containers.iter_mut().filter(|c| c.is_object()) {
            let container = map_mut(container);
            for (key, value) in [
                ("imagePullPolicy", json!("IfNotPresent")),
                ("resources", json!({})),
                ("terminationMessagePath", json!("/dev/termination-log")),
                ("terminationMessagePolicy", json!("File")),
            ] {
                container.entry(key).or_insert(value);
            }
        }
    }
    map_mut(pod).insert(
        "status".to_owned(),
        json!({"phase": "Pending", "qosClass": "BestEffort"}),
    );
}

/// Everything that is wrong with a new pod.
pub fn check(pod: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let containers = list(pod, "/spec/containers");
    if containers.is_empty() {
        causes.push(Cause::required("spec.containers", ""));
    }
    let mut names = Vec::new();
    for (i, container) in containers.iter().enumerate() {
        let name = text(container, "/name");
        if name.is_empty() {
            causes.push(Cause::required(format!("spec.containers[{i}].name"), ""));
        } else if names.contains(&name) {
            let field = format!("spec.containers[{i}].name");
            causes.push(Cause::duplicate(field, &json!(name)));
        }
        names.push(name);
        if text(container, "/image").is_empty() {
            causes.push(Cause::required(format!("spec.containers[{i}].image"), ""));
        }
    }
    let policy = text(pod, "/spec/restartPolicy");
    let policies = ["Always", "OnFailure", "Never"];
    if !policies.contains(&policy) {
        causes.push(Cause::unsupported(
            "spec.restartPolicy",
            &json!(policy),
            &policies.map(Value::from),
        ));
    }
    if let Some(seconds) = pod.pointer("/spec/terminationGracePeriodSeconds")
        && seconds.as_i64().is_none_or(|s| s < 0)
    {
        causes.push(Cause::invalid(
            "spec.terminationGracePeriodSeconds",
            seconds,
            "must be greater than or equal to 0",
        ));
    }
    causes
}

/// Only images, tolerations and the active deadline may change.
pub fn check_update(current: &Value, new: &Value) -> Vec<Cause> {
    let fixed = |pod: &Value| {
        let mut spec = pod["spec"].clone();
        let map = map_mut(&mut spec);
        map.remove("tolerations");
        map.remove("activeDeadlineSeconds");
        for key in ["containers", "initContainers"] {
            if let Some(Value::Array(containers)) = map.get_mut(key) {
                for container in containers {
                    map_mut(container).remove("image");
                }
            }
        }
        spec
    };
    if fixed(current) == fixed(new) {
        return Vec::new();
    }
    vec![Cause::forbidden(
        "spec",
        "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, \
         `spec.activeDeadlineSeconds` or `spec.tolerations`",
    )]
}
