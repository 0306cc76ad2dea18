//! Calls that only read.

use std::collections::BTreeMap;

use tombolo_cloud_sim::wire::{
    DescribeInstanceTypes, DescribeInstances, DescribeNics, DescribeSubnets,
    Instance as WireInstance, InstanceType, NicInfo, Subnet as WireSubnet, Vpc,
};

use super::{GATEWAY6, Model, Nic, Refusal};

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

impl Model {
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
        Ok(found
            .into_iter()
            .map(|i| WireInstance {
                id: i.id.clone(),
                instance_type: i.instance_type.name.clone(),
                zone: self.zone(&i.subnet),
                state: i.state,
                primary_nic: i.primary_nic.clone(),
            })
            .collect())
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
        Ok(found
            .into_iter()
            .map(|s| WireSubnet {
                id: s.config.id.clone(),
                zone: s.config.zone.clone(),
                cidr4: s.config.cidr4,
                cidr6: s.config.cidr6,
                available4: u32::try_from(s.pool4.free()).unwrap_or(u32::MAX),
                gateway4: s.gateway4(),
                gateway6: GATEWAY6,
                tags: s.config.tags.clone(),
            })
            .collect())
    }

    /// NICs that match all filters.
    ///
    /// # Errors
    /// An id that does not exist.
    pub fn describe_nics(&self, call: &DescribeNics) -> Result<Vec<NicInfo>, Refusal> {
        let found = pick(&self.nics, &call.ids, Refusal::NicNotFound)?;
        let instance_matches = |n: &Nic| {
            call.instance
                .as_ref()
                .is_none_or(|i| n.attachment.as_ref().is_some_and(|a| a.instance == *i))
        };
        let tags_match = |n: &Nic| call.tags.iter().all(|(k, v)| n.tags.get(k) == Some(v));
        Ok(found
            .into_iter()
            .filter(|n| instance_matches(n) && tags_match(n))
            .map(|n| self.info(n))
            .collect())
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
