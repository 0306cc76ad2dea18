//! Binding a pod to a node.

use serde_json::{Value, json};

use super::{Api, key};
use crate::error::ApiError;
use crate::object::{self, child_mut, list, map_mut, meta_mut, stamp, text};
use crate::registry::Resource;

impl Api {
    /// Gives a pod its node, as a scheduler asks by a `Binding`.
    ///
    /// # Errors
    /// 404; 409 where it has one, or is going; 400 without a target.
    pub fn bind(
        &self,
        pods: &Resource,
        (namespace, name): (&str, &str),
        binding: &Value,
    ) -> Result<(), ApiError> {
        let node = text(binding, "/target/name");
        if node.is_empty() {
            return Err(ApiError::bad_request("target.name: Required value"));
        }
        let at = key(pods, namespace, name);
        self.store.tx(|s| {
            let pod = s.get(&at).ok_or_else(|| ApiError::not_found(pods, name))?;
            if object::deleting(&pod) {
                let why = format!("pod {name} is being deleted, cannot be assigned to a host");
                return Err(ApiError::conflict(pods, name, &why));
            }
            let had = text(&pod, "/spec/nodeName");
            if !had.is_empty() {
                let why = format!("pod {name} is already assigned to node \"{had}\"");
                return Err(ApiError::conflict(pods, name, &why));
            }
            let mut pod = (*pod).clone();
            child_mut(&mut pod, "spec").insert("nodeName".to_owned(), json!(node));
            for key in ["labels", "annotations"] {
                if let Some(Value::Object(more)) = binding["metadata"].get(key) {
                    map_mut(meta_mut(&mut pod).entry(key).or_insert(Value::Null))
                        .extend(more.clone());
                }
            }
            set_condition(&mut pod, json!({"type": "PodScheduled", "status": "True"}));
            self.put(s, &at, pod);
            Ok(())
        })
    }
}

/// Sets a condition in `status.conditions`, with the time since when it has its status.
pub fn set_condition(object: &mut Value, mut condition: Value) {
    let mut all = list(object, "/status/conditions").to_vec();
    let at = all.iter().position(|c| c["type"] == condition["type"]);
    let now = json!(stamp(jiff::Timestamp::now()));
    let since = match at {
        Some(i) if all[i]["status"] == condition["status"] => all[i]["lastTransitionTime"].clone(),
        _ => now,
    };
    map_mut(&mut condition).insert("lastTransitionTime".to_owned(), since);
    match at {
        Some(i) => all[i] = condition,
        None => all.push(condition),
    }
    child_mut(object, "status").insert("conditions".to_owned(), Value::Array(all));
}
