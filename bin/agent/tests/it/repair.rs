//! What somebody deletes by hand comes back, though the comparison by the clock is an hour away.

use serde_json::json;

use crate::bed::{Bed, in_netns, ip, ip_json, possible, wait_until};

#[tokio::test]
async fn deleted_state_comes_back() {
    if !possible("deleted_state_comes_back") {
        return;
    }
    let mut bed = Bed::new(2);
    bed.start(&[]);
    let (a, b, c) = (bed.pod("a"), bed.pod("b"), bed.pod("c"));
    let made = bed.add(&a).await.unwrap();
    bed.add(&b).await.unwrap();
    bed.add(&c).await.unwrap();
    let before = bed.kernel();
    let restored = |what: &str, damage: &dyn Fn()| {
        damage();
        let after = wait_until(what, || bed.kernel() == before);
        println!("{what}: restored, seen after {after:?}");
    };
    let node = &bed.node;
    for (family, prefix) in [("-4", "10.77.0.100"), ("-6", "fd77::100")] {
        restored("pod route", &|| {
            ip(node, &format!("{family} route del {prefix} table 990"))
        });
        restored("NIC route", &|| {
            ip(node, &format!("{family} route del default table 1001"))
        });
        for priority in [
            "512", "1000", "1024", "1536", "1537", "1600", "1700", "1800", "2000",
        ] {
            restored(&format!("{family} rule {priority}"), &|| {
                ip(node, &format!("{family} rule del priority {priority}"))
            });
        }
    }
    restored("nft table", &|| {
        drop(in_netns(
            node,
            "nft",
            &["delete", "table", "inet", "tombolo"],
        ))
    });
    restored("arp table", &|| {
        drop(in_netns(
            node,
            "nft",
            &["delete", "table", "arp", "tombolo"],
        ))
    });
    restored("nft elements", &|| {
        drop(in_netns(
            node,
            "nft",
            &["flush", "map", "inet", "tombolo", "pods4"],
        ))
    });
    ip(
        node,
        &format!("neigh del 10.77.0.100 dev {}", made.host_ifname),
    );
    wait_until("neighbour", || {
        let shown = ip_json(
            node,
            &format!("neigh show dev {} nud permanent", made.host_ifname),
        );
        shown
            .as_array()
            .unwrap()
            .iter()
            .any(|entry| entry["dst"] == "10.77.0.100")
    });
    ip(node, &format!("link set {} down", made.host_ifname));
    wait_until("link up and all on it", || {
        bed.kernel() == before && a.reaches("10.77.0.1") && a.reaches("fd77:0::1")
    });
    ip(node, "link set eth1 down");
    wait_until("NIC up", || bed.kernel() == before);
    bed.await_carrier();
    wait_until("all on it", || {
        bed.kernel() == before && c.reaches("10.77.1.1") && c.reaches("fd77:1::1")
    });
    // What is not ours is not touched.
    ip(node, "rule add priority 600 from 192.0.2.1 lookup 77");
    ip(node, "route add 192.0.2.0/24 dev eth0 table 77");
    restored("route beside a foreign one", &|| {
        ip(node, "-4 route del 10.77.0.100 table 990")
    });
    assert_eq!(
        ip_json(node, "route show table 77")
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        ip_json(node, "rule show priority 600")
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn namespace_that_vanishes_ends_the_attachment() {
    if !possible("namespace_that_vanishes") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let before = bed.kernel();
    let pod = bed.pod("a");
    let made = bed.add(&pod).await.unwrap();
    ip(&bed.node, &format!("link del {}", made.host_ifname));
    wait_until("its addresses are free again", || {
        bed.address_state("10.77.0.100") == "free"
    });
    assert_eq!(bed.kernel(), before);
    assert_eq!(bed.del(&pod, true).await, None);
}

#[tokio::test]
async fn mtu_follows_the_nic() {
    if !possible("mtu_follows_the_nic") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let pod = bed.pod("a");
    let made = bed.add(&pod).await.unwrap();
    assert_eq!(made.mtu, 1500);
    ip(&bed.node, "link set eth0 mtu 1400");
    let mtu =
        |netns: &str, name: &str| ip_json(netns, &format!("link show {name}"))[0]["mtu"].clone();
    wait_until("both ends", || {
        mtu(&pod.netns, "eth0") == 1400 && mtu(&bed.node, &made.host_ifname) == 1400
    });
    let again = bed.add(&pod).await.unwrap();
    assert_eq!(again.mtu, 1400);
}

/// As when the cloud takes it away in that moment: it is told of as missing, not as a kernel that refuses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nic_that_goes_while_it_is_set_up_is_missing_and_nothing_else() {
    if !possible("a_nic_that_goes_while_it_is_set_up") {
        return;
    }
    let mut bed = Bed::new(1);
    let nics = bed.spec["nics"].take();
    bed.spec["nics"] = json!([nics[0]]);
    bed.write_spec();
    // The primary NIC's addresses are not ours to set: the first one is that of the second NIC.
    bed.start(&["--failpoint", "repair.address.before=stop"]);
    bed.spec["nics"] = nics;
    bed.write_spec();
    bed.stopped();
    ip(&bed.node, "link del eth1");
    bed.go_on();
    let problem = |word: &str| {
        let told = format!("problem on this node reason={word} ");
        bed.log().contains(&told)
    };
    wait_until("it is missing", || problem("AttachTimeout"));
    assert!(bed.log().contains("refused, looking again"));
    assert!(!problem("KernelError"));
    let pod = bed.pod("a");
    bed.add(&pod).await.unwrap();
}
