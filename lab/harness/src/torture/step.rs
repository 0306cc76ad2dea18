//! One step as a value; a scenario file is a list of them. Subjects are numbers, taken modulo what is there when the step
//! runs: every part of a scenario is a scenario.

use serde::{Deserialize, Serialize};
use tombolo_lab_vpc::knobs::Knob;

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "step", deny_unknown_fields)]
pub enum Step {
    /// A pod more, unless the node is full.
    AddPod {
        /// Node.
        node: usize,
    },
    /// A pod less, unless there is none.
    DeletePod {
        /// Which, of all.
        nth: usize,
    },
    /// SIGKILL, and a new one at once.
    KillAgent {
        /// Node.
        node: usize,
    },
    /// SIGTERM, and a new one.
    RestartAgent {
        /// Node.
        node: usize,
    },
    /// SIGSTOP, and SIGCONT with the next step for this agent or the next rest.
    FreezeAgent {
        /// Node.
        node: usize,
    },
    /// SIGKILL, and a new one at once.
    KillOperator,
    /// SIGSTOP until the end. Random scenarios have none: nothing could hold.
    FreezeOperator,
    /// Something of ours in a node's kernel is deleted.
    Flush {
        /// Node.
        node: usize,
        /// What.
        what: Flushed,
    },
    /// The cloud misbehaves until the next rest.
    Cloud {
        /// How.
        knob: Knob,
    },
    /// Time passes, so that what was begun gets somewhere.
    Pass {
        /// Milliseconds.
        ms: u64,
    },
    /// Everybody is well again; all pods run; the invariant holds.
    Rest,
}

/// Kernel state that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flushed {
    /// IPv4 policy rules with our mark.
    Rules4,
    /// IPv6 policy rules with our mark.
    Rules6,
    /// Routes with our mark.
    Routes,
    /// Our nf_tables tables.
    Tables,
    /// Permanent neighbours of pods.
    Neighbours,
}

impl Flushed {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Rules4,
        Self::Rules6,
        Self::Routes,
        Self::Tables,
        Self::Neighbours,
    ];
}
