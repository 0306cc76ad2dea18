//! Structural schemas of custom resources: pruning of unknown fields, defaults, validation.
//!
//! What is left out: CEL rules (`x-kubernetes-validations`), which are accepted and not run, as in Kubernetes 1.20.

mod format;
mod validate;

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value};

use crate::error::Cause;
use crate::object::{list, text};

/// A parsed schema node.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    kind: Option<Kind>,
    nullable: bool,
    int_or_string: bool,
    preserve: bool,
    embedded: bool,
    required: Vec<String>,
    properties: BTreeMap<String, Schema>,
    /// `None`: no other keys; `Some(None)`: any; else by this schema.
    additional: Option<Option<Box<Schema>>>,
    items: Option<Box<Schema>>,
    default: Option<Value>,
    enums: Vec<Value>,
    format: String,
    pattern: Option<Regex>,
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    length: (Option<u64>, Option<u64>),
    count: (Option<u64>, Option<u64>),
    keys: (Option<u64>, Option<u64>),
    unique: bool,
    map_keys: Vec<String>,
    all_of: Vec<Schema>,
    any_of: Vec<Schema>,
    one_of: Vec<Schema>,
    not: Option<Box<Schema>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }
}

impl Schema {
    /// Parses a schema; `at` is its own path, for errors.
    ///
    /// # Errors
    /// The first keyword that is broken: an unknown type, a pattern that does not compile.
    pub fn parse(schema: &Value, at: &str) -> Result<Self, Cause> {
        let Some(map) = schema.as_object() else {
            return Err(Cause::wrong_type(at, "object", type_of(schema)));
        };
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or(false);
        let count = |name: &str| map.get(name).and_then(Value::as_u64);
        let number = |name: &str| map.get(name).and_then(Value::as_f64);
        let child = |name: &str| -> Result<Option<Box<Self>>, Cause> {
            match map.get(name) {
                Some(v) => Ok(Some(Box::new(Self::parse(v, &format!("{at}.{name}"))?))),
                None => Ok(None),
            }
        };
        let many = |name: &str| -> Result<Vec<Self>, Cause> {
            let parse = |(i, v): (usize, &Value)| Self::parse(v, &format!("{at}.{name}[{i}]"));
            list(schema, &format!("/{name}"))
                .iter()
                .enumerate()
                .map(parse)
                .collect()
        };
        let mut properties = BTreeMap::new();
        for (name, v) in map
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            let at = format!("{at}.properties[{name}]");
            properties.insert(name.clone(), Self::parse(v, &at)?);
        }
        // Kubernetes 1.20 takes it for null.
        if map.get("default").is_some_and(|default| default == "") {
            let problem = "in body must be of type string: \"null\"";
            return Err(Cause::invalid(
                format!("{at}.default"),
                &Value::Null,
                problem,
            ));
        }
        let list_type = text(schema, "/x-kubernetes-list-type");
        Ok(Self {
            kind: kind(schema, at)?,
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            required: words(schema, "/required"),
            properties,
            additional: match map.get("additionalProperties") {
                None | Some(Value::Bool(false)) => None,
                Some(Value::Bool(true)) => Some(None),
                Some(_) => Some(child("additionalProperties")?),
            },
            items: child("items")?,
            default: map.get("default").cloned(),
            enums: list(schema, "/enum").to_vec(),
            format: text(schema, "/format").to_owned(),
            pattern: pattern(schema, at)?,
            minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
            maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
            multiple_of: number("multipleOf"),
            length: (count("minLength"), count("maxLength")),
            count: (count("minItems"), count("maxItems")),
            keys: (count("minProperties"), count("maxProperties")),
            unique: flag("uniqueItems") || list_type == "set",
            map_keys: if list_type == "map" {
                words(schema, "/x-kubernetes-list-map-keys")
            } else {
                Vec::new()
            },
            all_of: many("allOf")?,
            any_of: many("anyOf")?,
            one_of: many("oneOf")?,
            not: child("not")?,
        })
    }

    /// Removes what the schema does not know from a custom resource and returns the paths of it.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.prune_at(object, "", true, &mut unknown);
        unknown
    }

    fn prune_at(&self, value: &mut Value, at: &str, resource: bool, unknown: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                map.retain(|key, _| {
                    let known = self.preserve
                        || self.additional.is_some()
                        || self.properties.contains_key(key)
                        || (resource && matches!(key.as_str(), "apiVersion" | "kind" | "metadata"));
                    if !known {
                        unknown.push(join(at, key));
                    }
                    known
                });
                for (key, child) in map.iter_mut() {
                    let own = matches!(key.as_str(), "apiVersion" | "kind" | "metadata");
                    if let Some(schema) = self.child(key).filter(|_| !(resource && own)) {
                        schema.prune_at(child, &join(at, key), schema.embedded, unknown);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for (i, item) in items.iter_mut().enumerate() {
                        schema.prune_at(item, &format!("{at}[{i}]"), schema.embedded, unknown);
                    }
                }
            }
            _ => {}
        }
    }

    /// The schema of a key's value, where there is one.
    fn child(&self, key: &str) -> Option<&Self> {
        self.properties
            .get(key)
            .or_else(|| self.additional.as_ref()?.as_deref())
    }

    /// Fills in defaults; a null where null is not allowed and a default exists counts as absent.
    pub fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    fill_property(map, name, schema);
                }
                for (key, child) in map.iter_mut() {
                    if let Some(schema) = self.child(key) {
                        schema.fill(child);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.fill(item));
                }
            }
            _ => {}
        }
    }

    /// Everything that is wrong with a custom resource.
    pub fn check(&self, object: &Value) -> Vec<Cause> {
        let mut causes = Vec::new();
        validate::check(self, object, "", &mut causes);
        causes
    }
}

fn fill_property(map: &mut Map<String, Value>, name: &str, schema: &Schema) {
    let Some(default) = &schema.default else {
        return;
    };
    let absent = match map.get(name) {
        None => true,
        Some(v) => v.is_null() && !schema.nullable,
    };
    if absent {
        map.insert(name.to_owned(), default.clone());
    }
}

fn kind(schema: &Value, at: &str) -> Result<Option<Kind>, Cause> {
    Ok(Some(match text(schema, "/type") {
        "" => return Ok(None),
        "object" => Kind::Object,
        "array" => Kind::Array,
        "string" => Kind::String,
        "integer" => Kind::Integer,
        "number" => Kind::Number,
        "boolean" => Kind::Boolean,
        _ => {
            let kinds = ["array", "boolean", "integer", "number", "object", "string"];
            return Err(Cause::unsupported(
                format!("{at}.type"),
                &schema["type"],
                &kinds.map(Value::from),
            ));
        }
    }))
}

fn pattern(schema: &Value, at: &str) -> Result<Option<Regex>, Cause> {
    let Some(pattern) = schema.get("pattern").and_then(Value::as_str) else {
        return Ok(None);
    };
    Regex::new(pattern).map(Some).map_err(|e| {
        let detail = format!("must be a valid regular expression, but isn't: {e}");
        Cause::invalid(format!("{at}.pattern"), &Value::from(pattern), &detail)
    })
}

fn words(schema: &Value, pointer: &str) -> Vec<String> {
    list(schema, pointer)
        .iter()
        .filter_map(|w| w.as_str().map(str::to_owned))
        .collect()
}

fn join(at: &str, key: &str) -> String {
    if at.is_empty() {
        key.to_owned()
    } else {
        format!("{at}.{key}")
    }
}

/// The JSON type of a value, in the words of schemas.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests;
