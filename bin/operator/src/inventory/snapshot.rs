//! What is known of the cloud, and how a new reading changes it. Pure.
//!
//! Readings may be stale: what grows is believed at once, what shrinks (an address, an attachment, a whole NIC, an
//! instance's end) only when a second reading, `confirm_after` later, says the same. Our own writes are applied as they
//! are answered, and a reading that began before such a write says nothing about that NIC. What we made or were given, and
//! what we gave back, a reading does not undo for `stale_grace`: clouds answer readings from copies that lag behind.
//!
//! An address is on one NIC. One that a reading shows on another NIC has left the first at once, and is noted as moved: the
//! node that had it may still use it, and until that has ended nobody else may.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tombolo_cloud_sim::wire::{
    Attachment, Instance, InstanceState, InstanceType, NicInfo, NicStatus, Subnet, Vpc,
};
use tombolo_core::types::Millis;

/// What is known of the cloud.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub vpc: Option<Vpc>,
    pub instances: BTreeMap<String, InstanceRecord>,
    pub types: BTreeMap<String, InstanceType>,
    pub subnets: BTreeMap<String, Subnet>,
    pub nics: BTreeMap<String, NicRecord>,
    /// When the first reading was taken in.
    pub started: Option<Millis>,
    /// NICs that we deleted, and until when a reading that shows them is not believed.
    deleted: BTreeMap<String, Millis>,
    /// Addresses that went to another instance's NIC without our doing, and the instance that had them.
    moved: BTreeMap<IpAddr, String>,
    /// Counts our writes.
    writes: u64,
}

/// An instance.
#[derive(Clone, Debug)]
pub struct InstanceRecord {
    pub info: Instance,
    terminated: Agreement,
    absent: Agreement,
}

/// A NIC.
#[derive(Clone, Debug)]
pub struct NicRecord {
    pub info: NicInfo,
    pub first_seen: Millis,
    written: u64,
    /// Addresses that the last reading lacked, and since when.
    missing: BTreeMap<IpAddr, Millis>,
    detached: Agreement,
    absent: Agreement,
    /// Addresses that we were given, and until when a reading that lacks them is not believed.
    given: BTreeMap<IpAddr, Millis>,
    /// Addresses that we gave back, and until when a reading that shows them is not believed.
    given_back: BTreeMap<IpAddr, Millis>,
    /// We made it: until when a reading that lacks it is not believed.
    made: Millis,
}

/// Readings that must agree.
#[derive(Clone, Copy, Debug, Default)]
struct Agreement {
    since: Option<Millis>,
    confirmed: bool,
}

impl Agreement {
    fn see(&mut self, says_so: bool, now: Millis, confirm_after: Millis) -> bool {
        match (says_so, self.since) {
            (false, _) => *self = Self::default(),
            (true, None) => self.since = Some(now),
            (true, Some(since)) => self.confirmed |= now - since >= confirm_after && now > since,
        }
        self.confirmed
    }

    const fn pending(&self) -> bool {
        self.since.is_some() && !self.confirmed
    }
}

/// Times that a reading is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    pub confirm_after: Millis,
    pub stale_grace: Millis,
}

/// A reading of everything.
#[derive(Clone, Debug)]
pub struct Reading {
    pub vpc: Vpc,
    pub instances: Vec<Instance>,
    pub subnets: Vec<Subnet>,
    pub nics: Vec<NicInfo>,
}

impl InstanceRecord {
    /// Two readings said that it was terminated.
    pub const fn is_terminated(&self) -> bool {
        self.terminated.confirmed
    }

    /// Since when the cloud does not list it.
    pub const fn absent_since(&self) -> Option<Millis> {
        self.absent.since
    }
}

impl NicRecord {
    fn new(info: NicInfo, now: Millis, written: u64) -> Self {
        Self {
            info,
            first_seen: now,
            written,
            missing: BTreeMap::new(),
            detached: Agreement::default(),
            absent: Agreement::default(),
            given: BTreeMap::new(),
            given_back: BTreeMap::new(),
            made: Millis(0),
        }
    }

    /// The instance that it is attached to, or about to be.
    pub fn instance(&self) -> Option<&str> {
        self.info
            .attachment
            .as_ref()
            .map(|attachment| attachment.instance.as_str())
    }

    /// On its way from one state to another.
    pub const fn in_transition(&self) -> bool {
        matches!(
            self.info.status,
            NicStatus::Attaching | NicStatus::Detaching
        )
    }

    fn absorb(&mut self, mut new: NicInfo, now: Millis, trust: Trust) {
        self.absent.see(false, now, trust.confirm_after);
        self.given.retain(|_, until| *until > now);
        self.given_back.retain(|_, until| *until > now);
        new.secondary.retain(|ip| !self.given_back.contains_key(ip));
        let before = std::mem::take(&mut self.missing);
        let listed: BTreeSet<IpAddr> = new.secondary.iter().copied().collect();
        for ip in &self.info.secondary {
            if listed.contains(ip) {
                continue;
            }
            if self.given.contains_key(ip) {
                new.secondary.push(*ip);
                continue;
            }
            let since = before.get(ip).copied().unwrap_or(now);
            if now - since < trust.confirm_after || since == now {
                self.missing.insert(*ip, since);
                new.secondary.push(*ip);
            }
        }
        let lost = self.info.attachment.is_some()
            && new.attachment != self.info.attachment
            && self.info.status != NicStatus::Detaching;
        if lost && !self.detached.see(true, now, trust.confirm_after) {
            new.attachment.clone_from(&self.info.attachment);
            new.status = self.info.status;
        } else {
            self.detached.see(false, now, trust.confirm_after);
        }
        self.info = new;
    }
}

impl Snapshot {
    /// How many writes of ours are part of it: to be noted before a reading begins.
    pub const fn writes(&self) -> u64 {
        self.writes
    }

    /// Takes in a reading of everything that began when `begun` writes had been applied.
    pub fn absorb(&mut self, reading: Reading, begun: u64, now: Millis, trust: Trust) {
        self.vpc = Some(reading.vpc);
        self.started.get_or_insert(now);
        self.subnets = reading
            .subnets
            .into_iter()
            .map(|subnet| (subnet.id.clone(), subnet))
            .collect();
        let mut unseen: BTreeSet<String> = self.instances.keys().cloned().collect();
        for info in reading.instances {
            unseen.remove(&info.id);
            let terminated = info.state == InstanceState::Terminated;
            let record = self
                .instances
                .entry(info.id.clone())
                .or_insert_with(|| InstanceRecord {
                    info: info.clone(),
                    terminated: Agreement::default(),
                    absent: Agreement::default(),
                });
            record.info = info;
            record.terminated.see(terminated, now, trust.confirm_after);
            record.absent.see(false, now, trust.confirm_after);
        }
        for id in unseen {
            if let Some(record) = self.instances.get_mut(&id) {
                record.absent.see(true, now, trust.confirm_after);
            }
        }
        let listed: BTreeSet<String> = reading.nics.iter().map(|nic| nic.id.clone()).collect();
        self.absorb_nics(reading.nics, begun, now, trust);
        self.nics.retain(|id, record| {
            let says_so = !listed.contains(id) && record.written <= begun && record.made <= now;
            !record.absent.see(says_so, now, trust.confirm_after) || !says_so
        });
    }

    /// Takes in a reading of some NICs.
    pub fn absorb_nics(&mut self, nics: Vec<NicInfo>, begun: u64, now: Millis, trust: Trust) {
        self.deleted.retain(|_, until| *until > now);
        let first = self.nics.is_empty();
        // Addresses that a NIC shows and did not have.
        let mut gained: BTreeMap<IpAddr, String> = BTreeMap::new();
        for info in nics {
            if self.deleted.contains_key(&info.id) {
                continue;
            }
            let id = info.id.clone();
            let mut before = BTreeSet::new();
            match self.nics.get_mut(&id) {
                Some(record) if record.written > begun => continue,
                Some(record) => {
                    before.extend(record.info.secondary.iter().copied());
                    record.absorb(info, now, trust);
                }
                None => {
                    self.nics.insert(id.clone(), NicRecord::new(info, now, 0));
                }
            }
            let now_has = self.nics.get(&id).map(|record| &record.info.secondary);
            let new = now_has.into_iter().flatten();
            gained.extend(
                new.filter(|ip| !before.contains(*ip))
                    .map(|ip| (*ip, id.clone())),
            );
        }
        if !first && !gained.is_empty() {
            self.move_addresses(&gained);
        }
    }

    /// What NICs gained, others have no more.
    fn move_addresses(&mut self, gained: &BTreeMap<IpAddr, String>) {
        let mut moved: Vec<(IpAddr, String, Option<String>)> = Vec::new();
        for (id, record) in &mut self.nics {
            let left = |ip: &IpAddr| gained.get(ip).filter(|to| *to != id);
            let had = record.instance().map(str::to_owned);
            let gone = record.info.secondary.iter();
            moved.extend(gone.filter_map(|ip| Some((*ip, left(ip)?.clone(), had.clone()))));
            record.info.secondary.retain(|ip| left(ip).is_none());
            record.missing.retain(|ip, _| left(ip).is_none());
            record.given.retain(|ip, _| left(ip).is_none());
        }
        for (ip, to, had) in moved {
            let has = self.nics.get(&to).and_then(NicRecord::instance);
            if let Some(had) = had.filter(|had| has != Some(had)) {
                self.moved.insert(ip, had);
            }
        }
    }

    /// Notes what nodes count on although their NICs do not show it: (address, instance). Where another instance's NIC has it,
    /// it has moved; nobody was there to see it.
    pub fn claim(&mut self, claims: impl Iterator<Item = (IpAddr, String)>) {
        let mut holders: BTreeMap<IpAddr, Option<String>> = BTreeMap::new();
        for record in self.nics.values() {
            let holder = record.instance().map(str::to_owned);
            let all = record.info.secondary.iter();
            holders.extend(all.map(|ip| (*ip, holder.clone())));
        }
        for (ip, claimer) in claims {
            if holders
                .get(&ip)
                .is_some_and(|holder| holder.as_ref() != Some(&claimer))
            {
                self.moved.insert(ip, claimer);
            }
        }
    }

    /// The instance that had an address before it moved to where it is now.
    pub fn moved_from(&self, ip: IpAddr) -> Option<&str> {
        self.moved.get(&ip).map(String::as_str)
    }

    /// Whether any address has moved and may still be used where it was.
    pub fn has_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// An address that moved is used no more where it was.
    pub fn settle_move(&mut self, ip: IpAddr) {
        self.moved.remove(&ip);
    }

    /// Whether something waits for a second reading.
    pub fn awaits_confirmation(&self) -> bool {
        let nic = |record: &NicRecord| {
            !record.missing.is_empty() || record.detached.pending() || record.absent.pending()
        };
        self.nics.values().any(nic)
            || self
                .instances
                .values()
                .any(|record| record.terminated.pending())
    }

    /// We made a NIC, or found one that we had made.
    pub fn put_nic(&mut self, info: NicInfo, now: Millis, trust: Trust) {
        self.writes += 1;
        let made = !self.nics.contains_key(&info.id);
        if made && let Some(subnet) = self.subnets.get_mut(&info.subnet) {
            let v4 = info.secondary.iter().filter(|ip| ip.is_ipv4()).count();
            subnet.available4 = subnet
                .available4
                .saturating_sub(u32::try_from(v4 + 1).unwrap_or(u32::MAX));
        }
        let until = now + trust.stale_grace;
        let mut record = NicRecord::new(info, now, self.writes);
        record.made = until;
        record.given = record
            .info
            .secondary
            .iter()
            .map(|ip| (*ip, until))
            .collect();
        self.nics.insert(record.info.id.clone(), record);
    }

    /// We asked for an attachment.
    pub fn attaching(&mut self, nic: &str, attachment: Attachment) {
        self.write(nic, |info| {
            info.attachment = Some(attachment);
            info.status = NicStatus::Attaching;
        });
    }

    /// We asked for a detachment.
    pub fn detaching(&mut self, nic: &str) {
        self.write(nic, |info| info.status = NicStatus::Detaching);
    }

    /// We were given addresses.
    pub fn assigned(&mut self, nic: &str, addresses: &[IpAddr], now: Millis, trust: Trust) {
        self.count(nic, addresses, |free, count| free.saturating_sub(count));
        self.write(nic, |info| {
            for ip in addresses {
                if !info.secondary.contains(ip) {
                    info.secondary.push(*ip);
                }
            }
        });
        if let Some(record) = self.nics.get_mut(nic) {
            record.given_back.retain(|ip, _| !addresses.contains(ip));
            let until = now + trust.stale_grace;
            record.given.extend(addresses.iter().map(|ip| (*ip, until)));
        }
    }

    /// We gave addresses back.
    pub fn unassigned(&mut self, nic: &str, addresses: &[IpAddr], now: Millis, trust: Trust) {
        self.count(nic, addresses, u32::saturating_add);
        self.write(nic, |info| {
            info.secondary.retain(|ip| !addresses.contains(ip))
        });
        if let Some(record) = self.nics.get_mut(nic) {
            record.missing.retain(|ip, _| !addresses.contains(ip));
            record.given.retain(|ip, _| !addresses.contains(ip));
            record
                .given_back
                .extend(addresses.iter().map(|ip| (*ip, now + trust.stale_grace)));
        }
    }

    /// We deleted a NIC, or were told that it does not exist.
    pub fn forget(&mut self, nic: &str, now: Millis, trust: Trust) {
        self.writes += 1;
        if let Some(record) = self.nics.remove(nic) {
            let mut freed = record.info.secondary;
            freed.push(IpAddr::V4(record.info.primary4));
            if let Some(subnet) = self.subnets.get_mut(&record.info.subnet) {
                let v4 = freed.iter().filter(|ip| ip.is_ipv4()).count();
                subnet.available4 = subnet
                    .available4
                    .saturating_add(u32::try_from(v4).unwrap_or(0));
            }
        }
        self.deleted.insert(nic.to_owned(), now + trust.stale_grace);
    }

    /// An instance is reclaimed: nothing of it is of interest any more.
    pub fn forget_instance(&mut self, instance: &str) {
        self.instances.remove(instance);
    }

    fn write(&mut self, nic: &str, change: impl FnOnce(&mut NicInfo)) {
        self.writes += 1;
        if let Some(record) = self.nics.get_mut(nic) {
            record.written = self.writes;
            change(&mut record.info);
        }
    }

    fn count(&mut self, nic: &str, addresses: &[IpAddr], change: fn(u32, u32) -> u32) {
        let v4 = u32::try_from(addresses.iter().filter(|ip| ip.is_ipv4()).count()).unwrap_or(0);
        let subnet = self.nics.get(nic).map(|record| record.info.subnet.clone());
        if let Some(subnet) = subnet.and_then(|id| self.subnets.get_mut(&id)) {
            subnet.available4 = change(subnet.available4, v4);
        }
    }
}

#[cfg(test)]
pub mod tests;
