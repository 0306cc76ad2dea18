//! The two forms of Event. Stored is the core form; `events.k8s.io` sees the same object with its own field names.

use serde_json::{Map, Value};

use crate::object::map_mut;

/// Field in the core form, field in the form of `events.k8s.io`.
const NAMES: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// The core form of an event of `events.k8s.io`.
pub fn to_core(mut event: Value) -> Value {
    let map = map_mut(&mut event);
    for (core, new) in NAMES {
        rename(map, new, core);
    }
    map.insert("apiVersion".to_owned(), Value::from("v1"));
    event
}

/// The form of `events.k8s.io` of a core event.
pub fn from_core(mut event: Value) -> Value {
    let map = map_mut(&mut event);
    for (core, new) in NAMES {
        rename(map, core, new);
    }
    map.insert("apiVersion".to_owned(), Value::from("events.k8s.io/v1"));
    event
}

fn rename(map: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = map.remove(from) {
        map.insert(to.to_owned(), value);
    }
}
