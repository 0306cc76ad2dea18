//! What the checker looks at, as plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The whole lab at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By node name.
    pub nodes: BTreeMap<String, NodeView>,
    /// NICs in the cloud that carry this cluster's tag or are attached to a node, by id.
    pub cloud: BTreeMap<String, CloudNic>,
    /// Eni objects, by cloud NIC id; those without one under their own name.
    pub enis: BTreeMap<String, EniView>,
    /// Pods that the API server knows, by namespace/name.
    pub pods: BTreeMap<String, PodView>,
    /// PodEndpoints, by namespace/name of the object.
    pub endpoints: BTreeMap<String, EndpointView>,
    /// Frames that the fabric dropped as spoofed, by NIC.
    pub spoof_drops: BTreeMap<String, u64>,
}

/// A NIC as the cloud shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudNic {
    /// Instance that it is attached to.
    pub instance: Option<String>,
    /// Device index there.
    pub device_index: u16,
    /// Addresses besides its own.
    pub secondary: BTreeSet<IpAddr>,
    /// Made by this cluster.
    pub ours: bool,
}

/// An Eni object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EniView {
    /// Its node.
    pub node: String,
    /// `status.addresses`.
    pub addresses: BTreeSet<IpAddr>,
    /// `status.phase`.
    pub phase: String,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Its node.
    pub node: String,
    /// `status.podIPs`.
    pub ips: BTreeSet<IpAddr>,
    /// `status.phase`.
    pub phase: String,
    /// In the node's network.
    pub host_network: bool,
}

/// A PodEndpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointView {
    /// Its node.
    pub node: String,
    /// Pod, as namespace/name.
    pub pod: String,
    /// network/container/ifname.
    pub key: String,
    /// Address -> NIC.
    pub ips: BTreeMap<IpAddr, String>,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Instance id.
    pub instance: String,
    /// `nrs.spec.nics`: NIC -> addresses.
    pub nrs: BTreeMap<String, BTreeSet<IpAddr>>,
    /// `nrs.spec.release`: addresses that the operator wants back.
    pub release: BTreeSet<IpAddr>,
    /// The agent's pool: address -> (NIC, state word, key or empty).
    pub pool: BTreeMap<IpAddr, (String, String, String)>,
    /// Journal: key -> address -> NIC. Entries that are being removed are left out.
    pub journal: BTreeMap<String, BTreeMap<IpAddr, String>>,
    /// Host ports of the journal's entries: (addresses of the node, protocol, port) -> (address, port) of the pod, as text.
    pub host_ports: BTreeMap<String, String>,
    /// Kernel.
    pub kernel: KernelView,
}

/// A node's kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelView {
    /// Routes of the pod table: address -> host end.
    pub routes: BTreeMap<IpAddr, String>,
    /// Addresses that the pod table refuses as long as no pod has them.
    pub unreachable: BTreeSet<IpAddr>,
    /// Permanent neighbours on host ends: address -> host end.
    pub neighbours: BTreeMap<IpAddr, String>,
    /// Elements of the source maps: address -> (host end, mark).
    pub sources: BTreeMap<IpAddr, (String, u32)>,
    /// Elements of the maps of host ports, as in [`NodeView::host_ports`].
    pub host_ports: BTreeMap<String, String>,
    /// Pods that may reach themselves by a host port: address and address again.
    pub hairpins: BTreeSet<String>,
    /// Host ends of pods: name.
    pub host_ends: BTreeSet<String>,
    /// Addresses found inside pod namespaces (global scope): address -> namespace's name.
    pub pod_addresses: BTreeMap<IpAddr, String>,
    /// Policy rules with our protocol number, a family, as (priority, text).
    pub rules: BTreeMap<String, BTreeSet<(u32, String)>>,
    /// Tables of secondary NICs that have a default route of ours: (table, family).
    pub nic_tables: BTreeSet<(u32, String)>,
}
