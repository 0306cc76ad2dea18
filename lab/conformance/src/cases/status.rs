//! STATUS: whether an ADD can work now.

use anyhow::{Context, Result, ensure};

use crate::case::{Case, Tier, case, inapplicable};
use crate::rig::{Pod, difference};
use crate::stage::Stage;
use crate::version::Version;

use Tier::{Fault, Netns};

const fn status(
    tier: Tier,
    name: &'static str,
    claims: &'static [&'static str],
    attempt: crate::case::Try,
) -> Case {
    case(tier, name, claims, attempt).since(Version::V1_1_0)
}

pub const CASES: &[Case] = &[
    status(
        Netns,
        "status_of_a_ready_plugin",
        &["Sa", "2e", "Se"],
        ready,
    ),
    status(Netns, "status_without_an_address_left", &["Sc"], exhausted),
    status(Fault, "status_without_the_agent", &["Sb"], no_agent)
        .ported(&["libcni: STATUS reports error 50"]),
    status(Fault, "status_of_a_silent_agent", &["Sf", "Sb"], silent),
];

fn ready(stage: &mut Stage<'_>) -> Result<()> {
    let before = stage.rig.snapshot()?;
    stage.query("STATUS").run()?.silent()?;
    let changed = difference(&before, &stage.rig.snapshot()?);
    ensure!(changed.is_empty(), "STATUS changed {changed:?}");
    Ok(())
}

fn exhausted(stage: &mut Stage<'_>) -> Result<()> {
    let mut held: Vec<Pod> = Vec::new();
    loop {
        let pod = stage.pod()?;
        let added = stage.call("ADD", &pod).run()?.exit == Some(0);
        held.push(pod);
        if !added {
            break;
        }
        if held.len() > 64 {
            return Err(inapplicable("it has more than 64 addresses"));
        }
    }
    let ended = stage.query("STATUS").run()?;
    for pod in &held {
        stage.call("DEL", pod).run()?.silent()?;
    }
    let after = stage.query("STATUS").run()?;
    ended.code(50).context("with no address left")?;
    after.silent().context("when all are free again")
}

fn no_agent(stage: &mut Stage<'_>) -> Result<()> {
    stage.rig.kill_agent()?;
    stage.query("STATUS").run()?.code(50)?;
    stage.rig.start_agent(&[])?;
    let ready = || Ok(stage.query("STATUS").run()?.exit == Some(0));
    crate::tools::wait_until("STATUS succeeds again", ready)
}

fn silent(stage: &mut Stage<'_>) -> Result<()> {
    stage.rig.agent()?.stop()?;
    let ended = stage.query("STATUS").run();
    stage.rig.agent()?.go_on()?;
    ended?.code(50).map(drop)
}
