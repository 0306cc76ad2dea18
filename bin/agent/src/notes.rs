//! Catches up with DELs that came while no agent answered. The plugin left a note for each ([`crate::journal::Notes`]).
//!
//! ```text
//!   plugin: no answer ─▶ note ─▶ success          agent: start ┐
//!                          │                             clock ├─▶ list ─▶ each: lock key ─▶ still there? ─▶ detach ─▶ gone
//!                          └──── notification ─────────────────┘
//!   ADD of the same key:  lock key ─▶ there? ─▶ detach ─▶ gone ─▶ make the new attachment
//! ```
//! The directory is watched before it is read for the first time, and read again by the clock: a note that is written at
//! any moment is seen. A later ADD of a key that has a note is not told to stop, as by a DEL: it came after the note.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use rustix::fs::inotify::WatchFlags;
use tokio::sync::mpsc;
use tombolo_core::types::{AttachmentKey, Reason};
use tracing::{error, info, warn};

use crate::detach;
use crate::error::{Error, chain};
use crate::inotify;
use crate::node::Node;
use crate::steps;

/// Keys at a time. More than the kernel takes at once: one may wait long for its lock.
const WIDTH: usize = 16;
/// Pause before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until the node is gone.
pub async fn run(node: Arc<Node>) {
    let kinds = WatchFlags::CREATE | WatchFlags::MOVED_TO;
    let mut changes = match inotify::watch(node.notes.dir(), kinds) {
        Ok(changes) => Some(changes),
        Err(error) => {
            warn!(%error, "notes of the plugin are only seen by the clock");
            None
        }
    };
    loop {
        let pause = match catch_up(&node).await {
            Ok(()) => node.config.resync,
            Err(error) => {
                error!(error = error.chain(), reason = %error.reason(), "notes of the plugin");
                node.metrics.failed("note", error.reason());
                PAUSE
            }
        };
        if !changed(&mut changes, pause).await {
            changes = None;
        }
    }
}

/// Waits for a change, or for the time to be over; whether changes can still be seen.
async fn changed(changes: &mut Option<mpsc::Receiver<()>>, pause: Duration) -> bool {
    match changes {
        Some(receiver) => {
            let change = tokio::time::timeout(pause, receiver.recv()).await;
            !matches!(change, Ok(None))
        }
        None => {
            tokio::time::sleep(pause).await;
            false
        }
    }
}

/// Obeys all notes that are there now; goes on through failures and returns the first.
async fn catch_up(node: &Arc<Node>) -> Result<(), Error> {
    let notes = node.notes.clone();
    let (keys, quarantined) = tokio::task::spawn_blocking(move || notes.list()).await??;
    for file in quarantined {
        let error = chain(&file.error);
        error!(moved_to = %file.moved_to.display(), error, "a note of the plugin cannot be used and was set aside");
        node.metrics.failed("journal", Reason::JournalError);
    }
    if keys.is_empty() {
        return Ok(());
    }
    let count = keys.len();
    let outcomes = futures::stream::iter(keys)
        .map(|key| async move {
            let _guard = node.keys.lock(&key, None).await;
            heed(node, &key).await
        })
        .buffer_unordered(WIDTH);
    let failures: Vec<Error> = outcomes
        .filter_map(|outcome| std::future::ready(outcome.err()))
        .collect()
        .await;
    let failed = failures.len();
    info!(count, failed, "DELs that came while no agent answered");
    failures.into_iter().next().map_or(Ok(()), Err)
}

/// With the key held: does what the note for it says, if there is one.
pub async fn heed(node: &Arc<Node>, key: &AttachmentKey) -> Result<(), Error> {
    if !node.notes.has(key) {
        return Ok(());
    }
    info!(%key, "detached, as the plugin's note says");
    detach::held(node, key, None).await?;
    forget(node, key).await
}

/// With the key held, and what the note asks for done.
pub async fn forget(node: &Arc<Node>, key: &AttachmentKey) -> Result<(), Error> {
    if !node.notes.has(key) {
        return Ok(());
    }
    let (notes, key) = (node.notes.clone(), key.clone());
    let remove = move || steps::NOTE_GONE.around(|| notes.remove(&key));
    Ok(tokio::task::spawn_blocking(remove).await??)
}
