//! Beside the rules of others: those that kube-proxy would make, in each of the ways in which it can make them, a reload that
//! flushes what is not ours, and somebody who holds the lock of the iptables programs. What becomes of a packet that is not
//! theirs is the same in all of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use crate::bed::talk::{Server, ask};
use crate::bed::{Bed, Pod, in_netns, ip, possible, wait_until};

mod rules;

use rules::{KINDS, Service};

/// The node's own addresses, by NIC.
const OWN: [[&str; 2]; 2] = [["10.77.0.10", "fd77:0::10"], ["10.77.1.10", "fd77:1::10"]];
/// VMs of the VPC: the router's own addresses on both sides.
const VMS: [[&str; 2]; 2] = [["10.77.0.1", "fd77:0::1"], ["10.77.1.1", "fd77:1::1"]];
/// Outside the VPC.
const FAR: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const PROTOCOLS: [&str; 2] = ["tcp", "udp"];
const PORT: u16 = 80;
const HOST_PORTS: [u16; 2] = [8000, 8001];

fn have_programs(test: &str) -> bool {
    if !possible(test) {
        return false;
    }
    let missing = ["iptables-legacy", "iptables-nft", "flock"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").output().is_err());
    let Some(program) = missing else { return true };
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test}: there is no {program}"
    );
    println!("SKIP {test}: there is no {program}");
    false
}

/// A node with a pod of each NIC, servers everywhere, and a VPC that drops what leaves by the wrong NIC.
struct Scene {
    bed: Bed,
    pods: [Pod; 2],
    /// Of the pods, by NIC and family.
    ips: [[IpAddr; 2]; 2],
    _servers: Vec<Server>,
}

impl Scene {
    async fn new() -> Self {
        let mut bed = Bed::new(1);
        bed.start(&[]);
        for far in FAR {
            ip(&bed.fabric, &format!("addr add {far} dev lo nodad"));
        }
        // As a VPC does: a frame whose source its NIC does not own.
        let mut rules = String::new();
        for (index, [four, six]) in [
            ["10.77.0.0/24", "fd77:0::/64"],
            ["10.77.1.0/24", "fd77:1::/64"],
        ]
        .into_iter()
        .enumerate()
        {
            rules += &format!("iifname f{index} ip saddr != {four} counter drop\n");
            rules +=
                &format!("iifname f{index} ip6 saddr != {{ {six}, fe80::/10, :: }} counter drop\n");
        }
        let table = format!(
            "table inet vpc {{ chain in {{ type filter hook prerouting priority -400;\n{rules}}}\n}}"
        );
        in_netns(&bed.fabric, "nft", &[&table]);
        let mut servers = vec![
            Server::start(&bed.fabric, PORT, "vm"),
            Server::start(&bed.node, PORT, "node"),
        ];
        let mut pods = Vec::new();
        let mut ips = Vec::new();
        for (name, port) in ["a", "b"].into_iter().zip(HOST_PORTS) {
            let ports = (port.into(), PORT.into());
            let pod = bed
                .pod(name)
                .with_port("tcp", "", ports)
                .with_port("udp", "", ports);
            let made = bed.add(&pod).await.unwrap();
            let of = |index: usize| {
                let cidr = &made.addresses[index].cidr;
                cidr.split('/').next().unwrap().parse::<IpAddr>().unwrap()
            };
            ips.push([of(0), of(1)]);
            servers.push(Server::start(&pod.netns, PORT, name));
            pods.push(pod);
        }
        assert!(
            ips[0][0].to_string().starts_with("10.77.0.")
                && ips[1][0].to_string().starts_with("10.77.1.")
        );
        Self {
            bed,
            pods: pods.try_into().ok().unwrap(),
            ips: ips.try_into().ok().unwrap(),
            _servers: servers,
        }
    }

    /// Who answers whom, and which address it sees. Nothing in it concerns a Service.
    fn verdicts(&self) -> BTreeMap<String, Option<String>> {
        let mut all = BTreeMap::new();
        for family in [0, 1] {
            for protocol in PROTOCOLS {
                let mut cell = |from: &str, netns: &str, to: &str, at: IpAddr, port: u16| {
                    let answer = ask(netns, protocol, SocketAddr::new(at, port));
                    all.insert(format!("{protocol} {from} to {to} at {at}:{port}"), answer);
                };
                let parsed = |text: &str| text.parse::<IpAddr>().unwrap();
                for nic in [0, 1] {
                    let pod = &self.pods[nic];
                    cell(
                        &pod.id,
                        &pod.netns,
                        "other pod",
                        self.ips[1 - nic][family],
                        PORT,
                    );
                    cell(&pod.id, &pod.netns, "far", parsed(FAR[family]), PORT);
                    cell(&pod.id, &pod.netns, "node", parsed(OWN[nic][family]), PORT);
                    cell("node", &self.bed.node, "pod", self.ips[nic][family], PORT);
                    cell("vm", &self.bed.fabric, "pod", self.ips[nic][family], PORT);
                    for side in [0, 1] {
                        cell(&pod.id, &pod.netns, "vm", parsed(VMS[side][family]), PORT);
                        let own = parsed(OWN[side][family]);
                        cell("vm", &self.bed.fabric, "host port", own, HOST_PORTS[nic]);
                        cell(&pod.id, &pod.netns, "host port", own, HOST_PORTS[nic]);
                        cell(
                            &pod.id,
                            &pod.netns,
                            "other's host port",
                            own,
                            HOST_PORTS[1 - nic],
                        );
                    }
                }
            }
        }
        all
    }

    /// A Service on each: a backend in each place, asked from each pod and from the node.
    fn services(&self) -> Vec<Service> {
        let mut all = Vec::new();
        for family in [0, 1] {
            for (number, backend) in [
                self.ips[0][family],
                self.ips[1][family],
                VMS[0][family].parse().unwrap(),
                VMS[1][family].parse().unwrap(),
            ]
            .into_iter()
            .enumerate()
            {
                all.push(Service::new(
                    family == 1,
                    u16::try_from(number).unwrap(),
                    backend,
                    PORT,
                ));
            }
        }
        all
    }

    /// Every Service answers from every pod, seen with the pod's own address, or, where the pod is its own backend, with one of
    /// the node's; its port on the node answers a VM by every NIC.
    fn services_answer(&self, kind: &str, services: &[Service]) {
        for service in services {
            let family = usize::from(service.vip.is_ipv6());
            for protocol in PROTOCOLS {
                for nic in [0, 1] {
                    let pod = &self.pods[nic];
                    let what = format!("{kind}: {protocol} {} to {service:?}", pod.id);
                    let to = SocketAddr::new(service.vip, PORT);
                    let answer = ask(&pod.netns, protocol, to).unwrap_or_else(|| panic!("{what}"));
                    let seen: IpAddr = answer.split_once(' ').unwrap().1.parse().unwrap();
                    if service.backend == self.ips[nic][family] {
                        assert!(
                            OWN.iter().flatten().any(|own| own.parse() == Ok(seen)),
                            "{what}: {answer}"
                        );
                    } else {
                        assert_eq!(seen, self.ips[nic][family], "{what}");
                    }
                }
                for own in OWN.iter().map(|own| own[family]) {
                    let to = SocketAddr::new(own.parse().unwrap(), service.node_port);
                    let what = format!("{kind}: {protocol} vm to {to} of {service:?}");
                    assert!(ask(&self.bed.fabric, protocol, to).is_some(), "{what}");
                }
            }
        }
    }
}

fn set_rp_filter(bed: &Bed, value: &str) {
    let script =
        format!("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {value} > $f; done");
    in_netns(&bed.node, "sh", &["-c", &script]);
}

#[tokio::test]
async fn t15_same_verdicts_beside_the_rules_of_others() {
    if !have_programs("t15_same_verdicts_beside_the_rules_of_others") {
        return;
    }
    let scene = Scene::new().await;
    let alone = scene.verdicts();
    assert_eq!(alone.len(), 2 * 2 * 2 * (5 + 4 * 2));
    let silent: Vec<_> = alone
        .iter()
        .filter(|(_, answer)| answer.is_none())
        .collect();
    assert_eq!(silent, [], "everybody is answered");
    let services = scene.services();
    for kind in KINDS {
        for filter in ["0", "1"] {
            set_rp_filter(&scene.bed, filter);
            kind.install(&scene.bed.node, &services);
            assert_eq!(
                scene.verdicts(),
                alone,
                "beside {kind:?}, rp_filter={filter}"
            );
            scene.services_answer(&format!("{kind:?}, rp_filter={filter}"), &services);
            // What is not ours goes, as in a reload.
            kind.flush(&scene.bed.node);
            assert_eq!(scene.verdicts(), alone, "after the flush of {kind:?}");
        }
    }
    // All of them at once.
    for kind in KINDS {
        kind.install(&scene.bed.node, &services);
    }
    assert_eq!(scene.verdicts(), alone, "beside all of them");
    for kind in KINDS {
        kind.flush(&scene.bed.node);
    }
}

/// Before the agent's restart, while none runs, and afterwards.
#[tokio::test]
async fn t12_a_pod_reaches_itself_through_its_service() {
    if !have_programs("t12_a_pod_reaches_itself_through_its_service") {
        return;
    }
    for kind in KINDS {
        let mut scene = Scene::new().await;
        let services = scene.services();
        kind.install(&scene.bed.node, &services);
        let reach = |scene: &Scene, when: &str| {
            for (nic, pod) in scene.pods.iter().enumerate() {
                for service in services
                    .iter()
                    .filter(|one| scene.ips[nic].contains(&one.backend))
                {
                    for protocol in PROTOCOLS {
                        let answer = ask(&pod.netns, protocol, SocketAddr::new(service.vip, PORT));
                        let what = format!("{kind:?}, {when}: {protocol} {} {service:?}", pod.id);
                        assert!(
                            answer.is_some_and(|answer| answer.starts_with(&pod.id[2..])),
                            "{what}"
                        );
                    }
                }
            }
        };
        reach(&scene, "at first");
        scene.bed.kill();
        reach(&scene, "without agent");
        scene.bed.start(&[]);
        reach(&scene, "after the restart");
    }
}

/// A program that holds the lock for longer than any ADD may take is nothing to us.
#[tokio::test]
async fn t6_the_lock_of_iptables_in_other_hands_delays_nothing() {
    if !have_programs("t6_the_lock_of_iptables_in_other_hands_delays_nothing") {
        return;
    }
    let mut bed = Bed::new(4);
    bed.start(&[]);
    let lock = std::path::Path::new("/run/xtables.lock");
    let was_there = lock.exists();
    let mut holder = Command::new("flock")
        .arg(lock)
        .args(["sh", "-c", "echo held && exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "held\n");
    // It is the lock that they take, and wait for.
    let refused = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", bed.node))
        .args(["iptables-legacy", "-w", "1", "-t", "nat", "-N", "TST"])
        .output()
        .unwrap();
    assert!(!refused.status.success(), "{refused:?}");
    let a = bed.pod("a").with_port("tcp", "", (8000, PORT.into()));
    let made = bed.add(&a).await.unwrap();
    let _server = Server::start(&a.netns, PORT, "a");
    for own in OWN.iter().flatten() {
        assert!(
            ask(
                &bed.fabric,
                "tcp",
                SocketAddr::new(own.parse().unwrap(), 8000)
            )
            .is_some()
        );
    }
    let before = bed.kernel();
    in_netns(&bed.node, "nft", &["delete", "table", "inet", "tombolo"]);
    wait_until("the table is back", || bed.kernel() == before);
    assert_eq!(bed.check(&a, &made).await, None);
    assert_eq!(bed.del(&a, true).await, None);
    bed.agree(0);
    assert_eq!(holder.try_wait().unwrap(), None, "it was held all the time");
    holder.kill().unwrap();
    holder.wait().unwrap();
    if !was_there {
        std::fs::remove_file(lock).unwrap();
    }
}
