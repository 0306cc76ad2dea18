//! The same input to the plugin under test and to Debian's `ptp` and `bridge`: results must have the same shape, refusals the
//! same code.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::call::Call;
use crate::case::{Case, Tier, case};
use crate::rig::{Pod, Rig};
use crate::stage::Stage;
use crate::subject::Subject;
use crate::version::Version;

use Tier::Differential;

pub const CASES: &[Case] = &[
    case(
        Differential,
        "the_result_has_the_shape_of_the_references",
        &["La", "12a", "12b", "12c"],
        shape,
    )
    .until(Version::V1_0_0),
    case(
        Differential,
        "the_result_has_only_what_the_version_knows",
        &["La"],
        known,
    ),
    case(
        Differential,
        "malformed_input_gets_the_references_code",
        &["Lb"],
        codes,
    )
    .until(Version::V1_0_0),
];

/// Fields that a version knows, with their types; entries of lists are one.
fn fields(version: Version) -> BTreeSet<String> {
    let mut known = vec![
        "cniVersion:string",
        "interfaces:list",
        "interfaces[].name:string",
        "interfaces[].mac:string",
        "interfaces[].sandbox:string",
        "ips:list",
        "ips[].address:string",
        "ips[].gateway:string",
        "ips[].interface:number",
        "routes:list",
        "routes[].dst:string",
        "routes[].gw:string",
        "dns:object",
        "dns.nameservers:list",
        "dns.search:list",
        "dns.options:list",
        "dns.domain:string",
    ];
    if version < Version::V1_0_0 {
        known.push("ips[].version:string");
    }
    if version >= Version::V1_1_0 {
        known.extend([
            "interfaces[].mtu:number",
            "interfaces[].socketPath:string",
            "interfaces[].pciID:string",
            "routes[].mtu:number",
            "routes[].advmss:number",
            "routes[].priority:number",
            "routes[].table:number",
            "routes[].scope:number",
        ]);
    }
    known.into_iter().map(str::to_owned).collect()
}

fn shape_of(value: &Value) -> BTreeSet<String> {
    let mut shape = BTreeSet::new();
    walk("", value, &mut shape);
    shape
}

fn walk(path: &str, value: &Value, shape: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    };
    if !path.is_empty() && !path.ends_with(']') {
        shape.insert(format!("{path}:{kind}"));
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                walk(&format!("{path}{dot}{name}"), value, shape);
            }
        }
        // What strings a list holds is no field.
        Value::Array(values) => values
            .iter()
            .filter(|value| value.is_object())
            .for_each(|value| walk(&format!("{path}[]"), value, shape)),
        _ => {}
    }
}

/// The result that Debian's plugin gives in a rig of its own.
fn reference(kind: &str, version: Version) -> Result<Value> {
    let mut rig = Rig::with_node(&Subject::reference(kind)?, version)?;
    let stage = Stage {
        rig: &mut rig,
        version,
    };
    let pod = stage.pod()?;
    stage
        .add(&pod)
        .with_context(|| format!("{kind}, for comparison"))
}

fn own(stage: &Stage<'_>) -> Result<Value> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    stage.del(&pod, &result)?;
    Ok(result)
}

fn shape(stage: &mut Stage<'_>) -> Result<()> {
    let own = shape_of(&own(stage)?);
    let ptp = shape_of(&reference("ptp", stage.version)?);
    let bridge = shape_of(&reference("bridge", stage.version)?);
    let common: BTreeSet<&String> = ptp.intersection(&bridge).collect();
    // The reference writes an empty dns; newer ones leave it out.
    let missing = common
        .iter()
        .filter(|field| !own.contains(**field) && **field != "dns:object");
    let missing: Vec<_> = missing.collect();
    ensure!(missing.is_empty(), "without {missing:?}");
    Ok(())
}

fn known(stage: &mut Stage<'_>) -> Result<()> {
    let own = shape_of(&own(stage)?);
    let unknown: Vec<_> = own.difference(&fields(stage.version)).cloned().collect();
    ensure!(
        unknown.is_empty(),
        "{unknown:?} in version {}",
        stage.version
    );
    Ok(())
}

/// Malformed calls; none of them comes as far as making something.
fn malformed(rig: &Rig, version: Version) -> Result<Vec<(&'static str, Call)>> {
    let pod = Pod::without_namespace();
    let add = rig.call("ADD", version.text(), &pod);
    let del = rig.call("DEL", version.text(), &pod);
    Ok(vec![
        ("unknown command", add.clone().env("CNI_COMMAND", "NOSUCH")),
        (
            "ADD without CNI_CONTAINERID",
            add.clone().without("CNI_CONTAINERID"),
        ),
        ("ADD without CNI_NETNS", add.clone().without("CNI_NETNS")),
        ("ADD without CNI_IFNAME", add.clone().without("CNI_IFNAME")),
        (
            "DEL without CNI_CONTAINERID",
            del.clone().without("CNI_CONTAINERID"),
        ),
        ("DEL without CNI_IFNAME", del.clone().without("CNI_IFNAME")),
        ("no JSON", add.clone().bytes("{")),
        (
            "version not supported",
            add.clone().with(&json!({ "cniVersion": "9.9.9" }))?,
        ),
        ("no name", add.clone().with(&json!({ "name": null }))?),
        ("bad name", add.clone().with(&json!({ "name": "a b" }))?),
        ("DEL: no name", del.with(&json!({ "name": null }))?),
        (
            "interface name too long",
            add.clone().env("CNI_IFNAME", "abcdefghijklmnop"),
        ),
        (
            "interface name with a slash",
            add.clone().env("CNI_IFNAME", "a/b"),
        ),
        ("bad container id", add.env("CNI_CONTAINERID", "../x")),
    ])
}

fn codes(stage: &mut Stage<'_>) -> Result<()> {
    let rig = Rig::plain(&Subject::reference("ptp")?)?;
    let theirs = malformed(&rig, stage.version)?;
    let mut others = Vec::new();
    for ((what, theirs), (_, ours)) in theirs.into_iter().zip(malformed(stage.rig, stage.version)?)
    {
        let theirs = theirs
            .run()?
            .refusal()
            .with_context(|| format!("ptp: {what}"))?;
        let ours = ours.run()?.refusal().context(what)?;
        if ours.code != theirs.code {
            others.push(format!("{what}: {} instead of {}", ours.code, theirs.code));
        }
    }
    ensure!(others.is_empty(), "{}", others.join("; "));
    Ok(())
}
