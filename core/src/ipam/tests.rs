//! Transitions, one test an idea; the model test is in `tests/model.rs`.

mod model;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::*;
use crate::datapath::EndpointAddress;
use crate::types::{AttachmentKey, Families, Family, Millis, NicId, Reason};

pub(super) fn config(families: Families) -> PoolConfig {
    PoolConfig {
        families,
        warm_min: 1,
        warm_max: 4,
        cooling: Millis::from_secs(30),
        churn_window: Millis::from_secs(60),
        max_pods: 10,
    }
}

pub(super) fn key(n: u32) -> AttachmentKey {
    AttachmentKey::new("net", &format!("c{n}"), "eth0").unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nic(index: u16, addresses: &[&str]) -> NicSupply {
    NicSupply {
        nic: NicId(format!("eni-{index}")),
        usable: true,
        device_index: index,
        addresses: addresses.iter().map(|text| ip(text)).collect(),
    }
}

fn at(index: u16, text: &str) -> EndpointAddress {
    EndpointAddress {
        ip: ip(text),
        nic: NicId(format!("eni-{index}")),
    }
}

fn pool(families: Families, nics: Vec<NicSupply>) -> Pool {
    let mut pool = Pool::new(config(families));
    assert_eq!(pool.handle(Millis(0), Input::Supply(nics)), []);
    pool
}

fn marks(texts: &[&str]) -> Input {
    Input::Marked(texts.iter().map(|text| ip(text)).collect::<BTreeSet<_>>())
}

fn state(pool: &Pool, text: &str) -> Option<AddressState> {
    pool.addresses().remove(&ip(text)).map(|(_, state)| state)
}

#[test]
fn pair_comes_from_one_nic_where_possible() {
    let nics = vec![
        nic(0, &["10.0.0.1"]),
        nic(1, &["10.0.1.1", "fd00::11"]),
        nic(2, &["fd00::21"]),
    ];
    let mut pool = pool(Families::Dual, nics);
    let pair = vec![at(1, "10.0.1.1"), at(1, "fd00::11")];
    assert_eq!(
        pool.handle(Millis(1), Input::Reserve(key(1))),
        [Action::Assign(key(1), pair)]
    );
    // None has both any more: the lowest NIC of each family.
    let pair = vec![at(0, "10.0.0.1"), at(2, "fd00::21")];
    assert_eq!(
        pool.handle(Millis(2), Input::Reserve(key(2))),
        [Action::Assign(key(2), pair)]
    );
    assert_eq!(
        pool.handle(Millis(3), Input::Reserve(key(3))),
        [Action::Wait(key(3))]
    );
}

#[test]
fn half_a_pair_is_not_taken() {
    let mut pool = pool(Families::Dual, vec![nic(0, &["10.0.0.1"])]);
    assert_eq!(
        pool.handle(Millis(1), Input::Reserve(key(1))),
        [Action::Wait(key(1))]
    );
    assert_eq!(state(&pool, "10.0.0.1"), Some(AddressState::Free));
}

#[test]
fn lowest_nic_first_then_longest_free_first() {
    let mut pool = pool(
        Families::V4,
        vec![nic(1, &["10.0.1.1"]), nic(0, &["10.0.0.9", "10.0.0.1"])],
    );
    let mut taken = Vec::new();
    for n in 0..3 {
        match pool.handle(Millis(1), Input::Reserve(key(n))).remove(0) {
            Action::Assign(_, addresses) => taken.push(addresses[0].clone()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        taken,
        [at(0, "10.0.0.9"), at(0, "10.0.0.1"), at(1, "10.0.1.1")]
    );
}

#[test]
fn same_key_gets_the_same_answer() {
    let mut pool = pool(Families::V4, vec![nic(0, &["10.0.0.1", "10.0.0.2"])]);
    let answer = pool.handle(Millis(1), Input::Reserve(key(1)));
    assert_eq!(pool.handle(Millis(2), Input::Reserve(key(1))), answer);
    assert_eq!(pool.counts()[&Family::V4].bound, 1);
}

#[test]
fn rest_lasts_from_removal_to_the_end_of_cooling() {
    let mut pool = pool(Families::V4, vec![nic(0, &["10.0.0.1"])]);
    pool.handle(Millis(1), Input::Reserve(key(1)));
    assert_eq!(pool.handle(Millis(2), Input::Release(key(1))), []);
    assert_eq!(
        pool.handle(Millis(3), Input::Reserve(key(2))),
        [Action::Wait(key(2))]
    );
    assert_eq!(
        pool.handle(Millis(4), Input::Reserve(key(1))),
        [Action::Refuse(key(1), Reason::Superseded)]
    );
    let until = Millis(30_010);
    assert_eq!(
        pool.handle(Millis(10), Input::Removed(key(1))),
        [Action::Cool(at(0, "10.0.0.1"), until)]
    );
    assert_eq!(pool.handle(Millis(30_009), Input::Tick), []);
    assert_eq!(
        pool.handle(until, Input::Tick),
        [
            Action::Cooled(ip("10.0.0.1")),
            Action::Assign(key(2), vec![at(0, "10.0.0.1")])
        ]
    );
}

#[test]
fn removal_that_was_not_asked_for_changes_nothing() {
    let mut pool = pool(Families::V4, vec![nic(0, &["10.0.0.1"])]);
    pool.handle(Millis(1), Input::Reserve(key(1)));
    assert_eq!(pool.handle(Millis(2), Input::Removed(key(1))), []);
    assert_eq!(pool.handle(Millis(2), Input::Release(key(9))), []);
    assert_eq!(pool.bound(&key(1)), Some([at(0, "10.0.0.1")].as_slice()));
}

#[test]
fn waiting_adds_are_served_in_order_and_can_leave() {
    let mut pool = pool(Families::V4, vec![]);
    for n in 1..=4 {
        assert_eq!(
            pool.handle(Millis(1), Input::Reserve(key(n))),
            [Action::Wait(key(n))]
        );
    }
    assert_eq!(pool.handle(Millis(2), Input::Cancel(key(2))), []);
    assert_eq!(
        pool.handle(Millis(2), Input::Release(key(3))),
        [Action::Refuse(key(3), Reason::Superseded)]
    );
    assert_eq!(
        pool.handle(
            Millis(3),
            Input::Supply(vec![nic(0, &["10.0.0.1", "10.0.0.2"])])
        ),
        [
            Action::Assign(key(1), vec![at(0, "10.0.0.1")]),
            Action::Assign(key(4), vec![at(0, "10.0.0.2")])
        ]
    );
}

#[test]
fn what_was_never_wired_needs_no_rest() {
    let mut pool = pool(Families::V4, vec![nic(0, &["10.0.0.1"])]);
    pool.handle(Millis(1), Input::Reserve(key(1)));
    pool.handle(Millis(1), Input::Reserve(key(2)));
    assert_eq!(
        pool.handle(Millis(2), Input::Abandon(key(1))),
        [Action::Assign(key(2), vec![at(0, "10.0.0.1")])]
    );
}

#[test]
fn unusable_nic_lends_nothing() {
    let mut supply = nic(0, &["10.0.0.1"]);
    supply.usable = false;
    let mut pool = pool(Families::V4, vec![supply]);
    assert_eq!(
        pool.handle(Millis(1), Input::Reserve(key(1))),
        [Action::Wait(key(1))]
    );
    assert_eq!(
        pool.handle(Millis(2), Input::Supply(vec![nic(0, &["10.0.0.1"])])),
        [Action::Assign(key(1), vec![at(0, "10.0.0.1")])]
    );
}

#[test]
fn only_free_addresses_are_yielded() {
    let mut pool = pool(
        Families::V4,
        vec![nic(0, &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"])],
    );
    for n in 1..=3 {
        pool.handle(Millis(1), Input::Reserve(key(n)));
    }
    pool.handle(Millis(1), Input::Release(key(2)));
    pool.handle(Millis(1), Input::Release(key(3)));
    pool.handle(Millis(1), Input::Removed(key(3)));
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.99"];
    let answers =
        all.map(|text| Action::Consent(ip(text), matches!(text, "10.0.0.4" | "10.0.0.99")));
    assert_eq!(pool.handle(Millis(2), marks(&all)), answers);
    assert_eq!(pool.consents().values().filter(|yes| **yes).count(), 2);
    assert_eq!(
        pool.handle(Millis(3), Input::Reserve(key(4))),
        [Action::Wait(key(4))]
    );
    // Still marked when its rest ends: then we agree.
    assert_eq!(
        pool.handle(Millis(30_001), Input::Tick),
        [
            Action::Cooled(ip("10.0.0.3")),
            Action::Consent(ip("10.0.0.3"), true)
        ]
    );
    // The mark goes away and the address does not: free again, for the ADD that waits.
    assert_eq!(
        pool.handle(Millis(30_002), marks(&["10.0.0.4"])),
        [Action::Consent(ip("10.0.0.4"), true)]
    );
    let same = vec![nic(0, &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"])];
    assert_eq!(
        pool.handle(Millis(30_002), Input::Supply(same)),
        [Action::Assign(key(4), vec![at(0, "10.0.0.3")])]
    );
}

#[test]
fn what_was_given_back_loses_its_mark_and_serves_nobody() {
    let mut pool = pool(Families::V4, vec![nic(0, &["10.0.0.1"])]);
    pool.handle(Millis(0), marks(&["10.0.0.1"]));
    assert_eq!(
        pool.handle(Millis(1), Input::Reserve(key(1))),
        [Action::Wait(key(1))]
    );
    // The cloud took it: the object has neither the mark nor the address.
    let gone = Input::of_specification(BTreeSet::new(), vec![nic(0, &[])]);
    for input in gone {
        assert_eq!(pool.handle(Millis(2), input), []);
    }
    assert_eq!(state(&pool, "10.0.0.1"), None);
    assert_eq!(pool.bound(&key(1)), None);
}

#[test]
fn what_the_next_supply_lacks_serves_nobody_while_the_marks_go_in() {
    let mut pool = pool(Families::V4, vec![nic(0, &["10.0.0.1"])]);
    pool.handle(Millis(0), Input::Reserve(key(1)));
    pool.handle(Millis(0), Input::Release(key(1)));
    pool.handle(Millis(0), Input::Removed(key(1)));
    pool.handle(Millis(0), Input::Reserve(key(2)));
    // Its rest is over at the very moment at which it is told that the cloud no longer has it.
    let gone = Input::of_specification(BTreeSet::new(), vec![nic(0, &[])]);
    let actions: Vec<Action> = gone
        .into_iter()
        .flat_map(|input| pool.handle(Millis(30_000), input))
        .collect();
    assert_eq!(actions, [Action::Cooled(ip("10.0.0.1"))]);
    assert_eq!(pool.bound(&key(2)), None);
}

#[test]
fn address_that_arrives_marked_is_never_free() {
    let mut pool = pool(Families::V4, vec![]);
    pool.handle(Millis(0), Input::Reserve(key(1)));
    pool.handle(Millis(0), marks(&["10.0.0.1"]));
    assert_eq!(
        pool.handle(Millis(1), Input::Supply(vec![nic(0, &["10.0.0.1"])])),
        [Action::Consent(ip("10.0.0.1"), true)]
    );
    assert_eq!(state(&pool, "10.0.0.1"), Some(AddressState::Yielded));
}

#[test]
fn what_the_cloud_takes_away() {
    let mut pool = pool(
        Families::V4,
        vec![nic(0, &["10.0.0.1", "10.0.0.2", "10.0.0.3"])],
    );
    pool.handle(Millis(0), Input::Reserve(key(1)));
    pool.handle(Millis(0), Input::Reserve(key(2)));
    pool.handle(Millis(0), Input::Release(key(2)));
    pool.handle(Millis(0), Input::Removed(key(2)));
    let lost = [Action::Lost(key(1), ip("10.0.0.1"))];
    assert_eq!(
        pool.handle(Millis(1), Input::Supply(vec![nic(0, &[])])),
        lost
    );
    assert_eq!(
        pool.handle(Millis(2), Input::Supply(vec![nic(0, &[])])),
        [],
        "told once"
    );
    assert_eq!(state(&pool, "10.0.0.1"), Some(AddressState::Bound(key(1))));
    assert_eq!(state(&pool, "10.0.0.3"), None);
    assert_eq!(
        pool.demand(Millis(2))[&Family::V4].low,
        2,
        "warm by two recent reservations, nothing in use"
    );
    // Back before its rest is over: still resting.
    pool.handle(Millis(3), Input::Supply(vec![nic(0, &["10.0.0.2"])]));
    assert_eq!(
        pool.handle(Millis(4), Input::Reserve(key(3))),
        [Action::Wait(key(3))]
    );
    // The holder goes: rest, then nothing.
    pool.handle(Millis(5), Input::Release(key(1)));
    pool.handle(Millis(5), Input::Removed(key(1)));
    pool.handle(Millis(60_000), Input::Tick);
    assert_eq!(state(&pool, "10.0.0.1"), None);
}

#[test]
fn restart() {
    let mut pool = Pool::new(config(Families::Dual));
    let pair = vec![at(1, "10.0.1.1"), at(0, "fd00::1")];
    assert_eq!(
        pool.handle(
            Millis(0),
            Input::RestoreCooling(at(1, "10.0.1.1"), Millis(9))
        ),
        []
    );
    assert_eq!(
        pool.handle(Millis(0), Input::Restore(key(1), pair.clone())),
        [Action::Cooled(ip("10.0.1.1"))],
        "a holder beats a note"
    );
    assert_eq!(
        pool.handle(Millis(0), Input::Restore(key(2), vec![at(1, "10.0.1.1")])),
        [Action::Refuse(key(2), Reason::JournalError)]
    );
    pool.handle(
        Millis(0),
        Input::RestoreCooling(at(0, "10.0.0.2"), Millis(u64::MAX)),
    );
    assert_eq!(
        pool.next_deadline(),
        Some(Millis(30_000)),
        "no rest is longer than the configured one"
    );
    let nics = vec![nic(0, &["10.0.0.2", "fd00::1"]), nic(1, &["10.0.1.1"])];
    assert_eq!(pool.handle(Millis(1), Input::Supply(nics)), []);
    assert_eq!(
        pool.handle(Millis(1), Input::Reserve(key(1))),
        [Action::Assign(key(1), pair)]
    );
}

#[test]
fn demand_follows_counts_and_churn() {
    let mut pool = pool(Families::V4, vec![nic(0, &["10.0.0.1", "10.0.0.2"])]);
    let demand = |pool: &Pool, now| {
        let demand = pool.demand(now);
        assert_eq!(demand[&Family::V6], Demand::default());
        (demand[&Family::V4].low, demand[&Family::V4].high)
    };
    assert_eq!(demand(&pool, Millis(0)), (1, 4), "warm_min, warm_max");
    for n in 1..=3 {
        pool.handle(Millis(0), Input::Reserve(key(n)));
    }
    assert_eq!(
        demand(&pool, Millis(1)),
        (2 + 1 + 3, 2 + 1 + 4),
        "bound, waiting, churn"
    );
    assert_eq!(demand(&pool, Millis(60_000)), (4, 7), "churn is over");
    for n in 4..=20 {
        pool.handle(Millis(1), Input::Reserve(key(n)));
    }
    assert_eq!(demand(&pool, Millis(1)), (10, 10), "max_pods");
    pool.handle(Millis(2), Input::Release(key(1)));
    assert_eq!(
        demand(&pool, Millis(2)),
        (11, 11),
        "a draining address serves no pod"
    );
}

#[test]
fn emptiest_last_nic_gives_back_first_and_the_primary_last() {
    let nics = vec![
        nic(0, &["10.0.0.1", "10.0.0.2"]),
        nic(1, &["10.0.1.1"]),
        nic(2, &["10.0.2.1", "10.0.2.2"]),
    ];
    let mut pool = pool(Families::V4, nics);
    pool.handle(Millis(0), Input::Restore(key(1), vec![at(2, "10.0.2.1")]));
    let order = [
        at(1, "10.0.1.1"),
        at(2, "10.0.2.2"),
        at(0, "10.0.0.2"),
        at(0, "10.0.0.1"),
    ];
    assert_eq!(pool.releasable(), order);
}

#[test]
fn clock_set_back_prolongs_no_rest_beyond_the_configured() {
    let mut pool = pool(Families::V4, vec![nic(0, &["10.0.0.1"])]);
    let late = Millis(1_000_000);
    pool.handle(late, Input::Reserve(key(1)));
    pool.handle(late, Input::Release(key(1)));
    pool.handle(late, Input::Removed(key(1)));
    pool.handle(Millis(0), Input::Tick);
    assert_eq!(
        pool.handle(Millis(30_000), Input::Tick),
        [Action::Cooled(ip("10.0.0.1"))]
    );
}
