//! Calls that only read, from the world as it is or from a view of it.

use std::collections::BTreeMap;

use tombolo_cloud_sim::wire::{
    Attachment, DescribeInstanceTypes, DescribeInstances, DescribeNics, DescribeSubnets,
    Instance as WireInstance, InstanceType, NicInfo, Subnet as WireSubnet, Vpc,
};

use super::{GATEWAY6, Instance, Model, Nic, Refusal, Subnet};

/// Picks the wanted keys, or all when none is named; a key that does not exist is refused.
fn pick<'a, T>(
    all: &'a BTreeMap<String, T>,
    wanted: &[String],
    missing: impl Fn(String) -> Refusal,
) -> Result<Vec<&'a T>, Refusal> {
    if wanted.is_empty() {
        return Ok(all.values().collect());
    }
    wanted
        .iter()
        .map(|id| all.get(id).ok_or_else(|| missing(id.clone())))
        .collect()
}

/// What describe calls can show, whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Instances, terminated ones included.
    pub instances: Vec<WireInstance>,
    /// Subnets.
    pub subnets: Vec<WireSubnet>,
    /// NICs.
    pub nics: Vec<NicInfo>,
}

/// As [`pick`], from a view.
fn pick_seen<T>(
    all: Vec<T>,
    wanted: &[String],
    id: fn(&T) -> &str,
    missing: impl Fn(String) -> Refusal,
) -> Result<Vec<T>, Refusal> {
    if wanted.is_empty() {
        return Ok(all);
    }
    match wanted
        .iter()
        .find(|w| all.iter().all(|t| id(t) != w.as_str()))
    {
        Some(absent) => Err(missing(absent.clone())),
        None => Ok(all
            .into_iter()
            .filter(|t| wanted.iter().any(|w| id(t) == w))
            .collect()),
    }
}

impl View {
    /// As [`Model::describe_instances`].
    ///
    /// # Errors
    /// An id that the view does not show.
    pub fn instances(self, call: &DescribeInstances) -> Result<Vec<WireInstance>, Refusal> {
        pick_seen(
            self.instances,
            &call.ids,
            |i| &i.id,
            Refusal::InstanceNotFound,
        )
    }

    /// As [`Model::describe_subnets`].
    ///
    /// # Errors
    /// An id that the view does not show.
    pub fn subnets(self, call: &DescribeSubnets) -> Result<Vec<WireSubnet>, Refusal> {
        pick_seen(self.subnets, &call.ids, |s| &s.id, Refusal::SubnetNotFound)
    }

    /// As [`Model::describe_nics`].
    ///
    /// # Errors
    /// An id that the view does not show.
    pub fn nics(self, call: &DescribeNics) -> Result<Vec<NicInfo>, Refusal> {
        let mut found = pick_seen(self.nics, &call.ids, |n| &n.id, Refusal::NicNotFound)?;
        found.retain(|n| matches(call, n.attachment.as_ref(), &n.tags));
        Ok(found)
    }
}

/// Whether a NIC passes the filters of a call.
fn matches(
    call: &DescribeNics,
    attachment: Option<&Attachment>,
    tags: &BTreeMap<String, String>,
) -> bool {
    let instance = call
        .instance
        .as_ref()
        .is_none_or(|i| attachment.is_some_and(|a| a.instance == *i));
    instance && call.tags.iter().all(|(k, v)| tags.get(k) == Some(v))
}

impl Model {
    /// All that describe calls can show.
    #[must_use]
    pub fn view(&self) -> View {
        View {
            instances: self
                .instances
                .values()
                .map(|i| self.instance_info(i))
                .collect(),
            subnets: self.subnets.values().map(Self::subnet_info).collect(),
            nics: self.nics.values().map(|n| self.info(n)).collect(),
        }
    }

    /// The VPC itself.
    #[must_use]
    pub fn describe_vpc(&self) -> Vpc {
        Vpc {
            id: self.config.id.clone(),
            cidrs: self.config.cidrs.clone(),
        }
    }

    /// Instances, terminated ones included.
    ///
    /// # Errors
    /// An id that was never given.
    pub fn describe_instances(
        &self,
        call: &DescribeInstances,
    ) -> Result<Vec<WireInstance>, Refusal> {
        let found = pick(&self.instances, &call.ids, Refusal::InstanceNotFound)?;
        Ok(found.into_iter().map(|i| self.instance_info(i)).collect())
    }

    /// Instance types.
    ///
    /// # Errors
    /// A name that does not exist.
    pub fn describe_instance_types(
        &self,
        call: &DescribeInstanceTypes,
    ) -> Result<Vec<InstanceType>, Refusal> {
        let missing =
            |name| Refusal::parameter("names", format!("there is no instance type {name:?}"));
        Ok(pick(&self.types, &call.names, missing)?
            .into_iter()
            .cloned()
            .collect())
    }

    /// Subnets.
    ///
    /// # Errors
    /// An id that does not exist.
    pub fn describe_subnets(&self, call: &DescribeSubnets) -> Result<Vec<WireSubnet>, Refusal> {
        let found = pick(&self.subnets, &call.ids, Refusal::SubnetNotFound)?;
        Ok(found.into_iter().map(Self::subnet_info).collect())
    }

    /// NICs that match all filters.
    ///
    /// # Errors
    /// An id that does not exist.
    pub fn describe_nics(&self, call: &DescribeNics) -> Result<Vec<NicInfo>, Refusal> {
        let found = pick(&self.nics, &call.ids, Refusal::NicNotFound)?;
        Ok(found
            .into_iter()
            .filter(|n| matches(call, n.attachment.as_ref(), &n.tags))
            .map(|n| self.info(n))
            .collect())
    }

    fn instance_info(&self, instance: &Instance) -> WireInstance {
        WireInstance {
            id: instance.id.clone(),
            instance_type: instance.instance_type.name.clone(),
            zone: self.zone(&instance.subnet),
            state: instance.state,
            primary_nic: instance.primary_nic.clone(),
        }
    }

    fn subnet_info(subnet: &Subnet) -> WireSubnet {
        WireSubnet {
            id: subnet.config.id.clone(),
            zone: subnet.config.zone.clone(),
            cidr4: subnet.config.cidr4,
            cidr6: subnet.config.cidr6,
            available4: u32::try_from(subnet.pool4.free()).unwrap_or(u32::MAX),
            gateway4: subnet.gateway4(),
            gateway6: GATEWAY6,
            tags: subnet.config.tags.clone(),
        }
    }

    pub(super) fn info(&self, nic: &Nic) -> NicInfo {
        NicInfo {
            id: nic.id.clone(),
            subnet: nic.subnet.clone(),
            zone: self.zone(&nic.subnet),
            mac: nic.mac,
            mtu: nic.mtu,
            description: nic.description.clone(),
            status: nic.status(),
            attachment: nic.attachment.clone(),
            primary4: nic.primary4,
            primary6: nic.primary6,
            secondary: nic.secondary.clone(),
            security_groups: nic.security_groups.clone(),
            tags: nic.tags.clone(),
        }
    }

    pub(super) fn zone(&self, subnet: &str) -> String {
        self.subnets
            .get(subnet)
            .map(|s| s.config.zone.clone())
            .unwrap_or_default()
    }
}
