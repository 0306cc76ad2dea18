//! Strategic merge patch, as far as kubectl and kubelets use it on the built-in kinds.
//!
//! Done: objects merge; a null removes; lists of the table below merge by key or as sets, every other list is replaced
//! (taints and tolerations are such lists in Kubernetes too); `$patch: delete | replace` in objects and elements;
//! `$deleteFromPrimitiveList/<list>`; `$retainKeys`; `$setElementOrder/<list>`, where elements that the patch does not
//! order come last.

use serde_json::{Map, Value};

use crate::object::map_mut;

/// How a list takes a patch.
#[derive(Clone, Copy)]
enum Rule {
    Replace,
    Set,
    Keyed(&'static str),
}

/// The rule of a list by its name and the name of what holds it.
fn rule(parent: &str, name: &str) -> Rule {
    match (parent, name) {
        (_, "containers" | "initContainers" | "ephemeralContainers" | "volumes") => {
            Rule::Keyed("name")
        }
        (_, "env" | "imagePullSecrets" | "secrets" | "webhooks") => Rule::Keyed("name"),
        (_, "volumeMounts") => Rule::Keyed("mountPath"),
        (_, "volumeDevices") => Rule::Keyed("devicePath"),
        ("spec", "ports") => Rule::Keyed("port"),
        (_, "ports") => Rule::Keyed("containerPort"),
        ("status", "conditions" | "addresses") => Rule::Keyed("type"),
        (_, "ownerReferences") => Rule::Keyed("uid"),
        (_, "hostAliases" | "podIPs" | "hostIPs") => Rule::Keyed("ip"),
        (_, "topologySpreadConstraints") => Rule::Keyed("topologyKey"),
        (_, "finalizers" | "podCIDRs") => Rule::Set,
        _ => Rule::Replace,
    }
}

/// Applies a patch to an object.
pub fn merge(object: &mut Value, patch: &Value) {
    if let Value::Object(patch) = patch {
        merge_map(map_mut(object), patch, "");
    }
}

fn merge_map(current: &mut Map<String, Value>, patch: &Map<String, Value>, parent: &str) {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("delete") => return current.clear(),
        Some("replace") => current.clear(),
        _ => {}
    }
    if let Some(Value::Array(keep)) = patch.get("$retainKeys") {
        current.retain(|k, _| keep.iter().any(|w| w == k));
    }
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix("$deleteFromPrimitiveList/") {
            if let (Some(Value::Array(items)), Value::Array(gone)) = (current.get_mut(name), value)
            {
                items.retain(|i| !gone.contains(i));
            }
            continue;
        }
        if key.starts_with('$') {
            continue;
        }
        match value {
            Value::Null => {
                current.remove(key);
            }
            Value::Object(inner) => {
                merge_map(map_mut(entry(current, key)), inner, key);
            }
            Value::Array(items) => merge_list(entry(current, key), items, rule(parent, key), key),
            _ => {
                current.insert(key.clone(), value.clone());
            }
        }
    }
    for (key, value) in patch {
        if let (Some(name), Value::Array(order)) = (key.strip_prefix("$setElementOrder/"), value)
            && let Some(Value::Array(items)) = current.get_mut(name)
        {
            sort_by(items, order, rule(parent, name));
        }
    }
}

fn entry<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Value {
    map.entry(key).or_insert(Value::Null)
}

fn merge_list(current: &mut Value, patch: &[Value], rule: Rule, name: &str) {
    let replace = patch.iter().any(|p| p["$patch"] == "replace");
    let Value::Array(items) = current else {
        *current = Value::Array(Vec::new());
        return merge_list(current, patch, rule, name);
    };
    match rule {
        Rule::Replace => *items = patch.iter().map(clean).collect(),
        Rule::Set => {
            for item in patch {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
        }
        Rule::Keyed(key) => {
            if replace {
                items.clear();
            }
            for item in patch.iter().filter(|p| p["$patch"] != "replace") {
                merge_element(items, item, key, name);
            }
        }
    }
}

fn merge_element(items: &mut Vec<Value>, patch: &Value, key: &str, name: &str) {
    let at = items.iter().position(|i| i[key] == patch[key]);
    if patch["$patch"] == "delete" {
        if let Some(at) = at {
            items.remove(at);
        }
        return;
    }
    let mut element = at.map_or(Value::Null, |at| items[at].take());
    match patch {
        Value::Object(map) => merge_map(map_mut(&mut element), map, name),
        other => element = other.clone(),
    }
    match at {
        Some(at) => items[at] = element,
        None => items.push(element),
    }
}

/// A new value without directives.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(k, v)| !k.starts_with('$') && !v.is_null())
            .map(|(k, v)| (k.clone(), clean(v)))
            .collect::<Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}

fn sort_by(items: &mut [Value], order: &[Value], rule: Rule) {
    let rank = |item: &Value| {
        let found = match rule {
            Rule::Keyed(key) => order.iter().position(|o| o[key] == item[key]),
            _ => order.iter().position(|o| o == item),
        };
        found.unwrap_or(usize::MAX)
    };
    items.sort_by_key(rank);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(mut object: Value, patch: Value, expected: Value) {
        merge(&mut object, &patch);
        assert_eq!(object, expected);
    }

    #[test]
    fn lists_merge_by_key_or_are_replaced() {
        check(
            json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}, {"type": "Disk"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "New"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x"}, {"type": "Disk"}, {"type": "New"}]}}),
        );
        check(
            json!({"spec": {"taints": [{"key": "a"}, {"key": "b"}]}}),
            json!({"spec": {"taints": [{"key": "b"}]}}),
            json!({"spec": {"taints": [{"key": "b"}]}}),
        );
        check(
            json!({"spec": {"containers": [{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "2", "ports": [{"containerPort": 90}]}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "2", "ports": [{"containerPort": 80}, {"containerPort": 90}]}]}}),
        );
    }

    #[test]
    fn directives() {
        check(
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}],
                "containers": [{"name": "a", "$patch": "delete"}, {"name": "c"}]}}),
            json!({"spec": {"containers": [{"name": "c"}, {"name": "b"}]}}),
        );
        check(
            json!({"metadata": {"finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "labels": {"x": null}}}),
            json!({"metadata": {"finalizers": ["b", "c"], "labels": {"y": "2"}}}),
        );
        check(
            json!({"spec": {"strategy": {"type": "a", "more": 1}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "b"}}}),
            json!({"spec": {"strategy": {"type": "b"}}}),
        );
        check(
            json!({"spec": {"a": {"x": 1}}}),
            json!({"spec": {"a": {"$patch": "replace", "y": 2}}}),
            json!({"spec": {"a": {"y": 2}}}),
        );
    }
}
