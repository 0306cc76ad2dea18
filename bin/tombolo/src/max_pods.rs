//! `tombolo max-pods`: how many pods a node can address, from the limits of its instance type.

use std::str::FromStr;

use anyhow::{Context, bail};
use clap::ValueEnum;
use serde::Serialize;
use tombolo_api::{IpFamilies, NetResourceSet};
use tombolo_core::eni::max_pods_of;
use tombolo_core::types::{Families, NicLimits};

use crate::cluster::Cluster;
use crate::output::{self, Format};

/// What `max-pods` takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The node whose NetResourceSet says the limits; default: this machine's host name.
    #[arg(long, conflicts_with = "instance_type_limits")]
    node: Option<String>,
    /// Limits by hand, without a cluster: NICs, IPv4 addresses a NIC, IPv6 addresses a NIC, own ones included.
    #[arg(long, value_name = "NICS,IPV4,IPV6")]
    instance_type_limits: Option<Limits>,
    /// Families of every pod; default: as the node's profile says, or both.
    #[arg(long, value_enum)]
    ip_families: Option<FamiliesArg>,
    /// Pods in the host's network to add: they count for the kubelet and need no address.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    host_network: u32,
    /// Form of the output; a table is the number alone.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FamiliesArg {
    #[value(name = "IPv4")]
    V4,
    #[value(name = "IPv6")]
    V6,
    #[value(name = "DualStack")]
    Dual,
}

/// Limits as written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits(NicLimits);

impl FromStr for Limits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fields = ["NICS", "IPV4", "IPV6"];
        let parts: Vec<&str> = text.split(',').collect();
        if parts.len() != fields.len() {
            return Err(format!(
                "{} numbers are wanted (NICS,IPV4,IPV6), there are {}",
                fields.len(),
                parts.len()
            ));
        }
        let mut numbers = [0_u16; 3];
        for ((number, field), part) in numbers.iter_mut().zip(fields).zip(parts) {
            *number = part
                .trim()
                .parse()
                .map_err(|error| format!("{field} {part:?}: {error}"))?;
        }
        let [max_nics, ipv4_per_nic, ipv6_per_nic] = numbers;
        if max_nics == 0 {
            return Err("NICS is 0: an instance has at least one".to_owned());
        }
        Ok(Self(NicLimits {
            max_nics,
            ipv4_per_nic,
            ipv6_per_nic,
        }))
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    max_pods: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    families: Families,
    limits: NicLimits,
    host_network: u32,
}

impl Args {
    /// Whether the command line says all that is needed.
    pub fn needs_no_cluster(&self) -> bool {
        self.instance_type_limits.is_some()
    }
}

/// From the limits on the command line.
pub fn of_limits(args: &Args) -> anyhow::Result<()> {
    let Limits(limits) = args
        .instance_type_limits
        .context("--instance-type-limits is missing")?;
    print(
        args,
        None,
        limits,
        args.ip_families.map_or(Families::Dual, Families::from),
    )
}

/// From the node's NetResourceSet.
pub async fn of_node(cluster: &Cluster, args: &Args) -> anyhow::Result<()> {
    let node = match &args.node {
        Some(node) => node.clone(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .context("read the host name; --node NAME says which node is meant")?
            .trim()
            .to_owned(),
    };
    let Some(set) = cluster.one::<NetResourceSet>(&node).await? else {
        bail!(
            "there is no netresourcesets/{node}: the operator has not seen this node; --node NAME names another one"
        );
    };
    let spec = &set.spec;
    let limits = NicLimits {
        max_nics: spec.limits.max_nics,
        ipv4_per_nic: spec.limits.ipv4_per_nic,
        ipv6_per_nic: spec.limits.ipv6_per_nic,
    };
    let of_profile = match spec.profile.ip_families {
        IpFamilies::IPv4 => Families::V4,
        IpFamilies::IPv6 => Families::V6,
        IpFamilies::DualStack => Families::Dual,
    };
    print(
        args,
        Some(node),
        limits,
        args.ip_families.map_or(of_profile, Families::from),
    )
}

fn print(
    args: &Args,
    node: Option<String>,
    limits: NicLimits,
    families: Families,
) -> anyhow::Result<()> {
    let max_pods = max_pods_of(&limits, families) + args.host_network;
    let answer = Answer {
        max_pods,
        node,
        families,
        limits,
        host_network: args.host_network,
    };
    output::write(&match args.output {
        Format::Table => format!("{max_pods}\n"),
        Format::Json => serde_json::to_string_pretty(&answer).context("write JSON")? + "\n",
        Format::Yaml => serde_norway::to_string(&answer).context("write YAML")?,
    })
}

impl From<FamiliesArg> for Families {
    fn from(arg: FamiliesArg) -> Self {
        match arg {
            FamiliesArg::V4 => Self::V4,
            FamiliesArg::V6 => Self::V6,
            FamiliesArg::Dual => Self::Dual,
        }
    }
}
