//! GC and STATUS of the built agent.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::{Bed, Pod, possible, wait_until};

fn attached(bed: &Bed) -> Vec<String> {
    let state = bed.state();
    let all = state["attachments"].as_array().unwrap();
    let mut names: Vec<String> = all
        .iter()
        .map(|each| each["key"]["container_id"].as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn gc_takes_what_is_not_listed_and_leaves_the_rest_whole() {
    if !possible("gc_takes_what_is_not_listed") {
        return;
    }
    let mut bed = Bed::new(4);
    bed.start(&[]);
    let clean = bed.kernel();
    let pods: Vec<Pod> = ["a", "b", "c", "d"].map(|name| bed.pod(name)).into();
    let other = bed.pod("other").in_network("second", "eth0");
    let mut made = Vec::new();
    for pod in pods.iter().chain([&other]) {
        made.push(bed.add(pod).await.unwrap());
    }
    let all: Vec<&Pod> = pods.iter().collect();
    let before = bed.kernel();
    assert_eq!(bed.gc("tombolo", &all).await, None);
    assert_eq!(bed.gc("unknown", &[]).await, None);
    assert_eq!(bed.kernel(), before, "everything is listed");

    // Listed with another interface is not listed.
    let misnamed = pods[1].in_network("tombolo", "net1");
    assert_eq!(bed.gc("tombolo", &[&pods[0], &misnamed]).await, None);
    // Gone when it answers, as with DEL.
    let state = bed.state();
    let ready = |all: &Value| {
        let all = all.as_array().unwrap().iter();
        all.filter(|each| each["phase"] == "ready").count()
    };
    assert_eq!(ready(&state["attachments"]), 2, "{state}");
    bed.agree(2);
    assert_eq!(attached(&bed), ["c-a", "c-other"]);
    for (pod, made) in [(&pods[0], &made[0]), (&other, &made[4])] {
        assert_eq!(bed.check(pod, made).await, None);
        assert!(pod.reaches("10.77.0.1") && pod.reaches("fd77:0::1"));
    }
    wait_until("links are gone", || !pods[1].has_interface());
    // What GC took can come back.
    bed.add(&pods[1]).await.unwrap();
    assert!(pods[1].reaches("10.77.0.1"));

    assert_eq!(bed.gc("tombolo", &[]).await, None);
    assert_eq!(bed.gc("second", &[]).await, None);
    bed.agree(0);
    assert_eq!(bed.kernel(), clean);
}

#[tokio::test]
async fn gc_leaves_an_add_in_flight_alone() {
    if !possible("gc_leaves_an_add_in_flight") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.spec["nics"].as_array_mut().unwrap().truncate(1);
    bed.write_spec();
    bed.start(&[]);
    let pod = bed.pod("a");
    let made = bed.add(&pod).await.unwrap();
    // The runtime asks for it again, while the node cannot serve.
    let described = bed.spec.clone();
    lose_primary(&bed);
    let collected = async {
        until_adding(&bed).await;
        let collected = bed.gc("tombolo", &[]).await;
        bed.write(&described);
        collected
    };
    let (again, collected) = tokio::join!(bed.add(&pod), collected);
    assert_eq!((again, collected), (Ok(made.clone()), None));
    assert_eq!(bed.check(&pod, &made).await, None);
    bed.agree(1);

    // One that waits for an address has nothing that could go, and is not told to stop.
    let second = bed.pod("b");
    let waiting = async {
        until_adding(&bed).await;
        bed.gc("tombolo", &[]).await
    };
    let (made, collected) = tokio::join!(bed.add(&second), waiting);
    assert_eq!(collected, None);
    assert_eq!(
        made.unwrap().addresses[0].cidr,
        "10.77.0.100/32",
        "the first pod's, which GC took"
    );
    assert!(second.reaches("10.77.0.1"));
}

fn since_boot() -> u64 {
    let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(since.tv_sec * 1_000_000_000 + since.tv_nsec).unwrap()
}

#[tokio::test]
async fn gc_leaves_what_was_answered_for_since_it_began() {
    if !possible("gc_leaves_what_was_answered_for") {
        return;
    }
    let mut bed = Bed::new(2);
    bed.start(&[]);
    let (first, second) = (bed.pod("a"), bed.pod("b"));
    let made = bed.add(&first).await.unwrap();
    bed.add(&second).await.unwrap();
    let begun = since_boot();
    // The runtime asks for it again and gets the same answer.
    assert_eq!(bed.add(&first).await, Ok(made.clone()));
    assert_eq!(bed.gc_begun(begun, "tombolo", &[]).await, None);
    // The other is older than the list.
    bed.agree(1);
    assert_eq!(bed.check(&first, &made).await, None);

    // What an agent finds when it starts is of no known time.
    let begun = since_boot();
    bed.kill();
    bed.start(&[]);
    assert_eq!(bed.gc_begun(begun, "tombolo", &[]).await, None);
    assert_eq!(bed.check(&first, &made).await, None);
    // The next GC takes it; a time that has not come is now.
    assert_eq!(bed.gc_begun(u64::MAX, "tombolo", &[]).await, None);
    bed.agree(0);
}

#[tokio::test]
async fn gc_reports_all_that_failed_and_a_second_one_finishes() {
    if !possible("gc_reports_all_that_failed") {
        return;
    }
    let mut bed = Bed::new(4);
    bed.start(&[]);
    let pods: Vec<Pod> = ["a", "b", "c"].map(|name| bed.pod(name)).into();
    for pod in &pods {
        bed.add(pod).await.unwrap();
    }
    // The journal cannot be written for two of three: a directory is in the way of the new file.
    let journal = bed.run_dir().join("journal");
    let mut blocked = Vec::new();
    for entry in std::fs::read_dir(&journal).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if !text.contains("c-b") {
            let obstacle = path.with_extension("tmp");
            std::fs::create_dir_all(obstacle.join("x")).unwrap();
            blocked.push(obstacle);
        }
    }
    let failure = bed.gc("tombolo", &[]).await.unwrap();
    assert_eq!(
        (failure.reason.as_str(), failure.retryable),
        ("JournalError", true)
    );
    assert!(
        failure
            .message
            .starts_with("2 of 3 attachments of network \"tombolo\""),
        "{}",
        failure.message
    );
    for key in ["tombolo/c-a/eth0", "tombolo/c-c/eth0"] {
        assert!(failure.message.contains(key), "{}", failure.message);
    }
    for obstacle in blocked {
        std::fs::remove_dir_all(obstacle).unwrap();
    }
    wait_until("all are gone", || attached(&bed).is_empty());
    assert_eq!(bed.gc("tombolo", &[]).await, None);
    bed.agree(0);
}

#[tokio::test]
async fn gc_that_is_malformed_or_too_long_is_refused() {
    if !possible("gc_that_is_malformed") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.start(&[]);
    let pod = bed.pod("a");
    let made = bed.add(&pod).await.unwrap();
    let mut wrong = pod.under("a b");
    let failure = bed.gc("tombolo", &[&wrong]).await.unwrap();
    assert_eq!(failure.reason, "InvalidConfig");
    wrong.id = "c".to_owned();
    let failure = bed.gc("a/b", &[&wrong]).await.unwrap();
    assert_eq!(failure.reason, "InvalidConfig");
    let many = vec![&wrong; tombolo_rpc::MAX_VALID + 1];
    let failure = bed.gc("tombolo", &many).await.unwrap();
    assert!(failure.message.contains("valid has more than 4096 entries"));
    assert_eq!(bed.check(&pod, &made).await, None);
    let many = vec![&wrong; tombolo_rpc::MAX_VALID];
    assert_eq!(bed.gc("tombolo", &many).await, None);
    bed.agree(0);
}

#[tokio::test]
async fn status_says_whether_a_pod_can_be_added() {
    if !possible("status_says_whether_a_pod") {
        return;
    }
    let mut bed = Bed::new(1);
    bed.spec["nics"].as_array_mut().unwrap().truncate(1);
    bed.write_spec();
    bed.start(&[]);
    assert_eq!(bed.status().await.failure, None);
    // The last address is taken, and nobody will bring another.
    let pod = bed.pod("a");
    bed.add(&pod).await.unwrap();
    let reply = bed.status().await;
    let failure = reply.failure.unwrap();
    assert_eq!(
        (failure.reason.as_str(), reply.traffic_affected),
        ("PoolEmpty", false)
    );
    assert!(failure.message.contains("2 bound"), "{}", failure.message);
    // It comes back by itself, at first as one that rests.
    assert_eq!(bed.del(&pod, true).await, None);
    assert_eq!(bed.status().await.failure, None);

    // A node that may have no more pods is full, which is no fault.
    bed.kill();
    bed.start(&["--max-pods", "1"]);
    wait_until("free", || bed.address_state("10.77.0.100") == "free");
    bed.add(&pod).await.unwrap();
    assert_eq!(bed.status().await.failure, None);
}

#[tokio::test]
async fn status_says_whether_pods_that_run_suffer() {
    if !possible("status_says_whether_pods_that_run") {
        return;
    }
    let mut bed = Bed::new(2);
    bed.start(&[]);
    let before = bed.spec.clone();
    lose_primary(&bed);
    let reply = bed.status().await;
    assert!(reply.failure.is_some());
    assert!(!reply.traffic_affected, "there is no pod");

    bed.write(&before);
    wait_until("ready", || bed.state()["ready"] == true);
    let pod = bed.pod("a");
    bed.add(&pod).await.unwrap();
    assert_eq!(bed.status().await.failure, None);
    lose_primary(&bed);
    let reply = bed.status().await;
    assert_eq!(reply.failure.unwrap().reason, "AttachTimeout");
    assert!(reply.traffic_affected, "the pod's NIC is gone");
}

/// The primary NIC, without which nothing works, is one that this node does not have.
fn lose_primary(bed: &Bed) {
    let mut spec = bed.spec.clone();
    spec["nics"][0]["mac"] = json!("02:77:00:00:00:99");
    bed.write(&spec);
    wait_until("not ready", || bed.state()["ready"] == false);
}

async fn until_adding(bed: &Bed) {
    let adding = async {
        while bed.state()["adding"] == json!([]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let bound = Duration::from_secs(30);
    tokio::time::timeout(bound, adding).await.expect("an ADD");
}
