//! The built-in kinds.

use std::sync::Arc;

use super::{Behaviour, Resource};

/// Name, short names (comma separated) and categories of one built-in kind.
struct Row {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    namespaced: bool,
    status: bool,
    behaviour: Behaviour,
    fields: &'static [&'static str],
}

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];
const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];

const fn plain(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
) -> Row {
    Row {
        group,
        version: "v1",
        kind,
        plural,
        short,
        namespaced: true,
        status: false,
        behaviour: Behaviour::Plain,
        fields: &[],
    }
}

const ROWS: &[Row] = &[
    plain("", "ConfigMap", "configmaps", "cm"),
    plain("", "Endpoints", "endpoints", "ep"),
    Row {
        behaviour: Behaviour::Event,
        fields: EVENT_FIELDS,
        ..plain("", "Event", "events", "ev")
    },
    Row {
        namespaced: false,
        status: true,
        behaviour: Behaviour::Namespace,
        fields: &["status.phase"],
        ..plain("", "Namespace", "namespaces", "ns")
    },
    Row {
        namespaced: false,
        status: true,
        behaviour: Behaviour::Node,
        fields: &["spec.unschedulable"],
        ..plain("", "Node", "nodes", "no")
    },
    Row {
        status: true,
        behaviour: Behaviour::Pod,
        fields: POD_FIELDS,
        ..plain("", "Pod", "pods", "po")
    },
    Row {
        fields: &["type"],
        ..plain("", "Secret", "secrets", "")
    },
    plain("", "ServiceAccount", "serviceaccounts", "sa"),
    Row {
        status: true,
        fields: &["spec.clusterIP", "spec.type"],
        ..plain("", "Service", "services", "svc")
    },
    // Kept, and asked for nothing: the lab has no accounts that could be told apart.
    Row {
        namespaced: false,
        ..plain(
            "admissionregistration.k8s.io",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "",
        )
    },
    Row {
        namespaced: false,
        status: true,
        behaviour: Behaviour::Definition,
        ..plain(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "crd,crds",
        )
    },
    // What installs the product: kept and shown, and nobody acts on it.
    Row {
        status: true,
        ..plain("apps", "DaemonSet", "daemonsets", "ds")
    },
    Row {
        status: true,
        ..plain("apps", "Deployment", "deployments", "deploy")
    },
    Row {
        // As Kubernetes has it before 1.21.
        version: "v1beta1",
        status: true,
        ..plain(
            "policy",
            "PodDisruptionBudget",
            "poddisruptionbudgets",
            "pdb",
        )
    },
    Row {
        namespaced: false,
        ..plain(
            "rbac.authorization.k8s.io",
            "ClusterRole",
            "clusterroles",
            "",
        )
    },
    Row {
        namespaced: false,
        ..plain(
            "rbac.authorization.k8s.io",
            "ClusterRoleBinding",
            "clusterrolebindings",
            "",
        )
    },
    plain("rbac.authorization.k8s.io", "Role", "roles", ""),
    plain(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        "rolebindings",
        "",
    ),
    plain("coordination.k8s.io", "Lease", "leases", ""),
    plain("discovery.k8s.io", "EndpointSlice", "endpointslices", ""),
    Row {
        behaviour: Behaviour::NewEvent,
        fields: EVENT_FIELDS,
        ..plain("events.k8s.io", "Event", "events", "ev")
    },
];

/// The built-in kinds.
pub fn resources() -> Vec<Resource> {
    ROWS.iter().map(resource).collect()
}

fn resource(row: &Row) -> Resource {
    let words = |list: &str| -> Vec<String> {
        list.split(',')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect()
    };
    // Both forms of Event are one collection.
    let collection = match row.behaviour {
        Behaviour::NewEvent => "events".to_owned(),
        _ if row.group.is_empty() => row.plural.to_owned(),
        _ => format!("{}.{}", row.plural, row.group),
    };
    let in_all = matches!(row.plural, "pods" | "services");
    Resource {
        group: row.group.to_owned(),
        version: row.version.to_owned(),
        kind: row.kind.to_owned(),
        list_kind: format!("{}List", row.kind),
        plural: row.plural.to_owned(),
        singular: row.kind.to_lowercase(),
        short_names: words(row.short),
        categories: words(if in_all { "all" } else { "" }),
        namespaced: row.namespaced,
        status: row.status,
        generation: row.behaviour == Behaviour::Definition,
        unconditional_update: !matches!(row.plural, "leases" | "customresourcedefinitions"),
        create_on_update: matches!(row.plural, "leases" | "events" | "endpoints"),
        collection: Arc::from(collection),
        behaviour: row.behaviour,
        schema: None,
        columns: Vec::new(),
        fields: row.fields.iter().map(|f| (*f).to_owned()).collect(),
    }
}
