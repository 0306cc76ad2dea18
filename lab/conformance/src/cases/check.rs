//! CHECK: succeeds for what ADD made, fails for each thing of it that is missing or other.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::case::{Case, Tier, case};
use crate::rig::Pod;
use crate::stage::Stage;
use crate::tools::wait_until;
use crate::version::Version;

use Tier::{Fault, Netns};

const fn check(
    tier: Tier,
    name: &'static str,
    claims: &'static [&'static str],
    attempt: crate::case::Try,
) -> Case {
    case(tier, name, claims, attempt).since(Version::V0_4_0)
}

pub const CASES: &[Case] = &[
    check(Netns, "check_needs_prev_result", &["Ca"], needs_result),
    check(Netns, "check_right_after_add", &["Cb", "Cl"], right_after),
    check(Netns, "check_without_the_interface", &["Cc"], |s| {
        broken(s, |pod, _| pod.ip("link del eth0"))
    }),
    check(Netns, "check_with_another_mac", &["Cd"], |s| {
        broken(s, |pod, _| {
            pod.ip("link set eth0 address 02:de:ad:00:00:01")
        })
    }),
    check(Netns, "check_with_another_mtu", &["Ce"], |s| {
        // A larger one: a smaller may be the work of a plugin that comes later, as `tuning`.
        broken(s, |pod, _| pod.ip("link set eth0 mtu 20000"))
    }),
    check(Netns, "check_without_an_address", &["Cf"], |s| {
        broken(s, without_address)
    }),
    check(Netns, "check_without_an_ipv6_address", &["Cf"], |s| {
        broken(s, without_v6)
    }),
    check(Netns, "check_without_a_route", &["Cg"], |s| {
        broken(s, |pod, _| pod.ip("route del default"))
    }),
    check(Netns, "check_after_another_result", &["Cf"], another_result),
    check(Netns, "check_without_a_reservation", &["Ch"], reservation),
    check(Netns, "check_tolerates_what_others_add", &["Cj"], additions),
    check(Fault, "check_without_the_agent", &["Ci"], no_agent).once(),
];

fn needs_result(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    stage
        .call("CHECK", &pod)
        .run()?
        .code(7)?
        .naming(&["prevResult"])
        .map(drop)
}

fn right_after(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let first = stage.check(&pod, &result)?.run()?;
    let before = stage.rig.snapshot()?;
    let second = stage.check(&pod, &result)?.run()?;
    let after = stage.rig.snapshot()?;
    stage.del(&pod, &result)?;
    first.silent()?;
    second.silent()?;
    let changed = crate::rig::difference(&before, &after);
    ensure!(changed.is_empty(), "CHECK changed {changed:?}");
    Ok(())
}

/// CHECK fails after this was done to the pod.
fn broken(stage: &Stage<'_>, harm: impl Fn(&Pod, &Value) -> Result<()>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let fine = stage.check(&pod, &result)?.run()?;
    let harmed = harm(&pod, &result);
    let ended = stage.check(&pod, &result)?.run()?;
    stage.call("DEL", &pod).run()?.silent()?;
    harmed?;
    fine.silent().context("CHECK before")?;
    ended.refusal().context("CHECK afterwards").map(drop)
}

fn address(result: &Value, v6: bool) -> Result<&str> {
    let ips = result["ips"].as_array().into_iter().flatten();
    let mut texts = ips.filter_map(|ip| ip["address"].as_str());
    texts
        .find(|text| text.contains(':') == v6)
        .context("no address of the family")
}

fn without_address(pod: &Pod, result: &Value) -> Result<()> {
    pod.ip(&format!("address del {} dev eth0", address(result, false)?))
}

fn without_v6(pod: &Pod, result: &Value) -> Result<()> {
    pod.ip(&format!("address del {} dev eth0", address(result, true)?))
}

/// Of an address that the pod does not have.
fn another_result(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let mut other = result.clone();
    other["ips"][0]["address"] = "10.99.99.99/32".into();
    let ended = stage.check(&pod, &other)?.run()?;
    stage.del(&pod, &result)?;
    ended.refusal().map(drop)
}

/// The same interface, under the name of a container that reserved nothing.
fn reservation(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let other = stage
        .check(&pod, &result)?
        .env("CNI_CONTAINERID", "never-added");
    let ended = other.run()?;
    stage.del(&pod, &result)?;
    ended.refusal().map(drop)
}

fn additions(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    pod.ip("address add 192.0.2.77/24 dev eth0")?;
    pod.ip("route add 198.51.100.0/24 dev eth0")?;
    pod.ip("link add more0 type veth peer name more1")?;
    let mut later = result.clone();
    if let Some(interfaces) = later["interfaces"].as_array_mut() {
        interfaces
            .push(json!({ "name": "more0", "sandbox": pod.path, "mac": "02:00:00:00:00:09" }));
    }
    later["dns"] = json!({ "nameservers": ["192.0.2.53"] });
    let ended = stage.check(&pod, &later)?.run()?;
    stage.del(&pod, &result)?;
    ended.silent()
}

fn no_agent(stage: &mut Stage<'_>) -> Result<()> {
    stage.rig.agent()?;
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    stage.rig.kill_agent()?;
    let ended = stage.check(&pod, &result)?.run()?;
    stage.rig.start_agent(&[])?;
    wait_until("CHECK succeeds again", || {
        Ok(stage.check(&pod, &result)?.run()?.exit == Some(0))
    })?;
    stage.del(&pod, &result)?;
    ended.code(11).map(drop)
}
