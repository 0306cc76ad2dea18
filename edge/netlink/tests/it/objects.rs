//! Links, addresses, routes, rules, neighbours, sysctls: added, read back, seen by `ip`, removed.

use std::os::fd::AsFd;

use ipnet::IpNet;
use tombolo_core::datapath::conventions::{PROTOCOL, nic_mark, nic_table};
use tombolo_core::datapath::{
    Address, Neighbour, Route, RouteKind, Rule, RuleAction, Selector, Sysctl,
};
use tombolo_core::types::{Family, Mac};
use tombolo_netlink::link::Veth;
use tombolo_netlink::{Error, Socket, addr, conntrack, link, neigh, route, rule, sysctl};

use crate::support::{add_v6_to_lo, in_fresh_netns, ip, other_netns, run, udp};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PEER_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// A link to hang things on, up and with carrier.
fn a_link(socket: &mut Socket) -> u32 {
    run("ip", "link add tst-nl0 type veth peer name tst-nl1");
    run("ip", "link set tst-nl1 up");
    let index = link::by_name(socket, "tst-nl0").unwrap().unwrap().index;
    socket
        .batch(vec![
            link::set_addrgenmode_none(index),
            link::set_up(index, true),
        ])
        .unwrap();
    index
}

#[test]
fn a_veth_pair_is_born_in_two_namespaces() {
    in_fresh_netns("veth", || {
        let here = tombolo_netlink::Netns::own().unwrap();
        let pod = other_netns();
        let mut in_pod = Socket::route_in(&pod).unwrap();
        let veth = Veth {
            name: "eth0",
            mac: MAC,
            peer_name: "tmb0",
            peer_mac: PEER_MAC,
            peer_group: 77,
            mtu: 8951,
        };
        let (index, peer) = link::create_veth(&mut in_pod, &veth, here.as_fd()).unwrap();

        let mut route = Socket::route().unwrap();
        let host = link::by_name(&mut route, "tmb0").unwrap().unwrap();
        assert_eq!(
            (host.index, host.mac, host.mtu, host.group, host.up),
            (peer, Some(PEER_MAC), 8951, 77, false)
        );
        assert_eq!(
            (host.kind.as_deref(), host.peer),
            (Some("veth"), Some(index))
        );
        let inside = &pod.run(|| ip("link show eth0")).unwrap()[0];
        assert_eq!(inside["address"], MAC.to_string());
        assert_eq!(inside["mtu"], 8951);
        assert_eq!(inside["ifindex"], index);
        assert!(
            !inside["flags"].to_string().contains("\"UP\""),
            "the pod's end is born down: {inside}"
        );

        let again = link::create_veth(&mut in_pod, &veth, here.as_fd()).unwrap_err();
        assert!(again.is_existing(), "{again}");
        assert_eq!(link::by_mac(&mut route, PEER_MAC).unwrap(), vec![host]);
    });
}

#[test]
fn links_are_changed_and_deleted() {
    in_fresh_netns("link_changes", || {
        let mut socket = Socket::route().unwrap();
        let index = a_link(&mut socket);
        let changes = vec![
            link::set_up(index, false),
            link::rename(index, "tst-nl.5"),
            link::set_mtu(index, 1400),
            link::set_mac(index, MAC),
            link::set_group(index, 9),
            link::set_alias(index, "tombolo eni-1"),
        ];
        socket.batch(changes).unwrap();
        let seen = &ip("link show tst-nl.5")[0];
        assert_eq!(
            (&seen["mtu"], &seen["address"], &seen["ifalias"]),
            (
                &1400.into(),
                &MAC.to_string().into(),
                &"tombolo eni-1".into()
            )
        );
        assert_eq!(seen["group"], "9");
        assert_eq!(seen["inet6_addr_gen_mode"], "none");
        let found = link::by_index(&mut socket, index).unwrap().unwrap();
        assert_eq!(
            (found.alias.as_deref(), found.group, found.up),
            (Some("tombolo eni-1"), 9, false)
        );

        let pod = other_netns();
        socket.request(link::move_to(index, pod.as_fd())).unwrap();
        assert!(link::by_name(&mut socket, "tst-nl.5").unwrap().is_none());
        assert_eq!(pod.run(|| ip("link show tst-nl.5").len()).unwrap(), 1);

        for name in ["a", "b"] {
            run(
                "ip",
                &format!("link add tst-nl-{name} group 9 type veth peer name tst-nl-p{name}"),
            );
        }
        socket.request(link::delete_group(9)).unwrap();
        let left: Vec<_> = link::list(&mut socket)
            .unwrap()
            .into_iter()
            .map(|link| link.name)
            .collect();
        assert_eq!(left, ["lo", "tst-nl1"]);
        let gone = socket.request(link::delete(index)).unwrap_err();
        assert!(gone.is_missing(), "{gone}");
    });
}

#[test]
fn a_batch_tells_which_request_failed_and_carries_out_the_rest() {
    in_fresh_netns("batch", || {
        let mut socket = Socket::route().unwrap();
        let index = a_link(&mut socket);
        let address = |last: u8| Address {
            ifindex: index,
            ip: net(&format!("10.0.0.{last}/32")),
        };
        let nowhere = Address {
            ifindex: 4711,
            ip: net("10.0.0.2/32"),
        };
        let requests = vec![
            addr::add(&address(1)),
            addr::add(&nowhere),
            addr::add(&address(3)),
        ];
        let error = socket.batch(requests).unwrap_err();
        assert_eq!(
            error.to_string(),
            "add address 10.0.0.2/32 on link 4711: No such device (os error 19) (ipv4: Device not found)"
        );
        assert_eq!(
            addr::list(&mut socket)
                .unwrap()
                .iter()
                .filter(|found| found.ours)
                .count(),
            2
        );

        // More than goes into one system call.
        let many: Vec<_> = (0..=255).flat_map(|a| [1, 2, 3].map(|b| (a, b))).collect();
        let requests = many.iter().map(|(a, b)| {
            addr::add(&Address {
                ifindex: index,
                ip: net(&format!("10.1.{a}.{b}/32")),
            })
        });
        let outcomes = socket.batch_each(requests.collect()).unwrap();
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
            768
        );
        assert_eq!(
            addr::list(&mut socket)
                .unwrap()
                .iter()
                .filter(|found| found.ours)
                .count(),
            770
        );
    });
}

#[test]
fn the_kernels_own_words_are_in_the_error() {
    in_fresh_netns("ext_ack", || {
        let mut socket = Socket::route().unwrap();
        let index = a_link(&mut socket);
        let bad = Route {
            table: 990,
            dst: net("10.0.1.0/24"),
            kind: RouteKind::Via {
                gateway: "127.0.0.1".parse().unwrap(),
                ifindex: index,
            },
            metric: 0,
        };
        let error = socket.request(route::add(&bad)).unwrap_err();
        assert!(
            matches!(
                &error,
                Error::Refused {
                    message: Some(_),
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(
            error
                .to_string()
                .starts_with("add route 10.0.1.0/24 table 990: Invalid argument"),
            "{error}"
        );
    });
}

#[test]
fn addresses_round_trip() {
    in_fresh_netns("addresses", || {
        let mut socket = Socket::route().unwrap();
        let index = a_link(&mut socket);
        for text in ["10.0.0.5/32", "10.0.9.1/24", "fd00::5/128", "fe80::5/128"] {
            let address = Address {
                ifindex: index,
                ip: net(text),
            };
            // Twice: adding is idempotent.
            socket.request(addr::add(&address)).unwrap();
            socket.request(addr::add(&address)).unwrap();
            let found = addr::list(&mut socket).unwrap();
            let found: Vec<_> = found
                .into_iter()
                .filter(|found| found.address == address)
                .collect();
            assert_eq!(found.len(), 1, "{text}");
            assert!(found[0].ours && !found[0].tentative, "{found:?}");
            let seen = &ip("addr show tst-nl0")[0]["addr_info"][0];
            assert_eq!(seen["local"], address.ip.addr().to_string());
            assert_eq!(seen["noprefixroute"], true, "{seen}");
            assert!(
                address.ip.addr().is_ipv4() || seen["nodad"] == true,
                "{seen}"
            );
            socket.request(addr::del(&address)).unwrap();
            assert!(
                ip("addr show tst-nl0")[0]["addr_info"]
                    .as_array()
                    .unwrap()
                    .is_empty()
            );
            let gone = socket.request(addr::del(&address)).unwrap_err();
            assert!(gone.is_missing(), "{gone}");
        }
        // Another's address is not taken for ours.
        run("ip", "addr add 10.7.0.1/24 dev tst-nl0");
        assert!(
            addr::list(&mut socket)
                .unwrap()
                .iter()
                .all(|found| !found.ours)
        );
    });
}

#[test]
fn routes_round_trip() {
    in_fresh_netns("routes", || {
        let mut socket = Socket::route().unwrap();
        let ifindex = a_link(&mut socket);
        let via = |gateway: &str| RouteKind::Via {
            gateway: gateway.parse().unwrap(),
            ifindex,
        };
        let link = RouteKind::Link { ifindex };
        let route = |table, dst, kind: &RouteKind, metric| Route {
            table,
            dst: net(dst),
            kind: kind.clone(),
            metric,
        };
        let all = [
            (
                route(990, "10.0.1.5/32", &link, 1024),
                "10.0.1.5 dev tst-nl0 proto 116 scope 253 metric 1024",
            ),
            (
                route(254, "10.3.0.0/16", &link, 0),
                "10.3.0.0/16 dev tst-nl0 proto 116 scope 253",
            ),
            (
                route(1001, "0.0.0.0/0", &via("10.0.0.1"), 0),
                "default via 10.0.0.1 dev tst-nl0 proto 116 onlink",
            ),
            (
                route(1001, "0.0.0.0/0", &via("fe80::9"), 7),
                "default via inet6 fe80::9 dev tst-nl0 proto 116 metric 7 onlink",
            ),
            (
                route(1001, "10.9.0.0/16", &RouteKind::Unreachable, 0),
                "7 10.9.0.0/16 proto 116",
            ),
            (
                route(990, "fd00::5/128", &link, 1024),
                "fd00::5 dev tst-nl0 proto 116 metric 1024 pref medium",
            ),
            (
                route(1001, "::/0", &via("fe80::1"), 1024),
                "default via fe80::1 dev tst-nl0 proto 116 metric 1024 onlink pref medium",
            ),
            (
                route(1001, "::/0", &via("fd00:1::1"), 5),
                "default via fd00:1::1 dev tst-nl0 proto 116 metric 5 onlink pref medium",
            ),
            (
                route(1001, "fd09::/16", &RouteKind::Unreachable, 9),
                "7 fd09::/16 dev lo proto 116 metric 9 pref medium",
            ),
        ];
        for (route, text) in &all {
            socket.request(route::add(route)).unwrap();
            socket.request(route::add(route)).unwrap();
            let family = if route.dst.addr().is_ipv4() {
                "-4"
            } else {
                "-6"
            };
            let shown = run(
                "ip",
                &format!("-N {family} route show table {}", route.table),
            );
            assert!(
                shown.lines().any(|line| line.trim() == *text),
                "{text:?} in\n{shown}"
            );
        }
        let listed = route::list(&mut socket).unwrap();
        assert_eq!(
            listed.ours,
            all.iter().map(|(route, _)| route.clone()).collect()
        );
        for (index, (route, _)) in all.iter().enumerate() {
            socket.request(route::del(route)).unwrap();
            assert_eq!(
                route::list(&mut socket).unwrap().ours.len(),
                all.len() - 1 - index
            );
            let gone = socket.request(route::del(route)).unwrap_err();
            assert!(gone.is_missing(), "{gone}");
        }
    });
}

#[test]
fn a_route_is_replaced_in_place_and_anothers_is_left_alone() {
    in_fresh_netns("route_replace", || {
        let mut socket = Socket::route().unwrap();
        let ifindex = a_link(&mut socket);
        let other = link::by_name(&mut socket, "tst-nl1")
            .unwrap()
            .unwrap()
            .index;
        for dst in ["10.0.1.5/32", "fd00::5/128"] {
            let route = |ifindex| Route {
                table: 990,
                dst: net(dst),
                kind: RouteKind::Link { ifindex },
                metric: 1024,
            };
            socket
                .batch(vec![route::add(&route(other)), route::add(&route(ifindex))])
                .unwrap();
            assert!(
                route::list(&mut socket)
                    .unwrap()
                    .ours
                    .contains(&route(ifindex))
            );
            assert!(
                !route::list(&mut socket)
                    .unwrap()
                    .ours
                    .contains(&route(other))
            );
            // The old one is not there any more: nothing is removed.
            assert!(
                socket
                    .request(route::del(&route(other)))
                    .unwrap_err()
                    .is_missing()
            );
        }
        run(
            "ip",
            "route add 10.0.2.1/32 dev tst-nl0 table 990 metric 1024 proto static",
        );
        let foreign = Route {
            table: 990,
            dst: net("10.0.2.1/32"),
            kind: RouteKind::Link { ifindex },
            metric: 1024,
        };
        assert!(
            socket
                .request(route::del(&foreign))
                .unwrap_err()
                .is_missing(),
            "protocol static is not ours"
        );
        let listed = route::list(&mut socket).unwrap();
        assert_eq!(listed.ours.len(), 2);
        let found = listed
            .foreign
            .iter()
            .find(|found| found.table == 990)
            .unwrap();
        assert_eq!(
            (found.dst, found.protocol, found.ifindex),
            (foreign.dst, 4, Some(ifindex))
        );

        // Ours by protocol, but not what we write: shown as foreign, so that someone wonders.
        run(
            "ip",
            &format!("route add 10.0.3.0/24 dev tst-nl0 table 990 proto {PROTOCOL} src 127.0.0.1"),
        );
        let listed = route::list(&mut socket).unwrap();
        assert!(
            listed
                .foreign
                .iter()
                .any(|found| found.protocol == PROTOCOL),
            "{listed:?}"
        );
    });
}

#[test]
fn rules_round_trip() {
    in_fresh_netns("rules", || {
        let mut socket = Socket::route().unwrap();
        let shapes = |from: &str| {
            [
                (
                    512,
                    Selector::All,
                    RuleAction::Lookup(990),
                    "from all lookup 990 proto 116".to_owned(),
                ),
                (
                    900,
                    Selector::IifMark("tst-nl0".into(), nic_mark(1), 0x0fff_0000),
                    RuleAction::Lookup(nic_table(1)),
                    "from all fwmark 0xb020000/0xfff0000 iif tst-nl0 [detached] lookup 1001 proto 116".into(),
                ),
                (
                    1000,
                    Selector::Iif("tst-nl0".into()),
                    RuleAction::Goto(2000),
                    "from all iif tst-nl0 [detached] goto 2000 proto 116".into(),
                ),
                (
                    1000,
                    Selector::Iif("tst-nl.1".into()),
                    RuleAction::Goto(2000),
                    "from all iif tst-nl.1 [detached] goto 2000 proto 116".into(),
                ),
                (
                    1000,
                    Selector::Oif("tst-nl0".into()),
                    RuleAction::Lookup(116_007),
                    "from all oif tst-nl0 [detached] lookup 116007 proto 116".into(),
                ),
                (
                    1024,
                    Selector::Mark(nic_mark(0), 0x0fff_0000),
                    RuleAction::Lookup(254),
                    "from all fwmark 0xb010000/0xfff0000 lookup 254 proto 116".into(),
                ),
                (
                    1536,
                    Selector::Mark(nic_mark(1), 0x0fff_0000),
                    RuleAction::Lookup(nic_table(1)),
                    "from all fwmark 0xb020000/0xfff0000 lookup 1001 proto 116".into(),
                ),
                (
                    1600,
                    Selector::Mark(0x0b00_0000, 0x0f00_0000),
                    RuleAction::Blackhole,
                    "from all fwmark 0xb000000/0xf000000 6 proto 116".into(),
                ),
                (
                    1800,
                    Selector::From(net(from)),
                    RuleAction::Blackhole,
                    format!("from {from} 6 proto 116"),
                ),
                (
                    2000,
                    Selector::All,
                    RuleAction::Nop,
                    "from all nop proto 116".into(),
                ),
            ]
        };
        for (family, from, flag) in [
            (Family::V4, "10.0.0.0/16", "-4"),
            (Family::V6, "fd00::/64", "-6"),
        ] {
            let rules: Vec<_> = shapes(from)
                .into_iter()
                .map(|(priority, selector, action, text)| {
                    (
                        Rule {
                            family,
                            priority,
                            selector,
                            action,
                        },
                        text,
                    )
                })
                .collect();
            let before = rule::list(&mut socket).unwrap();
            assert!(before.ours.is_empty());
            let foreign = before.foreign.len();
            for (rule, _) in &rules {
                socket.request(rule::add(rule)).unwrap();
                assert!(socket.request(rule::add(rule)).unwrap_err().is_existing());
            }
            let shown = run("ip", &format!("-N {flag} rule show"));
            for (rule, text) in &rules {
                let line = format!("{}:\t{text}", rule.priority);
                assert!(
                    shown.lines().any(|shown| shown.trim() == line),
                    "{line:?} in\n{shown}"
                );
            }
            let listed = rule::list(&mut socket).unwrap();
            assert_eq!(
                listed.ours,
                rules.iter().map(|(rule, _)| rule.clone()).collect()
            );
            assert_eq!(listed.foreign.len(), foreign);
            for (rule, _) in rules.iter().rev() {
                socket.request(rule::del(rule)).unwrap();
                assert!(!rule::list(&mut socket).unwrap().ours.contains(rule));
                let gone = socket.request(rule::del(rule)).unwrap_err();
                assert!(gone.is_missing(), "{gone}");
            }
        }
    });
}

#[test]
fn anothers_rule_is_shown_and_left_alone() {
    in_fresh_netns("foreign_rules", || {
        let mut socket = Socket::route().unwrap();
        run(
            "ip",
            "rule add priority 1536 fwmark 0xb020000/0xfff0000 lookup 1001 protocol static",
        );
        run(
            "ip",
            "rule add priority 700 from 10.0.0.0/8 uidrange 0-0 lookup 5 protocol 116",
        );
        let same = Rule {
            family: Family::V4,
            priority: 1536,
            selector: Selector::Mark(nic_mark(1), 0x0fff_0000),
            action: RuleAction::Lookup(1001),
        };
        assert!(
            socket.request(rule::del(&same)).unwrap_err().is_missing(),
            "protocol static is not ours"
        );
        let listed = rule::list(&mut socket).unwrap();
        assert!(listed.ours.is_empty());
        for (priority, protocol, table) in [(1536, 4, 1001), (700, PROTOCOL, 5)] {
            let found = listed
                .foreign
                .iter()
                .find(|found| found.priority == priority)
                .unwrap();
            assert_eq!(
                (found.protocol, found.table, found.action),
                (protocol, table, 1)
            );
        }
    });
}

#[test]
fn neighbours_round_trip() {
    in_fresh_netns("neighbours", || {
        let mut socket = Socket::route().unwrap();
        let ifindex = a_link(&mut socket);
        run(
            "ip",
            "neigh add 10.0.0.9 dev tst-nl0 lladdr 02:00:00:00:00:09 nud permanent",
        );
        for ip_text in ["10.0.1.5", "fd00::5", "fe80::1"] {
            let neighbour = |mac| Neighbour {
                ifindex,
                ip: ip_text.parse().unwrap(),
                mac,
            };
            socket
                .batch(vec![
                    neigh::add(&neighbour(PEER_MAC)),
                    neigh::add(&neighbour(MAC)),
                ])
                .unwrap();
            assert_eq!(
                neigh::list_ours(&mut socket).unwrap(),
                [neighbour(MAC)].into()
            );
            let seen = &ip(&format!("neigh show {ip_text} dev tst-nl0"))[0];
            assert_eq!(
                (&seen["lladdr"], &seen["state"][0]),
                (&MAC.to_string().into(), &"PERMANENT".into())
            );
            socket.request(neigh::del(&neighbour(MAC))).unwrap();
            assert!(neigh::list_ours(&mut socket).unwrap().is_empty());
            assert!(
                socket
                    .request(neigh::del(&neighbour(MAC)))
                    .unwrap_err()
                    .is_missing()
            );
        }
    });
}

#[test]
fn sysctls_are_those_of_the_own_namespace() {
    in_fresh_netns("sysctls", || {
        run("ip", "link add tst-nl.5 type veth peer name tst-nl1");
        let setting = |path: &str, value: &str| Sysctl {
            path: path.into(),
            value: value.into(),
        };
        sysctl::write(&setting("ipv4/conf/tst-nl.5/src_valid_mark", "1")).unwrap();
        assert_eq!(
            run("sysctl", "-n net/ipv4/conf/tst-nl.5/src_valid_mark").trim(),
            "1"
        );
        assert_eq!(
            sysctl::read("ipv4/conf/tst-nl.5/src_valid_mark").unwrap(),
            "1"
        );
        let other = other_netns();
        assert!(
            other
                .run(|| sysctl::read("ipv4/conf/tst-nl.5/src_valid_mark"))
                .unwrap()
                .unwrap_err()
                .is_missing()
        );
        assert!(sysctl::write(&setting("ipv4/ip_forward", "perhaps")).is_err());
        for path in [
            "ipv4/../../kernel/hostname",
            "/ipv4/ip_forward",
            "ipv4/./ip_forward",
            "",
        ] {
            assert!(sysctl::read(path).is_err(), "{path}");
        }
    });
}

#[test]
fn connections_of_an_address_are_deleted() {
    in_fresh_netns("conntrack", || {
        // Connection tracking runs only where something asks for it.
        run("nft", "add table inet t");
        run(
            "nft",
            "add chain inet t c { type filter hook output priority 0 ; }",
        );
        run("nft", "add rule inet t c ct state new counter");
        for each in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            run("ip", &format!("addr add {each}/32 dev lo"));
        }
        add_v6_to_lo("fd00::1");
        add_v6_to_lo("fd00::2");
        let here = tombolo_netlink::Netns::own().unwrap();
        let send = |from: &str, to: &str| {
            let from = udp(&here, from.parse::<std::net::IpAddr>().unwrap(), 0);
            from.send_to(b"x", (to.parse::<std::net::IpAddr>().unwrap(), 9))
                .unwrap();
        };
        let mut socket = Socket::netfilter().unwrap();
        let mut delete = |ips: &[&str]| {
            let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            let deleted = conntrack::delete_addresses(&mut socket, &ips).unwrap();
            assert!(deleted.iter().all(|ip| ips.contains(ip)));
            deleted.len()
        };
        send("10.0.0.1", "10.0.0.2");
        send("10.0.0.2", "10.0.0.3");
        send("10.0.0.3", "10.0.0.1");
        send("fd00::1", "fd00::2");
        assert_eq!(delete(&[]), 0);
        // 10.0.0.1 is a source in one and a destination in another.
        assert_eq!(delete(&["10.0.0.1"]), 2);
        assert_eq!(delete(&["10.0.0.1"]), 0);
        assert_eq!(delete(&["10.0.0.9"]), 0);
        // Both families at once.
        assert_eq!(delete(&["fd00::2", "10.0.0.2"]), 2);
    });
}
