//! Generates `deploy/crds/*.yaml` from the types of `edge/api`, with the limits that the types cannot say.

use std::path::Path;

use anyhow::{Context, bail};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use tombolo_api::{Eni, NetResourceSet, NetworkProfile, PodEndpoint};

use crate::generated;

/// A limit on a field or an object, by its place in the schema of `spec`.
struct Limit {
    plural: &'static str,
    /// Field names from `spec` on.
    field: &'static [&'static str],
    kind: Kind,
}

enum Kind {
    /// An integer from, to (both included).
    Range(u32, u32),
    /// A CEL expression on the object, and what to tell whoever breaks it. Kubernetes 1.20 drops it; the operator says the
    /// same (`bin/operator/src/profile.rs`, where a test compares the two).
    Cel(&'static str, &'static str),
    /// A list of so many texts, each of which matches.
    Texts(u32, &'static str),
}

/// The least MTU that IPv4 hosts must take (RFC 791), and the greatest that clouds offer.
const MTU: Kind = Kind::Range(576, 9500);
/// A NIC's mark and table follow from its device index.
const DEVICE_INDEX: Kind = Kind::Range(
    0,
    tombolo_core::datapath::conventions::MAX_DEVICE_INDEX as u32,
);
const WARM: Kind = Kind::Cel(
    "!has(self.warmMin) || !has(self.warmMax) || self.warmMin <= self.warmMax",
    "warmMin must not exceed warmMax",
);
const MTU_OF_IPV6: Kind = Kind::Cel(
    "!has(self.mtu) || self.mtu >= 1280 || (has(self.ipFamilies) && self.ipFamilies == 'IPv4')",
    "mtu must be at least 1280 where pods have IPv6 (RFC 8200)",
);

const EXCLUDE: Kind = Kind::Cel(
    "!has(self.exclude) || self.exclude.size() == 0 || !has(self.enabled) || self.enabled",
    "exclude is for where translation is enabled",
);
const SUBNETS: Kind = Kind::Cel(
    "!has(self.ids) || self.ids.size() == 0 || !has(self.tags) || self.tags.size() == 0",
    "ids or tags, not both",
);
const LABELS: Kind = Kind::Cel("!('' in self)", "a label has a name");

const LIMITS: &[Limit] = &[
    Limit {
        plural: "networkprofiles",
        field: &[],
        kind: MTU_OF_IPV6,
    },
    Limit {
        plural: "networkprofiles",
        field: &["nodeSelector"],
        kind: LABELS,
    },
    Limit {
        plural: "networkprofiles",
        field: &["pool", "warmMax"],
        kind: Kind::Range(0, 10_000),
    },
    Limit {
        plural: "networkprofiles",
        field: &["pool", "coolingSeconds"],
        kind: Kind::Range(0, 3600),
    },
    Limit {
        plural: "networkprofiles",
        field: &["pool", "waitSeconds"],
        kind: Kind::Range(0, 100),
    },
    Limit {
        plural: "networkprofiles",
        field: &["snat"],
        kind: EXCLUDE,
    },
    Limit {
        plural: "networkprofiles",
        field: &["snat", "exclude"],
        // IPv6 is never translated.
        kind: Kind::Texts(256, "^[0-9./]+$"),
    },
    Limit {
        plural: "networkprofiles",
        field: &["subnets"],
        kind: SUBNETS,
    },
    Limit {
        plural: "networkprofiles",
        field: &["subnets", "ids"],
        kind: Kind::Texts(256, "^.+$"),
    },
    Limit {
        plural: "networkprofiles",
        field: &["securityGroups"],
        kind: Kind::Texts(16, "^.+$"),
    },
    Limit {
        plural: "networkprofiles",
        field: &["mtu"],
        kind: MTU,
    },
    Limit {
        plural: "networkprofiles",
        field: &["pool"],
        kind: WARM,
    },
    Limit {
        plural: "netresourcesets",
        field: &["profile"],
        kind: MTU_OF_IPV6,
    },
    Limit {
        plural: "netresourcesets",
        field: &["profile", "mtu"],
        kind: MTU,
    },
    Limit {
        plural: "netresourcesets",
        field: &["profile", "pool"],
        kind: WARM,
    },
    Limit {
        plural: "enis",
        field: &["deviceIndex"],
        kind: DEVICE_INDEX,
    },
];

/// Writes the files; with `check`, only compares.
pub fn generate(root: &Path, check: bool) -> anyhow::Result<()> {
    for crd in [
        NetworkProfile::crd(),
        NetResourceSet::crd(),
        Eni::crd(),
        PodEndpoint::crd(),
    ] {
        let plural = crd.spec.names.plural.clone();
        let value = with_limits(&crd)?;
        let yaml = serde_norway::to_string(&value)
            .with_context(|| format!("write the CRD of {plural} as YAML"))?;
        let text = format!("# Generated from edge/api by `cargo xtask codegen`.\n{yaml}");
        generated::write(root, &format!("deploy/crds/{plural}.yaml"), &text, check)?;
    }
    Ok(())
}

/// The definition as it is installed.
pub fn with_limits(crd: &CustomResourceDefinition) -> anyhow::Result<Value> {
    let plural = &crd.spec.names.plural;
    let mut value =
        serde_json::to_value(crd).with_context(|| format!("serialise the CRD of {plural}"))?;
    limit(plural, &mut value)?;
    drop_empty_defaults(&mut value);
    refuse_false_properties(plural, &value)?;
    Ok(value)
}

fn limit(plural: &str, crd: &mut Value) -> anyhow::Result<()> {
    for limit in LIMITS.iter().filter(|limit| limit.plural == plural) {
        let mut pointer = "/spec/versions/0/schema/openAPIV3Schema/properties/spec".to_owned();
        for field in limit.field {
            pointer.push_str("/properties/");
            pointer.push_str(field);
        }
        let schema = crd.pointer_mut(&pointer).and_then(Value::as_object_mut);
        let schema = schema
            .with_context(|| format!("{plural} has no field spec.{}", limit.field.join(".")))?;
        match limit.kind {
            Kind::Range(from, to) => {
                schema.insert("minimum".to_owned(), from.into());
                schema.insert("maximum".to_owned(), to.into());
            }
            Kind::Cel(rule, message) => {
                schema.insert(
                    "x-kubernetes-validations".to_owned(),
                    json!([{ "rule": rule, "message": message }]),
                );
            }
            Kind::Texts(most, pattern) => {
                schema.insert("maxItems".to_owned(), most.into());
                schema["items"]["pattern"] = pattern.into();
            }
        }
    }
    Ok(())
}

/// Kubernetes 1.20 takes no empty text as a default, and absence says the same to whoever reads the object.
fn drop_empty_defaults(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("default").and_then(Value::as_str) == Some("") {
                fields.remove("default");
            }
            fields.values_mut().for_each(drop_empty_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty_defaults),
        _ => {}
    }
}

/// A structural schema knows no `additionalProperties: false`: unknown fields are pruned. A CRD with it is refused.
fn refuse_false_properties(plural: &str, schema: &Value) -> anyhow::Result<()> {
    match schema {
        Value::Object(fields) => {
            if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
                bail!("the schema of {plural} is not structural: additionalProperties is false");
            }
            fields
                .values()
                .try_for_each(|value| refuse_false_properties(plural, value))
        }
        Value::Array(items) => items
            .iter()
            .try_for_each(|value| refuse_false_properties(plural, value)),
        _ => Ok(()),
    }
}
