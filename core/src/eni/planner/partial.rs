//! What is done by halves: one family without the other, part of a batch, a NIC without addresses, a reading that leaves
//! things out, an operator that begins in the middle.

use super::world::{CONFIG, Fault, World, planner, words};
use super::*;
use crate::eni::Ownership;
use crate::types::{Families, NicId};

fn dual(free: u32) -> World {
    World::new((3, 6, 6), Families::Dual, &[("s1", free), ("s2", free)])
}

fn counts(world: &World, eni: &str) -> (usize, usize) {
    let nic = world.nic(eni);
    let v4 = nic.addresses.iter().filter(|ip| ip.is_ipv4()).count();
    (v4, nic.addresses.len() - v4)
}

/// Gives a NIC addresses of one family, as an operator that was killed between two calls leaves it.
fn give(world: &mut World, planner: &mut Planner, eni: &str, family: Family, count: u16) {
    let action = Action::AssignAddresses {
        eni: eni.to_owned(),
        nic: NicId(format!("id-{eni}")),
        family,
        count,
    };
    world.call(&action).unwrap();
    // A new operator.
    *planner = Planner::new("n", CONFIG);
}

#[test]
fn one_family_assigned_and_the_other_not_is_completed_and_nothing_is_asked_twice() {
    for family in Family::ALL {
        let mut world = dual(100);
        let mut planner = planner();
        give(&mut world, &mut planner, "n-0", family, 2);
        world.settle(&mut planner);
        assert_eq!(counts(&world, "n-0"), (2, 2), "{family} came first");
        assert_eq!(words(&mut world), ["assign-addresses"]);
        assert!(world.reports.is_empty());
    }
}

#[test]
fn families_on_different_nics_become_pairs_and_the_surplus_goes_back() {
    let mut world = dual(100);
    let mut planner = planner();
    world.add_nic("n-1", 1, Ownership::Ours);
    give(&mut world, &mut planner, "n-0", Family::V4, 4);
    give(&mut world, &mut planner, "n-1", Family::V6, 4);
    world.pods = 2;
    world.settle(&mut planner);
    assert!(world.pairs() >= world.low() && world.pairs() <= world.high());
    assert!(world.reports.is_empty(), "{:?}", world.reports);
    let (v4, v6) = (counts(&world, "n-0"), world.nics.len());
    assert_eq!(v4.0, v4.1, "{:?}", world.nics);
    assert_eq!(v6, 1, "the second NIC is not needed and has gone");
}

#[test]
fn half_of_a_batch_is_taken_and_the_rest_is_asked_for() {
    let mut world = dual(100);
    let mut planner = planner();
    world.pods = 2;
    world.faults = vec![Fault::Half, Fault::Half];
    world.settle(&mut planner);
    assert_eq!(counts(&world, "n-0"), (4, 4));
    assert_eq!(words(&mut world).len(), 4, "two calls a family");
    assert!(world.reports.is_empty());
}

#[test]
fn a_subnet_full_of_one_family_sends_pods_to_another_and_its_lone_addresses_go_back() {
    let mut world = dual(100);
    world.warm = (2, 2);
    world.full6.insert("s1".to_owned());
    let mut planner = planner();
    // Not until nothing happens: IPv6 is not counted, so the subnet is asked again from time to time.
    for _ in 0..100 {
        world.step(&mut planner);
        world.now = world.now + Millis(3000);
    }
    assert_eq!(world.nics[1].subnet, "s2");
    assert_eq!((world.pairs(), world.nics.len()), (2, 2));
    assert_eq!(counts(&world, "n-0"), (0, 0), "no use without a partner");
    assert!(world.reports.is_empty(), "{:?}", world.reports);
}

#[test]
fn a_subnet_full_of_one_family_is_told_with_the_family_when_there_is_no_other() {
    let mut world = World::new((2, 6, 6), Families::Dual, &[("s1", 100)]);
    world.full6.insert("s1".to_owned());
    let mut planner = planner();
    for _ in 0..20 {
        world.step(&mut planner);
        world.now = world.now + Millis(1000);
    }
    let told: Vec<(Reason, Option<Family>)> = world
        .reports
        .iter()
        .map(|problem| (problem.reason, problem.family))
        .collect();
    assert_eq!(told, [(Reason::SubnetFull, Some(Family::V6))]);
    let asked = words(&mut world);
    assert!(asked.len() <= 3, "left alone meanwhile: {asked:?}");
    world.full6.clear();
    world.settle(&mut planner);
    assert_eq!(world.pairs(), 2);
    assert_eq!(world.cleared, [Reason::SubnetFull]);
}

#[test]
fn a_nic_that_is_attached_and_gets_no_addresses_is_told_and_filled_in_the_end() {
    for reason in [
        Reason::CloudError,
        Reason::CloudThrottled,
        Reason::AddressLimit,
    ] {
        let mut world = World::new((2, 6, 6), Families::V4, &[("s1", 100)]);
        let mut planner = planner();
        world.faults = vec![Fault::Refuse(reason); 3];
        world.settle(&mut planner);
        assert_eq!(world.pairs(), 2, "{reason}");
        assert_eq!(world.reports[0].reason, reason);
        assert!(world.cleared.contains(&reason), "{:?}", world.cleared);
        assert_eq!(world.nics.len(), 1, "{reason}: {:?}", world.nics);
    }
}

#[test]
fn a_nic_made_for_us_by_a_dead_operator_is_attached_or_deleted() {
    for (pods, left) in [(4, 2), (0, 1)] {
        let mut world = dual(100);
        world.add_nic("n-1-old", 1, Ownership::Ours);
        world.nics[1].state = NicState::Available;
        world.pods = pods;
        let mut planner = planner();
        world.settle(&mut planner);
        assert_eq!(world.nics.len(), left, "{pods} pods");
        let made = words(&mut world);
        assert!(!made.contains(&"create-nic".to_owned()), "{made:?}");
    }
}

#[test]
fn a_nic_that_a_dead_operator_was_attaching_is_waited_for_and_no_second_one_made() {
    let mut world = dual(100);
    world.add_nic("n-1-old", 1, Ownership::Ours);
    world.nics[1].state = NicState::Attaching;
    let arrives = world.now + Millis(5000);
    world.arriving.insert("n-1-old".to_owned(), arrives);
    world.pods = 6;
    let mut planner = planner();
    world.settle(&mut planner);
    assert_eq!((world.nics.len(), world.pairs()), (2, 8));
    let made = words(&mut world);
    assert!(
        made.iter().all(|word| word == "assign-addresses"),
        "{made:?}"
    );
}

#[test]
fn an_attachment_that_never_comes_is_given_up_even_at_the_limit_of_nics() {
    let mut world = World::new((2, 4, 4), Families::V4, &[("s1", 100)]);
    world.attach_delay = Millis(u64::MAX / 2);
    let mut planner = planner();
    world.pods = 3;
    world.step(&mut planner);
    world.step(&mut planner);
    world.attach_delay = Millis(2000);
    let before = world.now;
    world.settle(&mut planner);
    assert_eq!((world.pairs(), world.nics.len()), (5, 2));
    assert_eq!(
        words(&mut world),
        [
            "assign-addresses",
            "create-nic",
            "attach-nic",
            "detach-nic",
            "attach-nic"
        ],
        "the same NIC once more"
    );
    assert!(world.now.0 - before.0 >= CONFIG.attach_patience().0);
    assert_eq!(told(&world), [Reason::AttachTimeout], "once, and no limit");
    assert_eq!(world.cleared, [Reason::AttachTimeout]);
}

fn told(world: &World) -> Vec<Reason> {
    world.reports.iter().map(|problem| problem.reason).collect()
}

#[test]
fn an_attachment_that_fails_again_and_again_is_told_as_one_that_does_not_come() {
    let mut world = World::new((2, 4, 4), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.pods = 3;
    let pause = Millis(5000);
    let begun = world.now;
    while told(&world).is_empty() {
        world.step(&mut planner);
        world.step(&mut planner);
        assert_eq!(world.nics[1].state, NicState::Attaching);
        world.nics[1].state = NicState::Available;
        world.arriving.clear();
        world.now = world.now + pause;
        assert!(world.now - begun < CONFIG.attach_patience(), "never told");
    }
    assert!(world.now - begun >= CONFIG.attach_timeout);
    world.settle(&mut planner);
    assert_eq!(told(&world), [Reason::AttachTimeout], "once, and no limit");
    assert_eq!(world.cleared, [Reason::AttachTimeout]);
}

/// Two NICs with pods on both; then the second one's addresses are left out of every reading.
fn half_blind() -> (World, Planner) {
    let mut world = World::new((3, 4, 4), Families::V4, &[("s1", 100)]);
    let mut planner = planner();
    world.warm = (0, 1);
    world.pods = 4;
    world.settle(&mut planner);
    assert_eq!(world.nics.len(), 2);
    words(&mut world);
    let last = world.nics[1].eni.clone();
    world.hidden = world.nic(&last).addresses.clone();
    world.blinded = true;
    (world, planner)
}

#[test]
fn a_nic_whose_addresses_are_not_shown_is_kept_while_pods_use_them() {
    let (mut world, mut planner) = half_blind();
    // The pods that are left are those of the second NIC.
    let hidden = world.hidden.clone();
    world.bound.retain(|pair| !pair.is_disjoint(&hidden));
    world.pods = u32::try_from(world.bound.len()).unwrap();
    assert!(world.pods > 0);
    world.settle(&mut planner);
    let done = words(&mut world);
    assert!(!done.contains(&"detach-nic".to_owned()), "{done:?}");
    assert_eq!(world.nics.len(), 2);
    world.hidden.clear();
    world.settle(&mut planner);
    assert!(world.nics.len() <= 2 && world.pairs() >= world.low());
}

#[test]
fn a_nic_is_detached_only_when_the_node_has_seen_that_it_is_empty() {
    let (mut world, mut planner) = half_blind();
    world.pods = 0;
    world.heard = false;
    world.settle(&mut planner);
    let done = words(&mut world);
    assert!(!done.contains(&"detach-nic".to_owned()), "{done:?}");
    world.heard = true;
    world.settle(&mut planner);
    assert!(words(&mut world).contains(&"detach-nic".to_owned()));
}
