//! The sizes that are explored, and the exploration.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model};

use crate::protocol::{Bug, Protocol, Step};
use crate::state::{Faults, State};
use crate::{UNLOST, drain};

/// A named size.
#[derive(Clone, Debug)]
pub struct Size {
    /// What it is about.
    pub name: &'static str,
    /// Places for pods, a node.
    pub slots: &'static [usize],
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
    /// What may go wrong.
    pub faults: Faults,
}

/// No faults.
pub const NONE: Faults = Faults {
    agent_crashes: 0,
    operator_crashes: 0,
    takeovers: 0,
    lost_replies: 0,
    repeated_calls: 0,
    old_copies: 0,
    early_readings: 0,
    old_readings: 0,
};

/// What an exploration came to.
#[derive(Debug)]
pub struct Outcome {
    /// The size.
    pub name: &'static str,
    /// Different states.
    pub states: usize,
    /// Steps taken from them.
    pub steps: usize,
    /// Steps to the state that is farthest.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Invariants that do not hold, each with a shortest way to where it does not.
    pub broken: Vec<(&'static str, String)>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            states,
            steps,
            depth,
            took,
            broken,
        } = self;
        write!(
            f,
            "model: {name}: {states} states, {steps} steps, {depth} deep, {:.1} s, {} invariants broken",
            took.as_secs_f32(),
            broken.len()
        )
    }
}

impl Size {
    /// Visits every state that can be reached; with a mistake, until `until` is found to be broken.
    #[must_use]
    pub fn explore(&self, bug: Option<(Bug, &'static str)>) -> Outcome {
        let begun = Instant::now();
        let protocol = Protocol {
            slots: self.slots.to_vec(),
            addresses: self.addresses,
            warm: self.warm,
            cooling: self.cooling,
            impatient: self.impatient,
            calls: self.calls,
            faults: self.faults,
            bug: bug.map(|(bug, _)| bug),
            ..Protocol::default()
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let checker = protocol.checker().threads(threads);
        let checker = match bug {
            Some((_, until)) => checker.finish_when(HasDiscoveries::AllOf([until].into())),
            None => checker.finish_when(HasDiscoveries::AnyFailures),
        };
        let checker = checker.spawn_bfs().join();
        let way = |name, path: stateright::Path<State, Step>| {
            let last = path.last_state().clone();
            let mut way = String::new();
            let mut taken = String::from("begin");
            for (state, step) in path.into_vec() {
                way.push_str(&format!("{taken:<24} {state}\n"));
                taken = step.map(|step| format!("{step:?}")).unwrap_or_default();
            }
            if name == UNLOST {
                way.push_str("drained:\n");
                way.push_str(&drain::tell(checker.model(), &last));
            }
            way
        };
        let broken = checker
            .discoveries()
            .into_iter()
            .map(|(name, path)| (name, way(name, path)));
        Outcome {
            name: self.name,
            states: checker.unique_state_count(),
            steps: checker.state_count(),
            depth: checker.max_depth(),
            took: begun.elapsed(),
            broken: broken.collect(),
        }
    }
}

/// One node, one place for a pod, two addresses of which the node keeps none to spare: every pod needs the operator.
const ONE: Size = Size {
    name: "",
    slots: &[1],
    addresses: 2,
    warm: 0,
    cooling: false,
    impatient: false,
    calls: 1,
    faults: NONE,
};

/// The sizes of every test run.
pub const SMALL: &[Size] = &[
    Size {
        name: "two nodes and three addresses",
        slots: &[1, 1],
        addresses: 3,
        ..ONE
    },
    Size {
        name: "several calls at once, ADDs that give up",
        calls: 2,
        impatient: true,
        faults: Faults {
            early_readings: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "an agent ends",
        slots: &[2],
        cooling: true,
        faults: Faults {
            agent_crashes: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "an operator ends",
        faults: Faults {
            operator_crashes: 1,
            old_copies: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "an operator ends, two nodes want one address",
        slots: &[1, 1],
        addresses: 1,
        faults: Faults {
            operator_crashes: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "two operators at once",
        faults: Faults {
            takeovers: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "two operators at once, a copy is old",
        addresses: 1,
        faults: Faults {
            takeovers: 1,
            old_copies: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "answers are lost, calls repeated",
        faults: Faults {
            lost_replies: 1,
            repeated_calls: 1,
            early_readings: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "an operator's copy is old, calls are repeated",
        faults: Faults {
            repeated_calls: 1,
            old_copies: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "an operator ends, and the next reads what is out of date",
        faults: Faults {
            operator_crashes: 1,
            old_readings: 1,
            ..NONE
        },
        ..ONE
    },
];

/// Sizes for which nobody waits.
pub const LARGE: &[Size] = &[
    Size {
        name: "an agent and an operator end, an answer is lost",
        cooling: true,
        faults: Faults {
            agent_crashes: 1,
            operator_crashes: 1,
            lost_replies: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "two operators at once, and a third",
        faults: Faults {
            operator_crashes: 1,
            takeovers: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "two operators at once, and a third, a call is repeated",
        faults: Faults {
            operator_crashes: 1,
            takeovers: 1,
            repeated_calls: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "three operators at once",
        addresses: 1,
        faults: Faults {
            takeovers: 2,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "two operators at once, a copy is old, two addresses",
        faults: Faults {
            takeovers: 1,
            old_copies: 1,
            ..NONE
        },
        ..ONE
    },
    Size {
        name: "two operators at once, two nodes want one address",
        slots: &[1, 1],
        addresses: 1,
        faults: Faults {
            takeovers: 1,
            ..NONE
        },
        ..ONE
    },
];
