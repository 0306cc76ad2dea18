//! CustomResourceDefinitions: their validation, their status, and the kinds that they serve.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Behaviour, Column, Resource};
use crate::error::Cause;
use crate::jsonpath::JsonPath;
use crate::object::{self, list, text};
use crate::schema::Schema;

/// Everything that is wrong with a definition.
pub fn validate(definition: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for pointer in [
        "/spec/group",
        "/spec/names/plural",
        "/spec/names/kind",
        "/spec/scope",
    ] {
        if text(definition, pointer).is_empty() {
            causes.push(Cause::required(pointer[1..].replace('/', "."), ""));
        }
    }
    let scope = text(definition, "/spec/scope");
    if !scope.is_empty() && !matches!(scope, "Cluster" | "Namespaced") {
        causes.push(Cause::unsupported(
            "spec.scope",
            &json!(scope),
            &[json!("Cluster"), json!("Namespaced")],
        ));
    }
    let wanted = format!(
        "{}.{}",
        text(definition, "/spec/names/plural"),
        text(definition, "/spec/group")
    );
    if object::name(definition) != wanted {
        causes.push(Cause::invalid(
            "metadata.name",
            &json!(object::name(definition)),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    let versions = list(definition, "/spec/versions");
    if versions.is_empty() {
        causes.push(Cause::required("spec.versions", ""));
    }
    let stored = versions.iter().filter(|v| v["storage"] == true).count();
    if !versions.is_empty() && stored != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &json!(stored),
            "must have exactly one version marked as storage version",
        ));
    }
    for (i, version) in versions.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        validate_version(version, &at, &mut causes);
    }
    causes
}

fn validate_version(version: &Value, at: &str, causes: &mut Vec<Cause>) {
    if text(version, "/name").is_empty() {
        causes.push(Cause::required(format!("{at}.name"), ""));
    }
    match version.pointer("/schema/openAPIV3Schema") {
        None => causes.push(Cause::required(
            format!("{at}.schema.openAPIV3Schema"),
            "schemas are required",
        )),
        Some(schema) => {
            if let Err(cause) = Schema::parse(schema, &format!("{at}.schema.openAPIV3Schema")) {
                causes.push(cause);
            }
        }
    }
    for (j, column) in list(version, "/additionalPrinterColumns")
        .iter()
        .enumerate()
    {
        let at = format!("{at}.additionalPrinterColumns[{j}]");
        if text(column, "/name").is_empty() {
            causes.push(Cause::required(format!("{at}.name"), ""));
        }
        let kind = &column["type"];
        let kinds = ["integer", "number", "string", "boolean", "date"].map(Value::from);
        if !kinds.contains(kind) {
            causes.push(Cause::unsupported(format!("{at}.type"), kind, &kinds));
        }
        if let Err(e) = JsonPath::parse(text(column, "/jsonPath")) {
            causes.push(Cause::invalid(
                format!("{at}.jsonPath"),
                &column["jsonPath"],
                &e.to_string(),
            ));
        }
    }
}

/// Fills in the defaults of `spec.names` and the status of a definition that is served from now on.
pub fn established(definition: &mut Value, now: &str) {
    let kind = text(definition, "/spec/names/kind").to_owned();
    let names = object::map_mut(
        object::child_mut(definition, "spec")
            .entry("names")
            .or_insert(Value::Null),
    );
    names
        .entry("singular")
        .or_insert_with(|| json!(kind.to_lowercase()));
    names
        .entry("listKind")
        .or_insert_with(|| json!(format!("{kind}List")));
    let names = Value::Object(names.clone());
    let spec = object::child_mut(definition, "spec");
    spec.entry("conversion")
        .or_insert_with(|| json!({"strategy": "None"}));
    let stored: Vec<Value> = list(definition, "/spec/versions")
        .iter()
        .filter(|v| v["storage"] == true)
        .map(|v| v["name"].clone())
        .collect();
    let since = list(definition, "/status/conditions")
        .first()
        .map_or_else(|| json!(now), |c| c["lastTransitionTime"].clone());
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since});
    let status = json!({
        "acceptedNames": names,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "storedVersions": stored,
    });
    object::map_mut(definition).insert("status".to_owned(), status);
}

/// The kinds that a valid definition serves. A definition that waits for its objects to go is served until then.
pub fn resources(definition: &Value) -> Vec<Resource> {
    let group = text(definition, "/spec/group");
    let plural = text(definition, "/spec/names/plural");
    let words = |pointer: &str| -> Vec<String> {
        list(definition, pointer)
            .iter()
            .filter_map(|w| w.as_str().map(str::to_owned))
            .collect()
    };
    list(definition, "/spec/versions")
        .iter()
        .filter(|v| v["served"] != false)
        .filter_map(|version| {
            let schema = version.pointer("/schema/openAPIV3Schema")?;
            let schema = Schema::parse(schema, "").ok()?;
            Some(Resource {
                group: group.to_owned(),
                version: text(version, "/name").to_owned(),
                kind: text(definition, "/spec/names/kind").to_owned(),
                list_kind: text(definition, "/spec/names/listKind").to_owned(),
                plural: plural.to_owned(),
                singular: text(definition, "/spec/names/singular").to_owned(),
                short_names: words("/spec/names/shortNames"),
                categories: words("/spec/names/categories"),
                namespaced: text(definition, "/spec/scope") == "Namespaced",
                status: version.pointer("/subresources/status").is_some(),
                generation: true,
                unconditional_update: false,
                create_on_update: false,
                collection: Arc::from(format!("{plural}.{group}")),
                behaviour: Behaviour::Custom,
                schema: Some(Arc::new(schema)),
                columns: list(version, "/additionalPrinterColumns")
                    .iter()
                    .map(column)
                    .collect(),
                fields: list(version, "/selectableFields")
                    .iter()
                    .map(|f| text(f, "/jsonPath").trim_start_matches('.').to_owned())
                    .collect(),
            })
        })
        .collect()
}

fn column(column: &Value) -> Column {
    let word = |name: &str| text(column, name).to_owned();
    Column {
        name: word("/name"),
        kind: word("/type"),
        format: word("/format"),
        description: word("/description"),
        priority: column["priority"].as_i64().unwrap_or(0),
        path: word("/jsonPath"),
    }
}

/// Order of versions as Kubernetes has it: v2 before v1, both before v1beta1, that before v1alpha1, others last.
pub fn version_rank(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = || (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else {
        return other();
    };
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let Ok(major) = rest[..end].parse() else {
        return other();
    };
    let (stage, minor) = match &rest[end..] {
        "" => (3, "0"),
        tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(n), _) => (2, n),
            (_, Some(n)) => (1, n),
            _ => return other(),
        },
    };
    match minor.parse() {
        Ok(minor) => (stage, major, minor, std::cmp::Reverse(String::new())),
        Err(_) => other(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rank_as_kubernetes_ranks_them() {
        let mut versions = vec!["v1alpha1", "foo", "v1", "v1beta2", "v10", "v2", "v1beta1"];
        versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]
        );
    }

    #[test]
    fn a_broken_definition_names_its_fields() {
        let broken = json!({
            "metadata": {"name": "x"},
            "spec": {
                "group": "g.io", "scope": "Galaxy", "names": {"plural": "things"},
                "versions": [{"name": "v1", "additionalPrinterColumns": [{"name": "A", "type": "text", "jsonPath": "["}]}],
            },
        });
        let fields: Vec<String> = validate(&broken).into_iter().map(|c| c.field).collect();
        assert_eq!(
            fields,
            [
                "spec.names.kind",
                "spec.scope",
                "metadata.name",
                "spec.versions",
                "spec.versions[0].schema.openAPIV3Schema",
                "spec.versions[0].additionalPrinterColumns[0].type",
                "spec.versions[0].additionalPrinterColumns[0].jsonPath",
            ]
        );
    }
}
