//! What follows a DEL, in the background: doomed links are deleted in batches (each deletion costs grace periods, a batch
//! costs one), connections of the addresses are forgotten, and only what was looked at again and found gone lets the
//! addresses begin to cool:
//!
//! | what | how its absence is known |
//! |---|---|
//! | links; with them their routes, neighbours, and what was queued on them | a list of all links, afterwards |
//! | source elements | a list of all elements, afterwards |
//! | sockets of the node's own processes towards the address | closed, where the kernel can |
//! | connections, translated ones included | deleted until a look at all of them finds none; no new one can come: nobody sends from the address any more, and packets for it meet its `unreachable` route |
//!
//! Cancel safety: a batch that the end of the agent interrupts is found in the journal at the next start.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tombolo_core::types::AttachmentKey;
use tombolo_netlink::{Error as NetlinkError, Kernel, Socket, conntrack, nft, sockets, wire};
use tracing::{debug, error, info, warn};

use crate::error::Error;
use crate::journal::{Phase, Record};
use crate::node::Node;
use crate::steps;

/// Links deleted at once.
const BATCH: usize = 128;
/// How often connections are looked at until none is left; then there is a pause.
const LOOKS: usize = 4;
/// Pause after a failure, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Runs until the node is gone.
pub async fn run(node: Arc<Node>, mut doomed: mpsc::UnboundedReceiver<AttachmentKey>) {
    let mut batch = Vec::new();
    let mut pause = FIRST_PAUSE;
    loop {
        if batch.is_empty() && doomed.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        batch.sort();
        batch.dedup();
        match reap(&node, &batch).await {
            Ok(left) if left.is_empty() => {
                batch.clear();
                pause = FIRST_PAUSE;
                continue;
            }
            Ok(left) => {
                warn!(attachments = left.len(), "not all of them is gone");
                batch = left;
            }
            Err(error) => {
                error!(error = error.chain(), reason = %error.reason(), "removing pod links")
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        while batch.len() < BATCH
            && let Ok(key) = doomed.try_recv()
        {
            batch.push(key);
        }
    }
}

/// One batch; the keys of which something is left.
async fn reap(node: &Arc<Node>, batch: &[AttachmentKey]) -> Result<Vec<AttachmentKey>, Error> {
    let known = batch.iter().filter_map(|key| node.record(key));
    let records: Vec<Record> = known
        .filter(|record| record.phase == Phase::Draining)
        .collect();
    let unknown = records.len() < batch.len();
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
    if unknown {
        // What belonged to no record may have been an orphan's; the comparison finds out.
        node.repair.notify_one();
    }
    Ok(left.into_iter().map(|record| record.key).collect())
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

/// Removes what is left of these attachments; those of which something is still there afterwards. Pods come and go, and
/// repairs are made, between its parts.
async fn remove(
    node: &Arc<Node>,
    records: &[Record],
    held: BTreeSet<IpAddr>,
) -> Result<BTreeSet<AttachmentKey>, Error> {
    let first = records.first().map(|record| record.key.to_string());
    let failed = |operation| {
        let key = first.clone().unwrap_or_default();
        move |source| Error::Kernel {
            operation,
            key,
            source,
        }
    };
    let targets = records.to_vec();
    let deleted = node
        .kernels
        .run(move |kernel| delete_links(kernel, &targets));
    let present = deleted.await?.map_err(failed("delete pod links"))?;
    let has_link = |record: &&Record| present.contains(&record.key.host_ifname().0);
    let (left, gone): (Vec<&Record>, Vec<&Record>) = records.iter().partition(has_link);
    let mut left: BTreeSet<AttachmentKey> = left.iter().map(|record| record.key.clone()).collect();
    let gone: Vec<Record> = gone.into_iter().cloned().collect();

    // A repair that saw an element must not find it gone when it removes it.
    let gate = node.gate.read().await;
    let targets = gone.clone();
    let forgotten = node
        .kernels
        .run(move |kernel| forget_sources(kernel, &targets));
    forgotten.await?.map_err(failed("remove source elements"))?;
    drop(gate);

    let ips: BTreeSet<IpAddr> = gone.iter().flat_map(addresses).collect();
    let forgotten = node.kernels.run(move |kernel| {
        close_sockets(&ips);
        forget_connections(kernel, &ips)
    });
    let mut named = forgotten.await?.map_err(failed("forget connections"))?;
    // To one that the cloud took from us, packets may go: it can be another node's by now.
    named.retain(|ip| held.contains(ip));
    let is_named = |record: &&Record| addresses(record).any(|ip| named.contains(&ip));
    left.extend(
        gone.iter()
            .filter(is_named)
            .map(|record| record.key.clone()),
    );
    Ok(left)
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
        wire::detach_pod(kernel, None, &record.key, record.host_ifindex, &ips)?;
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
