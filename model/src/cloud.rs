//! The cloud: it carries calls out in any order, and answers arrive in any order or not at all.
//!
//! One thing is taken for granted: an address is not given out while a call that takes it is still on its way. No cloud
//! promises it, and nobody can do without: such a call would take the address from whoever has it by then.

use crate::address::Set;
use crate::state::State;

/// A call, from its making to the arrival of its answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    /// The node for whose NIC it is.
    pub node: usize,
    /// What is asked for.
    pub call: CloudCall,
    /// Which operator waits for the answer; none where that one ended, or where it is a repetition.
    pub waits: Option<usize>,
    /// What the cloud did; `None`: nothing yet.
    pub outcome: Option<Outcome>,
}

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloudCall {
    /// So many addresses more.
    Assign(u8),
    /// These addresses back.
    Unassign(Set),
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// These are the node's now.
    Given(Set),
    /// They are not the node's any more.
    Taken,
    /// There are not so many.
    SubnetFull,
}

/// Carries a call out; `again`: it will be carried out once more, for nobody.
pub fn execute(state: &mut State, index: usize, addresses: u8, again: bool) {
    let request = state.requests.remove(index);
    let outcome = match request.call {
        CloudCall::Assign(count) => assign(state, request.node, count, addresses),
        CloudCall::Unassign(set) => {
            let held = set.common(state.cloud[request.node]);
            let agent = &state.agents[request.node];
            state.taken_without_consent |= held.iter().any(|ip| !agent.agreed_to_give(ip));
            state.cloud[request.node] = state.cloud[request.node].without(held);
            Outcome::Taken
        }
    };
    if again {
        let waits = None;
        state.requests.push(Request {
            waits,
            ..request.clone()
        });
    }
    if request.waits.is_some() {
        let outcome = Some(outcome);
        state.requests.push(Request { outcome, ..request });
    }
}

fn assign(state: &mut State, node: usize, count: u8, addresses: u8) -> Outcome {
    let held = state
        .cloud
        .iter()
        .fold(Set::default(), |all, held| all.and(*held));
    let leaving = state
        .requests
        .iter()
        .filter(|request| request.outcome.is_none());
    let leaving = leaving.fold(Set::default(), |all, request| match request.call {
        CloudCall::Unassign(set) => all.and(set),
        CloudCall::Assign(_) => all,
    });
    let free = Set::first(addresses).without(held).without(leaving);
    if free.len() < count {
        return Outcome::SubnetFull;
    }
    let given: Set = free.iter().take(usize::from(count)).collect();
    state.cloud[node] = state.cloud[node].and(given);
    Outcome::Given(given)
}
