//! Operators that follow each other: what one of them does is under its own term, and who leads no more changes nothing
//! (docs/adr/0010).

use std::time::Duration;

use serde_json::{Value, json};
use tombolo_lab_vpc::knobs::Knob;

use crate::bed::{Bed, Node, on_bed};

async fn grown(bed: &mut Bed) -> Node {
    let node = bed.node("n1").await;
    bed.operator().await;
    node.say(|says| (says.low, says.high) = (3, 4));
    bed.agree(&[&node]).await;
    node
}

async fn signed(bed: &Bed) -> i64 {
    let nrs = bed.nrs("n1").await.unwrap_or_default();
    let term = nrs.pointer("/spec/term").and_then(Value::as_i64);
    term.unwrap_or_default()
}

async fn taking(bed: &Bed) -> usize {
    let nrs = bed.nrs("n1").await.unwrap_or_default();
    let taking = nrs.pointer("/spec/taking").and_then(Value::as_array);
    taking.map_or(0, Vec::len)
}

#[test]
fn what_the_cloud_is_asked_to_take_is_in_the_object_first_under_the_leaders_term() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        let first = bed.term().await;
        assert_eq!(signed(&bed).await, first);
        // The next lease counts from the beginning; what the object carries tells that it did not begin there.
        bed.kill_operator().await;
        bed.operator().await;
        let hold = Knob::HoldReply {
            verb: "UnassignAddresses".to_owned(),
            count: 1,
            skip: 0,
        };
        bed.turn(hold).await;
        node.say(|says| (says.low, says.high) = (1, 1));
        bed.eventually("the call was carried out", async || {
            (bed.calls("UnassignAddresses").await.held > 0).then_some(())
        })
        .await;
        let (term, taken) = (signed(&bed).await, taking(&bed).await);
        assert!(term > first && term == bed.term().await, "{first} {term}");
        assert!(taken > 0, "nobody else would know");
        bed.turn(Knob::Reset).await;
        bed.agree(&[&node]).await;
        bed.eventually("it is forgotten in the end", async || {
            (taking(&bed).await == 0).then_some(())
        })
        .await;
        bed.down().await;
    });
}

#[test]
fn an_operator_that_meets_a_later_term_leads_anew_above_it() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        let path = "/apis/tombolo.dev/v1alpha1/netresourcesets/n1";
        let patch = json!({"spec": {"term": 50}});
        let kind = "application/merge-patch+json";
        bed.api
            .call("PATCH", path, kind, Some(&patch))
            .await
            .unwrap();
        bed.eventually("the lease is taken anew", async || {
            (bed.term().await == 51).then_some(())
        })
        .await;
        node.say(|says| (says.low, says.high) = (4, 5));
        bed.agree(&[&node]).await;
        assert_eq!(signed(&bed).await, 51);
        bed.down().await;
    });
}

#[test]
fn a_node_whose_object_is_written_all_the_time_gets_and_gives_addresses_all_the_same() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        let api = bed.api.clone();
        let writer = tokio::spawn(async move {
            let path = "/apis/tombolo.dev/v1alpha1/netresourcesets/n1";
            for n in 0_u64.. {
                let patch = json!({"metadata": {"annotations": {"n": n.to_string()}}});
                let kind = "application/merge-patch+json";
                api.call("PATCH", path, kind, Some(&patch)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        node.say(|says| (says.low, says.high) = (7, 8));
        bed.agree(&[&node]).await;
        node.say(|says| (says.low, says.high) = (1, 1));
        bed.eventually("addresses go back", async || {
            (bed.count("n1", true).await == 1).then_some(())
        })
        .await;
        assert!(!writer.is_finished(), "it wrote to the end");
        writer.abort();
        bed.agree(&[&node]).await;
        bed.down().await;
    });
}

#[test]
fn an_operator_that_is_to_end_waits_for_no_cloud_and_gives_up_the_lease() {
    on_bed(async |mut bed| {
        let node = bed.node("n1").await;
        // Much longer than a call that is held may keep it.
        bed.operator_with(&[("--cloud-timeout", "10m")]).await;
        node.say(|says| (says.low, says.high) = (3, 4));
        bed.agree(&[&node]).await;
        let verb = "UnassignAddresses".to_owned();
        bed.turn(Knob::HoldReply {
            verb,
            count: 1,
            skip: 0,
        })
        .await;
        node.say(|says| (says.low, says.high) = (1, 1));
        bed.eventually("the call was carried out", async || {
            (bed.calls("UnassignAddresses").await.held > 0).then_some(())
        })
        .await;
        assert_eq!(bed.end_operator().await, "", "nobody has the lease");
        // The next one finds out what became of it.
        bed.turn(Knob::Reset).await;
        bed.operator().await;
        bed.agree(&[&node]).await;
        assert_eq!(bed.end_operator().await, "");
        bed.down().await;
    });
}

#[test]
fn an_operator_that_slept_through_the_end_of_its_lease_changes_nothing() {
    on_bed(async |mut bed| {
        let node = grown(&mut bed).await;
        // A plan of its own is ready when it falls asleep, or not: either way it is of no use afterwards.
        node.say(|says| (says.low, says.high) = (1, 1));
        let sleeper = bed.put_operator_to_sleep().await;
        bed.operator().await;
        bed.eventually("addresses go back", async || {
            (bed.count("n1", true).await == 1).then_some(())
        })
        .await;
        node.say(|says| (says.low, says.high) = (2, 2));
        bed.agree(&[&node]).await;
        let (cloud, term) = (bed.nics().await, signed(&bed).await);
        bed.wake(&sleeper).await;
        bed.readings(3).await;
        assert_eq!(bed.nics().await, cloud);
        assert_eq!((signed(&bed).await, bed.term().await), (term, term));
        bed.agree(&[&node]).await;
        drop(sleeper);
        bed.down().await;
    });
}
