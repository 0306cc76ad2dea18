//! NetResourceSet: one per node, outliving a deleted Node while its instance runs. `spec` is the operator's, `status.agent`
//! the agent's; `status.conditions` is shared, one writer a condition type.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{IpFamilies, PoolSpec};

#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "NetResourceSet",
    plural = "netresourcesets",
    shortname = "nrs",
    status = "NetResourceSetStatus",
    printcolumn = r#"{"name":"Instance","type":"string","jsonPath":".spec.instanceId"}"#,
    printcolumn = r#"{"name":"Profile","type":"string","jsonPath":".spec.profile.name"}"#,
    printcolumn = r#"{"name":"NICs","type":"integer","jsonPath":".status.agent.nics"}"#,
    printcolumn = r#"{"name":"Used","type":"integer","jsonPath":".status.agent.used"}"#,
    printcolumn = r#"{"name":"Total","type":"integer","jsonPath":".status.agent.total"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NetResourceSetSpec {
    pub instance_id: String,
    pub instance_type: String,
    pub zone: String,
    /// The profile in force, resolved.
    pub profile: ResolvedProfile,
    pub limits: Limits,
    /// Ranges of the VPC, both families.
    #[schemars(with = "Vec<String>")]
    pub vpc_cidrs: Vec<IpNet>,
    /// NICs attached to the instance that this cluster may use, the primary first.
    #[serde(default)]
    pub nics: Vec<NicEntry>,
    /// Addresses that the operator wants back. The agent answers in `status.agent.release`; only an address answered
    /// `ready` is taken from the cloud, and it leaves this list (and its NIC's) after that.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub release: Vec<IpAddr>,
    /// Addresses that the cloud was, or is about to be, asked to take back, until they were gone for long enough. Whoever
    /// plans for the node keeps them from it: the call may come through at any time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<String>")]
    pub taking: Vec<IpAddr>,
    /// The leadership under which this was written: how often the operators' lease had been taken by then. An operator
    /// that sees a greater one than its own leads no more.
    #[serde(default)]
    pub term: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedProfile {
    /// Name of the NetworkProfile; `default` (built in) where none selects the node.
    pub name: String,
    pub ip_families: IpFamilies,
    pub pool: PoolSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    pub snat: bool,
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub snat_exclude: Vec<IpNet>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    pub max_nics: u16,
    pub ipv4_per_nic: u16,
    pub ipv6_per_nic: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NicEntry {
    pub id: String,
    pub mac: String,
    pub device_index: u16,
    pub subnet: String,
    #[schemars(with = "String")]
    pub cidr4: Ipv4Net,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub cidr6: Option<Ipv6Net>,
    pub gateway4: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<Ipv6Addr>,
    /// The NIC's own addresses.
    pub primary4: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary6: Option<Ipv6Addr>,
    /// MTU in bytes, as the cloud says.
    pub mtu: u32,
    /// Addresses for pods.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NetResourceSetStatus {
    /// Written by the node's agent only.
    pub agent: AgentStatus,
    /// `Ready` (agent); `SubnetsAvailable`, `NicsAvailable`, `CloudReachable` (operator).
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentStatus {
    /// `metadata.generation` of the spec that this status is about.
    pub observed_generation: i64,
    /// NICs found in the kernel and wired.
    pub nics: u32,
    /// Pod addresses bound, both families.
    pub used: u32,
    /// Pod addresses, both families.
    pub total: u32,
    /// What the pool wants, by family (`IPv4`, `IPv6`).
    pub demand: BTreeMap<String, DemandStatus>,
    /// Addresses bound, draining or cooling: never to be taken. Address -> state (`bound`, `draining`, `cooling`).
    pub in_use: BTreeMap<String, String>,
    /// Free addresses in the order in which the node would give them back.
    pub releasable: Vec<String>,
    /// Answers to `spec.release`: address -> `ready` or `refused`.
    pub release: BTreeMap<String, ReleaseAnswer>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DemandStatus {
    /// Addresses wanted at least.
    pub low: u32,
    /// Addresses above which some may be taken back.
    pub high: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseAnswer {
    Ready,
    Refused,
}
