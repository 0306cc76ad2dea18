//! The agent ends, at any moment, and starts again.

use serde_json::json;
use tombolo_rpc as rpc;

use crate::bed::{Bed, in_netns, ip, possible, wait_until};

#[tokio::test]
async fn restart_keeps_pods_and_addresses() {
    if !possible("restart_keeps_pods") {
        return;
    }
    let mut bed = Bed::new(2);
    bed.start(&[]);
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    let first = bed.add(&a).await.unwrap();
    bed.add(&b).await.unwrap();
    assert_eq!(bed.del(&b, true).await, None);
    wait_until("b is gone", || {
        bed.state()["attachments"].as_array().unwrap().len() == 1
    });
    let before = bed.kernel();
    bed.kill();
    assert_eq!(bed.kernel(), before);
    assert!(a.reaches("10.77.0.1") && a.reaches("fd77:0::1"));
    // Without its specification: the last one is kept.
    std::fs::remove_file(bed.spec_file()).unwrap();
    bed.start(&[]);
    assert_eq!(bed.kernel(), before);
    assert_eq!(bed.add(&a).await.unwrap(), first);
    let second = bed.add(&b).await.unwrap();
    assert!(
        second
            .addresses
            .iter()
            .all(|address| !first.addresses.contains(address))
    );
    // A pod that went while nobody looked.
    bed.kill();
    ip(&bed.node, &format!("link del {}", second.host_ifname));
    bed.start(&[]);
    wait_until("it is noticed", || {
        bed.state()["attachments"].as_array().unwrap().len() == 1
    });
}

#[tokio::test]
async fn lost_journal_entry_costs_no_pod_its_network() {
    if !possible("lost_journal_entry") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let (a, b) = (bed.pod("a"), bed.pod("b"));
    let first = bed.add(&a).await.unwrap();
    let before = bed.kernel();
    bed.kill();
    let journal = bed.run_dir().join("journal");
    let entry = std::fs::read_dir(&journal)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    std::fs::write(&entry, b"{\"version\": 7}").unwrap();
    bed.start(&[]);
    assert!(
        bed.log().contains("cannot be used and was set aside"),
        "{}",
        bed.log()
    );
    assert_eq!(bed.kernel(), before);
    assert!(a.reaches("10.77.0.1") && a.reaches("fd77:0::1"));
    let second = bed.add(&b).await.unwrap();
    assert!(
        second
            .addresses
            .iter()
            .all(|address| !first.addresses.contains(address))
    );
    // The runtime still knows the key: its DEL ends the pod.
    assert_eq!(bed.del(&a, true).await, None);
    wait_until("its addresses are free", || {
        bed.address_state("10.77.0.100") == "free"
    });
    assert!(!a.has_interface());
}

#[tokio::test]
async fn uninstall_leaves_nothing() {
    if !possible("uninstall_leaves_nothing") {
        return;
    }
    let mut bed = Bed::new(1);
    let before = bed.kernel();
    let paths = [
        "ipv4/ip_forward",
        "ipv6/conf/all/forwarding",
        "ipv4/conf/eth0/src_valid_mark",
        "ipv6/conf/eth0/accept_ra",
    ]
    .map(|path| format!("/proc/sys/net/{path}"));
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let sysctl = |bed: &Bed| in_netns(&bed.node, "cat", &paths);
    let settings = sysctl(&bed);
    bed.start(&[]);
    assert_ne!(sysctl(&bed), settings);
    let pod = bed.pod("a");
    bed.add(&pod).await.unwrap();
    bed.kill();
    bed.uninstall();
    assert_eq!(bed.kernel(), before);
    assert_eq!(sysctl(&bed), settings);
    assert!(!pod.has_interface());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_to_end_waits_for_no_add_that_waits() {
    if !possible("an_agent_that_is_to_end") {
        return;
    }
    let mut bed = Bed::new(1);
    let described = bed.spec.clone();
    // The node has no such NIC, so that no pod can be served.
    bed.spec["nics"][0]["mac"] = json!("02:77:00:00:00:99");
    bed.write_spec();
    bed.start(&[]);
    let pod = bed.pod("a");
    let request = rpc::AddRequest {
        timeout_ms: 600_000,
        ..pod.add_request()
    };
    let mut client = bed.client().await;
    let waiting = tokio::spawn(async move { client.add_network(request).await });
    wait_until("the ADD waits", || bed.state()["adding"] != json!([]));
    bed.end();
    // Its plugin asks again: this is no answer.
    let broken = waiting.await.unwrap().unwrap_err();
    assert!(std::error::Error::source(&broken).is_some(), "{broken}");

    bed.write(&described);
    bed.start(&[]);
    bed.add(&pod).await.unwrap();
    bed.agree(1);
    // One who has nothing to wait for.
    bed.end();
}
