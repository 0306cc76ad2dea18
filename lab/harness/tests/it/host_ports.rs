//! Host ports of pods, as Kubernetes asks for them: from inside and outside the VPC by every NIC, on the node, and whose they
//! are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tombolo_lab::kubeapi::{Api, text};
use tombolo_lab::matrix::{PORT, Place};
use tombolo_lab::pods::{self, Pod};
use tombolo_lab::probe::Outcome;
use tombolo_lab::state::{Lab, Node};
use tombolo_lab::up::wait_for;

use crate::beyond::{Beyond, FAR, connect};
use crate::ingress::{fronts, set_rp_filter, spoof_drops, topology};
use crate::support::{
    Capture, fabric_link, in_ns, one_of_each_nic, place, probe, scenario, vm_place,
};

/// The host port of the pod with this number.
fn port_of(number: usize) -> u16 {
    9100 + u16::try_from(number).unwrap_or(0)
}

/// A pod that asks for its host port, by TCP and UDP.
async fn create(api: &Api, node: &Node, number: usize, port: u16) -> Result<()> {
    let name = format!("pod-{number:03}");
    let mut pod = pods::manifest(&name, Some(&node.name), &probe(), &[]);
    let ports: Vec<_> = ["TCP", "UDP"]
        .map(|protocol| json!({ "containerPort": PORT, "hostPort": port, "protocol": protocol }))
        .into();
    let container = pod.pointer_mut("/spec/containers/0");
    container.context("a container")?["ports"] = json!(ports);
    pods::create(api, &pod).await
}

async fn run(lab: &Lab, count: usize) -> Result<BTreeMap<String, Pod>> {
    let api = Api::new(&lab.api_url)?;
    for number in 0..count {
        create(&api, &lab.nodes[0], number, port_of(number)).await?;
    }
    pods::wait_running(&api, count, Duration::from_secs(60), |_| {}).await
}

/// Whether a datagram comes back.
fn echoes(netns: &str, to: IpAddr, port: u16) -> Result<bool> {
    let script =
        format!("exec 3<>/dev/udp/{to}/{port} && echo back >&3 && timeout 4 head -n1 <&3 || true");
    Ok(in_ns(netns, "bash", &["-c", &script])?.trim() == "back")
}

/// Connects by TCP and UDP; the client's own address must be seen.
fn answers(what: &str, client: &Place, to: IpAddr, port: u16) -> Result<()> {
    let report = connect(&client.netns, to, port, 4096).with_context(|| what.to_owned())?;
    ensure!(
        report.outcome == Outcome::Connected && report.syn_retransmits == 0,
        "{what}: {report:?}"
    );
    ensure!(
        report.seen_by_server == client.same_family(to),
        "{what}: the source is not kept: {report:?}"
    );
    ensure!(echoes(&client.netns, to, port)?, "{what}: no answer by UDP");
    Ok(())
}

/// One pod of each NIC, with its host port.
async fn one_of_each(
    lab: &Lab,
    running: &BTreeMap<String, Pod>,
) -> Result<BTreeMap<u64, (Place, u16)>> {
    let mut chosen = BTreeMap::new();
    for ((_, device), pod) in one_of_each_nic(lab, running).await? {
        let number = pod.name.rsplit('-').next().unwrap_or_default().parse()?;
        chosen.insert(device, (place(lab, &pod)?, port_of(number)));
    }
    // A slow machine may have been given a third NIC.
    ensure!(chosen.len() >= 2, "pods of two NICs are wanted: {chosen:?}");
    Ok(chosen.into_iter().take(2).collect())
}

/// Addresses of each NIC that are the node's own. Secondary NICs have no IPv6 address of their own here: then one that no pod
/// has becomes one.
async fn own_addresses(
    lab: &Lab,
    devices: impl Iterator<Item = u64>,
    running: &BTreeMap<String, Pod>,
) -> Result<BTreeMap<u64, Vec<IpAddr>>> {
    let mut all = BTreeMap::new();
    for device in devices {
        let own = fronts(lab, device, running).await?;
        for ip in own.iter().filter(|ip| ip.is_ipv6()) {
            let line = format!("-6 address replace {ip}/128 dev eth{device} nodad");
            in_ns(
                &lab.nodes[0].netns(),
                "ip",
                &line.split(' ').collect::<Vec<_>>(),
            )?;
        }
        all.insert(device, own);
    }
    Ok(all)
}

/// {NIC of ingress} x {NIC of the pod} x {from inside, from outside the VPC} x {rp_filter} x {family} x {TCP, UDP}, then from
/// the node itself, another pod and the pod itself.
#[test]
fn t11_host_ports_answer_by_the_nic_of_ingress() {
    scenario(topology("hostports", 1), async |lab| {
        let running = run(&lab, 7).await?;
        let beyond = Beyond::new(&lab)?;
        let pods = one_of_each(&lab, &running).await?;
        let node = &lab.nodes[0];
        let nics = own_addresses(&lab, pods.keys().copied(), &running).await?;
        let before = spoof_drops(&lab).await?;
        let inside = vm_place(&lab, "vm1")?;
        let outside = Place {
            name: "far".to_owned(),
            netns: beyond.far(),
            ips: FAR.map(|ip| ip.parse::<IpAddr>().unwrap()).to_vec(),
        };
        let mut cells = 0;
        for value in ["0", "1", "2"] {
            set_rp_filter(node, value)?;
            let mut captures = Vec::new();
            for device in nics.keys() {
                let (fabric, link) = fabric_link(&lab, &node.instance, *device).await?;
                let filter = "src portrange 9100-9106";
                captures.push((*device, Capture::start(&fabric, &link, filter)?));
            }
            for (ingress, own) in &nics {
                for (device, (pod, port)) in &pods {
                    for client in [&inside, &outside] {
                        for to in own {
                            let what = format!(
                                "rp_filter={value}: {} to {to} of eth{ingress}, {} of eth{device}",
                                client.name, pod.name
                            );
                            answers(&what, client, *to, *port)?;
                            cells += 1;
                        }
                    }
                }
            }
            for (device, capture) in captures {
                let seen = capture.stop()?;
                for (ingress, own) in &nics {
                    for ip in own {
                        let from = format!(" {ip}.91");
                        let replies = seen.iter().filter(|line| line.contains(&from)).count();
                        ensure!(
                            (replies > 0) == (device == *ingress),
                            "rp_filter={value}: {replies} replies of {ip} (eth{ingress}) on eth{device}"
                        );
                    }
                }
            }
            for (pod, port) in pods.values() {
                on_the_node(
                    &format!("rp_filter={value}"),
                    node,
                    &nics,
                    &pods,
                    pod,
                    *port,
                )?;
            }
        }
        ensure!(cells == 2 * 2 * 2 * 2 * 3, "{cells} cells");
        ensure!(
            spoof_drops(&lab).await? == before,
            "the fabric dropped replies"
        );
        Ok(())
    });
}

/// The node itself, all pods (the one that has the port, too), and the node's loopback.
fn on_the_node(
    what: &str,
    node: &Node,
    nics: &BTreeMap<u64, Vec<IpAddr>>,
    pods: &BTreeMap<u64, (Place, u16)>,
    server: &Place,
    port: u16,
) -> Result<()> {
    let own: Vec<IpAddr> = nics.values().flatten().copied().collect();
    for to in &own {
        let what = format!("{what}: to {to} for {}", server.name);
        let itself = Place {
            name: node.name.clone(),
            netns: node.netns(),
            ips: vec![*to],
        };
        answers(&format!("{what} from the node"), &itself, *to, port)?;
        for (client, _) in pods.values() {
            let what = format!("{what} from {}", client.name);
            if client != server {
                answers(&what, client, *to, port)?;
                continue;
            }
            // By an address of the node's: a pod takes no answer from itself.
            let report = connect(&client.netns, *to, port, 4096)?;
            let by_node = report
                .seen_by_server
                .is_some_and(|seen| own.contains(&seen));
            ensure!(
                report.outcome == Outcome::Connected && by_node,
                "{what}: {report:?}"
            );
            ensure!(
                echoes(&client.netns, *to, port)?,
                "{what}: no answer by UDP"
            );
        }
    }
    let loopback: IpAddr = "127.0.0.1".parse()?;
    let report = connect(&node.netns(), loopback, port, 4096)?;
    ensure!(
        report.outcome == Outcome::Connected,
        "{what}: loopback: {report:?}"
    );
    ensure!(
        echoes(&node.netns(), loopback, port)?,
        "{what}: loopback: no answer by UDP"
    );
    Ok(())
}

/// The second pod that asks for a port is told whose it is, where people look, and runs when that one is gone.
#[test]
fn a_port_that_is_another_pods_is_refused_by_name() {
    scenario(topology("portowner", 1), async |lab| {
        let api = Api::new(&lab.api_url)?;
        let node = &lab.nodes[0];
        create(&api, node, 0, 9100).await?;
        pods::wait_running(&api, 1, Duration::from_secs(60), |_| {}).await?;
        create(&api, node, 1, 9100).await?;
        let told = async || -> Result<bool> {
            let events = api.list("/api/v1/namespaces/default/events").await?;
            let of = events
                .iter()
                .filter(|event| text(event, "/involvedObject/name") == "pod-001");
            let mut messages = of.map(|event| text(event, "/message"));
            Ok(messages.any(|message| {
                message.contains("HostPortConflict") && message.contains("pod default/pod-000")
            }))
        };
        wait_for(
            "an Event with the owner's name",
            Duration::from_secs(20),
            told,
        )
        .await?;
        ensure!(pods::running(&api).await?.len() == 1, "only the first runs");
        pods::delete(&api, "pod-000").await?;
        let running = wait_for_only(&api, "pod-001").await?;
        let own = IpAddr::V4(node.address4);
        answers("the second pod", &vm_place(&lab, "vm1")?, own, 9100)?;
        ensure!(running.ips.len() == 2, "{running:?}");
        Ok(())
    });
}

async fn wait_for_only(api: &Api, name: &str) -> Result<Pod> {
    wait_for(name, Duration::from_secs(60), async || {
        let running = pods::running(api).await?;
        Ok(running.len() == 1 && running.contains_key(name))
    })
    .await?;
    pods::running(api).await?.remove(name).context("it runs")
}
