//! What an address was before does not reach the pod that has it now: garbage is planted with `ip`, `nft` and `conntrack`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::bed::{Bed, in_netns, ip, ip_json, possible, wait_until};

const FOUR: &str = "10.77.0.100";
const SIX: &str = "fd77::100";

/// Connections that name an address, as `conntrack` lists them.
fn connections(bed: &Bed, ip_: &str) -> Vec<String> {
    let family = if ip_.contains(':') { "ipv6" } else { "ipv4" };
    let all = in_netns(&bed.node, "conntrack", &["-L", "-f", family]);
    all.lines()
        .filter(|line| line.split([' ', '=']).any(|word| word == ip_))
        .map(str::to_owned)
        .collect()
}

/// An established connection of a pod with this address to a peer, and one that was translated on the way to it.
fn plant_connections(bed: &Bed, ip_: &str, peer: &str, front: &str) {
    let common = "-I -p tcp --state ESTABLISHED --timeout 600 -u ASSURED";
    for entry in [
        format!("{common} -s {ip_} -d {peer} --sport 40000 --dport 80"),
        format!(
            "{common} -s {peer} -d {front} --sport 40001 --dport 443 --reply-src {ip_} --reply-dst {peer} --reply-port-src 8443 --reply-port-dst 40001"
        ),
    ] {
        let arguments: Vec<&str> = entry.split(' ').collect();
        in_netns(&bed.node, "conntrack", &arguments);
    }
}

fn plant_all_connections(bed: &Bed) {
    plant_connections(bed, FOUR, "10.77.9.9", "10.77.9.1");
    plant_connections(bed, SIX, "fd77:9::9", "fd77:9::1");
}

fn no_connections(bed: &Bed) -> bool {
    connections(bed, FOUR).is_empty() && connections(bed, SIX).is_empty()
}

fn tools(test: &str) -> bool {
    let there = std::process::Command::new("conntrack")
        .arg("-V")
        .output()
        .is_ok_and(|output| output.status.success());
    if !there {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{test}: no conntrack"
        );
        println!("SKIP {test}: there is no conntrack");
    }
    there && possible(test)
}

/// Routes to an address, or to a block that it is in, in the table of pods.
fn routes(bed: &Bed, ip_: &str) -> Vec<Value> {
    let family = if ip_.contains(':') { "-6" } else { "-4" };
    let shown = ip_json(&bed.node, &format!("{family} route show table 990"));
    let ip_: IpAddr = ip_.parse().unwrap();
    let covers = |route: &Value| {
        let dst = route["dst"].as_str().unwrap();
        let block = dst.parse::<IpNet>();
        block.map_or_else(|_| dst.parse() == Ok(ip_), |block| block.contains(&ip_))
    };
    let mut all = shown.as_array().unwrap().clone();
    all.retain(covers);
    all
}

#[tokio::test]
async fn an_address_without_pod_is_refused_and_not_sent_back() {
    if !tools("an_address_without_pod") {
        return;
    }
    let mut bed = Bed::new(2);
    bed.start(&[]);
    let pod = bed.pod("a");
    let count = |bed: &Bed| {
        let of = |family| {
            ip_json(
                &bed.node,
                &format!("{family} route show table 990 proto 116"),
            )
        };
        ["-4", "-6"].map(|family| of(family).as_array().unwrap().len())
    };
    assert_eq!(count(&bed), [2, 2], "a block a NIC, of two addresses");
    for ip_ in [FOUR, SIX] {
        let shown = routes(&bed, ip_);
        let [route] = shown.as_slice() else {
            panic!("{shown:?}")
        };
        assert_eq!(
            (&route["type"], &route["protocol"], &route["metric"]),
            (&"unreachable".into(), &"116".into(), &2048.into())
        );
    }
    // What is for it comes in by the NIC. It must not leave by one.
    let leaves = |bed: &Bed| -> u64 {
        let shown = in_netns(
            &bed.node,
            "nft",
            &["-j", "list", "chain", "inet", "look", "out"],
        );
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let rules = shown["nftables"].as_array().unwrap().iter();
        rules
            .filter_map(|object| object.pointer("/rule/expr"))
            .flat_map(|expr| expr.as_array().unwrap())
            .filter_map(|expr| expr.pointer("/counter/packets"))
            .map(|packets| packets.as_u64().unwrap())
            .sum()
    };
    let watch = format!(
        "table inet look {{ chain out {{\n type filter hook postrouting priority 0;\n \
         ip daddr {FOUR} oifname \"eth*\" counter\n ip6 daddr {SIX} oifname \"eth*\" counter\n }}\n }}"
    );
    in_netns(&bed.node, "nft", &[&watch]);
    assert!(!bed.fabric_reaches(FOUR) && !bed.fabric_reaches(SIX));
    assert_eq!(leaves(&bed), 0);
    assert!(no_connections(&bed), "nor is anything of it remembered");

    let made = bed.add(&pod).await.unwrap();
    assert!(bed.fabric_reaches(FOUR) && bed.fabric_reaches(SIX));
    assert_eq!(count(&bed), [3, 3]);
    assert_eq!(bed.del(&pod, true).await, None);
    assert_eq!(count(&bed), [2, 2]);
    assert!(!bed.fabric_reaches(FOUR) && !bed.fabric_reaches(SIX));
    assert_eq!(leaves(&bed), 0, "nor while it rests");
    assert!(!made.host_ifname.is_empty());

    // One that is given back may be another node's.
    bed.spec["release"] = serde_json::json!([FOUR]);
    bed.write_spec();
    wait_until("it is no longer refused", || routes(&bed, FOUR).is_empty());
    for other in [SIX, "10.77.0.101", "10.77.1.100"] {
        assert_eq!(routes(&bed, other).len(), 1, "{other}");
    }
}

#[tokio::test]
async fn garbage_of_an_earlier_owner_is_gone_after_add() {
    if !tools("garbage_of_an_earlier_owner") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let pod = bed.pod("a");
    let made = bed.add(&pod).await.unwrap();
    let clean = bed.kernel();
    let neighbours = |bed: &Bed| ip_json(&bed.node, "neigh show nud permanent protocol 116");
    let clean_neighbours = neighbours(&bed);
    assert_eq!(bed.del(&pod, true).await, None);
    wait_until("free again", || bed.address_state(FOUR) == "free");

    bed.kill();
    let node = &bed.node.clone();
    plant_all_connections(&bed);
    assert!(!no_connections(&bed));
    for (family, prefix, gateway) in [("-4", FOUR, "10.77.1.1"), ("-6", SIX, "fe80::77")] {
        // To another link: in place of the pod's, before it, and after it.
        for metric in [1024, 7, 4000] {
            let garbage = format!(
                "{prefix} via {gateway} dev eth1 onlink table 990 proto 116 metric {metric}"
            );
            ip(node, &format!("{family} route add {garbage}"));
        }
        ip(
            node,
            &format!("{family} rule add priority 100 to {prefix} lookup 1001 protocol 116"),
        );
        let neighbour =
            format!("{prefix} lladdr 02:00:00:00:00:09 dev eth1 nud permanent protocol 116");
        ip(node, &format!("{family} neigh replace {neighbour}"));
    }
    let element = format!("{{ \"eth1\" . {FOUR} : 0x0b010000 }}");
    in_netns(
        node,
        "nft",
        &["add", "element", "inet", "tombolo", "pods4", &element],
    );
    bed.start(&[]);
    assert!(no_connections(&bed), "forgotten before it serves");
    assert_eq!(bed.add(&pod).await.unwrap(), made);
    assert_eq!(bed.kernel(), clean);
    assert_eq!(neighbours(&bed), clean_neighbours);
    assert!(pod.reaches("10.77.0.1") && pod.reaches("fd77:0::1"));
}

#[tokio::test]
async fn garbage_that_comes_while_the_agent_runs_does_not_take_a_pods_packets() {
    if !tools("garbage_that_comes_while") {
        return;
    }
    let mut bed = Bed::new(1);
    // Notifications wait long: ADD has to see to it itself.
    bed.start(&["--debounce-ms", "600000"]);
    let pod = bed.pod("a");
    let node = &bed.node.clone();
    for (family, prefix) in [("-4", FOUR), ("-6", SIX)] {
        let garbage = format!("{prefix} dev eth1 table 990 proto 116 metric 7");
        ip(node, &format!("{family} route add {garbage}"));
    }
    // Nor does a rule of ours that somebody flushed a moment ago.
    for family in ["-4", "-6"] {
        ip(node, &format!("{family} rule del priority 512"));
    }
    bed.add(&pod).await.unwrap();
    for prefix in [FOUR, SIX] {
        let metrics: Vec<_> = routes(&bed, prefix)
            .iter()
            .map(|route| route["metric"].clone())
            .collect();
        assert_eq!(metrics, [1024, 2048], "{prefix}");
    }
    assert!(bed.fabric_reaches(FOUR) && bed.fabric_reaches(SIX));
}

/// What is not ours stays, is named, and no pod is made whose packets it would take.
#[tokio::test]
async fn a_foreign_route_or_rule_for_an_address_is_named() {
    if !tools("a_foreign_route_or_rule") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let node = &bed.node.clone();
    type Case<'a> = (&'a str, &'a str, &'a str);
    let cases: [Case<'_>; 3] = [
        (
            "rule",
            "priority 100 to 10.77.0.100 lookup 254",
            "10.77.0.100",
        ),
        (
            "route",
            "10.77.0.100 dev eth1 table 990 proto static",
            "10.77.0.100",
        ),
        ("addr", "10.77.0.100/32 dev eth0", "10.77.0.100"),
    ];
    for (number, (object, planted, ip_)) in cases.into_iter().enumerate() {
        ip(node, &format!("{object} add {planted}"));
        if object != "addr" {
            wait_until("it is named", || {
                let problems = bed.state()["problems"].to_string();
                problems.contains("ForeignConflict") && problems.contains(ip_)
            });
        }
        let pod = bed.pod(&format!("p{number}"));
        let failure = bed.add(&pod).await.unwrap_err();
        assert_eq!(failure.reason, "ForeignConflict", "{failure:?}");
        assert!(failure.message.contains(ip_), "{failure:?}");
        assert!(!pod.has_interface());
        // It is still there: removing it succeeds.
        ip(node, &format!("{object} del {planted}"));
        wait_until("nothing is wrong any more", || {
            bed.state()["problems"].as_array().unwrap().is_empty()
        });
        wait_until("its addresses rested", || bed.address_state(ip_) == "free");
        bed.add(&pod).await.unwrap();
        assert_eq!(bed.del(&pod, true).await, None);
        wait_until("free again", || {
            bed.state()["pool"]["counts"]["IPv4"]["free"] == 2
        });
    }
}

#[tokio::test]
async fn an_address_rests_only_when_nothing_names_it_any_more() {
    if !tools("an_address_rests_only") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let pod = bed.pod("a");
    let made = bed.add(&pod).await.unwrap();
    plant_all_connections(&bed);
    // And one that leads to no pod of ours.
    plant_connections(&bed, "10.77.8.8", "10.77.9.8", "10.77.9.2");
    assert_eq!(bed.del(&pod, true).await, None);
    wait_until("it rests", || bed.address_state(FOUR) != "draining");
    assert!(no_connections(&bed), "and nothing remembers it");
    assert_eq!(connections(&bed, "10.77.8.8").len(), 2, "others' stay");
    let links = ip_json(&bed.node, "link show");
    let names: Vec<_> = links
        .as_array()
        .unwrap()
        .iter()
        .map(|link| &link["ifname"])
        .collect();
    assert!(!names.contains(&&Value::from(made.host_ifname)));

    // An address that comes from elsewhere.
    let taken = bed.spec["nics"][0]["addresses"].take();
    bed.spec["nics"][0]["addresses"] = serde_json::json!([]);
    bed.write_spec();
    wait_until("it is gone", || bed.address_state(FOUR).is_empty());
    plant_all_connections(&bed);
    bed.spec["nics"][0]["addresses"] = taken;
    bed.write_spec();
    wait_until("it is there", || bed.address_state(FOUR) == "free");
    assert!(no_connections(&bed));
}

/// Planted for an address that nobody has, while the agent runs. Nobody can make such a connection with packets: those for
/// the address are refused before anything is remembered, and nobody can send from it; only a program can put one in. To look
/// for it inside ADD is a walk through the kernel's whole table, longer than all the rest of ADD, and the kernel has no
/// question by address. So the clock sweeps; and what a living pod has is not touched.
#[tokio::test]
async fn connections_planted_for_a_free_address_are_swept_out_and_pods_keep_theirs() {
    if !tools("connections_planted_for_a_free_address") {
        return;
    }
    let mut bed = Bed::new(2);
    bed.start(&["--resync-ms", "300"]);
    let pod = bed.pod("a");
    bed.add(&pod).await.unwrap();
    // The first pod has .100: its own, beside garbage for .101 and connections of others.
    plant_all_connections(&bed);
    plant_connections(&bed, "10.77.0.101", "10.77.9.9", "10.77.9.2");
    plant_connections(&bed, "fd77::101", "fd77:9::9", "fd77:9::2");
    plant_connections(&bed, "10.77.8.8", "10.77.9.8", "10.77.9.3");
    let garbage =
        |bed: &Bed| connections(bed, "10.77.0.101").len() + connections(bed, "fd77::101").len();
    assert_eq!(garbage(&bed), 4);
    wait_until("swept out", || garbage(&bed) == 0);
    assert_eq!(connections(&bed, FOUR).len(), 2, "the pod's own stay");
    assert_eq!(connections(&bed, SIX).len(), 2, "the pod's own stay");
    assert_eq!(connections(&bed, "10.77.8.8").len(), 2, "others' stay");
    let next = bed.pod("b");
    bed.add(&next).await.unwrap();
    assert!(bed.fabric_reaches("10.77.0.101"));
}
