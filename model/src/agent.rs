//! One node: its pool (the core's), its files, its pods and what of them the kernel holds.
//!
//! ```text
//!  Absent ─Ask─▶ Waiting ─▶ Assigned ─Note─▶ Adding ─Wire─▶ Wired ─Finish─▶ Ready ─Delete─▶ Draining ─Detach─▶ Detached
//!    ▲              │GiveUp     │GiveUp                       └───── Delete ──────────────────▲                  │ Rest
//!    ├──────────────┴───────────┘                                                                                ▼
//!    └───────────────────────────────────────────── Forget ◀───────────────────────────────────────────────── Rested
//!
//!  journal:   none                          adding       adding          ready          draining   draining   draining
//!  kernel:    nothing                       nothing      linked          linked         linked     nothing    nothing
//! ```
//! The stages are those between which `bin/agent` can end (attach.rs, detach.rs, reaper.rs); what a new agent makes of what
//! it finds is the table of restore.rs. Where no agent may crash any more, ADD and DEL are one step each: nobody else can
//! tell their stages apart.

use tombolo_core::datapath::EndpointAddress;
use tombolo_core::ipam::{Action, AddressState, Input, NicSupply, Pool, PoolConfig};
use tombolo_core::types::{AttachmentKey, Families, Family, Millis, NicId};

use crate::address::{Address, Set};
use crate::protocol::Bug;
use crate::state::{Spec, Status};

/// The pool's time: every rest that begins ends when [`Agent::rests_end`] is taken.
const NOW: Millis = Millis(0);
const COOLING: Millis = Millis(10);

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    /// The core's machine.
    pub pool: Pool,
    /// The specification in force, kept on disk.
    pub spec: Spec,
    /// Pods by slot.
    pub pods: Vec<Pod>,
    /// Notes of cooling addresses, on disk.
    pub resting: Set,
    /// ADD and DEL are one step each.
    pub whole: bool,
}

/// A place for a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pod {
    /// How far it is.
    pub stage: Stage,
    /// Its address, from its assignment to its end.
    pub address: Option<Address>,
}

/// See the diagram above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Stage {
    #[default]
    Absent,
    Waiting,
    Assigned,
    Adding,
    Wired,
    Ready,
    Draining,
    Detached,
    Rested,
    /// Only by a seeded bug: draining, and nobody goes on with it.
    Stuck,
}

/// What can happen on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum PodStep {
    Ask,
    GiveUp,
    Note,
    Wire,
    Finish,
    Delete,
    Detach,
    Rest,
    Forget,
}

impl Pod {
    /// Whether an address is this pod's: the pool calls it bound, or the kernel still has it.
    #[must_use]
    pub fn holds(&self) -> Option<Address> {
        self.address
            .filter(|_| (Stage::Assigned..=Stage::Draining).contains(&self.stage))
    }

    /// Steps that can be next.
    pub fn steps(&self) -> &'static [PodStep] {
        match self.stage {
            Stage::Absent => &[PodStep::Ask],
            Stage::Waiting => &[PodStep::GiveUp],
            Stage::Assigned => &[PodStep::GiveUp, PodStep::Note],
            Stage::Adding => &[PodStep::Wire],
            Stage::Wired => &[PodStep::Finish, PodStep::Delete],
            Stage::Ready => &[PodStep::Delete],
            Stage::Draining => &[PodStep::Detach],
            Stage::Detached => &[PodStep::Rest],
            Stage::Rested => &[PodStep::Forget],
            Stage::Stuck => &[],
        }
    }
}

fn key(slot: usize) -> AttachmentKey {
    AttachmentKey {
        network: "net".to_owned(),
        container_id: slot.to_string(),
        ifname: "eth0".to_owned(),
    }
}

fn slot_of(key: &AttachmentKey) -> usize {
    key.container_id.parse().unwrap_or_default()
}

fn endpoint(address: Address) -> EndpointAddress {
    EndpointAddress {
        ip: address.ip(),
        nic: nic(),
    }
}

/// The node's only NIC.
pub fn nic() -> NicId {
    NicId("nic".to_owned())
}

impl Agent {
    /// A node that has just joined.
    #[must_use]
    pub fn new(slots: usize, warm_max: u32, cooling: bool, whole: bool) -> Self {
        let config = PoolConfig {
            families: Families::V4,
            warm_min: 0,
            warm_max,
            cooling: if cooling { COOLING } else { NOW },
            churn_window: Millis(0),
            max_pods: u32::try_from(slots).unwrap_or(u32::MAX),
        };
        Self {
            pool: Pool::new(config),
            spec: Spec::default(),
            pods: vec![Pod::default(); slots],
            resting: Set::default(),
            whole,
        }
    }

    fn feed(&mut self, now: Millis, input: Input) {
        let whole = self.whole;
        for action in self.pool.handle(now, input) {
            match action {
                Action::Assign(key, addresses) => {
                    let pod = &mut self.pods[slot_of(&key)];
                    pod.stage = if whole { Stage::Ready } else { Stage::Assigned };
                    pod.address = addresses.first().map(|address| address.ip.into());
                }
                Action::Refuse(key, _) => self.pods[slot_of(&key)] = Pod::default(),
                Action::Cool(address, _) => self.resting = self.resting.with(address.ip.into()),
                Action::Cooled(ip) => {
                    let over = Set::default().with(ip.into());
                    self.resting = self.resting.without(over);
                }
                Action::Wait(_) | Action::Consent(..) | Action::Lost(..) => {}
            }
        }
    }

    /// One step of a pod.
    pub fn step(&mut self, slot: usize, step: PodStep) {
        match step {
            PodStep::Ask => {
                self.pods[slot].stage = Stage::Waiting;
                self.feed(NOW, Input::Reserve(key(slot)));
            }
            PodStep::GiveUp => {
                self.pods[slot] = Pod::default();
                self.feed(NOW, Input::Abandon(key(slot)));
            }
            PodStep::Note => self.pods[slot].stage = Stage::Adding,
            PodStep::Wire => self.pods[slot].stage = Stage::Wired,
            PodStep::Finish => self.pods[slot].stage = Stage::Ready,
            PodStep::Delete => {
                self.feed(NOW, Input::Release(key(slot)));
                self.pods[slot].stage = Stage::Draining;
                if self.whole {
                    self.feed(NOW, Input::Removed(key(slot)));
                    self.pods[slot] = Pod::default();
                }
            }
            PodStep::Detach => self.pods[slot].stage = Stage::Detached,
            PodStep::Rest => {
                self.feed(NOW, Input::Removed(key(slot)));
                self.pods[slot].stage = Stage::Rested;
            }
            PodStep::Forget => self.pods[slot] = Pod::default(),
        }
        self.pool.canonicalise(NOW);
    }

    /// Whether an address rests, and may have rested for long enough: the journal's file of its last pod goes within
    /// milliseconds, a rest takes seconds. (If it did not, an agent that starts would take up the removal again.)
    #[must_use]
    pub fn rests(&self) -> bool {
        let going = self.pods.iter().any(|pod| pod.stage == Stage::Rested);
        self.pool.next_deadline().is_some() && !going
    }

    /// Every rest ends. The pool takes a clock that goes back for granted, so that time does not grow.
    pub fn rests_end(&mut self) {
        self.feed(COOLING, Input::Tick);
        self.pool.canonicalise(NOW);
    }

    /// Takes in the operator's object.
    pub fn accept(&mut self, spec: &Spec) {
        // Terms are between operators.
        self.spec = Spec {
            term: 0,
            ..spec.clone()
        };
        self.supply();
        self.pool.canonicalise(NOW);
    }

    fn supply(&mut self) {
        let supply = NicSupply {
            nic: nic(),
            usable: true,
            device_index: 0,
            addresses: self.spec.addresses.iter().map(Address::ip).collect(),
        };
        for input in Input::of_specification(self.spec.release.ips(), vec![supply]) {
            self.feed(NOW, input);
        }
    }

    /// The agent ends and starts again: what it finds on disk and in the kernel is all it knows.
    pub fn restart(&mut self, bug: Option<Bug>) {
        self.pool = Pool::new(self.pool.config().clone());
        for address in self.resting.iter() {
            self.feed(NOW, Input::RestoreCooling(endpoint(address), COOLING));
        }
        for slot in 0..self.pods.len() {
            let pod = self.pods[slot].clone();
            let Some(address) = pod.address.filter(|_| pod.stage >= Stage::Adding) else {
                // Nothing of it is on disk.
                self.pods[slot] = Pod::default();
                continue;
            };
            if bug == Some(Bug::JournalForgotten) {
                continue;
            }
            self.feed(NOW, Input::Restore(key(slot), vec![endpoint(address)]));
            if pod.stage != Stage::Ready {
                self.feed(NOW, Input::Release(key(slot)));
            }
            self.pods[slot].stage = match pod.stage {
                Stage::Ready => Stage::Ready,
                _ if bug == Some(Bug::RemovalNotResumed) => Stage::Stuck,
                Stage::Wired | Stage::Draining => Stage::Draining,
                _ => Stage::Detached,
            };
        }
        if self.spec.generation > 0 {
            self.supply();
        }
        self.pool.canonicalise(NOW);
    }

    /// What the agent says of itself, about the specification in force.
    #[must_use]
    pub fn status(&self) -> Status {
        let demand = self.pool.demand(NOW).remove(&Family::V4);
        let demand = demand.unwrap_or_default();
        let mut in_use = Set::default();
        for (ip, (_, state)) in self.pool.addresses() {
            if !matches!(state, AddressState::Free | AddressState::Yielded) {
                in_use = in_use.with(ip.into());
            }
        }
        let (mut ready, mut refused) = (Set::default(), Set::default());
        for (ip, agreed) in self.pool.consents() {
            let answer = if agreed { &mut ready } else { &mut refused };
            *answer = answer.with(ip.into());
        }
        let releasable = self.pool.releasable();
        Status {
            about: self.spec.generation,
            demand: (demand.low, demand.high),
            in_use,
            releasable: releasable.iter().map(|address| address.ip.into()).collect(),
            ready,
            refused,
        }
    }

    /// Whether the node agreed that this address goes: it holds it in no way, and will not hand it out.
    #[must_use]
    pub fn agreed_to_give(&self, address: Address) -> bool {
        let addresses = self.pool.addresses();
        let state = addresses.get(&address.ip()).map(|(_, state)| state);
        matches!(state, None | Some(AddressState::Yielded))
    }
}
