//! The pool's transitions. Every input ends the same way: rests that are over end, then waiting ADDs are served. Only marks
//! do not: the supply of the same object follows, and nobody may get what that supply no longer has.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::pool::{Action, AddressState, Holder, Input, NicInfo, NicSupply, Pool, Slot};
use crate::datapath::EndpointAddress;
use crate::types::{AttachmentKey, Family, Millis, NicId, Reason};

impl Pool {
    /// The machine. `now` may jump backwards: no rest then lasts longer than the configured one.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        self.forget_old_reservations(now);
        self.end_rests(now, &mut actions);
        let supply_follows = matches!(input, Input::Marked(_));
        match input {
            Input::Supply(nics) => self.supply(nics, &mut actions),
            Input::Marked(set) => self.mark(set, &mut actions),
            Input::Reserve(key) => self.reserve(now, key, &mut actions),
            Input::Cancel(key) => self.waiting.retain(|waiting| *waiting != key),
            Input::Abandon(key) => self.abandon(&key, &mut actions),
            Input::Release(key) => self.release(&key, &mut actions),
            Input::Removed(key) => self.removed(now, &key, &mut actions),
            Input::Restore(key, addresses) => self.restore(key, addresses, &mut actions),
            Input::RestoreCooling(address, until) => {
                self.restore_cooling(now, address, until, &mut actions)
            }
            Input::Tick => {}
        }
        if !supply_follows {
            self.end_rests(now, &mut actions);
            self.serve(&mut actions);
        }
        actions
    }

    /// When `Tick` is next needed: a rest ends, or a reservation no longer counts towards the warm target.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        let rests = self.slots.values().filter_map(|slot| match slot.state {
            AddressState::Cooling { until } => Some(until),
            _ => None,
        });
        let churn = self.recent.front().map(|at| *at + self.config.churn_window);
        rests.chain(churn).min()
    }

    fn supply(&mut self, mut nics: Vec<NicSupply>, actions: &mut Vec<Action>) {
        nics.sort_by(|a, b| (a.device_index, &a.nic).cmp(&(b.device_index, &b.nic)));
        self.nics.clear();
        self.supply.clear();
        // The order of the snapshot is the order of use of addresses that are new.
        let mut order = Vec::new();
        for nic in nics {
            self.nics.insert(
                nic.nic.clone(),
                NicInfo {
                    usable: nic.usable,
                    device_index: nic.device_index,
                },
            );
            for ip in nic.addresses {
                if let Entry::Vacant(entry) = self.supply.entry(ip) {
                    entry.insert(nic.nic.clone());
                    order.push(ip);
                }
            }
        }
        let (mut gone, mut back) = (Vec::new(), Vec::new());
        for (ip, slot) in &mut self.slots {
            let owner = self.supply.get(ip);
            match &slot.state {
                AddressState::Free | AddressState::Yielded => match owner {
                    Some(nic) => {
                        slot.nic = nic.clone();
                        let yielded = matches!(slot.state, AddressState::Yielded);
                        if yielded && !self.marked.contains(ip) {
                            back.push(*ip);
                        }
                    }
                    None => gone.push(*ip),
                },
                // Its rest goes on wherever the address is now; when it ends we look where that is.
                AddressState::Cooling { .. } | AddressState::Draining(_) => {}
                AddressState::Bound(key) => {
                    let lost = owner != Some(&slot.nic);
                    if lost && !slot.lost {
                        actions.push(Action::Lost(key.clone(), *ip));
                    }
                    slot.lost = lost;
                }
            }
        }
        for ip in gone {
            self.slots.remove(&ip);
        }
        for ip in back {
            self.set_available(ip, actions);
        }
        for ip in order {
            if !self.slots.contains_key(&ip) {
                self.set_available(ip, actions);
            }
        }
    }

    fn mark(&mut self, set: BTreeSet<IpAddr>, actions: &mut Vec<Action>) {
        self.marked = set;
        for ip in self.marked.clone() {
            match self.slots.get_mut(&ip) {
                Some(slot) if matches!(slot.state, AddressState::Free) => {
                    slot.state = AddressState::Yielded;
                    actions.push(Action::Consent(ip, true));
                }
                _ => actions.push(Action::Consent(ip, self.consents_to(&ip))),
            }
        }
    }

    fn reserve(&mut self, now: Millis, key: AttachmentKey, actions: &mut Vec<Action>) {
        if let Some(holder) = self.holders.get(&key) {
            actions.push(if holder.draining {
                Action::Refuse(key, Reason::Superseded)
            } else {
                Action::Assign(key, holder.addresses.clone())
            });
            return;
        }
        if self.waiting.contains(&key) {
            actions.push(Action::Wait(key));
            return;
        }
        self.recent.push_back(now);
        self.waiting.push_back(key.clone());
        self.serve(actions);
        if self.waiting.contains(&key) {
            actions.push(Action::Wait(key));
        }
    }

    fn abandon(&mut self, key: &AttachmentKey, actions: &mut Vec<Action>) {
        self.waiting.retain(|waiting| waiting != key);
        if self.holders.get(key).is_some_and(|holder| !holder.draining) {
            for address in self.take_holder(key) {
                self.set_available(address.ip, actions);
            }
        }
    }

    fn release(&mut self, key: &AttachmentKey, actions: &mut Vec<Action>) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting != key);
        if self.waiting.len() < before {
            actions.push(Action::Refuse(key.clone(), Reason::Superseded));
        }
        let Some(holder) = self.holders.get_mut(key) else {
            return;
        };
        holder.draining = true;
        for address in &holder.addresses {
            if let Some(slot) = self.slots.get_mut(&address.ip) {
                slot.state = AddressState::Draining(key.clone());
            }
        }
    }

    fn removed(&mut self, now: Millis, key: &AttachmentKey, actions: &mut Vec<Action>) {
        if self.holders.get(key).is_some_and(|holder| holder.draining) {
            let until = now + self.config.cooling;
            for address in self.take_holder(key) {
                if let Some(slot) = self.slots.get_mut(&address.ip) {
                    slot.state = AddressState::Cooling { until };
                }
                actions.push(Action::Cool(address, until));
            }
        }
    }

    fn restore(
        &mut self,
        key: AttachmentKey,
        mut addresses: Vec<EndpointAddress>,
        actions: &mut Vec<Action>,
    ) {
        addresses.sort_by_key(|address| Family::of(address.ip));
        let held = |slot: &Slot| match &slot.state {
            AddressState::Bound(other) | AddressState::Draining(other) => *other != key,
            _ => false,
        };
        let known = self
            .holders
            .get(&key)
            .is_some_and(|holder| holder.addresses != addresses);
        if known
            || addresses
                .iter()
                .any(|address| self.slots.get(&address.ip).is_some_and(held))
        {
            actions.push(Action::Refuse(key, Reason::JournalError));
            return;
        }
        for address in &addresses {
            let state = AddressState::Bound(key.clone());
            let slot = Slot {
                nic: address.nic.clone(),
                state,
                free_since: 0,
                lost: false,
            };
            let before = self.slots.insert(address.ip, slot);
            if before.is_some_and(|slot| matches!(slot.state, AddressState::Cooling { .. })) {
                actions.push(Action::Cooled(address.ip));
            }
        }
        self.holders.insert(
            key,
            Holder {
                addresses,
                draining: false,
            },
        );
    }

    fn restore_cooling(
        &mut self,
        now: Millis,
        address: EndpointAddress,
        until: Millis,
        actions: &mut Vec<Action>,
    ) {
        let held = self.slots.get(&address.ip).is_some_and(|slot| {
            matches!(
                slot.state,
                AddressState::Bound(_) | AddressState::Draining(_)
            )
        });
        if held {
            // The note is older than the attachment.
            actions.push(Action::Cooled(address.ip));
            return;
        }
        let state = AddressState::Cooling {
            until: until.min(now + self.config.cooling),
        };
        self.slots.insert(
            address.ip,
            Slot {
                nic: address.nic,
                state,
                free_since: 0,
                lost: false,
            },
        );
    }

    /// Ends every rest whose time has come.
    fn end_rests(&mut self, now: Millis, actions: &mut Vec<Action>) {
        let latest = now + self.config.cooling;
        let mut over = Vec::new();
        for (ip, slot) in &mut self.slots {
            if let AddressState::Cooling { until } = &mut slot.state {
                *until = (*until).min(latest);
                if *until <= now {
                    over.push((*until, *ip));
                }
            }
        }
        over.sort_unstable();
        for (_, ip) in over {
            actions.push(Action::Cooled(ip));
            self.set_available(ip, actions);
        }
    }

    /// The address is nobody's any more: free, or yielded where it is marked, or forgotten where the cloud took it.
    fn set_available(&mut self, ip: IpAddr, actions: &mut Vec<Action>) {
        let Some(nic) = self.supply.get(&ip).cloned() else {
            self.slots.remove(&ip);
            return;
        };
        let state = if self.marked.contains(&ip) {
            actions.push(Action::Consent(ip, true));
            AddressState::Yielded
        } else {
            AddressState::Free
        };
        self.sequence += 1;
        self.slots.insert(
            ip,
            Slot {
                nic,
                state,
                free_since: self.sequence,
                lost: false,
            },
        );
    }

    fn take_holder(&mut self, key: &AttachmentKey) -> Vec<EndpointAddress> {
        self.holders
            .remove(key)
            .map(|holder| holder.addresses)
            .unwrap_or_default()
    }

    /// Serves waiting ADDs in order. All want the same families, so the first that gets nothing ends it.
    fn serve(&mut self, actions: &mut Vec<Action>) {
        while let Some(key) = self.waiting.front().cloned() {
            let Some(addresses) = self.pick() else { break };
            self.waiting.pop_front();
            for address in &addresses {
                if let Some(slot) = self.slots.get_mut(&address.ip) {
                    slot.state = AddressState::Bound(key.clone());
                }
            }
            self.holders.insert(
                key.clone(),
                Holder {
                    addresses: addresses.clone(),
                    draining: false,
                },
            );
            actions.push(Action::Assign(key, addresses));
        }
    }

    /// One free address a family: of one NIC where one has all of them, else the first of each; the lowest NIC first.
    fn pick(&self) -> Option<Vec<EndpointAddress>> {
        type Oldest = BTreeMap<Family, (u64, IpAddr)>;
        let mut by_nic: BTreeMap<(u16, &NicId), Oldest> = BTreeMap::new();
        for (ip, slot) in &self.slots {
            let Some(info) = self.nics.get(&slot.nic).filter(|info| info.usable) else {
                continue;
            };
            if matches!(slot.state, AddressState::Free) {
                let oldest = by_nic.entry((info.device_index, &slot.nic)).or_default();
                let candidate = (slot.free_since, *ip);
                let entry = oldest.entry(Family::of(*ip)).or_insert(candidate);
                *entry = (*entry).min(candidate);
            }
        }
        let address = |nic: &NicId, (_, ip): (u64, IpAddr)| EndpointAddress {
            ip,
            nic: nic.clone(),
        };
        let of_one =
            |((_, nic), oldest): (&(u16, &NicId), &Oldest)| -> Option<Vec<EndpointAddress>> {
                self.config
                    .families
                    .iter()
                    .map(|family| oldest.get(&family).map(|found| address(nic, *found)))
                    .collect()
            };
        let of_any = |family: Family| {
            by_nic.iter().find_map(|((_, nic), oldest)| {
                oldest.get(&family).map(|found| address(nic, *found))
            })
        };
        by_nic
            .iter()
            .find_map(of_one)
            .or_else(|| self.config.families.iter().map(of_any).collect())
    }
}
