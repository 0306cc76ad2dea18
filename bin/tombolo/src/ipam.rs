//! `tombolo ipam`: addresses for pods, counted by NIC and family, or one by one.
//!
//! What the operator gave is in `spec.nics`, what the agent made of it in `status.agent.inUse`; an address that is in
//! neither list of the agent is free. An address in use that the cloud no longer gives is shown with state `lost`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube::ResourceExt;
use serde::Serialize;
use tombolo_api::{NetResourceSet, PodEndpoint};
use tombolo_core::types::Family;

use crate::Query;
use crate::cluster::Cluster;
use crate::output::{self, Row, or_dash};

/// One address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressRow {
    pub node: String,
    /// Cloud NIC; absent where no NIC of the node has the address.
    pub nic: Option<String>,
    pub address: IpAddr,
    /// `free`, `bound`, `draining`, `cooling`, `lost`; with `releasing` where the operator asked for it back.
    pub state: String,
    /// Namespace and name of the pod that holds it.
    pub pod: Option<String>,
}

impl Row for AddressRow {
    const HEADER: &'static [&'static str] = &["NODE", "NIC", "ADDRESS", "STATE", "POD"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.node.clone(),
            or_dash(self.nic.as_ref()),
            self.address.to_string(),
            self.state.clone(),
            or_dash(self.pod.as_ref()),
        ]
    }
}

/// The addresses of one NIC, of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NicRow {
    pub node: String,
    pub nic: Option<String>,
    pub family: Family,
    pub total: usize,
    pub bound: usize,
    pub draining: usize,
    pub cooling: usize,
    pub free: usize,
    /// Asked back by the operator.
    pub releasing: usize,
    /// In use, and no longer in the cloud.
    pub lost: usize,
}

impl Row for NicRow {
    const HEADER: &'static [&'static str] = &[
        "NODE",
        "NIC",
        "FAMILY",
        "TOTAL",
        "BOUND",
        "DRAINING",
        "COOLING",
        "FREE",
        "RELEASING",
        "LOST",
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.node.clone(),
            or_dash(self.nic.as_ref()),
            self.family.to_string(),
        ];
        let counts = [
            self.total,
            self.bound,
            self.draining,
            self.cooling,
            self.free,
            self.releasing,
            self.lost,
        ];
        cells.extend(counts.map(|count| count.to_string()));
        cells
    }
}

/// Runs the command.
pub async fn run(cluster: &Cluster, query: &Query, one_by_one: bool) -> anyhow::Result<()> {
    let sets: Vec<NetResourceSet> = cluster.all().await?;
    let endpoints: Vec<PodEndpoint> = cluster.all().await?;
    let wanted = sets.iter().filter(|set| query.wants(&set.name_any()));
    let rows: Vec<AddressRow> = wanted.flat_map(|set| addresses(set, &endpoints)).collect();
    if one_by_one {
        output::print(&rows, query.output)
    } else {
        output::print(&by_nic(&rows), query.output)
    }
}

/// Every address of a node: of its NICs, and those in use besides.
pub fn addresses(set: &NetResourceSet, endpoints: &[PodEndpoint]) -> Vec<AddressRow> {
    let node = set.name_any();
    let status = set.status.clone().unwrap_or_default();
    let in_use: BTreeMap<IpAddr, &str> = status
        .agent
        .in_use
        .iter()
        .filter_map(|(ip, state)| Some((ip.parse().ok()?, state.as_str())))
        .collect();
    let pods = pods(&node, endpoints);
    let row = |nic: Option<&str>, address: IpAddr, state: &str| AddressRow {
        node: node.clone(),
        nic: nic.map(str::to_owned),
        address,
        state: if set.spec.release.contains(&address) {
            format!("{state}, releasing")
        } else {
            state.to_owned()
        },
        pod: pods.get(&address).cloned(),
    };
    let mut rows = Vec::new();
    for nic in &set.spec.nics {
        let sorted: BTreeSet<IpAddr> = nic.addresses.iter().copied().collect();
        rows.extend(
            sorted
                .into_iter()
                .map(|ip| row(Some(&nic.id), ip, in_use.get(&ip).unwrap_or(&"free"))),
        );
    }
    let supplied: BTreeSet<IpAddr> = set
        .spec
        .nics
        .iter()
        .flat_map(|nic| &nic.addresses)
        .copied()
        .collect();
    rows.extend(
        in_use
            .keys()
            .filter(|ip| !supplied.contains(ip))
            .map(|ip| row(None, *ip, "lost")),
    );
    rows
}

/// Who holds which address of a node.
fn pods(node: &str, endpoints: &[PodEndpoint]) -> BTreeMap<IpAddr, String> {
    let mut pods = BTreeMap::new();
    for endpoint in endpoints
        .iter()
        .filter(|endpoint| endpoint.spec.node == node)
    {
        let pod = format!(
            "{}/{}",
            endpoint.namespace().unwrap_or_default(),
            endpoint.spec.pod
        );
        for address in [&endpoint.spec.ipv4, &endpoint.spec.ipv6]
            .into_iter()
            .flatten()
        {
            pods.insert(address.ip, pod.clone());
        }
    }
    pods
}

/// Counts addresses by node, NIC and family, in the order of the rows.
pub fn by_nic(rows: &[AddressRow]) -> Vec<NicRow> {
    let mut nics: Vec<NicRow> = Vec::new();
    for row in rows {
        let family = Family::of(row.address);
        let same =
            |nic: &NicRow| nic.node == row.node && nic.nic == row.nic && nic.family == family;
        let at = nics.iter().position(same).unwrap_or_else(|| {
            nics.push(NicRow {
                node: row.node.clone(),
                nic: row.nic.clone(),
                family,
                total: 0,
                bound: 0,
                draining: 0,
                cooling: 0,
                free: 0,
                releasing: 0,
                lost: 0,
            });
            nics.len() - 1
        });
        let nic = &mut nics[at];
        let state = row.state.split(',').next().unwrap_or_default();
        nic.total += 1;
        nic.bound += usize::from(state == "bound");
        nic.draining += usize::from(state == "draining");
        nic.cooling += usize::from(state == "cooling");
        nic.free += usize::from(state == "free");
        nic.lost += usize::from(state == "lost");
        nic.releasing += usize::from(row.state.ends_with("releasing"));
    }
    nics
}
