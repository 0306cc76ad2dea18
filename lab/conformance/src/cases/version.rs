//! VERSION, and commands that a version does not have.

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::call::Ended;
use crate::case::{Case, Tier, case};
use crate::stage::Stage;
use crate::version::Version;

use Tier::{Netns, Protocol};

pub const CASES: &[Case] = &[
    case(Protocol, "prints_its_versions", &["14a"], prints)
        .ported(&["skel: prints version"])
        .once(),
    case(
        Protocol,
        "version_answers_in_the_version_of_the_input",
        &["14b"],
        echoes,
    ),
    case(
        Protocol,
        "version_does_not_wait_for_stdin",
        &["14c"],
        silent_stdin,
    )
    .ported(&["skel: does not read stdin"])
    .once(),
    case(Protocol, "version_works_without_stdin", &["14d"], no_stdin).once(),
    case(
        Netns,
        "every_version_that_it_names_works",
        &["14e"],
        all_work,
    )
    .once(),
    case(Protocol, "check_before_0_4_0", &["13a"], |s| {
        too_old(s, "CHECK")
    })
    .ported(&["skel: CHECK: cniVersion below 0.4.0"])
    .until(Version::V0_3_1),
    case(Protocol, "gc_before_1_1_0", &["13b"], |s| too_old(s, "GC"))
        .ported(&["skel: GC: cniVersion below 1.1.0"])
        .until(Version::V1_0_0),
    case(Protocol, "status_before_1_1_0", &["13c"], |s| {
        too_old(s, "STATUS")
    })
    .until(Version::V1_0_0),
];

fn prints(stage: &mut Stage<'_>) -> Result<()> {
    is_answer(&stage.query("VERSION").run()?)
}

fn is_answer(ended: &Ended) -> Result<()> {
    let answer = ended.result()?;
    let versions = answer["supportedVersions"]
        .as_array()
        .context("no supportedVersions")?;
    ensure!(
        versions.iter().all(|version| version.is_string()),
        "{answer}"
    );
    let own = &answer["cniVersion"];
    ensure!(
        versions.contains(own),
        "cniVersion {own} is not among {versions:?}"
    );
    Ok(())
}

fn echoes(stage: &mut Stage<'_>) -> Result<()> {
    let answer = stage.query("VERSION").run()?.result()?;
    let version = &answer["cniVersion"];
    ensure!(
        version == stage.version.text(),
        "{version} for {}",
        stage.version
    );
    Ok(())
}

fn silent_stdin(stage: &mut Stage<'_>) -> Result<()> {
    is_answer(&stage.query("VERSION").stdin_silent().run()?)
}

fn no_stdin(stage: &mut Stage<'_>) -> Result<()> {
    for call in [
        stage.query("VERSION").stdin_closed(),
        stage.query("VERSION").stdin_unreadable(),
        stage.query("VERSION").bytes(""),
        stage.query("VERSION").bytes("nonsense"),
    ] {
        is_answer(&call.run()?)?;
    }
    Ok(())
}

fn all_work(stage: &mut Stage<'_>) -> Result<()> {
    let answer = stage.query("VERSION").run()?.result()?;
    for version in answer["supportedVersions"].as_array().into_iter().flatten() {
        let Some(version) = version.as_str() else {
            bail!("{version} is no version");
        };
        let pod = stage.pod()?;
        let result = stage
            .rig
            .call("ADD", version, &pod)
            .run()?
            .result()
            .context(version.to_owned())?;
        let made = pod.link("eth0")?;
        stage
            .rig
            .call("DEL", version, &pod)
            .run()?
            .silent()
            .context(version.to_owned())?;
        ensure!(made.is_some(), "{version}: no interface");
        let given = &result["cniVersion"];
        ensure!(given == version, "{version}: the result has {given}");
    }
    Ok(())
}

fn too_old(stage: &mut Stage<'_>, command: &str) -> Result<()> {
    let pod = stage.pod()?;
    let call = stage
        .call(command, &pod)
        .with(&json!({ "cni.dev/valid-attachments": [] }))?;
    call.run()?.code(1)?;
    stage.nothing_was_asked()
}
