//! What is missing below `low`, and how to get it: fill what is there, attach what was made, at last make one NIC.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{Plan, View};
use super::shape::{NicShape, Shape};
use super::{Action, Call, NicState, Ownership, Problem};
use crate::types::{Family, Reason};

/// Meeting a demand.
pub(super) struct Growth<'v, 'a> {
    view: &'v View<'a>,
    shape: &'v Shape<'a>,
    /// Pairs still missing.
    missing: u32,
    /// Free IPv4 addresses a subnet, what this plan takes subtracted.
    free4: BTreeMap<&'v str, u32>,
    /// NICs that the instance takes besides those attached.
    attachable: usize,
    /// Device indexes that this plan gives away.
    claimed: BTreeSet<u16>,
    /// Families of which something would fit, had its subnet an address.
    short: BTreeSet<Family>,
    /// No subnet takes another NIC.
    no_subnet: bool,
}

impl<'v, 'a> Growth<'v, 'a> {
    pub fn new(view: &'v View<'a>, shape: &'v Shape<'a>, have: u32) -> Self {
        let free4 = view.observation.subnets.iter().map(|subnet| {
            let free = match view.held_subnets.get(&subnet.id) {
                // It refused although it seems to have enough: no more of it for now. Fewer than were asked for may do.
                Some(asked) if subnet.free4 >= *asked => 0,
                Some(_) | None => subnet.free4,
            };
            (subnet.id.as_str(), free)
        });
        let attached =
            |n: &&NicShape<'_>| !matches!(n.state, NicState::Intended | NicState::Available);
        let max = usize::from(view.observation.limits.max_nics);
        let attachable = match view.no_more_nics {
            Some(_) => 0,
            None => max.saturating_sub(shape.nics.iter().filter(attached).count()),
        };
        let missing = shape.low.saturating_sub(have);
        Self {
            view,
            shape,
            missing,

            free4: free4.collect(),
            attachable,
            claimed: BTreeSet::new(),
            short: BTreeSet::new(),
            no_subnet: false,
        }
    }

    pub fn grow(mut self, plan: &mut Plan) {
        self.attach(plan);
        self.fill(None, plan);
        // Room on NICs that are on their way is filled when they are here.
        for n in self
            .shape
            .nics
            .iter()
            .filter(|n| n.coming(self.view.underway))
        {
            self.missing = self.missing.saturating_sub(n.room());
        }
        self.resume(plan);
        if self.missing > 0 {
            self.create(plan);
        }
        if self.missing > 0 {
            self.explain(plan);
        }
    }

    /// Before a NIC goes, the others take over what the node would miss of it.
    pub fn take_over(mut self, leaving: &NicShape<'_>, plan: &mut Plan) {
        self.fill(Some(&leaving.nic.eni), plan);
    }

    /// NICs made and not attached.
    fn attach(&mut self, plan: &mut Plan) {
        for n in self
            .shape
            .nics
            .iter()
            .filter(|n| n.nic.ownership == Ownership::Ours)
        {
            let (NicState::Available, Some(id)) = (n.state, &n.nic.nic) else {
                continue;
            };
            if n.coming(self.view.underway) {
                continue;
            }
            let eni = n.nic.eni.clone();
            if self.missing == 0 || self.attachable == 0 || n.nic.unwanted {
                plan.calls.push(Action::DeleteNic {
                    eni,
                    nic: Some(id.clone()),
                });
                continue;
            }
            let device_index = self.index_for(&n.nic.eni, n.nic.device_index);
            plan.calls.push(Action::AttachNic {
                eni,
                nic: id.clone(),
                device_index,
            });
            self.attachable -= 1;
            self.missing = self.missing.saturating_sub(n.cap_pairs());
        }
    }

    /// Slots of NICs in use, lowest device index first.
    fn fill(&mut self, leaving: Option<&str>, plan: &mut Plan) {
        let stays = |n: &&NicShape<'_>| n.serves() && leaving != Some(n.nic.eni.as_str());
        for n in self.shape.nics.iter().filter(stays) {
            let Some(id) = &n.nic.nic else { continue };
            let goal = n.cap_pairs().min(n.pairs().saturating_add(self.missing));
            let mut reach = goal;
            for family in self.view.observation.families.iter() {
                let most = n.count(family) + self.available(&n.nic.subnet, family);
                reach = reach.min(most);
                if most < goal {
                    self.short.insert(family);
                }
            }
            let reach = reach.max(n.pairs());
            self.missing -= reach - n.pairs();
            for family in self.view.observation.families.iter() {
                let count = reach.saturating_sub(n.count(family));
                let Some(count) = u16::try_from(count).ok().filter(|c| *c > 0) else {
                    continue;
                };
                self.take(&n.nic.subnet, family, count.into());
                let (eni, nic) = (n.nic.eni.clone(), id.clone());
                plan.calls.push(Action::AssignAddresses {
                    eni,
                    nic,
                    family,
                    count,
                });
            }
        }
    }

    /// NICs intended whose making was interrupted or failed: made now where they still fit, else dropped.
    fn resume(&mut self, plan: &mut Plan) {
        for n in self
            .shape
            .nics
            .iter()
            .filter(|n| n.state == NicState::Intended && !n.coming(self.view.underway))
        {
            let eni = n.nic.eni.clone();
            let fits =
                !n.nic.unwanted && self.birth(&n.nic.subnet).is_some() && self.attachable > 0;
            if self.missing == 0 || !fits {
                plan.calls.push(Action::DeleteNic { eni, nic: None });
                continue;
            }
            let device_index = self.index_for(&n.nic.eni, n.nic.device_index);
            self.make(plan, eni, &n.nic.subnet, device_index);
        }
    }

    /// One NIC more.
    fn create(&mut self, plan: &mut Plan) {
        let observation = self.view.observation;
        if self.attachable == 0
            || observation.nics.len() >= usize::from(observation.limits.max_nics)
        {
            return;
        }
        if self.creating(plan) {
            return;
        }
        let eligible = observation.subnets.iter().filter(|subnet| subnet.eligible);
        let best = eligible
            .filter_map(|subnet| {
                self.birth(&subnet.id)
                    .map(|_| (self.free4.get(subnet.id.as_str()), subnet))
            })
            // Most free first; of equal ones the name that sorts first.
            .max_by(|(a, x), (b, y)| a.cmp(b).then_with(|| y.id.cmp(&x.id)));
        let Some((_, subnet)) = best else {
            self.no_subnet = true;
            return;
        };
        let device_index = self.index_for("", 0);
        let eni = format!("{}-{device_index}-{}", self.view.node, self.view.word);
        self.make(plan, eni, &subnet.id, device_index);
    }

    /// NICs are made one after the other.
    fn creating(&self, plan: &Plan) -> bool {
        self.view
            .underway
            .calls
            .keys()
            .any(|call| matches!(call, Call::Create { .. }))
            || plan
                .calls
                .iter()
                .any(|action| matches!(action, Action::CreateNic { .. }))
    }

    fn make(&mut self, plan: &mut Plan, eni: String, subnet: &str, device_index: u16) {
        let Some(pairs) = self.birth(subnet) else {
            return;
        };
        let families = self.view.observation.families;
        let initial = |family| if families.contains(family) { pairs } else { 0 };
        let (initial4, initial6) = (initial(Family::V4), initial(Family::V6));
        self.take(subnet, Family::V4, u32::from(initial4) + 1);
        plan.calls.push(Action::CreateNic {
            eni,
            subnet: subnet.to_owned(),
            device_index,
            initial4,
            initial6,
        });
        let cap = Shape::cap_of_new(&self.view.observation.limits, families);
        self.missing = self.missing.saturating_sub(cap);
    }

    /// Pairs with which a NIC made in this subnet would be born; `None` where it cannot be, or would have none.
    fn birth(&self, subnet: &str) -> Option<u16> {
        let families = self.view.observation.families;
        let own = 1;
        let mut pairs = self
            .missing
            .min(Shape::cap_of_new(&self.view.observation.limits, families));
        for family in families.iter() {
            let available = self.available(subnet, family);
            pairs = pairs.min(if family == Family::V4 {
                available.saturating_sub(own)
            } else {
                available
            });
        }
        let born = self.free4.get(subnet).is_some_and(|free| *free >= own) && pairs > 0;
        born.then(|| u16::try_from(pairs).unwrap_or(u16::MAX))
    }

    fn available(&self, subnet: &str, family: Family) -> u32 {
        match family {
            Family::V4 => self.free4.get(subnet).copied().unwrap_or(0),
            Family::V6 => {
                let ipv6 = self
                    .view
                    .observation
                    .subnets
                    .iter()
                    .any(|s| s.id == subnet && s.ipv6);
                let held = self.view.held6.contains(subnet);
                if ipv6 && !held { u32::MAX / 2 } else { 0 }
            }
        }
    }

    fn take(&mut self, subnet: &str, family: Family, count: u32) {
        if family == Family::V4
            && let Some(free) = self.free4.get_mut(subnet)
        {
            *free = free.saturating_sub(count);
        }
    }

    /// The device index for a NIC: the one it was meant for, unless another NIC has it; else the lowest free one.
    fn index_for(&mut self, eni: &str, meant: u16) -> u16 {
        let others = self
            .shape
            .nics
            .iter()
            .filter(|n| n.nic.eni != eni)
            .map(|n| n.nic.device_index);
        let taken: BTreeSet<u16> = others.chain(self.claimed.iter().copied()).collect();
        let index = if !eni.is_empty() && meant > 0 && !taken.contains(&meant) {
            meant
        } else {
            (1..u16::MAX)
                .find(|index| !taken.contains(index))
                .unwrap_or(u16::MAX)
        };
        self.claimed.insert(index);
        index
    }

    /// Says why the rest cannot be had.
    fn explain(&self, plan: &mut Plan) {
        let observation = self.view.observation;
        // A NIC that is just being given back makes room when it is gone.
        let going = |call: &Call| matches!(call, Call::Detach { .. } | Call::Delete { .. });
        if self.creating(plan) || self.view.underway.calls.keys().any(going) {
            return;
        }
        // A NIC that does not come is the reason then, and is told as such.
        let stuck = |n: &NicShape<'_>| {
            n.state == NicState::Attaching && self.view.underway.stuck.contains(&n.nic.eni)
        };
        let no_address = self.no_subnet || !self.short.is_empty();
        if !no_address && self.shape.nics.iter().any(stuck) {
            return;
        }
        let (reason, subject, limit, free) = if no_address {
            let mut free: Vec<(String, u32)> = Vec::new();
            for subnet in &observation.subnets {
                let used = observation.nics.iter().any(|nic| nic.subnet == subnet.id);
                if subnet.eligible || used {
                    free.push((subnet.id.clone(), subnet.free4));
                }
            }
            let subject = if observation.subnets.iter().any(|subnet| subnet.eligible) {
                "no subnet has enough free addresses"
            } else {
                "the profile selects no subnet in the node's zone"
            };
            (Reason::SubnetFull, subject, None, free)
        } else {
            let limit = u32::from(observation.limits.max_nics);
            (
                Reason::NicLimit,
                "the instance type allows no further NIC",
                Some(limit),
                Vec::new(),
            )
        };
        let problem = Problem {
            reason,
            subject: subject.to_owned(),
            wanted: self.shape.low,
            have: self.shape.low - self.missing,
            limit,
            free,
            // One family alone, where the other had enough.
            family: match (reason, self.short.len(), self.short.first()) {
                (Reason::SubnetFull, 1, Some(family)) => Some(*family),
                _ => None,
            },
            detail: if reason == Reason::NicLimit {
                self.view.no_more_nics.unwrap_or_default().to_owned()
            } else {
                String::new()
            },
        };
        plan.problems.insert(reason, problem);
    }
}
