//! ADD. One sequence a key at a time; every step may be repeated, and is undone when a later one fails or the caller goes.
//!
//! ```text
//!   lock key ─▶ a note that says DEL? obey ─▶ same answer if it stands ─▶ host ports free? ─▶ reserve (waits for supply) ─▶ journal: adding
//!            ─▶ create ─▶ configure
//!            ─▶ journal: ready ─▶ answer ── nobody takes it ─▶ drain (as DEL does)
//! ```
//! It runs in a task of its own, so that a caller that goes away cancels the waiting and not the undoing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tombolo_core::datapath::conventions::{POD_GATEWAY4, POD_GATEWAY6};
use tombolo_core::datapath::{Endpoint, EndpointAddress, EndpointState, desired};
use tombolo_core::types::{AttachmentKey, Family, PodRef, PortMapping, Reason};
use tombolo_netlink::wire::{self, PodSide};
use tombolo_netlink::{Error as NetlinkError, Kernel, Netns};
use tombolo_rpc as rpc;
use tracing::{info, warn};

use crate::clock;
use crate::detach;
use crate::error::{Error, families_word};
use crate::host_ports;
use crate::journal::{Journal, NetnsRecord, Phase, Record};
use crate::keys::{Cancel, Why};
use crate::node::{Node, Shortage, Wired};
use crate::notes;
use crate::sandboxes::Sandboxes;
use crate::steps;

/// An ADD, checked.
#[derive(Debug)]
pub struct Request {
    pub key: AttachmentKey,
    pub pod: PodRef,
    pub netns: Arc<Netns>,
    pub path: String,
    /// Sorted.
    pub host_ports: Vec<PortMapping>,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// Time kept back from the caller's patience for wiring and the answer.
const RESERVE_FOR_WIRING: Duration = Duration::from_secs(1);

impl Request {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Attaches, or answers as before, and hands the outcome to `reply`. If nobody takes it, the pod's owner does not know of
/// the attachment, and it goes again.
pub async fn attach(
    node: &Arc<Node>,
    request: Request,
    cancel: &Arc<Cancel>,
    reply: oneshot::Sender<Result<rpc::Attachment, Error>>,
) {
    let key = request.key.clone();
    let guard = tokio::select! {
        guard = node.keys.lock(&key, Some(cancel)) => guard,
        why = cancel.cancelled() => return drop(reply.send(Err(stopped(&key, why)))),
    };
    let netns = Arc::clone(&request.netns);
    let mut outcome = locked(node, request, cancel).await;
    if let Ok(record) = &mut outcome {
        record.answered = rpc::since_boot();
        node.answered(record);
    }
    let record = outcome.as_ref().ok().cloned();
    let taken = reply.send(outcome.map(|record| answer(&record))).is_ok();
    if let Some(record) = record.filter(|_| !taken) {
        warn!("the caller went away before it had its answer: undone");
        if let Err(error) = detach::drain(node, record, Some(netns)).await {
            warn!(error = error.chain(), reason = %error.reason(), "undo");
        }
    }
    drop(guard);
}

/// With the key held.
async fn locked(node: &Arc<Node>, request: Request, cancel: &Arc<Cancel>) -> Result<Record, Error> {
    let key = request.key.clone();
    // A DEL that came before this ADD, when no agent answered.
    notes::heed(node, &key).await?;
    let wired = tokio::select! {
        wired = node.ready(request.left()) => wired?,
        why = cancel.cancelled() => return Err(stopped(&key, why)),
    };
    if let Some(record) = node.record(&key) {
        if record.phase == Phase::Ready && stands(node, &request, &record).await? {
            info!("answered as before");
            return Ok(record);
        }
        if record.phase != Phase::Draining {
            detach::drain(node, record, None).await?;
        }
        tokio::select! {
            gone = node.gone(&key, request.left()) => gone?,
            why = cancel.cancelled() => return Err(stopped(&key, why)),
        }
    }
    if let Some(plan) = &wired.plan {
        host_ports::have_families(&request.host_ports, plan.pool.families)?;
    }
    tokio::select! {
        free = host_ports::free(node, &key, &request.host_ports, request.left()) => free?,
        why = cancel.cancelled() => return Err(stopped(&key, why)),
    }
    let addresses = reserve(node, &request, &wired, cancel).await?;
    let record = Record {
        key: key.clone(),
        pod: request.pod.clone(),
        phase: Phase::Adding,
        netns: NetnsRecord {
            dev: request.netns.id().dev,
            ino: request.netns.id().ino,
            path: request.path.clone(),
        },
        // As it is now: the NIC may have come while this ADD waited for an address.
        mtu: node.wired.borrow().pod_mtu(&addresses),
        addresses,
        host_ports: request.host_ports.clone(),
        host_ifindex: None,
        beside: BTreeSet::new(),
        since: clock::now(),
        answered: 0,
    };
    let record = wire(node, &request, record).await?;
    match cancel.why() {
        None => Ok(record),
        Some(why) => {
            detach::drain(node, record, Some(request.netns)).await?;
            Err(stopped(&key, why))
        }
    }
}

fn stopped(key: &AttachmentKey, why: Why) -> Error {
    match why {
        Why::Vanished => Error::Vanished { key: key.clone() },
        Why::Superseded => Error::Superseded { key: key.clone() },
    }
}

/// Whether what an earlier ADD made is there, in this namespace, unchanged.
async fn stands(node: &Arc<Node>, request: &Request, record: &Record) -> Result<bool, Error> {
    let id = request.netns.id();
    if (record.netns.dev, record.netns.ino) != (id.dev, id.ino)
        || record.host_ports != request.host_ports
    {
        return Ok(false);
    }
    let differences = differences(node, record, Arc::clone(&request.netns)).await?;
    if !differences.is_empty() {
        warn!(
            differences = differences.join("; "),
            "the attachment is made anew"
        );
    }
    Ok(differences.is_empty())
}

/// What differs, on both sides, from what ADD made.
pub async fn differences(
    node: &Arc<Node>,
    record: &Record,
    netns: Arc<Netns>,
) -> Result<Vec<String>, Error> {
    let Some(host_ifindex) = record.host_ifindex else {
        return Ok(vec!["the link was never made".to_owned()]);
    };
    let state = endpoint_state(record, host_ifindex, &node.wired.borrow());
    let key = record.key.clone();
    let checked = node.kernels.run(move |kernel| {
        let mut pod = PodSide::open(&netns)?;
        let found = match pod.find(&key)? {
            None => vec![format!("interface {} is gone", key.ifname)],
            Some(link) if link.host_ifindex != host_ifindex => {
                vec![format!("interface {} has another host end", key.ifname)]
            }
            Some(_) => {
                let mut found = pod.check(&key, &state)?;
                found.extend(wire::check_host(kernel, host_ifindex, &state)?);
                found
            }
        };
        Ok::<_, NetlinkError>(found)
    });
    checked
        .await?
        .map_err(Error::kernel("compare", &record.key))
}

fn endpoint_state(record: &Record, host_ifindex: u32, wired: &Wired) -> EndpointState {
    let endpoint = Endpoint {
        key: record.key.clone(),
        host_ifindex,
        addresses: record.addresses.clone(),
        host_ports: record.host_ports.clone(),
        mtu: record.mtu,
    };
    EndpointState {
        own_table: record.own_table(),
        ..desired::endpoint(&endpoint, &wired.nics)
    }
}

async fn reserve(
    node: &Arc<Node>,
    request: &Request,
    wired: &Wired,
    cancel: &Arc<Cancel>,
) -> Result<Vec<EndpointAddress>, Error> {
    let key = &request.key;
    let bound = wired.plan.as_ref().map_or(Duration::ZERO, |plan| plan.wait);
    let wait = bound.min(request.left().saturating_sub(RESERVE_FOR_WIRING));
    let answer = tokio::select! {
        answer = node.pool.reserve(key, wait) => answer?,
        why = cancel.cancelled() => {
            node.pool.abandon(key).await?;
            return Err(stopped(key, why));
        }
    };
    match answer {
        Some(Ok(addresses)) => Ok(addresses),
        Some(Err(_)) => Err(Error::Superseded { key: key.clone() }),
        None => Err(no_address(node, wired, wait).await?),
    }
}

/// Why there was none: a NIC that this node lacks, or what the operator says about it, else that the pool is empty; always
/// with numbers.
pub async fn no_address(node: &Arc<Node>, wired: &Wired, wait: Duration) -> Result<Error, Error> {
    let counts = node.pool.snapshot().await?.counts;
    let sum = |of: fn(&tombolo_core::ipam::Counts) -> u32| counts.values().map(of).sum::<u32>();
    let now = node.wired.borrow().clone();
    let shortage = match now.lacking() {
        Some(problem) => Shortage {
            reason: Some(problem.reason),
            message: problem.message.clone(),
        },
        None => node.shortage.borrow().clone(),
    };
    let hint = if shortage.message.is_empty() {
        String::new()
    } else {
        format!(" ({})", shortage.message)
    };
    Ok(Error::NoAddress {
        reason: shortage.reason.unwrap_or(Reason::PoolEmpty),
        families: wired
            .plan
            .as_ref()
            .map_or("", |plan| families_word(plan.pool.families)),
        waited_ms: wait.as_millis(),
        bound: sum(|c| c.bound),
        cooling: sum(|c| c.cooling + c.draining),
        yielded: sum(|c| c.yielded),
        total: sum(|c| c.total),
        hint,
    })
}

/// Intent, link, configuration, done; or everything undone.
async fn wire(node: &Arc<Node>, request: &Request, record: Record) -> Result<Record, Error> {
    let gate = node.gate.read().await;
    let work = Wiring {
        journal: node.journal.clone(),
        wired: node.wired.borrow().clone(),
        netns: Arc::clone(&request.netns),
        sandboxes: Arc::clone(&node.sandboxes),
        path: request.path.clone(),
        record: record.clone(),
    };
    if let Err(taken) = node.put_claiming(record.clone()) {
        // Since it was looked at, another pod came.
        node.pool.abandon(&record.key).await?;
        return Err(host_ports::conflict(taken));
    }
    let made = node.kernels.run(move |kernel| work.run(kernel)).await;
    let failed = match made {
        Ok(Ok(record)) => {
            node.put_record(record.clone());
            return Ok(record);
        }
        Ok(Err(failed)) => failed,
        Err(error) => Failed::after_touching(error),
    };
    drop(gate);
    let error = failed.error;
    warn!(error = error.chain(), reason = %error.reason(), "ADD failed and is undone");
    if failed.touched {
        detach::drain(node, record, Some(Arc::clone(&request.netns))).await?;
    } else {
        // The addresses were never used, so they need no rest.
        node.pool.abandon(&record.key).await?;
        let journal = node.journal.clone();
        let key = record.key.clone();
        let forget = move || steps::UNDO_JOURNAL_GONE.around(|| journal.remove(&key));
        tokio::task::spawn_blocking(forget).await??;
        node.drop_record(&record.key);
    }
    Err(error)
}

/// The blocking part.
struct Wiring {
    journal: Journal,
    wired: Arc<Wired>,
    netns: Arc<Netns>,
    sandboxes: Arc<Sandboxes>,
    path: String,
    record: Record,
}

struct Failed {
    /// Whether the kernel may have been changed.
    touched: bool,
    error: Error,
}

impl Failed {
    fn after_touching(error: Error) -> Box<Self> {
        let touched = true;
        Box::new(Self { touched, error })
    }

    fn untouched(error: Error) -> Box<Self> {
        let touched = false;
        Box::new(Self { touched, error })
    }
}

impl Wiring {
    fn run(self, kernel: &mut Kernel) -> Result<Record, Box<Failed>> {
        let Self {
            journal,
            wired,
            netns,
            sandboxes,
            path,
            mut record,
        } = self;
        let key = record.key.clone();
        let touched = |operation| {
            let error = Error::kernel(operation, &key);
            move |source| Failed::after_touching(error(source))
        };
        steps::ADD_JOURNAL_ADDING
            .around(|| journal.write(&record))
            .map_err(|error| Failed::untouched(error.into()))?;
        let mut pod = PodSide::open(&netns).map_err(|error| {
            Failed::untouched(Error::kernel("enter the namespace", &key)(error))
        })?;
        let link = pod
            .create(kernel, &key, record.mtu)
            .map_err(|error| match error {
                NetlinkError::InterfaceExists { name } => {
                    Failed::untouched(Error::InterfaceExists { ifname: name, path })
                }
                source @ NetlinkError::HostNetns { .. } => {
                    Failed::untouched(Error::Netns { path, source })
                }
                error => touched("create the link")(error),
            })?;
        record.host_ifindex = Some(link.host_ifindex);
        // Until it is configured: who comes first has the default route.
        let _alone = sandboxes.enter(netns.id());
        record.beside = pod
            .others_defaults(link.pod_ifindex)
            .map_err(touched("look at the pod's routes"))?;
        let state = endpoint_state(&record, link.host_ifindex, &wired);
        pod.configure(kernel, link, &key, &state)
            .map_err(touched("configure the link"))?;
        record.phase = Phase::Ready;
        steps::ADD_JOURNAL_READY
            .around(|| journal.write(&record))
            .map_err(|error| Failed::after_touching(error.into()))?;
        Ok(record)
    }
}

/// The attachment in terms of a CNI result.
pub fn answer(record: &Record) -> rpc::Attachment {
    let (pod_mac, host_mac) = record.key.macs();
    let own = record.own_table();
    let mut addresses = Vec::new();
    let mut routes = Vec::new();
    for address in &record.addresses {
        let family = Family::of(address.ip);
        let (gateway, any) = match family {
            Family::V4 => (POD_GATEWAY4.to_string(), "0.0.0.0/0"),
            Family::V6 => (POD_GATEWAY6.to_string(), "::/0"),
        };
        let length = family.host_prefix();
        let table = if own.families.contains(&family) {
            own.table
        } else {
            0
        };
        addresses.push(rpc::Address {
            cidr: format!("{}/{length}", address.ip),
            gateway: gateway.clone(),
        });
        // That of IPv6 is a link address, which needs no route.
        if family == Family::V4 {
            routes.push(rpc::Route {
                dst: format!("{gateway}/{length}"),
                gateway: String::new(),
                table,
            });
        }
        routes.push(rpc::Route {
            dst: any.to_owned(),
            gateway,
            table,
        });
    }
    rpc::Attachment {
        host_ifname: record.key.host_ifname().0,
        host_mac: host_mac.to_string(),
        pod_mac: pod_mac.to_string(),
        mtu: record.mtu,
        addresses,
        routes,
    }
}
