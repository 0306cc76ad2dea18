//! Hot-plugged NICs.

use tombolo_cloud_sim::wire::{DeleteNic, DescribeNics, DetachNic, NicStatus};
use tombolo_lab_vpc::AdminClient;
use tombolo_lab_vpc::admin::{SetKnob, SetMtu};
use tombolo_lab_vpc::fabric::Netns;
use tombolo_lab_vpc::knobs::Knob;

use crate::support::{Lab, both, eventually, netns, privileged, receive, sh, udp};

async fn status(client: &AdminClient, nic: &str) -> NicStatus {
    let call = DescribeNics {
        ids: vec![nic.to_owned()],
        ..DescribeNics::default()
    };
    client.cloud(&call).await.unwrap()[0].status
}

async fn becomes(client: &AdminClient, nic: &str, wanted: NicStatus) {
    eventually("status", || async {
        (status(client, nic).await == wanted).then_some(())
    })
    .await;
}

fn has_link(ns: &Netns, name: &str) -> bool {
    !sh(ns, &format!("ip -o link show {name} 2>/dev/null || true")).is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nic_appears_down_and_bare_and_goes_again() {
    if !privileged("a_nic_appears_down_and_bare_and_goes_again") {
        return;
    }
    let lab = Lab::start("").await;
    let client = &lab.client;
    let (a, b) = (lab.vm("a", "subnet-a").await, lab.vm("b", "subnet-a").await);
    let ns = netns(&a);
    let nic = lab.nic("subnet-a").await;
    // Long enough to be seen in between, whatever the machine does.
    for knob in [
        Knob::AttachDelay { ms: 1000 },
        Knob::DetachDelay { ms: 1000 },
    ] {
        client.lab(&SetKnob { knob }).await.unwrap();
    }
    lab.attach(&nic, &a, false).await;
    assert_eq!(status(client, &nic.id).await, NicStatus::Attaching);
    assert!(!has_link(&ns, "eth1"));
    becomes(client, &nic.id, NicStatus::InUse).await;
    let link = sh(&ns, "ip -o link show eth1");
    assert!(
        link.contains("state DOWN")
            && link.contains(&nic.mac.to_string())
            && link.contains("mtu 9001"),
        "{link}"
    );
    assert_eq!(sh(&ns, "ip -o addr show eth1"), "");

    // Configured by hand, it carries the NIC's primary address.
    sh(
        &ns,
        &format!(
            "ip link set eth1 up && ip addr add {}/32 dev eth1",
            nic.primary4
        ),
    );
    sh(
        &ns,
        &format!(
            "ip route add {} dev eth1 table 77 && ip route add default via 10.0.1.1 dev eth1 onlink table 77",
            both(&b)[0]
        ),
    );
    sh(&ns, &format!("ip rule add from {} table 77", nic.primary4));
    let receiver = udp(&netns(&b), both(&b)[0], 9000);
    udp(&ns, nic.primary4.into(), 0)
        .send_to(b"second", (both(&b)[0], 9000))
        .unwrap();
    assert_eq!(receive(&receiver).1.ip(), nic.primary4);

    client
        .cloud(&DetachNic {
            nic: nic.id.clone(),
        })
        .await
        .unwrap();
    assert_eq!(status(client, &nic.id).await, NicStatus::Detaching);
    assert!(has_link(&ns, "eth1"));
    becomes(client, &nic.id, NicStatus::Available).await;
    assert!(!has_link(&ns, "eth1"));
    client
        .cloud(&DeleteNic {
            nic: nic.id.clone(),
        })
        .await
        .unwrap();
    assert_eq!(lab.counters().await.spoof_total, 0);
    lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nic_that_dies_with_a_pods_namespace_comes_back_to_its_instance() {
    if !privileged("a_nic_that_dies_with_a_pods_namespace_comes_back_to_its_instance") {
        return;
    }
    let lab = Lab::start("delays: {attach_ms: 0, detach_ms: 0}").await;
    let vm = lab.vm("a", "subnet-a").await;
    let ns = netns(&vm);
    let nic = lab.nic("subnet-a").await;
    lab.attach(&nic, &vm, true).await;
    becomes(&lab.client, &nic.id, NicStatus::InUse).await;
    // Moved and renamed: still plugged, nothing happens.
    let pod = format!("tl-{}-pod", lab.name);
    let pod_ns = Netns::create(&pod).unwrap();
    sh(&ns, &format!("ip link set eth1 netns {pod} name net0"));
    assert!(has_link(&pod_ns, "net0"));
    drop(pod_ns);
    Netns::remove(&pod).unwrap();
    let ns = &ns;
    eventually(
        "eth1 back",
        || async move { has_link(ns, "eth1").then_some(()) },
    )
    .await;
    let link = sh(ns, "ip -o link show eth1");
    assert!(
        link.contains("state DOWN") && link.contains(&nic.mac.to_string()),
        "{link}"
    );
    assert_eq!(status(&lab.client, &nic.id).await, NicStatus::InUse);
    lab.down().await;
}

/// As after a boot that found the NICs in another order.
#[tokio::test(flavor = "multi_thread")]
async fn a_nic_whose_name_is_taken_gets_the_next() {
    if !privileged("a_nic_whose_name_is_taken_gets_the_next") {
        return;
    }
    let lab = Lab::start("delays: {attach_ms: 0, detach_ms: 0}").await;
    let vm = lab.vm("a", "subnet-a").await;
    let ns = netns(&vm);
    sh(&ns, "ip link add eth1 type veth peer name other");
    let nic = lab.nic("subnet-a").await;
    lab.attach(&nic, &vm, true).await;
    becomes(&lab.client, &nic.id, NicStatus::InUse).await;
    let link = sh(&ns, "ip -o link show eth2");
    assert!(link.contains(&nic.mac.to_string()), "{link}");
    sh(&ns, "ip link set eth2 name net7");
    let mtu = SetMtu {
        nic: nic.id,
        mtu: 1400,
    };
    lab.client.lab(&mtu).await.unwrap();
    let link = sh(&ns, "ip -o link show net7");
    assert!(link.contains("mtu 1400"), "{link}");
    lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_mtu_reaches_both_ends() {
    if !privileged("a_new_mtu_reaches_both_ends") {
        return;
    }
    let lab = Lab::start("mtu: 1500").await;
    let vm = lab.vm("a", "subnet-a").await;
    lab.client
        .lab(&SetMtu {
            nic: vm.primary_nic.clone(),
            mtu: 1400,
        })
        .await
        .unwrap();
    let link = sh(&netns(&vm), "ip -o link show eth0");
    assert!(link.contains("mtu 1400"), "{link}");
    let refused = lab
        .client
        .lab(&SetMtu {
            nic: vm.primary_nic,
            mtu: 100,
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some("InvalidParameterValue"));
    lab.down().await;
}
