//! The NIC planner of one node: a machine over observations and finished calls.
//!
//! ```text
//!                 missing below low                                     low met without it for `nic_idle`
//!  (none) ──CreateNic──▶ Available ──AttachNic──▶ Attaching ──▶ InUse ──marks──▶ empty ──DetachNic──▶ Available
//!                            │ not needed                        ▲ AssignAddresses                        │
//!                            ▼                                   │ UnassignAddresses                      ▼
//!                        DeleteNic ──▶ (none)                    └──────────                          DeleteNic
//!
//!  an address:  held ──MarkRelease──▶ marked ──agent: ready──▶ doomed ──UnassignAddresses──▶ gone ──`taking_hold`──▶ forgotten
//!                ▲ ▲───Unmark──────────┘ │                       ▲  └─ failed or unknown: asked again until gone  │
//!                └─────Unmark────────────┘ agent: refused        └────────── seen again, and not given anew ──────┘
//! ```
//! Doomed addresses are in the object ([`Planner::taking`]) before the call is made, and are never the node's again: the
//! call of an operator that is no more, or lost its lease, may still come through.
//!
//! Everything is level-triggered: each plan follows from the last observation, the calls under way (taken as done) and a
//! few timers. A lost planner loses only timers. Of each call one is under way at most; one NIC is made at a time; from a NIC
//! that is being given addresses none are taken, so that an answer never tells of an address that has gone since.
//!
//! | timer | means |
//! |---|---|
//! | back-off, by call | a call that failed waits, doubling |
//! | subnet hold | a subnet refused and its free count does not explain why (IPv6 is not counted, so nothing ever does) |
//! | limit hold | the cloud refused a NIC, or an address on a NIC, below the published limit |
//! | refused hold | the node refused to give an address back |
//! | taking hold | an address that was asked for is not seen any more |
//! | idle | since when a NIC was spare without a break |
//! | attach | since when a NIC is being attached, however often that failed: late after a while, given up after three times as long |

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::plan::{self, Plan, View};
use super::shape::{Shape, Underway};
use super::{
    Action, Backoff, Call, Consent, Failure, Input, NicState, Observation, PlannerConfig, Problem,
};
use crate::types::{Family, Millis, Reason};

mod canonical;
#[cfg(test)]
mod partial;
#[cfg(test)]
mod proptests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

/// Failures in a row of one call before it is a problem worth telling; a single one is everyday life.
const TELL_AFTER: u32 = 2;

/// Problems that are over only when the node has what it wants (or when another of them took their place): an attempt
/// under way does not end them.
const LIMITS: [Reason; 3] = [Reason::SubnetFull, Reason::NicLimit, Reason::AddressLimit];

/// The planner of one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Planner {
    node: String,
    config: PlannerConfig,
    observation: Option<Observation>,
    /// Calls under way; those that finished stay until the next observation, which includes what they did.
    underway: BTreeMap<Call, Underwent>,
    /// Addresses once asked to be unassigned, and since when no NIC has shown them.
    doomed: BTreeMap<IpAddr, Option<Millis>>,
    /// Addresses that the cloud gave anew while the object still lists them as doomed.
    regained: BTreeSet<IpAddr>,
    backoffs: BTreeMap<Call, (Backoff, Failure)>,
    subnet_holds: BTreeMap<String, SubnetHold>,
    /// Subnets that refused IPv6 addresses, until when they are left alone.
    holds6: BTreeMap<String, Millis>,
    nic_limit: Option<(Millis, String)>,
    full: BTreeMap<String, (Millis, String)>,
    refused: BTreeMap<IpAddr, Millis>,
    idle: BTreeMap<String, Millis>,
    attaching: BTreeMap<String, Millis>,
    reported: BTreeSet<Reason>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Underwent {
    action: Action,
    /// Where its addresses come from.
    subnet: Option<String>,
    finished: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SubnetHold {
    until: Millis,
    /// IPv4 addresses that it was asked for.
    asked: u32,
    /// A later count was below that: the counts can be trusted, and the hold ends when they rise again.
    explained: bool,
}

impl Planner {
    /// A planner for a node of this name (names of new Eni objects begin with it).
    #[must_use]
    pub fn new(node: &str, config: PlannerConfig) -> Self {
        Self {
            node: node.to_owned(),
            config,
            observation: None,
            underway: BTreeMap::new(),
            doomed: BTreeMap::new(),
            regained: BTreeSet::new(),
            backoffs: BTreeMap::new(),
            subnet_holds: BTreeMap::new(),
            holds6: BTreeMap::new(),
            nic_limit: None,
            full: BTreeMap::new(),
            refused: BTreeMap::new(),
            idle: BTreeMap::new(),
            attaching: BTreeMap::new(),
            reported: BTreeSet::new(),
        }
    }

    /// The machine.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Action> {
        match input {
            Input::Finished(call, outcome) => {
                self.finished(now, &call, outcome);
                Vec::new()
            }
            Input::NotMade(call) => {
                self.not_made(&call);
                Vec::new()
            }
            Input::Given(addresses) => {
                self.doomed.retain(|ip, _| !addresses.contains(ip));
                self.regained.extend(addresses);
                Vec::new()
            }
            Input::Observed(observation) => {
                self.observed(now, &observation);
                self.observation = Some(observation);
                self.plan(now)
            }
            // What a finished call did is not in the old observation.
            Input::Tick if self.underway.values().any(|call| call.finished) => Vec::new(),
            Input::Tick => self.plan(now),
        }
    }

    /// When `Tick` is next needed.
    #[must_use]
    pub fn next_deadline(&self, now: Millis) -> Option<Millis> {
        let backoffs = self.backoffs.values().map(|(backoff, _)| backoff.until());
        let holds = self.subnet_holds.values().map(|hold| hold.until);
        let holds = holds.chain(self.holds6.values().copied());
        let limits = self
            .full
            .values()
            .map(|(until, _)| *until)
            .chain(self.nic_limit.iter().map(|(until, _)| *until));
        let refused = self.refused.values().copied();
        let idle = self
            .idle
            .values()
            .map(|since| *since + self.config.nic_idle);
        let attaching = self.attaching.values().flat_map(|since| {
            [self.config.attach_timeout, self.config.attach_patience()].map(|long| *since + long)
        });
        let gone = self.doomed.values().flatten();
        let gone = gone.map(|since| *since + self.config.taking_hold);
        let all = backoffs
            .chain(gone)
            .chain(holds)
            .chain(limits)
            .chain(refused)
            .chain(idle)
            .chain(attaching);
        all.filter(|at| *at > now).min()
    }

    /// Calls under way.
    #[must_use]
    pub fn calls_underway(&self) -> usize {
        self.underway.values().filter(|call| !call.finished).count()
    }

    /// Addresses that the cloud was, or is about to be, asked to take back. The object must list them before a call is made
    /// that [must be known](Action::must_be_known).
    #[must_use]
    pub fn taking(&self) -> BTreeSet<IpAddr> {
        self.doomed.keys().copied().collect()
    }

    fn not_made(&mut self, call: &Call) {
        let underwent = self.underway.remove(call);
        if let Some(Action::UnassignAddresses { addresses, .. }) = underwent.map(|u| u.action) {
            let taking = self.observation.as_ref().map(|seen| &seen.taking);
            let known = |ip: &IpAddr| taking.is_some_and(|taking| taking.contains(ip));
            self.doomed
                .retain(|ip, _| !addresses.contains(ip) || known(ip));
        }
    }

    fn finished(&mut self, now: Millis, call: &Call, outcome: Result<(), Failure>) {
        let Some(underwent) = self.underway.get_mut(call) else {
            return;
        };
        underwent.finished = true;
        let key = backoff_key(call);
        let Err(failure) = outcome else {
            self.backoffs.remove(&key);
            // One that was given up has as much time again.
            if let Call::Detach { eni } = call
                && let Some(since) = self.attaching.get_mut(eni)
            {
                *since = now;
            }
            return;
        };
        let limit_until = now + self.config.limit_hold;
        match (failure.reason, &underwent.action) {
            (
                Reason::SubnetFull,
                Action::CreateNic {
                    subnet, initial4, ..
                },
            ) => {
                let (subnet, asked) = (subnet.clone(), u32::from(*initial4) + 1);
                self.hold_subnet(now, subnet, asked);
            }
            (Reason::SubnetFull, Action::AssignAddresses { family, count, .. }) => {
                let asked = u32::from(*count);
                match (underwent.subnet.clone(), *family) {
                    (Some(subnet), Family::V4) => self.hold_subnet(now, subnet, asked),
                    (Some(subnet), Family::V6) => {
                        self.holds6.insert(subnet, now + self.config.subnet_hold);
                    }
                    (None, _) => {}
                }
            }
            (Reason::NicLimit, Action::AttachNic { .. } | Action::CreateNic { .. }) => {
                self.nic_limit = Some((limit_until, failure.message));
            }
            (Reason::AddressLimit, Action::AssignAddresses { eni, .. }) => {
                self.full
                    .insert(eni.clone(), (limit_until, failure.message));
            }
            _ => {
                let (backoff, last) = self
                    .backoffs
                    .entry(key)
                    .or_insert_with(|| (Backoff::default(), failure.clone()));
                backoff.fail(now, &self.config.backoff, failure.spread);
                *last = failure;
            }
        }
    }

    fn hold_subnet(&mut self, now: Millis, subnet: String, asked: u32) {
        let until = now + self.config.subnet_hold;
        self.subnet_holds.insert(
            subnet,
            SubnetHold {
                until,
                asked,
                explained: false,
            },
        );
    }

    fn observed(&mut self, now: Millis, observation: &Observation) {
        self.underway.retain(|_, call| !call.finished);
        let present: BTreeSet<IpAddr> = observation
            .nics
            .iter()
            .flat_map(|nic| nic.addresses.iter().copied())
            .collect();
        // What a reading leaves out while the call is under way is not gone yet.
        let asked: BTreeSet<IpAddr> = self
            .underway
            .values()
            .filter_map(|call| match &call.action {
                Action::UnassignAddresses { addresses, .. } => Some(addresses),
                _ => None,
            })
            .flatten()
            .copied()
            .collect();
        self.regained.retain(|ip| observation.taking.contains(ip));
        for ip in observation.taking.difference(&self.regained) {
            self.doomed.entry(*ip).or_default();
        }
        for (ip, since) in &mut self.doomed {
            *since = match *since {
                // An earlier leader may be asking for it at this very moment.
                _ if !observation.signed => None,
                _ if present.contains(ip) || asked.contains(ip) => None,
                None => Some(now),
                known => known,
            };
        }
        for subnet in &observation.subnets {
            let Some(hold) = self.subnet_holds.get_mut(&subnet.id) else {
                continue;
            };
            if subnet.free4 < hold.asked {
                hold.explained = true;
            } else if hold.explained {
                self.subnet_holds.remove(&subnet.id);
            }
        }
        for (ip, answer) in &observation.answers {
            if *answer == Consent::Refused && observation.marked.contains(ip) {
                self.refused.insert(*ip, now + self.config.refused_hold);
            }
        }
        // An attachment that the cloud ended did not come either.
        let has_not_come = |eni: &String| {
            observation
                .nics
                .iter()
                .any(|nic| nic.eni == *eni && nic.state != NicState::InUse)
        };
        self.attaching.retain(|eni, _| has_not_come(eni));
        for nic in observation
            .nics
            .iter()
            .filter(|nic| nic.state == NicState::Attaching)
        {
            self.attaching.entry(nic.eni.clone()).or_insert(now);
        }
    }

    fn expire(&mut self, now: Millis) {
        self.subnet_holds.retain(|_, hold| hold.until > now);
        self.holds6.retain(|_, until| *until > now);
        self.full.retain(|_, (until, _)| *until > now);
        self.refused.retain(|_, until| *until > now);
        self.nic_limit.take_if(|(until, _)| *until <= now);
    }

    fn plan(&mut self, now: Millis) -> Vec<Action> {
        self.expire(now);
        // Only here: the object, which still lists them, is written without them after this plan.
        let hold = self.config.taking_hold;
        self.doomed
            .retain(|_, since| since.is_none_or(|since| since + hold > now));
        let Some(observation) = self.observation.take() else {
            return Vec::new();
        };
        let actions = self.plan_for(now, &observation);
        self.observation = Some(observation);
        actions
    }

    fn plan_for(&mut self, now: Millis, observation: &Observation) -> Vec<Action> {
        let stuck = self.stuck(now);
        let underway = Underway {
            calls: self
                .underway
                .iter()
                .map(|(call, underwent)| (call.clone(), brings(&underwent.action)))
                .collect(),
            doomed: self.taking(),
            stuck,
            full: self.full.keys().cloned().collect(),
        };
        let Some(shape) = Shape::new(observation, &underway) else {
            self.idle.clear();
            return Vec::new();
        };
        let refused: BTreeSet<IpAddr> = self.refused.keys().copied().collect();
        let held: BTreeMap<String, u32> = self
            .subnet_holds
            .iter()
            .map(|(subnet, hold)| (subnet.clone(), hold.asked))
            .collect();
        let held6: BTreeSet<String> = self.holds6.keys().cloned().collect();
        let word = base36(now.0);
        let mut view = View {
            observation,
            underway: &underway,
            held_subnets: &held,
            held6: &held6,
            no_more_nics: self.nic_limit.as_ref().map(|(_, message)| message.as_str()),
            refused: &refused,
            idle: BTreeSet::new(),
            hopeless: self.attaching_for(now, self.config.attach_patience()),
            node: &self.node,
            word: &word,
        };
        let spare = plan::spare(&view, &shape);
        self.idle.retain(|eni, _| spare.contains(eni));
        for eni in spare {
            let since = *self.idle.entry(eni.clone()).or_insert(now);
            if since + self.config.nic_idle <= now {
                view.idle.insert(eni);
            }
        }
        let plan = plan::plan(&view, &shape);
        let (wanted, have) = (shape.low, shape.total(&underway));
        self.carry_out(now, plan, wanted, have, observation)
    }

    /// Drops what is under way or waits, notes the rest as under way, and compares problems with what was reported.
    fn carry_out(
        &mut self,
        now: Millis,
        plan: Plan,
        wanted: u32,
        have: u32,
        observation: &Observation,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut asked = BTreeSet::new();
        for action in plan.calls {
            let Some(call) = action.call() else { continue };
            let key = backoff_key(&call);
            let waits = self
                .backoffs
                .get(&key)
                .is_some_and(|(backoff, _)| backoff.until() > now);
            asked.insert(key);
            if waits || self.underway.contains_key(&call) {
                continue;
            }
            if let Action::UnassignAddresses { addresses, .. } = &action {
                self.doomed.extend(addresses.iter().map(|ip| (*ip, None)));
            }
            self.underway.insert(
                call,
                Underwent {
                    action: action.clone(),
                    subnet: subnet_of(&action, observation),
                    finished: false,
                },
            );
            actions.push(action);
        }
        // What nobody wants to do any more has no failures to tell of.
        let underway = &self.underway;
        self.backoffs.retain(|key, (backoff, _)| {
            asked.contains(key)
                || backoff.until() > now
                || underway.keys().any(|call| backoff_key(call) == *key)
        });
        if !plan.mark.is_empty() {
            actions.push(Action::MarkRelease(plan.mark));
        }
        if !plan.unmark.is_empty() {
            actions.push(Action::Unmark(plan.unmark));
        }
        let mut problems = plan.problems;
        self.add_own_problems(now, (wanted, have, plan.met), observation, &mut problems);
        self.report(problems, plan.met, &mut actions);
        actions
    }

    fn add_own_problems(
        &self,
        now: Millis,
        (wanted, have, met): (u32, u32, bool),
        observation: &Observation,
        problems: &mut BTreeMap<Reason, Problem>,
    ) {
        let problem = |reason, subject: String, limit, detail: &str| Problem {
            reason,
            subject,
            wanted,
            have,
            limit,
            free: Vec::new(),
            family: None,
            detail: detail.to_owned(),
        };
        for (key, (backoff, failure)) in &self.backoffs {
            if backoff.failures() >= TELL_AFTER {
                let subject = format!("{} failed {} times", describe(key), backoff.failures());
                let entry = problems.entry(failure.reason);
                entry.or_insert_with(|| problem(failure.reason, subject, None, &failure.message));
            }
        }
        if let Some((eni, (_, message))) = self.full.first_key_value().filter(|_| !met) {
            let count = observation
                .nics
                .iter()
                .filter(|nic| nic.eni == *eni)
                .map(|nic| nic.addresses.len())
                .next();
            let limit = count.and_then(|count| u32::try_from(count).ok());
            let entry = problems.entry(Reason::AddressLimit);
            entry.or_insert_with(|| problem(Reason::AddressLimit, eni.clone(), limit, message));
        }
        for eni in self.stuck(now) {
            let limit = u32::try_from(self.config.attach_timeout.0 / 1000).ok();
            let entry = problems.entry(Reason::AttachTimeout);
            entry.or_insert_with(|| problem(Reason::AttachTimeout, eni, limit, ""));
        }
    }

    /// NICs whose attaching takes too long.
    fn stuck(&self, now: Millis) -> BTreeSet<String> {
        self.attaching_for(now, self.config.attach_timeout)
    }

    fn attaching_for(&self, now: Millis, long: Millis) -> BTreeSet<String> {
        let late = |since: &Millis| *since + long <= now;
        self.attaching
            .iter()
            .filter(|(_, since)| late(since))
            .map(|(eni, _)| eni.clone())
            .collect()
    }

    fn report(
        &mut self,
        problems: BTreeMap<Reason, Problem>,
        met: bool,
        actions: &mut Vec<Action>,
    ) {
        let replaced = LIMITS.iter().any(|limit| problems.contains_key(limit));
        let lasts = |reason: &Reason| match reason {
            // Given up is not come.
            Reason::AttachTimeout => !met && !self.attaching.is_empty(),
            limit => !met && !replaced && LIMITS.contains(limit),
        };
        let over: Vec<Reason> = self
            .reported
            .iter()
            .filter(|reason| !problems.contains_key(reason) && !lasts(reason))
            .copied()
            .collect();
        for reason in over {
            self.reported.remove(&reason);
            actions.push(Action::ClearReport(reason));
        }
        for (reason, problem) in problems {
            if self.reported.insert(reason) {
                actions.push(Action::Report(problem));
            }
        }
    }
}

/// The subnet out of which a call takes addresses.
fn subnet_of(action: &Action, observation: &Observation) -> Option<String> {
    match action {
        Action::CreateNic { subnet, .. } => Some(subnet.clone()),
        Action::AssignAddresses { eni, .. } => {
            let nic = observation.nics.iter().find(|nic| nic.eni == *eni)?;
            Some(nic.subnet.clone())
        }
        _ => None,
    }
}

/// Addresses that a call brings (IPv4, IPv6).
const fn brings(action: &Action) -> (u16, u16) {
    match action {
        Action::CreateNic {
            initial4, initial6, ..
        } => (*initial4, *initial6),
        Action::AssignAddresses {
            family: Family::V4,
            count,
            ..
        } => (*count, 0),
        Action::AssignAddresses {
            family: Family::V6,
            count,
            ..
        } => (0, *count),
        _ => (0, 0),
    }
}

/// Creations share one back-off: each has a new name.
fn backoff_key(call: &Call) -> Call {
    match call {
        Call::Create { .. } => Call::Create { eni: String::new() },
        other => other.clone(),
    }
}

fn describe(call: &Call) -> String {
    match call {
        Call::Create { .. } => "making a NIC".to_owned(),
        Call::Attach { eni } => format!("attaching {eni}"),
        Call::Assign { eni, family } => format!("assigning {family} addresses to {eni}"),
        Call::Unassign { eni } => format!("unassigning addresses of {eni}"),
        Call::Detach { eni } => format!("detaching {eni}"),
        Call::Delete { eni } => format!("deleting {eni}"),
    }
}

fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u8::try_from(number % 36).unwrap_or(0);
        digits.push(char::from(if digit < 10 {
            b'0' + digit
        } else {
            b'a' + digit - 10
        }));
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().collect()
}
