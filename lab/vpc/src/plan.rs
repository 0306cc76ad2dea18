//! What the fabric should look like: the model's word to the fabric. Plain data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use tombolo_core::types::Mac;

/// Everything that should be plugged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Network namespaces of instances, by instance id.
    pub namespaces: BTreeMap<String, Namespace>,
    /// NICs, by NIC id.
    pub plugs: BTreeMap<String, Plug>,
}

/// Where an instance lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// The fabric makes and removes it; the name below `/run/netns`.
    Owned(String),
    /// Someone else's, by path.
    Foreign(String),
}

impl Namespace {
    /// Path of the namespace.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Owned(name) => format!("/run/netns/{name}"),
            Self::Foreign(path) => path.clone(),
        }
    }
}

/// A NIC in an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plug {
    /// Instance id.
    pub instance: String,
    /// Device index; the guest's link is born as `eth<index>`.
    pub device_index: u16,
    /// The guest's MAC.
    pub mac: Mac,
    /// MAC of the fabric's end: the router's on this NIC.
    pub router_mac: Mac,
    /// Bytes.
    pub mtu: u32,
    /// Range in which the router answers ARP on this NIC.
    pub subnet4: Ipv4Net,
    /// Addresses that the NIC owns.
    pub addresses: BTreeSet<IpAddr>,
    /// Primary NICs only: what the operating system configures.
    pub os: Option<OsConfig>,
}

/// Configuration of a primary NIC, as DHCP would give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OsConfig {
    /// Address with the subnet's prefix length.
    pub address4: Ipv4Net,
    /// IPv4 router.
    pub gateway4: Ipv4Addr,
    /// IPv6 address; its route comes by router advertisement.
    pub address6: Option<Ipv6Addr>,
    /// The address that the internet sees instead of `address4`.
    pub public4: Ipv4Addr,
}

/// What never changes while the fabric runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FabricPlan {
    /// The lab's name.
    pub lab: String,
    /// VPC ranges, IPv4.
    pub vpc4: Vec<Ipv4Net>,
    /// VPC ranges, IPv6.
    pub vpc6: Vec<Ipv6Net>,
    /// The router's own addresses: one per subnet and family.
    pub gateways: Vec<IpAddr>,
    /// The router's link-local address on every NIC.
    pub gateway6: Ipv6Addr,
    /// Internet hosts.
    pub hosts: Vec<IpAddr>,
    /// MTU towards the internet, in bytes.
    pub inet_mtu: u32,
    /// Lifetime in router advertisements, in seconds.
    pub ra_lifetime_s: u16,
}

impl FabricPlan {
    /// Name of the router's namespace.
    #[must_use]
    pub fn fabric(&self) -> String {
        format!("tl-{}-fabric", self.lab)
    }

    /// Name of the internet's namespace.
    #[must_use]
    pub fn inet(&self) -> String {
        format!("tl-{}-inet", self.lab)
    }
}

/// Name of a NIC's link in the fabric's namespace: `n-` and the NIC id without its prefix.
#[must_use]
pub fn link_name(nic: &str) -> String {
    format!("n-{}", short_id(nic))
}

/// A NIC id without its prefix.
#[must_use]
pub fn short_id(nic: &str) -> &str {
    nic.strip_prefix("eni-").unwrap_or(nic)
}
