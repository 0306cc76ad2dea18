//! NICs and their addresses: the calls that the product makes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tombolo_cloud_sim::wire::{
    AssignAddresses, AssignedAddresses, AttachNic, Attachment, CreateNic, InstanceState, NicInfo,
    TagNic, UnassignAddresses,
};
use tombolo_core::types::{Family, Mac, Millis};

use super::{AttachEnd, Model, Nic, Phase, Refusal};

/// EC2's bound for a NIC that no instance type bounds yet.
const MAX_ADDRESSES: u16 = 50;
/// EC2's bound.
const MAX_TAGS: usize = 50;
/// The guest's link is named after the index.
const MAX_DEVICE_INDEX: u16 = 63;

/// Addresses wanted for a new NIC besides its own IPv4 address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Addresses {
    pub primary6: bool,
    pub secondary4: u16,
    pub secondary6: u16,
}

impl Model {
    /// Creates a NIC. A repeated client token returns what the first call made.
    ///
    /// # Errors
    /// Parameters, or a subnet without addresses; nothing is taken then.
    pub fn create_nic(&mut self, call: &CreateNic) -> Result<NicInfo, Refusal> {
        // Tokens are compared with everything that was asked for.
        let asked = format!("{call:?}");
        if let Some(token) = &call.client_token {
            match self.tokens.get(token) {
                Some((_, before)) if *before != asked => {
                    return Err(Refusal::TokenMismatch(token.clone()));
                }
                Some((id, _)) => return self.nic(id).map(|n| self.info(n)),
                None => {}
            }
        }
        check_tags(call.tags.len())?;
        let want = Addresses {
            primary6: false,
            secondary4: call.ipv4_count,
            secondary6: call.ipv6_count,
        };
        for (field, count, own) in [
            ("ipv4_count", call.ipv4_count, 1),
            ("ipv6_count", call.ipv6_count, 0),
        ] {
            if count > MAX_ADDRESSES - own {
                return Err(Refusal::parameter(
                    field,
                    format!("{count}: no NIC has that many addresses"),
                ));
            }
        }
        let id = self.new_nic(&call.subnet, want)?;
        let nic = self
            .nics
            .get_mut(&id)
            .ok_or_else(|| Refusal::NicNotFound(id.clone()))?;
        nic.description.clone_from(&call.description);
        nic.tags.clone_from(&call.tags);
        nic.token.clone_from(&call.client_token);
        if !call.security_groups.is_empty() {
            nic.security_groups.clone_from(&call.security_groups);
        }
        if let Some(token) = &call.client_token {
            self.tokens.insert(token.clone(), (id.clone(), asked));
        }
        self.nic(&id).map(|n| self.info(n))
    }

    /// Starts attaching a NIC to an instance.
    ///
    /// # Errors
    /// Unknown or busy NIC, unknown or ended instance, zone, device index, limits.
    pub fn attach_nic(&mut self, now: Millis, call: &AttachNic) -> Result<Attachment, Refusal> {
        let nic = self.nic(&call.nic)?;
        let Some(instance) = self.instances.get(&call.instance) else {
            return Err(Refusal::InstanceNotFound(call.instance.clone()));
        };
        if nic.phase != Phase::Out {
            return Err(Refusal::NicInUse {
                nic: nic.id.clone(),
                status: format!("{:?}", nic.status()),
            });
        }
        if instance.state != InstanceState::Running {
            return Err(Refusal::State(format!(
                "instance {} is {:?}",
                instance.id, instance.state
            )));
        }
        let (here, there) = (self.zone(&nic.subnet), self.zone(&instance.subnet));
        if here != there {
            return Err(Refusal::Combination(format!(
                "network interface {} is in {here}, instance {} in {there}",
                nic.id, instance.id
            )));
        }
        if call.device_index > MAX_DEVICE_INDEX {
            return Err(Refusal::parameter(
                "device_index",
                format!("{} is out of range", call.device_index),
            ));
        }
        let attached: Vec<&Attachment> = self
            .nics
            .values()
            .filter_map(|n| n.attachment.as_ref())
            .filter(|a| a.instance == instance.id)
            .collect();
        if attached.len() >= usize::from(instance.instance_type.max_nics) {
            return Err(Refusal::AttachmentLimit {
                instance: instance.id.clone(),
                instance_type: instance.instance_type.name.clone(),
                max: instance.instance_type.max_nics,
            });
        }
        if attached.iter().any(|a| a.device_index == call.device_index) {
            return Err(Refusal::parameter(
                "device_index",
                format!(
                    "instance {} has a network interface at {} already",
                    instance.id, call.device_index
                ),
            ));
        }
        for (family, limit) in [
            (Family::V4, instance.instance_type.ipv4_per_nic),
            (Family::V6, instance.instance_type.ipv6_per_nic),
        ] {
            check_limit(nic, family, 0, limit)?;
        }
        let attachment = Attachment {
            instance: call.instance.clone(),
            device_index: call.device_index,
            delete_on_termination: call.delete_on_termination,
        };
        let due = now + self.attach_delay;
        let end = self.next_attach_end();
        let nic = self.nic_mut(&call.nic)?;
        nic.attachment = Some(attachment.clone());
        nic.phase = Phase::Attaching {
            due: (end != Some(AttachEnd::Sticks)).then_some(due),
            fails: end == Some(AttachEnd::Fails),
        };
        self.generation += 1;
        Ok(attachment)
    }

    /// Starts detaching a NIC.
    ///
    /// # Errors
    /// Unknown NIC, one that is not attached or is being detached, a primary one.
    pub fn detach_nic(&mut self, now: Millis, id: &str) -> Result<(), Refusal> {
        let due = now + self.detach_delay;
        let nic = self.nic_mut(id)?;
        match nic.phase {
            Phase::Attaching { .. } | Phase::Plugging | Phase::In => {}
            Phase::Out | Phase::Detaching { .. } | Phase::Unplugging => {
                return Err(Refusal::State(format!(
                    "network interface {id} is {:?}",
                    nic.status()
                )));
            }
        }
        if nic.attachment.as_ref().is_some_and(|a| a.device_index == 0) {
            return Err(Refusal::NotPermitted(format!(
                "network interface {id} is at device index 0 and cannot be detached"
            )));
        }
        // A link that never was there needs no time to go.
        nic.phase = if matches!(nic.phase, Phase::Attaching { .. }) {
            Phase::Unplugging
        } else {
            Phase::Detaching { due }
        };
        self.generation += 1;
        Ok(())
    }

    /// Deletes a NIC and frees its addresses.
    ///
    /// # Errors
    /// Unknown NIC, or one that is not available.
    pub fn delete_nic(&mut self, id: &str) -> Result<(), Refusal> {
        let nic = self.nic(id)?;
        if nic.phase != Phase::Out {
            return Err(Refusal::NicInUse {
                nic: id.to_owned(),
                status: format!("{:?}", nic.status()),
            });
        }
        self.remove_nic(id);
        Ok(())
    }

    /// Gives a NIC more addresses: all of them or none, unless it was told to give half.
    ///
    /// # Errors
    /// Unknown NIC, limits, a subnet without (enough) addresses.
    pub fn assign_addresses(
        &mut self,
        call: &AssignAddresses,
    ) -> Result<AssignedAddresses, Refusal> {
        let nic = self.nic(&call.nic)?;
        if call.count == 0 {
            return Err(Refusal::parameter("count", "must be at least 1"));
        }
        let limit = self.limit(nic, call.family);
        check_limit(nic, call.family, usize::from(call.count), limit)?;
        let subnet = nic.subnet.clone();
        let halved = self.half_assigns > 0 && call.count > 1;
        let count = if halved { call.count / 2 } else { call.count };
        let addresses = self.take(&subnet, call.family, count)?;
        self.half_assigns -= u32::from(halved);
        self.nic_mut(&call.nic)?.secondary.extend(&addresses);
        self.generation += 1;
        Ok(AssignedAddresses { addresses })
    }

    /// Takes secondary addresses from a NIC: all of them or none.
    ///
    /// # Errors
    /// Unknown NIC, an address that is not one of its secondary ones.
    pub fn unassign_addresses(&mut self, call: &UnassignAddresses) -> Result<(), Refusal> {
        let nic = self.nic(&call.nic)?;
        if call.addresses.is_empty() {
            return Err(Refusal::parameter("addresses", "must not be empty"));
        }
        for address in &call.addresses {
            if *address == IpAddr::V4(nic.primary4)
                || Some(*address) == nic.primary6.map(IpAddr::V6)
            {
                return Err(Refusal::parameter(
                    "addresses",
                    format!("{address} is the primary address of {}", nic.id),
                ));
            }
            if !nic.secondary.contains(address) {
                return Err(Refusal::parameter(
                    "addresses",
                    format!("{address} is not assigned to {}", nic.id),
                ));
            }
        }
        let goes: BTreeSet<IpAddr> = call.addresses.iter().copied().collect();
        let nic = self.nic_mut(&call.nic)?;
        nic.secondary.retain(|a| !goes.contains(a));
        let subnet = nic.subnet.clone();
        if let Some(subnet) = self.subnets.get_mut(&subnet) {
            goes.iter().for_each(|a| subnet.release(*a));
        }
        self.generation += 1;
        Ok(())
    }

    /// Adds tags to a NIC, or changes them.
    ///
    /// # Errors
    /// Unknown NIC, too many tags.
    pub fn tag_nic(&mut self, call: &TagNic) -> Result<(), Refusal> {
        let nic = self.nic_mut(&call.nic)?;
        let mut tags = nic.tags.clone();
        tags.extend(call.tags.clone());
        check_tags(tags.len())?;
        nic.tags = tags;
        Ok(())
    }

    /// Changes the MTU of a NIC.
    ///
    /// # Errors
    /// Unknown NIC, a value that no link takes.
    pub fn set_mtu(&mut self, id: &str, mtu: u32) -> Result<(), Refusal> {
        if !(1280..=65_535).contains(&mtu) {
            return Err(Refusal::parameter(
                "mtu",
                format!("{mtu}: 1280 to 65535 are allowed"),
            ));
        }
        self.nic_mut(id)?.mtu = mtu;
        self.generation += 1;
        Ok(())
    }

    pub(super) fn nic(&self, id: &str) -> Result<&Nic, Refusal> {
        self.nics
            .get(id)
            .ok_or_else(|| Refusal::NicNotFound(id.to_owned()))
    }

    pub(super) fn nic_mut(&mut self, id: &str) -> Result<&mut Nic, Refusal> {
        self.nics
            .get_mut(id)
            .ok_or_else(|| Refusal::NicNotFound(id.to_owned()))
    }

    /// Makes a detached NIC with its addresses, or changes nothing.
    pub(super) fn new_nic(&mut self, subnet: &str, want: Addresses) -> Result<String, Refusal> {
        let own6 = u16::from(want.primary6);
        self.check_room(subnet, Family::V4, 1 + want.secondary4)?;
        self.check_room(subnet, Family::V6, own6 + want.secondary6)?;
        let mut v4 = self
            .take(subnet, Family::V4, 1 + want.secondary4)?
            .into_iter();
        let mut v6 = self
            .take(subnet, Family::V6, own6 + want.secondary6)?
            .into_iter();
        let Some(IpAddr::V4(primary4)) = v4.next() else {
            return Err(Refusal::State(format!(
                "subnet {subnet} gave no IPv4 address"
            )));
        };
        let primary6 = match want.primary6.then(|| v6.next()).flatten() {
            Some(IpAddr::V6(a)) => Some(a),
            _ => None,
        };
        let number = self.next_id();
        let [a, b, c, d] = number.to_be_bytes();
        let id = format!("eni-{number:08x}");
        let nic = Nic {
            id: id.clone(),
            subnet: subnet.to_owned(),
            mac: Mac([0x06, 0x4e, a, b, c, d]),
            router_mac: Mac([0x0a, 0x4e, a, b, c, d]),
            mtu: self.config.mtu,
            description: String::new(),
            primary4,
            primary6,
            secondary: v4.chain(v6).collect(),
            security_groups: vec!["sg-default".to_owned()],
            tags: std::collections::BTreeMap::new(),
            token: None,
            phase: Phase::Out,
            attachment: None,
            doomed: false,
        };
        self.nics.insert(id.clone(), nic);
        Ok(id)
    }

    pub(super) fn remove_nic(&mut self, id: &str) {
        let Some(nic) = self.nics.remove(id) else {
            return;
        };
        if let Some(token) = &nic.token {
            self.tokens.remove(token);
        }
        if let Some(subnet) = self.subnets.get_mut(&nic.subnet) {
            nic.addresses().for_each(|a| subnet.release(a));
        }
    }

    /// Addresses of a family that a NIC may have where it is.
    pub(super) fn limit(&self, nic: &Nic, family: Family) -> u16 {
        let instance = nic
            .attachment
            .as_ref()
            .and_then(|a| self.instances.get(&a.instance));
        instance.map_or(MAX_ADDRESSES, |i| match family {
            Family::V4 => i.instance_type.ipv4_per_nic,
            Family::V6 => i.instance_type.ipv6_per_nic,
        })
    }

    fn check_room(&mut self, subnet: &str, family: Family, wanted: u16) -> Result<(), Refusal> {
        let Some(found) = self.subnets.get_mut(subnet) else {
            return Err(Refusal::SubnetNotFound(subnet.to_owned()));
        };
        if wanted == 0 {
            return Ok(());
        }
        let Some(pool) = found.pool(family) else {
            return Err(Refusal::parameter(
                "subnet",
                format!("{subnet} has no {family} range"),
            ));
        };
        if pool.free() < u128::from(wanted) {
            return Err(Refusal::SubnetFull {
                subnet: subnet.to_owned(),
                family,
                wanted: u64::from(wanted),
                free: u64::try_from(pool.free()).unwrap_or(u64::MAX),
            });
        }
        Ok(())
    }

    fn take(&mut self, subnet: &str, family: Family, count: u16) -> Result<Vec<IpAddr>, Refusal> {
        self.check_room(subnet, family, count)?;
        let pool = self.subnets.get_mut(subnet).and_then(|s| s.pool(family));
        Ok(pool
            .and_then(|p| p.take(usize::from(count)))
            .unwrap_or_default())
    }
}

pub(super) fn check_limit(
    nic: &Nic,
    family: Family,
    more: usize,
    limit: u16,
) -> Result<(), Refusal> {
    let wanted = nic.count(family) + more;
    if wanted > usize::from(limit) {
        return Err(Refusal::AddressLimit {
            nic: nic.id.clone(),
            family,
            wanted,
            limit,
        });
    }
    Ok(())
}

fn check_tags(count: usize) -> Result<(), Refusal> {
    if count > MAX_TAGS {
        Err(Refusal::parameter(
            "tags",
            format!("{count}: at most {MAX_TAGS}"),
        ))
    } else {
        Ok(())
    }
}
