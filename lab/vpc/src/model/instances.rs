//! Instances: run and terminate (lab calls; the product never makes them).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::Ipv4Net;
use tombolo_cloud_sim::wire::{Attachment, InstanceState};

use super::nics::Addresses;
use super::{Instance, Model, Phase, Refusal};
use crate::admin::{InstanceDetail, LinkInfo, RunInstance};
use crate::plan::{self, Namespace};

/// Names that the lab keeps for itself.
const RESERVED_NAMES: [&str; 2] = ["fabric", "inet"];

impl Model {
    /// Starts an instance; its primary NIC is plugged without delay.
    ///
    /// # Errors
    /// A parameter that makes no sense, or a subnet without addresses.
    pub fn run_instance(&mut self, call: &RunInstance) -> Result<InstanceDetail, Refusal> {
        check_name(&call.name)?;
        if self.running(&call.name).is_some() {
            return Err(Refusal::parameter(
                "name",
                format!("{:?} is running already", call.name),
            ));
        }
        let Some(instance_type) = self.types.get(&call.instance_type).cloned() else {
            return Err(Refusal::parameter(
                "instance_type",
                format!("there is no instance type {:?}", call.instance_type),
            ));
        };
        let subnet = self
            .subnets
            .get(&call.subnet)
            .ok_or_else(|| Refusal::SubnetNotFound(call.subnet.clone()))?;
        let want = Addresses {
            primary6: subnet.config.cidr6.is_some(),
            ..Addresses::default()
        };
        if self.publics.free() == 0 {
            return Err(Refusal::State(
                "no public address is left for another instance".to_owned(),
            ));
        }
        let nic = self.new_nic(&call.subnet, want)?;
        let Some(IpAddr::V4(public4)) = self.publics.take_one() else {
            self.remove_nic(&nic);
            return Err(Refusal::State(
                "no public address is left for another instance".to_owned(),
            ));
        };
        let id = format!("i-{:08x}", self.next_id());
        let created = self
            .nics
            .get_mut(&nic)
            .ok_or_else(|| Refusal::NicNotFound(nic.clone()))?;
        created.description = format!("Primary network interface of {}", call.name);
        created.tags = BTreeMap::from([("Name".to_owned(), call.name.clone())]);
        created.phase = Phase::Plugging;
        created.attachment = Some(Attachment {
            instance: id.clone(),
            device_index: 0,
            delete_on_termination: true,
        });
        let namespace = match &call.netns {
            Some(path) => Namespace::Foreign(path.clone()),
            None => Namespace::Owned(format!("tl-{}-{}", self.lab, call.name)),
        };
        let instance = Instance {
            id: id.clone(),
            name: call.name.clone(),
            instance_type,
            subnet: call.subnet.clone(),
            state: InstanceState::Running,
            namespace,
            primary_nic: nic,
            primary4: created.primary4,
            primary6: created.primary6,
            mac: created.mac,
            public4,
        };
        self.generation += 1;
        let detail = self.detail(&instance);
        self.instances.insert(id, instance);
        Ok(detail)
    }

    /// Ends an instance, by id or name. Ending a terminated one again succeeds.
    ///
    /// # Errors
    /// No such instance.
    pub fn terminate_instance(&mut self, instance: &str) -> Result<(), Refusal> {
        let id = self.resolve_instance(instance)?;
        let Some(found) = self
            .instances
            .get_mut(&id)
            .filter(|i| i.state != InstanceState::Terminated)
        else {
            return Ok(());
        };
        found.state = InstanceState::Terminated;
        self.publics.release(IpAddr::V4(found.public4));
        for nic in self.nics.values_mut() {
            if nic.attachment.as_ref().is_some_and(|a| a.instance == id) {
                nic.phase = Phase::Unplugging;
            }
        }
        self.generation += 1;
        Ok(())
    }

    /// All instances, terminated ones included.
    #[must_use]
    pub fn list_instances(&self) -> Vec<InstanceDetail> {
        self.instances.values().map(|i| self.detail(i)).collect()
    }

    /// Id of an instance given by id, or by the name of a running one.
    ///
    /// # Errors
    /// No such instance.
    pub fn resolve_instance(&self, instance: &str) -> Result<String, Refusal> {
        if self.instances.contains_key(instance) {
            return Ok(instance.to_owned());
        }
        self.running(instance)
            .map(|i| i.id.clone())
            .ok_or_else(|| Refusal::InstanceNotFound(instance.to_owned()))
    }

    /// Every NIC with an attachment, as the lab sees it. `plugged` and `error` are the fabric's to fill in.
    #[must_use]
    pub fn links(&self) -> Vec<LinkInfo> {
        self.nics
            .values()
            .filter_map(|n| {
                let attachment = n.attachment.as_ref()?;
                let instance = self.instances.get(&attachment.instance)?;
                Some(LinkInfo {
                    nic: n.id.clone(),
                    link: plan::link_name(&n.id),
                    guest_link: format!("eth{}", attachment.device_index),
                    instance: instance.id.clone(),
                    instance_name: instance.name.clone(),
                    device_index: attachment.device_index,
                    plugged: false,
                    error: None,
                })
            })
            .collect()
    }

    fn running(&self, name: &str) -> Option<&Instance> {
        self.instances
            .values()
            .find(|i| i.name == name && i.state != InstanceState::Terminated)
    }

    fn detail(&self, instance: &Instance) -> InstanceDetail {
        let subnet = self.subnets.get(&instance.subnet);
        let prefix = subnet.map_or(32, |s| s.config.cidr4.prefix_len());
        InstanceDetail {
            id: instance.id.clone(),
            name: instance.name.clone(),
            instance_type: instance.instance_type.name.clone(),
            zone: self.zone(&instance.subnet),
            state: instance.state,
            netns: instance.namespace.path(),
            primary_nic: instance.primary_nic.clone(),
            mac: instance.mac,
            primary4: Ipv4Net::new_assert(instance.primary4, prefix),
            gateway4: subnet.map_or(instance.primary4, super::Subnet::gateway4),
            primary6: instance.primary6,
            public4: instance.public4,
        }
    }
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(allowed) {
        return Err(Refusal::parameter(
            "name",
            format!("{name:?}: 1 to 63 lower-case letters, digits and '-' are wanted"),
        ));
    }
    if RESERVED_NAMES.contains(&name) || name.starts_with("i-") {
        return Err(Refusal::parameter("name", format!("{name:?} is reserved")));
    }
    Ok(())
}
