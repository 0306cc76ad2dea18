//! Everything at one moment: what the cloud holds, what is on its way, the objects, each operator and each node.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::address::Set;
use crate::agent::Agent;
use crate::cloud::Request;
use crate::operator::Operator;

/// All of it. Parts that change seldom are shared between states.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What the cloud holds on each node's NIC. Everything else is free.
    pub cloud: Vec<Set>,
    /// Calls on their way to the cloud and answers on their way back, in no order.
    pub requests: Vec<Request>,
    /// A reading of the whole cloud that was taken some time ago and has not arrived.
    pub old_reading: Option<Vec<Set>>,
    /// The operator's part of each node's NetResourceSet. The agent's part is what the agent would say: that it lags is the
    /// same as that the operators' copies lag.
    pub specs: Vec<Spec>,
    /// One agent a node, with the pods.
    pub agents: Vec<Arc<Agent>>,
    /// Operators that believe they lead, the earliest first: the last one does.
    pub operators: Vec<Arc<Operator>>,
    /// Faults that may still happen.
    pub left: Faults,
    /// The cloud took an address that the node had not agreed to give.
    pub taken_without_consent: bool,
}

/// How often each fault may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// An agent ends at any of its steps and starts again from its files.
    pub agent_crashes: u8,
    /// The leading operator ends at any of its steps; its calls stay on their way; it starts again with nothing.
    pub operator_crashes: u8,
    /// An operator loses its lease, and another begins; the first goes on until it finds out.
    pub takeovers: u8,
    /// The answer to a call is lost.
    pub lost_replies: u8,
    /// A call is carried out twice, the second time at any time later.
    pub repeated_calls: u8,
    /// An operator's copy of an object stays as it is while the object changes, until it sees the object again.
    pub old_copies: u8,
    /// The cloud is read while calls or answers are on their way.
    pub early_readings: u8,
    /// A reading of the cloud arrives late: what it shows is out of date.
    pub old_readings: u8,
}

/// A NetResourceSet as an operator saw it: what operators wrote, and what the agent said at that time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// The operator's part.
    pub spec: Spec,
    /// The agent's part.
    pub status: Status,
}

/// What the operator wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Counts changes of the spec.
    pub generation: u8,
    /// Addresses of the node's NIC.
    pub addresses: Set,
    /// Addresses wanted back.
    pub release: Set,
    /// Addresses that the cloud is asked to take.
    pub taking: Set,
    /// Under which leadership this was written.
    pub term: u8,
}

/// What the agent wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// The spec that it is about.
    pub about: u8,
    /// Addresses wanted at least and at most.
    pub demand: (u32, u32),
    /// Bound, draining or cooling.
    pub in_use: Set,
    /// Free, in the order in which they would be given back.
    pub releasable: Vec<crate::address::Address>,
    /// Marked addresses that the node agreed to give back.
    pub ready: Set,
    /// Marked addresses that it needs.
    pub refused: Set,
}

/// One line, for ways to a broken invariant.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cloud {:?}", self.cloud)?;
        for request in &self.requests {
            write!(f, " [{}: {:?}", request.node, request.call)?;
            match (&request.outcome, request.waits) {
                (Some(outcome), _) => write!(f, " = {outcome:?}]")?,
                (None, Some(_)) => write!(f, "]")?,
                (None, None) => write!(f, " for nobody]")?,
            }
        }
        if let Some(reading) = &self.old_reading {
            write!(f, " old reading {reading:?}")?;
        }
        for (spec, agent) in self.specs.iter().zip(&self.agents) {
            write!(f, " | {spec}; agent {}", agent.spec.generation)?;
            for pod in &agent.pods {
                match pod.address {
                    Some(address) => write!(f, " {:?} {address:?}", pod.stage)?,
                    None => write!(f, " {:?}", pod.stage)?,
                }
            }
        }
        for operator in &self.operators {
            write!(f, " | operator {} sees {:?}", operator.term, operator.seen)?;
            for (node, old) in operator.old.iter().enumerate() {
                write!(f, " doomed {:?}", operator.taking(node))?;
                if let Some(View { spec, status }) = old {
                    write!(f, " old copy {spec} status {status}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            generation,
            addresses,
            release,
            taking,
            term,
        } = self;
        write!(
            f,
            "g{generation} t{term} {addresses:?} release {release:?} taking {taking:?}"
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            about,
            demand,
            in_use,
            ready,
            refused,
            ..
        } = self;
        write!(
            f,
            "g{about}: wants {demand:?} uses {in_use:?} ready {ready:?} refused {refused:?}"
        )
    }
}

impl State {
    /// A node's object at this moment.
    #[must_use]
    pub fn copy(&self, node: usize) -> View {
        View {
            spec: self.specs[node].clone(),
            status: self.agents[node].status(),
        }
    }

    /// Gives states that behave alike one form: numbers that only grow are numbered anew, and requests are in order.
    pub fn canonicalise(&mut self) {
        self.requests.sort_unstable();
        for node in 0..self.specs.len() {
            self.renumber(node);
        }
        self.renumber_terms();
    }

    fn renumber_terms(&mut self) {
        let mut all = BTreeSet::new();
        all.extend(self.operators.iter().map(|operator| operator.term));
        all.extend(self.specs.iter().map(|spec| spec.term));
        for operator in &self.operators {
            all.extend(operator.old.iter().flatten().map(|copy| copy.spec.term));
        }
        if (0..).zip(&all).all(|(n, term)| n == *term) {
            return;
        }
        let renumber = |term: &mut u8| {
            *term = u8::try_from(all.range(..*term).count()).unwrap_or(u8::MAX);
        };
        for operator in &mut self.operators {
            let operator = Arc::make_mut(operator);
            renumber(&mut operator.term);
            for copy in operator.old.iter_mut().flatten() {
                renumber(&mut copy.spec.term);
            }
        }
        for spec in &mut self.specs {
            renumber(&mut spec.term);
        }
    }

    fn renumber(&mut self, node: usize) {
        let mut all = BTreeSet::from([0, self.specs[node].generation]);
        all.insert(self.agents[node].spec.generation);
        for copy in self
            .operators
            .iter()
            .filter_map(|operator| operator.old[node].as_ref())
        {
            all.extend([copy.spec.generation, copy.status.about]);
        }
        if all
            .iter()
            .enumerate()
            .all(|(n, number)| n == usize::from(*number))
        {
            return;
        }
        let renumber = |number: &mut u8| {
            *number = u8::try_from(all.range(..*number).count()).unwrap_or(u8::MAX);
        };
        renumber(&mut self.specs[node].generation);
        renumber(&mut Arc::make_mut(&mut self.agents[node]).spec.generation);
        for operator in &mut self.operators {
            if let Some(copy) = &mut Arc::make_mut(operator).old[node] {
                renumber(&mut copy.spec.generation);
                renumber(&mut copy.status.about);
            }
        }
    }
}
