//! Host ports by the shipped agent: from everywhere to pods of both NICs, whose they are, and that they come back.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use tombolo_rpc as rpc;

use crate::bed::talk::{Client, Server, ask};
use crate::bed::{Bed, Pod, in_netns, ip, ip_json, possible, wait_until};

/// The node's own addresses, by NIC.
const OWN: [[&str; 2]; 2] = [["10.77.0.10", "fd77:0::10"], ["10.77.1.10", "fd77:1::10"]];
const PROTOCOLS: [&str; 2] = ["tcp", "udp"];

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// The pod's addresses, IPv4 first.
fn ips(made: &rpc::Attachment) -> Vec<IpAddr> {
    let cidrs = made.addresses.iter().map(|address| &address.cidr);
    cidrs
        .map(|cidr| cidr.split('/').next().unwrap().parse().unwrap())
        .collect()
}

/// Elements of the maps of host ports, counted.
fn mapped(bed: &Bed) -> usize {
    let text = in_netns(
        &bed.node,
        "nft",
        &["-j", "list", "table", "inet", "tombolo-hostports"],
    );
    let all: Value = serde_json::from_str(&text).unwrap();
    let objects = all["nftables"].as_array().unwrap().iter();
    let sets = objects.flat_map(|object| [&object["map"]["elem"], &object["set"]["elem"]]);
    sets.filter_map(Value::as_array).map(Vec::len).sum()
}

fn with_web(pod: Pod, port: u32) -> Pod {
    pod.with_port("tcp", "", (port, 80))
        .with_port("udp", "", (port, 80))
}

/// Replies by the NIC that a client did not ask are dropped, and counted.
fn watch_ways(bed: &Bed) {
    let mut rules = String::new();
    for (index, own) in OWN.iter().enumerate() {
        let [four, six] = own;
        rules += &format!("iifname \"f{}\" ip saddr {four} counter drop\n", 1 - index);
        rules += &format!(
            "iifname \"f{}\" ip6 saddr {six} icmpv6 type != {{ 133-137 }} counter drop\n",
            1 - index
        );
        rules += &format!(
            "iifname \"f{}\" ip6 saddr {six} meta l4proto {{ tcp, udp }} counter drop\n",
            1 - index
        );
    }
    // Nothing of a pod's own address is an answer to who asked the node.
    rules += "ip saddr 10.77.0.0/16 th sport 80 counter drop\nip6 saddr fd77::/32 th sport 80 counter drop\n";
    let table = format!(
        "table inet ways {{ chain in {{ type filter hook prerouting priority -400;\n{rules}}}\n}}"
    );
    in_netns(&bed.fabric, "nft", &[&table]);
}

fn wrong_ways(bed: &Bed) -> String {
    let text = in_netns(&bed.fabric, "nft", &["list", "table", "inet", "ways"]);
    let counted = |line: &&str| line.contains("counter packets") && !line.contains("packets 0 ");
    text.lines().filter(counted).collect()
}

/// {NIC of ingress} x {NIC of the pod} x {rp_filter} x {family} x {TCP, UDP}; the client's address is kept.
#[tokio::test]
async fn host_ports_answer_by_the_nic_of_ingress_whatever_rp_filter_says() {
    if !possible("host_ports_answer_by_the_nic_of_ingress_whatever_rp_filter_says") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    watch_ways(&bed);
    let pods = [with_web(bed.pod("a"), 8000), with_web(bed.pod("b"), 8001)];
    let mut servers = Vec::new();
    for (index, pod) in pods.iter().enumerate() {
        let made = bed.add(pod).await.unwrap();
        assert!(
            ips(&made)[0]
                .to_string()
                .starts_with(&format!("10.77.{index}."))
        );
        servers.push(Server::start(&pod.netns, 80, &pod.id));
    }
    let mut cells = 0;
    for filter in ["0", "1", "2"] {
        let script =
            format!("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {filter} > $f; done");
        in_netns(&bed.node, "sh", &["-c", &script]);
        for (ingress, own) in OWN.iter().enumerate() {
            for (index, pod) in pods.iter().enumerate() {
                let port = 8000 + u16::try_from(index).unwrap();
                for ip_ in own {
                    // The router's address on that side.
                    let client = ip_.replace("::10", "::1").replace(".10", ".1");
                    for protocol in PROTOCOLS {
                        let what = format!(
                            "rp_filter={filter}: {protocol} to {ip_} of eth{ingress}, {} of eth{index}",
                            pod.id
                        );
                        let answer = ask(&bed.fabric, protocol, at(ip_, port));
                        let client = client.parse::<IpAddr>().unwrap();
                        assert_eq!(answer, Some(format!("{} {client}", pod.id)), "{what}");
                        cells += 1;
                    }
                }
            }
        }
    }
    assert_eq!((cells, wrong_ways(&bed)), (48, String::new()));
}

/// From the node (its addresses and its loopback), from another pod, and from the pod itself.
#[tokio::test]
async fn host_ports_answer_inside_the_node() {
    if !possible("host_ports_answer_inside_the_node") {
        return;
    }
    let mut bed = Bed::new(2);
    bed.start(&[]);
    let a = with_web(bed.pod("a"), 8000);
    let b = bed.pod("b");
    let (of_a, of_b) = (bed.add(&a).await.unwrap(), bed.add(&b).await.unwrap());
    let _server = Server::start(&a.netns, 80, "a");
    for filter in ["0", "1"] {
        let script =
            format!("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {filter} > $f; done");
        in_netns(&bed.node, "sh", &["-c", &script]);
        for protocol in PROTOCOLS {
            for own in OWN.iter().flatten() {
                let to = at(own, 8000);
                let seen = |from: &IpAddr| Some(format!("a {from}"));
                let what = format!("rp_filter={filter}: {protocol} to {to}");
                assert_eq!(
                    ask(&bed.node, protocol, to),
                    seen(&to.ip()),
                    "the node, {what}"
                );
                let same = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
                let ip_ = ips(&of_b).into_iter().find(|ip| same(&ip)).unwrap();
                assert_eq!(
                    ask(&b.netns, protocol, to),
                    seen(&ip_),
                    "another pod, {what}"
                );
                // By an address of the node's: the pod would take no answer from itself.
                let from = ask(&a.netns, protocol, to).unwrap_or_default();
                let from: IpAddr = from.strip_prefix("a ").expect(&what).parse().unwrap();
                assert!(
                    OWN.iter().flatten().any(|own| own.parse() == Ok(from)),
                    "{what}: {from}"
                );
            }
            let from = ask(&bed.node, protocol, at("127.0.0.1", 8000)).unwrap();
            assert!(
                OWN.iter().flatten().any(|own| from == format!("a {own}")),
                "{from}"
            );
            // The documented exception: refused, not lost.
            assert_eq!(ask(&bed.node, protocol, at("::1", 8000)), None);
        }
    }
    // A port of the pod that was not asked for, and the pod's own address, are as before.
    assert_eq!(ask(&bed.node, "tcp", at(OWN[0][0], 80)), None);
    assert_eq!(
        ask(&bed.node, "tcp", SocketAddr::new(ips(&of_a)[0], 8000)),
        None
    );
}

/// `route_localnet`, which loopback needs, opens the node's own loopback to nobody.
#[tokio::test]
async fn loopback_of_the_node_is_reached_neither_from_a_pod_nor_from_outside() {
    if !possible("loopback_of_the_node_is_reached_neither_from_a_pod_nor_from_outside") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let a = with_web(bed.pod("a"), 8000);
    let made = bed.add(&a).await.unwrap();
    let _pods = Server::start(&a.netns, 80, "a");
    let _nodes = Server::start(&bed.node, 9000, "node");
    let path = format!(
        "/proc/sys/net/ipv4/conf/{}/route_localnet",
        made.host_ifname
    );
    assert_eq!(in_netns(&bed.node, "cat", &[&path]).trim(), "1");
    assert!(ask(&bed.node, "tcp", at("127.0.0.1", 9000)).is_some());
    for (netns, link, via) in [
        (&a.netns, "eth0", "169.254.1.1"),
        (&bed.fabric, "f0", "10.77.0.10"),
    ] {
        let open = format!("echo 1 > /proc/sys/net/ipv4/conf/{link}/route_localnet");
        in_netns(netns, "sh", &["-c", &open]);
        ip(netns, "link set lo down");
        let source = ip_json(netns, &format!("-4 addr show dev {link}"));
        let source = source[0]["addr_info"][0]["local"]
            .as_str()
            .unwrap()
            .to_owned();
        ip(
            netns,
            &format!("route add 127.0.0.0/8 via {via} dev {link} src {source}"),
        );
        for port in [8000, 9000] {
            assert_eq!(
                ask(netns, "tcp", at("127.0.0.1", port)),
                None,
                "{netns} {port}"
            );
        }
    }
    let guard = in_netns(
        &bed.node,
        "nft",
        &["list", "chain", "inet", "tombolo", "guard"],
    );
    let line = guard.lines().find(|line| line.contains("node's loopback"));
    assert!(!line.unwrap().contains("packets 0 "), "{guard}");
}

#[tokio::test]
async fn a_port_has_one_owner_until_its_del() {
    if !possible("a_port_has_one_owner_until_its_del") {
        return;
    }
    let mut bed = Bed::new(4);
    bed.start(&[]);
    let a = with_web(bed.pod("a"), 8000);
    let made = bed.add(&a).await.unwrap();
    // Of each protocol and family one, and of each family the pod itself.
    assert_eq!(mapped(&bed), 6);
    assert_eq!(bed.check(&a, &made).await, None);
    let bound = |bed: &Bed| bed.state()["pool"]["counts"]["IPv4"]["bound"].as_u64();
    for (protocol, host_ip) in [
        ("tcp", ""),
        ("udp", "0.0.0.0"),
        ("tcp", "10.77.0.10"),
        ("tcp", "::1"),
    ] {
        let b = bed
            .pod(&format!("b-{protocol}-{}", host_ip.len()))
            .with_port(protocol, host_ip, (8000, 80));
        let failure = bed.add(&b).await.unwrap_err();
        assert_eq!(failure.reason, "HostPortConflict");
        assert!(
            failure.message.contains("8000 is that of pod default/c-a "),
            "{failure:?}"
        );
        assert!(!failure.retryable && !b.has_interface());
        assert_eq!(bound(&bed), Some(1), "it keeps no address");
    }
    // The same pod again is the same answer; with other ports it is made anew.
    assert_eq!(bed.add(&a).await.unwrap(), made);
    // Another protocol and another port stand beside it.
    let c = bed
        .pod("c")
        .with_port("sctp", "", (8000, 80))
        .with_port("tcp", "", (8001, 80));
    bed.add(&c).await.unwrap();
    assert_eq!(bed.del(&a, true).await, None);
    assert_eq!(
        mapped(&bed),
        6,
        "those of c; of a none, though its address still rests"
    );
    let d = with_web(bed.pod("d"), 8000);
    let of_d = bed.add(&d).await.unwrap();
    let _server = Server::start(&d.netns, 80, "d");
    assert_eq!(
        ask(&bed.fabric, "tcp", at(OWN[0][0], 8000)),
        Some("d 10.77.0.1".to_owned())
    );
    assert_ne!(ips(&of_d), ips(&made));
    assert_eq!(bed.del(&c, true).await, None);
    assert_eq!(bed.del(&d, true).await, None);
    assert_eq!(mapped(&bed), 0);
    bed.agree(0);
}

/// The client of UDP sends from one port all the time: it is to be answered by whoever has the port now.
#[tokio::test]
async fn a_client_of_udp_follows_its_port() {
    if !possible("a_client_of_udp_follows_its_port") {
        return;
    }
    let mut bed = Bed::new(3);
    bed.start(&[]);
    let fresh = |own: &str| {
        Client::new(
            &bed.fabric,
            if own.contains(':') { "::" } else { "0.0.0.0" }
                .parse()
                .unwrap(),
        )
    };
    let clients: Vec<(SocketAddr, Client)> = OWN[0]
        .iter()
        .map(|own| (at(own, 8000), fresh(own)))
        .collect();
    let everybody_hears = |who: Option<&str>| {
        for (to, client) in &clients {
            let answer = client.ask(*to);
            let name = answer.as_ref().map(|text| text.split(' ').next().unwrap());
            assert_eq!(name, who, "{to}: {answer:?}");
        }
    };
    let own = Server::start(&bed.node, 8000, "node");
    everybody_hears(Some("node"));
    drop(own);
    let a = with_web(bed.pod("a"), 8000);
    bed.add(&a).await.unwrap();
    let of_a = Server::start(&a.netns, 80, "a");
    everybody_hears(Some("a"));
    assert_eq!(bed.del(&a, true).await, None);
    drop(of_a);
    let b = with_web(bed.pod("b"), 8000);
    bed.add(&b).await.unwrap();
    let _of_b = Server::start(&b.netns, 80, "b");
    everybody_hears(Some("b"));
    // Somebody flushes the table, and what comes meanwhile is the node's.
    bed.stop();
    in_netns(
        &bed.node,
        "nft",
        &["delete", "table", "inet", "tombolo-hostports"],
    );
    in_netns(&bed.node, "conntrack", &["-F"]);
    let own = Server::start(&bed.node, 8000, "node");
    everybody_hears(Some("node"));
    drop(own);
    bed.go_on();
    wait_until("the table is back", || {
        in_netns(&bed.node, "nft", &["list", "tables"]).contains("inet tombolo-hostports")
            && mapped(&bed) == 6
    });
    wait_until("clients are answered by the pod", || {
        clients
            .iter()
            .all(|(to, client)| client.ask(*to).is_some_and(|text| text.starts_with("b ")))
    });
}

#[tokio::test]
async fn what_somebody_changes_of_host_ports_is_mended_and_a_restart_keeps_them() {
    if !possible("what_somebody_changes_of_host_ports_is_mended_and_a_restart_keeps_them") {
        return;
    }
    let mut bed = Bed::new(2);
    bed.start(&[]);
    let a = with_web(bed.pod("a"), 8000)
        .with_port("udp", "10.77.1.10", (53, 5353))
        .with_port("tcp", "fd77::10", (53, 5353));
    let made = bed.add(&a).await.unwrap();
    let before = bed.kernel();
    let mended = |bed: &Bed, what: &str, arguments: &str| {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        in_netns(&bed.node, "nft", &words);
        wait_until(what, || bed.kernel() == before);
    };
    mended(&bed, "table", "delete table inet tombolo-hostports");
    mended(&bed, "chain", "flush chain inet tombolo-hostports own");
    for map in ["ports4", "ports6", "ports4at", "ports6at"] {
        mended(
            &bed,
            map,
            &format!("flush map inet tombolo-hostports {map}"),
        );
    }
    mended(
        &bed,
        "pods that reach themselves",
        "flush set inet tombolo-hostports self6",
    );
    mended(
        &bed,
        "planted",
        "add element inet tombolo-hostports ports4 { tcp . 22 : 10.77.0.200 . 22 }",
    );
    // Everything at once, while nobody looks.
    for damage in [
        "delete table inet tombolo-hostports",
        "flush map inet tombolo-hostports ports4",
    ] {
        bed.kill();
        in_netns(
            &bed.node,
            "nft",
            &damage.split_whitespace().collect::<Vec<_>>(),
        );
        bed.start(&[]);
        wait_until(damage, || bed.kernel() == before);
    }
    // An owner is an owner after a restart, too.
    let b = with_web(bed.pod("b"), 8000);
    assert_eq!(bed.add(&b).await.unwrap_err().reason, "HostPortConflict");
    // What differs is told by CHECK, by name.
    bed.stop();
    in_netns(
        &bed.node,
        "nft",
        &[
            "delete",
            "element",
            "inet",
            "tombolo-hostports",
            "ports4at",
            "{ 10.77.1.10 . udp . 53 }",
        ],
    );
    bed.go_on();
    wait_until("element", || bed.kernel() == before);
    assert_eq!(bed.check(&a, &made).await, None);
    assert_eq!(bed.del(&a, true).await, None);
    assert_eq!(mapped(&bed), 0);
}

/// Elements that somebody took away before do not make DEL fail.
#[tokio::test]
async fn del_succeeds_where_host_ports_were_flushed() {
    if !possible("del_succeeds_where_host_ports_were_flushed") {
        return;
    }
    let mut bed = Bed::new(3);
    bed.start(&["--debounce-ms", "600000"]);
    for (index, damage) in [
        "flush map inet tombolo-hostports ports4",
        "delete table inet tombolo-hostports",
    ]
    .iter()
    .enumerate()
    {
        let pod = with_web(bed.pod(&format!("p{index}")), 8000);
        bed.add(&pod).await.unwrap();
        in_netns(
            &bed.node,
            "nft",
            &damage.split_whitespace().collect::<Vec<_>>(),
        );
        assert_eq!(bed.del(&pod, true).await, None, "{damage}");
        bed.agree(0);
    }
}
