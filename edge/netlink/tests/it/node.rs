//! A whole node: desired state, plan, apply, observe; and where its packets leave.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};

use tombolo_core::datapath::diff::plan;
use tombolo_core::datapath::{Endpoint, EndpointAddress, NodeInput, desired};
use tombolo_core::types::{Families, Nic, NicId};
use tombolo_netlink::{Kernel, Netns, link, nft, wire};

use crate::support::{add_v6_to_lo, in_fresh_netns, key, other_netns, receive, receives, run, udp};

/// A node with two NICs in a VPC, which is a namespace that has the far ends: gw0 and gw1.
struct Node {
    kernel: Kernel,
    vpc: Netns,
    input: NodeInput,
    pods: Vec<Netns>,
}

const MTU: u32 = 1500;

impl Node {
    fn new() -> Self {
        let mut kernel = Kernel::open().unwrap();
        let vpc = other_netns();
        // Without it the link-local addresses take seconds.
        let no_dad = "-qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0";
        run("sysctl", no_dad);
        vpc.run(|| run("sysctl", no_dad)).unwrap();
        let mut nics = Vec::new();
        for index in 0..2_u16 {
            let far = 2 + usize::from(index);
            vpc.run(|| run("ip", &format!("link add gw{index} address 02:00:00:00:01:0{index} type veth peer name eth{index}"))).unwrap();
            // Move the near end here.
            let mut socket = tombolo_netlink::Socket::route_in(&vpc).unwrap();
            let near = link::by_name(&mut socket, &format!("eth{index}"))
                .unwrap()
                .unwrap();
            socket
                .request(link::move_to(
                    near.index,
                    std::os::fd::AsFd::as_fd(&kernel.netns),
                ))
                .unwrap();
            vpc.run(|| {
                run("ip", &format!("link set gw{index} up"));
                run("ip", &format!("addr add 10.0.0.1/32 dev gw{index}"));
                run(
                    "ip",
                    &format!("-6 addr add fe80::{far}/64 dev gw{index} nodad"),
                );
            })
            .unwrap();
            run("ip", &format!("link set eth{index} up"));
            let near = link::by_name(&mut kernel.route, &format!("eth{index}"))
                .unwrap()
                .unwrap();
            nics.push(Nic {
                id: NicId(format!("eni-{index}")),
                device_index: index,
                mac: near.mac.unwrap(),
                ifindex: near.index,
                ifname: near.name,
                mtu: MTU,
                addr4: Some(format!("10.0.0.{}", 4 + index).parse().unwrap()),
                addr6: Some(format!("fd00::f{}", 4 + index).parse().unwrap()),
                subnet4: Some("10.0.0.0/16".parse().unwrap()),
                subnet6: Some("fd00::/64".parse().unwrap()),
                gateway4: Some("10.0.0.1".parse().unwrap()),
                gateway6: Some(format!("fe80::{far}").parse().unwrap()),
            });
        }
        // The operating system's own configuration of the primary NIC.
        run("ip", "addr add 10.0.0.4/16 dev eth0");
        run("ip", "-6 addr add fd00::f4/128 dev eth0 nodad");
        run("ip", "route add default via 10.0.0.1 dev eth0");
        run("ip", "-6 route add default via fe80::2 dev eth0");
        vpc.run(|| {
            run(
                "sysctl",
                "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            );
            // A host in the VPC and one outside, both on this side.
            run("ip", "addr add 10.0.200.1/32 dev lo");
            run("ip", "addr add 8.8.8.8/32 dev lo");
            add_v6_to_lo("fd00:0:0:9::1");
            // Where translated packets come from.
            run("ip", "route add 10.0.0.4 dev gw0");
            run("nft", "add table inet watch");
            run(
                "nft",
                "add chain inet watch in { type filter hook prerouting priority 0 ; }",
            );
        })
        .unwrap();
        let input = NodeInput {
            families: Families::Dual,
            nics,
            endpoints: Vec::new(),
            addresses: BTreeSet::new(),
            vpc_cidrs: ["10.0.0.0/16".parse().unwrap(), "fd00::/48".parse().unwrap()].into(),
            snat: true,
        };
        Self {
            kernel,
            vpc,
            input,
            pods: Vec::new(),
        }
    }

    /// Applies what is wanted, and asserts that nothing is left to do.
    fn resync(&mut self) -> usize {
        let desired = desired::node(&self.input);
        let paths: BTreeSet<_> = desired
            .sysctls
            .iter()
            .map(|setting| setting.path.clone())
            .collect();
        let nics: BTreeSet<_> = self
            .input
            .nics
            .iter()
            .filter(|nic| !nic.is_primary())
            .map(|nic| nic.ifindex)
            .collect();
        let observed = self.kernel.observe_node(&paths, &nics).unwrap();
        let ops = plan(&desired, &observed.state, observed.nat_intact);
        for op in &ops {
            self.kernel
                .apply(op)
                .unwrap_or_else(|error| panic!("{op:?}: {error}"));
        }
        let observed = self.kernel.observe_node(&paths, &nics).unwrap();
        let left = plan(&desired, &observed.state, observed.nat_intact);
        assert!(left.is_empty(), "{left:?}");
        ops.len()
    }

    /// A pod with these addresses, all of the NIC with this index. The VPC routes them there.
    fn add_pod(&mut self, container: &str, nic: u16, ips: &[&str]) {
        let netns = other_netns();
        let id = self.input.nics[usize::from(nic)].id.clone();
        let addresses: Vec<_> = ips
            .iter()
            .map(|ip| EndpointAddress {
                ip: ip.parse().unwrap(),
                nic: id.clone(),
            })
            .collect();
        let mut endpoint = Endpoint {
            key: key(container),
            host_ifindex: 0,
            addresses,
            host_ports: Vec::new(),
            mtu: MTU,
        };
        let nics = self.input.nics.clone();
        wire::create_pod(&mut self.kernel, &netns, &key(container), MTU, |index| {
            endpoint.host_ifindex = index;
            desired::endpoint(&endpoint, &nics)
        })
        .unwrap();
        self.input.endpoints.push(endpoint);
        let mac = self.input.nics[usize::from(nic)].mac;
        self.vpc
            .run(|| {
                for ip in ips {
                    run("ip", &format!("route add {ip} dev gw{nic}"));
                    run(
                        "ip",
                        &format!("neigh add {ip} dev gw{nic} lladdr {mac} nud permanent"),
                    );
                }
            })
            .unwrap();
        self.pods.push(netns);
    }

    /// Counts in the VPC what matches.
    fn watch(&self, matches: &str, comment: &str) {
        let words = format!("add rule inet watch in {matches} counter comment {comment}");
        self.vpc.run(|| run("nft", &words)).unwrap();
    }

    fn watched(&self, comment: &str) -> u64 {
        self.vpc
            .run(|| crate::support::counted("inet watch", comment))
            .unwrap()
    }
}

fn ask(from: &UdpSocket, to: &UdpSocket) {
    from.send_to(b"there", to.local_addr().unwrap()).unwrap();
    let (request, seen) = receive(to);
    assert_eq!(request, b"there");
    to.send_to(b"back", seen).unwrap();
    assert!(receives(from, b"back"));
}

#[test]
fn a_plan_carried_out_leaves_nothing_to_do() {
    in_fresh_netns("node_resync", || {
        let mut node = Node::new();
        assert!(node.resync() > 20);
        assert_eq!(node.resync(), 0);
        // What ADD makes is what resync expects.
        node.add_pod("a", 0, &["10.0.1.5", "fd00::5"]);
        node.add_pod("b", 1, &["10.0.1.6", "fd00::6"]);
        assert_eq!(node.resync(), 0);
        // Everything of ours deleted by another comes back.
        for flag in ["-4", "-6"] {
            run("ip", &format!("{flag} rule flush protocol 116"));
            run("ip", &format!("{flag} route flush table 990"));
            run("ip", &format!("{flag} route flush table 1001"));
        }
        run("nft", "flush ruleset");
        assert!(node.resync() > 20);
        assert_eq!(node.resync(), 0);
        // A NIC and a pod go.
        node.input.endpoints.pop();
        node.input.nics.pop();
        assert!(node.resync() > 5);
    });
}

#[test]
fn packets_leave_by_the_nic_that_owns_them() {
    for rp_filter in [0, 1, 2] {
        in_fresh_netns("node_paths", move || {
            run(
                "sysctl",
                &format!(
                    "-qw net.ipv4.conf.all.rp_filter={rp_filter} net.ipv4.conf.default.rp_filter={rp_filter}"
                ),
            );
            let mut node = Node::new();
            node.resync();
            node.add_pod("a", 0, &["10.0.1.5", "fd00::5"]);
            node.add_pod("b", 1, &["10.0.1.6", "fd00::6"]);
            node.watch("iifname gw0 ip saddr 10.0.1.6", "wrong4");
            node.watch("iifname gw0 ip6 saddr fd00::6", "wrong6");
            node.watch("iifname gw1 ip saddr 10.0.1.6", "right4");
            node.watch("iifname gw1 ip6 saddr fd00::6", "right6");
            node.watch(
                "iifname gw0 ip saddr 10.0.0.4 ip daddr 8.8.8.8",
                "translated",
            );
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();

            for (pod, pod_ip, far) in [
                (0, "10.0.1.5", "10.0.200.1"),
                (0, "fd00::5", "fd00:0:0:9::1"),
                (1, "10.0.1.6", "10.0.200.1"),
                (1, "fd00::6", "fd00:0:0:9::1"),
                // To outside the VPC, also from the second NIC.
                (0, "10.0.1.5", "8.8.8.8"),
                (1, "10.0.1.6", "8.8.8.8"),
            ] {
                let (inside, outside) = (
                    udp(&node.pods[pod], ip(pod_ip), 0),
                    udp(&node.vpc, ip(far), 0),
                );
                ask(&inside, &outside);
            }
            // From outside in.
            for (pod, pod_ip, far) in [
                (1, "10.0.1.6", "10.0.200.1"),
                (1, "fd00::6", "fd00:0:0:9::1"),
                (1, "10.0.1.6", "8.8.8.8"),
            ] {
                let (inside, outside) = (
                    udp(&node.pods[pod], ip(pod_ip), 0),
                    udp(&node.vpc, ip(far), 0),
                );
                ask(&outside, &inside);
            }
            assert_eq!((node.watched("wrong4"), node.watched("wrong6")), (0, 0));
            // One request each, and the replies to what came from outside, 8.8.8.8 included: by the NIC it came in.
            assert_eq!((node.watched("right4"), node.watched("right6")), (3, 2));
            assert_eq!(node.watched("translated"), 2);
        });
    }
}

#[test]
fn without_our_tables_nothing_of_a_pod_leaves() {
    in_fresh_netns("node_fail_closed", || {
        let mut node = Node::new();
        node.resync();
        node.add_pod("b", 1, &["10.0.1.6", "fd00::6"]);
        node.watch("ip saddr 10.0.1.6", "leak4");
        node.watch("ip6 saddr fd00::6", "leak6");
        nft::remove(&mut node.kernel.netfilter).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let sockets = [("10.0.1.6", "10.0.200.1"), ("fd00::6", "fd00:0:0:9::1")]
            .map(|(pod, far)| (udp(&node.pods[0], ip(pod), 0), udp(&node.vpc, ip(far), 0)));
        for (inside, outside) in &sockets {
            for _ in 0..3 {
                inside
                    .send_to(b"lost", outside.local_addr().unwrap())
                    .unwrap();
            }
        }
        assert_eq!(node.resync(), 1, "the tables come back");
        for (inside, outside) in &sockets {
            ask(inside, outside);
        }
        assert_eq!((node.watched("leak4"), node.watched("leak6")), (1, 1));

        // A NIC whose table lost its routes: nothing by another NIC.
        run("ip", "route flush table 1001");
        let (inside, outside) = &sockets[0];
        inside
            .send_to(b"lost", outside.local_addr().unwrap())
            .unwrap();
        node.resync();
        ask(inside, outside);
        assert_eq!(node.watched("leak4"), 2);
    });
}
