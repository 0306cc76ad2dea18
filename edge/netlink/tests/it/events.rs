use std::time::Duration;

use tombolo_core::datapath::conventions::PROTOCOL;
use tombolo_core::datapath::{NatState, Rule, RuleAction, Selector};
use tombolo_core::types::Family;
use tombolo_netlink::events::{Changed, Event, Events};
use tombolo_netlink::{Kernel, nft, rule};

use crate::support::{in_fresh_netns, run};

fn await_event(events: &mut Events, mut wanted: impl FnMut(&Event) -> bool) -> Event {
    let mut seen = Vec::new();
    while events.wait(Duration::from_secs(5)).unwrap() {
        for event in events.read().unwrap() {
            if wanted(&event) {
                return event;
            }
            seen.push(event);
        }
    }
    panic!("no such event in {seen:?}");
}

#[test]
fn own_and_foreign_changes_are_told_apart() {
    in_fresh_netns("events", || {
        let mut events = Events::open().unwrap();
        assert!(!events.wait(Duration::ZERO).unwrap());
        assert_eq!(events.read().unwrap(), []);
        let mut kernel = Kernel::open().unwrap();

        let ours = Rule {
            family: Family::V6,
            priority: 512,
            selector: Selector::All,
            action: RuleAction::Lookup(990),
        };
        kernel.route.request(rule::add(&ours)).unwrap();
        let changed = |gone| Changed::Rules {
            family: Family::V6,
            priority: 512,
            protocol: PROTOCOL,
            gone,
        };
        let event = await_event(&mut events, |event| event.changed == changed(false));
        assert!(kernel.ports().contains(&event.port));
        run("ip", "-6 rule del priority 512");
        let event = await_event(&mut events, |event| event.changed == changed(true));
        assert!(!kernel.ports().contains(&event.port), "deleted by another");

        nft::install(&mut kernel.netfilter, &NatState::default()).unwrap();
        let event = await_event(&mut events, |event| {
            event.changed == Changed::Nft { gone: false }
        });
        assert!(kernel.ports().contains(&event.port));
        events.read().unwrap();
        run("nft", "add table inet another");
        run("nft", "delete table inet tombolo");
        let event = await_event(&mut events, |event| {
            matches!(event.changed, Changed::Nft { .. })
        });
        assert_eq!(event.changed, Changed::Nft { gone: true });
        assert!(!kernel.ports().contains(&event.port), "deleted by another");
    });
}

#[test]
fn every_kind_of_object_is_reported() {
    in_fresh_netns("events_kinds", || {
        run("ip", "link add tst-nl0 type veth peer name tst-nl1");
        let mut events = Events::open().unwrap();
        for side in ["tst-nl0", "tst-nl1"] {
            run("ip", &format!("link set {side} up"));
        }
        await_event(
            &mut events,
            |event| matches!(&event.changed, Changed::Links { name, gone: false, .. } if name == "tst-nl0"),
        );
        run("ip", "addr add 10.0.0.1/32 dev tst-nl0");
        await_event(&mut events, |event| {
            matches!(event.changed, Changed::Addresses { gone: false, .. })
        });
        for (family, dst) in [(Family::V4, "10.0.1.5/32"), (Family::V6, "fd00::5/128")] {
            run(
                "ip",
                &format!("route add {dst} dev tst-nl0 table 990 proto 116"),
            );
            let route = |gone| Changed::Routes {
                family,
                table: 990,
                protocol: PROTOCOL,
                gone,
            };
            await_event(&mut events, |event| event.changed == route(false));
            run(
                "ip",
                &format!("route del {dst} dev tst-nl0 table 990 proto 116"),
            );
            await_event(&mut events, |event| event.changed == route(true));
        }
        run(
            "ip",
            "neigh add 10.0.1.5 dev tst-nl0 lladdr 02:00:00:00:00:01 nud permanent",
        );
        await_event(&mut events, |event| {
            matches!(event.changed, Changed::Neighbours { gone: false, .. })
        });
        run("ip", "neigh del 10.0.1.5 dev tst-nl0");
        await_event(&mut events, |event| {
            matches!(event.changed, Changed::Neighbours { gone: true, .. })
        });
        run("ip", "link del tst-nl0");
        await_event(
            &mut events,
            |event| matches!(&event.changed, Changed::Links { name, gone: true, .. } if name == "tst-nl0"),
        );
    });
}

#[test]
fn forwarding_and_firewalls_of_others_are_reported() {
    in_fresh_netns("events_others", || {
        run("ip", "link add tst-nl2 type veth peer name tst-nl3");
        run(
            "sysctl",
            "-qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        );
        let mut events = Events::open().unwrap();
        let off = |family, all: bool| {
            move |event: &Event| {
                matches!(event.changed, Changed::Forwarding { family: of, ifindex, on: false }
                    if of == family && ifindex.is_none() == all)
            }
        };
        run("sysctl", "-qw net.ipv4.conf.tst-nl2.forwarding=0");
        await_event(&mut events, off(Family::V4, false));
        run("sysctl", "-qw net.ipv4.ip_forward=0");
        await_event(&mut events, off(Family::V4, true));
        run("sysctl", "-qw net.ipv6.conf.tst-nl2.forwarding=0");
        await_event(&mut events, off(Family::V6, false));
        run("sysctl", "-qw net.ipv6.conf.all.forwarding=0");
        await_event(&mut events, off(Family::V6, true));

        let mut socket = tombolo_netlink::Socket::netfilter().unwrap();
        let mut names = || -> Vec<String> {
            let found = nft::forward_drops(&mut socket).unwrap();
            found.iter().map(ToString::to_string).collect()
        };
        nft::install(
            &mut tombolo_netlink::Socket::netfilter().unwrap(),
            &NatState::default(),
        )
        .unwrap();
        assert_eq!(names(), [] as [String; 0], "ours is none");
        let chain = |family: &str, hook: &str, policy: &str| {
            run("nft", &format!("add table {family} f"));
            run(
                "nft",
                &format!(
                    "add chain {family} f c_{hook} {{ type filter hook {hook} priority 0 ; policy {policy} ; }}"
                ),
            );
        };
        chain("ip", "input", "drop");
        chain("bridge", "forward", "drop");
        chain("ip6", "forward", "accept");
        await_event(&mut events, |event| {
            event.changed == Changed::Firewall { gone: false }
        });
        assert_eq!(names(), [] as [String; 0]);
        run("nft", "chain ip6 f c_forward { policy drop ; }");
        await_event(&mut events, |event| {
            event.changed == Changed::Firewall { gone: false }
        });
        chain("inet", "forward", "drop");
        assert_eq!(names(), ["inet f c_forward", "ip6 f c_forward"]);
        run("nft", "delete table ip6 f");
        await_event(&mut events, |event| {
            event.changed == Changed::Firewall { gone: true }
        });
        assert_eq!(names(), ["inet f c_forward"]);
    });
}
