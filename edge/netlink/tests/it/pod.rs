//! One pod on a node: wiring, checks, removal; and what its packets may do.

use std::net::IpAddr;

use tombolo_core::datapath::conventions::{DOOMED_LINK_GROUP, POD_LINK_GROUP, POD_TABLE};
use tombolo_core::datapath::{
    Endpoint, EndpointAddress, EndpointState, NatState, OwnTable, desired,
};
use tombolo_core::types::{Nic, NicId};
use tombolo_netlink::wire::{self, PodLink, PodSide};
use tombolo_netlink::{Error, Kernel, Netns, link, nft};

use crate::support::{
    add_v6_to_lo, counted, eventually, in_fresh_netns, ip, key, other_netns, receives, run, udp,
};

const MTU: u32 = 8951;

fn nic() -> Nic {
    Nic {
        id: NicId("eni-0".into()),
        device_index: 0,
        mac: "02:00:00:00:00:10".parse().unwrap(),
        ifindex: 1,
        ifname: "lo".into(),
        mtu: MTU,
        addr4: None,
        addr6: None,
        subnet4: None,
        subnet6: None,
        gateway4: None,
        gateway6: None,
    }
}

fn desired(container: &str, host_ifindex: u32, ips: &[&str]) -> EndpointState {
    let address = |ip: &&str| EndpointAddress {
        ip: ip.parse().unwrap(),
        nic: nic().id,
    };
    let addresses = ips.iter().map(address).collect();
    desired::endpoint(
        &Endpoint {
            key: key(container),
            host_ifindex,
            addresses,
            mtu: MTU,
        },
        &[nic()],
    )
}

/// A node with forwarding, our rules and tables, and no pod.
fn a_node() -> Kernel {
    let mut kernel = Kernel::open().unwrap();
    nft::install(&mut kernel.netfilter, &NatState::default()).unwrap();
    for flag in ["-4", "-6"] {
        run("ip", &format!("{flag} rule add priority 512 lookup 990"));
    }
    run(
        "sysctl",
        "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    );
    kernel
}

fn a_pod(kernel: &mut Kernel, container: &str, ips: &[&str]) -> (Netns, PodLink, EndpointState) {
    let netns = other_netns();
    let (link, state) = wire::create_pod(kernel, &netns, &key(container), MTU, |index| {
        desired(container, index, ips)
    })
    .unwrap();
    (netns, link, state)
}

#[test]
fn a_pod_is_wired_as_the_conventions_say() {
    in_fresh_netns("pod_wired", || {
        let mut kernel = a_node();
        let (netns, link, state) = a_pod(&mut kernel, "c1", &["10.0.1.5", "fd00::5"]);
        let host = &ip(&format!("link show {}", state.host_ifname))[0];
        assert_eq!(
            (&host["ifindex"], &host["group"]),
            (
                &link.host_ifindex.into(),
                &POD_LINK_GROUP.to_string().into()
            )
        );
        assert_eq!(
            (&host["mtu"], &host["operstate"]),
            (&MTU.into(), &"UP".into())
        );
        assert_eq!(
            (&host["inet6_addr_gen_mode"], &host["txqlen"]),
            (&"none".into(), &1000.into())
        );
        let addresses = ip(&format!("addr show {}", state.host_ifname));
        assert!(
            addresses[0]["addr_info"].as_array().unwrap().is_empty(),
            "the host end has no address: {addresses:?}"
        );
        let accept_ra = run(
            "sysctl",
            &format!("-n net/ipv6/conf/{}/accept_ra", state.host_ifname),
        );
        assert_eq!(accept_ra.trim(), "0");
        let v4 = run("ip", &format!("-N route show table {POD_TABLE}"));
        assert_eq!(
            v4.trim(),
            format!(
                "10.0.1.5 dev {} proto 116 scope 253 metric 1024",
                state.host_ifname
            )
        );
        let v6 = run("ip", &format!("-N -6 route show table {POD_TABLE}"));
        assert_eq!(
            v6.trim(),
            format!(
                "fd00::5 dev {} proto 116 metric 1024 pref medium",
                state.host_ifname
            )
        );

        netns
            .run(|| {
                let inside = &ip("addr show eth0")[0];
                assert_eq!(
                    (&inside["mtu"], &inside["operstate"]),
                    (&MTU.into(), &"UP".into())
                );
                assert_eq!(inside["address"], state.macs.0.to_string());
                let found: Vec<_> = inside["addr_info"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|a| (a["local"].clone(), a["prefixlen"].clone()))
                    .collect();
                assert_eq!(found.len(), 3, "{inside}");
                for (ip, length) in [("10.0.1.5", 32), ("fd00::5", 128)] {
                    assert!(found.contains(&(ip.into(), length.into())), "{inside}");
                }
                let v4 = run("ip", "-N route show");
                let lines: Vec<_> = v4.lines().map(str::trim).collect();
                assert_eq!(
                    lines,
                    [
                        "default via 169.254.1.1 dev eth0 proto 116 onlink",
                        "169.254.1.1 dev eth0 proto 116 scope 253"
                    ]
                );
                assert_eq!(
                    run("ip", "-N -6 route show").trim(),
                    "default via fe80::1 dev eth0 proto 116 metric 1024 onlink pref medium"
                );
                // Without waiting for the kernel's own.
                let local = run("ip", "-N -6 route show table 255");
                let line = "2 fd00::5 dev eth0 proto 116 metric 1024 pref medium";
                assert!(local.lines().any(|found| found.trim() == line), "{local}");
                for gateway in ["169.254.1.1", "fe80::1"] {
                    let shown = &ip(&format!("neigh show {gateway}"))[0];
                    assert_eq!(
                        (&shown["lladdr"], &shown["state"][0]),
                        (&state.macs.1.to_string().into(), &"PERMANENT".into())
                    );
                }
            })
            .unwrap();

        let mut pod = PodSide::open(&netns).unwrap();
        assert_eq!(pod.check(&key("c1"), &state).unwrap(), Vec::<String>::new());
        assert_eq!(
            wire::check_host(&mut kernel, link.host_ifindex, &state).unwrap(),
            Vec::<String>::new()
        );
    });
}

#[test]
fn wiring_again_is_the_same_and_check_names_what_is_missing() {
    in_fresh_netns("pod_again", || {
        let mut kernel = a_node();
        let ips = ["10.0.1.5", "fd00::5"];
        let (netns, link, state) = a_pod(&mut kernel, "c1", &ips);
        let mut pod = PodSide::open(&netns).unwrap();
        for (break_it, complaint) in [
            (
                "ip addr del 10.0.1.5/32 dev eth0",
                "address 10.0.1.5/32 is missing on eth0",
            ),
            (
                "ip -6 addr del fd00::5/128 dev eth0",
                "address fd00::5/128 is missing on eth0",
            ),
            (
                "ip route del default",
                "route to 0.0.0.0/0 is missing in the pod",
            ),
            (
                "ip -6 route del default",
                "route to ::/0 is missing in the pod",
            ),
            (
                "ip neigh del fe80::1 dev eth0",
                "neighbour entry of fe80::1 is missing in the pod",
            ),
            (
                "ip link set eth0 mtu 9000",
                "interface eth0 has MTU 9000 instead of 8951 in the pod",
            ),
        ] {
            netns
                .run(|| run("ip", break_it.strip_prefix("ip ").unwrap()))
                .unwrap();
            let found = pod.check(&key("c1"), &state).unwrap();
            assert!(
                found.iter().any(|difference| difference == complaint),
                "{complaint:?} in {found:?}"
            );
            pod.route
                .request(link::set_mtu(link.pod_ifindex, MTU))
                .unwrap();
            let again = pod.create(&mut kernel, &key("c1"), MTU).unwrap();
            assert_eq!(again, link);
            pod.configure(&mut kernel, again, &key("c1"), &state)
                .unwrap();
            assert_eq!(pod.check(&key("c1"), &state).unwrap(), Vec::<String>::new());
        }
        let name = &state.host_ifname;
        for (break_it, complaint) in [
            (
                format!("route flush table {POD_TABLE}"),
                format!("route to 10.0.1.5/32 is missing in table {POD_TABLE}"),
            ),
            (
                format!("neigh del 10.0.1.5 dev {name}"),
                "neighbour entry of 10.0.1.5 is missing on the node".into(),
            ),
        ] {
            run("ip", &break_it);
            let found = wire::check_host(&mut kernel, link.host_ifindex, &state).unwrap();
            assert_eq!(found, [complaint]);
            pod.configure(&mut kernel, link, &key("c1"), &state)
                .unwrap();
        }
        run(
            "nft",
            &format!(
                "delete element inet tombolo pods4 {{ {} . 10.0.1.5 }}",
                link.host_ifindex
            ),
        );
        let found = wire::check_host(&mut kernel, link.host_ifindex, &state).unwrap();
        assert_eq!(
            found,
            [format!("source 10.0.1.5 is not admitted on {name}")]
        );
        nft::remove(&mut kernel.netfilter).unwrap();
        let found = wire::check_host(&mut kernel, link.host_ifindex, &state).unwrap();
        assert_eq!(found, ["the nft tables are missing or were changed"]);
    });
}

#[test]
fn anothers_interface_and_the_nodes_namespace_are_not_touched() {
    in_fresh_netns("pod_foreign", || {
        let mut kernel = a_node();
        let netns = other_netns();
        netns
            .run(|| run("ip", "link add eth0 type veth peer name eth1"))
            .unwrap();
        let make = |kernel: &mut Kernel, netns: &Netns| {
            wire::create_pod(kernel, netns, &key("c1"), MTU, |index| {
                desired("c1", index, &["10.0.1.5"])
            })
        };
        assert!(
            matches!(make(&mut kernel, &netns), Err(Error::InterfaceExists { name }) if name == "eth0")
        );
        assert_eq!(wire::pod_links(&mut kernel).unwrap(), []);
        // DEL for a key whose interface was never made leaves the other's alone.
        wire::detach_pod(
            &mut kernel,
            Some(&netns),
            &key("c1"),
            None,
            &[],
            &OwnTable::default(),
        )
        .unwrap();
        assert_eq!(netns.run(|| ip("link show eth0").len()).unwrap(), 1);

        let own = Netns::own().unwrap();
        assert!(matches!(
            make(&mut kernel, &own),
            Err(Error::HostNetns { .. })
        ));
        assert_eq!(ip("link show").len(), 1);
    });
}

#[test]
fn detaching_frees_the_name_and_removes_all_at_once() {
    in_fresh_netns("pod_detach", || {
        let mut kernel = a_node();
        let ips = ["10.0.1.5", "fd00::5"];
        let addresses: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let (netns, link, state) = a_pod(&mut kernel, "c1", &ips);
        for _ in 0..2 {
            wire::detach_pod(
                &mut kernel,
                Some(&netns),
                &key("c1"),
                Some(link.host_ifindex),
                &addresses,
                &OwnTable::default(),
            )
            .unwrap();
            assert_eq!(
                nft::observe(&mut kernel.netfilter).unwrap(),
                Some(NatState::default())
            );
            for family in ["-4", "-6"] {
                assert_eq!(
                    run("ip", &format!("{family} route show table {POD_TABLE}")),
                    ""
                );
                assert_eq!(run("ip", &format!("{family} neigh show nud permanent")), "");
            }
            let host = &ip(&format!("link show {}", state.host_ifname))[0];
            assert_eq!(host["group"], DOOMED_LINK_GROUP.to_string());
            assert_eq!(host["operstate"], "DOWN");
            let names = netns.run(|| run("ip", "-j link show")).unwrap();
            assert!(!names.contains("\"eth0\""), "{names}");
        }
        // The name is free for another container, and for the same one again.
        for container in ["c2", "c1"] {
            let (link, _) = wire::create_pod(&mut kernel, &netns, &key(container), MTU, |index| {
                desired(container, index, &ips)
            })
            .unwrap();
            wire::detach_pod(
                &mut kernel,
                Some(&netns),
                &key(container),
                Some(link.host_ifindex),
                &addresses,
                &OwnTable::default(),
            )
            .unwrap();
        }
        assert_eq!(wire::pod_links(&mut kernel).unwrap().len(), 3);
        assert_eq!(wire::reap_doomed(&mut kernel).unwrap(), 3);
        assert_eq!(wire::reap_doomed(&mut kernel).unwrap(), 0);
        assert_eq!(ip("link show").len(), 1);
        assert_eq!(netns.run(|| ip("link show").len()).unwrap(), 1);

        // The namespace went first, and the links with it.
        let (netns, link, _) = a_pod(&mut kernel, "c3", &ips);
        drop(netns);
        eventually("the pod's link goes with its namespace", || {
            wire::pod_links(&mut kernel).unwrap().is_empty()
        });
        assert_ne!(
            nft::observe(&mut kernel.netfilter).unwrap(),
            Some(NatState::default())
        );
        wire::detach_pod(
            &mut kernel,
            None,
            &key("c3"),
            Some(link.host_ifindex),
            &addresses,
            &OwnTable::default(),
        )
        .unwrap();
        assert_eq!(
            nft::observe(&mut kernel.netfilter).unwrap(),
            Some(NatState::default())
        );
    });
}

#[test]
fn detaching_leaves_the_new_owner_of_an_address_alone() {
    in_fresh_netns("pod_new_owner", || {
        let mut kernel = a_node();
        let ips = ["10.0.1.5", "fd00::5"];
        let (old, old_link, _) = a_pod(&mut kernel, "c1", &ips);
        let (_new, new_link, state) = a_pod(&mut kernel, "c2", &ips);
        let addresses: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        wire::detach_pod(
            &mut kernel,
            Some(&old),
            &key("c1"),
            Some(old_link.host_ifindex),
            &addresses,
            &OwnTable::default(),
        )
        .unwrap();
        assert_eq!(
            wire::check_host(&mut kernel, new_link.host_ifindex, &state).unwrap(),
            Vec::<String>::new()
        );
    });
}

#[test]
fn the_first_packet_passes_in_both_families_and_directions() {
    in_fresh_netns("pod_first_packet", || {
        let mut kernel = a_node();
        // Strict reverse-path filtering must not get in the way.
        run(
            "sysctl",
            "-qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1",
        );
        for round in 0..10 {
            let (a, link_a, _) = a_pod(&mut kernel, &format!("a{round}"), &["10.0.1.5", "fd00::5"]);
            let (b, link_b, _) = a_pod(&mut kernel, &format!("b{round}"), &["10.0.1.6", "fd00::6"]);
            for (ip_a, ip_b) in [("10.0.1.5", "10.0.1.6"), ("fd00::5", "fd00::6")] {
                let (ip_a, ip_b): (IpAddr, IpAddr) = (ip_a.parse().unwrap(), ip_b.parse().unwrap());
                let (from, to) = (udp(&a, ip_a, 0), udp(&b, ip_b, 7));
                from.send_to(b"there", (ip_b, 7)).unwrap();
                assert!(receives(&to, b"there"));
                to.send_to(b"back", from.local_addr().unwrap()).unwrap();
                assert!(receives(&from, b"back"));
            }
            for (netns, link, container, ips) in [
                (&a, link_a, "a", ["10.0.1.5", "fd00::5"]),
                (&b, link_b, "b", ["10.0.1.6", "fd00::6"]),
            ] {
                let ips = ips.map(|ip| ip.parse().unwrap());
                let key = key(&format!("{container}{round}"));
                wire::detach_pod(
                    &mut kernel,
                    Some(netns),
                    &key,
                    Some(link.host_ifindex),
                    &ips,
                    &OwnTable::default(),
                )
                .unwrap();
            }
        }
    });
}

#[test]
fn a_spoofed_source_reaches_nobody() {
    in_fresh_netns("pod_spoof", || {
        let mut kernel = a_node();
        let (a, ..) = a_pod(&mut kernel, "a", &["10.0.1.5", "fd00::5"]);
        let (b, ..) = a_pod(&mut kernel, "b", &["10.0.1.6", "fd00::6"]);
        let (_victim, ..) = a_pod(&mut kernel, "v", &["10.0.1.7", "fd00::7"]);
        a.run(|| {
            run("ip", "addr add 10.0.1.7/32 dev lo");
            add_v6_to_lo("fd00::7");
        })
        .unwrap();
        for (own, stolen, target) in [
            ("10.0.1.5", "10.0.1.7", "10.0.1.6"),
            ("fd00::5", "fd00::7", "fd00::6"),
        ] {
            let [own, stolen, target]: [IpAddr; 3] =
                [own, stolen, target].map(|ip| ip.parse().unwrap());
            let before = counted("inet tombolo", "spoofed source");
            let to = udp(&b, target, 7);
            udp(&a, stolen, 0).send_to(b"spoofed", (target, 7)).unwrap();
            eventually("the packet is counted", || {
                counted("inet tombolo", "spoofed source") == before + 1
            });
            udp(&a, own, 0).send_to(b"honest", (target, 7)).unwrap();
            assert!(receives(&to, b"honest"));
        }
    });
}

#[test]
fn neighbour_protocols_of_a_pod_are_dropped() {
    in_fresh_netns("pod_arp_nd", || {
        let mut kernel = a_node();
        let (a, ..) = a_pod(&mut kernel, "a", &["10.0.1.5", "fd00::5"]);
        let (_b, ..) = a_pod(&mut kernel, "b", &["10.0.1.6", "fd00::6"]);
        for (table, comment, gateway, from, to) in [
            (
                "arp tombolo",
                "pods need no ARP",
                "169.254.1.1",
                "10.0.1.5",
                "10.0.1.6",
            ),
            (
                "inet tombolo",
                "neighbour discovery",
                "fe80::1",
                "fd00::5",
                "fd00::6",
            ),
        ] {
            let before = counted(table, comment);
            // Without its permanent entry the pod has to ask, and nobody answers.
            a.run(|| run("ip", &format!("neigh del {gateway} dev eth0")))
                .unwrap();
            let [from, to]: [IpAddr; 2] = [from, to].map(|ip| ip.parse().unwrap());
            udp(&a, from, 0).send_to(b"x", (to, 7)).unwrap();
            eventually("the question is dropped", || {
                counted(table, comment) > before
            });
            let shown = a.run(|| ip(&format!("neigh show {gateway}"))).unwrap();
            assert!(
                shown.iter().all(|entry| entry["lladdr"].is_null()),
                "{shown:?}"
            );
        }
        // The node learns nothing from pods either.
        let host = wire::pod_links(&mut kernel).unwrap();
        for link in host {
            for entry in ip(&format!("neigh show dev {}", link.name)) {
                assert_eq!(entry["state"][0], "PERMANENT", "{entry}");
            }
        }
    });
}
