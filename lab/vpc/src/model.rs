//! The VPC's state: instances, NICs, addresses. Pure: no clock, no I/O. Cloud calls change it at once; what they start is
//! carried out by the fabric, which is told [`Desired`] and tells back what is plugged.
//!
//! A NIC's attachment:
//! ```text
//!        attach            due            observed plugged
//!  Out ─────────▶ Attaching ────▶ Plugging ───────────────▶ In
//!   ▲                 │ detach        │ detach               │ detach
//!   │                 ▼               ▼                      ▼
//!   │ observed        └──────────▶ Detaching ◀───────────────┘
//!   │ unplugged                       │ due
//!   └──────────── Unplugging ◀────────┘        terminate, forced detach: any ▶ Unplugging
//! ```
//! The link exists in `Plugging`, `In` and `Detaching`. An attachment that is to fail goes from `Attaching` to `Unplugging`
//! when it is due; one that is to get stuck is never due.

mod describe;
mod instances;
mod meddle;
mod nics;
mod pool;
mod refusal;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use tombolo_cloud_sim::wire::{InstanceState, InstanceType, NicStatus};
use tombolo_core::types::{Family, Mac, Millis};

use crate::config::{Config, SubnetConfig};
use crate::plan::{Desired, FabricPlan, Namespace, OsConfig, Plug};

pub use describe::View;
pub use pool::AddressPool;
pub use refusal::Refusal;

/// The router's link-local address, the same on every NIC.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xff, 1);

/// As in EC2: network, router, DNS and one for later.
const RESERVED_HEAD: u128 = 4;
/// As in EC2: the last address.
const RESERVED_TAIL: u128 = 1;

#[derive(Debug)]
struct Subnet {
    config: SubnetConfig,
    pool4: AddressPool,
    pool6: Option<AddressPool>,
}

impl Subnet {
    fn gateway4(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.config.cidr4.network()) + 1)
    }

    fn gateway6_global(&self) -> Option<Ipv6Addr> {
        self.config
            .cidr6
            .map(|c| Ipv6Addr::from(u128::from(c.network()) + 1))
    }

    fn pool(&mut self, family: Family) -> Option<&mut AddressPool> {
        match family {
            Family::V4 => Some(&mut self.pool4),
            Family::V6 => self.pool6.as_mut(),
        }
    }

    fn release(&mut self, address: IpAddr) {
        if let Some(pool) = self.pool(Family::of(address)) {
            pool.release(address);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Out,
    Attaching { due: Option<Millis>, fails: bool },
    Plugging,
    In,
    Detaching { due: Millis },
    Unplugging,
}

/// What becomes of an attachment that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AttachEnd {
    /// It ends without a link when its time has come.
    Fails,
    /// It stays in `attaching`.
    Sticks,
}

#[derive(Debug)]
struct Nic {
    id: String,
    subnet: String,
    mac: Mac,
    router_mac: Mac,
    mtu: u32,
    description: String,
    primary4: Ipv4Addr,
    primary6: Option<Ipv6Addr>,
    secondary: Vec<IpAddr>,
    security_groups: Vec<String>,
    tags: BTreeMap<String, String>,
    token: Option<String>,
    phase: Phase,
    attachment: Option<tombolo_cloud_sim::wire::Attachment>,
    /// Somebody wants it deleted as soon as it is unplugged.
    doomed: bool,
}

impl Nic {
    const fn status(&self) -> NicStatus {
        match self.phase {
            Phase::Out => NicStatus::Available,
            Phase::Attaching { .. } | Phase::Plugging => NicStatus::Attaching,
            Phase::In => NicStatus::InUse,
            Phase::Detaching { .. } | Phase::Unplugging => NicStatus::Detaching,
        }
    }

    const fn wants_link(&self) -> bool {
        matches!(
            self.phase,
            Phase::Plugging | Phase::In | Phase::Detaching { .. }
        )
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(IpAddr::V4(self.primary4))
            .chain(self.primary6.map(IpAddr::V6))
            .chain(self.secondary.iter().copied())
    }

    fn count(&self, family: Family) -> usize {
        self.addresses()
            .filter(|a| Family::of(*a) == family)
            .count()
    }
}

#[derive(Debug)]
struct Instance {
    id: String,
    name: String,
    instance_type: InstanceType,
    subnet: String,
    state: InstanceState,
    namespace: Namespace,
    primary_nic: String,
    primary4: Ipv4Addr,
    primary6: Option<Ipv6Addr>,
    mac: Mac,
    public4: Ipv4Addr,
}

/// The whole VPC. See the module's text.
#[derive(Debug)]
pub struct Model {
    lab: String,
    config: Config,
    types: BTreeMap<String, InstanceType>,
    subnets: BTreeMap<String, Subnet>,
    instances: BTreeMap<String, Instance>,
    nics: BTreeMap<String, Nic>,
    /// Client token to NIC, and what it was asked for. Forgotten when the NIC is deleted.
    tokens: BTreeMap<String, (String, String)>,
    publics: AddressPool,
    sequence: u32,
    generation: u64,
    attach_delay: Millis,
    detach_delay: Millis,
    /// What becomes of the next attachments, and of how many.
    attach_ends: BTreeMap<AttachEnd, u32>,
    /// Assign calls that are still to give only half.
    half_assigns: u32,
}

impl Model {
    /// An empty VPC of a lab. The configuration must have passed its check.
    #[must_use]
    pub fn new(lab: &str, config: Config) -> Self {
        let subnets = config
            .subnets
            .iter()
            .map(|s| {
                let pool = |net| AddressPool::new(net, RESERVED_HEAD, RESERVED_TAIL);
                let subnet = Subnet {
                    config: s.clone(),
                    pool4: pool(IpNet::V4(s.cidr4)),
                    pool6: s.cidr6.map(|c| pool(IpNet::V6(c))),
                };
                (s.id.clone(), subnet)
            })
            .collect();
        Self {
            lab: lab.to_owned(),
            types: config.types(),
            subnets,
            instances: BTreeMap::new(),
            nics: BTreeMap::new(),
            tokens: BTreeMap::new(),
            publics: AddressPool::new(IpNet::V4(config.internet.public4), 1, 1),
            sequence: 0,
            generation: 0,
            attach_delay: Millis(config.delays.attach_ms),
            detach_delay: Millis(config.delays.detach_ms),
            attach_ends: BTreeMap::new(),
            half_assigns: 0,
            config,
        }
    }

    /// The configuration that this VPC was made from.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Grows with every change that the fabric has to carry out.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Sets how long attaching takes from now on.
    pub const fn set_attach_delay(&mut self, delay: Millis) {
        self.attach_delay = delay;
    }

    /// Sets how long detaching takes from now on.
    pub const fn set_detach_delay(&mut self, delay: Millis) {
        self.detach_delay = delay;
    }

    /// Lets so many of the next attachments end like this.
    pub fn set_attach_end(&mut self, end: AttachEnd, count: u32) {
        self.attach_ends.insert(end, count);
    }

    /// Attachments that are still to end like this.
    #[must_use]
    pub fn attach_ends(&self, end: AttachEnd) -> u32 {
        self.attach_ends.get(&end).copied().unwrap_or(0)
    }

    /// Lets so many of the next assign calls give only half of what they are asked for.
    pub const fn set_half_assigns(&mut self, count: u32) {
        self.half_assigns = count;
    }

    /// Assign calls that are still to give only half.
    #[must_use]
    pub const fn half_assigns(&self) -> u32 {
        self.half_assigns
    }

    /// What becomes of the next attachment.
    fn next_attach_end(&mut self) -> Option<AttachEnd> {
        let (end, count) = self.attach_ends.iter_mut().find(|(_, count)| **count > 0)?;
        *count -= 1;
        Some(*end)
    }

    /// What the fabric needs to know once.
    #[must_use]
    pub fn fabric_plan(&self) -> FabricPlan {
        let mut vpc4 = Vec::new();
        let mut vpc6 = Vec::new();
        for cidr in &self.config.cidrs {
            match cidr {
                IpNet::V4(c) => vpc4.push(*c),
                IpNet::V6(c) => vpc6.push(*c),
            }
        }
        let gateways = self.subnets.values().flat_map(|s| {
            std::iter::once(IpAddr::V4(s.gateway4())).chain(s.gateway6_global().map(IpAddr::V6))
        });
        FabricPlan {
            lab: self.lab.clone(),
            vpc4,
            vpc6,
            gateways: gateways.collect(),
            gateway6: GATEWAY6,
            hosts: self.config.internet.hosts.clone(),
            inet_mtu: self.config.internet.mtu,
            ra_lifetime_s: self.config.ra.lifetime_s,
        }
    }

    /// When [`Model::tick`] has something to do next.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        self.nics
            .values()
            .filter_map(|n| match n.phase {
                Phase::Attaching { due, .. } => due,
                Phase::Detaching { due } => Some(due),
                _ => None,
            })
            .min()
    }

    /// Lets time pass: attachments and detachments that are due.
    pub fn tick(&mut self, now: Millis) {
        for nic in self.nics.values_mut() {
            let next = match nic.phase {
                Phase::Attaching {
                    due: Some(due),
                    fails,
                } if due <= now => {
                    if fails {
                        Phase::Unplugging
                    } else {
                        Phase::Plugging
                    }
                }
                Phase::Detaching { due } if due <= now => Phase::Unplugging,
                _ => continue,
            };
            nic.phase = next;
            self.generation += 1;
        }
    }

    /// Learns which NICs the fabric has plugged: all of them, not only new ones.
    pub fn observe(&mut self, plugged: &BTreeSet<String>) {
        let mut gone = Vec::new();
        for (id, nic) in &mut self.nics {
            match (nic.phase, plugged.contains(id)) {
                (Phase::Plugging, true) => nic.phase = Phase::In,
                (Phase::Unplugging, false) => {
                    nic.phase = Phase::Out;
                    let attachment = nic.attachment.take();
                    let ended = attachment
                        .as_ref()
                        .and_then(|a| self.instances.get(&a.instance))
                        .is_none_or(|i| i.state == InstanceState::Terminated);
                    let goes_along = ended && attachment.is_some_and(|a| a.delete_on_termination);
                    if goes_along || nic.doomed {
                        gone.push(id.clone());
                    }
                }
                _ => continue,
            }
            self.generation += 1;
        }
        for id in gone {
            self.remove_nic(&id);
        }
    }

    /// What the fabric should look like now.
    #[must_use]
    pub fn desired(&self) -> Desired {
        let plugs = self
            .nics
            .values()
            .filter(|n| n.wants_link())
            .filter_map(|n| Some((n.id.clone(), self.plug(n)?)))
            .collect();
        let attached: BTreeSet<&str> = self
            .nics
            .values()
            .filter_map(|n| Some(n.attachment.as_ref()?.instance.as_str()))
            .collect();
        let namespaces = self
            .instances
            .values()
            .filter(|i| i.state == InstanceState::Running || attached.contains(i.id.as_str()))
            .map(|i| (i.id.clone(), i.namespace.clone()))
            .collect();
        Desired { namespaces, plugs }
    }

    fn plug(&self, nic: &Nic) -> Option<Plug> {
        let attachment = nic.attachment.as_ref()?;
        let instance = self.instances.get(&attachment.instance)?;
        let subnet = self.subnets.get(&nic.subnet)?;
        let address4 = ipnet::Ipv4Net::new(nic.primary4, subnet.config.cidr4.prefix_len()).ok()?;
        let os = (nic.id == instance.primary_nic).then(|| OsConfig {
            address4,
            gateway4: subnet.gateway4(),
            address6: nic.primary6,
            public4: instance.public4,
        });
        Some(Plug {
            instance: instance.id.clone(),
            device_index: attachment.device_index,
            mac: nic.mac,
            router_mac: nic.router_mac,
            mtu: nic.mtu,
            subnet4: subnet.config.cidr4,
            addresses: nic.addresses().collect(),
            os,
        })
    }

    const fn next_id(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }
}

#[cfg(test)]
mod tests;
