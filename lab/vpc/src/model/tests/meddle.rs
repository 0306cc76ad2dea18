//! Attachments that come to nothing, and what others do behind the product's back.

use super::*;

fn assigned(m: &mut Model, nic: &str, family: Family, count: u16) -> Vec<IpAddr> {
    let call = AssignAddresses {
        nic: nic.to_owned(),
        family,
        count,
    };
    m.assign_addresses(&call).unwrap().addresses
}

fn attached(m: &mut Model, instance: &str) -> String {
    let nic = m.create_nic(&create("a")).unwrap().id;
    m.attach_nic(Millis(0), &attach(&nic, instance, 1)).unwrap();
    m.tick(Millis(400));
    settle(m);
    assert_eq!(status(m, &nic), NicStatus::InUse);
    nic
}

#[test]
fn an_attachment_that_fails_was_accepted_and_ends_without_a_link() {
    let mut m = model();
    let i = run(&mut m, "vm", "a");
    let nic = m.create_nic(&create("a")).unwrap().id;
    m.set_attach_end(AttachEnd::Fails, 1);
    let call = AttachNic {
        delete_on_termination: true,
        ..attach(&nic, &i, 1)
    };
    m.attach_nic(Millis(0), &call).unwrap();
    assert_eq!(m.attach_ends(AttachEnd::Fails), 0);
    m.tick(Millis(299));
    assert_eq!(status(&m, &nic), NicStatus::Attaching);
    m.tick(Millis(300));
    assert!(!m.desired().plugs.contains_key(&nic), "no link, ever");
    settle(&mut m);
    assert_eq!(status(&m, &nic), NicStatus::Available);
    assert!(m.nic(&nic).unwrap().attachment.is_none());
    check(&m);
    m.attach_nic(Millis(400), &attach(&nic, &i, 1)).unwrap();
    m.tick(Millis(700));
    settle(&mut m);
    assert_eq!(status(&m, &nic), NicStatus::InUse, "the next one is good");
}

#[test]
fn an_attachment_that_sticks_stays_until_it_is_detached() {
    let mut m = model();
    let i = run(&mut m, "vm", "a");
    let nic = m.create_nic(&create("a")).unwrap().id;
    m.set_attach_end(AttachEnd::Sticks, 1);
    m.attach_nic(Millis(0), &attach(&nic, &i, 1)).unwrap();
    m.tick(Millis(10_000_000));
    settle(&mut m);
    assert_eq!(
        (status(&m, &nic), m.next_due()),
        (NicStatus::Attaching, None)
    );
    m.detach_nic(Millis(10_000_000), &nic).unwrap();
    settle(&mut m);
    assert_eq!(status(&m, &nic), NicStatus::Available);
    check(&m);
}

#[test]
fn an_address_is_taken_away_or_moved() {
    let mut m = model();
    let i = run(&mut m, "vm", "a");
    let nic = attached(&mut m, &i);
    let primary = m.list_instances()[0].primary_nic.clone();
    let v4 = assigned(&mut m, &nic, Family::V4, 2);
    let v6 = assigned(&mut m, &nic, Family::V6, 1);
    let before = m.generation();
    m.take_address(v4[0]).unwrap();
    m.move_address(v4[1], &primary).unwrap();
    m.move_address(v6[0], &primary).unwrap();
    assert!(m.generation() > before, "the fabric hears of it");
    assert!(m.nic(&nic).unwrap().secondary.is_empty());
    assert_eq!(m.nic(&primary).unwrap().secondary, [v4[1], v6[0]]);
    check(&m);

    let elsewhere = m.create_nic(&create("b")).unwrap().id;
    let full = assigned(&mut m, &nic, Family::V4, 2);
    let own = IpAddr::V4(m.nic(&nic).unwrap().primary4);
    let refused = [
        (m.take_address(own), "InvalidParameterValue"),
        (m.take_address(v4[0]), "InvalidParameterValue"),
        (
            m.move_address(v4[1], "eni-x"),
            "InvalidNetworkInterfaceID.NotFound",
        ),
        (
            m.move_address(v4[1], &elsewhere),
            "InvalidParameterCombination",
        ),
        (
            m.move_address(v4[1], &primary),
            "InvalidParameterCombination",
        ),
        (m.move_address(v4[1], &nic), "PrivateIpAddressLimitExceeded"),
    ];
    for (index, (outcome, code)) in refused.into_iter().enumerate() {
        assert_eq!(outcome.unwrap_err().code(), code, "case {index}");
    }
    assert_eq!(m.nic(&nic).unwrap().secondary, full);
    check(&m);
}

#[test]
fn a_nic_is_detached_or_deleted_by_force_but_no_primary_one() {
    let mut m = model();
    let i = run(&mut m, "vm", "a");
    let primary = m.list_instances()[0].primary_nic.clone();
    let nic = attached(&mut m, &i);
    m.force_detach(&nic).unwrap();
    assert!(!m.desired().plugs.contains_key(&nic), "without delay");
    settle(&mut m);
    assert_eq!(status(&m, &nic), NicStatus::Available);
    assert_eq!(m.force_detach(&nic).unwrap_err().code(), "IncorrectState");
    m.vanish_nic(&nic).unwrap();
    assert!(m.nic(&nic).is_err());
    let second = attached(&mut m, &i);
    m.vanish_nic(&second).unwrap();
    assert_eq!(status(&m, &second), NicStatus::Detaching);
    settle(&mut m);
    assert!(m.nic(&second).is_err(), "gone once it is unplugged");
    for outcome in [m.force_detach(&primary), m.vanish_nic(&primary)] {
        assert_eq!(outcome.unwrap_err().code(), "OperationNotPermitted");
    }
    check(&m);
}
