//! DEL: succeeds whatever is missing, releases what the key names, and touches nothing else.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::case::{Case, Tier, case, inapplicable};
use crate::rig::Pod;
use crate::stage::Stage;
use crate::subject::{Kind, NETWORKS};
use crate::tools::wait_until;
use crate::version::Version;

use Tier::Netns;

pub const CASES: &[Case] = &[
    case(Netns, "del_is_called_twice", &["23a", "25c"], twice)
        .ported(&["libcni: DEL called twice"]),
    case(
        Netns,
        "del_without_prev_result",
        &["23b", "25c"],
        without_result,
    )
    .ported(&["libcni: below 0.4.0 no prevResult on DEL"]),
    case(
        Netns,
        "del_without_a_namespace",
        &["23c", "5c", "25c"],
        without_netns,
    )
    .ported(&["skel: optional env vars of DEL"]),
    case(
        Netns,
        "del_after_the_namespace_is_gone",
        &["23d", "25c"],
        netns_gone,
    ),
    case(
        Netns,
        "del_with_a_namespace_that_is_none",
        &["23e"],
        netns_is_none,
    ),
    case(
        Netns,
        "del_after_the_interface_is_gone",
        &["23f", "25c"],
        link_gone,
    )
    .ported(&["plugins: deconfigures an unconfigured link with DEL"]),
    case(Netns, "del_after_its_state_is_gone", &["23g"], state_gone).once(),
    case(
        Netns,
        "del_without_cni_args",
        &["23h", "24a", "25c"],
        without_args,
    ),
    case(
        Netns,
        "del_for_another_pods_name",
        &["24a", "25c"],
        another_pod,
    ),
    case(Netns, "del_of_what_never_was", &["23i"], never_was),
    case(
        Netns,
        "a_namespaces_path_that_is_anothers_by_now",
        &["24b"],
        path_reused,
    )
    .once(),
    case(
        Netns,
        "del_of_another_network_leaves_the_container",
        &["24c"],
        another_network,
    ),
    case(
        Netns,
        "del_of_another_interface_leaves_the_first",
        &["24d"],
        another_interface,
    ),
    case(
        Netns,
        "addresses_are_free_after_del_without_namespace",
        &["25a"],
        released,
    )
    .ported(&["plugins: ip release on error"])
    .once(),
    case(Netns, "no_error_says_not_found", &["25b"], not_found),
];

fn added(stage: &Stage<'_>) -> Result<(Pod, serde_json::Value)> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    Ok((pod, result))
}

/// The interface goes, at once or soon after.
fn gone(pod: &Pod, name: &str) -> Result<()> {
    wait_until("the pod's interface is gone", || {
        Ok(pod.link(name)?.is_none())
    })
}

fn twice(stage: &mut Stage<'_>) -> Result<()> {
    let (pod, result) = added(stage)?;
    stage.del(&pod, &result)?;
    stage.del(&pod, &result).context("the second")?;
    stage
        .call("DEL", &pod)
        .run()?
        .silent()
        .context("the third")?;
    gone(&pod, "eth0")
}

fn without_result(stage: &mut Stage<'_>) -> Result<()> {
    let (pod, _) = added(stage)?;
    stage.call("DEL", &pod).run()?.silent()?;
    gone(&pod, "eth0")
}

fn without_netns(stage: &mut Stage<'_>) -> Result<()> {
    for empty in [false, true] {
        let (mut pod, _) = added(stage)?;
        let call = stage.call("DEL", &pod);
        let call = if empty {
            call.env("CNI_NETNS", "")
        } else {
            call.without("CNI_NETNS")
        };
        call.run()?.silent()?;
        // The runtime lets go of the namespace; a plugin that could not look into it relies on that.
        pod.lose_namespace()?;
    }
    Ok(())
}

fn netns_gone(stage: &mut Stage<'_>) -> Result<()> {
    let (mut pod, result) = added(stage)?;
    pod.lose_namespace()?;
    stage.del(&pod, &result)
}

fn netns_is_none(stage: &mut Stage<'_>) -> Result<()> {
    let (mut pod, _) = added(stage)?;
    let file = tempfile::NamedTempFile::new().context("make a file")?;
    let ended = stage
        .call("DEL", &pod)
        .env("CNI_NETNS", file.path())
        .run()?;
    pod.lose_namespace()?;
    stage.call("DEL", &pod).run()?.silent()?;
    ended.silent()
}

fn link_gone(stage: &mut Stage<'_>) -> Result<()> {
    let (pod, result) = added(stage)?;
    pod.ip("link del eth0")?;
    stage.del(&pod, &result)
}

fn state_gone(stage: &mut Stage<'_>) -> Result<()> {
    let (pod, result) = added(stage)?;
    match stage.rig.subject.kind {
        Kind::Tombolo { .. } => {
            stage.rig.kill_agent()?;
            // Of the attachment; what else it keeps is of the node.
            let journal = stage.rig.dir().join("run/journal");
            std::fs::remove_dir_all(journal).context("remove the agent's journal")?;
            stage.rig.start_agent(&[])?;
        }
        Kind::Reference => {
            let state = stage.rig.dir().join("host-local");
            std::fs::remove_dir_all(state).context("remove host-local's state")?;
        }
        Kind::Given { .. } => {
            stage.del(&pod, &result)?;
            return Err(inapplicable("where its state is is not known"));
        }
    }
    stage.del(&pod, &result)?;
    gone(&pod, "eth0")
}

fn without_args(stage: &mut Stage<'_>) -> Result<()> {
    let (pod, _) = added(stage)?;
    stage
        .call("DEL", &pod)
        .without("CNI_ARGS")
        .run()?
        .silent()?;
    gone(&pod, "eth0")
}

fn another_pod(stage: &mut Stage<'_>) -> Result<()> {
    let (pod, _) = added(stage)?;
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=other;K8S_POD_NAME=other;K8S_POD_UID=u-2";
    stage
        .call("DEL", &pod)
        .env("CNI_ARGS", args)
        .run()?
        .silent()?;
    gone(&pod, "eth0")
}

fn never_was(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    stage.call("DEL", &pod).run()?.silent()?;
    stage.call("DEL", &pod).without("CNI_NETNS").run()?.silent()
}

/// The first container's namespace is gone; its path now names that of another, with an `eth0` of its own.
fn path_reused(stage: &mut Stage<'_>) -> Result<()> {
    let (mut first, result) = added(stage)?;
    first.lose_namespace()?;
    let (second, kept) = added(stage)?;
    let addresses = second.addresses()?;
    let late = stage.with_result("DEL", &first, &result)?;
    let late = late.env("CNI_NETNS", &second.path).run()?;
    let after = second.addresses();
    stage.del(&second, &kept)?;
    // Where the late one did not release the first.
    stage.call("DEL", &first).run()?.silent()?;
    late.silent()?;
    ensure!(
        after? == addresses,
        "the second container lost its addresses"
    );
    Ok(())
}

fn another_network(stage: &mut Stage<'_>) -> Result<()> {
    let (pod, result) = added(stage)?;
    let other = stage.rig.conf(stage.version.text(), 1);
    let ended = stage.call("DEL", &pod).conf(&other).run()?;
    let after = pod.link("eth0")?;
    stage.del(&pod, &result)?;
    ended.silent()?;
    ensure!(
        after.is_some(),
        "DEL in {} removed what is of {}",
        NETWORKS[1],
        NETWORKS[0]
    );
    Ok(())
}

fn another_interface(stage: &mut Stage<'_>) -> Result<()> {
    let (pod, result) = added(stage)?;
    let ended = stage.call("DEL", &pod).env("CNI_IFNAME", "net1").run()?;
    let (link, addresses) = (pod.link("eth0")?, pod.addresses());
    let checked = if stage.version >= Version::V0_4_0 {
        stage.check(&pod, &result)?.run()?.silent()
    } else {
        Ok(())
    };
    stage.del(&pod, &result)?;
    ended.silent()?;
    ensure!(link.is_some() && !addresses?.is_empty(), "eth0 is gone");
    checked.context("CHECK of the first")
}

/// More containers one after the other than there are addresses: each loses its namespace before its DEL.
fn released(stage: &mut Stage<'_>) -> Result<()> {
    for number in 0..16 {
        let mut pod = stage.pod()?;
        let ended = stage.call("ADD", &pod).run()?;
        ended
            .result()
            .with_context(|| format!("container {number}"))?;
        pod.lose_namespace()?;
        stage
            .call("DEL", &pod)
            .without("CNI_NETNS")
            .run()?
            .silent()?;
    }
    Ok(())
}

fn not_found(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let call = stage.call("DEL", &pod);
    let calls = [
        call.clone().without("CNI_CONTAINERID"),
        call.clone().env("CNI_IFNAME", "a/b"),
        call.clone().bytes("{"),
        call.clone().with(&json!({ "name": null }))?,
        call.with(&json!({ "cniVersion": "9.0.0" }))?,
    ];
    for call in calls {
        let refusal = call.run()?.refusal()?;
        ensure!(!refusal.text.contains("not found"), "{:?}", refusal.text);
    }
    Ok(())
}
