//! Ranges, MTUs and owners of addresses that change or are unusual while pods run.

use serde_json::{Value, json};

use crate::bed::{Bed, Pod, in_netns, ip, ip_json, possible, wait_until};

const OUTSIDE: &str = "198.51.100.1";

/// Whether what this pod sends outside arrives with `source`, counted in the fabric.
fn arrives_as(bed: &Bed, pod: &Pod, name: &str, source: &str) -> bool {
    bed.count(name, source, OUTSIDE);
    assert!(pod.reaches(OUTSIDE));
    bed.counted(name) > 0
}

fn vpc4(bed: &Bed) -> String {
    in_netns(
        &bed.node,
        "nft",
        &["-j", "list", "set", "inet", "tombolo", "vpc4"],
    )
}

#[tokio::test]
async fn a_range_that_joins_the_vpc_is_no_longer_translated() {
    if !possible("a_range_that_joins_the_vpc") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.outside("198.51.100.1/32");
    bed.start(&[]);
    let pods = [bed.pod("a"), bed.pod("b")];
    for pod in &pods {
        bed.add(pod).await.unwrap();
    }
    let (own, primary) = ("10.77.1.100", "10.77.0.10");
    assert!(arrives_as(&bed, &pods[1], "before", primary));
    // One that began before keeps its translation, or it would break.
    bed.count("stream", primary, OUTSIDE);
    let stream = pods[1].stream(OUTSIDE);
    wait_until("the stream begins", || bed.counted("stream") > 0);
    let before = bed.spec["vpcCidrs"].clone();
    bed.spec["vpcCidrs"]
        .as_array_mut()
        .unwrap()
        .push(json!("198.51.100.0/24"));
    bed.write_spec();
    wait_until("the range", || vpc4(&bed).contains("198.51.100.0"));
    assert!(arrives_as(&bed, &pods[1], "joined", own));
    let seen = bed.counted("stream");
    wait_until("the stream goes on", || bed.counted("stream") > seen + 10);
    drop(stream);
    bed.spec["vpcCidrs"] = before;
    bed.write_spec();
    wait_until("the range", || !vpc4(&bed).contains("198.51.100.0"));
    assert!(arrives_as(&bed, &pods[1], "left", primary));
}

/// "Translate nothing", and a pod whose NIC went away: it is dropped alone, and the state is one that holds.
#[tokio::test]
async fn nothing_is_translated_where_everything_is_excluded() {
    if !possible("nothing_is_translated") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.outside("198.51.100.1/32");
    bed.spec["profile"]["snatExclude"] = json!(["0.0.0.0/0"]);
    bed.write_spec();
    bed.start(&[]);
    let pods = [bed.pod("a"), bed.pod("b")];
    for pod in &pods {
        bed.add(pod).await.unwrap();
    }
    assert!(arrives_as(&bed, &pods[1], "own", "10.77.1.100"));
    bed.spec["nics"].as_array_mut().unwrap().pop();
    bed.spec["vpcCidrs"] = json!([]);
    bed.write_spec();
    let drops = |bed: &Bed| -> Vec<Value> {
        let shown = ip_json(&bed.node, "rule show priority 1800");
        shown.as_array().unwrap().clone()
    };
    wait_until("the pod outside all subnets", || {
        drops(&bed).iter().any(|rule| rule["src"] == "10.77.1.100")
    });
    assert!(drops(&bed).iter().all(|rule| rule["src"] != "all"));
    assert!(!pods[1].reaches(OUTSIDE) && pods[0].reaches(OUTSIDE));
    // Nothing is left to repair: another comparison changes no rule.
    let changes = |bed: &Bed| bed.log().matches("kind=\"rule\"").count();
    let before = changes(&bed);
    ip(&bed.node, "-4 route del 10.77.0.100 table 990");
    wait_until("a comparison", || pods[0].reaches(OUTSIDE));
    assert!(before > 0);
    assert_eq!(changes(&bed), before, "{}", bed.log());
}

#[tokio::test]
async fn an_mtu_that_changes_reaches_pods_that_run_and_pods_to_come() {
    if !possible("an_mtu_that_changes") {
        return;
    }
    let mut bed = Bed::new(2);
    bed.start(&[]);
    let pods: Vec<Pod> = ["a", "b", "c", "d"].map(|name| bed.pod(name)).into();
    let mut ends = Vec::new();
    for pod in &pods[..3] {
        ends.push(bed.add(pod).await.unwrap().host_ifname);
    }
    let mtu =
        |netns: &str, link: &str| ip_json(netns, &format!("link show {link}"))[0]["mtu"].clone();
    let both = |bed: &Bed, at: usize| (mtu(&pods[at].netns, "eth0"), mtu(&bed.node, &ends[at]));
    // The cloud's, of one NIC: its pods, not the others.
    bed.spec["nics"][1]["mtu"] = json!(1420);
    bed.write_spec();
    wait_until("NIC and pod", || {
        mtu(&bed.node, "eth1") == 1420 && both(&bed, 2) == (json!(1420), json!(1420))
    });
    assert_eq!(both(&bed, 0), (json!(1500), json!(1500)));
    let made = bed.add(&pods[3]).await.unwrap();
    assert_eq!(made.mtu, 1420);
    assert_eq!(mtu(&pods[3].netns, "eth0"), 1420);
    // The profile's, of all.
    bed.spec["profile"]["mtu"] = json!(1300);
    bed.write_spec();
    wait_until("all pods", || {
        (0..3).all(|at| both(&bed, at) == (json!(1300), json!(1300)))
            && mtu(&pods[3].netns, "eth0") == 1300
    });
    assert_eq!(
        (mtu(&bed.node, "eth0"), mtu(&bed.node, "eth1")),
        (json!(1500), json!(1420))
    );
    // Somebody's hand on a NIC of ours: it gets the cloud's again.
    ip(&bed.node, "link set eth1 mtu 1400");
    wait_until("the cloud's", || mtu(&bed.node, "eth1") == 1420);
    // And up again.
    bed.spec["profile"].as_object_mut().unwrap().remove("mtu");
    bed.spec["nics"][1]["mtu"] = json!(1500);
    bed.write_spec();
    wait_until("as before", || {
        (0..3).all(|at| both(&bed, at) == (json!(1500), json!(1500)))
    });
    // A full packet passes, and one byte more does not.
    let fits = |size: &str| {
        let enter = format!("--net=/run/netns/{}", pods[2].netns);
        let words = [
            &enter,
            "ping",
            "-n",
            "-c1",
            "-W1",
            "-M",
            "do",
            "-s",
            size,
            "10.77.1.1",
        ];
        let mut command = std::process::Command::new("nsenter");
        command.args(words).output().unwrap().status.success()
    };
    assert!(fits("1472") && !fits("1473"));
}

/// One family's addresses on one NIC, the other's on another: each leaves by the NIC that owns it.
#[tokio::test]
async fn the_two_families_of_a_pod_may_be_of_different_nics() {
    if !possible("the_two_families_of_a_pod") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.outside("198.51.100.1/32");
    bed.outside("2001:db8:9::1/128");
    for (nic, family) in [(0, ':'), (1, '.')] {
        let addresses = bed.spec["nics"][nic]["addresses"].as_array_mut().unwrap();
        addresses.retain(|ip| !ip.as_str().unwrap().contains(family));
    }
    bed.write_spec();
    bed.start(&[]);
    bed.count_arrivals();
    let pod = bed.pod("a");
    let made = bed.add(&pod).await.unwrap();
    let cidrs: Vec<&str> = made
        .addresses
        .iter()
        .map(|address| address.cidr.as_str())
        .collect();
    assert_eq!(cidrs, ["10.77.0.100/32", "fd77:1::100/128"]);
    for to in [
        "10.77.0.1",
        "10.77.1.1",
        "fd77:0::1",
        "fd77:1::1",
        OUTSIDE,
        "2001:db8:9::1",
    ] {
        assert!(pod.reaches(to), "{to}");
    }
    assert!(bed.fabric_reaches("10.77.0.100") && bed.fabric_reaches("fd77:1::100"));
    assert_eq!(bed.wrong_arrivals(), 0);
    // The NIC of one family goes: the other family still works, and nothing leaves by a NIC that is not its own.
    bed.spec["nics"].as_array_mut().unwrap().pop();
    bed.write_spec();
    wait_until("its mark is gone", || {
        let shown = ip_json(&bed.node, "-6 rule show priority 1536");
        shown.as_array().unwrap().is_empty()
    });
    assert!(pod.reaches(OUTSIDE) && !pod.reaches("2001:db8:9::1"));
    assert_eq!(bed.wrong_arrivals(), 0);
    assert_eq!(bed.del(&pod, true).await, None);
    wait_until("it rests", || {
        bed.address_state("10.77.0.100") != "draining"
    });
}
