//! What other people do to NICs and addresses behind the product's back (lab calls; the product never makes them).

use std::net::IpAddr;

use tombolo_core::types::Family;

use super::nics::check_limit;
use super::{Model, Phase, Refusal};

impl Model {
    /// Takes a secondary address from whichever NIC has it.
    ///
    /// # Errors
    /// No NIC has it as a secondary address.
    pub fn take_address(&mut self, address: IpAddr) -> Result<(), Refusal> {
        let id = self.owner(address)?;
        let nic = self.nic_mut(&id)?;
        nic.secondary.retain(|a| *a != address);
        let subnet = nic.subnet.clone();
        if let Some(subnet) = self.subnets.get_mut(&subnet) {
            subnet.release(address);
        }
        self.generation += 1;
        Ok(())
    }

    /// Moves a secondary address to another NIC of its subnet.
    ///
    /// # Errors
    /// No NIC has it as a secondary address; no such NIC, one of another subnet, or one that is full.
    pub fn move_address(&mut self, address: IpAddr, to: &str) -> Result<(), Refusal> {
        let from = self.owner(address)?;
        let target = self.nic(to)?;
        let home = &self.nic(&from)?.subnet;
        if target.subnet != *home {
            return Err(Refusal::Combination(format!(
                "{address} belongs to subnet {home}, network interface {to} to {}",
                target.subnet
            )));
        }
        if from == to {
            return Err(Refusal::Combination(format!("{to} has {address} already")));
        }
        let family = Family::of(address);
        check_limit(target, family, 1, self.limit(target, family))?;
        self.nic_mut(&from)?.secondary.retain(|a| *a != address);
        self.nic_mut(to)?.secondary.push(address);
        self.generation += 1;
        Ok(())
    }

    /// Ends an attachment at once, whatever it is doing.
    ///
    /// # Errors
    /// Unknown NIC, one that is attached to nothing, a primary one.
    pub fn force_detach(&mut self, id: &str) -> Result<(), Refusal> {
        let nic = self.nic_mut(id)?;
        match &nic.attachment {
            None => {
                return Err(Refusal::State(format!(
                    "network interface {id} is {:?}",
                    nic.status()
                )));
            }
            Some(a) if a.device_index == 0 => {
                return Err(Refusal::NotPermitted(format!(
                    "network interface {id} is at device index 0 and cannot be detached"
                )));
            }
            Some(_) => nic.phase = Phase::Unplugging,
        }
        self.generation += 1;
        Ok(())
    }

    /// Deletes a NIC, with a forced detachment where it is attached.
    ///
    /// # Errors
    /// Unknown NIC, a primary one.
    pub fn vanish_nic(&mut self, id: &str) -> Result<(), Refusal> {
        if self.nic(id)?.attachment.is_none() {
            self.remove_nic(id);
            return Ok(());
        }
        self.force_detach(id)?;
        self.nic_mut(id)?.doomed = true;
        Ok(())
    }

    fn owner(&self, address: IpAddr) -> Result<String, Refusal> {
        self.nics
            .values()
            .find(|n| n.secondary.contains(&address))
            .map(|n| n.id.clone())
            .ok_or_else(|| {
                Refusal::parameter(
                    "address",
                    format!("no network interface has {address} as a secondary address"),
                )
            })
    }
}
