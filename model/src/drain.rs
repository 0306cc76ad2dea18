//! What becomes of a state when nothing goes wrong any more: messages arrive, pods end, time passes, one operator is left.
//! This is how "none is lost for ever" is asked of every single state: an `eventually` over paths would have to assume
//! fairness, this is one fair path.
//!
//! The next step follows from the state alone, so that ways that meet go on together, and are followed to their end once.

use tombolo_core::ipam::AddressState;

use crate::address::Set;
use crate::agent::PodStep;
use crate::protocol::{Bug, Protocol, Step, retire};
use crate::state::State;

/// Steps after which nothing can be expected any more. Far more than the longest way has.
const STEPS: usize = 300;

/// Whether every address ends up free, in the cloud or in the pool of its node. `known`: states of which this is known.
pub fn drain(protocol: &Protocol, mut state: State, mut known: impl FnMut(&State) -> bool) -> bool {
    while state.operators.len() > 1 {
        retire(&mut state, 0);
    }
    state.old_reading = None;
    state.left = crate::size::NONE;
    for _ in 0..STEPS {
        if known(&state) {
            return true;
        }
        match next(protocol, &state) {
            Some(later) => state = later,
            None => return is_clean(&state),
        }
    }
    false
}

/// The state after the first step that changes anything.
fn next(protocol: &Protocol, state: &State) -> Option<State> {
    steps(protocol, state).into_iter().find_map(|step| {
        let mut later = state.clone();
        protocol.take(&mut later, step);
        (later != *state).then_some(later)
    })
}

/// What may be next, the most urgent first.
fn steps(protocol: &Protocol, state: &State) -> Vec<Step> {
    if let Some(request) = state.requests.first() {
        return vec![match request.outcome {
            None => Step::Execute(0),
            Some(_) => Step::Reply(0),
        }];
    }
    let mut steps = Vec::new();
    for (node, agent) in state.agents.iter().enumerate() {
        for (slot, pod) in agent.pods.iter().enumerate() {
            let end = pod.steps().iter().find(|step| **step != PodStep::Ask);
            steps.extend(end.map(|step| Step::Pod(node, slot, *step)));
        }
        if agent.rests() {
            steps.push(Step::RestsEnd(node));
        }
        if agent.spec.generation != state.specs[node].generation {
            steps.push(Step::Accept(node));
        }
        if state.operators[0].old[node].is_some() {
            steps.push(Step::Watch(0, node));
        }
    }
    let operator = &state.operators[0];
    let believed =
        operator.seen == state.cloud && operator.missing.iter().all(|set| set.is_empty());
    if !believed && protocol.bug != Some(Bug::OutcomeNotRead) {
        steps.push(Step::Read(0));
    }
    steps.extend((0..state.specs.len()).map(|node| Step::Look(0, node)));
    steps.push(Step::Later(0));
    steps
}

fn is_clean(state: &State) -> bool {
    let idle = state.requests.is_empty();
    idle && state.agents.iter().enumerate().all(|(node, agent)| {
        let free = |(_, state): &(_, AddressState)| matches!(state, AddressState::Free);
        let addresses = agent.pool.addresses();
        let pool: Set = addresses.keys().collect();
        let spec = &state.specs[node];
        agent.pods.iter().all(|pod| pod.address.is_none())
            && addresses.values().all(free)
            && pool == state.cloud[node]
            && spec.addresses == pool
            && spec.release.is_empty()
            && spec.taking.is_empty()
    })
}

/// The last steps of a drain, for messages.
#[must_use]
pub fn tell(protocol: &Protocol, state: &State) -> String {
    let mut told = String::new();
    drain(protocol, state.clone(), |state| {
        told.push_str(&format!("{state}\n"));
        false
    });
    told
}
