//! DEL, and the undoing of an ADD. Success for whatever is not there.
//!
//! ```text
//!   tell waiting ADDs ─▶ lock key ─▶ pool: release ─▶ journal: draining ─▶ detach (names, routes, sources) ─▶ answer
//!                                                                        └─▶ reaper: link gone ─▶ cooling ─▶ journal: gone
//! ```
//! Only what carries this key's interface name and index is touched; an address that is another key's by now is not.

use std::net::IpAddr;
use std::sync::Arc;

use tombolo_core::datapath::OwnTable;
use tombolo_core::types::AttachmentKey;
use tombolo_netlink::Netns;
use tombolo_netlink::wire::{self, PodSide};
use tracing::warn;

use crate::error::Error;
use crate::journal::{Phase, Record};
use crate::node::Node;
use crate::notes;
use crate::steps;

/// Detaches a key; `netns` is the pod's, where it could be opened.
pub async fn detach(
    node: &Arc<Node>,
    key: &AttachmentKey,
    netns: Option<Arc<Netns>>,
) -> Result<(), Error> {
    node.keys.supersede(key);
    let _guard = node.keys.lock(key, None).await;
    held(node, key, netns).await?;
    // An earlier attempt of this DEL may have found no agent.
    notes::forget(node, key).await
}

/// With the key held.
pub async fn held(
    node: &Arc<Node>,
    key: &AttachmentKey,
    netns: Option<Arc<Netns>>,
) -> Result<(), Error> {
    match node.record(key) {
        None => unknown(node, key, netns).await,
        // An earlier DEL did the rest, or the reaper still does. By now its addresses may be another's.
        Some(record) if record.phase == Phase::Draining => release_name(node, record, netns).await,
        Some(record) => drain(node, record, netns).await,
    }
}

/// Nothing is known of the key. What carries its names is removed all the same: the journal may have been lost.
async fn unknown(
    node: &Arc<Node>,
    key: &AttachmentKey,
    netns: Option<Arc<Netns>>,
) -> Result<(), Error> {
    let ifname = key.host_ifname().0;
    let orphan = node
        .orphans()
        .into_iter()
        .find(|(_, orphan)| orphan.ifname == ifname);
    let (ifindex, addresses) = orphan
        .map(|(index, orphan)| (Some(index), orphan.addresses))
        .unwrap_or_default();
    let owned = key.clone();
    let gate = node.gate.read().await;
    let detached = node.kernels.run(move |kernel| {
        // Rules of its own in the pod lead to an empty table, and so nowhere; the next one of the name removes them.
        let own = OwnTable::default();
        wire::detach_pod(kernel, netns.as_deref(), &owned, ifindex, &addresses, &own)
    });
    let detached = detached.await?.map_err(Error::kernel("detach", key));
    drop(gate);
    if node.doomed.send(key.clone()).is_err() {
        return Err(Error::Stopping);
    }
    detached
}

async fn release_name(
    node: &Arc<Node>,
    record: Record,
    netns: Option<Arc<Netns>>,
) -> Result<(), Error> {
    let Some(netns) = netns else { return Ok(()) };
    let key = record.key.clone();
    let released = node.kernels.run(move |_| {
        let (mac, _) = record.key.macs();
        PodSide::open(&netns)?.release_name(&record.key.ifname, mac, &record.own_table())
    });
    let released = released.await?;
    released.map_err(Error::kernel("free the interface name", &key))
}

/// Takes a known attachment apart. The caller holds its key. Goes on through failures and reports the first: whatever is
/// left, the reaper removes.
pub async fn drain(
    node: &Arc<Node>,
    record: Record,
    netns: Option<Arc<Netns>>,
) -> Result<(), Error> {
    let key = record.key.clone();
    node.pool.release(&key).await?;
    let gate = node.gate.read().await;
    let record = Record {
        phase: Phase::Draining,
        ..record
    };
    node.put_record(record.clone());
    let journal = node.journal.clone();
    let work = node.kernels.run(move |kernel| {
        let noted = steps::DEL_JOURNAL_DRAINING
            .around(|| journal.write(&record))
            .map_err(Error::from);
        let addresses: Vec<IpAddr> = record.addresses.iter().map(|address| address.ip).collect();
        let detached = wire::detach_pod(
            kernel,
            netns.as_deref(),
            &record.key,
            record.host_ifindex,
            &addresses,
            &record.own_table(),
        )
        .map_err(Error::kernel("detach", &record.key));
        (noted, detached)
    });
    let done = work.await;
    drop(gate);
    if node.doomed.send(key.clone()).is_err() {
        return Err(Error::Stopping);
    }
    let (noted, detached) = done?;
    if let (Err(noted), Err(_)) = (&noted, &detached) {
        warn!(error = noted.chain(), reason = %noted.reason(), "the journal failed, too");
    }
    detached.and(noted)
}
