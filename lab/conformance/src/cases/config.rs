//! The configuration: name, version, fields of others, requests of the runtime.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::case::{Case, Tier, case, inapplicable};
use crate::stage::Stage;
use crate::subject::Kind;
use crate::version::Version;

use Tier::{Netns, Protocol};

pub const CASES: &[Case] = &[
    case(Protocol, "name_is_missing", &["10a"], name_missing)
        .ported(&["skel: missing network name"]),
    case(Protocol, "name_is_no_name", &["10b", "6b"], name_bad)
        .ported(&["skel: invalid network name"]),
    case(Protocol, "check_with_a_bad_name", &["10b"], check_name)
        .ported(&["skel: CHECK: config bad name"])
        .since(Version::V0_4_0),
    case(Protocol, "gc_with_a_bad_name", &["10b"], gc_name)
        .ported(&["skel: GC: config bad name"])
        .since(Version::V1_1_0),
    case(Protocol, "no_json", &["10c"], no_json),
    case(Protocol, "no_configuration_at_all", &["10c"], empty),
    case(
        Protocol,
        "version_that_is_no_version",
        &["10d"],
        version_form,
    )
    .ported(&[
        "skel: CHECK, GC: config bad version",
        "skel: useful error of a bad version",
    ]),
    case(
        Protocol,
        "version_that_is_not_supported",
        &["10e"],
        version_unsupported,
    ),
    case(Netns, "no_version_is_0_1_0", &["10f"], version_absent)
        .ported(&["skel: missing cniVersion infers 0.1.0"])
        .once(),
    case(
        Netns,
        "unknown_fields_are_accepted",
        &["10g"],
        unknown_fields,
    ),
    case(
        Netns,
        "the_result_has_the_version_of_the_input",
        &["11a"],
        result_version,
    ),
    case(Netns, "capabilities_are_tolerated", &["15a"], |s| {
        harmless(
            s,
            &json!({ "capabilities": { "portMappings": true, "ips": true } }),
        )
    }),
    case(
        Netns,
        "requests_of_all_kinds_in_camel_case",
        &["16a", "17b"],
        camel,
    )
    .ported(&["libcni: correct runtime config for capabilities"]),
    case(
        Netns,
        "requests_of_all_kinds_in_the_spelling_of_go",
        &["16b", "17b"],
        go_names,
    ),
    case(
        Netns,
        "an_address_by_request_is_honoured_or_refused",
        &["17a"],
        ips,
    )
    .once(),
    case(
        Netns,
        "a_mac_by_request_is_honoured_or_refused",
        &["17a"],
        mac,
    )
    .ported(&["plugins: explicit MAC from RuntimeConfig"])
    .once(),
    case(Netns, "port_mappings_are_published", &["17c", "16a"], |s| {
        port_mappings(s, false)
    })
    .once(),
    case(
        Netns,
        "port_mappings_in_the_spelling_of_go_are_published",
        &["17c", "16b"],
        |s| port_mappings(s, true),
    )
    .once(),
    case(Netns, "dns_goes_into_the_result", &["17d"], |s| {
        dns(
            s,
            json!({ "servers": ["192.0.2.53"], "searches": ["shop.example"], "options": ["ndots:5"] }),
        )
    }),
    case(
        Netns,
        "dns_in_the_spelling_of_go_goes_into_the_result",
        &["17d", "16b"],
        |s| {
            dns(
                s,
                json!({ "Servers": ["192.0.2.53"], "Searches": ["shop.example"], "Options": ["ndots:5"] }),
            )
        },
    ),
    case(Netns, "labels_in_args_do_no_harm", &["17e"], |s| {
        harmless(
            s,
            &json!({ "args": { "cni": { "labels": [{ "key": "app", "value": "web" }] } } }),
        )
    }),
];

/// The configuration with changes is refused with this code by these commands.
fn refused(
    stage: &Stage<'_>,
    commands: &[&str],
    changes: &Value,
    code: u64,
    words: &[&str],
) -> Result<()> {
    let pod = stage.pod()?;
    for command in commands {
        let call = stage.call(command, &pod).with(changes)?;
        let refusal = call
            .run()?
            .code(code)
            .with_context(|| format!("{command} {changes}"))?;
        refusal.naming(words)?;
    }
    stage.nothing_was_asked()
}

fn name_missing(stage: &mut Stage<'_>) -> Result<()> {
    refused(
        stage,
        &["ADD", "DEL"],
        &json!({ "name": null }),
        7,
        &["name"],
    )?;
    refused(stage, &["ADD", "DEL"], &json!({ "name": "" }), 7, &["name"])
}

fn name_bad(stage: &mut Stage<'_>) -> Result<()> {
    for name in ["a b", "../etc", "-a", ".a", "a/b", "ü"] {
        refused(
            stage,
            &["ADD", "DEL"],
            &json!({ "name": name }),
            7,
            &["name"],
        )?;
    }
    Ok(())
}

fn check_name(stage: &mut Stage<'_>) -> Result<()> {
    refused(
        stage,
        &["CHECK"],
        &json!({ "name": "a b", "prevResult": {} }),
        7,
        &["name"],
    )
}

fn gc_name(stage: &mut Stage<'_>) -> Result<()> {
    let changes = json!({ "name": "a b", "cni.dev/valid-attachments": [] });
    refused(stage, &["GC"], &changes, 7, &["name"])
}

fn no_json(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for bytes in ["{", "nonsense", "[]", "3", "\"x\"", "\u{feff}{}"] {
        for command in ["ADD", "DEL"] {
            stage
                .call(command, &pod)
                .bytes(bytes)
                .run()?
                .code(6)
                .with_context(|| format!("{bytes:?}"))?;
        }
    }
    stage.nothing_was_asked()
}

fn empty(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for command in ["ADD", "DEL"] {
        stage.call(command, &pod).bytes("").run()?.code(6)?;
    }
    stage.nothing_was_asked()
}

fn version_form(stage: &mut Stage<'_>) -> Result<()> {
    let mut commands = vec!["ADD", "DEL"];
    if stage.version >= Version::V0_4_0 {
        commands.push("CHECK");
    }
    if stage.version >= Version::V1_1_0 {
        commands.extend(["GC", "STATUS"]);
    }
    for version in [json!("one"), json!("1.0.0.0"), json!(1)] {
        refused(
            stage,
            &commands,
            &json!({ "cniVersion": version }),
            6,
            &["ersion"],
        )?;
    }
    Ok(())
}

fn version_unsupported(stage: &mut Stage<'_>) -> Result<()> {
    for version in ["9.9.9", "2.0.0"] {
        refused(
            stage,
            &["ADD", "DEL"],
            &json!({ "cniVersion": version }),
            1,
            &[version],
        )?;
    }
    Ok(())
}

/// A plugin that knows 0.1.0 acts by it; one that does not says so.
fn version_absent(stage: &mut Stage<'_>) -> Result<()> {
    let spoken = stage.query("VERSION").run()?.result()?;
    let spoken = spoken["supportedVersions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let pod = stage.pod()?;
    let call = |command| {
        stage
            .call(command, &pod)
            .with(&json!({ "cniVersion": null }))
    };
    let ended = call("ADD")?.run()?;
    if spoken.contains(&json!("0.1.0")) {
        let result = ended.result()?;
        call("DEL")?.run()?.silent()?;
        ensure!(
            result.get("ips").is_none(),
            "not in the shape of 0.1.0: {result}"
        );
        return Ok(());
    }
    ended.code(1)?.naming(&["0.1.0"]).map(drop)
}

/// ADD, CHECK and DEL succeed with this in the configuration.
fn harmless(stage: &Stage<'_>, changes: &Value) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.call("ADD", &pod).with(changes)?.run()?.result()?;
    let checked = if stage.version >= Version::V0_4_0 {
        stage.check(&pod, &result)?.with(changes)?.run()?.silent()
    } else {
        Ok(())
    };
    let deleted = stage.call("DEL", &pod).with(changes)?.run()?;
    deleted.silent().context("DEL")?;
    checked.context("CHECK")
}

fn unknown_fields(stage: &mut Stage<'_>) -> Result<()> {
    harmless(
        stage,
        &json!({ "x-unknown": { "a": [null, 1, "b"] }, "disableCheck": false }),
    )
}

fn result_version(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    stage.del(&pod, &result)?;
    let version = &result["cniVersion"];
    ensure!(version == stage.version.text(), "cniVersion {version}");
    Ok(())
}

fn camel(stage: &mut Stage<'_>) -> Result<()> {
    harmless(
        stage,
        &json!({ "runtimeConfig": {
            "portMappings": [{ "hostPort": 18080, "containerPort": 80, "protocol": "tcp", "hostIP": "" }],
            "bandwidth": { "ingressRate": 8_000_000, "ingressBurst": 4_294_967_295_u64, "egressRate": 8_000_000, "egressBurst": 4_294_967_295_u64 },
            "dns": { "servers": ["192.0.2.53"], "searches": [], "options": [] },
            "ipRanges": [], "ips": [], "mac": "", "infinibandGUID": "", "deviceID": "",
            "aliases": { "net": ["web"] }, "cgroupPath": "/kubepods/pod1",
            "io.kubernetes.cri.pod-annotations": { "a": "b" },
        } }),
    )
}

/// As containerd sends it: its structures have no names for JSON.
fn go_names(stage: &mut Stage<'_>) -> Result<()> {
    harmless(
        stage,
        &json!({ "runtimeConfig": {
            "portMappings": [{ "HostPort": 18080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }],
            "bandwidth": { "IngressRate": 8_000_000, "IngressBurst": 4_294_967_295_u64, "EgressRate": 8_000_000, "EgressBurst": 4_294_967_295_u64 },
            "dns": { "Servers": ["192.0.2.53"], "Searches": [], "Options": [] },
            "io.kubernetes.cri.pod-annotations": {},
        } }),
    )
}

/// What was asked for either is there, or was refused with code 2.
fn honoured(
    stage: &Stage<'_>,
    changes: &Value,
    there: impl Fn(&crate::rig::Pod) -> Result<bool>,
) -> Result<()> {
    let pod = stage.pod()?;
    let ended = stage.call("ADD", &pod).with(changes)?.run()?;
    if ended.exit != Some(0) {
        return ended.code(2).map(drop);
    }
    let there = there(&pod)?;
    stage.call("DEL", &pod).with(changes)?.run()?.silent()?;
    ensure!(there, "{changes} was ignored");
    Ok(())
}

fn ips(stage: &mut Stage<'_>) -> Result<()> {
    let wanted = "10.88.0.9/28";
    let changes = json!({ "runtimeConfig": { "ips": [wanted] }, "capabilities": { "ips": true } });
    honoured(stage, &changes, |pod| {
        Ok(pod
            .addresses()?
            .iter()
            .any(|address| address.starts_with("10.88.0.9/")))
    })
}

fn mac(stage: &mut Stage<'_>) -> Result<()> {
    let wanted = "02:11:22:33:44:55";
    let changes = json!({ "runtimeConfig": { "mac": wanted }, "capabilities": { "mac": true } });
    honoured(stage, &changes, |pod| Ok(pod.eth0()?["address"] == wanted))
}

fn port_mappings(stage: &mut Stage<'_>, go: bool) -> Result<()> {
    let Kind::Tombolo { .. } = stage.rig.subject.kind else {
        return Err(inapplicable(
            "another plugin of the chain publishes ports for it",
        ));
    };
    let mapping = if go {
        json!({ "HostPort": 18081, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": "" })
    } else {
        json!({ "hostPort": 18081, "containerPort": 8080, "protocol": "tcp" })
    };
    let changes = json!({ "runtimeConfig": { "portMappings": [mapping] } });
    let pod = stage.pod()?;
    stage.call("ADD", &pod).with(&changes)?.run()?.result()?;
    let reached = super::chain::reaches_pod(stage, &pod, 8080, 18081);
    stage.call("DEL", &pod).with(&changes)?.run()?.silent()?;
    reached
}

fn dns(stage: &Stage<'_>, dns: Value) -> Result<()> {
    let Kind::Tombolo { .. } = stage.rig.subject.kind else {
        return Err(inapplicable(
            "the reference takes `dns` from the configuration alone",
        ));
    };
    let pod = stage.pod()?;
    let changes = json!({ "runtimeConfig": { "dns": dns } });
    let result = stage.call("ADD", &pod).with(&changes)?.run()?.result()?;
    stage.call("DEL", &pod).run()?.silent()?;
    let expected = json!({ "nameservers": ["192.0.2.53"], "search": ["shop.example"], "options": ["ndots:5"] });
    for (field, values) in expected.as_object().into_iter().flatten() {
        if result["dns"][field] != *values {
            bail!("dns of the result is {}", result["dns"]);
        }
    }
    Ok(())
}
