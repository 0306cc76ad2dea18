//! Every way in which the cloud misbehaves, over its socket, without namespaces.

use std::time::Duration;

use tombolo_cloud_sim::client::{Client, ClientConfig, Endpoint, Error};
use tombolo_cloud_sim::wire::{
    AssignAddresses, AttachNic, DescribeInstances, DescribeNics, DescribeSubnets, NicInfo,
    NicStatus,
};
use tombolo_core::types::{Family, Reason};
use tombolo_lab_vpc::ClientError;
use tombolo_lab_vpc::admin::{
    Calls, ForceDetach, Knobs, MoveAddress, SetKnob, TakeAddress, TerminateInstance, VanishNic,
};
use tombolo_lab_vpc::knobs::Knob;
use tombolo_lab_vpc::knobs::faults::Corruption;

use crate::support::{Lab, create, eventually};

const FOR_EVER: u32 = u32::MAX;

async fn turn(lab: &Lab, knob: Knob) {
    lab.client.lab(&SetKnob { knob }).await.unwrap();
}

async fn nics(lab: &Lab) -> Vec<NicInfo> {
    lab.client.cloud(&DescribeNics::default()).await.unwrap()
}

async fn nic(lab: &Lab, id: &str) -> NicInfo {
    nics(lab).await.into_iter().find(|n| n.id == id).unwrap()
}

fn assign(nic: &str, count: u16) -> AssignAddresses {
    AssignAddresses {
        nic: nic.to_owned(),
        family: Family::V4,
        count,
    }
}

/// The product's own client: what it makes of a spoilt reply is part of what is tested.
fn product(lab: &Lab, timeout: Duration) -> Client {
    let config = ClientConfig {
        timeout,
        ..ClientConfig::default()
    };
    Client::new(Endpoint::Unix(lab.client.socket().to_owned()), config)
}

#[tokio::test]
async fn reply_n_is_lost_and_no_other() {
    let lab = Lab::api_only("").await;
    let knob = Knob::LoseReply {
        verb: "CreateNic".to_owned(),
        count: 1,
        skip: 1,
    };
    turn(&lab, knob).await;
    for lost in [false, true, false] {
        let outcome = lab.client.cloud(&create("subnet-a")).await;
        assert_eq!(outcome.is_err(), lost, "{outcome:?}");
    }
    assert_eq!(nics(&lab).await.len(), 3, "all were carried out");
    lab.down().await;
}

#[tokio::test]
async fn a_held_reply_comes_when_it_is_let_go_and_its_effect_long_before() {
    let lab = Lab::api_only("").await;
    let knob = Knob::HoldReply {
        verb: "CreateNic".to_owned(),
        count: 2,
        skip: 0,
    };
    turn(&lab, knob).await;
    let client = lab.client.clone();
    let call = tokio::spawn(async move { client.cloud(&create("subnet-a")).await });
    // A caller that gives up is no longer waited for.
    let impatient = product(&lab, Duration::from_millis(100));
    let gave_up = impatient.call(&create("subnet-a")).await.unwrap_err();
    assert!(matches!(gave_up, Error::Timeout { .. }), "{gave_up}");
    assert!(gave_up.outcome_unknown());
    let held = async || lab.client.lab(&Calls {}).await.unwrap()["CreateNic"].held;
    eventually("one held reply", async || (held().await == 1).then_some(())).await;
    assert_eq!(nics(&lab).await.len(), 2, "carried out");
    assert!(!call.is_finished());
    turn(&lab, Knob::LetGo).await;
    call.await.unwrap().unwrap();
    assert_eq!(held().await, 0);
    lab.down().await;
}

#[tokio::test]
async fn a_repeated_reply_is_the_last_one_and_nothing_is_done() {
    let lab = Lab::api_only("").await;
    let id = lab.nic("subnet-a").await.id;
    let first = lab.client.cloud(&assign(&id, 1)).await.unwrap();
    let knob = Knob::RepeatReply {
        verb: "AssignAddresses".to_owned(),
        count: 1,
        skip: 0,
    };
    turn(&lab, knob).await;
    let second = lab.client.cloud(&assign(&id, 3)).await.unwrap();
    assert_eq!(second.addresses, first.addresses);
    assert_eq!(nic(&lab, &id).await.secondary, first.addresses);
    lab.down().await;
}

#[tokio::test]
async fn a_repeated_request_is_carried_out_twice_and_answered_once() {
    let lab = Lab::api_only("").await;
    let id = lab.nic("subnet-a").await.id;
    let knob = Knob::RepeatRequest {
        verb: "AssignAddresses".to_owned(),
        count: 1,
        skip: 0,
    };
    turn(&lab, knob).await;
    let told = lab.client.cloud(&assign(&id, 2)).await.unwrap();
    assert_eq!(told.addresses.len(), 2);
    let has = nic(&lab, &id).await.secondary;
    assert_eq!((has.len(), &has[..2]), (4, &told.addresses[..]));
    lab.down().await;
}

#[tokio::test]
async fn every_corruption_is_an_unknown_outcome_to_the_product() {
    let lab = Lab::api_only("").await;
    let client = product(&lab, Duration::from_secs(10));
    let all = [
        Corruption::Cut,
        Corruption::Truncate,
        Corruption::Empty,
        Corruption::Garbage,
        Corruption::Shape,
        Corruption::Page,
    ];
    for (done, how) in all.into_iter().enumerate() {
        let knob = Knob::CorruptReply {
            verb: "CreateNic".to_owned(),
            how,
            count: 1,
            skip: 0,
        };
        turn(&lab, knob).await;
        let error = client.call(&create("subnet-a")).await.unwrap_err();
        assert!(error.outcome_unknown(), "{how:?}: {error}");
        assert_eq!(error.reason(), Reason::CloudError, "{how:?}");
        let word = if how == Corruption::Cut {
            "transport"
        } else {
            "decode"
        };
        assert_eq!(error.word(), word, "{how:?}: {error:?}");
        assert_eq!(nics(&lab).await.len(), done + 1, "carried out");
    }
    assert_eq!(
        lab.client.lab(&Calls {}).await.unwrap()["CreateNic"].corrupted,
        6
    );
    lab.down().await;
}

#[tokio::test]
async fn one_verb_is_throttled_and_the_others_are_not() {
    let lab = Lab::api_only("").await;
    // A bucket that does not refill within any test.
    let knob = Knob::ThrottleVerb {
        verb: "CreateNic".to_owned(),
        rate: 0.000_001,
        burst: 1,
    };
    turn(&lab, knob).await;
    lab.nic("subnet-a").await;
    let refused = lab.client.cloud(&create("subnet-a")).await.unwrap_err();
    assert_eq!(refused.code(), Some("RequestLimitExceeded"));
    assert_eq!(nics(&lab).await.len(), 1);
    let client = product(&lab, Duration::from_secs(10));
    let error = client.call(&create("subnet-a")).await.unwrap_err();
    assert_eq!(
        (error.reason(), error.outcome_unknown()),
        (Reason::CloudThrottled, false)
    );
    lab.down().await;
}

#[tokio::test]
async fn describe_calls_show_the_past_and_changes_meet_the_present() {
    let lab = Lab::api_only("").await;
    let id = lab.nic("subnet-a").await.id;
    let free = async || {
        let call = DescribeSubnets::default();
        lab.client.cloud(&call).await.unwrap()[0].available4
    };
    let before = free().await;
    // Older than the setting is not shown, so within this test the past stands still.
    for verb in ["DescribeNics", "DescribeSubnets"] {
        let knob = Knob::Stale {
            verb: verb.to_owned(),
            ms: 3_600_000,
        };
        turn(&lab, knob).await;
    }
    let got = lab.client.cloud(&assign(&id, 2)).await.unwrap().addresses;
    let new = lab.nic("subnet-a").await.id;
    assert!(nic(&lab, &id).await.secondary.is_empty());
    assert_eq!((nics(&lab).await.len(), free().await), (1, before));
    let by_id = DescribeNics {
        ids: vec![new],
        ..DescribeNics::default()
    };
    let error = lab.client.cloud(&by_id).await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidNetworkInterfaceID.NotFound"));
    let knob = Knob::Stale {
        verb: "DescribeNics".to_owned(),
        ms: 0,
    };
    turn(&lab, knob).await;
    assert_eq!(nic(&lab, &id).await.secondary, got);
    assert_eq!(free().await, before, "subnets still stand still");
    turn(&lab, Knob::Reset).await;
    assert_eq!(free().await, before - 3);

    let knob = Knob::Stale {
        verb: "CreateNic".to_owned(),
        ms: 5,
    };
    let error = lab.client.lab(&SetKnob { knob }).await.unwrap_err();
    assert!(error.to_string().contains("`verb`"), "{error}");
    lab.down().await;
}

#[tokio::test]
async fn the_past_follows_at_its_distance() {
    let lab = Lab::api_only("").await;
    let knob = Knob::Stale {
        verb: "DescribeNics".to_owned(),
        ms: 150,
    };
    turn(&lab, knob).await;
    lab.nic("subnet-a").await;
    eventually("the NIC is shown", async || {
        (nics(&lab).await.len() == 1).then_some(())
    })
    .await;
    lab.down().await;
}

#[tokio::test]
async fn describe_calls_show_a_part() {
    let lab = Lab::api_only("").await;
    let vm = lab.vm("vm", "subnet-a").await;
    let id = lab.nic("subnet-a").await.id;
    let got = lab.client.cloud(&assign(&id, 4)).await.unwrap().addresses;
    let knob = Knob::OmitAddresses {
        one_in: 2,
        replies: 1,
    };
    turn(&lab, knob).await;
    assert_eq!(nic(&lab, &id).await.secondary, [got[1], got[3]]);
    assert_eq!(nic(&lab, &id).await.secondary, got, "one reply only");
    let knob = Knob::OmitNics {
        one_in: 1,
        replies: FOR_EVER,
    };
    turn(&lab, knob).await;
    assert!(nics(&lab).await.is_empty());
    turn(&lab, Knob::Reset).await;
    assert_eq!(nics(&lab).await.len(), 2);
    for what in [&vm.id, &id, &got[0].to_string()] {
        let knob = Knob::Hide {
            what: what.clone(),
            replies: FOR_EVER,
        };
        turn(&lab, knob).await;
    }
    assert_eq!(nics(&lab).await.len(), 1);
    let instances = lab.client.cloud(&DescribeInstances::default()).await;
    assert!(instances.unwrap().is_empty());
    let knobs = lab.client.lab(&Knobs {}).await.unwrap();
    assert_eq!(knobs.lens.hidden.len(), 3, "{knobs:?}");
    let knob = Knob::Hide {
        what: id.clone(),
        replies: 0,
    };
    turn(&lab, knob).await;
    assert_eq!(nic(&lab, &id).await.secondary, got[1..]);
    lab.down().await;
}

#[tokio::test]
async fn half_of_a_batch_is_given_and_told() {
    let lab = Lab::api_only("").await;
    let id = lab.nic("subnet-a").await.id;
    turn(&lab, Knob::HalfAssign { count: 1 }).await;
    let one = lab.client.cloud(&assign(&id, 1)).await.unwrap();
    let half = lab.client.cloud(&assign(&id, 5)).await.unwrap();
    let whole = lab.client.cloud(&assign(&id, 2)).await.unwrap();
    let counts = [one, half, whole].map(|given| given.addresses.len());
    assert_eq!(counts, [1, 2, 2]);
    assert_eq!(nic(&lab, &id).await.secondary.len(), 5);
    lab.down().await;
}

#[tokio::test]
async fn attachments_that_fail_and_that_stick() {
    let lab = Lab::api_only("").await;
    let vm = lab.vm("vm", "subnet-a").await;
    turn(&lab, Knob::AttachDelay { ms: 20 }).await;
    turn(&lab, Knob::FailAttach { count: 1 }).await;
    turn(&lab, Knob::StickAttach { count: 1 }).await;
    let id = lab.nic("subnet-a").await.id;
    let attach = AttachNic {
        nic: id.clone(),
        instance: vm.id.clone(),
        device_index: 1,
        delete_on_termination: true,
    };
    let status = async || nic(&lab, &id).await.status;
    lab.client.cloud(&attach).await.unwrap();
    eventually("it fails", async || {
        (status().await == NicStatus::Available).then_some(())
    })
    .await;
    lab.client.cloud(&attach).await.unwrap();
    let knobs = lab.client.lab(&Knobs {}).await.unwrap();
    assert_eq!((knobs.fail_attach, knobs.stick_attach), (0, 0));
    // It would be in use long before this one is.
    let other = lab.vm("other", "subnet-a").await;
    let second = lab.nic("subnet-a").await.id;
    let good = AttachNic {
        nic: second.clone(),
        instance: other.id.clone(),
        ..attach.clone()
    };
    lab.client.cloud(&good).await.unwrap();
    eventually("the next one is attached", async || {
        (nic(&lab, &second).await.status == NicStatus::InUse).then_some(())
    })
    .await;
    assert_eq!(status().await, NicStatus::Attaching);
    lab.client
        .lab(&ForceDetach { nic: id.clone() })
        .await
        .unwrap();
    assert_eq!(status().await, NicStatus::Available);
    lab.down().await;
}

#[tokio::test]
async fn things_vanish_and_move_behind_our_back() {
    let lab = Lab::api_only("").await;
    let vm = lab.vm("vm", "subnet-a").await;
    let id = lab.nic("subnet-a").await.id;
    let attach = AttachNic {
        nic: id.clone(),
        instance: vm.id.clone(),
        device_index: 1,
        delete_on_termination: false,
    };
    lab.client.cloud(&attach).await.unwrap();
    let got = lab.client.cloud(&assign(&id, 2)).await.unwrap().addresses;
    // No knob stands in the way of what others do.
    let knob = Knob::Throttle {
        rate: 0.000_001,
        burst: 0,
    };
    turn(&lab, knob).await;
    let moved = MoveAddress {
        address: got[0],
        to: vm.primary_nic.clone(),
    };
    lab.client.lab(&moved).await.unwrap();
    lab.client
        .lab(&TakeAddress { address: got[1] })
        .await
        .unwrap();
    turn(&lab, Knob::Reset).await;
    assert!(nic(&lab, &id).await.secondary.is_empty());
    assert_eq!(nic(&lab, &vm.primary_nic).await.secondary, [got[0]]);
    let error = lab
        .client
        .lab(&TakeAddress { address: got[1] })
        .await
        .unwrap_err();
    assert!(matches!(&error, ClientError::Refused { .. }), "{error}");
    lab.client
        .lab(&VanishNic { nic: id.clone() })
        .await
        .unwrap();
    assert!(nics(&lab).await.iter().all(|n| n.id != id));
    let end = TerminateInstance {
        instance: vm.id.clone(),
    };
    lab.client.lab(&end).await.unwrap();
    assert!(nics(&lab).await.is_empty());
    lab.down().await;
}
