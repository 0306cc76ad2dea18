//! Requests and replies of the simulated VPC API. Semantics follow EC2 where EC2 has the call: verbs return before their
//! effect is visible, describe calls may be paged by nobody, `Assign` returns the new addresses only.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use tombolo_core::types::{Family, Mac};

/// A call: its path and its reply.
pub trait Verb: Serialize {
    /// Name, as in `/v1/<NAME>`.
    const NAME: &'static str;
    /// What success returns.
    type Reply: for<'de> Deserialize<'de>;
}

macro_rules! verbs {
    ($($name:ident -> $reply:ty,)+) => {
        $(impl Verb for $name {
            const NAME: &'static str = stringify!($name);
            type Reply = $reply;
        })+
    };
}

verbs! {
    DescribeVpc -> Vpc,
    DescribeInstances -> Vec<Instance>,
    DescribeInstanceTypes -> Vec<InstanceType>,
    DescribeSubnets -> Vec<Subnet>,
    DescribeNics -> Vec<NicInfo>,
    CreateNic -> NicInfo,
    AttachNic -> Attachment,
    DetachNic -> Empty,
    DeleteNic -> Empty,
    AssignAddresses -> AssignedAddresses,
    UnassignAddresses -> Empty,
    TagNic -> Empty,
}

/// Reply of calls that return nothing. (Serialised as `{}`.)
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Empty {}

/// Body of every failed call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// EC2's code, for example `InsufficientFreeAddressesInSubnet`, `RequestLimitExceeded`, `AttachmentLimitExceeded`,
    /// `PrivateIpAddressLimitExceeded`, `InvalidNetworkInterfaceID.NotFound`, `InvalidParameterValue`.
    pub code: String,
    /// For people.
    pub message: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DescribeVpc {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpc {
    pub id: String,
    /// Ranges of both families; the first IPv4 one is the VPC's main range.
    pub cidrs: Vec<IpNet>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DescribeInstances {
    /// Empty: all.
    #[serde(default)]
    pub ids: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    pub id: String,
    pub instance_type: String,
    pub zone: String,
    pub state: InstanceState,
    pub primary_nic: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    Running,
    Stopped,
    Terminated,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DescribeInstanceTypes {
    #[serde(default)]
    pub names: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceType {
    pub name: String,
    /// NICs at once, the primary included.
    pub max_nics: u16,
    /// Addresses a NIC, its primary one included.
    pub ipv4_per_nic: u16,
    pub ipv6_per_nic: u16,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DescribeSubnets {
    #[serde(default)]
    pub ids: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub id: String,
    pub zone: String,
    pub cidr4: Ipv4Net,
    pub cidr6: Option<Ipv6Net>,
    /// Free IPv4 addresses. As with EC2, IPv6 is not counted.
    pub available4: u32,
    pub gateway4: Ipv4Addr,
    /// The router's link-local address, the same on every NIC.
    pub gateway6: Ipv6Addr,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

/// Empty filters match everything; several are joined by "and".
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DescribeNics {
    #[serde(default)]
    pub ids: Vec<String>,
    #[serde(default)]
    pub instance: Option<String>,
    /// Tags that must be present with these values.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicInfo {
    pub id: String,
    pub subnet: String,
    pub zone: String,
    pub mac: Mac,
    pub mtu: u32,
    pub description: String,
    pub status: NicStatus,
    pub attachment: Option<Attachment>,
    /// The NIC's own address.
    pub primary4: Ipv4Addr,
    /// The NIC's own IPv6 address: only primary NICs of instances have one.
    #[serde(default)]
    pub primary6: Option<Ipv6Addr>,
    /// Further addresses, both families.
    #[serde(default)]
    pub secondary: Vec<IpAddr>,
    #[serde(default)]
    pub security_groups: Vec<String>,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NicStatus {
    Available,
    Attaching,
    InUse,
    Detaching,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub instance: String,
    pub device_index: u16,
    /// Whether the cloud deletes the NIC with the instance.
    pub delete_on_termination: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateNic {
    pub subnet: String,
    pub description: String,
    /// Repeating a call with the same token returns the NIC that the first one made.
    #[serde(default)]
    pub client_token: Option<String>,
    /// Secondary IPv4 addresses wanted, besides the NIC's own.
    #[serde(default)]
    pub ipv4_count: u16,
    #[serde(default)]
    pub ipv6_count: u16,
    #[serde(default)]
    pub security_groups: Vec<String>,
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttachNic {
    pub nic: String,
    pub instance: String,
    pub device_index: u16,
    #[serde(default)]
    pub delete_on_termination: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DetachNic {
    pub nic: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteNic {
    pub nic: String,
}

/// Asks for `count` addresses of a family, all or nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AssignAddresses {
    pub nic: String,
    pub family: Family,
    pub count: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AssignedAddresses {
    /// The new ones only.
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnassignAddresses {
    pub nic: String,
    pub addresses: Vec<IpAddr>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TagNic {
    pub nic: String,
    pub tags: BTreeMap<String, String>,
}
