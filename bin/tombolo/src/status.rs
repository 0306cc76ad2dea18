//! `tombolo status`: one line for each node.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde::Serialize;
use tombolo_api::NetResourceSet;
use tombolo_core::types::Family;

use crate::Query;
use crate::cluster::Cluster;
use crate::ipam;
use crate::output::{self, Row};

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    pub node: String,
    pub instance: String,
    pub instance_type: String,
    pub profile: String,
    /// NICs that the agent found and wired.
    pub nics: u32,
    /// NICs that the instance type allows.
    pub max_nics: u16,
    /// Addresses by family.
    pub addresses: BTreeMap<Family, Addresses>,
    /// Status of the condition `Ready`: `True`, `False`, `Unknown`.
    pub ready: String,
    /// What is wrong: reason and message of every condition that is not `True`.
    pub problems: Vec<String>,
}

/// Addresses for pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Addresses {
    pub bound: usize,
    pub total: usize,
}

impl Row for NodeRow {
    const HEADER: &'static [&'static str] = &[
        "NODE", "INSTANCE", "TYPE", "PROFILE", "NICS", "IPV4", "IPV6", "READY", "PROBLEMS",
    ];

    fn cells(&self) -> Vec<String> {
        let family = |family| match self.addresses.get(&family) {
            Some(count) => format!("{}/{}", count.bound, count.total),
            None => "-".to_owned(),
        };
        vec![
            self.node.clone(),
            self.instance.clone(),
            self.instance_type.clone(),
            self.profile.clone(),
            format!("{}/{}", self.nics, self.max_nics),
            family(Family::V4),
            family(Family::V6),
            self.ready.clone(),
            self.problems.join("; "),
        ]
    }
}

/// Runs the command.
pub async fn run(cluster: &Cluster, query: &Query) -> anyhow::Result<()> {
    let sets: Vec<NetResourceSet> = cluster.all().await?;
    let rows: Vec<NodeRow> = sets
        .iter()
        .filter(|set| query.wants(&set.name_any()))
        .map(row)
        .collect();
    output::print(&rows, query.output)
}

/// The line of a node.
pub fn row(set: &NetResourceSet) -> NodeRow {
    let mut addresses: BTreeMap<Family, Addresses> = BTreeMap::new();
    for nic in ipam::by_nic(&ipam::addresses(set, &[])) {
        let count = addresses.entry(nic.family).or_default();
        count.bound += nic.bound;
        count.total += nic.total - nic.lost;
    }
    let status = set.status.clone().unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready");
    let bad = status
        .conditions
        .iter()
        .filter(|condition| condition.status != "True");
    NodeRow {
        node: set.name_any(),
        instance: set.spec.instance_id.clone(),
        instance_type: set.spec.instance_type.clone(),
        profile: set.spec.profile.name.clone(),
        nics: status.agent.nics,
        max_nics: set.spec.limits.max_nics,
        addresses,
        ready: ready.map_or_else(
            || "Unknown".to_owned(),
            |condition| condition.status.clone(),
        ),
        problems: bad
            .map(|condition| format!("{}: {}", condition.reason, condition.message))
            .collect(),
    }
}
