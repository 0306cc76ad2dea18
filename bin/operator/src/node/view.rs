//! One node as cloud and objects show it, cut out of the inventory; and what the planner, the spec and the Eni objects
//! make of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use kube::ResourceExt;
use tombolo_api::{Eni, IpFamilies, NetResourceSet, ReleaseAnswer, TAG_CLUSTER, TAG_ENI, TAG_NODE};
use tombolo_cloud_sim::wire::{Instance, NicInfo, NicStatus, Subnet};
use tombolo_core::eni::{
    Consent, NicState, Observation, ObservedNic, ObservedSubnet, Ownership, Term, answers_to,
};
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
        one_name_each(node, &mut nics);
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

    /// Leaves these addresses out.
    pub fn withhold(&mut self, addresses: &BTreeSet<IpAddr>) {
        for nic in &mut self.nics {
            nic.info.secondary.retain(|ip| !addresses.contains(ip));
        }
    }

    /// The NIC that the instance booted with.
    pub fn primary(&self) -> Option<&NodeNic> {
        self.nics
            .iter()
            .find(|nic| nic.ownership == Ownership::Primary)
    }
}

/// Whether a node may still use an address that its NICs do not hold any more: its spec lists it, its agent uses it, or the
/// agent has not said anything about the present spec.
pub fn may_use(nrs: &NetResourceSet, ip: IpAddr) -> bool {
    let listed = nrs.spec.nics.iter().any(|nic| nic.addresses.contains(&ip));
    let Some(agent) = nrs.status.as_ref().map(|status| &status.agent) else {
        return listed;
    };
    let heard = Some(agent.observed_generation) == nrs.metadata.generation;
    let used = agent.in_use.keys().any(|text| text.parse() == Ok(ip));
    listed || used || !heard
}

/// An Eni object stands for one NIC. Where two NICs carry the name of one object (the intention was carried out twice), the
/// other ones get an object of their own, and so are used or given back as any other.
fn one_name_each(node: &str, nics: &mut [NodeNic]) {
    nics.sort_by(|a, b| a.info.id.cmp(&b.info.id));
    let mut names = BTreeSet::new();
    for nic in nics {
        if !names.insert(nic.eni.clone()) {
            nic.eni = format!("{node}-{}", nic.info.id);
        }
    }
}

/// Whether the cloud shows less than the NetResourceSet lists: a NIC in use or an address is missing.
pub fn shows_less(cloud: &CloudView, nrs: &NetResourceSet) -> bool {
    nrs.spec.nics.iter().any(|listed| {
        let shown = cloud
            .nics
            .iter()
            .find(|nic| nic.info.id == listed.id && nic.info.status == NicStatus::InUse);
        let holds = |ip: &IpAddr| shown.is_some_and(|nic| nic.info.secondary.contains(ip));
        shown.is_none() || !listed.addresses.iter().all(holds)
    })
}

/// The families of a profile.
pub const fn families(families: IpFamilies) -> Families {
    match families {
        IpFamilies::IPv4 => Families::V4,
        IpFamilies::IPv6 => Families::V6,
        IpFamilies::DualStack => Families::Dual,
    }
}

/// What the planner sees. `own`: the term of the leadership that it plans for.
pub fn observe(
    cloud: &CloudView,
    limits: NicLimits,
    nrs: &NetResourceSet,
    enis: &[Arc<Eni>],
    chosen: &Chosen,
    own: Term,
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
        heard: agent
            .is_some_and(|agent| Some(agent.observed_generation) == nrs.metadata.generation),
        in_use: in_use.unwrap_or_default(),
        releasable: agent
            .map(|agent| agent.releasable.iter().filter_map(parse).collect())
            .unwrap_or_default(),
        marked: nrs.spec.release.iter().copied().collect(),
        answers: agent
            .map(|agent| {
                let answers = agent.release.iter();
                let answers =
                    answers.filter_map(|(ip, answer)| Some((parse(ip)?, consent(answer))));
                answers_to(nrs.metadata.generation, agent.observed_generation, answers)
            })
            .unwrap_or_default(),
        taking: nrs.spec.taking.iter().copied().collect(),
        signed: own == Term(nrs.spec.term),
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
pub mod tests;
