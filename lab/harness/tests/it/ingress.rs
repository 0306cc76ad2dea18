//! The truth table of several NICs: {NIC by which a connection comes in} x {NIC of the pod} x {from inside, from outside the
//! VPC} x {rp_filter 0, 1, 2} x {IPv4, IPv6}, with and without translation by the node. The test plants what a load balancer
//! would: a translation of each NIC's own address to pods. The reply must leave by the NIC of ingress with that address; the
//! fabric drops and counts everything else.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tombolo_lab::kubeapi::Api;
use tombolo_lab::matrix::{PORT, Place};
use tombolo_lab::node::output;
use tombolo_lab::pods::Pod;
use tombolo_lab::probe::Outcome;
use tombolo_lab::state::{Lab, Node};
use tombolo_lab::topology::Topology;
use tombolo_lab::up::wait_for;

use crate::beyond::{Beyond, FAR, connect};
use crate::support::{
    Capture, fabric_link, in_ns, one_of_each_nic, place, run_pods, scenario, vm_place,
};

/// An address of each family that a NIC owns and no pod has, once there are. Secondary NICs have no IPv6 address of their own
/// here: then one that the pool holds in reserve.
pub async fn fronts(lab: &Lab, device: u64, pods: &BTreeMap<String, Pod>) -> Result<Vec<IpAddr>> {
    let used: Vec<IpAddr> = pods.values().flat_map(|pod| pod.ips.clone()).collect();
    let what = format!("an IPv6 address of eth{device} that no pod has");
    wait_for(&what, Duration::from_secs(10), async || {
        Ok(front(lab, device, &used).await?.is_some())
    })
    .await?;
    front(lab, device, &used).await?.context(what)
}

async fn front(lab: &Lab, device: u64, used: &[IpAddr]) -> Result<Option<Vec<IpAddr>>> {
    let name = &lab.nodes[0].name;
    let path = format!("/apis/tombolo.dev/v1alpha1/netresourcesets/{name}");
    let object = Api::new(&lab.api_url)?.get(&path).await?;
    let nics = object.pointer("/spec/nics").and_then(Value::as_array);
    let nic = nics
        .into_iter()
        .flatten()
        .find(|nic| nic["deviceIndex"] == device)
        .with_context(|| format!("no eth{device} in {object}"))?;
    let ip = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    let pool = nic["addresses"].as_array().into_iter().flatten();
    let free = pool
        .filter_map(ip)
        .find(|ip| ip.is_ipv6() && !used.contains(ip));
    let own4 = ip(&nic["primary4"]).context("primary4")?;
    Ok(ip(&nic["primary6"]).or(free).map(|own6| vec![own4, own6]))
}

/// The port on every NIC's address that leads to the pod of this device.
fn front_port(device: u64) -> u16 {
    9000 + u16::try_from(device).unwrap_or(0)
}

/// Plants the translation from each NIC's address to each pod, in a table of our own.
fn plant(
    node: &Node,
    nics: &BTreeMap<u64, Vec<IpAddr>>,
    pods: &BTreeMap<u64, Place>,
) -> Result<()> {
    let mut rules = String::new();
    for own in nics.values().flatten() {
        for (device, pod) in pods {
            let port = front_port(*device);
            let to = pod.same_family(*own).context("an address of its family")?;
            rules += &if own.is_ipv4() {
                format!("ip daddr {own} tcp dport {port} dnat ip to {to}:{PORT}\n")
            } else {
                format!("ip6 daddr {own} tcp dport {port} dnat ip6 to [{to}]:{PORT}\n")
            };
        }
    }
    let table = format!(
        "table inet tstfront {{ chain pre {{ type nat hook prerouting priority dstnat;\n{rules}}}\n}}"
    );
    in_ns(&node.netns(), "nft", &[&table])?;
    Ok(())
}

pub fn set_rp_filter(node: &Node, value: &str) -> Result<()> {
    let script =
        format!("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {value} > $f; done");
    let mut command = node.command("sh");
    command.args(["-c", &script]);
    output(command)?;
    Ok(())
}

fn rp_filters(node: &Node) -> Result<Vec<String>> {
    let mut command = node.command("sh");
    command.args(["-c", "cat /proc/sys/net/ipv4/conf/*/rp_filter"]);
    Ok(output(command)?.lines().map(str::to_owned).collect())
}

pub async fn spoof_drops(lab: &Lab) -> Result<u64> {
    let counters =
        tombolo_lab::http::post_unix(&lab.vpc_socket(), "/lab/v1/Counters", &json!({})).await?;
    let total = counters.get("spoof_total").and_then(Value::as_u64);
    total.context("Counters: no spoof_total")
}

/// A lab with a pod of each NIC, all fronts planted, and the network beyond.
struct Scene {
    beyond: Beyond,
    nics: BTreeMap<u64, Vec<IpAddr>>,
    pods: BTreeMap<u64, Place>,
}

async fn scene(lab: &Lab) -> Result<Scene> {
    let running = run_pods(lab, 7).await?;
    let mut pods = BTreeMap::new();
    for ((_, device), pod) in one_of_each_nic(lab, &running).await? {
        pods.insert(device, place(lab, &pod)?);
    }
    ensure!(pods.len() == 2, "pods of two NICs are wanted: {pods:?}");
    let node = &lab.nodes[0];
    let mut nics = BTreeMap::new();
    for device in pods.keys() {
        nics.insert(*device, fronts(lab, *device, &running).await?);
    }
    plant(node, &nics, &pods)?;
    Ok(Scene {
        beyond: Beyond::new(lab)?,
        nics,
        pods,
    })
}

/// One node, whose reserve stays.
pub fn topology(name: &str, vms: usize) -> Topology {
    let mut topology = Topology::with(name, 1, "t3.medium", vms);
    topology.profile.pool.warm_max = 50;
    topology
}

fn truth_table(name: &str, snat: bool) {
    let mut topology = topology(name, 1);
    topology.profile.snat.enabled = snat;
    scenario(topology, async |lab| {
        let Scene { beyond, nics, pods } = scene(&lab).await?;
        let node = &lab.nodes[0];
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
            let set = rp_filters(node)?;
            let mut captures = Vec::new();
            for device in nics.keys() {
                let (fabric, link) = fabric_link(&lab, &node.instance, *device).await?;
                let filter = "tcp src port 9000 or tcp src port 9001";
                captures.push((*device, Capture::start(&fabric, &link, filter)?));
            }
            for (ingress, own) in &nics {
                for (device, pod) in &pods {
                    for client in [&inside, &outside] {
                        for to in own {
                            let what = format!(
                                "rp_filter={value}: {} to {to} of eth{ingress}, pod {} of eth{device}",
                                client.name, pod.name
                            );
                            let report = connect(&client.netns, *to, front_port(*device), 4096)
                                .with_context(|| what.clone())?;
                            ensure!(report.outcome == Outcome::Connected, "{what}: {report:?}");
                            ensure!(
                                report.seen_by_server == client.same_family(*to),
                                "{what}: the source is not kept: {report:?}"
                            );
                            ensure!(report.syn_retransmits == 0, "{what}: {report:?}");
                            cells += 1;
                        }
                    }
                }
            }
            for (device, capture) in captures {
                // With -e: addresses stand after the link-level part; replies only, by the filter.
                let seen = capture.stop()?;
                for (ingress, own) in &nics {
                    for ip in own {
                        let replies = seen
                            .iter()
                            .filter(|line| line.contains(&format!(" {ip}.90")))
                            .count();
                        ensure!(
                            (replies > 0) == (device == *ingress),
                            "rp_filter={value}: {replies} replies of {ip} (eth{ingress}) on eth{device}"
                        );
                    }
                }
            }
            ensure!(rp_filters(node)? == set, "rp_filter is the administrator's");
        }
        ensure!(cells == 2 * 2 * 2 * 2 * 3, "{cells} cells");
        ensure!(
            spoof_drops(&lab).await? == before,
            "the fabric dropped replies"
        );
        Ok(())
    });
}

#[test]
fn t11_replies_leave_by_the_nic_of_ingress() {
    truth_table("ingress", true);
}

#[test]
fn replies_leave_by_the_nic_of_ingress_without_translation_by_the_node() {
    truth_table("ingressplain", false);
}

/// The table is worth something only if it can fail: without the mark on connections, replies are on their way out by the
/// pod's NIC. They are caught there, so that the fabric has nothing to count.
#[test]
fn without_the_mark_on_connections_replies_leave_by_the_wrong_nic() {
    scenario(topology("ingressbad", 0), async |lab| {
        let Scene { beyond, nics, .. } = scene(&lab).await?;
        let netns = lab.nodes[0].netns();
        let (to, port) = (nics[&1][0], front_port(0));
        // Right after ours: our bits of the connection's mark are lost.
        let table = format!(
            "table inet tstmark {{
               chain pre {{ type filter hook prerouting priority -180; ct mark set ct mark & 0xf000ffff; }}
               chain post {{ type filter hook postrouting priority 300; ip saddr {to} oifname \"eth0\" counter drop; }}
             }}"
        );
        in_ns(&netns, "nft", &[&table])?;
        let report = connect(&beyond.far(), to, port, 0)?;
        ensure!(report.outcome == Outcome::TimedOut, "{report:?}");
        let caught = in_ns(&netns, "nft", &["list", "chain", "inet", "tstmark", "post"])?;
        ensure!(!caught.contains("packets 0 "), "{caught}");
        in_ns(&netns, "nft", &["delete", "table", "inet", "tstmark"])?;
        let report = connect(&beyond.far(), to, port, 0)?;
        ensure!(report.outcome == Outcome::Connected, "{report:?}");
        Ok(())
    });
}

/// Ten megabytes to and fro over a hop that is narrower than both ends, in every way a connection can come about.
#[test]
fn t13_a_narrow_hop_in_the_middle_is_found() {
    const BYTES: usize = 10_000_000;
    scenario(topology("narrowhop", 0), async |lab| {
        let Scene { beyond, nics, pods } = scene(&lab).await?;
        let far = beyond.far();
        let works = |what: String, netns: &str, to: IpAddr, port| -> Result<()> {
            let report = connect(netns, to, port, BYTES).with_context(|| what.clone())?;
            ensure!(report.outcome == Outcome::Connected, "{what}: {report:?}");
            Ok(())
        };
        for (device, pod) in &pods {
            for to in FAR {
                let to: IpAddr = to.parse()?;
                works(
                    format!("{} of eth{device} to {to}", pod.name),
                    &pod.netns,
                    to,
                    PORT,
                )?;
                // More than one packet holds, without a connection: in fragments.
                in_ns(
                    &pod.netns,
                    "ping",
                    &["-c", "3", "-W", "2", "-s", "3000", &to.to_string()],
                )?;
            }
            for ip in &pod.ips {
                works(format!("far to {ip} of eth{device}"), &far, *ip, PORT)?;
                in_ns(
                    &far,
                    "ping",
                    &["-c", "3", "-W", "2", "-s", "3000", &ip.to_string()],
                )?;
            }
            for (ingress, own) in &nics {
                for ip in own {
                    let what = format!("far to {ip} of eth{ingress}, pod of eth{device}");
                    works(what, &far, *ip, front_port(*device))?;
                }
            }
        }
        Ok(())
    });
}

/// The same, where what tells of the hop does not arrive: it is that, and nothing else, that makes the above work.
#[test]
fn a_narrow_hop_that_nobody_tells_of_stops_the_bytes() {
    scenario(topology("narrowmute", 0), async |lab| {
        let Scene {
            beyond: _kept,
            pods,
            ..
        } = scene(&lab).await?;
        let mute = "table inet tstmute { chain in {
            type filter hook prerouting priority -500
            icmp type destination-unreachable drop
            icmpv6 type packet-too-big drop
        }
        }";
        in_ns(&lab.nodes[0].netns(), "nft", &[mute])?;
        for pod in pods.values() {
            for to in FAR {
                let outcome = connect(&pod.netns, to.parse()?, PORT, 1_000_000);
                ensure!(outcome.is_err(), "{}: {outcome:?}", pod.name);
            }
        }
        Ok(())
    });
}
