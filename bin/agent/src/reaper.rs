//! What follows a DEL, in the background: doomed links are deleted in batches (each deletion costs grace periods, a batch
//! costs one), connections of the addresses are forgotten, and only what was looked at again and found gone lets the
//! addresses begin to cool. While one batch is cleared up after, the links of the next are deleted ([`stages`]):
//!
//! | what | how its absence is known |
//! |---|---|
//! | links; with them their routes, neighbours, and what was queued on them | a list of all links, afterwards |
//! | source elements | a list of all elements, afterwards |
//! | sockets of the node's own processes towards the address | closed, where the kernel can |
//! | connections, translated ones included | deleted until a look at all of them finds none; no new one can come: nobody sends from the address any more, and packets for it meet its `unreachable` route |
//!
//! Cancel safety: a batch that the end of the agent interrupts is found in the journal at the next start.

mod stages;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tombolo_core::types::AttachmentKey;
use tombolo_netlink::{Error as NetlinkError, Kernel, Socket, conntrack, nft, sockets, wire};
use tracing::{debug, error, info, warn};

use crate::error::Error;
use crate::journal::{Phase, Record};
use crate::node::Node;
use crate::reaper::stages::Stages;
use crate::steps;

/// Keys taken at once.
const BATCH: usize = 128;
/// How often connections are looked at until none is left; then there is a pause.
const LOOKS: usize = 4;
/// Pause after a failure, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Runs until the node is gone.
pub async fn run(node: Arc<Node>, mut doomed: mpsc::UnboundedReceiver<AttachmentKey>) {
    let mut stages = Stages::default();
    let mut clearing = JoinSet::new();
    let mut received = Vec::new();
    let mut pause = FIRST_PAUSE;
    let mut wake = None;
    loop {
        let batch = stages.take_linked();
        if !batch.is_empty() {
            let outcome = unlink(&node, &batch).await;
            let left = told(outcome, batch.clone());
            let gone = batch.into_iter().filter(|key| !left.contains(key));
            stages.unlinked(gone);
            stages.rest(left);
        }
        let batch = stages.begin_clearing();
        if !batch.is_empty() {
            let node = Arc::clone(&node);
            clearing.spawn(async move { told(clear(&node, &batch).await, batch) });
        }
        if stages.is_empty() {
            pause = FIRST_PAUSE;
        } else if stages.any_rests() && wake.is_none() {
            wake = Some(Instant::now() + pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        tokio::select! {
            count = doomed.recv_many(&mut received, BATCH) => {
                if count == 0 {
                    return;
                }
                stages.doom(received.drain(..));
            }
            Some(left) = clearing.join_next() => match left.map_err(Error::from) {
                Ok(left) => stages.cleared(left),
                Err(error) => {
                    error!(error = error.chain(), reason = %error.reason(), "clearing up after pods");
                    stages.cleared_nothing();
                }
            },
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                wake = None;
                stages.wake();
            }
        }
    }
}

/// The keys of which something is left: all of the batch, where it failed.
fn told(
    outcome: Result<Vec<AttachmentKey>, Error>,
    batch: Vec<AttachmentKey>,
) -> Vec<AttachmentKey> {
    match outcome {
        Ok(left) => {
            if !left.is_empty() {
                warn!(attachments = left.len(), "not all of them is gone");
            }
            left
        }
        Err(error) => {
            error!(error = error.chain(), reason = %error.reason(), "removing what is left of pods");
            batch
        }
    }
}

/// The records of these keys that await removal.
fn draining(node: &Node, keys: &[AttachmentKey]) -> Vec<Record> {
    let known = keys.iter().filter_map(|key| node.record(key));
    known
        .filter(|record| record.phase == Phase::Draining)
        .collect()
}

/// Deletes the links of one batch; the keys whose link is left.
async fn unlink(node: &Arc<Node>, batch: &[AttachmentKey]) -> Result<Vec<AttachmentKey>, Error> {
    let records = draining(node, batch);
    let unknown = records.len() < batch.len();
    let targets = records.clone();
    let deleted = node
        .kernels
        .run(move |kernel| delete_links(kernel, &targets));
    let present = deleted
        .await?
        .map_err(failed("delete pod links", &records))?;
    if unknown {
        // What belonged to no record may have been an orphan's; the comparison finds out.
        node.repair.notify_one();
    }
    let keys = records.into_iter().map(|record| record.key);
    Ok(keys
        .filter(|key| present.contains(&key.host_ifname().0))
        .collect())
}

/// Removes what else there is of one batch; the keys of which something is left.
async fn clear(node: &Arc<Node>, batch: &[AttachmentKey]) -> Result<Vec<AttachmentKey>, Error> {
    let records = draining(node, batch);
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let held = node.plan.borrow().as_ref().map(|plan| plan.held());
    let left = remove(node, &records, held.unwrap_or_default()).await?;
    let (left, gone): (Vec<Record>, Vec<Record>) = records
        .into_iter()
        .partition(|record| left.contains(&record.key));
    for record in gone {
        node.pool.removed(&record.key).await?;
        let journal = node.journal.clone();
        let key = record.key.clone();
        let forget = move || steps::REAP_JOURNAL_GONE.around(|| journal.remove(&key));
        tokio::task::spawn_blocking(forget).await??;
        node.drop_record(&record.key);
        debug!(key = %record.key, "nothing is left of it");
    }
    Ok(left.into_iter().map(|record| record.key).collect())
}

/// A failure of the kernel, told of the first of these.
fn failed(operation: &'static str, records: &[Record]) -> impl FnOnce(NetlinkError) -> Error {
    let key = records.first().map(|record| record.key.to_string());
    move |source| Error::Kernel {
        operation,
        key: key.unwrap_or_default(),
        source,
    }
}

/// For addresses whose link went without us: what else there is of them.
pub async fn forget(node: &Arc<Node>, addresses: &[IpAddr]) -> Result<(), Error> {
    let ips: BTreeSet<IpAddr> = addresses.iter().copied().collect();
    let forgotten = node.kernels.run(move |kernel| {
        close_sockets(&ips);
        forget_connections(kernel, &ips)
    });
    let named = forgotten.await?.map_err(|source| Error::Kernel {
        operation: "forget connections",
        key: "an unknown pod link".to_owned(),
        source,
    })?;
    if !named.is_empty() {
        warn!(?named, "connections still name addresses that rest now");
    }
    Ok(())
}

/// Removes what names the addresses of attachments whose links are gone; the keys of which something is still there
/// afterwards. Pods come and go, and repairs are made, between its parts.
async fn remove(
    node: &Arc<Node>,
    gone: &[Record],
    held: BTreeSet<IpAddr>,
) -> Result<BTreeSet<AttachmentKey>, Error> {
    // A repair that saw an element must not find it gone when it removes it.
    let gate = node.gate.read().await;
    let targets = gone.to_vec();
    let forgotten = node
        .kernels
        .run(move |kernel| forget_sources(kernel, &targets));
    forgotten
        .await?
        .map_err(failed("remove source elements", gone))?;
    drop(gate);

    let ips: BTreeSet<IpAddr> = gone.iter().flat_map(addresses).collect();
    let forgotten = node.kernels.run(move |kernel| {
        close_sockets(&ips);
        forget_connections(kernel, &ips)
    });
    let mut named = forgotten
        .await?
        .map_err(failed("forget connections", gone))?;
    // To one that the cloud took from us, packets may go: it can be another node's by now.
    named.retain(|ip| held.contains(ip));
    let is_named = |record: &&Record| addresses(record).any(|ip| named.contains(&ip));
    let left = gone.iter().filter(is_named);
    Ok(left.map(|record| record.key.clone()).collect())
}

/// Deletes what is doomed, and detaches again what is not (an earlier attempt failed). Returns the names of the pod links
/// that are there afterwards.
fn delete_links(kernel: &mut Kernel, records: &[Record]) -> Result<BTreeSet<String>, NetlinkError> {
    wire::reap_doomed(kernel)?;
    let present = link_names(kernel)?;
    let left = |record: &&Record| present.contains(&record.key.host_ifname().0);
    if !records.iter().any(|record| left(&record)) {
        return Ok(present);
    }
    for record in records.iter().filter(left) {
        let ips: Vec<IpAddr> = addresses(record).collect();
        let own = record.own_table();
        wire::detach_pod(kernel, None, &record.key, record.host_ifindex, &ips, &own)?;
    }
    wire::reap_doomed(kernel)?;
    link_names(kernel)
}

fn link_names(kernel: &mut Kernel) -> Result<BTreeSet<String>, NetlinkError> {
    let links = wire::pod_links(kernel)?;
    Ok(links.into_iter().map(|link| link.name).collect())
}

/// DEL removed the elements; this holds where it could not.
fn forget_sources(kernel: &mut Kernel, gone: &[Record]) -> Result<(), NetlinkError> {
    let Some(nat) = nft::observe(&mut kernel.netfilter)? else {
        // No table of ours, no elements; the comparison makes it anew.
        return Ok(());
    };
    let elements = gone.iter().flat_map(|record| {
        let of = |ifindex| addresses(record).map(move |ip| (ifindex, ip, 0));
        record.host_ifindex.into_iter().flat_map(of)
    });
    let left: Vec<nft::Source> = elements
        .filter(|(ifindex, ip, _)| match ip {
            IpAddr::V4(ip) => nat.pods4.contains_key(&(*ifindex, *ip)),
            IpAddr::V6(ip) => nat.pods6.contains_key(&(*ifindex, *ip)),
        })
        .collect();
    if left.is_empty() {
        return Ok(());
    }
    warn!(elements = left.len(), "source elements were still there");
    steps::REAP_SOURCES.around(|| nft::del_sources(&mut kernel.netfilter, &left))
}

/// Connections of the node's own processes to the pods that are gone. They do harm to nobody but their owners, so that a
/// kernel that cannot close them keeps no address from its rest.
fn close_sockets(ips: &BTreeSet<IpAddr>) {
    let close = |mut socket| steps::REAP_SOCKETS.around(|| sockets::close_to(&mut socket, ips));
    match Socket::sock_diag().and_then(close) {
        Ok(0) => {}
        Ok(closed) => info!(
            closed,
            "closed the node's own connections to pods that are gone"
        ),
        Err(error) => warn!(%error, "the node's own connections to pods that are gone stay"),
    }
}

/// The addresses of which there still were some at the last look.
fn forget_connections(
    kernel: &mut Kernel,
    ips: &BTreeSet<IpAddr>,
) -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let mut named = BTreeSet::new();
    for _ in 0..LOOKS {
        let forget = || conntrack::delete_addresses(&mut kernel.netfilter, ips);
        let deleted = steps::REAP_CONNECTIONS.around(forget)?;
        named = deleted.into_iter().collect();
        if named.is_empty() {
            break;
        }
    }
    Ok(named)
}

fn addresses(record: &Record) -> impl Iterator<Item = IpAddr> {
    record.addresses.iter().map(|address| address.ip)
}
