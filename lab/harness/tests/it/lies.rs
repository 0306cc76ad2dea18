//! A cloud that does not tell the truth: part of it, an old one, somebody else's, or gibberish. One reading that shows less
//! takes nothing away, and no reply is believed that cannot be one to the call that was made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tombolo_cloud_sim::wire::{CreateNic, NicStatus};
use tombolo_lab_vpc::knobs::Knob;
use tombolo_lab_vpc::knobs::faults::Corruption;

use crate::bed::{Bed, FOR_EVER, Node, on_bed, on_bed_of};

/// A node with two NICs, and pods on every address of the second one.
async fn two_nics(bed: &mut Bed) -> Node {
    let node = bed.node("n1").await;
    bed.operator().await;
    node.say(|says| (says.low, says.high) = (6, 7));
    bed.agree(&[&node]).await;
    let second = bed.ours().await.remove(0);
    node.say(|says| says.bound = second.secondary.iter().copied().collect());
    bed.agree(&[&node]).await;
    node
}

/// Calls that take something away.
async fn taken(bed: &Bed) -> u64 {
    let mut all = 0;
    for verb in ["UnassignAddresses", "DetachNic", "DeleteNic"] {
        all += bed.calls(verb).await.total();
    }
    all
}

fn half(replies: u32) -> Knob {
    Knob::OmitAddresses { one_in: 2, replies }
}

#[test]
fn one_reading_with_half_of_the_addresses_changes_nothing() {
    on_bed(async |mut bed| {
        let node = two_nics(&mut bed).await;
        let before = bed.nrs("n1").await.unwrap();
        for round in 0..2 {
            bed.turn(half(1)).await;
            let nics = Knob::OmitNics {
                one_in: 2,
                replies: 1,
            };
            bed.turn(nics).await;
            if round == 1 {
                // The very first reading of an operator is such a one: it has no earlier one to compare with.
                bed.kill_operator().await;
                bed.operator().await;
            }
            bed.readings(3).await;
            let after = bed.nrs("n1").await.unwrap();
            assert_eq!(after["spec"], before["spec"], "round {round}");
            assert_eq!(
                after["metadata"]["generation"], before["metadata"]["generation"],
                "not even for a moment, round {round}"
            );
        }
        assert_eq!(taken(&bed).await, 0);
        bed.agree(&[&node]).await;
        bed.down().await;
    });
}

#[test]
fn readings_that_leave_addresses_out_for_long_take_none_from_the_cloud() {
    on_bed(async |mut bed| {
        let node = two_nics(&mut bed).await;
        for knob in [
            half(FOR_EVER),
            Knob::OmitAddresses {
                one_in: 1,
                replies: FOR_EVER,
            },
        ] {
            bed.turn(knob).await;
            node.say(|says| (says.low, says.high) = (0, 0));
            // Longer than any NIC may be idle.
            bed.readings(6).await;
            bed.turn(Knob::Reset).await;
        }
        let bound = node.says.lock().unwrap().bound.clone();
        node.say(|says| {
            let pods = u32::try_from(bound.len()).unwrap() / 2;
            (says.low, says.high) = (pods, pods);
        });
        bed.readings(2).await;
        let second = bed.ours().await.remove(0);
        assert_eq!(second.status, NicStatus::InUse, "pods use it");
        let held: BTreeSet<IpAddr> = second.secondary.iter().copied().collect();
        assert!(bound.is_subset(&held), "{bound:?} of {held:?}");
        assert_eq!(bed.calls("DetachNic").await.total(), 0);
        bed.agree(&[&node]).await;
        bed.down().await;
    });
}

#[test]
fn readings_that_lag_behind_do_not_make_anything_twice() {
    on_bed(async |mut bed| {
        let node = bed.node("n1").await;
        bed.operator().await;
        let knob = Knob::Stale {
            verb: "DescribeNics".to_owned(),
            // Longer than it takes to confirm, shorter than attaching may take.
            ms: 400,
        };
        bed.turn(knob).await;
        node.say(|says| (says.low, says.high) = (6, 7));
        bed.eventually("a second NIC serves", async || {
            (bed.spec("n1").await.len() == 2).then_some(())
        })
        .await;
        bed.readings(4).await;
        bed.turn(Knob::Reset).await;
        bed.agree(&[&node]).await;
        assert_eq!(bed.calls("CreateNic").await.ok, 1);
        bed.down().await;
    });
}

#[test]
fn a_reply_to_another_nodes_call_gives_no_address_to_two_nodes() {
    on_bed(async |mut bed| {
        let nodes = [bed.node("n1").await, bed.node("n2").await];
        bed.operator().await;
        nodes[0].say(|says| (says.low, says.high) = (6, 6));
        bed.agree(&[&nodes[0], &nodes[1]]).await;
        for verb in ["AssignAddresses", "CreateNic", "AttachNic"] {
            let knob = Knob::RepeatReply {
                verb: verb.to_owned(),
                count: 2,
                skip: 0,
            };
            bed.turn(knob).await;
        }
        nodes[1].say(|says| (says.low, says.high) = (6, 6));
        let one: BTreeSet<IpAddr> = bed.spec("n1").await.into_values().flatten().collect();
        bed.eventually("the second node has what it wants", async || {
            let two = bed.spec("n2").await;
            let two: BTreeSet<IpAddr> = two.into_values().flatten().collect();
            assert!(one.is_disjoint(&two), "{one:?} and {two:?}");
            (two.len() >= 12).then_some(())
        })
        .await;
        bed.agree(&[&nodes[0], &nodes[1]]).await;
        assert_eq!(bed.ours().await.len(), 2, "one NIC each");
        bed.down().await;
    });
}

#[test]
fn requests_that_are_carried_out_twice_leave_no_surplus() {
    on_bed(async |mut bed| {
        let node = bed.node("n1").await;
        bed.operator().await;
        for verb in [
            "AssignAddresses",
            "CreateNic",
            "AttachNic",
            "UnassignAddresses",
            "DetachNic",
            "DeleteNic",
        ] {
            let knob = Knob::RepeatRequest {
                verb: verb.to_owned(),
                count: FOR_EVER,
                skip: 0,
            };
            bed.turn(knob).await;
        }
        for (low, high) in [(2, 3), (6, 7), (1, 1)] {
            node.say(|says| (says.low, says.high) = (low, high));
            bed.agree(&[&node]).await;
            bed.eventually("no more than is wanted", async || {
                (bed.count("n1", true).await <= high as usize).then_some(())
            })
            .await;
        }
        bed.agree(&[&node]).await;
        bed.down().await;
    });
}

#[test]
fn replies_that_nobody_can_read_do_no_harm() {
    on_bed(async |mut bed| {
        let node = bed.node("n1").await;
        bed.operator().await;
        let ways = [
            Corruption::Cut,
            Corruption::Truncate,
            Corruption::Empty,
            Corruption::Garbage,
            Corruption::Shape,
            Corruption::Page,
        ];
        for how in ways {
            for verb in [
                "DescribeNics",
                "AssignAddresses",
                "CreateNic",
                "AttachNic",
                "UnassignAddresses",
                "DetachNic",
                "DeleteNic",
            ] {
                let knob = Knob::CorruptReply {
                    verb: verb.to_owned(),
                    how,
                    count: 1,
                    skip: 0,
                };
                bed.turn(knob).await;
            }
            node.say(|says| (says.low, says.high) = (6, 6));
            bed.agree(&[&node]).await;
            // On a slow machine an attachment may be given up and made anew; what is too much goes again.
            bed.eventually(&format!("one NIC, {how:?}"), async || {
                (bed.ours().await.len() == 1).then_some(())
            })
            .await;
            node.say(|says| (says.low, says.high) = (1, 1));
            bed.eventually("the NIC goes", async || {
                bed.ours().await.is_empty().then_some(())
            })
            .await;
            bed.agree(&[&node]).await;
            bed.turn(Knob::Reset).await;
        }
        bed.down().await;
    });
}

#[test]
fn a_throttled_cloud_is_told_in_its_word_and_waited_for() {
    on_bed(async |mut bed| {
        let node = bed.node("n1").await;
        bed.operator().await;
        let throttle = |rate| Knob::ThrottleVerb {
            verb: "AssignAddresses".to_owned(),
            rate,
            burst: 0,
        };
        bed.turn(throttle(0.001)).await;
        node.say(|says| (says.low, says.high) = (2, 3));
        bed.eventually("it is told", async || {
            let condition = bed.condition("n1", "CloudReachable").await;
            (bed.begun("CloudThrottled").await > 0
                && bed.events().await.contains(&"CloudThrottled".to_owned())
                && condition == ("False".to_owned(), "CloudThrottled".to_owned()))
                .then_some(())
        })
        .await;
        bed.turn(throttle(0.0)).await;
        bed.agree(&[&node]).await;
        bed.eventually("it is over", async || {
            (bed.condition("n1", "CloudReachable").await.0 == "True").then_some(())
        })
        .await;
        bed.down().await;
    });
}

#[test]
fn attachments_that_fail_or_get_stuck_are_made_good() {
    on_bed(async |mut bed| {
        let node = bed.node("n1").await;
        bed.operator().await;
        bed.turn(Knob::FailAttach { count: 2 }).await;
        node.say(|says| (says.low, says.high) = (6, 6));
        bed.agree(&[&node]).await;
        assert_eq!(bed.ours().await.len(), 1);
        // At the limit of NICs nothing else helps than to give the stuck one up.
        bed.turn(Knob::StickAttach { count: 1 }).await;
        node.say(|says| (says.low, says.high) = (11, 12));
        bed.agree(&[&node]).await;
        assert_eq!(bed.ours().await.len(), 2);
        assert!(bed.begun("AttachTimeout").await > 0);
        assert!(bed.events().await.contains(&"AttachTimeout".to_owned()));
        bed.down().await;
    });
}

/// A subnet with 11 IPv6 addresses; the other one has plenty.
const NARROW: &str = "
cidrs: [10.0.0.0/16, '2001:db8:1::/48']
delays: {attach_ms: 20, detach_ms: 20}
subnets:
  - {id: s1, zone: z1, cidr4: 10.0.1.0/24, cidr6: '2001:db8:1:1::/124'}
  - {id: s2, zone: z1, cidr4: 10.0.2.0/24, cidr6: '2001:db8:1:2::/64'}
instance_types:
  - {name: small, max_nics: 3, ipv4_per_nic: 5, ipv6_per_nic: 5}
";

/// A node, and somebody who has all IPv6 addresses of its subnet but one.
async fn narrow(bed: &mut Bed) -> Node {
    let node = bed.node("n1").await;
    let call = CreateNic {
        subnet: "s1".to_owned(),
        description: String::new(),
        client_token: None,
        ipv4_count: 0,
        ipv6_count: 9,
        security_groups: Vec::new(),
        tags: BTreeMap::new(),
    };
    bed.cloud.cloud(&call).await.unwrap();
    node
}

#[test]
fn a_subnet_full_of_one_family_is_told_with_the_family() {
    on_bed_of(NARROW, async |mut bed| {
        let node = narrow(&mut bed).await;
        bed.operator().await;
        node.say(|says| (says.low, says.high) = (4, 4));
        bed.eventually("it is told", async || {
            let condition = bed.condition("n1", "SubnetsAvailable").await;
            (condition == ("False".to_owned(), "SubnetFull".to_owned())).then_some(())
        })
        .await;
        assert!(bed.events().await.contains(&"SubnetFull".to_owned()));
        assert!(bed.note("SubnetFull").await.contains("IPv6"));
        bed.down().await;
    });
}

#[test]
fn a_subnet_full_of_one_family_sends_the_node_to_another() {
    on_bed_of(NARROW, async |mut bed| {
        bed.profile(&["s1", "s2"]).await;
        let node = narrow(&mut bed).await;
        bed.operator().await;
        node.say(|says| (says.low, says.high) = (4, 4));
        bed.agree(&[&node]).await;
        let ours = bed.ours().await;
        assert_eq!((ours.len(), ours[0].subnet.as_str()), (1, "s2"));
        bed.eventually("lone addresses go back", async || {
            let counts = (bed.count("n1", true).await, bed.count("n1", false).await);
            (counts == (4, 4)).then_some(())
        })
        .await;
        bed.down().await;
    });
}
