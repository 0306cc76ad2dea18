//! A tiny cloud and a tiny agent for the planner's tests. It panics where the planner breaks a promise: takes an address
//! without consent or in use, exceeds a limit, touches what is not ours, detaches a NIC that has addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Planner;
use crate::eni::{
    Action, BackoffConfig, Call, Consent, Failure, Input, NicState, Observation, ObservedNic,
    ObservedSubnet, Ownership, PlannerConfig, Problem,
};
use crate::ipam::Demand;
use crate::types::{Families, Family, Millis, NicId, NicLimits, Reason};

pub const CONFIG: PlannerConfig = PlannerConfig {
    backoff: BackoffConfig {
        base: Millis(1000),
        max: Millis(8000),
    },
    subnet_hold: Millis(120_000),
    limit_hold: Millis(120_000),
    refused_hold: Millis(30_000),
    taking_hold: Millis(120_000),
    nic_idle: Millis(60_000),
    attach_timeout: Millis(60_000),
};

/// What a call meets next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Refused, nothing done.
    Refuse(Reason),
    /// Done, and the reply is lost.
    LoseReply,
    /// Half of the addresses are given, and the reply says so.
    Half,
}

/// A call under way: issued, then (a creation) intended, then carried out, then ended.
#[derive(Debug)]
pub struct Pending {
    call: Call,
    action: Action,
    intended: bool,
    outcome: Option<Result<(), Failure>>,
}

#[derive(Debug)]
pub struct World {
    pub now: Millis,
    pub limits: NicLimits,
    pub families: Families,
    pub subnets: Vec<ObservedSubnet>,
    pub nics: Vec<ObservedNic>,
    /// Attaching NICs and when they are attached.
    pub arriving: BTreeMap<String, Millis>,
    pub attach_delay: Millis,
    pub warm: (u32, u32),
    /// Pods wanted; those that found a pair are in `bound`.
    pub pods: u32,
    pub bound: Vec<BTreeSet<IpAddr>>,
    pub marked: BTreeSet<IpAddr>,
    pub answers: BTreeMap<IpAddr, Consent>,
    pub faults: Vec<Fault>,
    /// The agent refuses whatever it is asked for.
    pub stubborn: bool,
    /// The agent has seen the present spec.
    pub heard: bool,
    /// Addresses that the cloud's readings leave out.
    pub hidden: BTreeSet<IpAddr>,
    /// They did at some time, so the planner may ask for more than there is room for.
    pub blinded: bool,
    /// Subnets without a free IPv6 address.
    pub full6: BTreeSet<String>,
    pub reports: Vec<Problem>,
    pub cleared: Vec<Reason>,
    pub log: Vec<Action>,
    /// Calls take their time: they go on by [`World::progress`] only.
    pub lag: bool,
    pub pending: Vec<Pending>,
    serial: u32,
}

impl World {
    pub fn new(limits: (u16, u16, u16), families: Families, subnets: &[(&str, u32)]) -> Self {
        let subnets: Vec<ObservedSubnet> = subnets
            .iter()
            .map(|(id, free4)| ObservedSubnet {
                id: (*id).to_owned(),
                free4: *free4,
                ipv6: true,
                eligible: true,
            })
            .collect();
        let mut world = Self {
            now: Millis(1_000_000),
            limits: NicLimits {
                max_nics: limits.0,
                ipv4_per_nic: limits.1,
                ipv6_per_nic: limits.2,
            },
            families,
            subnets,
            nics: Vec::new(),
            arriving: BTreeMap::new(),
            attach_delay: Millis(2000),
            warm: (2, 4),
            pods: 0,
            bound: Vec::new(),
            marked: BTreeSet::new(),
            answers: BTreeMap::new(),
            faults: Vec::new(),
            stubborn: false,
            heard: true,
            hidden: BTreeSet::new(),
            blinded: false,
            full6: BTreeSet::new(),
            reports: Vec::new(),
            cleared: Vec::new(),
            log: Vec::new(),
            lag: false,
            pending: Vec::new(),
            serial: 0,
        };
        world.add_nic("n-0", 0, Ownership::Primary);
        world
    }

    pub fn add_nic(&mut self, eni: &str, device_index: u16, ownership: Ownership) {
        self.nics.push(ObservedNic {
            eni: eni.to_owned(),
            nic: Some(NicId(format!("id-{eni}"))),
            state: NicState::InUse,
            device_index,
            subnet: self.subnets[0].id.clone(),
            ownership,
            unwanted: false,
            own6: ownership == Ownership::Primary,
            addresses: BTreeSet::new(),
        });
    }

    pub fn nic(&self, eni: &str) -> &ObservedNic {
        self.nics
            .iter()
            .find(|nic| nic.eni == eni)
            .unwrap_or_else(|| panic!("no NIC {eni}"))
    }

    fn nic_mut(&mut self, eni: &str) -> &mut ObservedNic {
        self.nics
            .iter_mut()
            .find(|nic| nic.eni == eni)
            .unwrap_or_else(|| panic!("no NIC {eni}"))
    }

    pub fn subnet_mut(&mut self, id: &str) -> &mut ObservedSubnet {
        self.subnets
            .iter_mut()
            .find(|subnet| subnet.id == id)
            .unwrap_or_else(|| panic!("no subnet {id}"))
    }

    pub fn in_use(&self) -> BTreeSet<IpAddr> {
        self.bound.iter().flatten().copied().collect()
    }

    /// Pairs on NICs in use.
    pub fn pairs(&self) -> u32 {
        self.nics
            .iter()
            .filter(|nic| nic.state == NicState::InUse)
            .map(|nic| self.pairs_on(nic))
            .sum()
    }

    pub fn pairs_on(&self, nic: &ObservedNic) -> u32 {
        let count = |family| {
            nic.addresses
                .iter()
                .filter(|ip| Family::of(**ip) == family)
                .count()
        };
        self.families
            .iter()
            .map(|family| u32::try_from(count(family)).unwrap())
            .min()
            .unwrap()
    }

    pub fn low(&self) -> u32 {
        self.pods + self.warm.0
    }

    pub fn high(&self) -> u32 {
        self.pods + self.warm.1
    }

    /// The agent: pods take and leave pairs, and marks are answered.
    pub fn agent(&mut self) {
        self.bound.truncate(self.pods as usize);
        for ip in self.marked.clone() {
            let refuse = self.stubborn || self.in_use().contains(&ip);
            let answer = if refuse {
                Consent::Refused
            } else {
                Consent::Ready
            };
            let given = self.answers.entry(ip).or_insert(answer);
            // `ready` binds; a refusal is thought over.
            if *given == Consent::Refused {
                *given = answer;
            }
        }
        self.answers.retain(|ip, _| self.marked.contains(ip));
        while self.bound.len() < self.pods as usize {
            let Some(pair) = self.free_pair() else { break };
            self.bound.push(pair);
        }
    }

    fn free_pair(&self) -> Option<BTreeSet<IpAddr>> {
        let in_use = self.in_use();
        self.nics
            .iter()
            .filter(|nic| nic.state == NicState::InUse)
            .find_map(|nic| {
                let pick = |family: Family| {
                    let free = |ip: &&IpAddr| {
                        Family::of(**ip) == family
                            && !in_use.contains(*ip)
                            && !self.hidden.contains(*ip)
                            && self.answers.get(*ip) != Some(&Consent::Ready)
                    };
                    nic.addresses.iter().find(free).copied()
                };
                self.families
                    .iter()
                    .map(pick)
                    .collect::<Option<BTreeSet<IpAddr>>>()
            })
    }

    pub fn observe(&mut self) -> Observation {
        self.agent();
        let now = self.now;
        let arrived: Vec<String> = self
            .arriving
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(eni, _)| eni.clone())
            .collect();
        for eni in arrived {
            self.arriving.remove(&eni);
            self.nic_mut(&eni).state = NicState::InUse;
        }
        let in_use = self.in_use();
        let demand = Demand {
            low: self.low(),
            high: self.high(),
        };
        let addresses = self
            .nics
            .iter()
            .rev()
            .filter(|nic| nic.state == NicState::InUse)
            .flat_map(|nic| &nic.addresses);
        let releasable = addresses
            .filter(|ip| !in_use.contains(*ip) && !self.answers.contains_key(*ip))
            .filter(|ip| !self.hidden.contains(*ip))
            .copied()
            .collect();
        let mut nics = self.nics.clone();
        for nic in &mut nics {
            nic.addresses.retain(|ip| !self.hidden.contains(ip));
        }
        Observation {
            limits: self.limits,
            families: self.families,
            nics,
            demand: Some(
                self.families
                    .iter()
                    .map(|family| (family, demand))
                    .collect(),
            ),
            heard: self.heard,
            in_use,
            releasable,
            marked: self.marked.clone(),
            answers: self.answers.clone(),
            taking: BTreeSet::new(),
            signed: true,
            subnets: self.subnets.clone(),
        }
    }

    /// One observation, its plan carried out. Returns whether anything was done.
    pub fn step(&mut self, planner: &mut Planner) -> bool {
        let observation = self.observe();
        let actions = planner.handle(self.now, Input::Observed(observation));
        let mut done = false;
        for action in actions {
            self.log.push(action.clone());
            match action.call() {
                Some(call) => {
                    let intended = !matches!(action, Action::CreateNic { .. });
                    self.assert_seen_empty(&action);
                    self.pending.push(Pending {
                        call,
                        action,
                        intended,
                        outcome: None,
                    });
                    done = true;
                }
                None => done |= self.note(action),
            }
        }
        while !self.lag && self.progress(planner, 0) {}
        done
    }

    /// A NIC that is let go shows no address at the time of the decision; what the readings leave out may be there.
    fn assert_seen_empty(&self, action: &Action) {
        if let Action::DetachNic { eni, .. } = action
            && let nic = self.nic(eni)
            && nic.state == NicState::InUse
        {
            let shown = nic.addresses.iter().any(|ip| !self.hidden.contains(ip));
            assert!(!shown, "{eni} still has addresses");
        }
    }

    /// Lets a call go on by one stage; its end is followed by an observation, as the planner demands. False: there is none.
    pub fn progress(&mut self, planner: &mut Planner, index: usize) -> bool {
        let Some(pending) = self.pending.get_mut(index) else {
            return false;
        };
        if !pending.intended {
            pending.intended = true;
            let action = pending.action.clone();
            self.intend(&action);
        } else if pending.outcome.is_none() {
            let action = pending.action.clone();
            let outcome = self.call(&action);
            self.pending[index].outcome = Some(outcome);
        } else {
            let ended = self.pending.remove(index);
            let outcome = ended.outcome.unwrap_or(Ok(()));
            planner.handle(self.now, Input::Finished(ended.call, outcome));
        }
        true
    }

    fn note(&mut self, action: Action) -> bool {
        match action {
            Action::MarkRelease(addresses) => self.marked.extend(addresses),
            Action::Unmark(addresses) => {
                for ip in addresses {
                    self.marked.remove(&ip);
                    self.answers.remove(&ip);
                }
            }
            Action::Report(problem) => {
                self.reports.push(problem);
                return false;
            }
            Action::ClearReport(reason) => {
                self.cleared.push(reason);
                return false;
            }
            _ => panic!("not a note: {action:?}"),
        }
        true
    }

    /// Steps, then lets time pass to the next timer, until nothing happens for ten minutes. Returns the steps.
    pub fn settle(&mut self, planner: &mut Planner) -> usize {
        self.lag = false;
        while self.progress(planner, 0) {}
        let mut quiet_since = self.now;
        for steps in 0..5000 {
            if self.step(planner) {
                quiet_since = self.now;
                continue;
            }
            if self.now.0 - quiet_since.0 > 600_000 {
                return steps;
            }
            let timer = planner.next_deadline(self.now);
            let arrival = self.arriving.values().min().copied();
            let next = timer
                .into_iter()
                .chain(arrival)
                .min()
                .unwrap_or(self.now + Millis(60_000));
            self.now = next.max(self.now + Millis(1));
        }
        panic!(
            "no fixed point; last actions: {:#?}",
            &self.log[self.log.len().saturating_sub(12)..]
        );
    }

    pub fn call(&mut self, action: &Action) -> Result<(), Failure> {
        let fault = self.faults.pop();
        if let Some(Fault::Refuse(reason)) = fault {
            // An intention outlives a failed creation.
            if let Action::CreateNic { .. } = action {
                self.intend(action);
            }
            return Err(failure(reason));
        }
        let halved = match action {
            Action::AssignAddresses {
                eni,
                nic,
                family,
                count,
            } if fault == Some(Fault::Half) => Some(Action::AssignAddresses {
                eni: eni.clone(),
                nic: nic.clone(),
                family: *family,
                count: count / 2,
            }),
            _ => None,
        };
        let result = self.perform(halved.as_ref().unwrap_or(action));
        if fault == Some(Fault::LoseReply) {
            Err(failure(Reason::CloudError))
        } else {
            result
        }
    }

    fn intend(&mut self, action: &Action) {
        let Action::CreateNic {
            eni,
            subnet,
            device_index,
            ..
        } = action
        else {
            panic!("{action:?}")
        };
        if self.nics.iter().any(|nic| nic.eni == *eni) {
            return;
        }
        self.nics.push(ObservedNic {
            eni: eni.clone(),
            nic: None,
            state: NicState::Intended,
            device_index: *device_index,
            subnet: subnet.clone(),
            ownership: Ownership::Ours,
            unwanted: false,
            own6: false,
            addresses: BTreeSet::new(),
        });
    }

    fn give(&mut self, eni: &str, family: Family, count: u16) {
        for _ in 0..count {
            self.serial += 1;
            let ip = match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + self.serial)),
                Family::V6 => IpAddr::V6(Ipv6Addr::from(
                    0x2001_0db8_u128 << 96 | u128::from(self.serial),
                )),
            };
            self.nic_mut(eni).addresses.insert(ip);
        }
    }

    /// The planner cannot know of what it is not shown; the cloud does.
    fn would_exceed(&self, eni: &str, family: Family, more: u16) -> bool {
        let nic = self.nic(eni);
        let own = family == Family::V4 || nic.own6;
        let of_family = nic.addresses.iter().filter(|ip| Family::of(**ip) == family);
        let limit = match family {
            Family::V4 => self.limits.ipv4_per_nic,
            Family::V6 => self.limits.ipv6_per_nic,
        };
        of_family.count() + usize::from(own) + usize::from(more) > usize::from(limit)
    }

    fn assert_limits(&self, eni: &str) {
        let nic = self.nic(eni);
        let count = |family| {
            nic.addresses
                .iter()
                .filter(|ip| Family::of(**ip) == family)
                .count()
        };
        assert!(
            count(Family::V4) < usize::from(self.limits.ipv4_per_nic),
            "{eni} has too many IPv4 addresses"
        );
        let own6 = usize::from(nic.own6);
        assert!(
            count(Family::V6) + own6 <= usize::from(self.limits.ipv6_per_nic),
            "{eni} has too many IPv6 addresses"
        );
    }

    fn perform(&mut self, action: &Action) -> Result<(), Failure> {
        match action {
            Action::CreateNic {
                eni,
                subnet,
                initial4,
                initial6,
                ..
            } => {
                assert!(
                    self.nics.len() <= usize::from(self.limits.max_nics),
                    "too many NICs"
                );
                let intended = self.nics.iter().any(|nic| nic.eni == *eni);
                assert!(intended, "{eni} was deleted while it was being made");
                let need = u32::from(*initial4) + 1;
                if *initial6 > 0 && self.full6.contains(subnet) {
                    return Err(failure(Reason::SubnetFull));
                }
                if self.subnet_mut(subnet).free4 < need {
                    return Err(failure(Reason::SubnetFull));
                }
                self.subnet_mut(subnet).free4 -= need;
                let nic = self.nic_mut(eni);
                assert_eq!(nic.state, NicState::Intended);
                (nic.nic, nic.state) = (Some(NicId(format!("id-{eni}"))), NicState::Available);
                self.give(eni, Family::V4, *initial4);
                self.give(eni, Family::V6, *initial6);
                self.assert_limits(eni);
            }
            Action::AttachNic {
                eni, device_index, ..
            } => {
                let attached = |nic: &&ObservedNic| {
                    !matches!(nic.state, NicState::Intended | NicState::Available)
                };
                assert!(
                    self.nics.iter().filter(attached).count() < usize::from(self.limits.max_nics)
                );
                let taken = self
                    .nics
                    .iter()
                    .filter(attached)
                    .any(|nic| nic.device_index == *device_index);
                assert!(!taken, "device index {device_index} is taken");
                let at = self.now + self.attach_delay;
                let nic = self.nic_mut(eni);
                assert_eq!(nic.state, NicState::Available);
                (nic.state, nic.device_index) = (NicState::Attaching, *device_index);
                self.arriving.insert(eni.clone(), at);
            }
            Action::AssignAddresses {
                eni, family, count, ..
            } => {
                assert_ne!(self.nic(eni).ownership, Ownership::Foreign);
                assert_eq!(self.nic(eni).state, NicState::InUse);
                if self.blinded && self.would_exceed(eni, *family, *count) {
                    return Err(failure(Reason::AddressLimit));
                }
                if *family == Family::V4 {
                    let subnet = self.nic(eni).subnet.clone();
                    let subnet = self.subnet_mut(&subnet);
                    if subnet.free4 < u32::from(*count) {
                        return Err(failure(Reason::SubnetFull));
                    }
                    subnet.free4 -= u32::from(*count);
                } else if self.full6.contains(&self.nic(eni).subnet) {
                    return Err(failure(Reason::SubnetFull));
                }
                self.give(eni, *family, *count);
                self.assert_limits(eni);
            }
            Action::UnassignAddresses { eni, addresses, .. } => {
                assert_ne!(self.nic(eni).ownership, Ownership::Foreign);
                for ip in addresses {
                    assert_eq!(
                        self.answers.get(ip),
                        Some(&Consent::Ready),
                        "{ip} was taken without consent"
                    );
                    assert!(!self.in_use().contains(ip), "{ip} was taken from a pod");
                    let nic = self.nic_mut(eni);
                    assert!(nic.addresses.remove(ip), "{ip} is not on {eni}");
                    if ip.is_ipv4() {
                        let subnet = nic.subnet.clone();
                        self.subnet_mut(&subnet).free4 += 1;
                    }
                }
                let nics = &self.nics;
                self.marked
                    .retain(|ip| nics.iter().any(|nic| nic.addresses.contains(ip)));
            }
            Action::DetachNic { eni, .. } => {
                let in_use = self.in_use();
                let nic = self.nic_mut(eni);
                assert_eq!(nic.ownership, Ownership::Ours, "{eni} is not ours");
                if nic.state == NicState::InUse {
                    let used = nic.addresses.iter().find(|ip| in_use.contains(*ip));
                    assert_eq!(used, None, "{eni} was taken from a pod");
                } else {
                    assert_eq!(nic.state, NicState::Attaching);
                }
                nic.state = NicState::Available;
                self.arriving.remove(eni);
            }
            Action::DeleteNic { eni, .. } => {
                let nic = self.nic(eni).clone();
                assert_eq!(nic.ownership, Ownership::Ours, "{eni} is not ours");
                assert!(
                    matches!(nic.state, NicState::Available | NicState::Intended),
                    "{eni} is attached"
                );
                let v4 = nic.addresses.iter().filter(|ip| ip.is_ipv4()).count();
                let own = u32::from(nic.nic.is_some());
                self.subnet_mut(&nic.subnet).free4 += u32::try_from(v4).unwrap() + own;
                self.nics.retain(|nic| nic.eni != *eni);
            }
            _ => panic!("not a call: {action:?}"),
        }
        Ok(())
    }
}

pub fn failure(reason: Reason) -> Failure {
    Failure {
        reason,
        message: format!("injected {reason}"),
        spread: 500,
    }
}

pub fn planner() -> Planner {
    Planner::new("n", CONFIG)
}

/// Words of the calls made since the last look.
pub fn words(world: &mut World) -> Vec<String> {
    let log = std::mem::take(&mut world.log);
    log.iter()
        .filter(|action| action.call().is_some())
        .map(|action| action.word().to_owned())
        .collect()
}

/// A call that is under way and has no outcome yet.
pub fn only_call(actions: &[Action]) -> Call {
    let calls: Vec<Call> = actions.iter().filter_map(Action::call).collect();
    assert_eq!(calls.len(), 1, "{actions:?}");
    calls[0].clone()
}
