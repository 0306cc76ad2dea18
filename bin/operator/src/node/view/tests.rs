use super::*;
use crate::inventory::samples;
use crate::node::spec;
use serde_json::json;
use tombolo_cloud_sim::wire::{InstanceState, InstanceType};
use tombolo_core::types::Millis;

/// A node with its primary NIC, one of ours, one foreign; one of ours unattached; one of another cluster.
pub fn snapshot() -> Snapshot {
    let tagged = |mut nic: NicInfo, cluster: &str, node: &str, eni: &str| {
        for (key, value) in [(TAG_CLUSTER, cluster), (TAG_NODE, node), (TAG_ENI, eni)] {
            nic.tags.insert(key.to_owned(), value.to_owned());
        }
        nic
    };
    let mut primary = samples::nic("eni-0", Some(("i-1", 0)), &["10.0.0.20"]);
    primary.primary6 = Some("fd00::10".parse().unwrap());
    let nics = vec![
        primary,
        tagged(
            samples::nic("eni-1", Some(("i-1", 1)), &["10.0.0.22", "10.0.0.21"]),
            "demo",
            "n1",
            "n1-1-x",
        ),
        samples::nic("eni-2", Some(("i-1", 2)), &[]),
        tagged(
            samples::nic("eni-3", None, &["10.0.0.30"]),
            "demo",
            "n1",
            "n1-3-x",
        ),
        tagged(samples::nic("eni-4", None, &[]), "other", "n1", "n1-4-x"),
        tagged(
            samples::nic("eni-5", Some(("i-2", 1)), &[]),
            "demo",
            "n1",
            "n1-5-x",
        ),
    ];
    let mut snapshot = Snapshot::default();
    let instances = ["i-1", "i-2"]
        .map(|id| samples::instance(id, InstanceState::Running))
        .to_vec();
    snapshot.absorb(
        samples::reading(instances, nics),
        0,
        Millis(0),
        samples::TRUST,
    );
    let kind = InstanceType {
        name: "small".to_owned(),
        max_nics: 4,
        ipv4_per_nic: 10,
        ipv6_per_nic: 10,
    };
    snapshot.types.insert("small".to_owned(), kind);
    snapshot
}

pub fn chosen() -> Chosen {
    profile::choose([], &BTreeMap::new()).unwrap()
}

/// The node's NetResourceSet as the operator writes it, generation 7.
pub fn nrs(cloud: &CloudView, status: serde_json::Value, release: &[&str]) -> NetResourceSet {
    let limits = cloud.limits.unwrap();
    let release = release.iter().map(|text| samples::ip(text)).collect();
    let (none, no_ids) = (BTreeSet::new(), BTreeSet::new());
    let spec = spec::desired(cloud, limits, &chosen(), &release, &none, &no_ids, Term(1));
    let mut nrs = NetResourceSet::new("n1", spec);
    nrs.metadata.generation = Some(7);
    nrs.status = serde_json::from_value(status).unwrap();
    nrs
}

#[test]
fn a_nodes_nics_and_whose_they_are() {
    let cloud = CloudView::of(&snapshot(), "demo", "n1", "i-1").unwrap();
    let nics: Vec<(&str, Ownership, &str)> = cloud
        .nics
        .iter()
        .map(|nic| (nic.info.id.as_str(), nic.ownership, nic.eni.as_str()))
        .collect();
    assert_eq!(
        nics,
        [
            ("eni-0", Ownership::Primary, "n1-0"),
            ("eni-1", Ownership::Ours, "n1-1-x"),
            ("eni-2", Ownership::Foreign, "n1-eni-2"),
            ("eni-3", Ownership::Ours, "n1-3-x"),
        ]
    );
    assert!(CloudView::of(&snapshot(), "demo", "n1", "i-9").is_none());
}

#[test]
fn an_address_may_be_used_until_the_agent_says_otherwise_about_this_very_spec() {
    let cloud = CloudView::of(&snapshot(), "demo", "n1", "i-1").unwrap();
    let status = |generation: i64, used: &str| json!({"agent": {"observedGeneration": generation, "inUse": {used: "bound"}}});
    let (listed, other) = (samples::ip("10.0.0.21"), samples::ip("10.0.0.77"));
    for (generation, used, ip, wanted) in [
        (7, "10.0.0.1", listed, true),
        (7, "10.0.0.77", other, true),
        (6, "10.0.0.1", other, true),
        (7, "10.0.0.1", other, false),
    ] {
        let nrs = nrs(&cloud, status(generation, used), &[]);
        assert_eq!(may_use(&nrs, ip), wanted, "{generation} {used} {ip}");
    }
}

#[test]
fn a_nic_that_was_made_twice_is_two_nics_with_names_that_stay() {
    let mut all = snapshot();
    let names = |all: &Snapshot| -> Vec<(String, String)> {
        let cloud = CloudView::of(all, "demo", "n1", "i-1").unwrap();
        cloud
            .nics
            .iter()
            .map(|nic| (nic.info.id.clone(), nic.eni.clone()))
            .filter(|(id, _)| id == "eni-3" || id == "eni-6")
            .collect()
    };
    let mut twin = all.nics["eni-3"].info.clone();
    twin.id = "eni-6".to_owned();
    all.put_nic(twin, Millis(0), samples::TRUST);
    let before = names(&all);
    let wanted = [("eni-3", "n1-3-x"), ("eni-6", "n1-eni-6")];
    assert_eq!(
        before,
        wanted.map(|(id, name)| (id.to_owned(), name.to_owned()))
    );
    let attachment = tombolo_cloud_sim::wire::Attachment {
        instance: "i-1".to_owned(),
        device_index: 3,
        delete_on_termination: true,
    };
    all.attaching("eni-6", attachment);
    let mut after = names(&all);
    after.sort();
    assert_eq!(before, after, "attached or not");
}

#[test]
fn a_nic_or_an_address_that_is_not_shown_is_less_and_one_more_is_not() {
    let whole = CloudView::of(&snapshot(), "demo", "n1", "i-1").unwrap();
    let nrs = nrs(&whole, json!({}), &[]);
    let changed = |change: fn(&mut CloudView)| {
        let mut cloud = whole.clone();
        change(&mut cloud);
        shows_less(&cloud, &nrs)
    };
    assert!(!changed(|_| {}));
    assert!(!changed(|c| c.nics[1]
        .info
        .secondary
        .push(samples::ip("10.0.0.99"))));
    assert!(!changed(|c| c.nics.truncate(3)), "it was not in the spec");
    assert!(changed(|c| c.nics[1].info.secondary.truncate(1)));
    assert!(changed(|c| drop(c.nics.remove(0))));
    assert!(changed(|c| c.nics[1].info.status = NicStatus::Detaching));
}

#[test]
fn the_observation() {
    let cloud = CloudView::of(&snapshot(), "demo", "n1", "i-1").unwrap();
    let agent = json!({"agent": {
        "observedGeneration": 7,
        "demand": {"IPv4": {"low": 3, "high": 9}, "IPv6": {"low": 3, "high": 9}},
        "inUse": {"10.0.0.20": "bound"},
        "releasable": ["10.0.0.22", "not an address"],
        "release": {"10.0.0.21": "ready"},
    }});
    let nrs = nrs(&cloud, agent, &["10.0.0.21"]);
    let eni = |name: &str, nic: Option<&str>| {
        let spec = json!({"node": "n1", "instanceId": "i-1", "deviceIndex": 3, "subnet": "s2"});
        let mut eni = Eni::new(name, serde_json::from_value(spec).unwrap());
        eni.status =
            nic.map(|nic| serde_json::from_value(json!({"phase": "InUse", "nicId": nic})).unwrap());
        Arc::new(eni)
    };
    let enis = [
        eni("n1-1-x", Some("eni-1")),
        eni("n1-3-new", None),
        eni("n1-2-gone", Some("eni-9")),
    ];
    let seen = observe(
        &cloud,
        cloud.limits.unwrap(),
        &nrs,
        &enis,
        &chosen(),
        Term(2),
    );
    assert!(!seen.signed, "another leader wrote it");
    assert_eq!(seen.families, Families::Dual);
    assert_eq!(
        seen.demand.unwrap()[&Family::V6],
        Demand { low: 3, high: 9 }
    );
    assert_eq!(seen.releasable, [samples::ip("10.0.0.22")]);
    assert_eq!(seen.marked, BTreeSet::from([samples::ip("10.0.0.21")]));
    assert_eq!(
        seen.answers,
        BTreeMap::from([(samples::ip("10.0.0.21"), Consent::Ready)])
    );
    let nics: Vec<(&str, NicState, u16)> = seen
        .nics
        .iter()
        .map(|nic| (nic.eni.as_str(), nic.state, nic.device_index))
        .collect();
    assert_eq!(
        nics,
        [
            ("n1-0", NicState::InUse, 0),
            ("n1-1-x", NicState::InUse, 1),
            ("n1-eni-2", NicState::InUse, 2),
            ("n1-3-x", NicState::Available, 1),
            ("n1-3-new", NicState::Intended, 3),
        ]
    );
    assert!(seen.heard);
    assert!(seen.nics[0].own6 && !seen.nics[1].own6);
    let eligible: Vec<&str> = seen
        .subnets
        .iter()
        .filter(|s| s.eligible)
        .map(|s| s.id.as_str())
        .collect();
    assert_eq!(eligible, ["s1"], "the primary NIC's");
}

#[test]
fn an_answer_to_another_spec_is_no_answer_and_silence_is_no_demand() {
    let cloud = CloudView::of(&snapshot(), "demo", "n1", "i-1").unwrap();
    for generation in [6, 8] {
        let status =
            json!({"agent": {"observedGeneration": generation, "release": {"10.0.0.21": "ready"}}});
        let nrs = nrs(&cloud, status, &["10.0.0.21"]);
        let seen = observe(&cloud, cloud.limits.unwrap(), &nrs, &[], &chosen(), Term(1));
        assert!(seen.signed);
        assert!(seen.answers.is_empty(), "generation {generation}");
        assert!(!seen.heard, "generation {generation}");
        assert_eq!(seen.demand, None);
    }
}
