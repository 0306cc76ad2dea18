//! What a plugin passes on to the one from which it has its addresses: a script that writes down what it gets, then does what
//! host-local does.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::call::Call;
use crate::case::{Case, Tier, case, inapplicable};
use crate::rig::{Pod, write_script};
use crate::stage::Stage;
use crate::subject::{DEBIAN, Kind};
use crate::version::Version;

use Tier::Netns;

const RECORDER: &str = "conformance-recorder";

pub const CASES: &[Case] = &[
    case(
        Netns,
        "the_delegate_gets_variables_and_configuration",
        &["Da", "De"],
        same,
    ),
    case(Netns, "the_delegates_stderr_comes_through", &["Db"], stderr).once(),
    case(Netns, "del_is_passed_on", &["Dc"], |s| passed_on(s, "DEL")),
    case(Netns, "check_is_passed_on", &["Dc"], |s| {
        passed_on(s, "CHECK")
    })
    .since(Version::V0_4_0),
    case(
        Netns,
        "a_delegate_that_failed_gets_a_del",
        &["Dd"],
        failed_add,
    )
    .once(),
    case(Netns, "a_delegate_is_no_path", &["De"], no_path).once(),
];

/// The folder into which the recorder writes.
fn set_up(stage: &Stage<'_>, fails: bool) -> Result<PathBuf> {
    let Kind::Reference = stage.rig.subject.kind else {
        return Err(inapplicable(if stage.rig.subject.delegates() {
            "what its delegate is like is not known"
        } else {
            "it starts no other plugin"
        }));
    };
    let notes = stage.rig.bin().join("notes");
    std::fs::create_dir_all(&notes).context("make a folder for notes")?;
    for entry in std::fs::read_dir(&notes).context("list notes")? {
        std::fs::remove_file(entry.context("list notes")?.path()).context("remove a note")?;
    }
    let end = if fails {
        r#"[ "$CNI_COMMAND" = ADD ] && { echo '{"cniVersion":"1.0.0","code":100,"msg":"by script"}'; exit 1; }"#
    } else {
        ""
    };
    let script = format!(
        "#!/bin/sh\n\
         cd {} || exit 9\n\
         env >$CNI_COMMAND.env\n\
         cat >$CNI_COMMAND.conf\n\
         echo a word of the delegate >&2\n\
         {end}\n\
         exec {DEBIAN}/host-local <$CNI_COMMAND.conf\n",
        notes.display()
    );
    write_script(&stage.rig.bin(), RECORDER, &script)?;
    Ok(notes)
}

fn delegating(stage: &Stage<'_>, command: &str, pod: &Pod) -> Result<Call> {
    let mut ipam = stage.conf()["ipam"].take();
    ipam["type"] = RECORDER.into();
    ipam["x-unknown"] = json!({ "kept": [true, null] });
    stage.call(command, pod).with(&json!({ "ipam": ipam }))
}

fn same(stage: &mut Stage<'_>) -> Result<()> {
    let notes = set_up(stage, false)?;
    let pod = stage.pod()?;
    let call = delegating(stage, "ADD", &pod)?;
    call.run()?.result()?;
    delegating(stage, "DEL", &pod)?.run()?.silent()?;
    let env = std::fs::read_to_string(notes.join("ADD.env")).context("read a note")?;
    for line in [
        format!("CNI_CONTAINERID={}", pod.id),
        format!("CNI_NETNS={}", pod.path.display()),
        "CNI_IFNAME=eth0".to_owned(),
        format!("CNI_PATH={}", stage.rig.cni_path()),
        "CNI_ARGS=K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_UID=u-1"
            .to_owned(),
    ] {
        ensure!(
            env.lines().any(|have| have == line),
            "the delegate did not get {line}: {env}"
        );
    }
    let got = std::fs::read(notes.join("ADD.conf")).context("read a note")?;
    let got: Value = serde_json::from_slice(&got).context("decode a note")?;
    ensure!(got == call.configuration()?, "the delegate got {got}");
    Ok(())
}

fn stderr(stage: &mut Stage<'_>) -> Result<()> {
    set_up(stage, false)?;
    let pod = stage.pod()?;
    let ended = delegating(stage, "ADD", &pod)?.run()?;
    delegating(stage, "DEL", &pod)?.run()?.silent()?;
    ended.result()?;
    ensure!(
        ended.stderr.contains("a word of the delegate"),
        ended.said("its stderr is lost")
    );
    Ok(())
}

fn passed_on(stage: &Stage<'_>, command: &str) -> Result<()> {
    let notes = set_up(stage, false)?;
    let pod = stage.pod()?;
    let result = delegating(stage, "ADD", &pod)?.run()?.result()?;
    let mut ended = Ok(());
    if command == "CHECK" {
        let call = delegating(stage, "CHECK", &pod)?.with(&json!({ "prevResult": result }))?;
        ended = call.run()?.silent();
    }
    delegating(stage, "DEL", &pod)?.run()?.silent()?;
    ended?;
    ensure!(
        notes.join(format!("{command}.env")).exists(),
        "{command} was not passed on"
    );
    Ok(())
}

fn failed_add(stage: &mut Stage<'_>) -> Result<()> {
    let notes = set_up(stage, true)?;
    let pod = stage.pod()?;
    delegating(stage, "ADD", &pod)?.run()?.refusal()?;
    let undone = notes.join("DEL.env").exists();
    delegating(stage, "DEL", &pod)?.run()?.silent()?;
    ensure!(undone, "after its failed ADD the delegate got no DEL");
    Ok(())
}

fn no_path(stage: &mut Stage<'_>) -> Result<()> {
    set_up(stage, false)?;
    let pod = stage.pod()?;
    let mut ipam = stage.conf()["ipam"].take();
    for kind in [
        format!("{DEBIAN}/host-local"),
        "../bin/host-local".to_owned(),
        "no-such-plugin".to_owned(),
    ] {
        ipam["type"] = kind.as_str().into();
        let call = stage.call("ADD", &pod).with(&json!({ "ipam": ipam }))?;
        call.run()?.refusal().context(kind)?;
    }
    Ok(())
}
