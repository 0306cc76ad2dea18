//! Single behaviours, by table and by story.

use super::world::{CONFIG, Fault, World, failure, only_call, planner, words};
use super::*;
use crate::eni::Ownership;
use crate::types::Families;

#[test]
fn fills_the_primary_nic_in_one_call_a_family() {
    let mut world = World::new((3, 10, 10), Families::Dual, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 3;
    world.settle(&mut planner);
    assert_eq!(words(&mut world), ["assign-addresses", "assign-addresses"]);
    assert_eq!(world.pairs(), 5);
    assert!(world.reports.is_empty());
}

#[test]
fn a_second_nic_comes_only_when_the_first_is_full_and_brings_its_addresses() {
    let mut world = World::new((3, 10, 10), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 7;
    world.settle(&mut planner);
    assert_eq!(
        words(&mut world),
        ["assign-addresses"],
        "nine fit on the primary NIC"
    );
    world.pods = 9;
    world.step(&mut planner);
    let created = |action: &Action| {
        matches!(
            action,
            Action::CreateNic {
                device_index: 1,
                initial4: 2,
                initial6: 0,
                ..
            }
        )
    };
    assert!(world.log.iter().any(created), "{:?}", world.log);
    world.settle(&mut planner);
    assert_eq!(words(&mut world), ["create-nic", "attach-nic"]);
    assert_eq!(world.nics.len(), 2);
}

#[test]
fn dual_stack_keeps_both_families_on_one_nic() {
    // IPv6 is the shorter family: it decides.
    let mut world = World::new((3, 10, 5), Families::Dual, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 5;
    world.settle(&mut planner);
    assert_eq!(world.pairs(), 7);
    for nic in &world.nics {
        let v4 = nic.addresses.iter().filter(|ip| ip.is_ipv4()).count();
        assert_eq!(v4 * 2, nic.addresses.len(), "{nic:?}");
    }
    assert_eq!(
        world.pairs_on(world.nic("n-0")),
        4,
        "one IPv6 address is the NIC's own"
    );
}

#[test]
fn a_half_failed_pair_is_completed() {
    let mut world = World::new((3, 10, 10), Families::Dual, &[("s1", 100)]);
    let mut planner = planner();
    world.faults = vec![Fault::Refuse(Reason::CloudError)];
    world.settle(&mut planner);
    assert_eq!(world.nic("n-0").addresses.len(), 4, "two pairs");
    assert_eq!(words(&mut world).len(), 3);
    assert!(world.reports.is_empty(), "one failure is no problem yet");
}

#[test]
fn the_nic_goes_to_the_subnet_with_most_free_and_a_full_one_is_passed_over() {
    let mut world = World::new(
        (4, 4, 4),
        Families::V4,
        &[("s1", 3), ("s2", 50), ("s3", 60)],
    );
    let mut planner = planner();
    world.pods = 4;
    world.settle(&mut planner);
    assert_eq!(world.nics[1].subnet, "s3");
    // Its count is right, and it refuses nevertheless: the next subnet is asked at once, this one not for 120 s.
    world.log.clear();
    world.pods = 6;
    world.faults = vec![Fault::Refuse(Reason::SubnetFull)];
    let before = world.now;
    world.settle(&mut planner);
    assert_eq!(world.nics[2].subnet, "s2", "{:#?}", world.log);
    assert!(planner.subnet_holds.is_empty(), "the hold ended");
    assert!(world.now.0 - before.0 > 120_000);
}

#[test]
fn a_short_subnet_is_asked_for_what_it_has() {
    let mut world = World::new((2, 10, 10), Families::V4, &[("s1", 4)]);
    let mut planner = planner();
    world.pods = 5;
    world.settle(&mut planner);
    assert_eq!(world.pairs(), 4);
    assert_eq!(world.reports.len(), 1, "{:?}", world.reports);
    let problem = &world.reports[0];
    assert_eq!(
        (problem.reason, problem.wanted, problem.have),
        (Reason::SubnetFull, 7, 4)
    );
    let text = problem.to_string();
    assert!(text.contains("s1 4") && text.contains("wants 7"), "{text}");
    // Addresses come free: the rest is taken and the problem is over, told once.
    world.subnet_mut("s1").free4 = 20;
    world.settle(&mut planner);
    assert_eq!(
        (world.pairs(), world.reports.len(), world.cleared.as_slice()),
        (7, 1, [Reason::SubnetFull].as_slice())
    );
}

#[test]
fn the_nic_limit_is_told_once_with_numbers() {
    let mut world = World::new((2, 4, 4), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 10;
    world.settle(&mut planner);
    assert_eq!(world.pairs(), 6);
    assert_eq!(world.reports.len(), 1, "{:?}", world.reports);
    assert_eq!(
        (world.reports[0].reason, world.reports[0].limit),
        (Reason::NicLimit, Some(2))
    );
    world.pods = 4;
    world.settle(&mut planner);
    assert_eq!(world.cleared, [Reason::NicLimit]);
}

#[test]
fn an_instance_limit_below_the_published_one_is_believed_for_a_while() {
    let mut world = World::new((3, 4, 4), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 1;
    world.settle(&mut planner);
    world.log.clear();
    world.pods = 4;
    world.step(&mut planner);
    world.faults = vec![Fault::Refuse(Reason::NicLimit)];
    world.step(&mut planner);
    world.step(&mut planner);
    assert_eq!(
        words(&mut world),
        ["create-nic", "attach-nic", "delete-nic"]
    );
    assert_eq!(world.reports[0].reason, Reason::NicLimit);
    assert!(world.reports[0].detail.contains("injected"));
    world.settle(&mut planner);
    assert_eq!(world.pairs(), 6, "after the hold the NIC was had");
    assert_eq!(
        (world.reports.len(), world.cleared.as_slice()),
        (1, [Reason::NicLimit].as_slice())
    );
}

#[test]
fn an_address_limit_sends_the_rest_to_another_nic() {
    let mut world = World::new((3, 10, 10), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.faults = vec![Fault::Refuse(Reason::AddressLimit)];
    world.settle(&mut planner);
    assert_eq!(world.pairs(), 2);
    assert_eq!(world.reports[0].reason, Reason::AddressLimit);
    assert_eq!(world.cleared, [Reason::AddressLimit]);
}

#[test]
fn repeated_failures_back_off_and_are_told_once() {
    let mut world = World::new((3, 10, 10), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.faults = vec![Fault::Refuse(Reason::CloudThrottled); 5];
    let start = world.now;
    world.settle(&mut planner);
    assert_eq!(words(&mut world).len(), 6);
    assert_eq!(world.reports.len(), 1);
    assert_eq!(world.reports[0].reason, Reason::CloudThrottled);
    assert_eq!(world.cleared, [Reason::CloudThrottled]);
    assert!(
        world.now.0 - start.0 >= 1250 + 2500 + 5000 + 10_000 + 10_000,
        "waits double, with spread"
    );
}

#[test]
fn only_what_exceeds_high_is_given_back_and_only_after_consent() {
    let mut world = World::new((3, 10, 10), Families::Dual, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 6;
    world.settle(&mut planner);
    world.pods = 1;
    words(&mut world);
    let actions = planner.handle(world.now, Input::Observed(world.observe()));
    let Some(Action::MarkRelease(marks)) = actions.first() else {
        panic!("{actions:?}")
    };
    assert_eq!(marks.len(), 6, "8 pairs held, 5 are the most: three pairs");
    // No answer: nothing is unassigned, however long it takes.
    let mut silent = world.observe();
    silent.marked.clone_from(marks);
    world.now = world.now + Millis(10_000_000);
    assert!(
        planner
            .handle(world.now, Input::Observed(silent))
            .is_empty()
    );
    world.settle(&mut planner);
    assert_eq!(world.pairs(), 5);
    assert_eq!(words(&mut world), ["unassign-addresses"]);
    assert!(world.marked.is_empty());
}

#[test]
fn a_refused_address_is_unmarked_and_left_alone_for_a_while() {
    let mut world = World::new((3, 10, 10), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 6;
    world.settle(&mut planner);
    world.pods = 0;
    world.stubborn = true;
    for _ in 0..3 {
        world.step(&mut planner);
    }
    assert!(world.marked.len() <= 4, "{:?}", world.marked);
    assert_eq!(world.pairs(), 8);
    world.stubborn = false;
    world.settle(&mut planner);
    assert_eq!(world.pairs(), 4);
}

#[test]
fn demand_that_returns_withdraws_marks_without_a_cloud_call() {
    let mut world = World::new((3, 10, 10), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 6;
    world.settle(&mut planner);
    world.pods = 0;
    let actions = planner.handle(world.now, Input::Observed(world.observe()));
    let Some(Action::MarkRelease(marks)) = actions.first() else {
        panic!("{actions:?}")
    };
    world.marked.clone_from(marks);
    world.pods = 6;
    let actions = planner.handle(world.now, Input::Observed(world.observe()));
    assert_eq!(actions, [Action::Unmark(world.marked.clone())]);
}

#[test]
fn a_spare_nic_is_emptied_detached_and_deleted_after_the_idle_time() {
    let mut world = World::new((3, 4, 4), Families::Dual, &[("s1", 100)]);
    world.warm = (1, 5);
    let mut planner = planner();
    world.pods = 4;
    world.settle(&mut planner);
    assert_eq!(world.nics.len(), 2);
    words(&mut world);
    world.pods = 0;
    world.step(&mut planner);
    assert!(world.marked.is_empty(), "5 pairs are not too many");
    let before = world.now;
    world.settle(&mut planner);
    assert_eq!(
        words(&mut world),
        ["unassign-addresses", "detach-nic", "delete-nic"]
    );
    assert_eq!((world.nics.len(), world.pairs()), (1, 3));
    assert!(world.now.0 - before.0 >= CONFIG.nic_idle.0);
    assert_eq!(world.subnets[0].free4, 97);
}

#[test]
fn a_nic_with_a_pod_and_a_foreign_nic_stay() {
    let mut world = World::new((4, 4, 4), Families::V4, &[("s1", 100)]);
    world.add_nic("n-1", 1, Ownership::Foreign);
    let mut planner = planner();
    world.pods = 5;
    world.settle(&mut planner);
    assert_eq!(
        world.nics.len(),
        4,
        "pods need three NICs, none of them the foreign one"
    );
    assert!(world.nic("n-1").addresses.is_empty());
    let indexes: BTreeSet<u16> = world.nics.iter().map(|nic| nic.device_index).collect();
    assert_eq!(indexes, BTreeSet::from([0, 1, 2, 3]));
    world.pods = 0;
    world.warm = (0, 0);
    // One pod stays on the last NIC.
    let last = *world
        .nics
        .iter()
        .find(|nic| nic.device_index == 3)
        .unwrap()
        .addresses
        .first()
        .unwrap();
    world.bound.clear();
    world.pods = 1;
    world.bound.push(BTreeSet::from([last]));
    world.settle(&mut planner);
    let left: Vec<u16> = world.nics.iter().map(|nic| nic.device_index).collect();
    assert_eq!(left, [0, 1, 3]);
}

#[test]
fn an_intention_left_by_a_crash_is_resumed_or_dropped() {
    for (pods, left) in [(4, 2), (0, 1)] {
        let mut world = World::new((3, 4, 4), Families::V4, &[("s1", 100)]);
        world.pods = pods;
        world.nics.push(ObservedNicBuilder::intended("n-1-old"));
        let mut planner = planner();
        world.settle(&mut planner);
        assert_eq!(world.nics.len(), left, "{pods} pods: {:?}", world.nics);
        assert_eq!(world.nics.iter().any(|nic| nic.eni == "n-1-old"), left == 2);
    }
}

struct ObservedNicBuilder;

impl ObservedNicBuilder {
    fn intended(eni: &str) -> crate::eni::ObservedNic {
        crate::eni::ObservedNic {
            eni: eni.to_owned(),
            nic: None,
            state: NicState::Intended,
            device_index: 1,
            subnet: "s1".to_owned(),
            ownership: Ownership::Ours,
            unwanted: false,
            own6: false,
            addresses: BTreeSet::new(),
        }
    }
}

#[test]
fn a_lost_reply_is_neither_repeated_nor_forgotten() {
    let mut world = World::new((3, 4, 4), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 3;
    world.faults = vec![Fault::LoseReply; 3];
    world.settle(&mut planner);
    assert_eq!((world.pairs(), world.nics.len()), (5, 2));
    world.faults = vec![Fault::LoseReply; 4];
    world.pods = 0;
    world.settle(&mut planner);
    assert_eq!((world.pairs(), world.nics.len()), (3, 1));
}

#[test]
fn nothing_is_planned_between_a_finished_call_and_the_next_observation() {
    let mut world = World::new((3, 4, 4), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    let actions = planner.handle(world.now, Input::Observed(world.observe()));
    let call = only_call(&actions);
    assert_eq!(planner.calls_underway(), 1);
    assert!(
        planner.handle(world.now, Input::Tick).is_empty(),
        "under way"
    );
    planner.handle(world.now, Input::Finished(call, Ok(())));
    assert!(
        planner.handle(world.now, Input::Tick).is_empty(),
        "done, effect not seen"
    );
    assert_eq!(planner.calls_underway(), 0);
}

#[test]
fn an_attachment_that_takes_too_long_is_told_and_another_nic_is_had() {
    let mut world = World::new((4, 4, 4), Families::V4, &[("s1", 100)]);
    world.attach_delay = Millis(10_000_000);
    let mut planner = planner();
    world.pods = 4;
    world.step(&mut planner);
    world.step(&mut planner);
    world.attach_delay = Millis(2000);
    world.settle(&mut planner);
    assert_eq!(world.reports[0].reason, Reason::AttachTimeout);
    assert_eq!(
        (world.pairs(), world.nics.len()),
        (6, 2),
        "the late one came and was given back"
    );
    assert!(
        words(&mut world)
            .iter()
            .filter(|word| *word == "create-nic")
            .count()
            == 2
    );
}

#[test]
fn no_word_from_the_agent_means_no_action() {
    let mut world = World::new((4, 4, 4), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 3;
    world.settle(&mut planner);
    let mut observation = world.observe();
    observation.demand = None;
    assert!(
        planner
            .handle(world.now, Input::Observed(observation))
            .is_empty()
    );
    // A family that was not spoken of is not in excess.
    let mut observation = world.observe();
    observation.families = Families::Dual;
    observation.demand = Some(BTreeMap::new());
    assert!(
        planner
            .handle(world.now + Millis(10_000_000), Input::Observed(observation))
            .is_empty()
    );
}

#[test]
fn a_family_that_left_the_profile_is_given_back() {
    let mut world = World::new((3, 10, 10), Families::Dual, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 2;
    world.settle(&mut planner);
    world.pods = 0;
    world.agent();
    world.families = Families::V4;
    world.pods = 2;
    world.settle(&mut planner);
    assert!(
        world
            .nics
            .iter()
            .flat_map(|nic| &nic.addresses)
            .all(IpAddr::is_ipv4),
        "{:?}",
        world.nics
    );
    assert!(world.reports.is_empty());
}

#[test]
fn a_subnet_without_ipv6_gives_no_pairs() {
    let mut world = World::new((3, 4, 4), Families::Dual, &[("s1", 100), ("s2", 50)]);
    world.subnets[0].ipv6 = false;
    let mut planner = planner();
    world.settle(&mut planner);
    assert_eq!(world.nics[1].subnet, "s2");
    assert_eq!(world.pairs(), 2);
}

#[test]
fn failures_of_unknown_calls_are_ignored() {
    let mut planner = planner();
    let call = Call::Attach {
        eni: "x".to_owned(),
    };
    assert!(
        planner
            .handle(
                Millis(1),
                Input::Finished(call, Err(failure(Reason::CloudError)))
            )
            .is_empty()
    );
    assert!(planner.backoffs.is_empty());
    assert_eq!(base36(0), "0");
    assert_eq!(base36(36 * 36 + 35), "10z");
}

/// A node that gives one of its addresses back: the call that takes it, and the observation that led to it.
fn taking_one(world: &mut World, planner: &mut Planner) -> (Call, BTreeSet<IpAddr>) {
    world.warm = (0, 0);
    world.pods = 1;
    world.settle(planner);
    world.pods = 0;
    let actions = planner.handle(world.now, Input::Observed(world.observe()));
    let Some(Action::MarkRelease(marks)) = actions.first() else {
        panic!("{actions:?}")
    };
    world.marked.clone_from(marks);
    let actions = planner.handle(world.now, Input::Observed(world.observe()));
    assert!(actions[0].must_be_known());
    (only_call(&actions), world.marked.clone())
}

#[test]
fn what_the_object_says_is_taken_is_never_the_nodes_again() {
    let mut world = World::new((1, 10, 10), Families::V4, &[("s1", 100)]);
    let mut first = planner();
    let (_, taken) = taking_one(&mut world, &mut first);
    assert_eq!(first.taking(), taken);
    // Another operator, and the node wants an address again: not this one, the first operator's call may still come.
    let mut next = planner();
    world.pods = 1;
    let mut seen = world.observe();
    seen.taking.clone_from(&taken);
    let actions = next.handle(world.now, Input::Observed(seen.clone()));
    let words: Vec<&str> = actions.iter().map(Action::word).collect();
    assert_eq!(words, ["assign-addresses", "unassign-addresses"]);
    for call in actions.iter().filter_map(Action::call) {
        next.handle(world.now, Input::Finished(call, Ok(())));
    }
    // Gone, it is withheld for a while: a reading that is out of date may show it again.
    let mut gone = seen.clone();
    gone.nics[0].addresses.clear();
    gone.marked.clear();
    next.handle(world.now, Input::Observed(gone.clone()));
    assert_eq!(next.taking(), taken);
    seen.marked.clear();
    let actions = next.handle(world.now, Input::Observed(seen));
    assert!(actions.contains(&Action::MarkRelease(taken)), "{actions:?}");
    next.handle(world.now, Input::Observed(gone.clone()));
    next.handle(world.now + CONFIG.taking_hold, Input::Observed(gone));
    assert_eq!(next.taking(), BTreeSet::new());
}

#[test]
fn a_call_that_was_not_made_leaves_no_trace() {
    let mut world = World::new((1, 10, 10), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    let (call, taken) = taking_one(&mut world, &mut planner);
    planner.handle(world.now, Input::NotMade(call.clone()));
    assert_eq!(planner.taking(), BTreeSet::new());
    // The node needs it after all.
    world.pods = 1;
    let actions = planner.handle(world.now, Input::Observed(world.observe()));
    assert_eq!(actions, [Action::Unmark(taken)]);
    // Had an earlier plan told of it, it would have to go all the same.
    world.pods = 0;
    let mut seen = world.observe();
    seen.taking.clone_from(&seen.marked);
    planner.handle(world.now, Input::Observed(seen.clone()));
    planner.handle(world.now, Input::NotMade(call));
    assert_eq!(planner.taking(), seen.taking);
}

#[test]
fn an_address_that_the_cloud_gives_anew_is_a_new_one() {
    let mut world = World::new((1, 10, 10), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    let (call, taken) = taking_one(&mut world, &mut planner);
    planner.handle(world.now, Input::Finished(call, Ok(())));
    let mut seen = world.observe();
    seen.taking.clone_from(&taken);
    seen.marked.clear();
    planner.handle(world.now, Input::Given(taken.clone()));
    world.pods = 1;
    // The object still lists it.
    planner.handle(world.now, Input::Observed(seen.clone()));
    assert_eq!(planner.taking(), BTreeSet::new());
    // Now it does not; and when it does again, that is news.
    seen.taking.clear();
    planner.handle(world.now, Input::Observed(seen.clone()));
    seen.taking.clone_from(&taken);
    planner.handle(world.now, Input::Observed(seen));
    assert_eq!(planner.taking(), taken);
}
