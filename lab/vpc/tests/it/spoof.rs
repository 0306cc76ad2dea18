//! Anti-spoofing: a frame whose source the NIC does not own reaches nobody and is counted; what an honest instance sends is
//! never counted.

use std::net::{Ipv4Addr, Ipv6Addr};

use tombolo_core::types::Mac;

use crate::frames::{Injector, advertisement, arp, icmp6, neighbour, udp4, udp6};
use crate::support::{Lab, both, netns, privileged, receive, sh, udp};

const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xff, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_source_reaches_nobody_and_is_counted() {
    if !privileged("a_foreign_source_reaches_nobody_and_is_counted") {
        return;
    }
    let lab = Lab::start("").await;
    let (a, b, c) = (
        lab.vm("a", "subnet-a").await,
        lab.vm("b", "subnet-a").await,
        lab.vm("c", "subnet-a").await,
    );
    let wire = Injector::new(&netns(&a), "eth0");
    let (own4, own6) = (a.primary4.addr(), a.primary6.unwrap());
    let (other4, other6) = (c.primary4.addr(), c.primary6.unwrap());
    let (target4, target6) = (b.primary4.addr(), b.primary6.unwrap());
    let router = router_mac(&a.mac);
    let stranger = Mac([2, 0, 0, 0, 0, 9]);

    let receivers = [
        udp(&netns(&b), both(&b)[0], 4000),
        udp(&netns(&b), both(&b)[1], 4000),
    ];
    let good = |text: &[u8]| {
        wire.send(&udp4(router, a.mac, own4, target4, 4000, text));
        wire.send(&udp6(router, a.mac, own6, target6, 4000, text));
    };
    good(b"first");
    let nd = |from: Mac, source, kind, target, option| {
        icmp6(
            router,
            from,
            source,
            ROUTER,
            neighbour(kind, target, option),
        )
    };
    let spoofs: Vec<(&str, Vec<u8>)> = vec![
        (
            "IPv4, neighbour's source",
            udp4(router, a.mac, other4, target4, 4000, b"spoof"),
        ),
        (
            "IPv4, source outside the VPC",
            udp4(
                router,
                a.mac,
                Ipv4Addr::new(8, 8, 8, 8),
                target4,
                4000,
                b"spoof",
            ),
        ),
        (
            "IPv4, wrong MAC",
            udp4(router, stranger, own4, target4, 4000, b"spoof"),
        ),
        (
            "IPv4, neighbour's MAC and source",
            udp4(router, c.mac, other4, target4, 4000, b"spoof"),
        ),
        (
            "IPv4, the router's source",
            udp4(router, a.mac, a.gateway4, target4, 4000, b"spoof"),
        ),
        (
            "IPv6, neighbour's source",
            udp6(router, a.mac, other6, target6, 4000, b"spoof"),
        ),
        (
            "IPv6, wrong MAC",
            udp6(router, stranger, own6, target6, 4000, b"spoof"),
        ),
        (
            "IPv6, the router's link-local source",
            udp6(router, a.mac, ROUTER, target6, 4000, b"spoof"),
        ),
        (
            "ARP, neighbour's address",
            arp(a.mac, (a.mac, other4), target4),
        ),
        (
            "ARP, neighbour's address outside the subnet",
            arp(a.mac, (a.mac, other4), Ipv4Addr::new(8, 8, 8, 8)),
        ),
        (
            "ARP, wrong sender MAC",
            arp(a.mac, (stranger, own4), target4),
        ),
        (
            "ARP, wrong frame MAC",
            arp(stranger, (a.mac, own4), target4),
        ),
        (
            "ARP, the router's address",
            arp(a.mac, (a.mac, a.gateway4), target4),
        ),
        (
            "NS from a neighbour's source",
            nd(a.mac, other6, 135, ROUTER, None),
        ),
        (
            "NS with a stranger's link-layer option",
            nd(a.mac, own6, 135, ROUTER, Some(stranger)),
        ),
        ("NS, wrong MAC", nd(stranger, own6, 135, ROUTER, None)),
        (
            "NA about a neighbour",
            nd(a.mac, own6, 136, other6, Some(a.mac)),
        ),
        (
            "NA from a neighbour",
            nd(a.mac, other6, 136, own6, Some(a.mac)),
        ),
        (
            "NA about a neighbour, link-local source",
            nd(a.mac, LINK_LOCAL, 136, other6, Some(a.mac)),
        ),
        (
            "NA about the router",
            nd(a.mac, LINK_LOCAL, 136, ROUTER, Some(a.mac)),
        ),
        (
            "NA with a stranger's link-layer option",
            nd(a.mac, own6, 136, own6, Some(stranger)),
        ),
        (
            "RA from link-local",
            icmp6(router, a.mac, LINK_LOCAL, ALL_NODES, advertisement()),
        ),
        (
            "RA from its own address",
            icmp6(router, a.mac, own6, ALL_NODES, advertisement()),
        ),
        (
            "redirect",
            icmp6(
                router,
                a.mac,
                own6,
                target6,
                [&[137_u8, 0, 0, 0, 0, 0, 0, 0][..], &[0; 32]].concat(),
            ),
        ),
    ];
    for (i, (what, frame)) in spoofs.iter().enumerate() {
        wire.send(frame);
        let counters = lab.counters().await;
        let expected = u64::try_from(i + 1).unwrap();
        assert_eq!(
            counters.nics[&a.primary_nic].spoof, expected,
            "{what}: {counters:?}"
        );
        assert_eq!(counters.spoof_total, expected, "{what}");
    }
    good(b"last");
    for receiver in &receivers {
        // Nothing between the honest ones.
        assert_eq!(receive(receiver).0, "first");
        assert_eq!(receive(receiver).0, "last");
    }
    // The neighbours' own traffic was never in danger.
    let counters = lab.counters().await;
    assert_eq!(
        (
            counters.nics[&b.primary_nic].spoof,
            counters.nics[&c.primary_nic].spoof
        ),
        (0, 0)
    );
    lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_frames_are_never_counted() {
    if !privileged("honest_frames_are_never_counted") {
        return;
    }
    let lab = Lab::start("").await;
    let (a, b) = (lab.vm("a", "subnet-a").await, lab.vm("b", "subnet-a").await);
    let wire = Injector::new(&netns(&a), "eth0");
    let (own4, own6) = (a.primary4.addr(), a.primary6.unwrap());
    let router = router_mac(&a.mac);
    let honest: Vec<(&str, bool, Vec<u8>)> = vec![
        (
            "ARP for a neighbour",
            true,
            arp(a.mac, (a.mac, own4), b.primary4.addr()),
        ),
        (
            "ARP outside the subnet",
            false,
            arp(a.mac, (a.mac, own4), Ipv4Addr::new(8, 8, 8, 8)),
        ),
        (
            "ARP probe",
            false,
            arp(a.mac, (a.mac, Ipv4Addr::UNSPECIFIED), own4),
        ),
        (
            "RS",
            true,
            icmp6(
                router,
                a.mac,
                LINK_LOCAL,
                ALL_ROUTERS,
                vec![133, 0, 0, 0, 0, 0, 0, 0],
            ),
        ),
        (
            "NS for the router",
            true,
            icmp6(
                router,
                a.mac,
                own6,
                ROUTER,
                neighbour(135, ROUTER, Some(a.mac)),
            ),
        ),
        (
            "NS from link-local",
            true,
            icmp6(
                router,
                a.mac,
                LINK_LOCAL,
                ROUTER,
                neighbour(135, ROUTER, Some(a.mac)),
            ),
        ),
        (
            "duplicate address probe",
            true,
            icmp6(
                router,
                a.mac,
                Ipv6Addr::UNSPECIFIED,
                ALL_NODES,
                neighbour(135, LINK_LOCAL, None),
            ),
        ),
        (
            "NA about itself",
            true,
            icmp6(
                router,
                a.mac,
                own6,
                ROUTER,
                neighbour(136, own6, Some(a.mac)),
            ),
        ),
        (
            "NA about link-local",
            true,
            icmp6(
                router,
                a.mac,
                LINK_LOCAL,
                ROUTER,
                neighbour(136, LINK_LOCAL, Some(a.mac)),
            ),
        ),
        (
            "MLD",
            false,
            icmp6(
                router,
                a.mac,
                LINK_LOCAL,
                ALL_ROUTERS,
                vec![143, 0, 0, 0, 0, 0, 0, 0],
            ),
        ),
        (
            "UDP from link-local",
            false,
            udp6(router, a.mac, LINK_LOCAL, ROUTER, 1, b"x"),
        ),
    ];
    // What the instance's own kernel sent at start is not ours to count.
    let before = lab.counters().await.nics[&a.primary_nic].not_carried;
    let mut dropped = 0;
    for (what, carried, frame) in &honest {
        wire.send(frame);
        dropped += u64::from(!carried);
        let counters = lab.counters().await;
        assert_eq!(counters.spoof_total, 0, "{what}");
        assert!(
            counters.nics[&a.primary_nic].not_carried >= before + dropped,
            "{what}: {counters:?}"
        );
    }
    lab.down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_answers_arp_for_what_exists_only() {
    if !privileged("the_router_answers_arp_for_what_exists_only") {
        return;
    }
    let lab = Lab::start("").await;
    let (a, b) = (lab.vm("a", "subnet-a").await, lab.vm("b", "subnet-a").await);
    let ns = netns(&a);
    let reach = |address: Ipv4Addr| {
        udp(&ns, a.primary4.addr().into(), 0)
            .send_to(b"x", (address, 9))
            .ok();
        address
    };
    for exists in [reach(b.primary4.addr()), reach(a.gateway4)] {
        let ns = &ns;
        crate::support::eventually("resolved", || async move {
            sh(ns, &format!("ip neigh show {exists} nud reachable"))
                .contains("lladdr 0a:4e")
                .then_some(())
        })
        .await;
    }
    // Three unanswered requests, then failed.
    let nobody = reach(Ipv4Addr::new(10, 0, 1, 200));
    let ns = &ns;
    crate::support::eventually("failed", || async move {
        sh(ns, &format!("ip neigh show {nobody}"))
            .contains("FAILED")
            .then_some(())
    })
    .await;
    lab.down().await;
}

/// The router's MAC on a NIC, from the NIC's.
fn router_mac(guest: &Mac) -> Mac {
    let mut mac = guest.0;
    mac[0] = 0x0a;
    Mac(mac)
}
