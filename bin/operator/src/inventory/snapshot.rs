//! What is known of the cloud, and how a new reading changes it. Pure.
//!
//! Readings may be stale: what grows is believed at once, what shrinks (an address, an attachment, a whole NIC, an
//! instance's end) only when a second reading, `confirm_after` later, says the same. Our own writes are applied as they
//! are answered, and a reading that began before such a write says nothing about that NIC.

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
    /// Addresses that we gave back, and until when a reading that shows them is not believed.
    given_back: BTreeMap<IpAddr, Millis>,
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
            given_back: BTreeMap::new(),
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
        self.given_back.retain(|_, until| *until > now);
        new.secondary.retain(|ip| !self.given_back.contains_key(ip));
        let before = std::mem::take(&mut self.missing);
        let listed: BTreeSet<IpAddr> = new.secondary.iter().copied().collect();
        for ip in &self.info.secondary {
            if listed.contains(ip) {
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
            let says_so = !listed.contains(id) && record.written <= begun;
            !record.absent.see(says_so, now, trust.confirm_after) || !says_so
        });
    }

    /// Takes in a reading of some NICs.
    pub fn absorb_nics(&mut self, nics: Vec<NicInfo>, begun: u64, now: Millis, trust: Trust) {
        self.deleted.retain(|_, until| *until > now);
        for info in nics {
            if self.deleted.contains_key(&info.id) {
                continue;
            }
            match self.nics.get_mut(&info.id) {
                Some(record) if record.written > begun => {}
                Some(record) => record.absorb(info, now, trust),
                None => {
                    self.nics
                        .insert(info.id.clone(), NicRecord::new(info, now, 0));
                }
            }
        }
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
    pub fn put_nic(&mut self, info: NicInfo, now: Millis) {
        self.writes += 1;
        let made = !self.nics.contains_key(&info.id);
        if made && let Some(subnet) = self.subnets.get_mut(&info.subnet) {
            let v4 = info.secondary.iter().filter(|ip| ip.is_ipv4()).count();
            subnet.available4 = subnet
                .available4
                .saturating_sub(u32::try_from(v4 + 1).unwrap_or(u32::MAX));
        }
        self.nics
            .insert(info.id.clone(), NicRecord::new(info, now, self.writes));
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
    pub fn assigned(&mut self, nic: &str, addresses: &[IpAddr]) {
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
pub mod tests {
    use super::*;
    use tombolo_core::types::Mac;

    pub const TRUST: Trust = Trust {
        confirm_after: Millis(5000),
        stale_grace: Millis(60_000),
    };

    pub fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    pub fn nic(id: &str, instance: Option<(&str, u16)>, secondary: &[&str]) -> NicInfo {
        NicInfo {
            id: id.to_owned(),
            subnet: "s1".to_owned(),
            zone: "z1".to_owned(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 9001,
            description: String::new(),
            status: if instance.is_some() {
                NicStatus::InUse
            } else {
                NicStatus::Available
            },
            attachment: instance.map(|(instance, device_index)| Attachment {
                instance: instance.to_owned(),
                device_index,
                delete_on_termination: true,
            }),
            primary4: "10.0.0.10".parse().unwrap(),
            primary6: None,
            secondary: secondary.iter().map(|text| ip(text)).collect(),
            security_groups: vec!["sg-1".to_owned()],
            tags: BTreeMap::new(),
        }
    }

    pub fn subnet(id: &str, available4: u32) -> Subnet {
        Subnet {
            id: id.to_owned(),
            zone: "z1".to_owned(),
            cidr4: "10.0.0.0/24".parse().unwrap(),
            cidr6: Some("fd00::/64".parse().unwrap()),
            available4,
            gateway4: "10.0.0.1".parse().unwrap(),
            gateway6: "fe80::1".parse().unwrap(),
            tags: BTreeMap::new(),
        }
    }

    pub fn instance(id: &str, state: InstanceState) -> Instance {
        Instance {
            id: id.to_owned(),
            instance_type: "small".to_owned(),
            zone: "z1".to_owned(),
            state,
            primary_nic: "eni-0".to_owned(),
        }
    }

    pub fn reading(instances: Vec<Instance>, nics: Vec<NicInfo>) -> Reading {
        let vpc = Vpc {
            id: "vpc-1".to_owned(),
            cidrs: vec!["10.0.0.0/16".parse().unwrap()],
        };
        Reading {
            vpc,
            instances,
            subnets: vec![subnet("s1", 100), subnet("s2", 50)],
            nics,
        }
    }

    fn secondary(snapshot: &Snapshot, nic: &str) -> Vec<String> {
        let mut all: Vec<String> = snapshot.nics[nic]
            .info
            .secondary
            .iter()
            .map(ToString::to_string)
            .collect();
        all.sort();
        all
    }

    fn read(snapshot: &mut Snapshot, at: u64, nics: Vec<NicInfo>) {
        let begun = snapshot.writes();
        snapshot.absorb(reading(vec![], nics), begun, Millis(at), TRUST);
    }

    #[test]
    fn what_grows_is_believed_what_shrinks_needs_two_readings() {
        let mut s = Snapshot::default();
        read(
            &mut s,
            0,
            vec![nic("e", Some(("i", 1)), &["10.0.0.11", "10.0.0.12"])],
        );
        read(
            &mut s,
            1000,
            vec![nic("e", Some(("i", 1)), &["10.0.0.12", "10.0.0.13"])],
        );
        assert_eq!(secondary(&s, "e"), ["10.0.0.11", "10.0.0.12", "10.0.0.13"]);
        assert!(s.awaits_confirmation());
        // Another address missing: its own two readings count.
        read(&mut s, 7000, vec![nic("e", Some(("i", 1)), &["10.0.0.13"])]);
        assert_eq!(secondary(&s, "e"), ["10.0.0.12", "10.0.0.13"]);
        // Back again: forgiven.
        read(
            &mut s,
            8000,
            vec![nic("e", Some(("i", 1)), &["10.0.0.12", "10.0.0.13"])],
        );
        read(
            &mut s,
            20_000,
            vec![nic("e", Some(("i", 1)), &["10.0.0.13"])],
        );
        assert_eq!(secondary(&s, "e"), ["10.0.0.12", "10.0.0.13"]);
    }

    #[test]
    fn an_attachment_and_a_nic_are_gone_after_two_readings() {
        let mut s = Snapshot::default();
        read(&mut s, 0, vec![nic("e", Some(("i", 1)), &[])]);
        read(&mut s, 1000, vec![nic("e", None, &[])]);
        assert_eq!(
            (s.nics["e"].instance(), s.nics["e"].info.status),
            (Some("i"), NicStatus::InUse)
        );
        read(&mut s, 3000, vec![nic("e", None, &[])]);
        assert_eq!(
            s.nics["e"].instance(),
            Some("i"),
            "too soon after the first"
        );
        read(&mut s, 6000, vec![nic("e", None, &[])]);
        assert_eq!(
            (s.nics["e"].instance(), s.nics["e"].info.status),
            (None, NicStatus::Available)
        );
        read(&mut s, 7000, vec![]);
        assert!(s.nics.contains_key("e") && s.awaits_confirmation());
        read(&mut s, 12_000, vec![]);
        assert!(s.nics.is_empty() && !s.awaits_confirmation());
    }

    #[test]
    fn our_writes_outrank_readings_that_began_before_them() {
        let mut s = Snapshot::default();
        read(&mut s, 0, vec![nic("e", Some(("i", 1)), &["10.0.0.11"])]);
        let begun = s.writes();
        s.assigned("e", &[ip("10.0.0.12"), ip("fd00::12")]);
        assert_eq!(s.subnets["s1"].available4, 99);
        let stale = || reading(vec![], vec![nic("e", Some(("i", 1)), &["10.0.0.11"])]);
        s.absorb(stale(), begun, Millis(9000), TRUST);
        s.absorb(stale(), begun, Millis(18_000), TRUST);
        assert_eq!(secondary(&s, "e"), ["10.0.0.11", "10.0.0.12", "fd00::12"]);
    }

    #[test]
    fn what_we_gave_back_does_not_come_back_by_a_stale_reading() {
        let mut s = Snapshot::default();
        let full = || vec![nic("e", Some(("i", 1)), &["10.0.0.11", "10.0.0.12"])];
        read(&mut s, 0, full());
        s.unassigned("e", &[ip("10.0.0.11")], Millis(1000), TRUST);
        assert_eq!(secondary(&s, "e"), ["10.0.0.12"]);
        read(&mut s, 2000, full());
        assert_eq!(secondary(&s, "e"), ["10.0.0.12"]);
        // The cloud insists: it never went.
        read(&mut s, 62_000, full());
        assert_eq!(secondary(&s, "e"), ["10.0.0.11", "10.0.0.12"]);
        // Given to us anew: believed at once.
        s.unassigned("e", &[ip("10.0.0.11")], Millis(63_000), TRUST);
        s.assigned("e", &[ip("10.0.0.11")]);
        read(&mut s, 64_000, full());
        assert_eq!(secondary(&s, "e"), ["10.0.0.11", "10.0.0.12"]);
    }

    #[test]
    fn a_nic_that_we_made_attached_detached_and_deleted() {
        let mut s = Snapshot::default();
        read(&mut s, 0, vec![]);
        s.put_nic(nic("e", None, &["10.0.0.11"]), Millis(0));
        assert_eq!(s.subnets["s1"].available4, 98);
        let attachment = Attachment {
            instance: "i".to_owned(),
            device_index: 1,
            delete_on_termination: true,
        };
        s.attaching("e", attachment);
        assert!(s.nics["e"].in_transition());
        // Not visible yet: one reading does not undo it.
        read(&mut s, 100, vec![nic("e", None, &["10.0.0.11"])]);
        assert!(s.nics["e"].in_transition());
        read(&mut s, 200, vec![nic("e", Some(("i", 1)), &["10.0.0.11"])]);
        assert_eq!(s.nics["e"].info.status, NicStatus::InUse);
        s.detaching("e");
        read(&mut s, 300, vec![nic("e", None, &["10.0.0.11"])]);
        assert_eq!(
            s.nics["e"].info.status,
            NicStatus::Available,
            "asked for, so one reading will do"
        );
        s.forget("e", Millis(400), TRUST);
        read(&mut s, 500, vec![nic("e", None, &[])]);
        assert!(s.nics.is_empty(), "a stale reading does not bring it back");
    }

    #[test]
    fn terminated_takes_two_readings_and_absence_is_not_termination() {
        let mut s = Snapshot::default();
        let mut see = |at, state: Option<InstanceState>| {
            let instances = state
                .map(|state| instance("i", state))
                .into_iter()
                .collect();
            let begun = s.writes();
            s.absorb(reading(instances, vec![]), begun, Millis(at), TRUST);
            (
                s.instances["i"].is_terminated(),
                s.instances["i"].absent_since(),
            )
        };
        assert_eq!(see(0, Some(InstanceState::Running)), (false, None));
        assert_eq!(see(1, Some(InstanceState::Terminated)), (false, None));
        assert_eq!(see(2, Some(InstanceState::Terminated)), (false, None));
        assert_eq!(see(3, Some(InstanceState::Running)), (false, None));
        assert_eq!(see(10_000, None), (false, Some(Millis(10_000))));
        assert_eq!(see(20_000, None), (false, Some(Millis(10_000))));
        assert_eq!(see(21_000, Some(InstanceState::Terminated)), (false, None));
        assert_eq!(see(26_000, Some(InstanceState::Terminated)), (true, None));
    }
}
