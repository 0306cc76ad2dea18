use std::collections::BTreeSet;

use tombolo_cloud_sim::wire::{Instance, InstanceState, NicInfo, NicStatus};
use tombolo_core::types::Mac;

use super::*;

fn nic(id: &str, secondary: &[&str]) -> NicInfo {
    NicInfo {
        id: id.to_owned(),
        subnet: "s".to_owned(),
        zone: "z".to_owned(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 9001,
        description: String::new(),
        status: NicStatus::Available,
        attachment: None,
        primary4: "10.0.0.10".parse().unwrap(),
        primary6: None,
        secondary: secondary.iter().map(|a| a.parse().unwrap()).collect(),
        security_groups: Vec::new(),
        tags: BTreeMap::new(),
    }
}

fn world(nics: &[&str]) -> View {
    View {
        instances: vec![Instance {
            id: "i-1".to_owned(),
            instance_type: "t".to_owned(),
            zone: "z".to_owned(),
            state: InstanceState::Running,
            primary_nic: "eni-0".to_owned(),
        }],
        subnets: Vec::new(),
        nics: nics
            .iter()
            .map(|id| nic(id, &["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]))
            .collect(),
    }
}

fn ids(view: Option<View>) -> BTreeSet<String> {
    view.unwrap().nics.into_iter().map(|n| n.id).collect()
}

fn set(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn a_clear_lens_shows_the_world_as_it_is() {
    let mut lens = Lens::default();
    for verb in SEEING {
        assert_eq!(lens.look(Millis(5), verb, || world(&["a"])), None);
    }
    assert!(!lens.wants_past());
}

#[test]
fn a_stale_lens_shows_the_past_but_not_from_before_it_was_set() {
    let mut lens = Lens::default();
    lens.set_stale(Millis(1000), NICS, 500, world(&["a"]));
    // What happens, and what is seen, in the order of time.
    for (now, happens, wanted) in [
        (1000, None, "a"),
        (1100, Some("b"), "a"),
        (1200, Some("c"), "a"),
        (1599, None, "a"),
        (1600, None, "b"),
        (1700, None, "c"),
        (2000, Some("d"), "c"),
        (2499, None, "c"),
        (2500, None, "d"),
    ] {
        if let Some(nics) = happens {
            lens.remember(Millis(now), world(&[nics]));
        }
        let seen = lens.look(Millis(now), NICS, || unreachable!("the past is known"));
        assert_eq!(ids(seen), set(&[wanted]), "at {now}");
    }
    assert_eq!(
        lens.look(Millis(2600), "DescribeInstances", || world(&[])),
        None,
        "another verb"
    );
    lens.set_stale(Millis(3000), NICS, 0, world(&["d"]));
    assert_eq!(lens.look(Millis(3000), NICS, || world(&["d"])), None);
}

#[test]
fn no_more_of_the_past_is_kept_than_may_be_shown() {
    let mut lens = Lens::default();
    lens.set_stale(Millis(0), NICS, 100, world(&["a"]));
    for at in 1..1000 {
        lens.remember(Millis(at), world(&[&format!("n{at}")]));
        lens.remember(Millis(at), world(&[&format!("n{at}")]));
    }
    assert!(lens.past.len() <= 102, "{}", lens.past.len());
    assert_eq!(
        ids(lens.look(Millis(999), NICS, View::default)),
        set(&["n899"])
    );
}

#[test]
fn part_of_the_addresses_and_of_the_nics_for_so_many_replies() {
    let left = |view: Option<View>| -> Vec<String> {
        let view = view.unwrap();
        view.nics[0]
            .secondary
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    for (one_in, wanted) in [
        (1, &[][..]),
        (2, &["10.0.0.2", "fd00::2"]),
        (9, &["10.0.0.2", "fd00::1", "fd00::2"]),
    ] {
        let mut lens = Lens::default();
        lens.state.omit_addresses = Some(Omission { one_in, replies: 1 });
        let other = lens.look(Millis(0), "DescribeInstances", || world(&["a"]));
        assert_eq!(other, None, "counts for nothing");
        assert_eq!(left(lens.look(Millis(0), NICS, || world(&["a"]))), wanted);
        assert_eq!(lens.look(Millis(0), NICS, || world(&["a"])), None, "over");
    }
    let mut lens = Lens::default();
    lens.state.omit_nics = Some(Omission {
        one_in: 2,
        replies: 2,
    });
    let all = || world(&["a", "b", "c", "d"]);
    for _ in 0..2 {
        assert_eq!(ids(lens.look(Millis(0), NICS, all)), set(&["b", "d"]));
    }
    assert_eq!(lens.look(Millis(0), NICS, all), None);
}

#[test]
fn what_is_hidden_is_not_shown_where_it_would_be() {
    let mut lens = Lens::default();
    for what in ["i-1", "a", "10.0.0.2"] {
        lens.state.hidden.insert(what.to_owned(), 1);
    }
    let instances = lens
        .look(Millis(0), "DescribeInstances", || world(&["a", "b"]))
        .unwrap();
    assert!(instances.instances.is_empty());
    assert_eq!(
        instances.nics.len(),
        2,
        "not shown here, so not hidden here"
    );
    let nics = lens
        .look(Millis(0), NICS, || world(&["a", "b"]))
        .unwrap()
        .nics;
    assert_eq!((nics.len(), nics[0].id.as_str()), (1, "b"));
    assert_eq!(nics[0].secondary.len(), 3);
    assert_eq!(lens.look(Millis(0), NICS, || world(&["a"])), None, "over");
}
