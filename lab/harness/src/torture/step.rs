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
    /// SIGKILL, and none until the next rest, or the next step that starts one: DELs are left as notes.
    StopAgent {
        /// Node.
        node: usize,
    },
    /// The agent is killed, its journal deleted, and a new one started. The node's pods are deleted afterwards, as an
    /// administrator would: nobody knows any more which address each of them has.
    LoseJournal {
        /// Node.
        node: usize,
    },
    /// Everything that a reboot ends, ends; `/run` is empty, the kernel as it boots, secondary NICs have each other's names.
    Reboot {
        /// Node.
        node: usize,
    },
    /// The API server's objects are kept for a [`Self::RestoreApi`].
    BackupApi,
    /// The API server's objects are those of the last [`Self::BackupApi`] again, pods included; nothing without one.
    RestoreApi,
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
    /// Somebody changes the cloud behind our back. Pods whose addresses are lost by that are deleted at the next rest.
    Meddle {
        /// What.
        what: Meddling,
        /// Which address or NIC, of all that a node has besides its primary ones.
        nth: usize,
        /// For a move: to which NIC, of all.
        to: usize,
    },
    /// One NIC of ours is left out of what the cloud shows.
    HideNic {
        /// Which, of all.
        nth: usize,
        /// In so many replies.
        replies: u32,
    },
    /// Time passes, so that what was begun gets somewhere.
    Pass {
        /// Milliseconds.
        ms: u64,
    },
    /// Everybody is well again; all pods run; the invariant holds.
    Rest,
}

/// What somebody does to the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Meddling {
    /// An address is taken from its NIC.
    TakeAddress,
    /// An address is moved to another NIC.
    MoveAddress,
    /// A NIC is detached by force.
    DetachNic,
    /// A NIC is deleted, detached or not.
    DeleteNic,
}

impl Meddling {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::TakeAddress,
        Self::MoveAddress,
        Self::DetachNic,
        Self::DeleteNic,
    ];
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
    /// All of nf_tables, ours or not.
    Ruleset,
    /// All IPv4 policy rules, the kernel's own too.
    AllRules4,
    /// All IPv6 policy rules, the kernel's own too.
    AllRules6,
}

impl Flushed {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Rules4,
        Self::Rules6,
        Self::AllRules4,
        Self::AllRules6,
        Self::Routes,
        Self::Tables,
        Self::Neighbours,
        Self::Ruleset,
    ];
}
