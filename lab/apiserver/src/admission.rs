//! What an object goes through before it is stored: metadata, defaults, what may change, validation.

mod event;
mod names;
mod pod;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::error::{ApiError, Cause};
use crate::event::to_core;
use crate::object::{self, child_mut, map_mut, meta_mut, set_or_remove, stamp, text};
use crate::registry::{self, Behaviour, Resource};

/// What a write is aimed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The object; its status is left alone where it has a subresource of its own.
    Object,
    /// Its status only.
    Status,
}

/// What happens to fields that a custom resource's schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped with a warning.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// Brings a body into stored form: type, namespace and name agree with the path, nothing in `metadata` that is the server's.
///
/// # Errors
/// 400 where body and path disagree.
pub fn incoming(
    res: &Resource,
    namespace: &str,
    name: Option<&str>,
    mut body: Value,
) -> Result<Value, ApiError> {
    let Value::Object(map) = &mut body else {
        return Err(ApiError::bad_request("the body is not an object"));
    };
    let (version, kind) = (res.api_version(), &res.kind);
    let given = map.entry("apiVersion").or_insert_with(|| json!(version));
    if *given != version.as_str() {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({version})",
            given.as_str().unwrap_or_default()
        )));
    }
    let given = map.entry("kind").or_insert_with(|| json!(kind));
    if given != kind {
        return Err(ApiError::bad_request(format!(
            "the kind in the data ({}) does not match the expected kind ({kind})",
            given.as_str().unwrap_or_default()
        )));
    }
    if res.behaviour == Behaviour::NewEvent {
        body = to_core(body);
    }
    if !matches!(body.get("metadata"), None | Some(Value::Object(_))) {
        return Err(ApiError::bad_request("metadata is not an object"));
    }
    names::check_types(&body)?;
    let meta = meta_mut(&mut body);
    meta.remove("managedFields");
    meta.remove("selfLink");
    let given = meta
        .get("namespace")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if res.namespaced {
        if !given.is_empty() && given != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta.insert("namespace".to_owned(), json!(namespace));
    } else {
        meta.remove("namespace");
    }
    if let Some(name) = name {
        let given = meta.get("name").and_then(Value::as_str).unwrap_or(name);
        if given != name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({given}) does not match the name on the URL ({name})"
            )));
        }
        meta.insert("name".to_owned(), json!(name));
    }
    Ok(body)
}

/// Prepares and validates a new object; returns warnings.
///
/// # Errors
/// 422 with the broken fields.
pub fn create(
    res: &Resource,
    object: &mut Value,
    fields: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let now = stamp(Timestamp::now());
    let meta = meta_mut(object);
    if meta.get("resourceVersion").is_some_and(|v| v != "") {
        return Err(ApiError::version_on_create());
    }
    for server in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        meta.remove(server);
    }
    let named = |key: &str| meta.get(key).and_then(Value::as_str).unwrap_or_default();
    if named("name").is_empty() {
        let base = named("generateName");
        if base.is_empty() {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(ApiError::invalid(res, "", &[cause]));
        }
        let name = object::generated_name(base);
        meta.insert("name".to_owned(), json!(name));
    }
    meta.insert("uid".to_owned(), json!(object::new_uid()));
    meta.insert("creationTimestamp".to_owned(), json!(now));
    if res.generation {
        meta.insert("generation".to_owned(), json!(1));
    }
    match res.behaviour {
        Behaviour::Pod => pod::create(object),
        Behaviour::Namespace => {
            let name = json!(object::name(object));
            map_mut(meta_mut(object).entry("labels").or_insert(Value::Null))
                .insert("kubernetes.io/metadata.name".to_owned(), name);
            child_mut(object, "spec").insert("finalizers".to_owned(), json!(["kubernetes"]));
            map_mut(object).insert("status".to_owned(), json!({"phase": "Active"}));
        }
        Behaviour::Custom if res.status => {
            map_mut(object).remove("status");
        }
        _ => {}
    }
    let warnings = custom(res, object, fields)?;
    check(res, object, None)?;
    if res.behaviour == Behaviour::Definition {
        registry::established(object, &now);
    }
    Ok(warnings)
}

/// Turns a proposed state into the next one: restores what this write may not touch, validates, counts the generation;
/// returns warnings.
///
/// # Errors
/// 422 with the broken fields.
pub fn update(
    res: &Resource,
    target: Target,
    current: &Value,
    new: &mut Value,
    fields: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let begins = new["metadata"].get("deletionTimestamp");
    if !object::deleting(current) && begins.is_some_and(|time| !time.is_null()) {
        let begins = begins.cloned().unwrap_or_default();
        let cause = Cause::invalid("metadata.deletionTimestamp", &begins, "field is immutable");
        return Err(ApiError::invalid(res, object::name(current), &[cause]));
    }
    restore_metadata(current, new);
    let status = |from: &Value| from.get("status").cloned();
    match target {
        Target::Status => {
            let mut next = current.clone();
            set_or_remove(map_mut(&mut next), "status", status(new));
            if res.behaviour != Behaviour::Custom {
                for key in ["labels", "annotations"] {
                    let value = new["metadata"].get(key).cloned();
                    set_or_remove(meta_mut(&mut next), key, value);
                }
            }
            *new = next;
        }
        Target::Object if res.status => {
            set_or_remove(map_mut(new), "status", status(current));
        }
        Target::Object => {}
    }
    if res.behaviour == Behaviour::Namespace {
        let kept = current["spec"]["finalizers"].clone();
        child_mut(new, "spec").insert("finalizers".to_owned(), kept);
    }
    let warnings = custom(res, new, fields)?;
    check(res, new, Some(current))?;
    if res.behaviour == Behaviour::Definition {
        registry::established(new, text(current, "/metadata/creationTimestamp"));
    }
    if res.generation && differs(res, current, new) {
        let next = current["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        meta_mut(new).insert("generation".to_owned(), json!(next));
    }
    Ok(warnings)
}

/// What a client cannot change in `metadata`.
fn restore_metadata(current: &Value, new: &mut Value) {
    let meta = meta_mut(new);
    for key in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        set_or_remove(meta, key, current["metadata"].get(key).cloned());
    }
}

/// Whether anything differs that the generation counts: all but metadata, and the status where it is a subresource.
fn differs(res: &Resource, a: &Value, b: &Value) -> bool {
    let counted = |v: &Value| {
        let mut v = v.clone();
        let map = map_mut(&mut v);
        map.remove("metadata");
        if res.status {
            map.remove("status");
        }
        v
    };
    counted(a) != counted(b)
}

/// Pruning and defaults of custom resources.
fn custom(
    res: &Resource,
    object: &mut Value,
    fields: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let Some(schema) = &res.schema else {
        return Ok(Vec::new());
    };
    let unknown: Vec<String> = schema
        .prune(object)
        .iter()
        .map(|path| format!("unknown field \"{path}\""))
        .collect();
    schema.fill(object);
    match fields {
        FieldValidation::Strict if !unknown.is_empty() => Err(ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: strict decoding error: {}",
            res.kind,
            res.version,
            res.kind,
            unknown.join(", ")
        ))),
        FieldValidation::Warn => Ok(unknown),
        _ => Ok(Vec::new()),
    }
}

fn check(res: &Resource, object: &Value, current: Option<&Value>) -> Result<(), ApiError> {
    let mut causes = names::check(res, object);
    if let Some(current) = current {
        causes.extend(names::check_finalizers(current, object));
    }
    causes.extend(match (res.behaviour, current) {
        (Behaviour::Pod, None) => pod::check(object),
        (Behaviour::Pod, Some(current)) => pod::check_update(current, object),
        (Behaviour::Event, None) => event::check(object, false),
        (Behaviour::NewEvent, None) => event::check(object, true),
        (Behaviour::Definition, _) => registry::validate_crd(object),
        _ => Vec::new(),
    });
    if let Some(schema) = &res.schema {
        causes.extend(schema.check(object));
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(res, object::name(object), &causes))
    }
}
