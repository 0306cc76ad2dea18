use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use tombolo_core::datapath::{HostPort, NatState};
use tombolo_core::types::{Family, HostAddress, Protocol};
use tombolo_netlink::{Socket, nft};

use crate::support::{in_fresh_netns, run};

/// Of every kind one; the first leads to `to`.
fn host_ports(to: &str) -> BTreeMap<HostPort, SocketAddr> {
    let port = |host, protocol, port, to: &str| {
        let port = HostPort {
            host,
            protocol,
            port,
        };
        (port, to.parse().unwrap())
    };
    let at = |ip: &str| HostAddress::One(ip.parse().unwrap());
    let (four, six) = (Family::V4, Family::V6);
    [
        port(HostAddress::Any(four), Protocol::Tcp, 80, to),
        port(HostAddress::Any(six), Protocol::Sctp, 80, "[fd00::5]:8080"),
        port(at("10.0.0.4"), Protocol::Udp, 53, "10.0.1.5:5353"),
        port(at("fd00::4"), Protocol::Udp, 53, "[fd00::5]:5353"),
    ]
    .into()
}

fn state() -> NatState {
    NatState {
        pods4: [
            ((7, Ipv4Addr::new(10, 0, 1, 5)), 0x0b01_0000),
            ((8, Ipv4Addr::new(10, 0, 1, 6)), 0x0b02_0000),
        ]
        .into(),
        pods6: [((7, "fd00::5".parse().unwrap()), 0x0b01_0000)].into(),
        nics: [(1, 0x0b01_0000), (3, 0x0b02_0000)].into(),
        vpc4: [
            "10.0.0.0/16",
            "192.168.0.0/24",
            "192.168.1.0/24",
            "255.0.0.0/8",
        ]
        .map(|net| net.parse().unwrap())
        .into(),
        snat4: Some((1, Ipv4Addr::new(10, 0, 0, 4))),
        host_ports: host_ports("10.0.1.5:8080"),
    }
}

#[test]
fn what_is_installed_is_observed_and_the_tool_reads_it() {
    in_fresh_netns("nft_install", || {
        let mut socket = Socket::netfilter().unwrap();
        assert_eq!(nft::observe(&mut socket).unwrap(), None);
        nft::install(&mut socket, &state()).unwrap();
        assert_eq!(nft::observe(&mut socket).unwrap(), Some(state()));

        let text = run("nft", "list table inet tombolo");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for wanted in [
            "map pods4 { type iface_index . ipv4_addr : mark elements = { 7 . 10.0.1.5 : 0x0b010000, 8 . 10.0.1.6 : 0x0b020000 } }",
            "map pods6 { type iface_index . ipv6_addr : mark elements = { 7 . fd00::5 : 0x0b010000 } }",
            "map nics { type iface_index : mark elements = { \"lo\" : 0x0b010000, 3 : 0x0b020000 } }",
            "set outs { type iface_index elements = { \"lo\", 3 } }",
            "set ways { type mark . iface_index elements = { 0x0b010000 . \"lo\", 0x0b020000 . 3 } }",
            "type filter hook forward priority filter; policy accept; iifgroup 29805 oif @outs meta mark & 0x0fff0000 . oif != @ways counter packets 0 bytes 0 drop",
            "set egress4 { type devgroup elements = { 29805 } }",
            "map snat4 { type iface_index : ipv4_addr elements = { \"lo\" : 10.0.0.4 } }",
            "set own4 { type iface_index . ipv4_addr elements = { \"lo\" . 10.0.0.4 } }",
            "set vpc4 { type ipv4_addr flags interval elements = { 10.0.0.0/16, 192.168.0.0/24, 192.168.1.0/24, 255.0.0.0/8 } }",
            "type filter hook prerouting priority raw - 10; policy accept; iifgroup != 29805 accept comment \"not from a pod\"",
            "icmpv6 type 130-137 counter packets 0 bytes 0 drop",
            "meta mark set iif . ip saddr map @pods4 accept",
            "meta mark set iif . ip6 saddr map @pods6 accept",
            "counter packets 0 bytes 0 drop comment \"spoofed source\"",
            "meta mark set iif map @nics ct state new ct mark & 0x0f000000 != 0x0b000000 ct mark set meta mark",
            "iifgroup 29805 ct direction reply ct mark & 0x0f000000 == 0x0b000000 meta mark set ct mark & 0x0fff0000 accept",
            "type filter hook prerouting priority dstnat + 10; policy accept; iifgroup @egress4 ct direction original ip daddr != @vpc4 meta mark set meta mark & 0xfb01ffff | 0x0b010000",
            "ip daddr 127.0.0.0/8 counter packets 0 bytes 0 drop comment \"for the node's loopback\"",
            "oif . ip saddr != @own4 ip daddr != @vpc4 snat ip to oif map @snat4 fully-random",
        ] {
            // Names of groups and links differ between machines and versions of the tool.
            assert!(words.contains(wanted), "{wanted}\nis not in\n{text}");
        }
        let text = run("nft", "list table inet tombolo-hostports");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for wanted in [
            "map ports4 { type inet_proto . inet_service : ipv4_addr . inet_service elements = { tcp . 80 : 10.0.1.5 . 8080 } }",
            "map ports6 { type inet_proto . inet_service : ipv6_addr . inet_service elements = { sctp . 80 : fd00::5 . 8080 } }",
            "map ports4at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service elements = { 10.0.0.4 . udp . 53 : 10.0.1.5 . 5353 } }",
            "map ports6at { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service elements = { fd00::4 . udp . 53 : fd00::5 . 5353 } }",
            "set self4 { type ipv4_addr . ipv4_addr elements = { 10.0.1.5 . 10.0.1.5 } }",
            "set self6 { type ipv6_addr . ipv6_addr elements = { fd00::5 . fd00::5 } }",
            "type nat hook prerouting priority dstnat + 1; policy accept; fib daddr type != local accept comment \"not for this node\" ip daddr 127.0.0.0/8 accept",
            "dnat ip to ip daddr . meta l4proto . th dport map @ports4at",
            "dnat ip to meta l4proto . th dport map @ports4 ",
            "dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6at",
            "dnat ip6 to meta l4proto . th dport map @ports6 ",
            "type nat hook output priority -99; policy accept; fib daddr type != local accept comment \"not for this node\" ip6 daddr ::1 accept",
            "type nat hook postrouting priority srcnat - 1; policy accept; ip saddr . ip daddr @self4 masquerade",
            "ip6 saddr . ip6 daddr @self6 masquerade",
            "ip saddr 127.0.0.0/8 ct status dnat ip daddr != 127.0.0.0/8 masquerade",
        ] {
            assert!(words.contains(wanted), "{wanted}\nis not in\n{text}");
        }
        let text = run("nft", "list table arp tombolo");
        assert!(
            text.contains("iifgroup 29805 counter packets 0 bytes 0 drop"),
            "{text}"
        );
    });
}

#[test]
fn installing_again_replaces_everything() {
    in_fresh_netns("nft_reinstall", || {
        let mut socket = Socket::netfilter().unwrap();
        nft::install(&mut socket, &state()).unwrap();
        run("nft", "add chain inet tombolo mine");
        nft::install(&mut socket, &NatState::default()).unwrap();
        assert_eq!(
            nft::observe(&mut socket).unwrap(),
            Some(NatState::default())
        );
        nft::install(&mut socket, &state()).unwrap();
        nft::install(&mut socket, &state()).unwrap();
        assert_eq!(nft::observe(&mut socket).unwrap(), Some(state()));
        nft::remove(&mut socket).unwrap();
        nft::remove(&mut socket).unwrap();
        assert_eq!(run("nft", "list ruleset"), "");
    });
}

#[test]
fn every_change_of_the_fixed_part_is_noticed() {
    in_fresh_netns("nft_tampered", || {
        let mut socket = Socket::netfilter().unwrap();
        let handle = |chain: &str, comment: &str| {
            let text = run("nft", &format!("-a list chain inet tombolo {chain}"));
            let line = text
                .lines()
                .find(|line| line.contains(comment))
                .unwrap()
                .to_owned();
            line.rsplit(' ').next().unwrap().to_owned()
        };
        type Tamper<'a> = Box<dyn Fn() + 'a>;
        let tool = |arguments: &'static str| -> Tamper<'_> {
            Box::new(move || drop(run("nft", arguments)))
        };
        let tampers: Vec<(&str, Tamper<'_>)> = vec![
            ("inet table deleted", tool("delete table inet tombolo")),
            ("arp table deleted", tool("delete table arp tombolo")),
            (
                "host ports' table deleted",
                tool("delete table inet tombolo-hostports"),
            ),
            (
                "host ports' chain emptied",
                tool("flush chain inet tombolo-hostports inward"),
            ),
            (
                "set added beside host ports",
                tool("add set inet tombolo-hostports mine { type ipv4_addr ; }"),
            ),
            (
                "pods that reach themselves deleted",
                tool("flush set inet tombolo-hostports self4"),
            ),
            ("ruleset flushed", tool("flush ruleset")),
            ("chain emptied", tool("flush chain inet tombolo guard")),
            ("arp chain emptied", tool("flush chain arp tombolo input")),
            ("rule added", tool("insert rule inet tombolo guard accept")),
            ("chain added", tool("add chain inet tombolo mine")),
            (
                "set added",
                tool("add set inet tombolo mine { type ipv4_addr ; }"),
            ),
            (
                "table dormant",
                tool("add table inet tombolo { flags dormant ; }"),
            ),
            (
                "derived element deleted",
                tool("flush set inet tombolo egress4"),
            ),
            (
                "rule deleted",
                Box::new(|| {
                    let handle = handle("guard", "spoofed source");
                    run(
                        "nft",
                        &format!("delete rule inet tombolo guard handle {handle}"),
                    );
                }),
            ),
            (
                "rule replaced under its comment",
                Box::new(|| {
                    let handle = handle("guard", "spoofed source");
                    let rule = format!(
                        "replace rule inet tombolo guard handle {handle} accept comment \"spoofed source\""
                    );
                    let status = std::process::Command::new("nft")
                        .arg(rule)
                        .status()
                        .unwrap();
                    assert!(status.success());
                }),
            ),
        ];
        for (what, tamper) in tampers {
            nft::install(&mut socket, &state()).unwrap();
            assert_eq!(nft::observe(&mut socket).unwrap(), Some(state()));
            tamper();
            assert_eq!(nft::observe(&mut socket).unwrap(), None, "{what}");
        }
        // Elements are no part of it, as long as they do not contradict each other.
        nft::install(&mut socket, &state()).unwrap();
        run("nft", "delete element inet tombolo pods4 { 7 . 10.0.1.5 }");
        let observed = nft::observe(&mut socket).unwrap().unwrap();
        let left = (8, Ipv4Addr::new(10, 0, 1, 6));
        assert_eq!(observed.pods4, [(left, 0x0b02_0000)].into());
        run("nft", "delete element inet tombolo nics { 3 }");
        assert_eq!(nft::observe(&mut socket).unwrap(), None);
    });
}

#[test]
fn elements_are_updated_in_place() {
    in_fresh_netns("nft_update", || {
        let mut socket = Socket::netfilter().unwrap();
        let to = NatState {
            pods4: [
                ((7, Ipv4Addr::new(10, 0, 1, 5)), 0x0b02_0000),
                ((9, Ipv4Addr::new(10, 0, 1, 9)), 0x0b02_0000),
            ]
            .into(),
            pods6: [].into(),
            nics: [(1, 0x0b01_0000), (4, 0x0b03_0000)].into(),
            vpc4: ["10.0.0.0/17", "172.16.0.0/12"]
                .map(|net| net.parse().unwrap())
                .into(),
            snat4: Some((1, Ipv4Addr::new(10, 0, 0, 40))),
            host_ports: host_ports("10.0.1.6:8080"),
        };
        let none = NatState {
            snat4: None,
            ..to.clone()
        };
        nft::install(&mut socket, &state()).unwrap();
        for (from, to) in [
            (state(), to.clone()),
            (to.clone(), none.clone()),
            (none, state()),
            (state(), state()),
        ] {
            nft::update(&mut socket, &from, &to).unwrap();
            assert_eq!(nft::observe(&mut socket).unwrap(), Some(to));
        }
        // What should be there is not: refused as a whole.
        let error = nft::update(&mut socket, &to, &NatState::default()).unwrap_err();
        assert!(error.is_missing(), "{error}");
        assert_eq!(nft::observe(&mut socket).unwrap(), Some(state()));
    });
}

#[test]
fn sources_come_and_go_one_by_one() {
    in_fresh_netns("nft_sources", || {
        let mut socket = Socket::netfilter().unwrap();
        let (v4, v6) = ("10.0.1.5".parse().unwrap(), "fd00::5".parse().unwrap());
        let sources = [(7, v4, 0x0b01_0000), (7, v6, 0x0b01_0000)];
        // No tables: adding fails, removing has nothing to do.
        assert!(
            nft::add_pod(&mut socket, &sources, &[])
                .unwrap_err()
                .is_missing()
        );
        nft::del_pod(&mut socket, &sources, &[]).unwrap();

        nft::install(&mut socket, &NatState::default()).unwrap();
        nft::add_pod(&mut socket, &[], &[]).unwrap();
        nft::add_pod(&mut socket, &sources, &[]).unwrap();
        nft::add_pod(&mut socket, &sources, &[]).unwrap();
        let moved = [(7, v4, 0x0b02_0000), (7, v6, 0x0b01_0000)];
        nft::add_pod(&mut socket, &moved, &[]).unwrap();
        let observed = nft::observe(&mut socket).unwrap().unwrap();
        assert_eq!(
            observed.pods4.into_values().collect::<Vec<_>>(),
            [0x0b02_0000]
        );
        assert_eq!(
            observed.pods6.into_values().collect::<Vec<_>>(),
            [0x0b01_0000]
        );

        // One of the two is not there.
        nft::del_pod(&mut socket, &[(7, v4, 0)], &[]).unwrap();
        nft::del_pod(&mut socket, &sources, &[]).unwrap();
        assert_eq!(
            nft::observe(&mut socket).unwrap(),
            Some(NatState::default())
        );
    });
}

#[test]
fn host_ports_come_and_go_with_their_pod() {
    in_fresh_netns("nft_host_ports", || {
        let mut socket = Socket::netfilter().unwrap();
        let source = [(7, "10.0.1.5".parse().unwrap(), 0x0b01_0000)];
        let ports: Vec<_> = host_ports("10.0.1.5:8080").into_iter().collect();
        nft::del_pod(&mut socket, &source, &ports).unwrap();
        nft::install(&mut socket, &NatState::default()).unwrap();
        nft::add_pod(&mut socket, &source, &ports).unwrap();
        nft::add_pod(&mut socket, &source, &ports).unwrap();
        let held = |socket: &mut Socket| nft::observe(socket).unwrap().unwrap();
        assert_eq!(held(&mut socket).host_ports, host_ports("10.0.1.5:8080"));
        // One that an earlier pod left behind is replaced.
        let moved: Vec<_> = host_ports("10.0.1.6:8080").into_iter().collect();
        nft::add_pod(&mut socket, &[], &moved[..1]).unwrap();
        assert_eq!(held(&mut socket).host_ports, host_ports("10.0.1.6:8080"));
        // Somebody flushed one: what is left goes all the same.
        run(
            "nft",
            "delete element inet tombolo-hostports ports4 { tcp . 80 }",
        );
        nft::del_pod(&mut socket, &source, &ports).unwrap();
        let pods = moved[..1].iter().map(|(port, to)| (*port, *to));
        nft::del_pod(&mut socket, &[], &pods.collect::<Vec<_>>()).unwrap();
        assert_eq!(held(&mut socket), NatState::default());
    });
}

#[test]
fn thousands_of_elements_fit_into_one_transaction() {
    in_fresh_netns("nft_many", || {
        let mut socket = Socket::netfilter().unwrap();
        let many = NatState {
            pods4: (0..5000_u32)
                .map(|n| ((n + 2, Ipv4Addr::from(0x0a00_0000 + n)), 0x0b01_0000))
                .collect(),
            pods6: (0..5000_u32)
                .map(|n| {
                    (
                        (n + 2, (0xfd_u128 << 120 | u128::from(n)).into()),
                        0x0b01_0000,
                    )
                })
                .collect(),
            ..state()
        };
        nft::install(&mut socket, &state()).unwrap();
        nft::update(&mut socket, &state(), &many).unwrap();
        assert_eq!(nft::observe(&mut socket).unwrap(), Some(many.clone()));
        nft::install(&mut socket, &many).unwrap();
        assert_eq!(nft::observe(&mut socket).unwrap(), Some(many));
    });
}
