//! One node as cloud and objects show it, cut out of the inventory; and what the planner, the spec and the Eni objects
//! make of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use kube::ResourceExt;
use tombolo_api::{Eni, IpFamilies, NetResourceSet, ReleaseAnswer, TAG_CLUSTER, TAG_ENI, TAG_NODE};
use tombolo_cloud_sim::wire::{Instance, NicInfo, NicStatus, Subnet};
use tombolo_core::eni::{Consent, NicState, Observation, ObservedNic, ObservedSubnet, Ownership};
use tombolo_core::ipam::Demand;
use tombolo_core::types::{Families, Family, NicId, NicLimits};

use crate::inventory::Snapshot;
use crate::profile::{self, Chosen};

/// A node's part of the cloud.
#[derive(Clone, Debug)]
pub struct CloudView {
    pub instance: Instance,
    /// `None`: the cloud does not know the instance type.
    pub limits: Option<NicLimits>,
    pub vpc_cidrs: Vec<IpNet>,
    /// NICs attached to the instance or made for it, by device index.
    pub nics: Vec<NodeNic>,
    pub subnets: BTreeMap<String, Subnet>,
}

/// A NIC of the node.
#[derive(Clone, Debug)]
pub struct NodeNic {
    pub info: NicInfo,
    pub ownership: Ownership,
    /// Name of its Eni object.
    pub eni: String,
}

impl NodeNic {
    /// Device index, where it has one.
    pub fn index(&self) -> Option<u16> {
        self.info
            .attachment
            .as_ref()
            .map(|attachment| attachment.device_index)
    }
}

/// Whether a NIC was made by this cluster.
pub fn is_ours(nic: &NicInfo, cluster: &str) -> bool {
    nic.tags.get(TAG_CLUSTER).is_some_and(|tag| tag == cluster)
}

impl CloudView {
    /// The node's part; `None` where the cloud does not list the instance.
    pub fn of(snapshot: &Snapshot, cluster: &str, node: &str, instance: &str) -> Option<Self> {
        let instance = snapshot.instances.get(instance)?.info.clone();
        let mut nics: Vec<NodeNic> = Vec::new();
        for record in snapshot.nics.values() {
            let info = &record.info;
            let ours = is_ours(info, cluster);
            let belongs = match record.instance() {
                Some(owner) => owner == instance.id,
                None => ours && info.tags.get(TAG_NODE).is_some_and(|tag| tag == node),
            };
            if !belongs {
                continue;
            }
            let first = info
                .attachment
                .as_ref()
                .is_some_and(|attachment| attachment.device_index == 0);
            let primary = info.id == instance.primary_nic || first;
            let (ownership, eni) = match (primary, ours) {
                (true, _) => (Ownership::Primary, format!("{node}-0")),
                (false, true) => {
                    let tag = info.tags.get(TAG_ENI).filter(|tag| !tag.is_empty());
                    (
                        Ownership::Ours,
                        tag.cloned()
                            .unwrap_or_else(|| format!("{node}-{}", info.id)),
                    )
                }
                (false, false) => (Ownership::Foreign, format!("{node}-{}", info.id)),
            };
            nics.push(NodeNic {
                info: info.clone(),
                ownership,
                eni,
            });
        }
        nics.sort_by_key(|nic| (nic.index().unwrap_or(u16::MAX), nic.info.id.clone()));
        let limits = snapshot
            .types
            .get(&instance.instance_type)
            .map(|kind| NicLimits {
                max_nics: kind.max_nics,
                ipv4_per_nic: kind.ipv4_per_nic,
                ipv6_per_nic: kind.ipv6_per_nic,
            });
        let used = |subnet: &&Subnet| {
            subnet.zone == instance.zone || nics.iter().any(|nic| nic.info.subnet == subnet.id)
        };
        let subnets = snapshot
            .subnets
            .values()
            .filter(used)
            .map(|subnet| (subnet.id.clone(), subnet.clone()))
            .collect();
        let vpc_cidrs = snapshot
            .vpc
            .as_ref()
            .map(|vpc| vpc.cidrs.clone())
            .unwrap_or_default();
        Some(Self {
            instance,
            limits,
            vpc_cidrs,
            nics,
            subnets,
        })
    }

    /// The NIC that the instance booted with.
    pub fn primary(&self) -> Option<&NodeNic> {
        self.nics
            .iter()
            .find(|nic| nic.ownership == Ownership::Primary)
    }
}

/// The families of a profile.
pub const fn families(families: IpFamilies) -> Families {
    match families {
        IpFamilies::IPv4 => Families::V4,
        IpFamilies::IPv6 => Families::V6,
        IpFamilies::DualStack => Families::Dual,
    }
}

/// What the planner sees.
pub fn observe(
    cloud: &CloudView,
    limits: NicLimits,
    nrs: &NetResourceSet,
    enis: &[Arc<Eni>],
    chosen: &Chosen,
) -> Observation {
    let mut nics: Vec<ObservedNic> = cloud
        .nics
        .iter()
        .map(|nic| observe_nic(nic, enis))
        .collect();
    for eni in enis {
        let name = eni.name_any();
        let made = eni.spec.adopted
            || eni
                .status
                .as_ref()
                .is_some_and(|status| status.nic_id.is_some());
        if made || nics.iter().any(|nic| nic.eni == name) {
            continue;
        }
        nics.push(ObservedNic {
            eni: name,
            nic: None,
            state: NicState::Intended,
            device_index: eni.spec.device_index,
            subnet: eni.spec.subnet.clone(),
            ownership: Ownership::Ours,
            unwanted: eni.metadata.deletion_timestamp.is_some(),
            own6: false,
            addresses: BTreeSet::new(),
        });
    }
    let agent = nrs.status.as_ref().map(|status| &status.agent);
    let in_use: Option<BTreeSet<IpAddr>> = agent
        .map(|agent| agent.in_use.keys().map(|text| text.parse().ok()).collect())
        .unwrap_or_default();
    // A status that names an address in use which we cannot read is no status to plan by.
    let agent = agent.filter(|_| in_use.is_some());
    let demand: BTreeMap<Family, Demand> = agent
        .into_iter()
        .flat_map(|agent| &agent.demand)
        .filter_map(|(word, demand)| {
            let family = Family::ALL
                .into_iter()
                .find(|family| family.to_string() == *word)?;
            Some((
                family,
                Demand {
                    low: demand.low,
                    high: demand.high,
                },
            ))
        })
        .collect();
    let parse = |text: &String| text.parse::<IpAddr>().ok();
    // Only a status about exactly this spec answers exactly these marks: an answer to an earlier marking of the same
    // address says nothing about now.
    let answers_these =
        agent.is_some_and(|agent| Some(agent.observed_generation) == nrs.metadata.generation);
    let answers = agent.filter(|_| answers_these).map(|agent| &agent.release);
    let consent = |answer: &ReleaseAnswer| match answer {
        ReleaseAnswer::Ready => Consent::Ready,
        ReleaseAnswer::Refused => Consent::Refused,
    };
    let primary_subnet = cloud.primary().map(|nic| nic.info.subnet.as_str());
    let subnets = cloud.subnets.values().map(|subnet| ObservedSubnet {
        id: subnet.id.clone(),
        free4: subnet.available4,
        ipv6: subnet.cidr6.is_some(),
        eligible: profile::selects_subnet(
            &chosen.subnets,
            subnet,
            &cloud.instance.zone,
            primary_subnet,
        ),
    });
    Observation {
        limits,
        families: families(chosen.resolved.ip_families),
        nics,
        demand: if demand.is_empty() {
            None
        } else {
            Some(demand)
        },
        in_use: in_use.unwrap_or_default(),
        releasable: agent
            .map(|agent| agent.releasable.iter().filter_map(parse).collect())
            .unwrap_or_default(),
        marked: nrs.spec.release.iter().copied().collect(),
        answers: answers
            .map(|answers| {
                answers
                    .iter()
                    .filter_map(|(ip, answer)| Some((parse(ip)?, consent(answer))))
                    .collect()
            })
            .unwrap_or_default(),
        subnets: subnets.collect(),
    }
}

fn observe_nic(nic: &NodeNic, enis: &[Arc<Eni>]) -> ObservedNic {
    let object = enis
        .iter()
        .find(|eni| eni.metadata.name.as_deref() == Some(&nic.eni));
    let deleting = object.is_some_and(|eni| eni.metadata.deletion_timestamp.is_some());
    ObservedNic {
        eni: nic.eni.clone(),
        nic: Some(NicId(nic.info.id.clone())),
        state: match nic.info.status {
            NicStatus::Available => NicState::Available,
            NicStatus::Attaching => NicState::Attaching,
            NicStatus::InUse => NicState::InUse,
            NicStatus::Detaching => NicState::Detaching,
        },
        device_index: nic
            .index()
            .or_else(|| object.map(|eni| eni.spec.device_index))
            .unwrap_or(1),
        subnet: nic.info.subnet.clone(),
        ownership: nic.ownership,
        unwanted: deleting && nic.ownership == Ownership::Ours,
        own6: nic.info.primary6.is_some(),
        addresses: nic.info.secondary.iter().copied().collect(),
    }
}

#[cfg(test)]
pub mod tests {
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
        let spec = spec::desired(cloud, limits, &chosen(), &release, &BTreeSet::new());
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
            eni.status = nic.map(|nic| {
                serde_json::from_value(json!({"phase": "InUse", "nicId": nic})).unwrap()
            });
            Arc::new(eni)
        };
        let enis = [
            eni("n1-1-x", Some("eni-1")),
            eni("n1-3-new", None),
            eni("n1-2-gone", Some("eni-9")),
        ];
        let seen = observe(&cloud, cloud.limits.unwrap(), &nrs, &enis, &chosen());
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
            let status = json!({"agent": {"observedGeneration": generation, "release": {"10.0.0.21": "ready"}}});
            let nrs = nrs(&cloud, status, &["10.0.0.21"]);
            let seen = observe(&cloud, cloud.limits.unwrap(), &nrs, &[], &chosen());
            assert!(seen.answers.is_empty(), "generation {generation}");
            assert_eq!(seen.demand, None);
        }
    }
}
