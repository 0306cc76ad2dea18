use proptest::prelude::*;
use tombolo_cloud_sim::wire::{
    AssignAddresses, AttachNic, CreateNic, DescribeInstances, DescribeNics, DescribeSubnets,
    UnassignAddresses,
};

use super::*;
use crate::admin::RunInstance;

mod meddle;

const YAML: &str = "
cidrs: [10.0.0.0/16, '2001:db8:1::/48']
subnets:
  - {id: a, zone: z1, cidr4: 10.0.1.0/26, cidr6: '2001:db8:1:1::/64'}
  - {id: b, zone: z2, cidr4: 10.0.2.0/28}
instance_types:
  - {name: tiny, max_nics: 2, ipv4_per_nic: 3, ipv6_per_nic: 2}
";

fn model() -> Model {
    Model::new("t", Config::parse(YAML).unwrap())
}

fn run(m: &mut Model, name: &str, subnet: &str) -> String {
    let call = RunInstance {
        name: name.to_owned(),
        instance_type: "tiny".to_owned(),
        subnet: subnet.to_owned(),
        netns: None,
    };
    let id = m.run_instance(&call).unwrap().id;
    settle(m);
    id
}

fn create(subnet: &str) -> CreateNic {
    serde_json::from_value(serde_json::json!({"subnet": subnet, "description": "d"})).unwrap()
}

fn attach(nic: &str, instance: &str, device_index: u16) -> AttachNic {
    AttachNic {
        nic: nic.to_owned(),
        instance: instance.to_owned(),
        device_index,
        delete_on_termination: false,
    }
}

/// Everything desired is plugged, as a healthy fabric would.
fn settle(m: &mut Model) {
    m.observe(&m.desired().plugs.into_keys().collect());
}

fn status(m: &Model, nic: &str) -> NicStatus {
    m.nic(nic).unwrap().status()
}

#[test]
fn attachment_passes_through_its_states() {
    let mut m = model();
    let i = run(&mut m, "vm", "a");
    let nic = m.create_nic(&create("a")).unwrap().id;
    assert_eq!(status(&m, &nic), NicStatus::Available);
    m.attach_nic(Millis(100), &attach(&nic, &i, 1)).unwrap();
    assert_eq!(
        (status(&m, &nic), m.next_due()),
        (NicStatus::Attaching, Some(Millis(400)))
    );
    m.tick(Millis(399));
    assert!(!m.desired().plugs.contains_key(&nic), "not due yet");
    m.tick(Millis(400));
    assert!(m.desired().plugs.contains_key(&nic));
    assert_eq!(
        status(&m, &nic),
        NicStatus::Attaching,
        "in use only once it is plugged"
    );
    settle(&mut m);
    assert_eq!(status(&m, &nic), NicStatus::InUse);
    m.detach_nic(Millis(1000), &nic).unwrap();
    assert_eq!(
        m.detach_nic(Millis(1000), &nic).unwrap_err().code(),
        "IncorrectState"
    );
    m.tick(Millis(1299));
    assert!(m.desired().plugs.contains_key(&nic));
    m.tick(Millis(1300));
    assert!(!m.desired().plugs.contains_key(&nic));
    assert_eq!(
        status(&m, &nic),
        NicStatus::Detaching,
        "available only once it is unplugged"
    );
    assert_eq!(
        m.delete_nic(&nic).unwrap_err().code(),
        "InvalidNetworkInterface.InUse"
    );
    settle(&mut m);
    assert_eq!(status(&m, &nic), NicStatus::Available);
    m.delete_nic(&nic).unwrap();
    assert_eq!(
        m.delete_nic(&nic).unwrap_err().code(),
        "InvalidNetworkInterfaceID.NotFound"
    );
}

#[test]
fn attach_refusals_change_nothing() {
    let mut m = model();
    let i = run(&mut m, "vm", "a");
    let ended = run(&mut m, "ended", "a");
    m.terminate_instance(&ended).unwrap();
    settle(&mut m);
    let here = m.create_nic(&create("a")).unwrap().id;
    let elsewhere = m.create_nic(&create("b")).unwrap().id;
    let heavy = m
        .create_nic(&CreateNic {
            ipv4_count: 3,
            ..create("a")
        })
        .unwrap()
        .id;
    let generation = m.generation();
    let cases = [
        (attach("eni-x", &i, 1), "InvalidNetworkInterfaceID.NotFound"),
        (attach(&here, "i-x", 1), "InvalidInstanceID.NotFound"),
        (attach(&here, &ended, 1), "IncorrectState"),
        (attach(&elsewhere, &i, 1), "InvalidParameterCombination"),
        (attach(&here, &i, 0), "InvalidParameterValue"),
        (attach(&here, &i, 64), "InvalidParameterValue"),
        (attach(&heavy, &i, 1), "PrivateIpAddressLimitExceeded"),
    ];
    for (call, code) in cases {
        assert_eq!(
            m.attach_nic(Millis(0), &call).unwrap_err().code(),
            code,
            "{call:?}"
        );
    }
    assert_eq!(m.generation(), generation);
    m.attach_nic(Millis(0), &attach(&here, &i, 1)).unwrap();
    assert_eq!(
        m.attach_nic(Millis(0), &attach(&here, &i, 2))
            .unwrap_err()
            .code(),
        "InvalidNetworkInterface.InUse"
    );
    let third = m.create_nic(&create("a")).unwrap().id;
    // Attaching counts already.
    assert_eq!(
        m.attach_nic(Millis(0), &attach(&third, &i, 2))
            .unwrap_err()
            .code(),
        "AttachmentLimitExceeded"
    );
}

#[test]
fn primary_nics_stay_where_they_are() {
    let mut m = model();
    let i = run(&mut m, "vm", "a");
    let primary = m.list_instances()[0].primary_nic.clone();
    assert_eq!(
        m.detach_nic(Millis(0), &primary).unwrap_err().code(),
        "OperationNotPermitted"
    );
    let nic = m.nic(&primary).unwrap();
    for address in [IpAddr::V4(nic.primary4), IpAddr::V6(nic.primary6.unwrap())] {
        let call = UnassignAddresses {
            nic: primary.clone(),
            addresses: vec![address],
        };
        assert_eq!(
            m.unassign_addresses(&call).unwrap_err().code(),
            "InvalidParameterValue"
        );
    }
    m.terminate_instance(&i).unwrap();
    settle(&mut m);
    assert!(m.nic(&primary).is_err());
    assert_eq!(
        m.describe_instances(&DescribeInstances::default()).unwrap()[0].state,
        InstanceState::Terminated
    );
}

#[test]
fn address_limits_count_the_primary_of_each_family() {
    let mut m = model();
    run(&mut m, "vm", "a");
    let nic = m.list_instances()[0].primary_nic.clone();
    let assign = |family, count| AssignAddresses {
        nic: nic.clone(),
        family,
        count,
    };
    assert_eq!(
        m.assign_addresses(&assign(Family::V4, 3))
            .unwrap_err()
            .code(),
        "PrivateIpAddressLimitExceeded"
    );
    let got = m
        .assign_addresses(&assign(Family::V4, 2))
        .unwrap()
        .addresses;
    assert_eq!(got.len(), 2);
    assert_eq!(
        m.assign_addresses(&assign(Family::V4, 1))
            .unwrap_err()
            .code(),
        "PrivateIpAddressLimitExceeded"
    );
    m.assign_addresses(&assign(Family::V6, 1)).unwrap();
    assert_eq!(
        m.assign_addresses(&assign(Family::V6, 1))
            .unwrap_err()
            .code(),
        "PrivateIpAddressLimitExceeded"
    );
    assert_eq!(
        m.assign_addresses(&assign(Family::V4, 0))
            .unwrap_err()
            .code(),
        "InvalidParameterValue"
    );
    // Unassign is all or nothing too.
    let foreign = vec![got[0], "10.0.1.60".parse().unwrap()];
    let call = UnassignAddresses {
        nic: nic.clone(),
        addresses: foreign,
    };
    assert_eq!(
        m.unassign_addresses(&call).unwrap_err().code(),
        "InvalidParameterValue"
    );
    assert!(m.nic(&nic).unwrap().secondary.contains(&got[0]));
}

#[test]
fn a_subnet_without_ipv6_gives_none() {
    let mut m = model();
    run(&mut m, "vm", "b");
    assert_eq!(m.list_instances()[0].primary6, None);
    let nic = m.list_instances()[0].primary_nic.clone();
    let call = AssignAddresses {
        nic,
        family: Family::V6,
        count: 1,
    };
    assert_eq!(
        m.assign_addresses(&call).unwrap_err().code(),
        "InvalidParameterValue"
    );
    let call = CreateNic {
        ipv6_count: 1,
        ..create("b")
    };
    let free = m.describe_subnets(&DescribeSubnets::default()).unwrap();
    assert_eq!(
        m.create_nic(&call).unwrap_err().code(),
        "InvalidParameterValue"
    );
    assert_eq!(
        m.describe_subnets(&DescribeSubnets::default()).unwrap(),
        free,
        "the IPv4 address went back"
    );
}

#[test]
fn a_client_token_names_one_creation() {
    let mut m = model();
    let call = CreateNic {
        client_token: Some("t".to_owned()),
        ..create("a")
    };
    let first = m.create_nic(&call).unwrap();
    assert_eq!(m.create_nic(&call).unwrap(), first);
    let other = CreateNic {
        ipv4_count: 1,
        ..call.clone()
    };
    assert_eq!(
        m.create_nic(&other).unwrap_err().code(),
        "IdempotentParameterMismatch"
    );
    m.delete_nic(&first.id).unwrap();
    assert_ne!(m.create_nic(&call).unwrap().id, first.id);
}

#[test]
fn run_refuses_what_makes_no_sense() {
    let mut m = model();
    run(&mut m, "vm", "a");
    let call = |name: &str, kind: &str, subnet: &str| RunInstance {
        name: name.to_owned(),
        instance_type: kind.to_owned(),
        subnet: subnet.to_owned(),
        netns: None,
    };
    let cases = [
        (call("vm", "tiny", "a"), "InvalidParameterValue"),
        (call("", "tiny", "a"), "InvalidParameterValue"),
        (call("../x", "tiny", "a"), "InvalidParameterValue"),
        (call("fabric", "tiny", "a"), "InvalidParameterValue"),
        (call("new", "huge", "a"), "InvalidParameterValue"),
        (call("new", "tiny", "c"), "InvalidSubnetID.NotFound"),
    ];
    let generation = m.generation();
    for (call, code) in cases {
        assert_eq!(m.run_instance(&call).unwrap_err().code(), code, "{call:?}");
    }
    assert_eq!(m.generation(), generation);
}

#[derive(Clone, Debug)]
enum Step {
    Create(u16, u16),
    Attach(usize, u16),
    Detach(usize),
    Delete(usize),
    Assign(usize, bool, u16),
    Unassign(usize, usize),
    Tick,
    Settle,
    Terminate(usize),
    Run,
    Ends(bool, u32),
    Take(usize, usize),
    Move(usize, usize, usize),
    Force(usize),
    Vanish(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u16..4, 0_u16..3).prop_map(|(a, b)| Step::Create(a, b)),
        (0_usize..8, 0_u16..4).prop_map(|(n, i)| Step::Attach(n, i)),
        (0_usize..8).prop_map(Step::Detach),
        (0_usize..8).prop_map(Step::Delete),
        (0_usize..8, any::<bool>(), 0_u16..4).prop_map(|(n, v6, c)| Step::Assign(n, v6, c)),
        (0_usize..8, 0_usize..8).prop_map(|(n, a)| Step::Unassign(n, a)),
        Just(Step::Tick),
        Just(Step::Settle),
        (0_usize..4).prop_map(Step::Terminate),
        Just(Step::Run),
        (any::<bool>(), 0_u32..3).prop_map(|(fails, count)| Step::Ends(fails, count)),
        (0_usize..8, 0_usize..8).prop_map(|(n, a)| Step::Take(n, a)),
        (0_usize..8, 0_usize..8, 0_usize..8).prop_map(|(n, a, to)| Step::Move(n, a, to)),
        (0_usize..8).prop_map(Step::Force),
        (0_usize..8).prop_map(Step::Vanish),
    ]
}

/// What must hold after every step, whatever was refused.
fn check(m: &Model) {
    let mut seen = BTreeSet::new();
    let mut used = 0;
    for nic in m.nics.values() {
        assert_eq!(nic.phase == Phase::Out, nic.attachment.is_none(), "{nic:?}");
        for address in nic.addresses() {
            assert!(seen.insert(address), "{address} is out twice");
            used += u64::from(address.is_ipv4());
        }
        let attached = nic
            .attachment
            .as_ref()
            .and_then(|a| m.instances.get(&a.instance));
        if let Some(i) = attached {
            assert!(nic.count(Family::V4) <= usize::from(i.instance_type.ipv4_per_nic));
            assert!(nic.count(Family::V6) <= usize::from(i.instance_type.ipv6_per_nic));
        }
    }
    let subnets = m.describe_subnets(&DescribeSubnets::default()).unwrap();
    let free: u64 = subnets.iter().map(|s| u64::from(s.available4)).sum();
    assert_eq!(free + used, (64 - 5) + (16 - 5));
    for i in m.instances.values() {
        let attached: Vec<_> = m
            .nics
            .values()
            .filter_map(|n| n.attachment.as_ref())
            .filter(|a| a.instance == i.id)
            .collect();
        assert!(attached.len() <= usize::from(i.instance_type.max_nics));
        let indexes: BTreeSet<u16> = attached.iter().map(|a| a.device_index).collect();
        assert_eq!(indexes.len(), attached.len(), "an index twice");
    }
}

proptest! {
    #[test]
    fn limits_and_addresses_hold_whatever_is_called(steps in prop::collection::vec(step(), 1..120)) {
        let mut m = model();
        let mut now = Millis(0);
        let mut runs = 0;
        for step in steps {
            now = now + Millis(50);
            let all = m.describe_nics(&DescribeNics::default()).unwrap();
            let pick = |n: usize| all.get(n).cloned();
            let instances = m.list_instances();
            // Refusals are part of the game.
            match step {
                Step::Create(ipv4_count, ipv6_count) => { let _ = m.create_nic(&CreateNic { ipv4_count, ipv6_count, ..create("a") }); }
                Step::Attach(n, index) => if let (Some(nic), Some(i)) = (pick(n), instances.last()) {
                    let _ = m.attach_nic(now, &attach(&nic.id, &i.id, index));
                },
                Step::Detach(n) => if let Some(nic) = pick(n) { let _ = m.detach_nic(now, &nic.id); },
                Step::Delete(n) => if let Some(nic) = pick(n) { let _ = m.delete_nic(&nic.id); },
                Step::Assign(n, v6, count) => if let Some(nic) = pick(n) {
                    let family = if v6 { Family::V6 } else { Family::V4 };
                    let _ = m.assign_addresses(&AssignAddresses { nic: nic.id, family, count });
                },
                Step::Unassign(n, a) => if let Some(nic) = pick(n) && let Some(address) = nic.secondary.get(a) {
                    let _ = m.unassign_addresses(&UnassignAddresses { nic: nic.id.clone(), addresses: vec![*address] });
                },
                Step::Tick => m.tick(now),
                Step::Settle => settle(&mut m),
                Step::Terminate(n) => if let Some(i) = instances.get(n) { m.terminate_instance(&i.id).unwrap(); },
                Step::Ends(fails, count) => {
                    m.set_attach_end(if fails { AttachEnd::Fails } else { AttachEnd::Sticks }, count);
                }
                Step::Take(n, a) => if let Some(nic) = pick(n) && let Some(address) = nic.secondary.get(a) {
                    m.take_address(*address).unwrap();
                },
                Step::Move(n, a, to) => if let (Some(nic), Some(to)) = (pick(n), pick(to)) && let Some(address) = nic.secondary.get(a) {
                    let _ = m.move_address(*address, &to.id);
                },
                Step::Force(n) => if let Some(nic) = pick(n) { let _ = m.force_detach(&nic.id); },
                Step::Vanish(n) => if let Some(nic) = pick(n) { let _ = m.vanish_nic(&nic.id); },
                Step::Run => {
                    runs += 1;
                    let _ = m.run_instance(&RunInstance {
                        name: format!("vm{runs}"), instance_type: "tiny".into(), subnet: "a".into(), netns: None,
                    });
                }
            }
            check(&m);
        }
    }
}

/// Calls, a line each: the verb and its body.
#[test]
fn fuzz_calls() {
    let words = &[
        "\n",
        "CreateNic ",
        "AttachNic ",
        "DetachNic ",
        "DeleteNic ",
        "AssignAddresses ",
        "UnassignAddresses ",
        "TagNic ",
        "DescribeNics ",
        "DescribeSubnets ",
        "nic",
        "instance",
        "subnet",
        "device_index",
        "count",
        "family",
        "IPv4",
        "IPv6",
        "addresses",
        "tags",
        "ipv4_count",
        "ipv6_count",
        "client_token",
    ];
    let target = tombolo_fuzz::Target::new("lab-cloud-calls").words(words);
    target.check(|bytes| {
        let mut m = model();
        run(&mut m, "vm", "a");
        for (at, line) in String::from_utf8_lossy(bytes).lines().take(50).enumerate() {
            let (verb, body) = line.split_once(' ').unwrap_or((line, ""));
            let now = Millis(at as u64);
            if let Err(error) = crate::server::cloud_call(&mut m, now, None, verb, body.as_bytes())
            {
                assert!(!error.code.is_empty() && !error.message.is_empty());
            }
            settle(&mut m);
        }
    });
}
