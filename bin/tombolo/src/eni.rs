//! `tombolo eni`: the cloud NICs of the cluster.

use std::net::{IpAddr, Ipv4Addr};

use kube::ResourceExt;
use serde::Serialize;
use tombolo_api::{Eni, EniPhase};

use crate::Query;
use crate::cluster::Cluster;
use crate::output::{self, Row, or_dash};

/// One NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EniRow {
    pub name: String,
    pub node: String,
    /// The cloud's name, once known.
    pub nic: Option<String>,
    pub device_index: u16,
    /// Found, not made by us.
    pub adopted: bool,
    pub subnet: String,
    pub mac: Option<String>,
    /// The NIC's own address.
    pub primary4: Option<Ipv4Addr>,
    pub phase: EniPhase,
    /// Addresses for pods.
    pub addresses: Vec<IpAddr>,
    /// The last failure.
    pub message: Option<String>,
}

impl Row for EniRow {
    const HEADER: &'static [&'static str] = &[
        "NAME", "NODE", "NIC", "INDEX", "ADOPTED", "SUBNET", "MAC", "OWN-IPV4", "PHASE", "IPV4",
        "IPV6", "MESSAGE",
    ];

    fn cells(&self) -> Vec<String> {
        let four = self.addresses.iter().filter(|ip| ip.is_ipv4()).count();
        vec![
            self.name.clone(),
            self.node.clone(),
            or_dash(self.nic.as_ref()),
            self.device_index.to_string(),
            if self.adopted { "yes" } else { "no" }.to_owned(),
            self.subnet.clone(),
            or_dash(self.mac.as_ref()),
            or_dash(self.primary4),
            format!("{:?}", self.phase),
            four.to_string(),
            (self.addresses.len() - four).to_string(),
            self.message.clone().unwrap_or_default(),
        ]
    }
}

/// Runs the command.
pub async fn run(cluster: &Cluster, query: &Query) -> anyhow::Result<()> {
    let enis: Vec<Eni> = cluster.all().await?;
    let mut rows: Vec<EniRow> = enis
        .iter()
        .filter(|eni| query.wants(&eni.spec.node))
        .map(row)
        .collect();
    rows.sort_by(|a, b| {
        (&a.node, a.device_index, &a.name).cmp(&(&b.node, b.device_index, &b.name))
    });
    output::print(&rows, query.output)
}

/// The line of a NIC.
pub fn row(eni: &Eni) -> EniRow {
    let status = eni.status.clone().unwrap_or_default();
    EniRow {
        name: eni.name_any(),
        node: eni.spec.node.clone(),
        nic: status.nic_id,
        device_index: eni.spec.device_index,
        adopted: eni.spec.adopted,
        subnet: eni.spec.subnet.clone(),
        mac: status.mac,
        primary4: status.primary4,
        phase: status.phase,
        addresses: status.addresses,
        message: status.message,
    }
}
