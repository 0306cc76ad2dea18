//! `meta.k8s.io/v1 Table`: the rows that `kubectl get` prints.

mod age;
mod kinds;
mod pod;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::jsonpath::JsonPath;
use crate::object::{self, text};
use crate::registry::{Column, Resource};

pub use pod::condition;

/// How much of the object each row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// The table of some objects. `headings`: whether to say what the columns are (a watch does only once).
pub fn table(res: &Resource, objects: &[&Value], include: Include, headings: bool) -> Value {
    let now = Timestamp::now();
    let columns = columns(res);
    let paths: Vec<Option<JsonPath>> = columns
        .iter()
        .map(|c| JsonPath::parse(&c.path).ok())
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|o| {
            let cells =
                kinds::cells(res, o, now).unwrap_or_else(|| custom(o, &columns, &paths, now));
            let mut row = json!({"cells": cells});
            match include {
                Include::None => {}
                Include::Metadata => row["object"] = metadata_only(o),
                Include::Object => row["object"] = (*o).clone(),
            }
            row
        })
        .collect();
    let definitions: Vec<Value> = columns
        .iter()
        .filter(|_| headings)
        .map(|c| {
            json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
        "columnDefinitions": definitions, "rows": rows,
    })
}

/// An object reduced to its metadata.
pub fn metadata_only(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

fn columns(res: &Resource) -> Vec<Column> {
    let column = |name: &str, kind: &str, format: &str, priority: i64, path: &str| Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        format: format.to_owned(),
        description: String::new(),
        priority,
        path: path.to_owned(),
    };
    let built_in = kinds::headings(res);
    if !built_in.is_empty() {
        return built_in
            .iter()
            .map(|&(name, priority)| {
                let format = if name == "Name" { "name" } else { "" };
                column(name, "string", format, priority, "")
            })
            .collect();
    }
    let mut all = vec![column("Name", "string", "name", 0, ".metadata.name")];
    if res.columns.is_empty() {
        all.push(column("Age", "date", "", 0, ".metadata.creationTimestamp"));
    } else {
        all.extend(res.columns.iter().cloned());
    }
    all
}

fn custom(
    object: &Value,
    columns: &[Column],
    paths: &[Option<JsonPath>],
    now: Timestamp,
) -> Vec<Value> {
    let cell = |(column, path): (&Column, &Option<JsonPath>)| {
        let found = path.as_ref().map_or_else(Vec::new, |p| p.find(object));
        let first = *found.first()?;
        match column.kind.as_str() {
            "integer" => first
                .as_i64()
                .map(Value::from)
                .or_else(|| first.as_f64().map(|f| json!(f.trunc() as i64))),
            "number" => first.as_f64().map(Value::from),
            "boolean" => first.as_bool().map(Value::from),
            "date" => Some(json!(age::age(first.as_str()?, now))),
            _ => Some(json!(
                found.iter().map(|v| word(v)).collect::<Vec<_>>().join(" ")
            )),
        }
    };
    columns
        .iter()
        .zip(paths)
        .map(|both| cell(both).unwrap_or(Value::Null))
        .collect()
}

/// A value in a string column: strings bare, everything else as JSON.
fn word(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Age of an object.
fn age_of(object: &Value, now: Timestamp) -> Value {
    json!(age::age(text(object, "/metadata/creationTimestamp"), now))
}

/// Name of an object.
fn name_of(object: &Value) -> Value {
    json!(object::name(object))
}
