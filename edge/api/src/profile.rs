//! NetworkProfile: the three choices, and pool, MTU, SNAT and placement.

use std::collections::BTreeMap;

use ipnet::IpNet;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How pods of the selected nodes get and use their network.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "NetworkProfile",
    plural = "networkprofiles",
    shortname = "np"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkProfileSpec {
    /// Nodes that use this profile: all of these labels. Empty selects every node. Among several the highest priority wins,
    /// then the name that sorts first.
    #[serde(default)]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default)]
    pub priority: i32,
    /// Where pod addresses come from.
    #[serde(default)]
    pub addressing: Addressing,
    /// How a pod is plugged into its node.
    #[serde(default)]
    pub attachment: AttachmentMode,
    /// How packets cross nodes.
    #[serde(default)]
    pub transport: Transport,
    /// Families of every pod.
    #[serde(default)]
    pub ip_families: IpFamilies,
    #[serde(default)]
    pub pool: PoolSpec,
    /// MTU of pods in bytes; absent: the NIC's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub snat: SnatSpec,
    /// Subnets for new NICs.
    #[serde(default)]
    pub subnets: SubnetSelector,
    /// Security groups of new NICs; empty: those of the node's primary NIC.
    #[serde(default)]
    pub security_groups: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Addressing {
    /// Secondary addresses of cloud NICs.
    #[default]
    Eni,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentMode {
    /// A routed veth pair.
    #[default]
    Veth,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// The VPC knows the pod address.
    #[default]
    Native,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IpFamilies {
    IPv4,
    IPv6,
    #[default]
    DualStack,
}

/// How the node's pool sizes itself; counts are addresses a family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PoolSpec {
    /// Free addresses to keep at least.
    pub warm_min: u32,
    /// Free addresses to keep at most.
    pub warm_max: u32,
    /// Seconds an address rests before its next use.
    pub cooling_seconds: u32,
    /// Seconds over which recent pod starts raise the warm target.
    pub churn_window_seconds: u32,
    /// Seconds an ADD waits for supply before it fails with code 11.
    pub wait_seconds: u32,
}

impl Default for PoolSpec {
    fn default() -> Self {
        Self {
            warm_min: 3,
            warm_max: 12,
            cooling_seconds: 60,
            churn_window_seconds: 60,
            wait_seconds: 20,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SnatSpec {
    /// Whether IPv4 traffic to outside the VPC leaves with the node's primary address. False where a NAT gateway does it.
    pub enabled: bool,
    /// Further ranges that are reached without translation (peered VPCs, a data centre), besides the VPC's own.
    #[schemars(with = "Vec<String>")]
    pub exclude: Vec<IpNet>,
}

impl Default for SnatSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            exclude: Vec::new(),
        }
    }
}

/// Subnets for new NICs, in the zone of the node: by id, else by tags, else the subnet of the primary NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SubnetSelector {
    pub ids: Vec<String>,
    pub tags: BTreeMap<String, String>,
}
