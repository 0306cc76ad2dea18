//! PodEndpoint: one per pod attachment, written by the node's agent after the fact (never inside ADD).

use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "PodEndpoint",
    plural = "podendpoints",
    shortname = "pep",
    namespaced,
    printcolumn = r#"{"name":"Pod","type":"string","jsonPath":".spec.pod"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".spec.node"}"#,
    printcolumn = r#"{"name":"IPv4","type":"string","jsonPath":".spec.ipv4.ip"}"#,
    printcolumn = r#"{"name":"IPv6","type":"string","jsonPath":".spec.ipv6.ip"}"#,
    printcolumn = r#"{"name":"NIC","type":"string","jsonPath":".spec.ipv4.nic"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".spec.state"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PodEndpointSpec {
    pub node: String,
    pub pod: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
    pub network: String,
    pub container_id: String,
    pub ifname: String,
    pub host_ifname: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<EndpointIp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<EndpointIp>,
    pub state: EndpointPhase,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointIp {
    #[schemars(with = "String")]
    pub ip: IpAddr,
    /// Cloud NIC that owns it.
    pub nic: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EndpointPhase {
    Ready,
    Removing,
}
