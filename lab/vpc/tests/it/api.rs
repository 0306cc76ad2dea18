//! The cloud API over its socket, without namespaces: knobs, counters, codes.

use tombolo_cloud_sim::wire::{
    AssignAddresses, CreateNic, DescribeNics, DescribeSubnets, DescribeVpc, Verb,
};
use tombolo_core::types::Family;
use tombolo_lab_vpc::ClientError;
use tombolo_lab_vpc::admin::{Calls, RunInstance, SetKnob};
use tombolo_lab_vpc::knobs::Knob;

use crate::support::{Lab, create};

const SMALL: &str = "
cidrs: [10.0.0.0/16, '2001:db8:1::/48']
subnets:
  - {id: tiny, zone: z, cidr4: 10.0.0.0/28, cidr6: '2001:db8:1::/64'}
";

#[tokio::test]
async fn a_subnet_runs_out_for_real() {
    let lab = Lab::api_only(SMALL).await;
    // 16 - 5 reserved.
    let nic = lab
        .client
        .cloud(&CreateNic {
            ipv4_count: 8,
            ..create("tiny")
        })
        .await
        .unwrap();
    let free =
        || async { lab.client.cloud(&DescribeSubnets::default()).await.unwrap()[0].available4 };
    assert_eq!(free().await, 2);
    let assign = |count| AssignAddresses {
        nic: nic.id.clone(),
        family: Family::V4,
        count,
    };
    let full = lab.client.cloud(&assign(3)).await.unwrap_err();
    assert_eq!(
        full.code(),
        Some("InsufficientFreeAddressesInSubnet"),
        "{full}"
    );
    assert_eq!(free().await, 2, "all or nothing");
    lab.client.cloud(&assign(2)).await.unwrap();
    let full = lab.client.cloud(&create("tiny")).await.unwrap_err();
    assert_eq!(
        full.code(),
        Some("InsufficientFreeAddressesInSubnet"),
        "{full}"
    );
    lab.down().await;
}

#[tokio::test]
async fn a_lost_reply_has_its_effect_and_the_token_finds_it() {
    let lab = Lab::api_only("").await;
    let knob = Knob::LoseReply {
        verb: CreateNic::NAME.to_owned(),
        count: 1,
        skip: 0,
    };
    lab.client.lab(&SetKnob { knob }).await.unwrap();
    let call = CreateNic {
        client_token: Some("t".to_owned()),
        ..create("subnet-a")
    };
    let lost = lab.client.cloud(&call).await.unwrap_err();
    assert!(matches!(lost, ClientError::NoReply { .. }), "{lost}");
    let all = lab.client.cloud(&DescribeNics::default()).await.unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(lab.client.cloud(&call).await.unwrap().id, all[0].id);
    let calls = lab.client.lab(&Calls {}).await.unwrap();
    assert_eq!(
        (
            calls["CreateNic"].lost,
            calls["CreateNic"].ok,
            calls["DescribeNics"].ok
        ),
        (1, 1, 1)
    );
    lab.down().await;
}

#[tokio::test]
async fn throttling_refuses_with_the_real_code_and_changes_nothing() {
    let lab = Lab::api_only("").await;
    // A bucket that does not refill within any test.
    lab.client
        .lab(&SetKnob {
            knob: Knob::Throttle {
                rate: 0.000_001,
                burst: 2,
            },
        })
        .await
        .unwrap();
    lab.client.cloud(&create("subnet-a")).await.unwrap();
    lab.client.cloud(&DescribeVpc {}).await.unwrap();
    let refused = lab.client.cloud(&create("subnet-a")).await.unwrap_err();
    assert_eq!(refused.code(), Some("RequestLimitExceeded"));
    lab.client
        .lab(&SetKnob {
            knob: Knob::Throttle {
                rate: 0.0,
                burst: 0,
            },
        })
        .await
        .unwrap();
    assert_eq!(
        lab.client
            .cloud(&DescribeNics::default())
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        lab.client.lab(&Calls {}).await.unwrap()["CreateNic"].throttled,
        1
    );
    lab.down().await;
}

#[tokio::test]
async fn nonsense_is_refused_with_the_field_named() {
    let lab = Lab::api_only("").await;
    let knob = Knob::Delay {
        verb: "NoSuchCall".to_owned(),
        ms: 1,
    };
    let error = lab.client.lab(&SetKnob { knob }).await.unwrap_err();
    assert!(
        error.code() == Some("InvalidParameterValue") && error.to_string().contains("`verb`"),
        "{error}"
    );
    let call = RunInstance {
        name: "a".to_owned(),
        instance_type: "t9.huge".to_owned(),
        subnet: "subnet-a".to_owned(),
        netns: None,
    };
    let error = lab.client.lab(&call).await.unwrap_err();
    assert!(error.to_string().contains("`instance_type`"), "{error}");
    lab.down().await;
}
