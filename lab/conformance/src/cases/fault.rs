//! Something dies, is silent, or comes at the wrong moment. Each case has a node of its own.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::call::Call;
use crate::case::{Case, Tier, case};
use crate::rig::{Pod, Snapshot, difference};
use crate::stage::Stage;
use crate::tools::{ip_json, wait_until};
use crate::version::Version;

use Tier::Fault;

const fn fault(
    name: &'static str,
    claims: &'static [&'static str],
    attempt: crate::case::Try,
) -> Case {
    case(Fault, name, claims, attempt).once()
}

pub const CASES: &[Case] = &[
    fault("add_without_the_agent", &["Fa"], no_agent_add),
    fault(
        "del_without_the_agent_is_made_up_for",
        &["Fb", "25c"],
        no_agent_del,
    ),
    fault("add_of_a_silent_agent_ends", &["Fc"], silent).ported(&["libcni: plugin timeout"]),
    fault(
        "the_plugin_killed_in_the_middle_of_add",
        &["Fd", "25c"],
        plugin_killed,
    ),
    fault(
        "the_agent_killed_in_the_middle_of_add",
        &["Fe", "25c"],
        agent_killed,
    ),
    fault("dels_at_the_same_time", &["Ff", "25c"], dels_at_once),
    fault("a_failed_add_leaves_nothing", &["Fg"], failed_add),
    fault("del_while_add_goes_on", &["Fh", "25c"], del_during_add),
    fault("no_process_outlives_the_plugin", &["Fi"], no_process),
    case(
        Fault,
        "del_twice_after_a_killed_add",
        &["23a", "Fd"],
        killed_then_twice,
    )
    .until(Version::V0_4_0)
    .once(),
];

/// Within bounds nothing is left of what was not there before.
fn nothing_left(stage: &Stage<'_>, before: &Snapshot) -> Result<()> {
    let mut left = Vec::new();
    let clean = wait_until("nothing is left", || {
        left = difference(before, &stage.rig.snapshot()?);
        Ok(left.is_empty())
    });
    clean.with_context(|| left.join("; "))
}

fn no_link(pod: &Pod) -> Result<()> {
    wait_until("eth0 is gone", || Ok(pod.link("eth0")?.is_none()))
}

fn no_agent_add(stage: &mut Stage<'_>) -> Result<()> {
    stage.rig.kill_agent()?;
    let pod = stage.pod()?;
    let call = stage
        .call("ADD", &pod)
        .with(&json!({ "timeoutSeconds": 1 }))?;
    call.run()?.code(11)?;
    ensure!(pod.link("eth0")?.is_none(), "eth0 is there");
    Ok(())
}

fn no_agent_del(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.rig.snapshot()?;
    stage.rig.agent()?;
    let pod = stage.pod()?;
    stage.add(&pod)?;
    stage.rig.kill_agent()?;
    stage.call("DEL", &pod).run()?.silent()?;
    stage
        .call("DEL", &pod)
        .run()?
        .silent()
        .context("the second")?;
    stage.rig.start_agent(&[])?;
    no_link(&pod)?;
    nothing_left(stage, &before)
}

fn silent(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.rig.snapshot()?;
    let pod = stage.pod()?;
    stage.rig.agent()?.stop()?;
    let call = stage
        .call("ADD", &pod)
        .with(&json!({ "timeoutSeconds": 1 }))?;
    let ended = call.run();
    stage.rig.agent()?.go_on()?;
    ended?.code(11)?;
    stage.call("DEL", &pod).run()?.silent()?;
    no_link(&pod)?;
    nothing_left(stage, &before)
}

/// SIGKILL where something is made and nothing answered; what it had begun may go on.
fn kill_in_the_middle(stage: &mut Stage<'_>) -> Result<(Snapshot, Pod)> {
    let before = stage.rig.snapshot()?;
    stage.rig.hold_adds()?;
    let pod = stage.pod()?;
    let running = stage.call("ADD", &pod).start()?;
    stage.rig.await_held()?;
    running.kill()?;
    stage.rig.let_go()?;
    Ok((before, pod))
}

fn plugin_killed(stage: &mut Stage<'_>) -> Result<()> {
    let (before, pod) = kill_in_the_middle(stage)?;
    stage.call("DEL", &pod).run()?.silent()?;
    no_link(&pod)?;
    nothing_left(stage, &before)
}

fn killed_then_twice(stage: &mut Stage<'_>) -> Result<()> {
    let (before, pod) = kill_in_the_middle(stage)?;
    for _ in 0..2 {
        stage.call("DEL", &pod).run()?.silent()?;
    }
    no_link(&pod)?;
    nothing_left(stage, &before)
}

fn agent_killed(stage: &mut Stage<'_>) -> Result<()> {
    stage.rig.agent()?;
    let before = stage.rig.snapshot()?;
    stage.rig.hold_adds()?;
    let pod = stage.pod()?;
    let running = stage.call("ADD", &pod).start()?;
    stage.rig.await_held()?;
    stage.rig.kill_agent()?;
    stage.rig.start_agent(&[])?;
    let ended = running.wait()?;
    // Either it was asked again and succeeded, or it says that a repeat may.
    if ended.exit == Some(0) {
        let result = ended.result()?;
        let told = result["ips"].as_array().map_or(0, Vec::len);
        ensure!(
            pod.addresses()?.len() == told,
            "the pod has not what the result says"
        );
    } else {
        ended.code(11)?;
    }
    stage.call("DEL", &pod).run()?.silent()?;
    no_link(&pod)?;
    nothing_left(stage, &before)
}

fn dels_at_once(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.rig.snapshot()?;
    let pod = stage.pod()?;
    stage.add(&pod)?;
    let call = stage.call("DEL", &pod);
    let running = (0..6).map(|_| call.start()).collect::<Result<Vec<_>>>()?;
    let ended = running
        .into_iter()
        .map(|call| call.wait())
        .collect::<Result<Vec<_>>>()?;
    stage.call("DEL", &pod).run()?.silent()?;
    for (number, ended) in ended.iter().enumerate() {
        ended
            .silent()
            .with_context(|| format!("DEL {number} of several at once"))?;
    }
    no_link(&pod)?;
    nothing_left(stage, &before)
}

/// Refused because the interface exists: what was reserved before that was seen is free again.
fn failed_add(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.rig.snapshot()?;
    let pod = stage.pod()?;
    pod.ip("link add eth0 type veth peer name other")?;
    let ended = stage.call("ADD", &pod).run()?;
    pod.ip("link del other")?;
    ended.refusal()?;
    nothing_left(stage, &before)
}

fn del_during_add(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.rig.snapshot()?;
    stage.rig.hold_adds()?;
    let pod = stage.pod()?;
    let adding = stage.call("ADD", &pod).start()?;
    stage.rig.await_held()?;
    let deleting = stage.call("DEL", &pod).start()?;
    stage.rig.let_go()?;
    // Whichever came first: it ends, and the DEL that a runtime sends after a failed ADD clears up.
    let added = adding.wait()?;
    deleting.wait()?.silent().context("the DEL in between")?;
    if added.exit != Some(0) {
        added.refusal().context("the ADD that was in the middle")?;
    }
    stage.call("DEL", &pod).run()?.silent()?;
    no_link(&pod)?;
    nothing_left(stage, &before)
}

/// Processes whose environment has a mark that we set.
fn marked(mark: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("list /proc")? {
        let path = entry.context("list /proc")?.path();
        // Those that end meanwhile, and those of others, are none of ours.
        let Ok(environment) = std::fs::read(path.join("environ")) else {
            continue;
        };
        let mut variables = environment.split(|byte| *byte == 0);
        if variables.any(|variable| variable == mark.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

fn no_process(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let mark = format!("run-{}", pod.id);
    let with = |call: Call| call.env("CONFORMANCE_MARK", &mark);
    for command in ["ADD", "DEL", "VERSION"] {
        with(stage.call(command, &pod)).run()?;
        let left = marked(&format!("CONFORMANCE_MARK={mark}"))?;
        ensure!(left.is_empty(), "{command} left processes: {left:?}");
    }
    let links = ip_json(&pod.path, "link show")?;
    ensure!(
        links.iter().all(|link| link["ifname"] != "eth0"),
        "eth0 is still there"
    );
    Ok(())
}
