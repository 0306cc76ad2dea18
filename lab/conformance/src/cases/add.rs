//! What ADD makes: an interface, a way for packets, nothing twice, nothing of another's.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::case::{Case, Tier, case, inapplicable};
use crate::rig::{OUTSIDE, Pod};
use crate::stage::Stage;
use crate::subject::Kind;
use crate::tools::{inside, wait_until};

use Tier::Netns;

/// So many at once; there are addresses for twice as many.
const AT_ONCE: usize = 6;

pub const CASES: &[Case] = &[
    case(Netns, "the_interface_is_there_and_up", &["18a"], interface),
    case(Netns, "packets_pass_in_both_families", &["18d"], packets)
        .ported(&["plugins: dual-stack ADD and DEL"])
        .once(),
    case(
        Netns,
        "an_interface_that_exists_is_left_alone",
        &["18b", "3f", "Fg"],
        exists,
    ),
    case(
        Netns,
        "a_second_add_leaves_the_first_whole",
        &["18c"],
        second,
    ),
    case(
        Netns,
        "containers_added_at_once_have_addresses_of_their_own",
        &["22a"],
        at_once,
    )
    .once(),
    case(
        Netns,
        "containers_come_while_others_go",
        &["22b"],
        come_and_go,
    )
    .once(),
];

fn interface(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let link = pod.eth0()?;
    stage.del(&pod, &result)?;
    let up = link["flags"]
        .as_array()
        .is_some_and(|flags| flags.contains(&"UP".into()));
    ensure!(up, "eth0 is not up: {link}");
    Ok(())
}

fn packets(stage: &mut Stage<'_>) -> Result<()> {
    if let Kind::Given { .. } = stage.rig.subject.kind {
        return Err(inapplicable("where its packets should go is not known"));
    }
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let mut unreached = Vec::new();
    for address in OUTSIDE {
        let mut ping = inside(&pod.path, "ping");
        ping.args(["-n", "-c3", "-i0.2", "-W1", address])
            .stdout(Stdio::null());
        if !ping.status().context("start ping")?.success() {
            unreached.push(address);
        }
    }
    stage.del(&pod, &result)?;
    ensure!(unreached.is_empty(), "no answer from {unreached:?}");
    Ok(())
}

fn exists(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    pod.ip("link add eth0 address 02:aa:00:00:00:01 type veth peer name other")?;
    let ended = stage.call("ADD", &pod).run()?;
    let link = pod.eth0();
    // A runtime that is refused sends a DEL. It may take the interface for its own; not here.
    pod.ip("link del other")?;
    stage.call("DEL", &pod).run()?.silent()?;
    let code = ended.refusal()?.code;
    ensure!(matches!(code, 1..=8 | 11) || code >= 100, "code {code}");
    ensure!(
        link?["address"] == "02:aa:00:00:00:01",
        "it is another's now"
    );
    Ok(())
}

/// Addresses of a result.
fn addresses(result: &Value) -> BTreeSet<String> {
    let ips = result["ips"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip["address"].as_str())
        .map(str::to_owned)
        .collect()
}

fn second(stage: &mut Stage<'_>) -> Result<()> {
    let pod = stage.pod()?;
    let first = stage.add(&pod)?;
    let (link, there) = (pod.eth0()?, pod.addresses()?);
    let again = stage.call("ADD", &pod).run()?;
    let (link_after, there_after) = (pod.eth0(), pod.addresses());
    stage.del(&pod, &first)?;
    if again.exit == Some(0) {
        let second = again.result()?;
        ensure!(
            addresses(&second) == addresses(&first),
            "another answer: {second}"
        );
    } else {
        again.refusal()?;
    }
    let (before, after) = (&link["address"], &link_after?["address"]);
    ensure!(before == after, "eth0 was made again");
    ensure!(there == there_after?, "its addresses are others");
    Ok(())
}

fn at_once(stage: &mut Stage<'_>) -> Result<()> {
    let pods = (0..AT_ONCE)
        .map(|_| stage.pod())
        .collect::<Result<Vec<_>>>()?;
    let calls: Vec<_> = pods.iter().map(|pod| stage.call("ADD", pod)).collect();
    let running = calls
        .iter()
        .map(|call| call.start())
        .collect::<Result<Vec<_>>>()?;
    let ended = running
        .into_iter()
        .map(|call| call.wait())
        .collect::<Result<Vec<_>>>()?;
    let there: Vec<_> = pods.iter().map(Pod::addresses).collect();
    for pod in &pods {
        stage.call("DEL", pod).run()?.silent()?;
    }
    let mut all = BTreeSet::new();
    for (ended, there) in ended.iter().zip(there) {
        let given = addresses(&ended.result()?);
        ensure!(given == there?, "the result does not say what is there");
        for address in given {
            ensure!(all.insert(address.clone()), "{address} was given twice");
        }
    }
    Ok(())
}

fn come_and_go(stage: &mut Stage<'_>) -> Result<()> {
    let half = AT_ONCE / 2;
    let make = || (0..half).map(|_| stage.pod()).collect::<Result<Vec<_>>>();
    let mut going = make()?;
    for pod in &going {
        stage.add(pod)?;
    }
    for _ in 0..3 {
        let coming = make()?;
        let dels = going.iter().map(|pod| stage.call("DEL", pod));
        let adds = coming.iter().map(|pod| stage.call("ADD", pod));
        // One of each in turn.
        let calls: Vec<_> = dels.zip(adds).flat_map(|(del, add)| [del, add]).collect();
        let running = calls
            .iter()
            .map(|call| call.start())
            .collect::<Result<Vec<_>>>()?;
        for (index, call) in running.into_iter().enumerate() {
            let ended = call.wait()?;
            if index % 2 == 0 {
                ended.silent().context("DEL")?;
            } else {
                ended.result().context("ADD")?;
            }
        }
        for pod in &going {
            wait_until("eth0 is gone", || Ok(pod.link("eth0")?.is_none()))?;
        }
        going = coming;
    }
    for pod in &going {
        stage.call("DEL", pod).run()?.silent()?;
    }
    Ok(())
}
