//! The node pool machine: vocabulary and state. Pure: time comes in, actions go out. One per node, owned by the agent.
//!
//! ```text
//!            Supply            Reserve             Release            Removed            cooling over
//!  (absent) ───────▶ Free ───────────────▶ Bound ───────────▶ Draining ───────▶ Cooling ───────────────▶ Free
//!                    ▲ │ ▲                    │                                                   or (absent), if the
//!                    │ │ └──── Abandon ───────┘  (nothing was wired)                              cloud took it away
//!  unmarked, and in  │ │ Mark (operator)
//!  the next Supply   │ ▼
//!                   Yielded ── Supply without it ──▶ (absent)
//! ```
//! - A pair of addresses (dual stack) is taken from one NIC where one has both, else from two; lowest device index first,
//!   and of a NIC the address that has been free longest.
//! - Cooling addresses are not free. One that the cloud takes away keeps its rest, so that it does not come back early.
//! - A marked address is never `Free`: where it would become free it becomes `Yielded`, and the operator is told.
//! - ADDs that find nothing wait in order of arrival.
//! - The marks of an object go in before its supply ([`Input::of_specification`]). One that is no longer marked is free only
//!   when that supply still has it: it may have lost its mark because the cloud took it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::datapath::EndpointAddress;
use crate::types::{AttachmentKey, Families, Family, Millis, NicId, Reason};

/// How the pool sizes itself. Stateless: the target follows from counts and recent churn alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PoolConfig {
    /// Families of every pod.
    pub families: Families,
    /// Free addresses to keep at least, a family.
    pub warm_min: u32,
    /// Free addresses to keep at most, a family; more are offered back. Below `warm_min` it counts as `warm_min`.
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
    /// The operator's whole set of addresses marked for release. What it no longer has is given back to the node by the
    /// next `Supply`.
    Marked(BTreeSet<IpAddr>),
    /// An ADD wants addresses. The same key again while bound: the same answer.
    Reserve(AttachmentKey),
    /// The ADD that waits for this key gave up (deadline or disconnect) before it was assigned.
    Cancel(AttachmentKey),
    /// The ADD gave up after it was assigned and before it touched the kernel: the addresses were never used, so they
    /// need no rest.
    Abandon(AttachmentKey),
    /// A DEL began (or a failed ADD is being undone): the addresses are no longer the pod's and not yet anyone's.
    Release(AttachmentKey),
    /// Kernel state of this released key is verified gone.
    Removed(AttachmentKey),
    /// From the journal at start: this key holds these addresses (whether or not supply knows them yet).
    Restore(AttachmentKey, Vec<EndpointAddress>),
    /// From the journal at start: this address cools until then.
    RestoreCooling(EndpointAddress, Millis),
    /// Time passed.
    Tick,
}

impl Input {
    /// The operator's object as inputs, in the order in which they must be handed in: no waiting ADD may get an address
    /// that is already marked.
    #[must_use]
    pub fn of_specification(release: BTreeSet<IpAddr>, supply: Vec<NicSupply>) -> [Self; 2] {
        [Self::Marked(release), Self::Supply(supply)]
    }
}

/// What the agent has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer to `Reserve`, at once or later; IPv4 first.
    Assign(AttachmentKey, Vec<EndpointAddress>),
    /// `Reserve` waits for supply.
    Wait(AttachmentKey),
    /// `Reserve` or `Restore` has no answer. [`Reason::Superseded`]: the key is being released (one key is one caller's at
    /// a time, so the caller waits for the removal and asks again), or a release overtook the ADD that waited.
    /// [`Reason::JournalError`]: another key holds one of the addresses to restore.
    Refuse(AttachmentKey, Reason),
    /// An address began to cool: keep it over a restart.
    Cool(EndpointAddress, Millis),
    /// An address finished cooling: forget the note.
    Cooled(IpAddr),
    /// Tell the operator: this node agrees (true) or not (false) to give the marked address back.
    Consent(IpAddr, bool),
    /// A bound address is no longer in the cloud's snapshot. Told once.
    Lost(AttachmentKey, IpAddr),
}

/// What the node wants of the operator, a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Demand {
    /// Addresses the node wants at least, everything included.
    pub low: u32,
    /// Addresses above which it wants to give some back.
    pub high: u32,
}

/// Counts, for status and metrics, a family. Addresses that are held but no longer in the cloud count too.
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
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum AddressState {
    Free,
    Bound(AttachmentKey),
    Draining(AttachmentKey),
    Cooling {
        until: Millis,
    },
    /// Given up: we agreed that the operator may take it.
    Yielded,
}

/// The pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    pub(super) config: PoolConfig,
    /// The last snapshot: which NIC has which address.
    pub(super) supply: BTreeMap<IpAddr, NicId>,
    pub(super) nics: BTreeMap<NicId, NicInfo>,
    pub(super) slots: BTreeMap<IpAddr, Slot>,
    pub(super) holders: BTreeMap<AttachmentKey, Holder>,
    pub(super) marked: BTreeSet<IpAddr>,
    pub(super) waiting: VecDeque<AttachmentKey>,
    /// Times of recent reservations, oldest first; never more than the warm target can use.
    pub(super) recent: VecDeque<Millis>,
    /// Counts events of becoming free: gives the order in which addresses are used.
    pub(super) sequence: u64,
}

/// A NIC of the last snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct NicInfo {
    pub(super) usable: bool,
    pub(super) device_index: u16,
}

/// An address that we know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) nic: NicId,
    pub(super) state: AddressState,
    /// Place in the queue of free addresses.
    pub(super) free_since: u64,
    /// Its loss was told.
    pub(super) lost: bool,
}

/// Who holds addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Holder {
    pub(super) addresses: Vec<EndpointAddress>,
    pub(super) draining: bool,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self {
            config,
            supply: BTreeMap::new(),
            nics: BTreeMap::new(),
            slots: BTreeMap::new(),
            holders: BTreeMap::new(),
            marked: BTreeSet::new(),
            waiting: VecDeque::new(),
            recent: VecDeque::new(),
            sequence: 0,
        }
    }

    /// New settings; takes effect with the next input.
    pub fn configure(&mut self, config: PoolConfig) {
        self.config = config;
    }

    /// The settings in force.
    #[must_use]
    pub const fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Addresses of a key that is bound (not draining), IPv4 first.
    #[must_use]
    pub fn bound(&self, key: &AttachmentKey) -> Option<&[EndpointAddress]> {
        self.holders
            .get(key)
            .filter(|h| !h.draining)
            .map(|h| h.addresses.as_slice())
    }

    /// Every address with its NIC and state, for status, metrics and the checker.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<IpAddr, (NicId, AddressState)> {
        self.slots
            .iter()
            .map(|(ip, slot)| (*ip, (slot.nic.clone(), slot.state.clone())))
            .collect()
    }

    /// The answer to each marked address: whether the operator may take it.
    #[must_use]
    pub fn consents(&self) -> BTreeMap<IpAddr, bool> {
        self.marked
            .iter()
            .map(|ip| (*ip, self.consents_to(ip)))
            .collect()
    }

    /// An address that we hold in no way is the operator's to take.
    pub(super) fn consents_to(&self, ip: &IpAddr) -> bool {
        self.slots
            .get(ip)
            .is_none_or(|slot| matches!(slot.state, AddressState::Yielded))
    }

    /// Counts by family.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Family, Counts> {
        let mut counts: BTreeMap<Family, Counts> = Family::ALL
            .into_iter()
            .map(|family| (family, Counts::default()))
            .collect();
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        for (family, count) in &mut counts {
            if self.config.families.contains(*family) {
                count.waiting = waiting;
            }
        }
        for (ip, slot) in &self.slots {
            let count = counts.entry(Family::of(*ip)).or_default();
            count.total += 1;
            match slot.state {
                AddressState::Free => count.free += 1,
                AddressState::Bound(_) => count.bound += 1,
                AddressState::Draining(_) => count.draining += 1,
                AddressState::Cooling { .. } => count.cooling += 1,
                AddressState::Yielded => count.yielded += 1,
            }
        }
        counts
    }
}
