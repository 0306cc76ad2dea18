//! What looks like ours and does not carry our mark: planted before the agent starts, and compared after its start, repairs,
//! pods that come and go, a crash, and uninstall. None of it is ever touched.

use serde_json::{Value, json};

use crate::bed::{Bed, in_netns, ip, ip_json, possible, wait_until};

/// At our priorities, with our marks, tables and actions; the protocol is another's.
const RULES: [&str; 9] = [
    "priority 600 to 198.18.0.0/15 lookup 990 protocol boot",
    "priority 512 lookup 990 protocol static",
    "priority 2000 nop protocol static",
    "priority 1024 fwmark 0xb010000/0xfff0000 lookup main protocol 117",
    "priority 1536 fwmark 0xb020000/0xfff0000 lookup 1001 protocol static",
    "priority 1600 fwmark 0xb000000/0xf000000 blackhole protocol 115",
    "priority 1700 iif lo goto 2000 protocol static",
    "priority 1800 from 10.77.1.0/24 blackhole protocol 117",
    "priority 1537 from 10.77.1.10 lookup 1001 protocol boot",
];

/// Beside ours, in our tables and elsewhere.
const ROUTES: [&str; 7] = [
    "198.18.0.7/32 dev eth1 table 990 proto static",
    "unreachable 198.18.0.8/32 metric 2048 table 990 proto 117",
    "198.18.0.0/16 dev eth1 table 1001 proto static",
    "default dev eth1 table 1001 proto 115 metric 4000",
    "198.18.1.0/24 dev eth1 table 1300 proto 117",
    "unreachable 10.77.0.100 metric 2048 table 991 proto static",
    "198.18.2.0/24 dev eth0 proto 117",
];

const TABLES: [&str; 6] = [
    "inet tombolo-x",
    "inet tombolo2",
    "ip tombolo",
    "ip6 tombolo",
    "netdev tombolo",
    "bridge tombolo",
];

const ADDRESSES: [&str; 3] = [
    "10.77.1.77/32 dev eth1",
    "fd77:1::77/128 dev eth1 nodad",
    "10.77.0.77/32 dev eth0",
];

fn plant(bed: &Bed) {
    let node = &bed.node;
    for script in [
        // Names of host ends, of those on their way out, and groups beside ours.
        "ip link add tmb0123456789ab type veth peer name tmd77",
        "ip link set tmb0123456789ab group 29806 alias tombolo-x up",
        "ip link add tmb00000000000a type bridge",
        "ip link set tmb00000000000a up",
    ] {
        let words: Vec<&str> = script.split(' ').collect();
        in_netns(node, words[0], &words[1..]);
    }
    // Else its link-local address is tentative for a second.
    bed.set("ipv6/conf/eth1/accept_dad", "0");
    ip(node, "link set eth1 up");
    for rule in RULES {
        ip(node, &format!("rule add {rule}"));
    }
    for route in ROUTES {
        ip(node, &format!("route add {route}"));
    }
    for rule in RULES
        .iter()
        .filter(|rule| !rule.contains("10.77.") && !rule.contains("198.18."))
    {
        ip(node, &format!("-6 rule add {rule}"));
    }
    for table in [990, 1001] {
        let route = format!("2001:db8:18::/64 dev eth1 table {table} proto static");
        ip(node, &format!("-6 route add {route}"));
    }
    for address in ADDRESSES {
        ip(node, &format!("addr add {address}"));
    }
    for neighbour in [
        "10.77.0.100 dev eth1 lladdr 02:00:00:00:00:09 nud permanent",
        "fd77::100 dev eth1 lladdr 02:00:00:00:00:09 nud permanent protocol static",
    ] {
        ip(node, &format!("neigh add {neighbour}"));
    }
    for table in TABLES {
        let rule = if table.starts_with("netdev") {
            ""
        } else {
            "type filter hook input priority 0; meta mark & 0x0f000000 == 0x0b000000 counter"
        };
        let text = format!(
            "table {table} {{ map pods4 {{ type mark : mark; }}; chain guard {{ {rule}; }}; }}"
        );
        in_netns(node, "nft", &[&text]);
    }
}

/// All of it, as the tools show it, without what changes by itself.
fn planted(bed: &Bed) -> Value {
    let node = &bed.node;
    let list = |arguments: &str, keep: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        let shown = ip_json(node, arguments);
        let mut all: Vec<Value> = shown
            .as_array()
            .unwrap()
            .iter()
            .filter(|each| keep(each))
            .cloned()
            .collect();
        for each in &mut all {
            // A route on a link that is down is shown so.
            each.as_object_mut().unwrap().remove("flags");
        }
        all.sort_by_key(ToString::to_string);
        all
    };
    let foreign = |each: &Value| {
        !["116", "kernel", "ra"].contains(&each["protocol"].as_str().unwrap_or_default())
    };
    let names = ["tmb0123456789ab", "tmd77", "tmb00000000000a"];
    let links: Vec<Value> = ip_json(node, "link show")
        .as_array()
        .unwrap()
        .iter()
        .filter(|link| names.iter().any(|name| link["ifname"] == *name))
        .map(|link| {
            json!([
                link["ifname"],
                link["ifindex"],
                link["flags"],
                link["group"],
                link["ifalias"],
                link["mtu"]
            ])
        })
        .collect();
    let addresses: Vec<String> = ["eth0", "eth1"]
        .iter()
        .flat_map(|link| bed.addresses(link))
        .filter(|address| {
            ADDRESSES
                .iter()
                .any(|planted| planted.starts_with(address.as_str()))
        })
        .collect();
    let neighbours = list("neigh show nud permanent dev eth1", &|_| true);
    let tables: Vec<String> = TABLES
        .iter()
        .map(|table| {
            let words: Vec<&str> = ["-s", "list", "table"]
                .into_iter()
                .chain(table.split(' '))
                .collect();
            in_netns(node, "nft", &words)
        })
        .collect();
    json!({
        "rules": [list("-4 rule show", &foreign), list("-6 rule show", &foreign)],
        "routes": [list("-4 route show table all", &foreign), list("-6 route show table all", &foreign)],
        "links": links,
        "addresses": addresses,
        "neighbours": neighbours,
        "tables": tables,
    })
}

#[tokio::test]
async fn what_looks_like_ours_is_never_touched() {
    if !possible("what_looks_like_ours") {
        return;
    }
    let mut bed = Bed::new(2);
    plant(&bed);
    let node = bed.node.clone();
    let before = planted(&bed);
    let count = |part: &str, index: usize| before[part][index].as_array().unwrap().len();
    assert_eq!(
        (count("rules", 0), count("rules", 1)),
        (RULES.len(), 6),
        "{before:#}"
    );
    assert_eq!(before["links"].as_array().unwrap().len(), 3);
    assert_eq!(
        before["addresses"].as_array().unwrap().len(),
        ADDRESSES.len()
    );
    assert_eq!(before["neighbours"].as_array().unwrap().len(), 2);
    let untouched = |bed: &Bed, when: &str| {
        let now = planted(bed);
        for part in [
            "rules",
            "routes",
            "links",
            "addresses",
            "neighbours",
            "tables",
        ] {
            assert_eq!(now[part], before[part], "{when}: {part}");
        }
    };
    bed.start(&[]);
    untouched(&bed, "start");

    let pods: Vec<_> = ["a", "b", "c"].map(|name| bed.pod(name)).into();
    for pod in &pods {
        bed.add(pod).await.unwrap();
    }
    let ours = bed.kernel();
    let of_rules = ours["rules"][0].as_array().unwrap().len();
    assert_eq!(of_rules, 12, "ours stand beside them: {ours:#}");
    assert!(pods[0].reaches("10.77.0.1") && pods[2].reaches("fd77:1::1"));
    untouched(&bed, "pods");

    for family in ["-4", "-6"] {
        ip(&node, &format!("{family} rule flush protocol 116"));
        ip(
            &node,
            &format!("{family} route flush table all protocol 116"),
        );
    }
    in_netns(&node, "nft", &["delete", "table", "inet", "tombolo"]);
    in_netns(&node, "nft", &["delete", "table", "arp", "tombolo"]);
    wait_until("repair", || bed.kernel() == ours);
    untouched(&bed, "repair");

    for round in 0..3 {
        for pod in &pods {
            assert_eq!(bed.del(pod, true).await, None);
        }
        for pod in &pods {
            bed.add(pod).await.unwrap();
        }
        untouched(&bed, &format!("churn {round}"));
    }
    bed.kill();
    bed.start(&[]);
    untouched(&bed, "a crash");
    // A NIC that goes takes its table and its rules with it, not those of others.
    let mut second = bed.spec["nics"].as_array_mut().unwrap().pop();
    bed.write_spec();
    wait_until("its rules are gone", || {
        let shown = ip_json(&node, "rule show priority 1536");
        shown
            .as_array()
            .unwrap()
            .iter()
            .all(|rule| rule["protocol"] != "116")
    });
    untouched(&bed, "a NIC less");
    bed.spec["nics"]
        .as_array_mut()
        .unwrap()
        .extend(second.take());
    bed.write_spec();
    wait_until("its rules are back", || {
        let shown = ip_json(&node, "rule show priority 1536");
        shown
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| rule["protocol"] == "116")
    });
    bed.kill();
    bed.uninstall();
    let left = bed.kernel();
    assert_eq!(left["rules"], json!([[], []]));
    assert_eq!(left["routes"], json!([[], []]));
    // The NIC stays up: what others put on it would go with its going down.
    untouched(&bed, "uninstall");
}

/// In the very place of ours: the same table, destination and metric, the same address on the same NIC. Ours gives way, and
/// it is named.
#[tokio::test]
async fn what_stands_in_the_place_of_ours_stays_and_is_named() {
    if !possible("what_stands_in_the_place") {
        return;
    }
    let mut bed = Bed::new(1);
    let node = bed.node.clone();
    ip(&node, "link set eth1 up");
    let places = [
        (
            "-4",
            "default via 10.77.1.1 dev eth1 onlink table 1001 proto static metric 1024",
        ),
        (
            "-6",
            "default via fe80::77 dev eth1 onlink table 1001 proto static metric 1024",
        ),
        (
            "-4",
            "10.77.0.100 dev eth1 table 990 proto static metric 1024",
        ),
        (
            "-6",
            "fd77::100 dev eth1 table 990 proto static metric 1024",
        ),
        (
            "-6",
            "unreachable fd77:1::100 table 990 proto static metric 2048",
        ),
    ];
    for (family, route) in places {
        ip(&node, &format!("{family} route add {route}"));
    }
    ip(&node, "addr add 10.77.1.10/32 dev eth1");
    let theirs = |bed: &Bed| {
        let of = |family| {
            ip_json(
                &bed.node,
                &format!("{family} route show table all proto static"),
            )
        };
        let mut all: Vec<Value> = ["-4", "-6"]
            .into_iter()
            .flat_map(|family| of(family).as_array().unwrap().clone())
            .collect();
        all.iter_mut()
            .for_each(|route| drop(route.as_object_mut().unwrap().remove("flags")));
        all
    };
    let before = theirs(&bed);
    assert_eq!(before.len(), places.len());
    bed.start(&[]);
    let problems = bed.problems();
    assert_eq!(
        problems.matches("in the place of ours").count(),
        3,
        "{problems}"
    );
    assert_eq!(
        problems.matches("may take what is for").count(),
        3,
        "{problems}"
    );
    assert_eq!(theirs(&bed), before);

    // A pod whose packets another would take is not made; one beside it is.
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    let failure = bed.add(&a).await.unwrap_err();
    assert_eq!(failure.reason, "ForeignConflict", "{failure:?}");
    assert!(!a.has_interface());
    assert_eq!(theirs(&bed), before, "nor by ADD");
    for (family, route) in &places[2..4] {
        ip(&node, &format!("{family} route del {route}"));
    }
    wait_until("two less", || {
        bed.problems().matches("may take what is for").count() == 1
    });
    wait_until("rested", || bed.address_state("10.77.0.100") == "free");
    for pod in [&a, &b] {
        bed.add(pod).await.unwrap();
    }
    assert!(
        a.reaches("10.77.0.1") && b.reaches("10.77.1.1"),
        "theirs leads there as well"
    );
    bed.kill();
    bed.uninstall();
    assert!(bed.addresses("eth1").contains(&"10.77.1.10/32".to_owned()));
}
