//! Keeps our network configuration where the runtime reads it: what makes a node Ready for its kubelet.
//!
//! ```text
//!   serving, and pods can be attached for the first time
//!        │
//!        ▼
//!   write where it differs ─▶ who stands before us? ─▶ take over, where told ─▶ the node's problems
//!        ▲                                                      │
//!        └────── the directory changed, or by the clock ◀───────┘
//! ```
//! It stays when the agent ends, and when pods cannot be attached any more: without it the runtime would take another
//! network, or could not even release the pods that it has. STATUS and the plugin's own error say so instead.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::WatchFlags;
use tokio::sync::mpsc;
use tombolo_cni_dir::{Error, Outcome, Rival};
use tombolo_core::types::Reason;
use tracing::{error, info, warn};

use crate::config::Cni;
use crate::error::chain;
use crate::inotify;
use crate::node::{Node, Problem};

/// Least time between two writes: somebody may write there whatever we write, and must not keep us busy.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until the node is gone.
pub async fn run(node: Arc<Node>, cni: Cni) {
    let mut wired = node.wired.subscribe();
    if wired.wait_for(|wired| wired.is_ready()).await.is_err() {
        return;
    }
    let mut changes = None;
    loop {
        // Before the first look, so that no change falls between. The directory may have been made anew.
        if changes.is_none() {
            changes = listen(&cni.conf_dir);
        }
        let (conf, problems) = look(&node, &cni).await;
        let problems = problems.into_iter().map(problem).collect::<Vec<_>>();
        let news = node.rivals.send_if_modified(|known| {
            let news = *known != problems;
            *known = problems;
            news
        });
        if news {
            node.repair.notify_one();
        }
        let wait = match conf {
            Ok(Outcome::Unchanged) => node.config.resync,
            // A change that comes meanwhile is seen afterwards.
            Ok(Outcome::Created | Outcome::Replaced) => {
                tokio::time::sleep(PAUSE).await;
                node.config.resync
            }
            Err(()) => {
                changes = None;
                PAUSE
            }
        };
        if !changed(&mut changes, wait).await {
            changes = None;
        }
    }
}

fn listen(dir: &Path) -> Option<mpsc::Receiver<()>> {
    let kinds = WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB;
    match inotify::watch(dir, kinds) {
        Ok(changes) => Some(changes),
        Err(error) => {
            warn!(%error, directory = %dir.display(), "changes of network configurations are only seen by the clock");
            None
        }
    }
}

/// Waits for a change, or for the time to be over; whether changes can still be seen.
async fn changed(changes: &mut Option<mpsc::Receiver<()>>, wait: Duration) -> bool {
    match changes {
        Some(receiver) => {
            let change = tokio::time::timeout(wait, receiver.recv()).await;
            !matches!(change, Ok(None))
        }
        None => {
            tokio::time::sleep(wait).await;
            false
        }
    }
}

/// Writes, looks around and takes over; failures are told and come back with the next look.
async fn look(node: &Arc<Node>, cni: &Cni) -> (Result<Outcome, ()>, Vec<Rival>) {
    let told = |operation: &'static str, error: &dyn std::error::Error| {
        error!(operation, error = chain(error), reason = %Reason::KernelError, "network configuration");
        node.metrics.failed("conflist", Reason::KernelError);
    };
    let cni = cni.clone();
    let work = tokio::task::spawn_blocking(move || {
        let kept = tombolo_cni_dir::keep_conflist(&cni.conf_dir, &cni.conflist);
        let taken = match (&kept, cni.take_over) {
            (Ok(_), true) => tombolo_cni_dir::take_over(&cni.conf_dir),
            _ => Ok(Vec::new()),
        };
        (kept, taken, tombolo_cni_dir::rivals(&cni.conf_dir))
    });
    let (kept, taken, rivals): (Result<_, Error>, Result<_, Error>, Result<_, Error>) =
        match work.await {
            Ok(all) => all,
            Err(error) => {
                told("task", &error);
                return (Err(()), Vec::new());
            }
        };
    match &kept {
        Ok(Outcome::Unchanged) => {}
        Ok(outcome) => info!(
            file = tombolo_cni_dir::CONFLIST,
            ?outcome,
            "the network configuration is written"
        ),
        Err(error) => told("write", error),
    }
    match taken {
        Ok(names) => names.iter().for_each(|name| {
            warn!(
                file = name,
                "renamed: runtimes would have taken its network and not ours"
            )
        }),
        Err(error) => told("take over", &error),
    }
    let rivals = rivals.unwrap_or_else(|error| {
        told("list", &error);
        Vec::new()
    });
    (kept.map_err(drop), rivals)
}

fn problem(rival: Rival) -> Problem {
    Problem {
        reason: Reason::ForeignConflict,
        message: format!("network configuration {rival}"),
        serving: true,
    }
}
