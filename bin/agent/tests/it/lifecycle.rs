//! ADD, DEL and CHECK of one pod and of many.

use serde_json::Value;

use crate::bed::{Bed, Pod, in_netns, ip, ip_json, possible, wait_until};

fn plain(attachment: &tombolo_rpc::Attachment) -> Vec<String> {
    attachment
        .addresses
        .iter()
        .map(|a| a.cidr.split('/').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn add_makes_a_dual_stack_pod_and_del_takes_all_of_it() {
    if !possible("add_makes_a_dual_stack_pod") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let before = bed.kernel();
    let pod = bed.pod("a");
    let made = bed.add(&pod).await.unwrap();
    let ips = plain(&made);
    assert_eq!(ips, ["10.77.0.100", "fd77::100"]);

    let links = ip_json(&pod.netns, "addr show eth0");
    assert_eq!(links[0]["address"], made.pod_mac.as_str());
    assert_eq!(links[0]["mtu"], made.mtu);
    let addresses: Vec<_> = links[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a["local"].clone())
        .collect();
    assert!(
        ips.iter()
            .all(|ip| addresses.contains(&Value::from(ip.as_str()))),
        "{addresses:?}"
    );
    let defaults = |family| ip_json(&pod.netns, &format!("{family} route show default"));
    assert_eq!(defaults("-4")[0]["gateway"], "169.254.1.1");
    assert_eq!(defaults("-6")[0]["gateway"], "fe80::1");
    assert!(pod.reaches("10.77.0.1") && pod.reaches("fd77:0::1"));
    assert!(bed.fabric_reaches(&ips[0]) && bed.fabric_reaches(&ips[1]));

    assert_eq!(bed.check(&pod, &made).await, None);
    assert_eq!(bed.add(&pod).await.unwrap(), made, "ADD again is the same");
    ip(&pod.netns, &format!("addr del {}/32 dev eth0", ips[0]));
    assert_eq!(bed.check(&pod, &made).await.unwrap().reason, "CheckFailed");

    assert_eq!(bed.del(&pod, true).await, None);
    assert!(!pod.has_interface(), "the name is free when DEL returns");
    assert_eq!(
        bed.kernel(),
        before,
        "routes, rules and nft elements are gone when DEL returns"
    );
    let link = format!("/sys/class/net/{}", made.host_ifname);
    wait_until("the link is gone", || {
        !in_netns(
            &bed.node,
            "sh",
            &["-c", &format!("test -e {link} || echo gone")],
        )
        .is_empty()
    });
    assert_eq!(bed.del(&pod, true).await, None);
    assert_eq!(bed.del(&pod, false).await, None);
}

#[tokio::test]
async fn del_of_what_never_was_succeeds() {
    if !possible("del_of_what_never_was") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let (mine, other) = (bed.pod("mine"), bed.pod("other"));
    let made = bed.add(&mine).await.unwrap();
    let before = bed.kernel();
    // Another container in the same namespace: the interface there is not its own.
    let stranger = mine.under("stranger");
    for with_netns in [true, false] {
        assert_eq!(bed.del(&stranger, with_netns).await, None);
        assert_eq!(bed.del(&other, with_netns).await, None);
    }
    assert_eq!(bed.kernel(), before);
    assert_eq!(bed.check(&mine, &made).await, None);
}

#[tokio::test]
async fn addresses_rest_and_then_serve_the_next() {
    if !possible("addresses_rest") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.spec["nics"].as_array_mut().unwrap().truncate(1);
    bed.write_spec();
    bed.start(&[]);
    let (first, second) = (bed.pod("a"), bed.pod("b"));
    let ips = plain(&bed.add(&first).await.unwrap());
    assert_eq!(bed.del(&first, true).await, None);
    wait_until("it cools", || bed.address_state(&ips[0]) == "cooling");
    // It waits for the rest to end, and gets the only address there is.
    let made = bed.add(&second).await.unwrap();
    assert_eq!(plain(&made), ips);
    // A late DEL of the first one leaves the new owner alone.
    assert_eq!(bed.del(&first, false).await, None);
    assert_eq!(bed.check(&second, &made).await, None);
    assert!(second.reaches("10.77.0.1") && second.reaches("fd77:0::1"));
}

#[tokio::test]
async fn add_waits_for_supply_and_then_says_why_not() {
    if !possible("add_waits_for_supply") {
        return;
    }
    let mut bed = Bed::new(0);
    bed.spec["profile"]["pool"]["waitSeconds"] = 1.into();
    bed.write_spec();
    bed.start(&[]);
    let pod = bed.pod("a");
    let failure = bed.add(&pod).await.unwrap_err();
    assert_eq!(
        (failure.reason.as_str(), failure.retryable),
        ("PoolEmpty", true)
    );
    assert!(!pod.has_interface());
    bed.spec["profile"]["pool"]["waitSeconds"] = 9.into();
    bed.write_spec();
    let supply = async {
        while bed.state()["pool"]["counts"]["IPv4"]["waiting"] != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let mut spec = bed.spec.clone();
        spec["nics"][0]["addresses"] = serde_json::json!(["10.77.0.100", "fd77::100"]);
        let temporary = bed.spec_file().with_extension("new");
        std::fs::write(&temporary, spec.to_string()).unwrap();
        std::fs::rename(temporary, bed.spec_file()).unwrap();
    };
    let (made, ()) = tokio::join!(bed.add(&pod), supply);
    assert_eq!(plain(&made.unwrap()), ["10.77.0.100", "fd77::100"]);
}

#[tokio::test]
async fn foreign_interface_is_left_alone_and_costs_no_address() {
    if !possible("foreign_interface") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let pod = bed.pod("a");
    ip(&pod.netns, "link add eth0 type veth peer name other");
    let failure = bed.add(&pod).await.unwrap_err();
    assert_eq!(failure.reason, "InterfaceExists");
    assert!(pod.has_interface());
    assert_eq!(bed.address_state("10.77.0.100"), "free");
    assert_eq!(bed.del(&pod, true).await, None);
    assert!(pod.has_interface());
}

#[tokio::test]
async fn namespace_that_is_not_the_one_seen_is_refused() {
    if !possible("namespace_that_is_not") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let pod = bed.pod("a");
    let mut request = pod.add_request();
    request.netns.as_mut().unwrap().ino += 1;
    let reply = bed
        .client()
        .await
        .add_network(request)
        .await
        .unwrap()
        .into_inner();
    let Some(tombolo_rpc::add_reply::Outcome::Failure(failure)) = reply.outcome else {
        panic!("not refused")
    };
    assert_eq!(failure.reason, "NetnsMismatch");
    let mut request = pod.add_request();
    request.protocol = 99;
    let reply = bed
        .client()
        .await
        .add_network(request)
        .await
        .unwrap()
        .into_inner();
    let Some(tombolo_rpc::add_reply::Outcome::Failure(failure)) = reply.outcome else {
        panic!("not refused")
    };
    assert_eq!(failure.reason, "ProtocolMismatch");
}

#[tokio::test]
async fn caller_that_goes_away_leaves_nothing() {
    if !possible("caller_that_goes_away") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.spec["nics"].as_array_mut().unwrap().truncate(1);
    bed.write_spec();
    bed.start(&[]);
    let (holder, waiter) = (bed.pod("a"), bed.pod("b"));
    bed.add(&holder).await.unwrap();
    let waiting = |bed: &Bed| {
        bed.state()["pool"]["counts"]["IPv4"]["waiting"]
            .as_u64()
            .unwrap()
    };
    {
        let mut client = bed.client().await;
        let mut add = Box::pin(client.add_network(waiter.add_request()));
        // Driven until the agent has it.
        while waiting(&bed) == 0 {
            let _pending =
                tokio::time::timeout(std::time::Duration::from_millis(10), add.as_mut()).await;
        }
    }
    tokio::task::yield_now().await;
    let gone = async {
        while waiting(&bed) != 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), gone)
        .await
        .expect("still waits");
    assert!(!waiter.has_interface());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once() {
    if !possible("many_at_once") {
        return;
    }
    let mut bed = Bed::new(30);
    bed.start(&[]);
    let pods: Vec<Pod> = (0..60).map(|n| bed.pod(&format!("p{n}"))).collect();
    let started = std::time::Instant::now();
    let made = futures::future::join_all(pods.iter().map(|pod| bed.add(pod))).await;
    println!("60 ADDs at once: {:?}", started.elapsed());
    let mut ips: Vec<String> = made
        .into_iter()
        .flat_map(|made| plain(&made.unwrap()))
        .collect();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), 120, "nobody shares an address");
    let last = pods.last().unwrap();
    assert!(last.reaches("10.77.0.1") && last.reaches("fd77:0::1"));
    let started = std::time::Instant::now();
    let deleted = futures::future::join_all(pods.iter().map(|pod| bed.del(pod, true))).await;
    println!("60 DELs at once: {:?}", started.elapsed());
    assert!(deleted.iter().all(Option::is_none));
    wait_until("all are gone", || {
        bed.state()["attachments"].as_array().unwrap().is_empty()
    });
    println!("all links gone: {:?}", started.elapsed());
    wait_until("all rests ended", || {
        bed.state()["pool"]["counts"]["IPv6"]["free"] == 60
    });
    assert!(
        std::fs::read_dir(bed.run_dir().join("journal"))
            .unwrap()
            .next()
            .is_none()
    );
}
