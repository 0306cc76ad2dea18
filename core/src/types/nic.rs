//! A cloud NIC as both sides know it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Family, Mac};

/// The cloud's name for a NIC, for example `eni-0a1b2c3d`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NicId(pub String);

impl fmt::Display for NicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A NIC of this node: what the cloud says of it, joined by MAC with the link that the kernel shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The cloud's name.
    pub id: NicId,
    /// The cloud's device index; 0 is the primary NIC. Its mark and its table follow from it.
    pub device_index: u16,
    /// Joins the cloud's view with the kernel's: names and order change over reboots, the MAC does not.
    pub mac: Mac,
    /// The link's index in the node's namespace.
    pub ifindex: u32,
    /// The link's present name.
    pub ifname: String,
    /// The link's MTU in bytes; pods of this NIC get the same.
    pub mtu: u32,
    /// Primary IPv4 address of the NIC itself (never a pod's).
    pub addr4: Option<Ipv4Addr>,
    /// Primary IPv6 address of the NIC itself (never a pod's).
    pub addr6: Option<Ipv6Addr>,
    /// IPv4 range of the NIC's subnet.
    pub subnet4: Option<Ipv4Net>,
    /// IPv6 range of the NIC's subnet.
    pub subnet6: Option<Ipv6Net>,
    /// The subnet's IPv4 router.
    pub gateway4: Option<Ipv4Addr>,
    /// The subnet's IPv6 router, usually link-local.
    pub gateway6: Option<Ipv6Addr>,
}

impl Nic {
    /// Whether this is the NIC that the node booted with.
    #[must_use]
    pub const fn is_primary(&self) -> bool {
        self.device_index == 0
    }

    /// The NIC's own address of a family.
    #[must_use]
    pub fn own_address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.addr4.map(IpAddr::V4),
            Family::V6 => self.addr6.map(IpAddr::V6),
        }
    }

    /// The router of a family.
    #[must_use]
    pub fn gateway(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.gateway4.map(IpAddr::V4),
            Family::V6 => self.gateway6.map(IpAddr::V6),
        }
    }
}

/// What an instance type can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NicLimits {
    /// NICs at once, the primary included.
    pub max_nics: u16,
    /// IPv4 addresses a NIC, its own primary address included.
    pub ipv4_per_nic: u16,
    /// IPv6 addresses a NIC, its own address (where it has one) included.
    pub ipv6_per_nic: u16,
}
