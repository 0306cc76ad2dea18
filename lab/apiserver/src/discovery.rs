//! Discovery documents: the plain ones, the aggregated one, and the version.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::registry::{Registry, Resource};

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// `/version`. The number says which clients it is meant for; what is served is less.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "32", "gitVersion": "v1.32.0-tombolo-lab", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": "linux",
    })
}

/// `/api`.
pub fn core_versions() -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    })
}

/// `/apis`.
pub fn groups(registry: &Registry) -> Value {
    let groups: Vec<Value> = registry
        .groups()
        .iter()
        .map(|(name, versions)| group_body(name, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
pub fn group(registry: &Registry, name: &str) -> Option<Value> {
    let groups = registry.groups();
    let mut body = group_body(name, groups.get(name)?);
    body["kind"] = json!("APIGroup");
    body["apiVersion"] = json!("v1");
    Some(body)
}

fn group_body(name: &str, versions: &[String]) -> Value {
    let entry = |v: &String| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    json!({
        "name": name,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry),
    })
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    let mut group_version = None;
    for r in members(registry, group, version) {
        group_version = Some(r.api_version());
        list.push(json!({
            "name": r.plural, "singularName": r.singular, "namespaced": r.namespaced, "kind": r.kind, "verbs": VERBS,
            "shortNames": r.short_names, "categories": r.categories,
        }));
        for sub in r.subresources() {
            list.push(json!({
                "name": format!("{}/{sub}", r.plural), "singularName": "", "namespaced": r.namespaced,
                "kind": sub_kind(r, sub), "verbs": sub_verbs(sub),
            }));
        }
    }
    let group_version = group_version?;
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

/// `/api` or `/apis` for clients that take everything in one document of `apidiscovery.k8s.io/<version>`.
pub fn aggregated(registry: &Registry, core: bool, document: &str) -> Value {
    let mut groups: BTreeMap<String, Vec<String>> = registry.groups();
    if core {
        groups = BTreeMap::from([(String::new(), vec!["v1".to_owned()])]);
    }
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = members(registry, group, version)
                        .map(|r| aggregated_resource(r))
                        .collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{document}"),
        "metadata": {}, "items": items,
    })
}

fn aggregated_resource(r: &Resource) -> Value {
    let kind = |kind: &str| json!({"group": r.group, "version": r.version, "kind": kind});
    let subs: Vec<Value> = r
        .subresources()
        .into_iter()
        .map(|sub| {
            json!({"subresource": sub, "responseKind": kind(sub_kind(r, sub)), "verbs": sub_verbs(sub)})
        })
        .collect();
    json!({
        "resource": r.plural, "responseKind": kind(&r.kind), "singularResource": r.singular, "verbs": VERBS,
        "scope": if r.namespaced { "Namespaced" } else { "Cluster" },
        "shortNames": r.short_names, "categories": r.categories, "subresources": subs,
    })
}

fn members<'a>(
    registry: &'a Registry,
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = &'a Arc<Resource>> {
    registry
        .all()
        .filter(move |r| r.group == group && r.version == version)
}

fn sub_kind<'a>(r: &'a Resource, sub: &str) -> &'a str {
    if sub == "binding" { "Binding" } else { &r.kind }
}

fn sub_verbs(sub: &str) -> &'static [&'static str] {
    if sub == "binding" {
        &["create"]
    } else {
        &["get", "patch", "update"]
    }
}
