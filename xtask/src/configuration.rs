//! Generates `docs/configuration.md` from what decides: the programs' flags as their sources declare them, the schema of
//! NetworkProfile, and the fields of a network configuration.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, bail};
use kube::CustomResourceExt;
use serde_json::Value;
use tombolo_api::NetworkProfile;

use crate::{crd, generated};

mod flags;

const PAGE: &str = "docs/configuration.md";

/// A command, where its flags are declared, and in which struct.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("tombolo-agent run", "bin/agent/src/config.rs", "RunArgs"),
    (
        "tombolo-agent uninstall",
        "bin/agent/src/config.rs",
        "UninstallArgs",
    ),
    ("tombolo-operator", "bin/operator/src/config.rs", "Args"),
    ("tombolo install", "bin/tombolo/src/node.rs", "Install"),
    ("tombolo uninstall", "bin/tombolo/src/node.rs", "Uninstall"),
];

/// Fields of the plugin's network configuration: field, default, meaning. The plugin reads them untyped
/// (`bin/cni/src/config.rs`), so that a complaint can name the field.
const CONFLIST: &[(&str, &str, &str)] = &[
    (
        "cniVersion, cniVersions",
        "",
        "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0",
    ),
    (
        "name",
        "",
        "Of the network: one attachment for each network that a pod is in.",
    ),
    ("plugins[].type", "", "`tombolo-cni`"),
    (
        "plugins[].capabilities",
        "",
        "What the runtime may ask for each pod: `portMappings`.",
    ),
    (
        "plugins[].agentSocket",
        "/run/tombolo/agent.sock",
        "Absolute path, at most 107 bytes.",
    ),
    (
        "plugins[].timeoutSeconds",
        "60",
        "How long an ADD may take in all, 1 to 220.",
    ),
];

const HEAD: &str = "\
<!-- Generated from the sources by `cargo xtask codegen`. -->
# Configuration

A flag beats its variable. In a cluster the variables are in the ConfigMaps `tombolo-config` (both programs),
`tombolo-operator-config` and `tombolo-agent-config` of `kube-system`; an overlay adds to them (`deploy/base/kustomization.yaml`). A
value that cannot be is refused at start, with the name of its flag.
";

/// Writes the page; with `check`, only compares.
pub fn generate(root: &Path, check: bool) -> anyhow::Result<()> {
    let mut page = HEAD.to_owned();
    for (command, path, name) in COMMANDS {
        let source =
            std::fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))?;
        let flags = flags::of(&source, name).with_context(|| format!("{path}: {name}"))?;
        writeln!(page, "\n## `{command}`\n")?;
        page.push_str("| flag | variable | default | |\n|---|---|---|---|\n");
        for flag in flags {
            let variable = flag.variable.map(|name| format!("`{name}`"));
            let default = flag.default.filter(|value| !value.is_empty());
            let default = default.map(|value| format!("`{value}`"));
            writeln!(
                page,
                "| `--{}` | {} | {} | {} |",
                flag.long,
                variable.unwrap_or_default(),
                default.unwrap_or_default(),
                cell(&flag.about)
            )?;
        }
    }
    page.push_str("\n## NetworkProfile\n\n");
    page.push_str("How pods of the nodes that it selects get and use their network. `deploy/profile/default.yaml` is the one that is\nbuilt in.\n\n");
    page.push_str("| field of `spec` | values | default | |\n|---|---|---|---|\n");
    let profile = crd::with_limits(&NetworkProfile::crd())?;
    let spec = profile
        .pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
        .context("the CRD has a schema of spec")?;
    let mut rules = Vec::new();
    fields(&mut page, &mut rules, "", spec)?;
    page.push('\n');
    for rule in rules {
        writeln!(page, "- {rule}")?;
    }
    page.push_str("\n## Network configuration\n\n");
    page.push_str("The agent writes `05-tombolo.conflist` where `--cni-conf-dir` says. Who writes one by hand may use:\n\n");
    page.push_str("| field | default | |\n|---|---|---|\n");
    for (field, default, about) in CONFLIST {
        writeln!(page, "| `{field}` | {default} | {about} |")?;
    }
    generated::write(root, PAGE, &page, check)
}

/// The rows of an object's fields, those inside them included, and its rules.
fn fields(
    page: &mut String,
    rules: &mut Vec<String>,
    path: &str,
    schema: &Value,
) -> anyhow::Result<()> {
    let all = schema.get("x-kubernetes-validations");
    for rule in all.and_then(Value::as_array).into_iter().flatten() {
        let place = if path.is_empty() { "spec" } else { path };
        let message = rule.get("message").and_then(Value::as_str);
        rules.push(format!("`{place}`: {}", message.unwrap_or_default()));
    }
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        bail!("{path} has no fields");
    };
    for (name, schema) in properties {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        if schema.get("properties").is_some() {
            fields(page, rules, &path, schema)?;
            continue;
        }
        let about = schema.get("description").and_then(Value::as_str);
        let default = match schema.get("default") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => format!("`{text}`"),
            Some(value) => format!("`{value}`"),
        };
        writeln!(
            page,
            "| `{path}` | {} | {default} | {} |",
            values(schema),
            cell(about.unwrap_or_default())
        )?;
    }
    Ok(())
}

/// What a field may be.
fn values(schema: &Value) -> String {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        let words = words.iter().filter_map(Value::as_str);
        return words
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", ");
    }
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or("any");
    let range = |field: &str| schema.get(field).and_then(Value::as_f64);
    match (kind, range("minimum"), range("maximum")) {
        ("object", ..) => "map of texts".to_owned(),
        ("array", ..) => "list of texts".to_owned(),
        ("integer", Some(from), Some(to)) => format!("{from} to {to}"),
        ("integer", Some(from), None) => format!("from {from}"),
        (kind, ..) => kind.to_owned(),
    }
}

/// In one line of a table.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}
