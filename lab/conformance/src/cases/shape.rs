//! What a result looks like in each version, by what the plugin prints: fields that must be there, fields that must not.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tombolo_rpc::Failure;

use crate::case::{Case, Tier, case};
use crate::rig::Script;
use crate::stage::Stage;
use crate::version::Version;

use Tier::{Netns, Protocol};

pub const CASES: &[Case] = &[
    case(
        Protocol,
        "the_agents_answer_in_the_shape_of_the_version",
        &["12a", "12b", "12c", "20d"],
        scripted,
    )
    .ported(&["types: encodes 1.1.0 and 0.4.0"]),
    case(
        Protocol,
        "refusals_of_the_agent_keep_word_and_code",
        &["3a", "3e", "3f"],
        refusals,
    ),
    case(
        Netns,
        "addresses_have_a_version_before_1_0_0",
        &["12a"],
        ip_version,
    )
    .ported(&["types: encodes 0.4.0"])
    .until(Version::V0_4_0),
    case(
        Netns,
        "addresses_have_no_version_from_1_0_0_on",
        &["12b"],
        no_ip_version,
    )
    .ported(&["types: encodes 1.1.0"])
    .since(Version::V1_0_0),
    case(
        Netns,
        "interfaces_have_no_mtu_before_1_1_0",
        &["12c"],
        no_mtu,
    )
    .until(Version::V1_0_0),
    case(
        Netns,
        "a_prev_result_of_the_version_is_accepted",
        &["12d", "19b"],
        prev_result,
    ),
    case(
        Netns,
        "a_prev_result_may_have_no_version",
        &["12e"],
        prev_result_without_version,
    ),
    case(
        Netns,
        "interface_index_0_and_no_index_are_handed_on",
        &["20h", "19b"],
        indices,
    )
    .ported(&["types: interface index 0", "types: missing index"]),
];

/// Fields of an object.
pub fn has(value: &Value, field: &str) -> bool {
    value.get(field).is_some()
}

/// Entries of a list, or nothing.
pub fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn versions_of_addresses(stage: &Stage<'_>, result: &Value) -> Result<()> {
    ensure!(!list(result, "ips").is_empty(), "no ips: {result}");
    for ip in list(result, "ips") {
        let v6 = ip["address"]
            .as_str()
            .is_some_and(|address| address.contains(':'));
        let expected = if v6 { "6" } else { "4" };
        if stage.version < Version::V1_0_0 {
            ensure!(ip["version"] == expected, "{ip}");
        } else {
            ensure!(!has(ip, "version"), "{ip}");
        }
    }
    Ok(())
}

fn fields_of_interfaces(stage: &Stage<'_>, result: &Value) -> Result<()> {
    ensure!(
        !list(result, "interfaces").is_empty(),
        "no interfaces: {result}"
    );
    for interface in list(result, "interfaces") {
        for field in ["mtu", "socketPath", "pciID"] {
            let known = stage.version >= Version::V1_1_0 || !has(interface, field);
            ensure!(known, "{field} in {interface}");
        }
    }
    Ok(())
}

fn scripted(stage: &mut Stage<'_>) -> Result<()> {
    stage.fake()?;
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    versions_of_addresses(stage, &result)?;
    fields_of_interfaces(stage, &result)?;
    let addresses: Vec<&Value> = list(&result, "ips")
        .iter()
        .map(|ip| &ip["address"])
        .collect();
    ensure!(
        addresses == ["10.0.1.7/32", "fd00::7/128"],
        "IPv4 is to be first: {addresses:?}"
    );
    let indices = list(&result, "ips")
        .iter()
        .map(|ip| ip["interface"].as_u64());
    for index in indices {
        let name = index.and_then(|index| result["interfaces"].get(usize::try_from(index).ok()?));
        ensure!(
            name.is_some_and(|entry| entry["name"] == "eth0"),
            "{result}"
        );
    }
    Ok(())
}

fn refusals(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for (reason, retryable, code) in [
        ("PoolEmpty", true, 11),
        ("NotReady", true, 11),
        ("InvalidConfig", false, 7),
        ("NetnsMismatch", false, 8),
        ("InterfaceExists", false, 102),
        ("KernelError", false, 100),
        ("AWordOfALaterAgent", false, 100),
    ] {
        let failure = Failure {
            reason: reason.to_owned(),
            message: "why so".to_owned(),
            retryable,
        };
        stage.fake()?.answer(Script::Refuse(failure));
        for command in ["ADD", "DEL"] {
            let ended = stage.call(command, &pod).run()?;
            let refusal = ended.code(code)?.naming(&[reason, "why so"])?;
            let version = &refusal.object["cniVersion"];
            ensure!(version == stage.version.text(), "{}", refusal.object);
        }
    }
    Ok(())
}

fn ip_version(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    stage.del(&pod, &result)?;
    versions_of_addresses(stage, &result)
}

fn no_ip_version(stage: &mut Stage<'_>) -> Result<()> {
    ip_version(stage)
}

fn no_mtu(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    stage.del(&pod, &result)?;
    fields_of_interfaces(stage, &result)
}

/// What a plugin before this one could have made in this pod.
fn earlier(stage: &Stage<'_>, sandbox: &str) -> Value {
    let mut ips = vec![
        json!({ "address": "127.0.0.1/8", "interface": 0 }),
        json!({ "address": "192.0.2.9/24" }),
    ];
    if stage.version < Version::V1_0_0 {
        for ip in &mut ips {
            ip["version"] = "4".into();
        }
    }
    json!({
        "cniVersion": stage.version.text(),
        "interfaces": [{ "name": "lo", "sandbox": sandbox }],
        "ips": ips,
        "routes": [{ "dst": "198.51.100.0/24", "gw": "127.0.0.1" }],
        "dns": { "nameservers": ["192.0.2.53"] },
    })
}

/// ADD after another plugin; the result and what came in.
fn chained(stage: &Stage<'_>, change: impl Fn(&mut Value)) -> Result<(Value, Value)> {
    let pod = stage.pod()?;
    let mut before = earlier(stage, &pod.path.to_string_lossy());
    change(&mut before);
    let result = stage.with_result("ADD", &pod, &before)?.run()?.result()?;
    let made = pod.link("eth0")?;
    stage.del(&pod, &result)?;
    ensure!(made.is_some(), "no eth0");
    Ok((before, result))
}

fn prev_result(stage: &mut Stage<'_>) -> Result<()> {
    let (before, result) = chained(stage, |_| {})?;
    let names: Vec<&Value> = list(&result, "interfaces")
        .iter()
        .map(|i| &i["name"])
        .collect();
    ensure!(
        names.contains(&&json!("lo")),
        "what came before is lost: {result}"
    );
    ensure!(
        list(&result, "routes").contains(&before["routes"][0]),
        "{result}"
    );
    ensure!(result["dns"] == before["dns"], "{result}");
    versions_of_addresses(stage, &result)
}

fn prev_result_without_version(stage: &mut Stage<'_>) -> Result<()> {
    let without = |before: &mut Value| {
        if let Some(fields) = before.as_object_mut() {
            fields.remove("cniVersion");
        }
    };
    chained(stage, without).map(drop)
}

fn indices(stage: &mut Stage<'_>) -> Result<()> {
    let (_, result) = chained(stage, |_| {})?;
    let entry = |address: &str| {
        let found = list(&result, "ips")
            .iter()
            .find(|ip| ip["address"] == address);
        found.ok_or_else(|| anyhow::anyhow!("{address} is lost: {result}"))
    };
    ensure!(entry("127.0.0.1/8")?["interface"] == 0, "{result}");
    ensure!(!has(entry("192.0.2.9/24")?, "interface"), "{result}");
    Ok(())
}
