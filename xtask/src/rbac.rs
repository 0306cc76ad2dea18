//! Generates `deploy/base/rbac-*.yaml` from one table: who may do what to which objects, and why.

use std::fmt::Write;
use std::path::Path;

use crate::generated;

/// Namespace of the operator and the agents.
const NAMESPACE: &str = "kube-system";
/// Name of the webhook's Secret, Service and configuration (`deploy/base/webhook.yaml`).
const WEBHOOK: &str = "tombolo-webhook";

struct Grant {
    why: &'static str,
    group: &'static str,
    resources: &'static [&'static str],
    /// Only objects of these names; none: all.
    names: &'static [&'static str],
    verbs: &'static [&'static str],
}

struct Subject {
    name: &'static str,
    /// In all namespaces.
    cluster: &'static [Grant],
    /// In [`NAMESPACE`] only.
    local: &'static [Grant],
}

/// What a watch needs: it lists first.
const WATCH: &[&str] = &["list", "watch"];

const AGENT: Subject = Subject {
    name: "agent",
    cluster: &[
        Grant {
            why: "its node's NICs and addresses",
            group: "tombolo.dev",
            resources: &["netresourcesets"],
            names: &[],
            verbs: WATCH,
        },
        Grant {
            why: "status.agent: demand, use, answers to release",
            group: "tombolo.dev",
            resources: &["netresourcesets/status"],
            names: &[],
            verbs: &["patch"],
        },
        Grant {
            why: "one object for each pod attachment of its node",
            group: "tombolo.dev",
            resources: &["podendpoints"],
            names: &[],
            verbs: &["create", "delete", "list", "patch", "watch"],
        },
    ],
    local: &[Grant {
        why: "what went wrong on its node",
        group: "events.k8s.io",
        resources: &["events"],
        names: &[],
        verbs: &["create"],
    }],
};

const OPERATOR: Subject = Subject {
    name: "operator",
    cluster: &[
        Grant {
            why: "one for each node: plan, adoption, removal; one that somebody else wrote meanwhile is read at once",
            group: "tombolo.dev",
            resources: &["netresourcesets"],
            names: &[],
            verbs: &["create", "delete", "get", "list", "patch", "watch"],
        },
        Grant {
            why: "one for each NIC; an attempt to make one that is there reads it",
            group: "tombolo.dev",
            resources: &["enis"],
            names: &[],
            verbs: &["create", "delete", "get", "list", "patch", "watch"],
        },
        Grant {
            why: "conditions; state of NICs",
            group: "tombolo.dev",
            resources: &["netresourcesets/status", "enis/status"],
            names: &[],
            verbs: &["patch"],
        },
        Grant {
            why: "those of a node whose instance is gone",
            group: "tombolo.dev",
            resources: &["podendpoints"],
            names: &[],
            verbs: &["delete", "list"],
        },
        Grant {
            why: "which profile a node gets",
            group: "tombolo.dev",
            resources: &["networkprofiles"],
            names: &[],
            verbs: WATCH,
        },
        Grant {
            why: "nodes to serve, and their instances; the start-up taint",
            group: "",
            resources: &["nodes"],
            names: &[],
            verbs: &["list", "patch", "watch"],
        },
        Grant {
            why: "the condition NetworkUnavailable",
            group: "",
            resources: &["nodes/status"],
            names: &[],
            verbs: &["patch"],
        },
        Grant {
            why: "the webhook's caBundle",
            group: "admissionregistration.k8s.io",
            resources: &["validatingwebhookconfigurations"],
            names: &[WEBHOOK],
            verbs: &["get", "patch"],
        },
    ],
    local: &[
        Grant {
            why: "one active operator",
            group: "coordination.k8s.io",
            resources: &["leases"],
            names: &[],
            verbs: &["create"],
        },
        Grant {
            why: "its lease",
            group: "coordination.k8s.io",
            resources: &["leases"],
            names: &["tombolo-operator"],
            verbs: &["get", "update"],
        },
        Grant {
            why: "the webhook's certificate",
            group: "",
            resources: &["secrets"],
            names: &[WEBHOOK],
            verbs: &["get", "update"],
        },
        Grant {
            why: "on which node an agent is that wants to write",
            group: "",
            resources: &["pods"],
            names: &[],
            verbs: &["get"],
        },
        Grant {
            why: "full subnets, limits, failures of the cloud",
            group: "events.k8s.io",
            resources: &["events"],
            names: &[],
            verbs: &["create"],
        },
    ],
};

/// Writes the files; with `check`, only compares.
pub fn generate(root: &Path, check: bool) -> anyhow::Result<()> {
    for subject in [AGENT, OPERATOR] {
        let path = format!("deploy/base/rbac-{}.yaml", subject.name);
        generated::write(root, &path, &manifest(&subject)?, check)?;
    }
    Ok(())
}

fn manifest(subject: &Subject) -> Result<String, std::fmt::Error> {
    let name = format!("tombolo-{}", subject.name);
    let mut out = "# Generated from xtask/src/rbac.rs by `cargo xtask codegen`.\n".to_owned();
    write!(
        out,
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n  namespace: {NAMESPACE}\n"
    )?;
    let everywhere = ("ClusterRole", String::new(), subject.cluster);
    let place = format!("  namespace: {NAMESPACE}\n");
    for (kind, place, grants) in [everywhere, ("Role", place, subject.local)] {
        if grants.is_empty() {
            continue;
        }
        let head = |kind: &str| {
            format!(
                "---\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: {name}\n{place}"
            )
        };
        writeln!(out, "{}rules:", head(kind))?;
        for grant in grants {
            writeln!(out, "  # {}", grant.why)?;
            writeln!(out, "  - apiGroups: [\"{}\"]", grant.group)?;
            writeln!(out, "    resources: [{}]", grant.resources.join(", "))?;
            if !grant.names.is_empty() {
                writeln!(out, "    resourceNames: [{}]", grant.names.join(", "))?;
            }
            writeln!(out, "    verbs: [{}]", grant.verbs.join(", "))?;
        }
        write!(
            out,
            "{}roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: {kind}\n  name: {name}\nsubjects:\n  - kind: ServiceAccount\n    name: {name}\n    namespace: {NAMESPACE}\n",
            head(&format!("{kind}Binding"))
        )?;
    }
    Ok(out)
}
