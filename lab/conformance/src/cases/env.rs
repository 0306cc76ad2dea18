//! Variables: which are needed, what they may hold, what is done with those that nobody asked for.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::call::Call;
use crate::case::{Case, Tier, case, inapplicable};
use crate::rig::Asked;
use crate::stage::Stage;
use crate::version::Version;

use Tier::{Netns, Protocol};

const TABLE: &[&str] = &["skel: required and optional env vars"];

pub const CASES: &[Case] = &[
    case(
        Protocol,
        "reports_all_missing_variables_together",
        &["4a"],
        all_missing,
    )
    .ported(&["skel: reports all missing"]),
    case(Protocol, "required_variables_of_add", &["5a"], required_add).ported(TABLE),
    case(
        Protocol,
        "required_variables_of_check",
        &["5b"],
        required_check,
    )
    .ported(TABLE)
    .since(Version::V0_4_0),
    case(Protocol, "required_variables_of_del", &["5c"], required_del).ported(TABLE),
    case(
        Netns,
        "gc_and_status_need_no_variables",
        &["5d"],
        required_gc_status,
    )
    .ported(TABLE)
    .since(Version::V1_1_0),
    case(
        Protocol,
        "version_needs_no_variables",
        &["5e"],
        required_version,
    )
    .ported(TABLE),
    case(
        Netns,
        "cni_path_is_not_needed_without_delegates",
        &["5f"],
        no_cni_path,
    ),
    case(Protocol, "unrecognized_command", &["4b"], unknown_command)
        .ported(&["skel: unrecognized command"]),
    case(Protocol, "no_command_prints_what_it_is", &["4c"], about)
        .ported(&["skel: about string"])
        .once(),
    case(
        Protocol,
        "container_id_has_invalid_characters",
        &["6a"],
        container_id,
    )
    .ported(&["skel: containerID has invalid characters"]),
    case(Protocol, "interface_name_is_too_long", &["6c"], |s| {
        ifname(s, "abcdefghijklmnop")
    })
    .ported(&["skel: interface name too long"]),
    case(Protocol, "interface_name_is_a_dot", &["6c"], |s| {
        ifname(s, ".")
    })
    .ported(&["skel: interface name is ."]),
    case(Protocol, "interface_name_is_two_dots", &["6c"], |s| {
        ifname(s, "..")
    })
    .ported(&["skel: interface name is .."]),
    case(Protocol, "interface_name_has_a_slash", &["6c"], |s| {
        ifname(s, "test/test")
    })
    .ported(&["skel: interface name contains /"]),
    case(Protocol, "interface_name_has_a_colon", &["6c"], |s| {
        ifname(s, "test:test")
    })
    .ported(&["skel: interface name contains :"]),
    case(Protocol, "interface_name_has_a_blank", &["6c"], |s| {
        ifname(s, "test test")
    })
    .ported(&["skel: interface name contains whitespace characters"]),
    case(Netns, "names_of_full_length_are_taken", &["6d"], longest).once(),
    case(
        Protocol,
        "the_pod_of_cni_args_reaches_the_agent",
        &["7a"],
        args_reach,
    )
    .ported(&["skel: extracts env vars and stdin"]),
    case(Netns, "unknown_cni_args_are_ignored", &["7a"], args_unknown),
    case(
        Netns,
        "malformed_cni_args_do_not_stop_del",
        &["7b"],
        args_malformed,
    ),
    case(
        Netns,
        "add_into_its_own_namespace_is_refused",
        &["8a"],
        own_add,
    ),
    case(
        Netns,
        "del_in_its_own_namespace_touches_nothing",
        &["8b"],
        own_del,
    ),
    case(
        Netns,
        "the_override_permits_its_own_namespace",
        &["8c"],
        own_override,
    ),
    case(Netns, "variables_of_tracing_do_no_harm", &["9a"], tracing),
    case(Netns, "a_failure_names_the_trace", &["9b"], trace_named).once(),
];

fn all_missing(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for (command, missing) in [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"]),
    ] {
        let call = stage.call(command, &pod).only(&["CNI_COMMAND", "CNI_PATH"]);
        call.run()?.code(4)?.naming(missing)?;
    }
    stage.nothing_was_asked()
}

fn required(stage: &Stage<'_>, command: &str, names: &[&str]) -> Result<()> {
    let pod = stage.pod()?;
    for name in names {
        for call in [
            stage.call(command, &pod).without(name),
            stage.call(command, &pod).env(name, ""),
        ] {
            call.run()?.code(4)?.naming(&[name])?;
        }
    }
    stage.nothing_was_asked()
}

fn required_add(stage: &mut Stage<'_>) -> Result<()> {
    required(
        stage,
        "ADD",
        &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
    )
}

fn required_check(stage: &mut Stage<'_>) -> Result<()> {
    required(
        stage,
        "CHECK",
        &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
    )
}

/// That CNI_NETNS may be absent is `del_without_a_namespace`.
fn required_del(stage: &mut Stage<'_>) -> Result<()> {
    required(stage, "DEL", &["CNI_CONTAINERID", "CNI_IFNAME"])
}

fn required_gc_status(stage: &mut Stage<'_>) -> Result<()> {
    let only = |call: Call| call.only(&["CNI_COMMAND", "CNI_PATH"]);
    only(stage.query("STATUS"))
        .run()?
        .silent()
        .context("STATUS")?;
    let gc = stage
        .query("GC")
        .with(&json!({ "cni.dev/valid-attachments": [] }))?;
    only(gc).run()?.silent().context("GC")
}

fn required_version(stage: &mut Stage<'_>) -> Result<()> {
    stage
        .query("VERSION")
        .only(&["CNI_COMMAND"])
        .run()?
        .result()?;
    stage.nothing_was_asked()
}

fn no_cni_path(stage: &mut Stage<'_>) -> Result<()> {
    if stage.rig.subject.delegates() {
        return Err(inapplicable("it delegates"));
    }
    let pod = stage.pod()?;
    stage
        .call("ADD", &pod)
        .without("CNI_PATH")
        .run()?
        .result()?;
    stage.call("DEL", &pod).without("CNI_PATH").run()?.silent()
}

fn unknown_command(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for command in ["NOSUCH", "add", "ADD "] {
        stage
            .call(command, &pod)
            .run()?
            .code(4)?
            .naming(&[command])?;
    }
    stage.nothing_was_asked()
}

fn about(stage: &mut Stage<'_>) -> Result<()> {
    let ended = stage.query("").only(&[]).run()?;
    ended.silent()?;
    let version = stage.version.text();
    ensure!(
        ended.stderr.contains(version),
        ended.said("its versions are not on stderr")
    );
    Ok(())
}

fn container_id(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    for id in ["../x", "-x", ".x", "_x", "a/b", "a b", "a%b", "ü"] {
        for command in ["ADD", "DEL"] {
            let call = stage.call(command, &pod).env("CNI_CONTAINERID", id);
            call.run()?.refusal().context(id)?;
        }
    }
    stage.nothing_was_asked()
}

fn ifname(stage: &mut Stage<'_>, name: &str) -> Result<()> {
    let pod = stage.pod()?;
    for command in ["ADD", "DEL"] {
        stage
            .call(command, &pod)
            .env("CNI_IFNAME", name)
            .run()?
            .refusal()?;
    }
    stage.nothing_was_asked()
}

fn longest(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let id = format!("A{}", "0123456789abcdef_.-".repeat(10));
    let name = "abcdefghijklmno";
    let call = |command| {
        stage
            .call(command, &pod)
            .env("CNI_CONTAINERID", &id)
            .env("CNI_IFNAME", name)
    };
    call("ADD").run()?.result()?;
    let made = pod.link(name)?;
    call("DEL").run()?.silent()?;
    ensure!(made.is_some(), "no {name}");
    Ok(())
}

fn args_reach(stage: &mut Stage<'_>) -> Result<()> {
    let fake = stage.fake()?;
    let pod = stage.pod()?;
    let args = "K8S_POD_NAMESPACE=shop;K8S_POD_INFRA_CONTAINER_ID=z;K8S_POD_UID=u-1;X=a=b;IgnoreUnknown=1;K8S_POD_NAME=web";
    stage
        .call("ADD", &pod)
        .env("CNI_ARGS", args)
        .run()?
        .result()?;
    let asked = fake.asked();
    let [Asked::Add(request)] = asked.as_slice() else {
        anyhow::bail!("one ADD was to be asked: {asked:?}");
    };
    let said = request.pod.clone().context("no pod")?;
    let all = (
        said.namespace.as_str(),
        said.name.as_str(),
        said.uid.as_str(),
    );
    ensure!(all == ("shop", "web", "u-1"), "{said:?}");
    let key = request.key.clone().context("no key")?;
    let key = (key.container_id.as_str(), key.ifname.as_str());
    ensure!(key == (pod.id.as_str(), "eth0"), "{key:?}");
    Ok(())
}

fn args_unknown(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let call = |command| {
        stage
            .call(command, &pod)
            .env("CNI_ARGS", "FOO=bar;IgnoreUnknown=1;K8S_POD_NAME=web;X=")
    };
    call("ADD").run()?.result()?;
    call("DEL").run()?.silent()
}

fn args_malformed(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    stage.add(&pod)?;
    let malformed = stage
        .call("DEL", &pod)
        .env("CNI_ARGS", "not;pairs=;=;;")
        .run()?;
    let left = pod.link("eth0")?;
    stage.call("DEL", &pod).run()?.silent()?;
    malformed.silent()?;
    ensure!(left.is_none(), "eth0 is still there");
    Ok(())
}

fn own_add(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let call = stage.call("ADD", &pod).inside(&pod.path);
    let ended = call.run()?;
    let left = pod.link("eth0")?;
    stage.call("DEL", &pod).run()?.silent()?;
    ended.code(8)?;
    ensure!(left.is_none(), "it refused after it had made eth0");
    Ok(())
}

fn own_del(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    // Something of another that only has the name.
    pod.ip("link add eth0 type veth peer name other")?;
    let ended = stage.call("DEL", &pod).inside(&pod.path).run()?;
    ensure!(
        pod.link("eth0")?.is_some(),
        "eth0 of its own namespace is gone"
    );
    if ended.exit != Some(0) {
        ended.code(8)?;
    }
    Ok(())
}

fn own_override(stage: &mut Stage<'_>) -> Result<()> {
    for word in ["1", "true", "True", "TRUE"] {
        let pod = stage.pod()?;
        let call = |command| {
            stage
                .call(command, &pod)
                .inside(&pod.path)
                .env("CNI_NETNS_OVERRIDE", word)
        };
        let ended = call("ADD").run()?;
        call("DEL").run()?;
        if ended.exit != Some(0) {
            let code = ended.refusal()?.code;
            ensure!(code != 8, ended.said("refused in spite of the override"));
        }
    }
    Ok(())
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn traced(call: Call) -> Call {
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let call = call
        .env("TRACEPARENT", parent)
        .env("TRACESTATE", "rojo=00f067aa0ba902b7");
    call.env("BAGGAGE", "userId=alice")
}

fn tracing(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    traced(stage.call("ADD", &pod)).run()?.result()?;
    traced(stage.call("DEL", &pod)).run()?.silent()
}

fn trace_named(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let call = stage
        .call("ADD", &pod)
        .env("CNI_NETNS", "/run/netns/conformance-never-was");
    let ended = traced(call).run()?;
    ended.refusal()?;
    ensure!(
        ended.stderr.contains(TRACE),
        ended.said("the trace is not on stderr")
    );
    Ok(())
}
