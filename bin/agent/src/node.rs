//! What all parts of the agent share: the attachments, what the operator wants, what of it is wired, and the lock that
//! keeps wiring and repair apart.
//!
//! ```text
//!   operator's object ──▶ plan ──▶ resync (joins NICs, applies the difference) ──▶ wired ──▶ pool, ADD
//!   ADD, DEL ──▶ records (mirror of the journal) ──▶ resync (desired state), reporters
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, mpsc, watch};
use tombolo_api::NetResourceSetSpec;
use tombolo_core::datapath::EndpointAddress;
use tombolo_core::types::{AttachmentKey, Nic, NicId, PortMapping, Reason};
use tracing::error;

use crate::config::Config;
use crate::error::{Error, chain};
use crate::gate::Gate;
use crate::journal::{Journal, Notes, Phase, Record};
use crate::kernels::Kernels;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::sandboxes::Sandboxes;
use crate::scrub::Clean;
use crate::spec::{self, Plan};
use crate::steps;

/// What the last comparison left in place.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Wired {
    /// NICs that the cloud lists and the kernel shows.
    pub nics: Vec<Nic>,
    /// Families' and pods' settings as of this plan.
    #[serde(skip)]
    pub plan: Option<Arc<Plan>>,
    /// Why pods cannot be served; empty: they can.
    pub problems: Vec<Problem>,
}

/// Something that is wrong on this node, for conditions, Events and people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub reason: Reason,
    pub message: String,
    /// Whether pods can still be attached.
    pub serving: bool,
}

impl Wired {
    /// Whether ADD can work.
    pub fn is_ready(&self) -> bool {
        self.plan.is_some() && self.problems.iter().all(|problem| problem.serving)
    }

    /// Why a NIC that the plan lists gives this node no addresses, if one does not.
    pub fn lacking(&self) -> Option<&Problem> {
        let plan = self.plan.as_ref()?;
        let wired = |id: &NicId| self.nics.iter().any(|nic| nic.id == *id);
        if plan.nics.iter().all(|nic| wired(&nic.id)) {
            return None;
        }
        // Not seen, or seen more than once: `join` found it.
        let of = |reason| self.problems.iter().find(move |p| p.reason == reason);
        of(Reason::AttachTimeout).or_else(|| of(Reason::ForeignConflict))
    }

    /// MTU in bytes of a pod with these addresses: the profile's, else the least of its NICs'.
    pub fn pod_mtu(&self, addresses: &[EndpointAddress]) -> u32 {
        let of_nic = |id: &NicId| {
            self.nics
                .iter()
                .find(|nic| nic.id == *id)
                .map(|nic| nic.mtu)
        };
        let profile = self.plan.as_ref().and_then(|plan| plan.mtu);
        let nics = addresses
            .iter()
            .filter_map(|address| of_nic(&address.nic))
            .min();
        match (profile, nics) {
            (Some(profile), Some(nics)) => profile.min(nics),
            (Some(mtu), None) | (None, Some(mtu)) => mtu,
            (None, None) => DEFAULT_MTU,
        }
    }
}

/// Pause before a failed repair is tried again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Ethernet's.
const DEFAULT_MTU: u32 = 1500;

/// A pod link without a journal entry (the file was lost or unreadable): left alone, its addresses withheld, until its
/// pod or a DEL takes it away.
#[derive(Clone, Debug, Serialize)]
pub struct Orphan {
    pub ifname: String,
    /// Under which its addresses are bound in the pool.
    pub key: AttachmentKey,
    pub addresses: Vec<IpAddr>,
}

/// What the operator says about supply, from the conditions of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    pub reason: Option<Reason>,
    pub message: String,
}

#[derive(Debug)]
pub struct Node {
    pub config: Config,
    pub kernels: Arc<Kernels>,
    pub sandboxes: Arc<Sandboxes>,
    pub journal: Journal,
    pub notes: Notes,
    pub pool: Pool,
    pub clean: Clean,
    pub keys: Keys,
    pub metrics: Metrics,
    /// Wiring reads, repair writes: a comparison that changes something never meets a half-made pod.
    pub gate: Gate,
    /// Asks for a comparison.
    pub repair: Notify,
    pub plan: watch::Sender<Option<Arc<Plan>>>,
    pub wired: watch::Sender<Arc<Wired>>,
    pub shortage: watch::Sender<Shortage>,
    /// Configurations of others that keep the runtime from asking us.
    pub rivals: watch::Sender<Vec<Problem>>,
    /// Keys whose kernel state is to be removed for good.
    pub doomed: mpsc::UnboundedSender<AttachmentKey>,
    records: Mutex<BTreeMap<AttachmentKey, Record>>,
    orphans: Mutex<BTreeMap<u32, Orphan>>,
    /// Counts changes of `records`.
    pub changed: watch::Sender<u64>,
}

impl Node {
    pub fn new(
        config: Config,
        kernels: Kernels,
        journal: Journal,
        notes: Notes,
        doomed: mpsc::UnboundedSender<AttachmentKey>,
    ) -> Arc<Self> {
        let pool = Pool::start(spec::unknown_pool(config.max_pods), journal.clone());
        Arc::new(Self {
            config,
            kernels: Arc::new(kernels),
            sandboxes: Arc::default(),
            journal,
            notes,
            pool,
            clean: Clean::default(),
            keys: Keys::default(),
            metrics: Metrics::new(),
            gate: Gate::default(),
            repair: Notify::new(),
            plan: watch::Sender::new(None),
            wired: watch::Sender::new(Arc::new(Wired::default())),
            shortage: watch::Sender::new(Shortage::default()),
            rivals: watch::Sender::new(Vec::new()),
            doomed,
            records: Mutex::default(),
            orphans: Mutex::default(),
            changed: watch::Sender::new(0),
        })
    }

    /// Takes a new specification: checks it, keeps it on disk, and asks for a comparison. A bad one changes nothing.
    /// `uid`: of the object; empty for a file. Returns how many addresses are withheld because the object went back.
    pub async fn accept(
        &self,
        uid: &str,
        generation: i64,
        spec: NetResourceSetSpec,
    ) -> Result<usize, Error> {
        let max_pods = self.config.max_pods;
        let plan = Plan::new(generation, &spec, max_pods)?;
        if self.plan.borrow().as_deref() == Some(&plan) {
            return Ok(0);
        }
        let run_dir = self.config.run_dir.clone();
        let new = spec::Cached {
            uid: uid.to_owned(),
            generation,
            doubted: false,
            spec,
        };
        let kept = tokio::task::spawn_blocking(move || -> Result<_, Error> {
            let before = spec::read_cache(&run_dir).unwrap_or_else(|error| {
                error!(error = chain(&error), reason = %Reason::JournalError, "the kept specification cannot be used");
                None
            });
            let (kept, withheld) = spec::believed(before, new);
            let plan = Plan::new(generation, &kept.spec, max_pods)?;
            steps::SPEC_KEEP.around(|| spec::write_cache(&run_dir, &kept))?;
            Ok((Arc::new(plan), withheld))
        });
        let (plan, withheld) = kept.await??;
        if self.plan.borrow().as_ref() != Some(&plan) {
            self.plan.send_replace(Some(plan));
            self.repair.notify_one();
        }
        Ok(withheld)
    }

    /// Asks for a comparison after a pause, where nothing will ask for it.
    pub fn look_again_soon(self: &Arc<Self>) {
        let node = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(LOOK_AGAIN).await;
            node.repair.notify_one();
        });
    }

    /// Waits until pods can be served.
    pub async fn ready(&self, wait: Duration) -> Result<Arc<Wired>, Error> {
        let mut receiver = self.wired.subscribe();
        let ready = receiver.wait_for(|wired| wired.is_ready());
        if let Ok(Ok(wired)) = tokio::time::timeout(wait, ready).await {
            return Ok(Arc::clone(&wired));
        }
        let wired = self.wired.borrow().clone();
        let (reason, what) = match wired.problems.iter().find(|problem| !problem.serving) {
            Some(problem) => (problem.reason, problem.message.clone()),
            None => {
                let what = "the operator has not yet described this node";
                (Reason::NotReady, what.to_owned())
            }
        };
        Err(Error::NotReady {
            reason,
            what,
            waited_ms: wait.as_millis(),
        })
    }

    pub fn record(&self, key: &AttachmentKey) -> Option<Record> {
        self.records().get(key).cloned()
    }

    pub fn all_records(&self) -> Vec<Record> {
        self.records().values().cloned().collect()
    }

    pub fn put_record(&self, record: Record) {
        self.records().insert(record.key.clone(), record);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Notes when a record was answered for, which is nothing that changes what is wanted of the kernel.
    pub fn answered(&self, record: &Record) {
        if let Some(known) = self.records().get_mut(&record.key) {
            known.answered = record.answered;
        }
    }

    /// Puts a record, unless another attachment has one of its host ports.
    pub fn put_claiming(&self, record: Record) -> Result<(), Box<Taken>> {
        let mut records = self.records();
        if let Some(taken) = taken(&records, &record.key, &record.host_ports) {
            return Err(taken);
        }
        records.insert(record.key.clone(), record);
        drop(records);
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// The first of these host ports that another attachment than this one has.
    pub fn taken(&self, key: &AttachmentKey, ports: &[PortMapping]) -> Option<Box<Taken>> {
        taken(&self.records(), key, ports)
    }

    /// The host ports of an attachment that is being removed lead nowhere any more: others may have them.
    pub fn release_ports(&self, key: &AttachmentKey) {
        let mut records = self.records();
        match records.get_mut(key) {
            Some(record) if record.phase == Phase::Draining => record.host_ports.clear(),
            _ => return,
        }
        drop(records);
        self.changed.send_modify(|version| *version += 1);
    }

    pub fn drop_record(&self, key: &AttachmentKey) {
        self.records().remove(key);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Whether this is the host end of a pod that has been answered for.
    pub fn is_ready_link(&self, ifindex: u32) -> bool {
        let is =
            |record: &Record| record.host_ifindex == Some(ifindex) && record.phase == Phase::Ready;
        self.records().values().any(is)
    }

    /// Waits until nothing is left of a key.
    pub async fn gone(&self, key: &AttachmentKey, wait: Duration) -> Result<(), Error> {
        let mut changes = self.changed.subscribe();
        let gone = async { while self.record(key).is_some() && changes.changed().await.is_ok() {} };
        let late = |_| Error::StillDraining {
            key: key.clone(),
            waited_ms: wait.as_millis(),
        };
        tokio::time::timeout(wait, gone).await.map_err(late)
    }

    pub fn orphans(&self) -> BTreeMap<u32, Orphan> {
        locked(&self.orphans).clone()
    }

    pub fn put_orphan(&self, ifindex: u32, orphan: Orphan) {
        locked(&self.orphans).insert(ifindex, orphan);
    }

    pub fn drop_orphan(&self, ifindex: u32) -> Option<Orphan> {
        locked(&self.orphans).remove(&ifindex)
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<AttachmentKey, Record>> {
        locked(&self.records)
    }
}

/// A host port that another attachment has.
#[derive(Debug)]
pub struct Taken {
    pub port: PortMapping,
    pub owner: Record,
}

fn taken(
    records: &BTreeMap<AttachmentKey, Record>,
    key: &AttachmentKey,
    ports: &[PortMapping],
) -> Option<Box<Taken>> {
    if ports.is_empty() {
        return None;
    }
    let others = records.values().filter(|record| record.key != *key);
    let first = |owner: &Record| {
        let mut wanted = ports.iter();
        wanted.find(|port| owner.host_ports.iter().any(|held| held.overlaps(port)))
    };
    others
        .filter_map(|owner| {
            let port = first(owner)?.clone();
            let owner = owner.clone();
            Some(Box::new(Taken { port, owner }))
        })
        .next()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
