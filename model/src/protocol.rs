//! The protocol as a state space: which steps each state allows, what they do, and what must hold.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use stateright::{Model, Property};

use crate::address::Set;
use crate::agent::{Agent, PodStep};
use crate::cloud::{self, CloudCall, Outcome, Request};
use crate::operator::Operator;
use crate::state::{Faults, Spec, State};
use crate::{AGREED, UNIQUE, UNLOST, UNTAKEN, drain};

/// A size of the system, and what may go wrong in it.
#[derive(Debug, Default)]
pub struct Protocol {
    /// Nodes; places for pods on each.
    pub slots: Vec<usize>,
    /// Addresses that the cloud has.
    pub addresses: u8,
    /// Free addresses that a node keeps.
    pub warm: u32,
    /// Addresses rest between two pods.
    pub cooling: bool,
    /// An ADD may give up.
    pub impatient: bool,
    /// Most calls on their way that an operator waits for.
    pub calls: usize,
    /// Faults that may happen.
    pub faults: Faults,
    /// A mistake, to see that it is found.
    pub bug: Option<Bug>,
    /// States from which nothing is lost, as far as known.
    pub drained: Mutex<HashSet<u64>>,
}

/// Seeded mistakes; the tests say by which invariant each is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// An agent starts without reading its journal.
    JournalForgotten,
    /// An operator knows what it asked the cloud to take as long as it lives, and the object does not say so.
    TakingForgotten,
    /// An operator takes what it marked without waiting for the answer.
    ConsentIgnored,
    /// An operator writes the spec whatever version it looked at.
    SpecWrittenBlindly,
    /// An operator makes calls for a node without having written that it leads now.
    TermNotWritten,
    /// An operator neither reads the NIC after a lost reply nor the cloud again.
    OutcomeNotRead,
    /// An agent that starts does not go on with removals that its journal tells of.
    RemovalNotResumed,
}

/// One step of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Something happens to the pod in this slot of this node.
    Pod(usize, usize, PodStep),
    /// All rests of a node end.
    RestsEnd(usize),
    /// A node's agent takes in its object.
    Accept(usize),
    /// … ends, and starts again.
    RestartAgent(usize),
    /// An operator no longer sees a node's object change, and in it what the agent says.
    Lag(usize, usize),
    /// … sees it again.
    Watch(usize, usize),
    /// … looks at a node and acts.
    Look(usize, usize),
    /// … reads the cloud.
    Read(usize),
    /// … is given a reading that is out of date.
    ReadOld(usize),
    /// … finds that time has passed.
    Later(usize),
    /// The leading operator ends, and starts again.
    RestartOperator,
    /// The leading operator loses its lease, and another begins.
    TakeOver,
    /// Somebody reads the cloud, and the answer takes its time.
    BeginReading,
    /// The cloud carries out a call.
    Execute(usize),
    /// … and will do so once more.
    ExecuteTwice(usize),
    /// An answer arrives.
    Reply(usize),
    /// An answer does not arrive.
    LoseReply(usize),
}

impl Protocol {
    /// The only state to begin with: nodes that have just joined, and operators that know them.
    #[must_use]
    pub fn begin(&self) -> State {
        let cloud = vec![Set::default(); self.slots.len()];
        let spec = Spec {
            generation: 1,
            ..Spec::default()
        };
        let specs = vec![spec.clone(); self.slots.len()];
        let whole = self.faults.agent_crashes == 0;
        let agent = |slots: &usize| {
            let mut agent = Agent::new(*slots, self.warm, self.cooling, whole);
            agent.accept(&spec);
            Arc::new(agent)
        };
        let agents: Vec<Arc<Agent>> = self.slots.iter().map(agent).collect();
        let operator = Operator::new(&cloud, 0);
        State {
            operators: vec![Arc::new(operator)],
            left: self.faults,
            requests: Vec::new(),
            old_reading: None,
            taken_without_consent: false,
            specs,
            agents,
            cloud,
        }
    }

    /// Steps that may be taken; some of them change nothing.
    pub fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        let left = state.left;
        for (node, agent) in state.agents.iter().enumerate() {
            for (slot, pod) in agent.pods.iter().enumerate() {
                let may = |step: &&PodStep| self.impatient || **step != PodStep::GiveUp;
                let may = pod.steps().iter().filter(may);
                steps.extend(may.map(|step| Step::Pod(node, slot, *step)));
            }
            if agent.rests() {
                steps.push(Step::RestsEnd(node));
            }
            if agent.spec.generation != state.specs[node].generation {
                steps.push(Step::Accept(node));
            }
            if left.agent_crashes > 0 {
                steps.push(Step::RestartAgent(node));
            }
        }
        for (index, operator) in state.operators.iter().enumerate() {
            for node in 0..state.specs.len() {
                steps.push(Step::Look(index, node));
                match operator.old[node] {
                    Some(_) => steps.push(Step::Watch(index, node)),
                    None if left.old_copies > 0 => steps.push(Step::Lag(index, node)),
                    None => {}
                }
            }
            let may_read = state.requests.is_empty() || left.early_readings > 0;
            if may_read && self.bug != Some(Bug::OutcomeNotRead) {
                steps.push(Step::Read(index));
            }
            if state.old_reading.is_some() {
                steps.push(Step::ReadOld(index));
            }
            if self.may_forget(state, index) {
                steps.push(Step::Later(index));
            }
        }
        if left.operator_crashes > 0 {
            steps.push(Step::RestartOperator);
        }
        if left.takeovers > 0 {
            steps.push(Step::TakeOver);
        }
        if left.old_readings > 0 {
            steps.push(Step::BeginReading);
        }
        for (index, request) in state.requests.iter().enumerate() {
            match request.outcome {
                None => {
                    steps.push(Step::Execute(index));
                    if left.repeated_calls > 0 {
                        steps.push(Step::ExecuteTwice(index));
                    }
                }
                Some(_) => {
                    steps.push(Step::Reply(index));
                    if left.lost_replies > 0 {
                        steps.push(Step::LoseReply(index));
                    }
                }
            }
        }
    }

    /// `taking_hold` is longer than a call takes and than anybody who leads trusts what he read. So it is over for an address
    /// that an operator does not see only when the cloud does not show it, no call that takes it or gave it is on its way, and
    /// neither this operator nor a later one believes that the node still has it.
    fn may_forget(&self, state: &State, index: usize) -> bool {
        (0..state.cloud.len()).all(|node| {
            let operator = &state.operators[index];
            let unseen = operator.taking(node).without(operator.seen[node]);
            let later = &state.operators[index..];
            let believed = later.iter().map(|operator| operator.seen[node]);
            let old = state.old_reading.as_ref().map(|reading| reading[node]);
            let called = state.requests.iter().filter(|request| request.node == node);
            let called = called.filter_map(|request| match (request.call, request.outcome) {
                (CloudCall::Unassign(set), _) => Some(set),
                (CloudCall::Assign(_), Some(Outcome::Given(set))) => Some(set),
                (CloudCall::Assign(_), _) => None,
            });
            let shown = [state.cloud[node]].into_iter();
            let mut may_come = shown.chain(believed).chain(old).chain(called);
            may_come.all(|set| set.common(unseen).is_empty())
        })
    }

    /// Takes a step.
    pub fn take(&self, state: &mut State, step: Step) {
        match step {
            Step::Pod(node, slot, step) => {
                Arc::make_mut(&mut state.agents[node]).step(slot, step);
            }
            Step::RestsEnd(node) => Arc::make_mut(&mut state.agents[node]).rests_end(),
            Step::Accept(node) => {
                let spec = state.specs[node].clone();
                Arc::make_mut(&mut state.agents[node]).accept(&spec);
            }
            Step::RestartAgent(node) => {
                state.left.agent_crashes -= 1;
                Arc::make_mut(&mut state.agents[node]).restart(self.bug);
            }
            Step::Watch(index, node) => {
                Arc::make_mut(&mut state.operators[index]).old[node] = None;
            }
            Step::Lag(index, node) => {
                state.left.old_copies -= 1;
                let copy = state.copy(node);
                Arc::make_mut(&mut state.operators[index]).old[node] = Some(copy);
            }
            Step::Look(index, node) => self.look(state, index, node),
            Step::Read(index) => {
                if !state.requests.is_empty() {
                    state.left.early_readings = state.left.early_readings.saturating_sub(1);
                }
                let operator = Arc::make_mut(&mut state.operators[index]);
                operator.read(&state.cloud);
            }
            Step::ReadOld(index) => {
                if let Some(reading) = state.old_reading.take() {
                    let operator = Arc::make_mut(&mut state.operators[index]);
                    operator.read(&reading);
                }
            }
            Step::Later(index) => Arc::make_mut(&mut state.operators[index]).later(),
            Step::RestartOperator => {
                state.left.operator_crashes -= 1;
                let leads = state.operators.len() - 1;
                begin_to_lead(state);
                retire(state, leads);
            }
            Step::TakeOver => {
                state.left.takeovers -= 1;
                begin_to_lead(state);
            }
            Step::BeginReading => {
                state.left.old_readings -= 1;
                state.old_reading = Some(state.cloud.clone());
            }
            Step::Execute(index) => cloud::execute(state, index, self.addresses, false),
            Step::ExecuteTwice(index) => {
                state.left.repeated_calls -= 1;
                cloud::execute(state, index, self.addresses, true);
            }
            Step::Reply(index) => {
                let request = state.requests.remove(index);
                if let Some(operator) = request.waits {
                    Arc::make_mut(&mut state.operators[operator]).hear(&request);
                }
            }
            Step::LoseReply(index) => {
                state.left.lost_replies -= 1;
                let request = state.requests.remove(index);
                if let Some(operator) = request.waits {
                    let shown = state.cloud[request.node];
                    let operator = Arc::make_mut(&mut state.operators[operator]);
                    operator.give_up(&request, shown, self.bug);
                }
            }
        }
        state.canonicalise();
    }

    fn look(&self, state: &mut State, index: usize, node: usize) {
        let now = state.copy(node);
        let operator = Arc::make_mut(&mut state.operators[index]);
        let looked = operator.look(node, now, self.addresses, self.bug);
        if looked.is_over {
            retire(state, index);
            return;
        }
        if let Some(written) = looked.written {
            state.specs[node] = written;
        }
        let waits = Some(index);
        state
            .requests
            .extend(looked.calls.into_iter().map(|call| Request {
                node,
                call,
                waits,
                outcome: None,
            }));
    }

    fn nothing_is_lost(&self, state: &State) -> bool {
        let mut path = Vec::new();
        let found = drain::drain(self, state.clone(), |state| {
            let word = fingerprint(state);
            let known = self.known().contains(&word);
            path.push(word);
            known
        });
        if found {
            self.known().extend(path);
        }
        found
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.drained.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An operator more, and it leads.
fn begin_to_lead(state: &mut State) {
    let terms = state.operators.iter().map(|operator| operator.term);
    let signed = state.specs.iter().map(|spec| spec.term);
    let term = terms.chain(signed).max().unwrap_or(0) + 1;
    let operator = Operator::new(&state.cloud, term);
    state.operators.push(Arc::new(operator));
}

/// An operator ends. Nobody waits for its calls any more; they are on their way all the same.
pub fn retire(state: &mut State, index: usize) {
    state.operators.remove(index);
    state
        .requests
        .retain(|request| request.waits != Some(index) || request.outcome.is_none());
    for request in &mut state.requests {
        request.waits = match request.waits {
            Some(waits) if waits == index => None,
            Some(waits) if waits > index => Some(waits - 1),
            other => other,
        };
    }
}

fn fingerprint(state: &State) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// Addresses of all pods, with their nodes.
fn held(state: &State) -> impl Iterator<Item = (usize, crate::address::Address)> {
    let of_node = |(node, agent): (usize, &'_ Arc<Agent>)| {
        let pods = agent.pods.iter().filter_map(|pod| pod.holds());
        pods.map(|address| (node, address)).collect::<Vec<_>>()
    };
    state.agents.iter().enumerate().flat_map(of_node)
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        self.steps(state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        self.take(&mut next, step);
        let waited_for = |state: &State| {
            let by = |operator| {
                let its = |request: &&Request| request.waits == Some(operator);
                state.requests.iter().filter(its).count()
            };
            (0..state.operators.len()).map(by).max().unwrap_or(0)
        };
        let crowded = waited_for(&next) > self.calls.max(waited_for(last));
        (next != *last && !crowded).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(UNIQUE, |_, state: &State| {
                let mut seen = Set::default();
                held(state).all(|(_, address)| {
                    let new = !seen.has(address);
                    seen = seen.with(address);
                    new
                })
            }),
            Property::always(UNTAKEN, |_, state: &State| {
                held(state).all(|(node, address)| state.cloud[node].has(address))
            }),
            Property::always(AGREED, |_, state: &State| !state.taken_without_consent),
            Property::always(UNLOST, Self::nothing_is_lost),
        ]
    }
}
