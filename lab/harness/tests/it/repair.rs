//! What is ours and was removed by hand comes back, with the periodic resync an hour away; until then nothing leaks.

use std::cell::RefCell;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use tombolo_lab::matrix::{internet, untranslated};
use tombolo_lab::state::{Lab, Node};
use tombolo_lab::topology::Topology;
use tombolo_lab::up::wait_for;

use crate::support::{
    Capture, fabric_link, in_ns, one_of_each_nic, place, run_pods, scenario, vm_place,
};

fn topology(name: &str) -> Topology {
    let mut topology = Topology::with(name, 1, "t3.medium", 1);
    topology.agent_args = vec!["--resync-ms".to_owned(), "3600000".to_owned()];
    topology
}

#[test]
fn rules_and_routes_deleted_by_hand_come_back() {
    scenario(topology("repair"), async |lab| {
        let running = run_pods(&lab, 7).await?;
        let node = &lab.nodes[0];
        // Nobody gives or takes addresses while we look.
        let operator = lab.services.iter().find(|p| p.name == "operator");
        let operator = operator.context("an operator runs")?;
        operator.signal(Signal::STOP)?;
        let whole = unchanging(node).await?;
        for family in ["-4", "-6"] {
            in_ns(
                &node.netns(),
                "ip",
                &[family, "rule", "flush", "proto", "116"],
            )?;
            in_ns(
                &node.netns(),
                "ip",
                &[family, "route", "flush", "table", "all", "proto", "116"],
            )?;
        }
        wait_for("rules and routes", Duration::from_secs(10), async || {
            Ok(ours(node)? == whole)
        })
        .await?;
        operator.signal(Signal::CONT)?;
        in_ns(
            &node.netns(),
            "nft",
            &["delete", "table", "inet", "tombolo"],
        )?;
        in_ns(&node.netns(), "nft", &["delete", "table", "arp", "tombolo"])?;
        wait_for("tables", Duration::from_secs(10), async || {
            let tables = in_ns(&node.netns(), "nft", &["list", "tables"])?;
            Ok(tables.contains("inet tombolo") && tables.contains("arp tombolo"))
        })
        .await?;
        connectivity(&lab, &running).await
    });
}

/// What is ours, once the agent has made of it what it was last told.
async fn unchanging(node: &Node) -> Result<Vec<String>> {
    let last = RefCell::new(Vec::new());
    wait_for("nothing under way", Duration::from_secs(10), async || {
        let now = ours(node)?;
        Ok(last.replace(now.clone()) == now)
    })
    .await?;
    Ok(last.into_inner())
}

/// Everything with our mark, as text that does not depend on the order of making.
fn ours(node: &Node) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        for args in [
            &[family, "rule", "show", "proto", "116"][..],
            &[family, "route", "show", "table", "all", "proto", "116"],
        ] {
            lines.extend(
                in_ns(&node.netns(), "ip", args)?
                    .lines()
                    .map(|l| l.trim().to_owned()),
            );
        }
    }
    lines.sort();
    Ok(lines)
}

async fn connectivity(
    lab: &Lab,
    running: &std::collections::BTreeMap<String, tombolo_lab::pods::Pod>,
) -> Result<()> {
    let pods: Vec<_> = one_of_each_nic(lab, running)
        .await?
        .values()
        .map(|p| place(lab, p))
        .collect::<Result<_>>()?;
    let mut cells = untranslated(lab, &[vm_place(lab, "vm1")?], &pods)?;
    cells.extend(untranslated(lab, &pods, &pods)?);
    cells.extend(internet(lab, &pods)?);
    let bad: Vec<_> = cells.iter().filter(|c| !c.good()).collect();
    ensure!(bad.is_empty(), "{bad:#?}");
    Ok(())
}

#[test]
fn without_our_table_no_packet_of_a_pod_leaves() {
    scenario(topology("notable"), async |lab| {
        let running = run_pods(&lab, 7).await?;
        let node = &lab.nodes[0];
        let agent = node.agent.as_ref().expect("an agent runs");
        // The agent stands still: the state without the table lasts as long as we look.
        agent.signal(Signal::STOP)?;
        in_ns(
            &node.netns(),
            "nft",
            &["delete", "table", "inet", "tombolo"],
        )?;
        for ((_, device), pod) in one_of_each_nic(&lab, &running).await? {
            let netns = place(&lab, &pod)?.netns;
            let addresses: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
            let filter = addresses
                .iter()
                .map(|a| format!("src host {a}"))
                .collect::<Vec<_>>()
                .join(" or ");
            let mut captures = Vec::new();
            for nic in 0..2 {
                let (fabric, link) = fabric_link(&lab, &node.instance, nic).await?;
                captures.push(Capture::start(&fabric, &link, &filter)?);
            }
            let vm = lab.vm("vm1")?;
            for to in vm.addresses.iter().chain(&lab.internet) {
                let reached =
                    in_ns(&netns, "ping", &["-c", "1", "-W", "1", &to.to_string()]).is_ok();
                ensure!(!reached, "eth{device}: {to} was reached without our table");
            }
            for capture in captures {
                let seen = capture.stop()?;
                ensure!(
                    seen.is_empty(),
                    "eth{device}: packets of the pod left: {seen:#?}"
                );
            }
        }
        agent.signal(Signal::CONT)?;
        wait_for("the table", Duration::from_secs(10), async || {
            Ok(in_ns(&node.netns(), "nft", &["list", "tables"])?.contains("inet tombolo"))
        })
        .await?;
        connectivity(&lab, &running).await
    });
}
