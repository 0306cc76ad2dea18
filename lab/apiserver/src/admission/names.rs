//! Names, labels, annotations and finalizers.

use serde_json::{Value, json};

use crate::error::{ApiError, Cause};
use crate::object::{self, list};
use crate::registry::{Behaviour, Resource};

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
     alphanumeric character";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end \
     with an alphanumeric character";

/// Maps of strings that are none do not decode in a real server.
pub fn check_types(object: &Value) -> Result<(), ApiError> {
    for key in ["labels", "annotations"] {
        let fine = match object["metadata"].get(key) {
            None | Some(Value::Null) => true,
            Some(Value::Object(map)) => map.values().all(Value::is_string),
            Some(_) => false,
        };
        if !fine {
            return Err(ApiError::bad_request(format!(
                "metadata.{key} is not a map of strings"
            )));
        }
    }
    for key in ["finalizers", "ownerReferences"] {
        if !matches!(
            object["metadata"].get(key),
            None | Some(Value::Null | Value::Array(_))
        ) {
            return Err(ApiError::bad_request(format!(
                "metadata.{key} is not a list"
            )));
        }
    }
    Ok(())
}

/// Everything that is wrong with an object's name, labels and owners.
pub fn check(res: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let label_only = res.behaviour == Behaviour::Namespace || res.plural == "services";
    let (valid, problem): (fn(&str) -> bool, _) = if label_only {
        (dns_label, LABEL)
    } else {
        (subdomain, SUBDOMAIN)
    };
    let name = object::name(object);
    if !valid(name) {
        causes.push(Cause::invalid("metadata.name", &json!(name), problem));
    }
    // The suffix may follow a dash and nothing else. Events of the core group are not asked for that.
    let base = object::text(object, "/metadata/generateName");
    let begun = base.strip_suffix('-').unwrap_or(base);
    if !base.is_empty() && res.behaviour != Behaviour::Event && !valid(begun) {
        let field = "metadata.generateName";
        causes.push(Cause::invalid(field, &json!(base), problem));
    }
    let labels = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    for (key, value) in labels.into_iter().flatten() {
        if !label_key(key) {
            causes.push(Cause::invalid(
                "metadata.labels",
                &json!(key),
                "must be a qualified name",
            ));
        }
        if !value.as_str().is_some_and(label_value) {
            causes.push(Cause::invalid(
                "metadata.labels",
                value,
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                 start and end with an alphanumeric character",
            ));
        }
    }
    for (i, owner) in list(object, "/metadata/ownerReferences").iter().enumerate() {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if object::text(owner, &format!("/{key}")).is_empty() {
                let field = format!("metadata.ownerReferences[{i}].{key}");
                causes.push(Cause::required(field, ""));
            }
        }
    }
    causes
}

/// No finalizer may be added once deletion has begun.
pub fn check_finalizers(current: &Value, new: &Value) -> Option<Cause> {
    if !object::deleting(current) {
        return None;
    }
    let had = list(current, "/metadata/finalizers");
    let added: Vec<&str> = list(new, "/metadata/finalizers")
        .iter()
        .filter(|f| !had.contains(f))
        .filter_map(Value::as_str)
        .collect();
    (!added.is_empty()).then(|| {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
        );
        Cause::forbidden("metadata.finalizers", &detail)
    })
}

fn dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 63
        && name.bytes().all(|b| inner(b) || b == b'-')
        && name.bytes().next().is_some_and(inner)
        && name.bytes().last().is_some_and(inner)
}

fn subdomain(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|part| {
            part.bytes().all(|b| inner(b) || b == b'-')
                && part.bytes().next().is_some_and(inner)
                && part.bytes().last().is_some_and(inner)
        })
}

fn label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => subdomain(prefix) && !name.is_empty() && label_value(name),
        None => !key.is_empty() && label_value(key),
    }
}

fn label_value(value: &str) -> bool {
    let edge = |b: Option<u8>| b.is_none_or(|b| b.is_ascii_alphanumeric());
    value.len() <= 63
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && edge(value.bytes().next())
        && edge(value.bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels() {
        for good in ["a", "a-b.c", "10.0.0.1"] {
            assert!(subdomain(good), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".a"] {
            assert!(!subdomain(bad), "{bad}");
        }
        assert!(!dns_label("a.b") && dns_label("a-b"));
        assert!(label_key("tombolo.dev/node") && !label_key("/x") && !label_key("a/b/c"));
        assert!(label_value("") && label_value("A_b.c") && !label_value("-a"));
    }
}
