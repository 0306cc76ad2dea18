//! How many addresses the node wants, and which it would give back first. Computed from counts and recent churn alone:
//! asking twice gives the same answer, and nothing drifts.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::pool::{AddressState, Demand, Pool};
use crate::datapath::EndpointAddress;
use crate::types::{Family, Millis, NicId};

impl Pool {
    /// What the node wants now, for each family that its pods get; zero for the others.
    ///
    /// `low` is what is in use (bound, draining, cooling), what is waited for, and the warm target; `high` the same with
    /// the warm maximum. Neither asks for more than `max_pods` addresses besides those that drain or cool. An address
    /// that a pod holds but the cloud took away is not in use: nothing that the operator could give would replace it.
    #[must_use]
    pub fn demand(&self, now: Millis) -> BTreeMap<Family, Demand> {
        Family::ALL
            .into_iter()
            .map(|family| (family, self.demand_of(family, now)))
            .collect()
    }

    fn demand_of(&self, family: Family, now: Millis) -> Demand {
        if !self.config.families.contains(family) {
            return Demand::default();
        }
        let (mut bound, mut leaving) = (0_u32, 0_u32);
        for (ip, slot) in &self.slots {
            if Family::of(*ip) == family && self.supply.get(ip) == Some(&slot.nic) {
                match slot.state {
                    AddressState::Bound(_) => bound += 1,
                    AddressState::Draining(_) | AddressState::Cooling { .. } => leaving += 1,
                    AddressState::Free | AddressState::Yielded => {}
                }
            }
        }
        let used = bound.saturating_add(leaving);
        let wanted = used.saturating_add(count(self.waiting.len()));
        let bound_by_pods = self.config.max_pods.saturating_add(leaving).max(used);
        let warm_max = self.config.warm_max.max(self.config.warm_min);
        let warm = count(
            self.recent
                .iter()
                .filter(|at| self.is_recent(**at, now))
                .count(),
        )
        .clamp(self.config.warm_min, warm_max);
        Demand {
            low: wanted.saturating_add(warm).min(bound_by_pods),
            high: wanted.saturating_add(warm_max).min(bound_by_pods),
        }
    }

    /// Free addresses in the order in which the node would give them back. A NIC that empties can leave, so the emptiest
    /// come first and the last plugged of those; the primary NIC cannot leave and comes last. Of one NIC the address that
    /// would be used last.
    #[must_use]
    pub fn releasable(&self) -> Vec<EndpointAddress> {
        let mut held: BTreeMap<&NicId, u32> = BTreeMap::new();
        for slot in self.slots.values() {
            if !matches!(slot.state, AddressState::Free | AddressState::Yielded) {
                *held.entry(&slot.nic).or_default() += 1;
            }
        }
        let mut free: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| matches!(slot.state, AddressState::Free))
            .map(|(ip, slot)| {
                let index = self.nics.get(&slot.nic).map_or(0, |info| info.device_index);
                let held = held.get(&slot.nic).copied().unwrap_or(0);
                (
                    (
                        index == 0,
                        held,
                        Reverse(index),
                        &slot.nic,
                        Reverse(slot.free_since),
                    ),
                    *ip,
                )
            })
            .collect();
        free.sort_unstable();
        free.into_iter()
            .map(|((_, _, _, nic, _), ip)| EndpointAddress {
                ip,
                nic: nic.clone(),
            })
            .collect()
    }

    /// Drops reservations that no longer count, and more than the warm target can use.
    pub(super) fn forget_old_reservations(&mut self, now: Millis) {
        let mut recent = std::mem::take(&mut self.recent);
        recent.retain(|at| self.is_recent(*at, now));
        let most = usize::try_from(self.config.warm_max).unwrap_or(usize::MAX);
        while recent.len() > most {
            recent.pop_front();
        }
        self.recent = recent;
    }

    /// A time in the future (the clock was set back) does not count.
    fn is_recent(&self, at: Millis, now: Millis) -> bool {
        at <= now && now < at + self.config.churn_window
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
