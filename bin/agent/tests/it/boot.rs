//! The agent starts with whatever combination is left: of journal, kernel, and what it was told.

use serde_json::json;

use crate::bed::{Bed, in_netns, ip, ip_json, possible, wait_until};

fn free(bed: &Bed) -> u64 {
    bed.state()["pool"]["counts"]["IPv4"]["free"]
        .as_u64()
        .unwrap()
}

/// What a boot takes away: links that are no NICs, rules, routes, tables, connections. And it swaps the NICs' names.
fn reboot(bed: &Bed) {
    let node = &bed.node;
    for link in ip_json(node, "link show").as_array().unwrap() {
        let name = link["ifname"].as_str().unwrap();
        if name.starts_with("tm") {
            ip(node, &format!("link del {name}"));
        }
    }
    in_netns(node, "nft", &["flush", "ruleset"]);
    in_netns(node, "conntrack", &["-F"]);
    for family in ["-4", "-6"] {
        for table in ["990", "1001"] {
            ip(node, &format!("{family} route flush table {table}"));
        }
        let rules = ip_json(node, &format!("{family} rule show"));
        for rule in rules.as_array().unwrap() {
            if rule["protocol"] == "116" {
                ip(
                    node,
                    &format!("{family} rule del priority {}", rule["priority"]),
                );
            }
        }
    }
    for (old, new) in [("eth0", "swap"), ("eth1", "eth0"), ("swap", "eth1")] {
        ip(node, &format!("link set {old} down"));
        ip(node, &format!("addr flush dev {old}"));
        ip(node, &format!("link set {old} name {new}"));
    }
    ip(node, "link set eth1 up");
    ip(node, "addr add 10.77.0.10/24 dev eth1");
    ip(node, "addr add fd77:0::10/64 dev eth1 nodad");
    ip(node, "route add default via 10.77.0.1");
    ip(node, "route add default via fd77:0::1");
}

#[tokio::test]
async fn a_journal_that_outlives_a_boot_is_of_pods_that_do_not() {
    if !possible("a_journal_that_outlives_a_boot") {
        return;
    }
    let mut bed = Bed::new(3);
    bed.start(&[]);
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    let first = bed.add(&a).await.unwrap();
    bed.add(&b).await.unwrap();
    assert_eq!(bed.del(&b, true).await, None);
    bed.kill();
    // Its DEL came before the agent, and is older than what follows.
    let key = tombolo_core::types::AttachmentKey::new("tombolo", &a.id, "eth0").unwrap();
    let name = tombolo_core::types::DelNote::file_name(&key);
    let note = json!({"version": 1, "key": key}).to_string();
    std::fs::write(bed.run_dir().join("pending-del").join(name), note).unwrap();
    reboot(&bed);
    bed.start(&[]);
    // Runtimes start a container again under the id that it had.
    let again = bed.pod("again").under(&a.id);
    let made = bed.add(&again).await.unwrap();
    assert_ne!(made.addresses, first.addresses, "it rests");
    assert!(again.reaches("10.77.0.1") && again.reaches("fd77:0::1"));
    assert_eq!(bed.check(&again, &made).await, None);
    wait_until("what was before the boot rested", || free(&bed) == 5);
    let attachments = bed.state()["attachments"].clone();
    assert_eq!(attachments.as_array().unwrap().len(), 1, "{attachments}");
    // The other NIC, under the other name.
    let mut last = made;
    for n in 0..3 {
        let pod = bed.pod(&format!("n{n}"));
        last = bed.add(&pod).await.unwrap();
    }
    assert!(last.addresses[0].cidr.starts_with("10.77.1."), "{last:?}");
    assert!(bed.fabric_reaches(last.addresses[0].cidr.trim_end_matches("/32")));
    let routes = ip_json(&bed.node, "route show table 1001");
    assert_eq!(routes[0]["dev"], "eth0");
}

/// No journal, no notes of resting addresses, no specification: only the kernel knows.
#[tokio::test]
async fn pods_keep_their_network_when_all_files_are_lost() {
    if !possible("pods_keep_their_network") {
        return;
    }
    let mut bed = Bed::new(3);
    bed.start(&[]);
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    let made = [bed.add(&a).await.unwrap(), bed.add(&b).await.unwrap()];
    let before = bed.kernel();
    bed.kill();
    std::fs::remove_dir_all(bed.run_dir()).unwrap();
    bed.start(&[]);
    assert_eq!(bed.kernel(), before);
    assert!(a.reaches("10.77.0.1") && b.reaches("fd77:0::1"));
    assert_eq!(bed.state()["orphans"].as_array().unwrap().len(), 2);
    let c = bed.pod("c");
    let other = bed.add(&c).await.unwrap();
    for (mine, theirs) in made.iter().zip([&other, &other]) {
        assert!(
            mine.addresses
                .iter()
                .all(|each| !theirs.addresses.contains(each))
        );
    }
    // Restarted once more, it knows no more and no less.
    bed.kill();
    bed.start(&[]);
    assert_eq!(bed.state()["orphans"].as_array().unwrap().len(), 2);
    // One ends by its DEL, the other with its namespace.
    assert_eq!(bed.del(&a, true).await, None);
    assert!(!a.has_interface());
    ip(&bed.node, &format!("link del {}", made[1].host_ifname));
    wait_until("their addresses rested", || free(&bed) == 5);
    assert_eq!(bed.state()["orphans"], json!([]));
    assert_eq!(bed.check(&c, &other).await, None);
}

#[tokio::test]
async fn a_rest_goes_on_over_restarts() {
    if !possible("a_rest_goes_on") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.spec["profile"]["pool"]["coolingSeconds"] = 3600.into();
    bed.write_spec();
    bed.start(&[]);
    let (a, b, c) = (bed.pod("a"), bed.pod("b"), bed.pod("c"));
    bed.add(&a).await.unwrap();
    assert_eq!(bed.del(&a, true).await, None);
    let rests = |bed: &Bed| {
        ["10.77.0.100", "fd77::100"]
            .iter()
            .all(|ip_| bed.address_state(ip_) == "cooling")
    };
    wait_until("it rests", || rests(&bed));
    for _ in 0..2 {
        bed.kill();
        bed.start(&[]);
        assert!(rests(&bed));
    }
    let made = bed.add(&b).await.unwrap();
    assert!(made.addresses[0].cidr.starts_with("10.77.1."), "{made:?}");
    bed.spec["profile"]["pool"]["waitSeconds"] = 1.into();
    bed.write_spec();
    wait_until("the wait is short", || {
        bed.log().matches("took the node's specification").count() > 1
    });
    let failure = bed.add(&c).await.unwrap_err();
    assert_eq!(failure.reason, "PoolEmpty");
}
