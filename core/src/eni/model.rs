//! What the planner sees of a node and what it asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{BackoffConfig, Problem};
use crate::ipam::Demand;
use crate::types::{Families, Family, Millis, NicId, NicLimits, Reason};

/// Waiting times of the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlannerConfig {
    /// Back-off of a call that failed.
    pub backoff: BackoffConfig,
    /// How long a subnet that refused is left alone while its free count does not explain the refusal.
    pub subnet_hold: Millis,
    /// How long a limit that the cloud enforced below the published one is taken for real.
    pub limit_hold: Millis,
    /// How long an address whose release the node refused is not asked for again.
    pub refused_hold: Millis,
    /// How long an address that was asked to be unassigned is withheld from the node after it was last seen. No operator
    /// may act on anything that it read longer ago.
    pub taking_hold: Millis,
    /// How long a NIC must have been spare without a break before it is given back.
    pub nic_idle: Millis,
    /// How long attaching may take before it is reported and no longer counted on. After three times as long it is given up:
    /// the NIC is detached.
    pub attach_timeout: Millis,
}

impl PlannerConfig {
    /// How long attaching may take before it is given up.
    #[must_use]
    pub const fn attach_patience(&self) -> Millis {
        Millis(self.attach_timeout.0.saturating_mul(3))
    }
}

impl Default for PlannerConfig {
    fn default() -> Self {
        Self {
            backoff: BackoffConfig {
                base: Millis(1000),
                max: Millis::from_secs(60),
            },
            subnet_hold: Millis::from_secs(120),
            limit_hold: Millis::from_secs(120),
            refused_hold: Millis::from_secs(30),
            taking_hold: Millis::from_secs(180),
            nic_idle: Millis::from_secs(60),
            attach_timeout: Millis::from_secs(60),
        }
    }
}

/// What can happen to the planner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The node as it is now. Must be taken after every [`Input::Finished`] handed in before it, so that what those calls
    /// did is part of it; the planner plans nothing between a finished call and the next observation.
    Observed(Observation),
    /// A call ended. `Err` also where the outcome is unknown (a lost reply).
    Finished(Call, Result<(), Failure>),
    /// A call was not made: the object had to say so first ([`Action::must_be_known`]) and could not be written, or had
    /// changed. The same may be planned again at the next observation.
    NotMade(Call),
    /// The cloud gave the node these addresses just now: whatever was asked before, they are new ones.
    Given(BTreeSet<IpAddr>),
    /// Time passed.
    Tick,
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// The typed reason.
    pub reason: Reason,
    /// The cloud's own words.
    pub message: String,
    /// The caller's random number, 0..=1000: spreads the back-off.
    pub spread: u16,
}

/// A node, its NICs and where new ones could be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// What the instance type can carry.
    pub limits: NicLimits,
    /// Families of every pod.
    pub families: Families,
    /// All NICs: attached ones, ours or not; those made for this node and not attached; those intended and not yet made.
    pub nics: Vec<ObservedNic>,
    /// What the agent wants, by family. `None`: it has not said, so nothing is planned.
    pub demand: Option<BTreeMap<Family, Demand>>,
    /// Whether the agent has seen the present spec, and what it says here is about that one.
    pub heard: bool,
    /// Addresses that the agent calls bound, draining or cooling.
    pub in_use: BTreeSet<IpAddr>,
    /// Free addresses in the order in which the agent would give them back.
    pub releasable: Vec<IpAddr>,
    /// Addresses marked for release at present.
    pub marked: BTreeSet<IpAddr>,
    /// The agent's answers to exactly these marks; an answer to an earlier marking of the same address must not be here.
    pub answers: BTreeMap<IpAddr, Consent>,
    /// Addresses that some operator asked, or was about to ask, the cloud to take back, as the object says.
    pub taking: BTreeSet<IpAddr>,
    /// Whether we wrote the object last ([`Term`](super::Term)): nobody adds to `taking` behind our back.
    pub signed: bool,
    /// Subnets in the node's zone that the profile selects, and those of the NICs.
    pub subnets: Vec<ObservedSubnet>,
}

/// One NIC of the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObservedNic {
    /// Name of its Eni object.
    pub eni: String,
    /// The cloud's name; `None` while it is only intended.
    pub nic: Option<NicId>,
    /// Where it stands.
    pub state: NicState,
    /// Device index on the instance, or the one intended.
    pub device_index: u16,
    /// Its subnet.
    pub subnet: String,
    /// What we may do with it.
    pub ownership: Ownership,
    /// Somebody asked for its removal (the Eni object is being deleted): it gets no further addresses.
    pub unwanted: bool,
    /// Whether it has an IPv6 address of its own, which counts against its limit.
    pub own6: bool,
    /// Addresses for pods, both families.
    pub addresses: BTreeSet<IpAddr>,
}

/// Where a NIC stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NicState {
    /// The Eni object exists, the NIC does not (or nobody knows yet).
    Intended,
    /// Made, attached to nothing.
    Available,
    /// Being attached.
    Attaching,
    /// Attached and usable.
    InUse,
    /// Being detached.
    Detaching,
}

/// What we may do with a NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ownership {
    /// We made it: addresses come and go, and so may it.
    Ours,
    /// The instance's primary NIC: addresses come and go, it stays.
    Primary,
    /// Somebody else attached it: it takes a device index and counts against the limit, and is not touched.
    Foreign,
}

/// A subnet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObservedSubnet {
    /// The cloud's name.
    pub id: String,
    /// Free IPv4 addresses, as last seen.
    pub free4: u32,
    /// Whether it has IPv6 (which is not counted: it does not run out).
    pub ipv6: bool,
    /// Whether the profile wants new NICs here.
    pub eligible: bool,
}

/// The agent's answer to a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Consent {
    /// The node will not hand it out until it is unmarked.
    Ready,
    /// The node needs it.
    Refused,
}

/// What the operator has to do. All but the marks and reports are calls, whose end comes back as [`Input::Finished`] with
/// [`Action::call`]; marks are durable in the object and come back with the next observation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Action {
    /// Intend and make a NIC; it carries these addresses from its birth. The same name again resumes what was intended.
    CreateNic {
        eni: String,
        subnet: String,
        device_index: u16,
        initial4: u16,
        initial6: u16,
    },
    /// Attach a NIC that was made.
    AttachNic {
        eni: String,
        nic: NicId,
        device_index: u16,
    },
    /// Ask for more addresses on a NIC.
    AssignAddresses {
        eni: String,
        nic: NicId,
        family: Family,
        count: u16,
    },
    /// Ask the node for these addresses, besides those already marked.
    MarkRelease(BTreeSet<IpAddr>),
    /// Leave these addresses to the node after all.
    Unmark(BTreeSet<IpAddr>),
    /// The node agreed: take these addresses back.
    UnassignAddresses {
        eni: String,
        nic: NicId,
        addresses: BTreeSet<IpAddr>,
    },
    /// Detach a NIC that is empty, or one whose attaching is given up.
    DetachNic { eni: String, nic: NicId },
    /// Delete a NIC that is attached to nothing, and its object. `None`: it was only intended, so look for it first.
    DeleteNic { eni: String, nic: Option<NicId> },
    /// A problem began.
    Report(Problem),
    /// A problem of this kind is over.
    ClearReport(Reason),
}

/// The identity of a call: one of each may be under way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Call {
    Create { eni: String },
    Attach { eni: String },
    Assign { eni: String, family: Family },
    Unassign { eni: String },
    Detach { eni: String },
    Delete { eni: String },
}

impl Action {
    /// The call that this action is; `None` for marks and reports.
    #[must_use]
    pub fn call(&self) -> Option<Call> {
        Some(match self {
            Self::CreateNic { eni, .. } => Call::Create { eni: eni.clone() },
            Self::AttachNic { eni, .. } => Call::Attach { eni: eni.clone() },
            Self::AssignAddresses { eni, family, .. } => Call::Assign {
                eni: eni.clone(),
                family: *family,
            },
            Self::UnassignAddresses { eni, .. } => Call::Unassign { eni: eni.clone() },
            Self::DetachNic { eni, .. } => Call::Detach { eni: eni.clone() },
            Self::DeleteNic { eni, .. } => Call::Delete { eni: eni.clone() },
            Self::MarkRelease(_) | Self::Unmark(_) | Self::Report(_) | Self::ClearReport(_) => {
                return None;
            }
        })
    }

    /// Whether the object must say what is about to happen before the call is made, in the very version that the plan is
    /// based on: whoever plans next must know that the address or NIC may go at any time.
    #[must_use]
    pub const fn must_be_known(&self) -> bool {
        matches!(
            self,
            Self::UnassignAddresses { .. } | Self::DetachNic { .. }
        )
    }

    /// A word for metrics and logs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::CreateNic { .. } => "create-nic",
            Self::AttachNic { .. } => "attach-nic",
            Self::AssignAddresses { .. } => "assign-addresses",
            Self::MarkRelease(_) => "mark-release",
            Self::Unmark(_) => "unmark",
            Self::UnassignAddresses { .. } => "unassign-addresses",
            Self::DetachNic { .. } => "detach-nic",
            Self::DeleteNic { .. } => "delete-nic",
            Self::Report(_) => "report",
            Self::ClearReport(_) => "clear-report",
        }
    }
}
