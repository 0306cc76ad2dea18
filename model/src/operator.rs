//! An operator: one planner a node (the core's), its copies of the objects, and what it believes of the cloud.
//!
//! A look at a node is what `bin/operator/src/node/worker.rs` does in one step: observe, plan, write the spec (only into
//! the very version that was looked at), begin the calls. The copies may be old, which also stands for a pause between
//! looking and writing. Readings of the cloud are judged as in `bin/operator/src/inventory/snapshot.rs`: what grows is
//! believed at once, what shrinks when a second reading says the same.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_core::eni::{
    Action, BackoffConfig, Call, Consent, Failure, Input, NicState, Observation, ObservedNic,
    ObservedSubnet, Ownership, Planner, PlannerConfig, Term, answers_to,
};
use tombolo_core::ipam::Demand;
use tombolo_core::types::{Families, Family, Millis, NicLimits, Reason};

use crate::address::Set;
use crate::agent::nic;
use crate::cloud::{CloudCall, Outcome, Request};
use crate::protocol::Bug;
use crate::state::{Spec, View};

/// The planner's time. [`Operator::later`] makes what is remembered old enough to be over.
const NOW: Millis = Millis(1000);
const CONFIG: PlannerConfig = PlannerConfig {
    backoff: BackoffConfig {
        base: Millis(100),
        max: Millis(100),
    },
    subnet_hold: NOW,
    limit_hold: NOW,
    refused_hold: NOW,
    taking_hold: NOW,
    nic_idle: NOW,
    attach_timeout: NOW,
};
const ENI: &str = "n-0";
const SUBNET: &str = "s";

/// One operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operator {
    /// The core's machines, one a node.
    pub planners: Vec<Planner>,
    /// The objects as this operator sees them, where that is not as they are.
    pub old: Vec<Option<View>>,
    /// Addresses that it believes each NIC has.
    pub seen: Vec<Set>,
    /// Of these, what the last reading lacked.
    pub missing: Vec<Set>,
    /// Its leadership.
    pub term: u8,
}

/// What became of a look.
#[derive(Debug)]
pub struct Looked {
    /// The spec after the write, where there was one.
    pub written: Option<Spec>,
    /// Calls that were made.
    pub calls: Vec<CloudCall>,
    /// A later leader has written: this operator ends.
    pub is_over: bool,
}

impl Operator {
    /// One that starts: it lists all objects and reads the whole cloud.
    #[must_use]
    pub fn new(reading: &[Set], term: u8) -> Self {
        let mut operator = Self {
            planners: reading.iter().map(|_| Planner::new("n", CONFIG)).collect(),
            old: vec![None; reading.len()],
            seen: vec![Set::default(); reading.len()],
            missing: vec![Set::default(); reading.len()],
            term,
        };
        operator.read(reading);
        operator
    }

    /// Takes in a reading of the whole cloud.
    pub fn read(&mut self, reading: &[Set]) {
        for (node, shown) in reading.iter().enumerate() {
            self.read_nic(node, *shown);
        }
    }

    fn read_nic(&mut self, node: usize, shown: Set) {
        let lacking = self.seen[node].without(shown);
        let gone = lacking.common(self.missing[node]);
        self.missing[node] = lacking.without(gone);
        self.seen[node] = self.seen[node].and(shown).without(gone);
    }

    /// Time passes: what was held off may be tried again, what was waited for is over.
    pub fn later(&mut self) {
        for planner in &mut self.planners {
            planner.age(NOW);
            planner.canonicalise(NOW);
        }
    }

    /// The term that it signs with.
    fn own(&self, signed: Term, bug: Option<Bug>) -> Term {
        match bug {
            Some(Bug::TermNotWritten) => signed,
            _ => Term(self.term.into()),
        }
    }

    fn observe(&self, node: usize, copy: &View, addresses: u8, bug: Option<Bug>) -> Observation {
        let signed = Term(copy.spec.term.into());
        let held: u8 = self.seen.iter().map(|seen| seen.len()).sum();
        let status = &copy.status;
        let demand = Demand {
            low: status.demand.0,
            high: status.demand.1,
        };
        let said = |set: Set, answer| set.iter().map(move |a| (a.ip(), answer));
        let ready = said(status.ready, Consent::Ready);
        let all = ready.chain(said(status.refused, Consent::Refused));
        let (spec, about) = (copy.spec.generation.into(), status.about.into());
        let answers = answers_to(Some(spec), about, all);
        let answers = match bug {
            Some(Bug::ConsentIgnored) => said(copy.spec.release, Consent::Ready).collect(),
            _ => answers,
        };
        Observation {
            // One NIC, which carries everything: its own address counts, too.
            limits: NicLimits {
                max_nics: 1,
                ipv4_per_nic: 9,
                ipv6_per_nic: 0,
            },
            families: Families::V4,
            nics: vec![ObservedNic {
                eni: ENI.to_owned(),
                nic: Some(nic()),
                state: NicState::InUse,
                device_index: 0,
                subnet: SUBNET.to_owned(),
                ownership: Ownership::Primary,
                unwanted: false,
                own6: false,
                addresses: self.seen[node].ips(),
            }],
            demand: Some(BTreeMap::from([(Family::V4, demand)])),
            heard: spec == about,
            in_use: status.in_use.ips(),
            releasable: status.releasable.iter().map(|a| a.ip()).collect(),
            marked: copy.spec.release.ips(),
            answers,
            taking: match bug {
                Some(Bug::TakingForgotten) => BTreeSet::new(),
                _ => copy.spec.taking.ips(),
            },
            signed: self.own(signed, bug) == signed,
            subnets: vec![ObservedSubnet {
                id: SUBNET.to_owned(),
                free4: addresses.saturating_sub(held).into(),
                ipv6: false,
                eligible: true,
            }],
        }
    }

    /// Looks at a node, writes its spec and begins calls.
    pub fn look(&mut self, node: usize, now: View, addresses: u8, bug: Option<Bug>) -> Looked {
        let present = now.spec.clone();
        let copy = self.old[node].clone().unwrap_or(now);
        let signed = Term(copy.spec.term.into());
        let own = self.own(signed, bug);
        if own.is_over(signed) {
            return Looked {
                written: None,
                calls: Vec::new(),
                is_over: true,
            };
        }
        let observation = self.observe(node, &copy, addresses, bug);
        let copy = copy.spec;
        let planner = &mut self.planners[node];
        let actions = planner.handle(NOW, Input::Observed(observation));
        let mut release = copy.release.ips();
        for action in &actions {
            action.change_marks(&mut release);
        }
        let mut wanted = Spec {
            generation: copy.generation,
            addresses: self.seen[node],
            release: release.iter().collect::<Set>().common(self.seen[node]),
            taking: match bug {
                Some(Bug::TakingForgotten) => Set::default(),
                _ => planner.taking().iter().collect(),
            },
            term: copy.term,
        };
        let must_write = |action: &Action| own.must_write_before(action, signed);
        let confirm = actions.iter().any(must_write);
        let writes = confirm || wanted != copy;
        let term = own.sign(signed, writes, !wanted.taking.is_empty());
        wanted.term = u8::try_from(term.0).unwrap_or(u8::MAX);
        let is_current = present.generation == copy.generation;
        let may_write = is_current || bug == Some(Bug::SpecWrittenBlindly);
        let stopped = !may_write && (confirm || wanted != copy);
        let mut calls = Vec::new();
        for action in actions {
            let Some(call) = action.call() else { continue };
            if stopped && must_write(&action) {
                planner.handle(NOW, Input::NotMade(call));
                continue;
            }
            match action {
                Action::AssignAddresses { count, .. } => {
                    calls.push(CloudCall::Assign(u8::try_from(count).unwrap_or(u8::MAX)));
                }
                Action::UnassignAddresses { addresses, .. } => {
                    calls.push(CloudCall::Unassign(addresses.iter().collect()));
                }
                other => unreachable!("a node with one NIC needs no {other:?}"),
            }
        }
        planner.canonicalise(NOW);
        let written = (!stopped && wanted != copy).then(|| patched(&present, &copy, &wanted));
        if let (Some(written), Some(old)) = (&written, &mut self.old[node]) {
            old.spec.clone_from(written);
        }
        Looked {
            written,
            calls,
            is_over: false,
        }
    }

    /// The answer to a call arrives.
    pub fn hear(&mut self, request: &Request) {
        let (node, call) = (request.node, call_of(request.call));
        let (given, outcome) = match (request.call, request.outcome) {
            (_, Some(Outcome::Given(given))) => (given, Ok(())),
            (CloudCall::Unassign(taken), _) => {
                self.forget(node, taken);
                (Set::default(), Ok(()))
            }
            (CloudCall::Assign(_), _) => (Set::default(), Err(failure(Reason::SubnetFull))),
        };
        self.seen[node] = self.seen[node].and(given);
        self.missing[node] = self.missing[node].without(given);
        let planner = &mut self.planners[node];
        if !given.is_empty() {
            planner.handle(NOW, Input::Given(given.ips()));
        }
        planner.handle(NOW, Input::Finished(call, outcome));
        planner.canonicalise(NOW);
    }

    /// The answer does not arrive: the NIC is read instead.
    pub fn give_up(&mut self, request: &Request, shown: Set, bug: Option<Bug>) {
        let node = request.node;
        let mut outcome = Err(failure(Reason::CloudError));
        if bug != Some(Bug::OutcomeNotRead) {
            self.read_nic(node, shown);
            if let CloudCall::Unassign(taken) = request.call {
                self.forget(node, taken.without(shown));
                if taken.common(shown).is_empty() {
                    outcome = Ok(());
                }
            }
        }
        let planner = &mut self.planners[node];
        planner.handle(NOW, Input::Finished(call_of(request.call), outcome));
        planner.canonicalise(NOW);
    }

    fn forget(&mut self, node: usize, gone: Set) {
        self.seen[node] = self.seen[node].without(gone);
        self.missing[node] = self.missing[node].without(gone);
    }

    /// Addresses of a node that this operator keeps from it.
    #[must_use]
    pub fn taking(&self, node: usize) -> Set {
        self.planners[node].taking().iter().collect()
    }
}

/// The spec after a merge patch of what changed between the copy and what is wanted.
fn patched(present: &Spec, copy: &Spec, wanted: &Spec) -> Spec {
    let field =
        |present: Set, before: Set, after: Set| if before == after { present } else { after };
    let mut written = Spec {
        generation: present.generation,
        addresses: field(present.addresses, copy.addresses, wanted.addresses),
        release: field(present.release, copy.release, wanted.release),
        taking: field(present.taking, copy.taking, wanted.taking),
        term: if copy.term == wanted.term {
            present.term
        } else {
            wanted.term
        },
    };
    written.generation += u8::from(written != *present);
    written
}

fn call_of(call: CloudCall) -> Call {
    let eni = ENI.to_owned();
    match call {
        CloudCall::Assign(_) => Call::Assign {
            eni,
            family: Family::V4,
        },
        CloudCall::Unassign(_) => Call::Unassign { eni },
    }
}

fn failure(reason: Reason) -> Failure {
    Failure {
        reason,
        message: String::new(),
        spread: 0,
    }
}
