//! Calls that only the lab has: `POST /lab/v1/<Verb>` on the unix socket, never on the address that instances reach.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use tombolo_cloud_sim::wire::{Empty, InstanceState};
use tombolo_core::types::Mac;

use crate::knobs::{Knob, KnobState};

/// A lab call: its name and its reply.
pub trait LabVerb: Serialize {
    /// Name, as in `/lab/v1/<NAME>`.
    const NAME: &'static str;
    /// What success returns.
    type Reply: for<'de> Deserialize<'de>;
}

macro_rules! lab_verbs {
    ($($name:ident -> $reply:ty,)+) => {
        $(impl LabVerb for $name {
            const NAME: &'static str = stringify!($name);
            type Reply = $reply;
        })+
    };
}

lab_verbs! {
    RunInstance -> InstanceDetail,
    TerminateInstance -> Empty,
    ListInstances -> Vec<InstanceDetail>,
    Links -> Vec<LinkInfo>,
    Counters -> CounterReport,
    ResetCounters -> Empty,
    Calls -> BTreeMap<String, CallCount>,
    ResetCalls -> Empty,
    SetKnob -> Empty,
    Knobs -> KnobState,
    SetMtu -> Empty,
    TakeAddress -> Empty,
    MoveAddress -> Empty,
    ForceDetach -> Empty,
    VanishNic -> Empty,
    Info -> LabInfo,
    Shutdown -> Empty,
}

/// Starts an instance with its primary NIC plugged and configured as an operating system would. Returns once that is so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunInstance {
    /// Lower-case letters, digits and `-`; unique among running instances.
    pub name: String,
    /// Name of an instance type.
    pub instance_type: String,
    /// Subnet of the primary NIC; the instance runs in its zone.
    pub subnet: String,
    /// Path of the instance's network namespace, for example `/proc/123/ns/net`. Absent: `tl-<lab>-<name>` is created, and
    /// removed when the instance terminates.
    #[serde(default)]
    pub netns: Option<String>,
}

/// Ends an instance: NICs unplugged, those with `delete_on_termination` deleted. Returns once that is so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TerminateInstance {
    /// Id or name.
    pub instance: String,
}

/// All instances, terminated ones included.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ListInstances {}

/// An instance as the lab knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceDetail {
    /// Cloud id.
    pub id: String,
    /// The lab's name for it.
    pub name: String,
    /// Instance type.
    pub instance_type: String,
    /// Zone.
    pub zone: String,
    /// Lifecycle state.
    pub state: InstanceState,
    /// Path of its network namespace.
    pub netns: String,
    /// Its primary NIC.
    pub primary_nic: String,
    /// MAC of the primary NIC.
    pub mac: Mac,
    /// Address of the primary NIC with the subnet's prefix length.
    pub primary4: Ipv4Net,
    /// The subnet's IPv4 router.
    pub gateway4: Ipv4Addr,
    /// IPv6 address of the primary NIC.
    pub primary6: Option<Ipv6Addr>,
    /// What the internet sees instead of `primary4`.
    pub public4: Ipv4Addr,
}

/// Every NIC that is or should be plugged.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Links {}

/// Where a NIC is plugged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// The NIC.
    pub nic: String,
    /// Link in the fabric's namespace.
    pub link: String,
    /// Name that the link is born with in the instance's namespace.
    pub guest_link: String,
    /// The instance's id.
    pub instance: String,
    /// The instance's name.
    pub instance_name: String,
    /// Device index.
    pub device_index: u16,
    /// Whether the link exists.
    pub plugged: bool,
    /// Why plugging failed last, if it did.
    pub error: Option<String>,
}

/// Reads the fabric's drop counters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {}

/// Drop counters, in packets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterReport {
    /// Frames whose source was not the NIC's: all NICs since start or reset, unplugged ones included.
    pub spoof_total: u64,
    /// IPv4 packets to the internet from other than a primary address: all NICs, unplugged ones included.
    pub no_internet_total: u64,
    /// Per NIC that is plugged.
    pub nics: BTreeMap<String, NicCounters>,
}

/// Drop counters of a NIC, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicCounters {
    /// Frames whose (MAC, source) the NIC does not own, router advertisements and redirects.
    pub spoof: u64,
    /// IPv4 packets to the internet whose source is not an instance's primary address.
    pub no_internet: u64,
    /// Harmless frames that the VPC does not carry: other protocols, MLD, DHCP, duplicate-address probes, ARP for addresses
    /// outside the subnet, packets from the NIC's link-local address.
    pub not_carried: u64,
}

/// Sets all drop counters to 0.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ResetCounters {}

/// Calls per verb since start or reset.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Calls {}

/// What became of the calls of a verb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallCount {
    /// Carried out, reply sent.
    pub ok: u64,
    /// Answered with an error, throttling excepted.
    pub refused: u64,
    /// Answered `RequestLimitExceeded`.
    pub throttled: u64,
    /// Connection cut instead of a reply.
    pub lost: u64,
    /// Replies spoilt.
    #[serde(default)]
    pub corrupted: u64,
    /// Replies that are held at this moment; each is counted elsewhere once it is let go.
    #[serde(default)]
    pub held: u64,
}

impl CallCount {
    /// All calls that arrived.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.ok + self.refused + self.throttled + self.lost + self.corrupted + self.held
    }
}

/// Sets all call counters to 0.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ResetCalls {}

/// Turns a knob.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetKnob {
    /// Which, and to what.
    pub knob: Knob,
}

/// Reads all knobs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Knobs {}

/// Changes the MTU of a NIC, in the cloud's description and on both ends of its link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetMtu {
    /// The NIC.
    pub nic: String,
    /// Bytes.
    pub mtu: u32,
}

/// Somebody else takes a secondary address away from whichever NIC has it. This and the three calls below are what happens
/// behind the product's back: no knob disturbs them. They return once the fabric has caught up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TakeAddress {
    /// The address.
    pub address: IpAddr,
}

/// Somebody else moves a secondary address to another NIC of its subnet.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MoveAddress {
    /// The address.
    pub address: IpAddr,
    /// The NIC that gets it.
    pub to: String,
}

/// Somebody else detaches a NIC by force, whatever it is doing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForceDetach {
    /// The NIC.
    pub nic: String,
}

/// Somebody else deletes a NIC, detaching it by force where it is attached.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VanishNic {
    /// The NIC.
    pub nic: String,
}

/// What this lab is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Info {}

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabInfo {
    /// The lab's name.
    pub lab: String,
    /// Process id of the server.
    pub pid: u32,
    /// Path of the router's namespace; `None` when the server runs without a fabric.
    pub fabric_netns: Option<String>,
    /// Path of the internet's namespace.
    pub inet_netns: Option<String>,
    /// Whole configuration in use.
    pub config: crate::config::Config,
}

/// Removes everything and ends the server. The reply comes before the removal; the socket disappears last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Shutdown {}
