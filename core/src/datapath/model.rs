//! Kernel objects as plain data, shaped so that a desired and an observed one compare equal exactly when they are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::types::{
    AttachmentKey, Families, Family, HostAddress, HostIfName, Mac, Nic, NicId, PortMapping,
    Protocol,
};

/// Everything that the desired state of a node follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInput {
    /// Families that the profile asks for.
    pub families: Families,
    /// NICs that the cloud says are ours and the kernel shows.
    pub nics: Vec<Nic>,
    /// Pods on this node.
    pub endpoints: Vec<Endpoint>,
    /// The node's addresses for pods, whether pods have them or not; without those that it may be giving back, which can
    /// be another node's by now.
    pub addresses: BTreeSet<IpAddr>,
    /// Ranges of the VPC and of what it reaches without translation. IPv4 traffic to elsewhere leaves by the primary
    /// NIC with its address.
    pub vpc_cidrs: Vec<IpNet>,
    /// Whether IPv4 traffic to outside the VPC is translated on this node (false: something behind it does).
    pub snat: bool,
}

/// One attached pod interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Identity.
    pub key: AttachmentKey,
    /// Host end: index in the node's namespace.
    pub host_ifindex: u32,
    /// Addresses, at most one a family, IPv4 first.
    pub addresses: Vec<EndpointAddress>,
    /// Ports of the node that lead to it.
    pub host_ports: Vec<PortMapping>,
    /// MTU in bytes of both ends.
    pub mtu: u32,
}

/// One address of a pod and the NIC that owns it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndpointAddress {
    /// The address.
    pub ip: IpAddr,
    /// Its NIC.
    pub nic: NicId,
}

/// The state that this node's namespace should have, or has, as far as it is marked as ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Policy rules.
    pub rules: BTreeSet<Rule>,
    /// Routes, all tables.
    pub routes: BTreeSet<Route>,
    /// Permanent neighbour entries on host ends.
    pub neighbours: BTreeSet<Neighbour>,
    /// Addresses that we put on NICs.
    pub addresses: BTreeSet<Address>,
    /// Host ends and NICs, by index.
    pub links: BTreeMap<u32, LinkState>,
    /// What the nft tables hold.
    pub nat: NatState,
    /// Kernel settings; in observed state, those that were asked for.
    pub sysctls: BTreeSet<Sysctl>,
}

/// The part of [`NodeState`] that one endpoint contributes, and its pod's own side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointState {
    /// Name of the host end.
    pub host_ifname: HostIfName,
    /// MAC of the pod end and of the host end.
    pub macs: (Mac, Mac),
    /// MTU in bytes of both ends.
    pub mtu: u32,
    /// Host routes to the pod.
    pub routes: Vec<Route>,
    /// Permanent entries on the host end.
    pub neighbours: Vec<Neighbour>,
    /// Elements of the source maps.
    pub sources: Vec<(IpAddr, u32)>,
    /// Elements of the maps of host ports.
    pub host_ports: Vec<(HostPort, SocketAddr)>,
    /// Settings of the host end.
    pub sysctls: Vec<Sysctl>,
    /// Addresses in the pod (as /32 or /128, the link-local one included).
    pub pod_addresses: Vec<IpNet>,
    /// Families for which the pod gets a gateway and a default route.
    pub pod_families: Vec<Family>,
    /// Where those routes are not in the pod's main table.
    #[serde(default, skip_serializing_if = "OwnTable::is_unused")]
    pub own_table: OwnTable,
}

/// The table that an attachment has for itself inside its pod, for families in which another interface has the pod's
/// default route: what comes from its addresses leaves by it all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnTable {
    /// Number.
    pub table: u32,
    /// Most often none.
    pub families: BTreeSet<Family>,
}

impl OwnTable {
    /// Whether the pod's main table holds all of the attachment's routes.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.families.is_empty()
    }
}

/// A policy rule (`ip rule`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Family.
    pub family: Family,
    /// Priority: lower is asked first.
    pub priority: u32,
    /// What it matches.
    pub selector: Selector,
    /// What it does.
    pub action: RuleAction,
}

/// What a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Selector {
    /// Everything.
    All,
    /// Packets that came in by this interface (`lo`: locally made).
    Iif(String),
    /// Packets of sockets that are bound to this interface.
    Oif(String),
    /// Packets with this source.
    From(IpNet),
    /// Packets with this (mark, mask).
    Mark(u32, u32),
    /// Packets that came in by this interface with this (mark, mask).
    IifMark(String, u32, u32),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RuleAction {
    /// Ask a table; a miss goes on with the next rule.
    Lookup(u32),
    /// Go on at this priority.
    Goto(u32),
    /// Drop silently.
    Blackhole,
    /// Nothing: a target for `Goto`.
    Nop,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Table number.
    pub table: u32,
    /// Destination; its length is 0 for a default route.
    pub dst: IpNet,
    /// Where to.
    pub kind: RouteKind,
    /// Metric (0 is the kernel's own default for IPv4; IPv6 shows 1024 where none is given, so we always give one).
    pub metric: u32,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteKind {
    /// Directly onto a link.
    Link {
        /// Link index.
        ifindex: u32,
    },
    /// By a router that is taken to be on the link whatever its address (`onlink`).
    Via {
        /// The router.
        gateway: IpAddr,
        /// Link index.
        ifindex: u32,
    },
    /// Refused with an ICMP error.
    Unreachable,
}

/// A permanent neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Neighbour {
    /// Link index.
    pub ifindex: u32,
    /// Whose.
    pub ip: IpAddr,
    /// Its link-layer address.
    pub mac: Mac,
}

/// An address on a link; always without duplicate detection and without a prefix route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Link index.
    pub ifindex: u32,
    /// Address and length.
    pub ip: IpNet,
}

/// What we set on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// Name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Link group; `None` where we leave it alone (NICs).
    pub group: Option<u32>,
}

/// The variable part of our nft tables. Chains and rules are fixed text in `edge/netlink`; only these values vary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatState {
    /// (host end's index, pod's IPv4 address) -> mark of the NIC that owns the address. A miss is a spoofed source.
    #[serde(with = "sources")]
    pub pods4: BTreeMap<(u32, Ipv4Addr), u32>,
    /// The same for IPv6.
    #[serde(with = "sources")]
    pub pods6: BTreeMap<(u32, Ipv6Addr), u32>,
    /// NIC index -> its mark: set on what comes in by it, and kept on the connection for the reply.
    pub nics: BTreeMap<u32, u32>,
    /// IPv4 ranges that are never translated.
    pub vpc4: BTreeSet<Ipv4Net>,
    /// (index of the primary NIC, its address): what other IPv4 traffic of pods leaves by and with. `None`: it leaves by
    /// the pod's own NIC, untranslated.
    pub snat4: Option<(u32, Ipv4Addr)>,
    /// Port of the node -> address and port of a pod. A port at one address goes before the same port at all of them.
    #[serde(with = "pairs")]
    pub host_ports: BTreeMap<HostPort, SocketAddr>,
}

/// A port of the node: packets for it, at these addresses, go to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    /// Of all that are the node's own.
    pub host: HostAddress,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
}

/// A kernel setting below `/proc/sys/net`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sysctl {
    /// Path below `/proc/sys/net`, for example `ipv4/ip_forward`.
    pub path: String,
    /// Wanted or found value.
    pub value: String,
}

/// Source maps as lists of (link index, address, mark): formats such as JSON know no keys of two parts.
mod sources {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<A: Serialize, S: Serializer>(
        map: &BTreeMap<(u32, A), u32>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map.iter().map(|((ifindex, ip), mark)| (ifindex, ip, mark)))
    }

    pub fn deserialize<'de, A, D>(from: D) -> Result<BTreeMap<(u32, A), u32>, D::Error>
    where
        A: Deserialize<'de> + Ord,
        D: Deserializer<'de>,
    {
        let list = Vec::<(u32, A, u32)>::deserialize(from)?;
        Ok(list
            .into_iter()
            .map(|(ifindex, ip, mark)| ((ifindex, ip), mark))
            .collect())
    }
}

/// A map as a list of pairs, for the same reason.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub fn deserialize<'de, K, V, D>(from: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(from)?.into_iter().collect())
    }
}
