//! A pod that claims to be another, or a router, reaches nobody: its frames end on its own node.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tombolo_lab::http::post_unix;
use tombolo_lab::node::{in_netns, output};
use tombolo_lab::spoof;
use tombolo_lab::state::Lab;
use tombolo_lab::topology::Topology;

use crate::support::{
    Capture, fabric_link, in_ns, ip4, ip6, place, probe, run_pods, scenario, vm_place,
};

#[test]
fn forged_frames_reach_nobody() {
    scenario(Topology::with("spoofing", 1, "t3.medium", 1), async |lab| {
        let running = run_pods(&lab, 2).await?;
        let pods: Vec<_> = running.values().collect();
        let (attacker, victim) = (pods[0], pods[1]);
        let netns = place(&lab, attacker)?.netns;
        let victim_netns = place(&lab, victim)?.netns;
        let vm = vm_place(&lab, "vm1")?;
        let gateway = gateway_mac(&netns)?;
        let router: IpAddr = "fe80::1".parse()?;
        let filter = format!(
            "udp port {} or arp or (icmp6 and (ip6[40] == 134 or ip6[40] == 136))",
            spoof::PORT
        );

        for (kind, claim, to) in [
            ("source", ip4(victim), vm.ips[0]),
            ("source", ip6(victim), vm.ips[1]),
            ("source", ip4(victim), lab.nodes[0].address4.into()),
            ("arp", ip4(victim), vm.ips[0]),
            ("nd", ip6(victim), vm.ips[1]),
            ("ra", router, vm.ips[1]),
            ("ra", ip6(victim), vm.ips[1]),
        ] {
            let dropped_before = drops(&lab)?;
            let (fabric, link) = fabric_link(&lab, &lab.nodes[0].instance, 0).await?;
            // Only what leaves the node: the fabric sees it as incoming.
            let wire = Capture::start(&fabric, &link, &filter)?;
            let neighbour = Capture::start(&victim_netns, "eth0", &filter)?;
            let mut command = in_netns(&netns, probe());
            command.args([
                "probe",
                "spoof",
                kind,
                &claim.to_string(),
                &to.to_string(),
                &gateway,
            ]);
            output(command)?;
            // A packet that is allowed, sent after the forged ones, proves that those had their time.
            in_ns(
                &netns,
                "ping",
                &["-c", "1", "-W", "2", &vm.ips[0].to_string()],
            )?;
            let (wire, neighbour) = (wire.stop()?, neighbour.stop()?);
            let forged = |l: &&String| {
                l.contains(&claim.to_string())
                    && (l.contains(&spoof::PORT.to_string())
                        || l.contains("router advertisement")
                        || l.contains("neighbor advertisement")
                        || l.contains("ARP"))
            };
            let escaped: Vec<_> = wire.iter().chain(&neighbour).filter(forged).collect();
            ensure!(
                escaped.is_empty(),
                "{kind} {claim}: left the node or reached a neighbour: {escaped:#?}"
            );
            let dropped = drops(&lab)? - dropped_before;
            ensure!(
                dropped >= 5,
                "{kind} {claim}: only {dropped} drops counted on the node"
            );
        }
        ensure!(
            spoof_drops_of_fabric(&lab).await? == 0,
            "the fabric had to drop what the node should have"
        );
        Ok(())
    });
}

fn gateway_mac(netns: &str) -> Result<String> {
    let neighbours: Value = serde_json::from_str(&in_ns(
        netns,
        "ip",
        &["-j", "neigh", "show", "169.254.1.1"],
    )?)?;
    neighbours
        .pointer("/0/lladdr")
        .and_then(Value::as_str)
        .map(str::to_owned)
        .context("the pod has no neighbour entry for its gateway")
}

/// Packets counted by drop rules of our tables.
fn drops(lab: &Lab) -> Result<u64> {
    let node = &lab.nodes[0];
    let mut total = 0;
    for family in ["inet", "arp"] {
        let text = in_ns(
            &node.netns(),
            "nft",
            &["-j", "list", "table", family, "tombolo"],
        )?;
        let tables: Value = serde_json::from_str(&text)?;
        for object in tables
            .pointer("/nftables")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let expressions = object
                .pointer("/rule/expr")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let expressions: Vec<&Value> = expressions.collect();
            if expressions.iter().any(|e| e.get("drop").is_some()) {
                total += expressions
                    .iter()
                    .filter_map(|e| e.pointer("/counter/packets")?.as_u64())
                    .sum::<u64>();
            }
        }
    }
    Ok(total)
}

async fn spoof_drops_of_fabric(lab: &Lab) -> Result<u64> {
    let counters = post_unix(&lab.vpc_socket(), "/lab/v1/Counters", &json!({})).await?;
    counters
        .get("spoof_total")
        .and_then(Value::as_u64)
        .context("Counters: no spoof_total")
}
