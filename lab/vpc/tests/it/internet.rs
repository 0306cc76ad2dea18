//! The internet: IPv4 from primary addresses only, translated one to one; IPv6 from any, untranslated.

use std::net::IpAddr;

use tombolo_cloud_sim::wire::AssignAddresses;
use tombolo_core::types::Family;
use tombolo_lab_vpc::fabric::Netns;

use crate::support::{Lab, add_address, both, netns, privileged, receive, silent, udp};

#[tokio::test(flavor = "multi_thread")]
async fn ipv4_by_public_address_and_ipv6_as_it_is() {
    if !privileged("ipv4_by_public_address_and_ipv6_as_it_is") {
        return;
    }
    let lab = Lab::start("").await;
    let vm = lab.vm("a", "subnet-a").await;
    let ns = netns(&vm);
    let inet = Netns::open(format!("/run/netns/tl-{}-inet", lab.name)).unwrap();
    let hosts: [IpAddr; 2] = [
        "203.0.113.10".parse().unwrap(),
        "2001:db8:ffff::10".parse().unwrap(),
    ];
    let outside: [IpAddr; 2] = [vm.public4.into(), vm.primary6.unwrap().into()];
    for ((own, host), seen_as) in both(&vm).into_iter().zip(hosts).zip(outside) {
        let server = udp(&inet, host, 8000);
        let client = udp(&ns, own, 8001);
        client.send_to(b"out", (host, 8000)).unwrap();
        let (text, from) = receive(&server);
        assert_eq!(
            (text.as_str(), from.ip(), from.port()),
            ("out", seen_as, 8001)
        );
        server.send_to(b"back", from).unwrap();
        assert_eq!(receive(&client), ("back".to_owned(), (host, 8000).into()));
        // A connection from outside, to the address that outside knows.
        let caller = udp(&inet, host, 8002);
        let listener = udp(&ns, own, 8003);
        caller.send_to(b"in", (seen_as, 8003)).unwrap();
        assert_eq!(receive(&listener), ("in".to_owned(), (host, 8002).into()));
    }
    // The private address does not exist outside.
    let listener = udp(&ns, both(&vm)[0], 8004);
    udp(&inet, hosts[0], 8005)
        .send_to(b"direct", (both(&vm)[0], 8004))
        .unwrap();
    silent(&listener);
    lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secondary_ipv4_addresses_do_not_reach_the_internet() {
    if !privileged("secondary_ipv4_addresses_do_not_reach_the_internet") {
        return;
    }
    let lab = Lab::start("").await;
    let vm = lab.vm("a", "subnet-a").await;
    let ns = netns(&vm);
    let inet = Netns::open(format!("/run/netns/tl-{}-inet", lab.name)).unwrap();
    for (family, host) in [
        (Family::V4, "203.0.113.10"),
        (Family::V6, "2001:db8:ffff::10"),
    ] {
        let host: IpAddr = host.parse().unwrap();
        let call = AssignAddresses {
            nic: vm.primary_nic.clone(),
            family,
            count: 1,
        };
        let address = lab.client.cloud(&call).await.unwrap().addresses[0];
        add_address(&ns, address);
        let server = udp(&inet, host, 8100);
        udp(&ns, address, 0).send_to(b"out", (host, 8100)).unwrap();
        match family {
            Family::V4 => silent(&server),
            Family::V6 => assert_eq!(receive(&server).1.ip(), address),
        }
    }
    let counters = lab.counters().await;
    assert_eq!(counters.no_internet_total, 1);
    assert_eq!(counters.nics[&vm.primary_nic].no_internet, 1);
    assert_eq!(counters.spoof_total, 0);
    lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_address_is_reached_from_inside_too() {
    if !privileged("a_public_address_is_reached_from_inside_too") {
        return;
    }
    let lab = Lab::start("").await;
    let (a, b) = (lab.vm("a", "subnet-a").await, lab.vm("b", "subnet-b").await);
    let listener = udp(&netns(&b), both(&b)[0], 8200);
    let caller = udp(&netns(&a), both(&a)[0], 8201);
    caller.send_to(b"round", (b.public4, 8200)).unwrap();
    let (text, from) = receive(&listener);
    assert_eq!(
        (text.as_str(), from.ip()),
        ("round", IpAddr::from(a.public4))
    );
    listener.send_to(b"trip", from).unwrap();
    assert_eq!(
        receive(&caller),
        ("trip".to_owned(), (b.public4, 8200).into())
    );
    lab.down().await;
}
