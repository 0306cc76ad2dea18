//! A node's NICs as counts of usable addresses. The unit is the *pair*: one address of each family that the profile asks
//! for, on the same NIC (of a single family: one address). A pod needs one pair.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::capacity::pod_addresses_per_nic;
use super::{Call, NicState, Observation, ObservedNic, Ownership};
use crate::types::{Families, Family, NicLimits};

/// What calls under way, and calls whose outcome is not known for sure, mean for the counts.
#[derive(Debug, Default)]
pub(super) struct Underway {
    /// Calls under way and the addresses that they will bring (IPv4, IPv6).
    pub calls: BTreeMap<Call, (u16, u16)>,
    /// Addresses that were once asked to be unassigned: never counted, never given back to the node.
    pub doomed: BTreeSet<IpAddr>,
    /// NICs that take too long to attach.
    pub stuck: BTreeSet<String>,
    /// NICs that the cloud calls full before their published limit.
    pub full: BTreeSet<String>,
}

impl Underway {
    fn brings(&self, call: &Call) -> (u32, u32) {
        self.calls
            .get(call)
            .map_or((0, 0), |(v4, v6)| (u32::from(*v4), u32::from(*v6)))
    }

    pub fn has(&self, call: &Call) -> bool {
        self.calls.contains_key(call)
    }
}

/// One NIC, counted.
#[derive(Debug)]
pub(super) struct NicShape<'a> {
    pub nic: &'a ObservedNic,
    /// State, with calls under way taken as done.
    pub state: NicState,
    /// Addresses that it has and keeps, a family.
    have: [u32; 2],
    /// Addresses that calls under way bring.
    incoming: [u32; 2],
    /// Most addresses for pods that it can carry.
    cap: [u32; 2],
    families: Families,
}

const fn slot(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl<'a> NicShape<'a> {
    fn new(observation: &Observation, nic: &'a ObservedNic, underway: &Underway) -> Self {
        let eni = || nic.eni.clone();
        let mut have = [0; 2];
        let mut doomed = [0; 2];
        for ip in &nic.addresses {
            let counter = if underway.doomed.contains(ip) {
                &mut doomed
            } else {
                &mut have
            };
            counter[slot(Family::of(*ip))] += 1;
        }
        let mut incoming = [0; 2];
        for family in Family::ALL {
            let (v4, v6) = underway.brings(&Call::Assign { eni: eni(), family });
            incoming[0] += v4;
            incoming[1] += v6;
        }
        let mut state = nic.state;
        if nic.nic.is_none() {
            (incoming[0], incoming[1]) = underway.brings(&Call::Create { eni: eni() });
        }
        if underway.has(&Call::Attach { eni: eni() }) && state == NicState::Available {
            state = NicState::Attaching;
        }
        if underway.has(&Call::Detach { eni: eni() }) || underway.has(&Call::Delete { eni: eni() })
        {
            state = NicState::Detaching;
        }
        let full = underway.full.contains(&nic.eni) || nic.unwanted;
        let cap = Family::ALL.map(|family| {
            let own = family == Family::V4 || nic.own6;
            let published = u32::from(pod_addresses_per_nic(&observation.limits, family, own));
            // What is on its way out still takes its place.
            let published = published.saturating_sub(doomed[slot(family)]);
            let now = have[slot(family)] + incoming[slot(family)];
            if full { now } else { published.max(now) }
        });
        Self {
            nic,
            state,
            have,
            incoming,
            cap,
            families: observation.families,
        }
    }

    /// Addresses that it has or is about to get.
    pub fn count(&self, family: Family) -> u32 {
        self.have[slot(family)] + self.incoming[slot(family)]
    }

    fn least(&self, of: impl Fn(Family) -> u32) -> u32 {
        self.families.iter().map(of).min().unwrap_or(0)
    }

    /// Pairs that it has or is about to get.
    pub fn pairs(&self) -> u32 {
        self.least(|family| self.count(family))
    }

    /// Pairs that it has for certain.
    pub fn firm_pairs(&self) -> u32 {
        self.least(|family| self.have[slot(family)])
    }

    /// Addresses that it has for certain.
    pub fn firm(&self, family: Family) -> u32 {
        self.have[slot(family)]
    }

    /// Whether nothing is being added.
    pub fn settled(&self) -> bool {
        self.incoming == [0; 2]
    }

    /// Pairs that it can carry.
    pub fn cap_pairs(&self) -> u32 {
        self.least(|family| self.cap[slot(family)])
    }

    /// Pairs that could be added.
    pub fn room(&self) -> u32 {
        self.cap_pairs().saturating_sub(self.pairs())
    }

    /// Whether pods of this node can use its addresses now.
    pub fn serves(&self) -> bool {
        self.nic.ownership != Ownership::Foreign && self.state == NicState::InUse
    }

    /// Whether it is on its way to serve.
    pub fn coming(&self, underway: &Underway) -> bool {
        self.nic.ownership != Ownership::Foreign
            && match self.state {
                NicState::Attaching => !underway.stuck.contains(&self.nic.eni),
                // The call that makes it may show its effect before it ends.
                NicState::Intended | NicState::Available => underway.has(&Call::Create {
                    eni: self.nic.eni.clone(),
                }),
                NicState::InUse | NicState::Detaching => false,
            }
    }
}

/// All NICs of the node, by device index.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    pub nics: Vec<NicShape<'a>>,
    /// Pairs that the node wants at least.
    pub low: u32,
    /// Pairs above which it gives back.
    pub high: u32,
}

impl<'a> Shape<'a> {
    /// Counts. `None` where the agent has not said what it wants.
    pub fn new(observation: &'a Observation, underway: &Underway) -> Option<Self> {
        let demand = observation.demand.as_ref()?;
        let families = observation.families;
        let most = |of: fn(&crate::ipam::Demand) -> u32| {
            families
                .iter()
                .filter_map(|family| demand.get(&family))
                .map(of)
                .max()
        };
        let low = most(|d| d.low).unwrap_or(0);
        // A family of the profile that the agent has not spoken of yet: nothing is in excess.
        let all_known = families.iter().all(|family| demand.contains_key(&family));
        let high = if all_known {
            most(|d| d.high).unwrap_or(u32::MAX).max(low)
        } else {
            u32::MAX
        };
        let mut nics: Vec<NicShape<'a>> = observation
            .nics
            .iter()
            .map(|nic| NicShape::new(observation, nic, underway))
            .collect();
        nics.sort_by(|a, b| {
            (a.nic.device_index, &a.nic.eni).cmp(&(b.nic.device_index, &b.nic.eni))
        });
        Some(Self { nics, low, high })
    }

    /// Pairs on NICs that serve or are about to.
    pub fn total(&self, underway: &Underway) -> u32 {
        self.nics
            .iter()
            .filter(|n| n.serves() || n.coming(underway))
            .map(NicShape::pairs)
            .sum()
    }

    /// Pairs that pods can use now.
    pub fn firm_total(&self) -> u32 {
        self.nics
            .iter()
            .filter(|n| n.serves())
            .map(NicShape::firm_pairs)
            .sum()
    }

    /// Pairs that a new NIC can carry.
    pub fn cap_of_new(limits: &NicLimits, families: Families) -> u32 {
        let cap = |family| u32::from(pod_addresses_per_nic(limits, family, family == Family::V4));
        families.iter().map(cap).min().unwrap_or(0)
    }
}
