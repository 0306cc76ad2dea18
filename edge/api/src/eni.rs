//! Eni: one per cloud NIC that this cluster made or uses. The object is written before the cloud is asked (intent before
//! effect) and goes after the NIC is gone.
//!
//! ```text
//!   Creating ──▶ Available ──▶ Attaching ──▶ InUse ──▶ Detaching ──▶ Deleting ──▶ (object gone)
//!       └── create failed for good ─────────────────────────────────▲
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "Eni",
    plural = "enis",
    shortname = "eni",
    status = "EniStatus",
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.node"}"#,
    printcolumn = r#"{"name":"NIC","type":"string","jsonPath":".status.nicId"}"#,
    printcolumn = r#"{"name":"Index","type":"integer","jsonPath":".spec.deviceIndex"}"#,
    printcolumn = r#"{"name":"Subnet","type":"string","jsonPath":".spec.subnet"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Addresses","type":"integer","jsonPath":".status.addressCount"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct EniSpec {
    /// Node (and NetResourceSet) that it is for.
    pub node: String,
    pub instance_id: String,
    pub device_index: u16,
    pub subnet: String,
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// Found, not made: the instance's primary NIC, or one that somebody else attached. Never detached or deleted.
    #[serde(default)]
    pub adopted: bool,
    /// Secondary addresses asked for at creation.
    #[serde(default)]
    pub initial4: u16,
    #[serde(default)]
    pub initial6: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EniStatus {
    pub phase: EniPhase,
    /// The cloud's name, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary4: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary6: Option<Ipv6Addr>,
    /// Addresses for pods.
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpAddr>,
    pub address_count: u32,
    /// Last failure, with its reason word first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EniPhase {
    #[default]
    Creating,
    Available,
    Attaching,
    InUse,
    Detaching,
    Deleting,
}
