//! Two networks in one container: `eth0` of the first, `net1` of the second.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::shape::list;
use crate::call::Call;
use crate::case::{Case, Tier, case, inapplicable};
use crate::rig::{OUTSIDE, Pod};
use crate::stage::Stage;
use crate::subject::Kind;
use crate::tools::{inside, wait_until};
use crate::version::Version;

use Tier::Netns;

pub const CASES: &[Case] = &[
    case(
        Netns,
        "a_container_has_an_interface_of_each_of_two_networks",
        &["Na"],
        both,
    ),
    case(
        Netns,
        "packets_pass_on_each_of_two_networks",
        &["Na"],
        packets,
    )
    .once(),
    case(
        Netns,
        "del_of_one_of_two_networks_leaves_the_other",
        &["Nb", "24c", "24d"],
        del_one,
    ),
    case(
        Netns,
        "check_knows_each_of_two_networks",
        &["Nc"],
        check_each,
    )
    .since(Version::V0_4_0),
    case(
        Netns,
        "gc_of_one_of_two_networks_leaves_the_other",
        &["Nd", "Ge"],
        gc_one,
    )
    .since(Version::V1_1_0),
];

/// A well-formed call for `net1` of the second network.
fn second(stage: &Stage<'_>, command: &str, pod: &Pod) -> Call {
    let conf = stage.rig.conf(stage.version.text(), 1);
    stage
        .call(command, pod)
        .env("CNI_IFNAME", "net1")
        .conf(&conf)
}

/// ADD of both, a look, DEL of both.
fn with_both(
    stage: &Stage<'_>,
    look: impl FnOnce(&Pod, &Value, &Value) -> Result<()>,
) -> Result<()> {
    let pod = stage.pod()?;
    let first = stage.add(&pod)?;
    let added = second(stage, "ADD", &pod)
        .run()?
        .result()
        .context("ADD of the second");
    let looked = added.and_then(|added| look(&pod, &first, &added));
    second(stage, "DEL", &pod)
        .run()?
        .silent()
        .context("DEL of the second")?;
    stage
        .call("DEL", &pod)
        .run()?
        .silent()
        .context("DEL of the first")?;
    for name in ["eth0", "net1"] {
        wait_until("the pod's interfaces are gone", || {
            Ok(pod.link(name)?.is_none())
        })?;
    }
    looked
}

/// Addresses of a result, without length.
fn addresses(result: &Value) -> BTreeSet<String> {
    let texts = list(result, "ips")
        .iter()
        .filter_map(|ip| ip["address"].as_str());
    texts
        .filter_map(|text| text.split('/').next())
        .map(str::to_owned)
        .collect()
}

fn both(stage: &mut Stage<'_>) -> Result<()> {
    with_both(stage, |pod, first, second| {
        ensure!(
            pod.link("eth0")?.is_some() && pod.link("net1")?.is_some(),
            "one is missing"
        );
        let (first, second) = (addresses(first), addresses(second));
        ensure!(first.is_disjoint(&second), "{first:?} and {second:?}");
        Ok(())
    })
}

fn packets(stage: &mut Stage<'_>) -> Result<()> {
    if let Kind::Given { .. } = stage.rig.subject.kind {
        return Err(inapplicable("where its packets should go is not known"));
    }
    with_both(stage, |pod, first, second| {
        let mut unanswered = Vec::new();
        for own in addresses(first).into_iter().chain(addresses(second)) {
            let far = OUTSIDE[usize::from(own.contains(':'))];
            let mut ping = inside(&pod.path, "ping");
            ping.args(["-n", "-c3", "-i0.2", "-W1", "-I", &own, far])
                .stdout(Stdio::null());
            if !ping.status().context("start ping")?.success() {
                unanswered.push(own);
            }
        }
        ensure!(unanswered.is_empty(), "no answer to {unanswered:?}");
        Ok(())
    })
}

fn del_one(stage: &mut Stage<'_>) -> Result<()> {
    with_both(stage, |pod, first, _| {
        second(stage, "DEL", pod).run()?.silent()?;
        wait_until("net1 is gone", || Ok(pod.link("net1")?.is_none()))?;
        let there: BTreeSet<String> = pod
            .addresses()?
            .iter()
            .filter_map(|text| Some(text.split('/').next()?.to_owned()))
            .collect();
        ensure!(there == addresses(first), "eth0 has {there:?}");
        Ok(())
    })
}

fn check_each(stage: &mut Stage<'_>) -> Result<()> {
    with_both(stage, |pod, first, added| {
        let check = second(stage, "CHECK", pod).with(&json!({ "prevResult": added }))?;
        check.run()?.silent().context("CHECK of the second")?;
        stage
            .check(pod, first)?
            .run()?
            .silent()
            .context("CHECK of the first")?;
        pod.ip("link del net1")?;
        check
            .run()?
            .refusal()
            .context("CHECK of the second without its interface")?;
        stage
            .check(pod, first)?
            .run()?
            .silent()
            .context("CHECK of the first alone")
    })
}

/// Nothing of the second network is valid; the first keeps what it has in the same container.
fn gc_one(stage: &mut Stage<'_>) -> Result<()> {
    with_both(stage, |pod, first, _| {
        let mut conf = stage.rig.conf(stage.version.text(), 1);
        conf["cni.dev/valid-attachments"] = json!([]);
        stage
            .query("GC")
            .conf(&conf)
            .run()?
            .silent()
            .context("GC")?;
        wait_until("net1 is gone", || Ok(pod.link("net1")?.is_none()))?;
        stage
            .check(pod, first)?
            .run()?
            .silent()
            .context("CHECK of the first")
    })
}
