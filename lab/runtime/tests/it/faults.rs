//! containerd while the agent is away or does not answer, and containerd's own restart.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::json;
use tombolo_lab::up;
use tombolo_lab_runtime::containerd::Cni;

use crate::bed::{PATIENCE, pod, with_containerd};

#[test]
fn an_add_that_fails_is_followed_by_its_del_and_the_pod_comes_up_later() {
    let test = "an_add_that_fails_is_followed_by_its_del_and_the_pod_comes_up_later";
    with_containerd(test, "ctdfail", async |bed| {
        bed.use_network(json!({ "timeoutSeconds": 1 }), &[]).await?;
        bed.agent()?.kill()?;
        let config = pod("web", 0, bed);
        let Err(error) = bed.cri.run_sandbox(&config).await else {
            bail!("a sandbox without an agent");
        };
        let text = format!("{error:#}");
        ensure!(text.contains("AgentUnavailable"), "{text}");
        let calls = bed.calls()?;
        let made: Vec<_> = calls.iter().map(|call| call.command.as_str()).collect();
        ensure!(made == ["ADD", "DEL"], "{made:?}");
        ensure!(calls[0].container == calls[1].container && calls[0].netns == calls[1].netns);
        bed.start_agent()?;
        // The name is free again at once, for the same attempt.
        let sandbox = run_when_the_agent_serves(bed, &config).await?;
        ensure!(sandbox != calls[0].container);
        bed.vm_reaches(bed.addresses(&sandbox).await?[0])?;
        bed.cri.stop_sandbox(&sandbox).await?;
        bed.cri.remove_sandbox(&sandbox).await
    });
}

/// The plugin's bound is a second here, and the agent may need longer to start.
async fn run_when_the_agent_serves(
    bed: &crate::bed::Bed,
    config: &tombolo_lab_runtime::cri::PodSandboxConfig,
) -> Result<String> {
    let begin = std::time::Instant::now();
    loop {
        match bed.cri.run_sandbox(config).await {
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_not_yet) => {}
            Ok(sandbox) => return Ok(sandbox),
        }
    }
}

#[test]
fn t18_pods_removed_while_the_agent_is_away_are_made_up_for() {
    let test = "t18_pods_removed_while_the_agent_is_away_are_made_up_for";
    with_containerd(test, "ctdaway", async |bed| {
        let (gone, stays) = (pod("gone", 0, bed), pod("stays", 0, bed));
        let gone = bed.cri.run_sandbox(&gone).await?;
        let stays = bed.cri.run_sandbox(&stays).await?;
        bed.agent()?.kill()?;
        bed.cri.stop_sandbox(&gone).await?;
        bed.cri.remove_sandbox(&gone).await?;
        bed.vm_reaches(bed.addresses(&stays).await?[0])?;
        bed.start_agent()?;
        up::wait_for("one link", PATIENCE, async || {
            Ok(bed.pod_links()?.len() == 1)
        })
        .await?;
        bed.vm_reaches(bed.addresses(&stays).await?[0])?;
        bed.cri.stop_sandbox(&stays).await?;
        bed.cri.remove_sandbox(&stays).await
    });
}

#[test]
fn a_caller_that_gives_up_leaves_no_sandbox() {
    with_containerd(
        "a_caller_that_gives_up_leaves_no_sandbox",
        "ctdgiveup",
        async |bed| {
            bed.use_network(json!({ "timeoutSeconds": 4 }), &[]).await?;
            bed.agent()?.signal(Signal::STOP)?;
            let config = pod("web", 0, bed);
            let call = bed.cri.run_sandbox(&config);
            // The end of the call is the end of the plugin: containerd kills it.
            let ended = tokio::time::timeout(Duration::from_secs(1), call).await;
            ensure!(ended.is_err(), "an agent that is stopped answered");
            up::wait_for("the DEL", PATIENCE, async || {
                let calls = bed.calls()?;
                Ok(calls.iter().any(|call| call.command == "DEL"))
            })
            .await?;
            bed.agent()?.signal(Signal::CONT)?;
            up::wait_for("no sandbox", PATIENCE, async || {
                Ok(bed.cri.sandboxes().await?.is_empty())
            })
            .await?;
            bed.await_no_links().await?;
            let sandbox = run_when_the_agent_serves(bed, &config).await?;
            bed.vm_reaches(bed.addresses(&sandbox).await?[0])?;
            bed.cri.remove_sandbox(&sandbox).await
        },
    );
}

#[test]
fn sandboxes_outlive_containerd_and_ipv4_is_first_in_the_plugins_order_too() {
    let test = "sandboxes_outlive_containerd_and_ipv4_is_first_in_the_plugins_order_too";
    with_containerd(test, "ctdagain", async |bed| {
        let before = bed.cri.run_sandbox(&pod("before", 0, bed)).await?;
        let addresses = bed.addresses(&before).await?;
        // The plugin's own order, then containerd's. (Its `ipv6` takes an address of either family for one, in 1.6.)
        for prefer in [Some("cni"), Some("ipv4")] {
            let cni = Cni {
                prefer,
                ..Cni::of_the_lab()
            };
            bed.restart_containerd(&cni).await?;
            let sandbox = bed.cri.run_sandbox(&pod("after", 0, bed)).await?;
            let shown = bed.addresses(&sandbox).await?;
            let v4_first = matches!(shown[..], [a, b] if a.is_ipv4() && b.is_ipv6());
            ensure!(v4_first, "{prefer:?}: {shown:?}");
            bed.vm_reaches(addresses[0])?;
            bed.cri.stop_sandbox(&sandbox).await?;
            bed.cri.remove_sandbox(&sandbox).await?;
        }
        bed.cri.stop_sandbox(&before).await?;
        let calls = bed.calls_of(&before)?;
        let prev = calls.last().context("no call")?.stdin.get("prevResult");
        ensure!(prev.is_some(), "containerd forgot the result");
        bed.cri.remove_sandbox(&before).await
    });
}
