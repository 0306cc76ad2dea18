//! What follows a DEL, in the background: doomed links are deleted in batches (each deletion costs grace periods, a batch
//! costs one), connections of the addresses are forgotten, the links' absence is verified, and only then do the addresses
//! begin to cool.
//!
//! Cancel safety: a batch that the end of the agent interrupts is found in the journal at the next start.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tombolo_core::types::AttachmentKey;
use tombolo_netlink::{Error as NetlinkError, Kernel, conntrack, wire};
use tracing::{debug, error, warn};

use crate::error::Error;
use crate::journal::{Phase, Record};
use crate::node::Node;
use crate::steps::Steps;

/// Links deleted at once.
const BATCH: usize = 128;
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
                warn!(links = left.len(), "pod links are still there");
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
    let targets = records.clone();
    let crash_at = node.config.crash_at.clone();
    let first = batch.first().map(ToString::to_string).unwrap_or_default();
    let reaped = node.kernels.run(move |kernel| {
        let mut steps = Steps::new("reap", crash_at.as_ref());
        let present = steps.run(|| delete_links(kernel, &targets));
        (present, steps.done())
    });
    let (present, done) = reaped.await?;
    let present = present.map_err(|source| Error::Kernel {
        operation: "delete pod links",
        key: first,
        source,
    })?;
    let (left, gone): (Vec<Record>, Vec<Record>) = records
        .into_iter()
        .partition(|record| present.contains(&record.key.host_ifname().0));
    for record in gone {
        let mut steps = Steps::resume("reap", done, node.config.crash_at.as_ref());
        steps.begin();
        node.pool.removed(&record.key).await?;
        steps.end();
        let journal = node.journal.clone();
        let key = record.key.clone();
        steps.begin();
        tokio::task::spawn_blocking(move || journal.remove(&key)).await??;
        steps.end();
        node.drop_record(&record.key);
        debug!(key = %record.key, "nothing is left of it");
    }
    if unknown {
        // What belonged to no record may have been an orphan's; the comparison finds out.
        node.repair.notify_one();
    }
    Ok(left.into_iter().map(|record| record.key).collect())
}

/// Deletes what is doomed, and detaches again what is not (an earlier attempt failed). Returns the names of the pod links
/// that are there afterwards.
fn delete_links(kernel: &mut Kernel, records: &[Record]) -> Result<BTreeSet<String>, NetlinkError> {
    wire::reap_doomed(kernel)?;
    let ips = records.iter().flat_map(addresses).collect();
    conntrack::delete_addresses(&mut kernel.netfilter, &ips)?;
    let names = |kernel: &mut Kernel| -> Result<BTreeSet<String>, NetlinkError> {
        Ok(wire::pod_links(kernel)?
            .into_iter()
            .map(|link| link.name)
            .collect())
    };
    let present = names(kernel)?;
    let left: Vec<&Record> = records
        .iter()
        .filter(|record| present.contains(&record.key.host_ifname().0))
        .collect();
    if left.is_empty() {
        return Ok(present);
    }
    for record in left {
        wire::detach_pod(
            kernel,
            None,
            &record.key,
            record.host_ifindex,
            &addresses(record),
        )?;
    }
    wire::reap_doomed(kernel)?;
    names(kernel)
}

fn addresses(record: &Record) -> Vec<IpAddr> {
    record.addresses.iter().map(|address| address.ip).collect()
}
