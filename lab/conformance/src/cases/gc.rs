//! GC: what the list does not name goes, in this network and nowhere else.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::call::Call;
use crate::case::{Case, Tier, case};
use crate::rig::Pod;
use crate::stage::Stage;
use crate::tools::wait_until;
use crate::version::Version;

use Tier::{Fault, Netns};

const fn gc(
    name: &'static str,
    claims: &'static [&'static str],
    attempt: crate::case::Try,
) -> Case {
    case(Netns, name, claims, attempt).since(Version::V1_1_0)
}

pub const CASES: &[Case] = &[
    gc(
        "gc_removes_what_is_not_listed",
        &["Ga", "Gb", "2d", "Gh"],
        removes,
    )
    .ported(&["libcni: issues DEL and GC as necessary"]),
    gc("gc_with_an_empty_list_removes_all", &["Gc"], |s| {
        empties(s, &json!([]))
    }),
    gc("gc_with_null_removes_all", &["Gc"], |s| {
        empties(s, &Value::Null)
    }),
    gc("gc_without_a_list_is_refused", &["Gd"], no_list),
    gc("gc_leaves_other_networks_alone", &["Ge"], other_network),
    gc("gc_names_a_malformed_entry", &["Gi"], malformed),
    case(
        Fault,
        "gc_leaves_an_add_that_goes_on_alone",
        &["Gf"],
        in_flight,
    )
    .since(Version::V1_1_0),
];

/// GC with a list, written as text: `Call::with` takes null for "remove".
fn collect(stage: &Stage<'_>, valid: &Value) -> Result<Call> {
    let call = stage.query("GC").only(&["CNI_COMMAND", "CNI_PATH"]);
    let mut conf = call.configuration()?;
    conf["cni.dev/valid-attachments"] = valid.clone();
    conf["cni.dev/attachments"] = valid.clone();
    Ok(call.conf(&conf))
}

fn entry(pod: &Pod) -> Value {
    json!({ "containerID": pod.id, "ifname": "eth0" })
}

fn gone(pod: &Pod) -> Result<()> {
    wait_until("what is not listed is gone", || {
        Ok(pod.link("eth0")?.is_none())
    })
}

/// Two containers; a list decides.
fn removes(stage: &mut Stage<'_>) -> Result<()> {
    let (kept, lost) = (stage.pod()?, stage.pod()?);
    let result = stage.add(&kept)?;
    stage.add(&lost)?;
    let ended = collect(stage, &json!([entry(&kept)]))?.run()?;
    let judged = ended.silent().and_then(|()| gone(&lost));
    let checked = stage.check(&kept, &result)?.run()?;
    stage.call("DEL", &lost).run()?.silent()?;
    stage.del(&kept, &result)?;
    judged?;
    checked.silent().context("CHECK of what is listed")
}

fn empties(stage: &Stage<'_>, list: &Value) -> Result<()> {
    let pods = [stage.pod()?, stage.pod()?];
    for pod in &pods {
        stage.add(pod)?;
    }
    let ended = collect(stage, list)?.run()?;
    let judged = ended.silent().and_then(|()| pods.iter().try_for_each(gone));
    for pod in &pods {
        stage.call("DEL", pod).run()?.silent()?;
    }
    judged
}

fn no_list(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let ended = stage.query("GC").run()?;
    let checked = stage.check(&pod, &result)?.run()?;
    stage.del(&pod, &result)?;
    ended.code(7)?.naming(&["cni.dev/valid-attachments"])?;
    checked.silent().context("CHECK afterwards")
}

fn other_network(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let other = stage.rig.conf(stage.version.text(), 1);
    let result = stage.call("ADD", &pod).conf(&other).run()?.result()?;
    let ended = collect(stage, &json!([]))?.run()?;
    let check = stage.call("CHECK", &pod).conf(&other);
    let checked = check.with(&json!({ "prevResult": result }))?.run()?;
    stage.call("DEL", &pod).conf(&other).run()?.silent()?;
    ended.silent()?;
    checked.silent().context("CHECK afterwards")
}

fn malformed(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let mut judged = Ok(());
    for (list, word) in [
        (json!("all"), "valid-attachments"),
        (json!([entry(&pod), 3]), "[1]"),
        (json!([entry(&pod), { "ifname": "eth0" }]), "containerID"),
        (json!([entry(&pod), { "containerID": "x" }]), "ifname"),
        (
            json!([entry(&pod), { "containerID": "../x", "ifname": "eth0" }]),
            "../x",
        ),
    ] {
        let refused = collect(stage, &list)?.run()?.code(7);
        judged = judged.and(
            refused
                .and_then(|refusal| refusal.naming(&[word]))
                .map(drop),
        );
    }
    let checked = stage.check(&pod, &result)?.run()?;
    stage.del(&pod, &result)?;
    judged?;
    checked.silent().context("CHECK afterwards")
}

fn in_flight(stage: &mut Stage<'_>) -> Result<()> {
    stage.rig.hold_adds()?;
    let pod = stage.pod()?;
    let running = stage.call("ADD", &pod).start()?;
    stage.rig.await_held()?;
    let collecting = collect(stage, &json!([]))?.start()?;
    // Before that, nothing of it has begun that a plugin could know of.
    collecting.await_input_read()?;
    stage.rig.let_go()?;
    let added = running.wait()?;
    collecting.wait()?.silent().context("GC")?;
    let result = added.result().context("the ADD that went on")?;
    let checked = stage.check(&pod, &result)?.run()?;
    stage.del(&pod, &result)?;
    ensure!(
        checked.exit == Some(0),
        checked.said("CHECK afterwards failed")
    );
    Ok(())
}
