//! Packets between instances.

use std::net::IpAddr;

use tombolo_cloud_sim::wire::{AssignAddresses, UnassignAddresses};
use tombolo_core::types::Family;
use tombolo_lab_vpc::capture::Capture;

use crate::support::{Lab, add_address, both, netns, privileged, receive, sh, silent, udp};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_packet_arrives_in_both_families_and_directions() {
    if !privileged("the_first_packet_arrives_in_both_families_and_directions") {
        return;
    }
    let lab = Lab::start("").await;
    // a and b share a subnet, c is in another zone.
    let vms = [
        lab.vm("a", "subnet-a").await,
        lab.vm("b", "subnet-a").await,
        lab.vm("c", "subnet-b").await,
    ];
    let spaces: Vec<_> = vms.iter().map(netns).collect();
    let mut port = 5000;
    for (i, from) in vms.iter().enumerate() {
        for (j, to) in vms.iter().enumerate().filter(|(j, _)| *j != i) {
            for (source, target) in both(from).into_iter().zip(both(to)) {
                port += 1;
                let receiver = udp(&spaces[j], target, port);
                let sender = udp(&spaces[i], source, 0);
                // One datagram, no second try.
                sender.send_to(b"hello", (target, port)).unwrap();
                let (text, seen) = receive(&receiver);
                assert_eq!(
                    (text.as_str(), seen.ip()),
                    ("hello", source),
                    "{} to {}",
                    from.name,
                    to.name
                );
            }
        }
    }
    let counters = lab.counters().await;
    assert_eq!(counters.spoof_total, 0, "{counters:?}");
    lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_default_route_comes_by_advertisement_without_a_prefix() {
    if !privileged("ipv6_default_route_comes_by_advertisement_without_a_prefix") {
        return;
    }
    let lab = Lab::start("").await;
    let vm = lab.vm("a", "subnet-a").await;
    let ns = netns(&vm);
    let default = sh(&ns, "ip -6 route show default");
    assert!(
        default.contains("via fe80::ff:1 dev eth0 proto ra"),
        "{default}"
    );
    let global = sh(&ns, "ip -6 -o addr show dev eth0 scope global");
    assert_eq!(global.lines().count(), 1, "{global}");
    assert!(
        global.contains(&format!("{}/128", vm.primary6.unwrap())),
        "{global}"
    );
    // A solicitation is answered: without the route, a new one comes before the next period (10 s).
    sh(
        &ns,
        "ip -6 route del default && ip link set eth0 down && ip link set eth0 up",
    );
    let ns = &ns;
    crate::support::eventually("default route after a solicitation", || async move {
        sh(ns, "ip -6 route show default")
            .contains("proto ra")
            .then_some(())
    })
    .await;
    lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_address_is_reachable_while_it_is_assigned() {
    if !privileged("a_secondary_address_is_reachable_while_it_is_assigned") {
        return;
    }
    let lab = Lab::start("").await;
    let (a, b) = (lab.vm("a", "subnet-a").await, lab.vm("b", "subnet-a").await);
    let (ns_a, ns_b) = (netns(&a), netns(&b));
    for (family, source) in [Family::V4, Family::V6].into_iter().zip(both(&a)) {
        let call = AssignAddresses {
            nic: b.primary_nic.clone(),
            family,
            count: 1,
        };
        let address: IpAddr = lab.client.cloud(&call).await.unwrap().addresses[0];
        add_address(&ns_b, address);
        let receiver = udp(&ns_b, address, 6000);
        let sender = udp(&ns_a, source, 6001);
        sender.send_to(b"in", (address, 6000)).unwrap();
        assert_eq!(receive(&receiver).1.ip(), source);
        // And it may be used as a source.
        receiver.send_to(b"out", (source, 6001)).unwrap();
        assert_eq!(receive(&sender).1.ip(), address);

        let call = UnassignAddresses {
            nic: b.primary_nic.clone(),
            addresses: vec![address],
        };
        lab.client.cloud(&call).await.unwrap();
        let before = lab.counters().await.nics[&b.primary_nic].spoof;
        sender.send_to(b"late", (address, 6000)).unwrap();
        silent(&receiver);
        receiver.send_to(b"late", (source, 6001)).unwrap();
        // The unreachable route's ICMP error may be pending on `sender`; it is not a datagram.
        let _ = sender.take_error();
        silent(&sender);
        assert_eq!(
            lab.counters().await.nics[&b.primary_nic].spoof,
            before + 1,
            "{family}"
        );
    }
    lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_holds_what_the_nic_carried() {
    if !privileged("a_capture_holds_what_the_nic_carried") {
        return;
    }
    let lab = Lab::start("").await;
    let (a, b) = (lab.vm("a", "subnet-a").await, lab.vm("b", "subnet-a").await);
    let file = lab.state.path().join("b.pcap");
    let capture = Capture::start(&lab.client, "b:eth0", &file, &["udp".to_owned()])
        .await
        .unwrap();
    let receiver = udp(&netns(&b), both(&b)[0], 7000);
    let sender = udp(&netns(&a), both(&a)[0], 0);
    sender
        .send_to(b"unmistakable", (both(&b)[0], 7000))
        .unwrap();
    receive(&receiver);
    capture.stop().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    assert!(
        bytes.windows(12).any(|w| w == b"unmistakable"),
        "{} bytes",
        bytes.len()
    );
    let missing = Capture::start(&lab.client, "b:eth7", &file, &[])
        .await
        .unwrap_err();
    assert!(missing.to_string().contains("b:eth7"), "{missing}");
    let nonsense = Capture::start(&lab.client, "b:eth0", &file, &["no such filter".to_owned()])
        .await
        .unwrap_err();
    assert!(nonsense.to_string().starts_with("tcpdump: "), "{nonsense}");
    lab.down().await;
}
