//! Exit codes, streams, the error object.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::case::{Case, Tier, case, inapplicable};
use crate::stage::Stage;
use crate::subject::Kind;
use crate::version::Version;

use Tier::{Netns, Protocol};

pub const CASES: &[Case] = &[
    case(
        Protocol,
        "a_failure_exits_non_zero_with_one_object_on_stdout",
        &["1a", "1b", "1c"],
        failure,
    )
    .ported(&["skel: typed error as-is"]),
    case(
        Protocol,
        "the_error_has_code_and_message",
        &["3a"],
        code_and_message,
    ),
    case(Protocol, "the_error_has_a_version", &["3b"], error_version),
    case(Protocol, "stdin_that_cannot_be_read", &["3d"], unreadable)
        .ported(&["skel: stdin cannot be read"]),
    case(
        Protocol,
        "codes_are_those_of_the_specification_or_from_100_on",
        &["3f"],
        codes,
    ),
    case(
        Netns,
        "what_it_does_not_support_is_refused_with_key_and_value",
        &["3c"],
        unsupported,
    ),
    case(
        Netns,
        "without_an_address_left_it_says_try_again",
        &["3e", "Fg"],
        exhausted,
    )
    .once(),
    case(
        Netns,
        "success_exits_0",
        &["1a", "2a", "2b", "19a"],
        success,
    ),
    case(Netns, "check_prints_nothing", &["2c"], check_silent).since(Version::V0_4_0),
];

/// Of a network without a name.
fn failure(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for command in ["ADD", "DEL"] {
        let call = stage.call(command, &pod).with(&json!({ "name": null }))?;
        call.run()?.refusal()?;
    }
    stage.nothing_was_asked()
}

fn code_and_message(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for bytes in ["", "{", "[]"] {
        let refusal = stage.call("ADD", &pod).bytes(bytes).run()?.refusal()?;
        let message = refusal.object["msg"].as_str().unwrap_or_default();
        ensure!(!message.is_empty(), "no msg in {}", refusal.object);
    }
    stage.nothing_was_asked()
}

fn error_version(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let call = stage.call("ADD", &pod).with(&json!({ "name": null }))?;
    let refusal = call.run()?.refusal()?;
    let version = &refusal.object["cniVersion"];
    ensure!(
        version == stage.version.text(),
        "cniVersion {version} in {}",
        refusal.object
    );
    Ok(())
}

fn unreadable(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for command in ["ADD", "DEL"] {
        stage
            .call(command, &pod)
            .stdin_unreadable()
            .run()?
            .code(5)?;
    }
    stage.nothing_was_asked()
}

fn codes(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let call = stage.call("ADD", &pod);
    let calls = [
        call.clone().env("CNI_COMMAND", "NOSUCH"),
        call.clone().without("CNI_NETNS"),
        call.clone().env("CNI_IFNAME", "a/b"),
        call.clone().env("CNI_CONTAINERID", "../x"),
        call.clone().bytes("{"),
        call.clone().with(&json!({ "name": null }))?,
        call.clone().with(&json!({ "name": "a b" }))?,
        call.clone().with(&json!({ "cniVersion": "9.0.0" }))?,
        call.with(&json!({ "cniVersion": "nine" }))?,
    ];
    for call in calls {
        let code = call.run()?.refusal()?.code;
        let known = matches!(code, 1..=8 | 11 | 50 | 51) || code >= 100;
        ensure!(known && code != 999, "code {code}");
    }
    stage.nothing_was_asked()
}

fn unsupported(stage: &mut Stage<'_>) -> Result<()> {
    let Kind::Tombolo { .. } = stage.rig.subject.kind else {
        return Err(inapplicable("it is not known what it would refuse"));
    };
    let pod = stage.pod()?;
    for (changes, key, value) in [
        (
            json!({ "ipam": { "type": "host-local" } }),
            "ipam.type",
            "host-local",
        ),
        (
            json!({ "runtimeConfig": { "ips": ["10.9.9.9/32"] } }),
            "ips",
            "10.9.9.9",
        ),
    ] {
        let call = stage.call("ADD", &pod).with(&changes)?;
        call.run()?.code(2)?.naming(&[key, value])?;
    }
    Ok(())
}

/// As many containers as it has addresses for; then one more, which leaves nothing; then one for each that goes.
fn exhausted(stage: &mut Stage<'_>) -> Result<()> {
    let mut held = Vec::new();
    let mut pod = stage.pod()?;
    let refused = loop {
        let ended = stage.call("ADD", &pod).run()?;
        if ended.exit != Some(0) {
            break ended;
        }
        held.push((std::mem::replace(&mut pod, stage.pod()?), ended.result()?));
        if held.len() > 64 {
            return Err(inapplicable("it has more than 64 addresses"));
        }
    };
    // First clear up, then judge.
    let left = pod.link("eth0")?;
    stage.call("DEL", &pod).run()?.silent()?;
    let one = held.len() / 2;
    stage.del(&held[one].0, &held[one].1)?;
    let again = stage.call("ADD", &pod).run()?;
    if let Ok(result) = again.result() {
        stage.del(&pod, &result)?;
    }
    for (index, (pod, result)) in held.iter().enumerate() {
        if index != one {
            stage.del(pod, result)?;
        }
    }
    again.result()?;
    ensure!(left.is_none(), "an ADD that failed left eth0");
    refused.code(11).map(drop)
}

fn success(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    ensure!(
        stage.conf().get("prevResult").is_none(),
        "this is to be the first plugin"
    );
    let ended = stage.call("ADD", &pod).run()?;
    let result = ended.result()?;
    stage.call("DEL", &pod).run()?.silent()?;
    ensure!(result["cniVersion"].is_string(), "no result: {result}");
    Ok(())
}

fn check_silent(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    stage.check(&pod, &result)?.run()?.silent()?;
    stage.del(&pod, &result)
}
