use super::*;
use tombolo_core::types::Mac;

pub const TRUST: Trust = Trust {
    confirm_after: Millis(5000),
    stale_grace: Millis(60_000),
};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn nic(id: &str, instance: Option<(&str, u16)>, secondary: &[&str]) -> NicInfo {
    NicInfo {
        id: id.to_owned(),
        subnet: "s1".to_owned(),
        zone: "z1".to_owned(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        mtu: 9001,
        description: String::new(),
        status: if instance.is_some() {
            NicStatus::InUse
        } else {
            NicStatus::Available
        },
        attachment: instance.map(|(instance, device_index)| Attachment {
            instance: instance.to_owned(),
            device_index,
            delete_on_termination: true,
        }),
        primary4: "10.0.0.10".parse().unwrap(),
        primary6: None,
        secondary: secondary.iter().map(|text| ip(text)).collect(),
        security_groups: vec!["sg-1".to_owned()],
        tags: BTreeMap::new(),
    }
}

pub fn subnet(id: &str, available4: u32) -> Subnet {
    Subnet {
        id: id.to_owned(),
        zone: "z1".to_owned(),
        cidr4: "10.0.0.0/24".parse().unwrap(),
        cidr6: Some("fd00::/64".parse().unwrap()),
        available4,
        gateway4: "10.0.0.1".parse().unwrap(),
        gateway6: "fe80::1".parse().unwrap(),
        tags: BTreeMap::new(),
    }
}

pub fn instance(id: &str, state: InstanceState) -> Instance {
    Instance {
        id: id.to_owned(),
        instance_type: "small".to_owned(),
        zone: "z1".to_owned(),
        state,
        primary_nic: "eni-0".to_owned(),
    }
}

pub fn reading(instances: Vec<Instance>, nics: Vec<NicInfo>) -> Reading {
    let vpc = Vpc {
        id: "vpc-1".to_owned(),
        cidrs: vec!["10.0.0.0/16".parse().unwrap()],
    };
    Reading {
        vpc,
        instances,
        subnets: vec![subnet("s1", 100), subnet("s2", 50)],
        nics,
    }
}

fn secondary(snapshot: &Snapshot, nic: &str) -> Vec<String> {
    let mut all: Vec<String> = snapshot.nics[nic]
        .info
        .secondary
        .iter()
        .map(ToString::to_string)
        .collect();
    all.sort();
    all
}

fn read(snapshot: &mut Snapshot, at: u64, nics: Vec<NicInfo>) {
    let begun = snapshot.writes();
    snapshot.absorb(reading(vec![], nics), begun, Millis(at), TRUST);
}

#[test]
fn what_grows_is_believed_what_shrinks_needs_two_readings() {
    let mut s = Snapshot::default();
    read(
        &mut s,
        0,
        vec![nic("e", Some(("i", 1)), &["10.0.0.11", "10.0.0.12"])],
    );
    read(
        &mut s,
        1000,
        vec![nic("e", Some(("i", 1)), &["10.0.0.12", "10.0.0.13"])],
    );
    assert_eq!(secondary(&s, "e"), ["10.0.0.11", "10.0.0.12", "10.0.0.13"]);
    assert!(s.awaits_confirmation());
    // Another address missing: its own two readings count.
    read(&mut s, 7000, vec![nic("e", Some(("i", 1)), &["10.0.0.13"])]);
    assert_eq!(secondary(&s, "e"), ["10.0.0.12", "10.0.0.13"]);
    // Back again: forgiven.
    read(
        &mut s,
        8000,
        vec![nic("e", Some(("i", 1)), &["10.0.0.12", "10.0.0.13"])],
    );
    read(
        &mut s,
        20_000,
        vec![nic("e", Some(("i", 1)), &["10.0.0.13"])],
    );
    assert_eq!(secondary(&s, "e"), ["10.0.0.12", "10.0.0.13"]);
}

#[test]
fn an_attachment_and_a_nic_are_gone_after_two_readings() {
    let mut s = Snapshot::default();
    read(&mut s, 0, vec![nic("e", Some(("i", 1)), &[])]);
    read(&mut s, 1000, vec![nic("e", None, &[])]);
    assert_eq!(
        (s.nics["e"].instance(), s.nics["e"].info.status),
        (Some("i"), NicStatus::InUse)
    );
    read(&mut s, 3000, vec![nic("e", None, &[])]);
    assert_eq!(
        s.nics["e"].instance(),
        Some("i"),
        "too soon after the first"
    );
    read(&mut s, 6000, vec![nic("e", None, &[])]);
    assert_eq!(
        (s.nics["e"].instance(), s.nics["e"].info.status),
        (None, NicStatus::Available)
    );
    read(&mut s, 7000, vec![]);
    assert!(s.nics.contains_key("e") && s.awaits_confirmation());
    read(&mut s, 12_000, vec![]);
    assert!(s.nics.is_empty() && !s.awaits_confirmation());
}

#[test]
fn our_writes_outrank_readings_that_began_before_them() {
    let mut s = Snapshot::default();
    read(&mut s, 0, vec![nic("e", Some(("i", 1)), &["10.0.0.11"])]);
    let begun = s.writes();
    s.assigned("e", &[ip("10.0.0.12"), ip("fd00::12")], Millis(0), TRUST);
    assert_eq!(s.subnets["s1"].available4, 99);
    let stale = || reading(vec![], vec![nic("e", Some(("i", 1)), &["10.0.0.11"])]);
    s.absorb(stale(), begun, Millis(9000), TRUST);
    s.absorb(stale(), begun, Millis(18_000), TRUST);
    assert_eq!(secondary(&s, "e"), ["10.0.0.11", "10.0.0.12", "fd00::12"]);
}

#[test]
fn what_we_gave_back_does_not_come_back_by_a_stale_reading() {
    let mut s = Snapshot::default();
    let full = || vec![nic("e", Some(("i", 1)), &["10.0.0.11", "10.0.0.12"])];
    read(&mut s, 0, full());
    s.unassigned("e", &[ip("10.0.0.11")], Millis(1000), TRUST);
    assert_eq!(secondary(&s, "e"), ["10.0.0.12"]);
    read(&mut s, 2000, full());
    assert_eq!(secondary(&s, "e"), ["10.0.0.12"]);
    // The cloud insists: it never went.
    read(&mut s, 62_000, full());
    assert_eq!(secondary(&s, "e"), ["10.0.0.11", "10.0.0.12"]);
    // Given to us anew: believed at once.
    s.unassigned("e", &[ip("10.0.0.11")], Millis(63_000), TRUST);
    s.assigned("e", &[ip("10.0.0.11")], Millis(63_000), TRUST);
    read(&mut s, 64_000, full());
    assert_eq!(secondary(&s, "e"), ["10.0.0.11", "10.0.0.12"]);
}

#[test]
fn an_address_on_another_nic_has_left_the_first_at_once() {
    let mut s = Snapshot::default();
    let nics = |one: &[&str], two: &[&str]| {
        vec![nic("a", Some(("i", 1)), one), nic("b", Some(("j", 1)), two)]
    };
    read(&mut s, 0, nics(&["10.0.0.11", "10.0.0.12"], &[]));
    assert!(!s.has_moved());
    read(&mut s, 1000, nics(&["10.0.0.11"], &["10.0.0.12"]));
    assert_eq!(secondary(&s, "a"), ["10.0.0.11"], "no second reading");
    assert_eq!(secondary(&s, "b"), ["10.0.0.12"]);
    assert_eq!(s.moved_from(ip("10.0.0.12")), Some("i"));
    assert_eq!(s.moved_from(ip("10.0.0.11")), None);
    // Only the NIC that gained it was read.
    let begun = s.writes();
    let gained = vec![nic("b", Some(("j", 1)), &["10.0.0.11", "10.0.0.12"])];
    s.absorb_nics(gained, begun, Millis(2000), TRUST);
    assert!(secondary(&s, "a").is_empty());
    assert_eq!(s.moved_from(ip("10.0.0.11")), Some("i"));
    s.settle_move(ip("10.0.0.11"));
    s.settle_move(ip("10.0.0.12"));
    assert!(!s.has_moved());
    // Between NICs of one instance: nobody else is in danger.
    let own = || {
        vec![
            nic("a", Some(("i", 1)), &[]),
            nic("b", Some(("j", 1)), &["10.0.0.11"]),
            nic("c", Some(("j", 2)), &["10.0.0.12"]),
        ]
    };
    read(&mut s, 3000, own());
    assert!(!s.has_moved() && secondary(&s, "b") == ["10.0.0.11"]);
}

#[test]
fn what_a_node_counts_on_and_another_has_moved_before_we_began() {
    let mut s = Snapshot::default();
    read(
        &mut s,
        0,
        vec![
            nic("a", Some(("i", 1)), &["10.0.0.11"]),
            nic("b", Some(("j", 1)), &["10.0.0.12"]),
        ],
    );
    let claims = ["10.0.0.11", "10.0.0.12", "10.0.0.13"];
    s.claim(claims.iter().map(|text| (ip(text), "i".to_owned())));
    assert_eq!(s.moved_from(ip("10.0.0.11")), None, "it is there");
    assert_eq!(s.moved_from(ip("10.0.0.12")), Some("i"));
    assert_eq!(s.moved_from(ip("10.0.0.13")), None, "nobody has it");
}

#[test]
fn readings_that_lag_behind_do_not_undo_what_we_made_or_were_given() {
    let mut s = Snapshot::default();
    read(&mut s, 0, vec![nic("e", Some(("i", 1)), &["10.0.0.11"])]);
    s.put_nic(nic("new", None, &["10.0.0.20"]), Millis(1000), TRUST);
    s.assigned("e", &[ip("10.0.0.12")], Millis(1000), TRUST);
    let old = || vec![nic("e", Some(("i", 1)), &["10.0.0.11"])];
    for at in [2000, 8000, 30_000, 60_000] {
        read(&mut s, at, old());
        assert_eq!(secondary(&s, "e"), ["10.0.0.11", "10.0.0.12"], "at {at}");
        assert_eq!(secondary(&s, "new"), ["10.0.0.20"], "at {at}");
        assert!(!s.awaits_confirmation(), "nothing is in doubt at {at}");
    }
    // By now the copies have caught up: it has really gone, and two readings say so.
    read(&mut s, 62_000, old());
    assert_eq!(secondary(&s, "e"), ["10.0.0.11", "10.0.0.12"]);
    read(&mut s, 68_000, old());
    assert_eq!(secondary(&s, "e"), ["10.0.0.11"]);
    assert!(!s.nics.contains_key("new"));
}

#[test]
fn a_nic_that_we_made_attached_detached_and_deleted() {
    let mut s = Snapshot::default();
    read(&mut s, 0, vec![]);
    s.put_nic(nic("e", None, &["10.0.0.11"]), Millis(0), TRUST);
    assert_eq!(s.subnets["s1"].available4, 98);
    let attachment = Attachment {
        instance: "i".to_owned(),
        device_index: 1,
        delete_on_termination: true,
    };
    s.attaching("e", attachment);
    assert!(s.nics["e"].in_transition());
    // Not visible yet: one reading does not undo it.
    read(&mut s, 100, vec![nic("e", None, &["10.0.0.11"])]);
    assert!(s.nics["e"].in_transition());
    read(&mut s, 200, vec![nic("e", Some(("i", 1)), &["10.0.0.11"])]);
    assert_eq!(s.nics["e"].info.status, NicStatus::InUse);
    s.detaching("e");
    read(&mut s, 300, vec![nic("e", None, &["10.0.0.11"])]);
    assert_eq!(
        s.nics["e"].info.status,
        NicStatus::Available,
        "asked for, so one reading will do"
    );
    s.forget("e", Millis(400), TRUST);
    read(&mut s, 500, vec![nic("e", None, &[])]);
    assert!(s.nics.is_empty(), "a stale reading does not bring it back");
}

#[test]
fn terminated_takes_two_readings_and_absence_is_not_termination() {
    let mut s = Snapshot::default();
    let mut see = |at, state: Option<InstanceState>| {
        let instances = state
            .map(|state| instance("i", state))
            .into_iter()
            .collect();
        let begun = s.writes();
        s.absorb(reading(instances, vec![]), begun, Millis(at), TRUST);
        (
            s.instances["i"].is_terminated(),
            s.instances["i"].absent_since(),
        )
    };
    assert_eq!(see(0, Some(InstanceState::Running)), (false, None));
    assert_eq!(see(1, Some(InstanceState::Terminated)), (false, None));
    assert_eq!(see(2, Some(InstanceState::Terminated)), (false, None));
    assert_eq!(see(3, Some(InstanceState::Running)), (false, None));
    assert_eq!(see(10_000, None), (false, Some(Millis(10_000))));
    assert_eq!(see(20_000, None), (false, Some(Millis(10_000))));
    assert_eq!(see(21_000, Some(InstanceState::Terminated)), (false, None));
    assert_eq!(see(26_000, Some(InstanceState::Terminated)), (true, None));
}
