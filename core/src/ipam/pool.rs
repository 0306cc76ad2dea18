//! The node pool machine. Pure: time comes in, actions go out. One per node, owned by the agent.
//!
//! ```text
//!            Supply            Reserve             Release            Removed            cooling over
//!  (absent) ───────▶ Free ───────────────▶ Bound ───────────▶ Draining ───────▶ Cooling ───────────────▶ Free
//!                     │ ▲  Mark (operator)    │ Abort (ADD failed; kernel state gone) ──▶ Cooling
//!                     ▼ │ Unmark
//!                   Yielded ── Supply without it ──▶ (absent)
//! ```
//! A pair of addresses (dual stack) is taken from one NIC where one has both, else from two.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::types::{AttachmentKey, Families, Family, Millis, NicId, Reason};
use crate::datapath::EndpointAddress;

/// How the pool sizes itself. Stateless: the target follows from counts and recent churn alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolConfig {
    /// Families of every pod.
    pub families: Families,
    /// Free addresses to keep at least, a family.
    pub warm_min: u32,
    /// Free addresses to keep at most, a family; more are offered back.
    pub warm_max: u32,
    /// How long an address rests between verified removal and its next use.
    pub cooling: Millis,
    /// Over how long recent reservations count towards the warm target.
    pub churn_window: Millis,
    /// Most pods that this node may hold (the kubelet's maxPods); bounds the demand.
    pub max_pods: u32,
}

/// A NIC's addresses as the operator's object says. The snapshot is whole: what it omits is gone from the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSupply {
    /// The NIC.
    pub nic: NicId,
    /// Whether the kernel shows and we have wired it: only then are its addresses handed out.
    pub usable: bool,
    /// Device index; lower fill first.
    pub device_index: u16,
    /// Its addresses for pods (not the NIC's own).
    pub addresses: Vec<IpAddr>,
}

/// What can happen to the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A new snapshot of the node's addresses. Bound addresses that it omits stay bound and are reported as lost.
    Supply(Vec<NicSupply>),
    /// The operator's whole set of addresses marked for release.
    Marked(BTreeSet<IpAddr>),
    /// An ADD wants addresses. The same key again while bound: the same answer.
    Reserve(AttachmentKey),
    /// The ADD that waits for this key gave up (deadline or disconnect) before it was assigned.
    Cancel(AttachmentKey),
    /// A DEL began: the addresses are no longer the pod's and not yet anyone's.
    Release(AttachmentKey),
    /// Kernel state of this key is verified gone.
    Removed(AttachmentKey),
    /// From the journal at start: this key holds these addresses (whether or not supply knows them yet).
    Restore(AttachmentKey, Vec<EndpointAddress>),
    /// From the journal at start: this address cools until then.
    RestoreCooling(EndpointAddress, Millis),
    /// Time passed.
    Tick,
}

/// What the agent has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer to `Reserve`, at once or later.
    Assign(AttachmentKey, Vec<EndpointAddress>),
    /// `Reserve` waits for supply.
    Wait(AttachmentKey),
    /// `Reserve` cannot be answered now or later (for example the same key is being released).
    Refuse(AttachmentKey, Reason),
    /// An address began to cool: keep it over a restart.
    Cool(EndpointAddress, Millis),
    /// An address finished cooling: forget the note.
    Cooled(IpAddr),
    /// Tell the operator: this node agrees (true) or not (false) to give the marked address back.
    Consent(IpAddr, bool),
    /// A bound address is no longer in the cloud's snapshot.
    Lost(AttachmentKey, IpAddr),
}

/// What the node wants of the operator, a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Addresses the node wants at least, everything included.
    pub low: u32,
    /// Addresses above which it wants to give some back.
    pub high: u32,
}

/// Counts, for status and metrics, a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Counts {
    pub total: u32,
    pub free: u32,
    pub bound: u32,
    pub draining: u32,
    pub cooling: u32,
    pub yielded: u32,
    /// ADDs that wait.
    pub waiting: u32,
}

/// Where one address stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum AddressState {
    Free,
    Bound(AttachmentKey),
    Draining(AttachmentKey),
    Cooling { until: Millis },
    /// Given up: we agreed that the operator may take it.
    Yielded,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(_config: PoolConfig) -> Self {
        todo!()
    }
    /// New settings; takes effect with the next input.
    pub fn configure(&mut self, _config: PoolConfig) {
        todo!()
    }
    /// The machine.
    pub fn handle(&mut self, _now: Millis, _input: Input) -> Vec<Action> {
        todo!()
    }
    /// When `Tick` is next needed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        todo!()
    }
    /// What the node wants now.
    #[must_use]
    pub fn demand(&self, _now: Millis) -> BTreeMap<Family, Demand> {
        todo!()
    }
    /// Free addresses in the order in which the node would give them back: of the emptiest, last NIC first.
    #[must_use]
    pub fn releasable(&self) -> Vec<EndpointAddress> {
        todo!()
    }
    /// Counts by family.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Family, Counts> {
        todo!()
    }
    /// Every address with its NIC and state, for status, metrics and the checker.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<IpAddr, (NicId, AddressState)> {
        todo!()
    }
}
