//! A cloud of few addresses, so that each is soon another node's. It refuses what a real one would, and panics where a
//! limit would be passed that the planner knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tombolo_core::eni::{Action, NicState, ObservedNic, ObservedSubnet, Ownership};
use tombolo_core::types::{Family, Mac, Millis, Nic, NicId, NicLimits, Reason};

pub const LIMITS: NicLimits = NicLimits {
    max_nics: 3,
    ipv4_per_nic: 5,
    ipv6_per_nic: 5,
};
/// Addresses of a family in the one subnet: fewer than two full nodes have.
const ADDRESSES: u16 = 22;
const ATTACH: Millis = Millis(1500);

/// A NIC, or the intention to make one.
#[derive(Clone, Debug)]
pub struct CloudNic {
    pub seen: ObservedNic,
    pub node: usize,
    /// When it is attached, while it is attaching.
    arrives: Option<Millis>,
    number: u8,
    /// Link index on its node: a new one with each attachment.
    pub ifindex: u32,
}

#[derive(Debug)]
pub struct Cloud {
    pub nics: BTreeMap<String, CloudNic>,
    /// Free addresses; the one that was freed last is given out first.
    free: BTreeMap<Family, Vec<IpAddr>>,
    serial: u8,
    links: u32,
}

impl Cloud {
    pub fn new(nodes: usize) -> Self {
        let v4 = |n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, 100 + u8::try_from(n).unwrap()));
        let v6 = |n| IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, n));
        let free = BTreeMap::from([
            (Family::V4, (0..ADDRESSES).map(v4).collect()),
            (Family::V6, (0..ADDRESSES).map(v6).collect()),
        ]);
        let mut cloud = Self {
            nics: BTreeMap::new(),
            free,
            serial: 0,
            links: 10,
        };
        for node in 0..nodes {
            let eni = format!("n{node}-0");
            cloud.intend(node, &eni, 0);
            let nic = cloud.nics.get_mut(&eni).unwrap();
            nic.seen.nic = Some(NicId(format!("id-{eni}")));
            nic.seen.state = NicState::InUse;
            nic.seen.ownership = Ownership::Primary;
            nic.ifindex = 2;
        }
        cloud
    }

    /// The object before the NIC.
    pub fn intend(&mut self, node: usize, eni: &str, device_index: u16) {
        self.serial = self.serial.wrapping_add(1);
        let seen = ObservedNic {
            eni: eni.to_owned(),
            nic: None,
            state: NicState::Intended,
            device_index,
            subnet: "s".to_owned(),
            ownership: Ownership::Ours,
            unwanted: false,
            own6: false,
            addresses: BTreeSet::new(),
        };
        let nic = CloudNic {
            seen,
            node,
            arrives: None,
            number: self.serial,
            ifindex: 0,
        };
        self.nics.entry(eni.to_owned()).or_insert(nic);
    }

    /// Ends attachments whose time has come.
    pub fn pass(&mut self, now: Millis) {
        for nic in self.nics.values_mut() {
            if nic.arrives.is_some_and(|at| at <= now) {
                nic.arrives = None;
                nic.seen.state = NicState::InUse;
                self.links += 1;
                nic.ifindex = self.links;
            }
        }
    }

    pub fn next_arrival(&self) -> Option<Millis> {
        self.nics.values().filter_map(|nic| nic.arrives).min()
    }

    pub fn of(&self, node: usize) -> impl Iterator<Item = &CloudNic> {
        self.nics.values().filter(move |nic| nic.node == node)
    }

    pub fn subnets(&self) -> Vec<ObservedSubnet> {
        vec![ObservedSubnet {
            id: "s".to_owned(),
            free4: u32::try_from(self.free[&Family::V4].len()).unwrap(),
            ipv6: true,
            eligible: true,
        }]
    }

    fn give(&mut self, eni: &str, family: Family, count: u16) -> Result<(), Reason> {
        let limit = match family {
            Family::V4 => LIMITS.ipv4_per_nic - 1,
            Family::V6 => LIMITS.ipv6_per_nic,
        };
        let nic = self.nics.get_mut(eni).unwrap();
        let has = nic.seen.addresses.iter();
        let has = has.filter(|ip| Family::of(**ip) == family).count();
        assert!(
            has + usize::from(count) <= usize::from(limit),
            "{eni}: {count} more than {has} {family} addresses"
        );
        let free = self.free.get_mut(&family).unwrap();
        if free.len() < usize::from(count) {
            return Err(Reason::SubnetFull);
        }
        let given = free.split_off(free.len() - usize::from(count));
        nic.seen.addresses.extend(given);
        Ok(())
    }

    fn take(&mut self, ip: IpAddr) {
        self.free.get_mut(&Family::of(ip)).unwrap().push(ip);
    }

    /// Carries a call out.
    pub fn call(&mut self, now: Millis, node: usize, action: &Action) -> Result<(), Reason> {
        match action {
            Action::CreateNic {
                eni,
                device_index,
                initial4,
                initial6,
                ..
            } => {
                self.intend(node, eni, *device_index);
                let made = |nic: &&CloudNic| nic.seen.nic.is_some();
                let count = self.of(node).filter(made).count();
                assert!(count < usize::from(LIMITS.max_nics), "too many NICs");
                assert_eq!(self.nics[eni].seen.nic, None, "made twice");
                self.give(eni, Family::V4, *initial4)?;
                self.give(eni, Family::V6, *initial6)?;
                let seen = &mut self.nics.get_mut(eni).unwrap().seen;
                (seen.nic, seen.state) = (Some(NicId(format!("id-{eni}"))), NicState::Available);
            }
            Action::AttachNic {
                eni, device_index, ..
            } => {
                let taken = self.of(node).any(|nic| {
                    !matches!(nic.seen.state, NicState::Intended | NicState::Available)
                        && nic.seen.device_index == *device_index
                });
                assert!(!taken, "device index {device_index} is taken");
                let nic = self.nics.get_mut(eni).unwrap();
                if nic.seen.state != NicState::Available {
                    return Err(Reason::CloudError);
                }
                (nic.seen.state, nic.seen.device_index) = (NicState::Attaching, *device_index);
                nic.arrives = Some(now + ATTACH);
            }
            Action::AssignAddresses {
                eni, family, count, ..
            } => self.give(eni, *family, *count)?,
            Action::UnassignAddresses { eni, addresses, .. } => {
                for ip in addresses {
                    if self.nics.get_mut(eni).unwrap().seen.addresses.remove(ip) {
                        self.take(*ip);
                    }
                }
            }
            Action::DetachNic { eni, .. } => {
                let nic = self.nics.get_mut(eni).unwrap();
                assert_eq!(nic.seen.ownership, Ownership::Ours);
                nic.seen.state = NicState::Available;
                nic.arrives = None;
            }
            Action::DeleteNic { eni, .. } => {
                let nic = self.nics.remove(eni).unwrap();
                assert_eq!(nic.seen.ownership, Ownership::Ours);
                assert!(
                    matches!(nic.seen.state, NicState::Intended | NicState::Available),
                    "{eni} is attached"
                );
                nic.seen.addresses.iter().for_each(|ip| self.take(*ip));
            }
            _ => panic!("not a call: {action:?}"),
        }
        Ok(())
    }
}

impl CloudNic {
    /// As its node's kernel shows it: all NICs are in one subnet, as those of a node usually are.
    pub fn link(&self) -> Nic {
        let index = self.seen.device_index;
        Nic {
            id: self.seen.nic.clone().unwrap(),
            device_index: index,
            mac: Mac([2, 0, 0, 0, 0, self.number]),
            ifindex: self.ifindex,
            ifname: format!("eth{index}"),
            mtu: 9001,
            addr4: Some(Ipv4Addr::new(10, 0, 1, self.number)),
            addr6: None,
            subnet4: Some("10.0.0.0/24".parse().unwrap()),
            subnet6: Some("fd00::/64".parse().unwrap()),
            gateway4: Some(Ipv4Addr::new(10, 0, 0, 1)),
            gateway6: Some("fe80::ff".parse().unwrap()),
        }
    }
}
