//! STATUS: whether an ADD can work now; and where it cannot, whether pods that run suffer as well.
//!
//! Runtimes call a node unusable on our word, so it is given sparingly: a pool that is empty for a moment (the operator is
//! about to fill it, addresses rest) or a node that has all the pods that it may have is well.

use std::sync::Arc;
use std::time::Duration;

use tombolo_core::ipam::Counts;
use tombolo_core::types::Reason;

use crate::attach;
use crate::config::Source;
use crate::error::Error;
use crate::journal::{Phase, Record};
use crate::node::{Node, Wired};

/// How long it waits for the node to become ready: runtimes hold a lock meanwhile.
const WAIT: Duration = Duration::from_millis(200);

/// Why an ADD cannot work.
#[derive(Debug)]
pub struct Unavailable {
    pub error: Error,
    /// What is wrong concerns pods that run, too.
    pub traffic_affected: bool,
}

/// Success: an ADD can work.
pub async fn status(node: &Arc<Node>) -> Result<(), Unavailable> {
    let outcome = match node.ready(WAIT).await {
        Ok(wired) => supplied(node, &wired).await,
        Err(error) => Err(error),
    };
    outcome.map_err(|error| Unavailable {
        error,
        traffic_affected: suffers(&node.wired.borrow(), &node.all_records()),
    })
}

/// Fails where no address is left for a further pod and none will come.
async fn supplied(node: &Arc<Node>, wired: &Wired) -> Result<(), Error> {
    let counts = node.pool.snapshot().await?.counts;
    let Some(plan) = &wired.plan else {
        return Ok(());
    };
    let mut families = plan.pool.families.iter();
    let lacks = families.any(|family| !supplies(counts.get(&family).copied().unwrap_or_default()));
    let more_to_come = match node.config.source {
        Source::File(_) => false,
        Source::Cluster { .. } => node.shortage.borrow().reason.is_none(),
    };
    let records = node.all_records();
    let full = records.len() >= usize::try_from(node.config.max_pods).unwrap_or(usize::MAX);
    if lacks && !more_to_come && !full {
        return Err(attach::no_address(node, wired, Duration::ZERO).await?);
    }
    Ok(())
}

/// Whether an ADD that waits gets an address of these without anybody's help.
const fn supplies(counts: Counts) -> bool {
    counts.free + counts.cooling + counts.draining > 0
}

/// Whether something that is known to be wrong concerns the packets of pods that run: a repair that the kernel refuses,
/// another program that takes their packets, or a NIC of theirs that is gone.
fn suffers(wired: &Wired, records: &[Record]) -> bool {
    if wired.plan.is_none() {
        return false;
    }
    let mut ready = records
        .iter()
        .filter(|record| record.phase == Phase::Ready)
        .peekable();
    if ready.peek().is_none() {
        return false;
    }
    let takes = |reason| matches!(reason, Reason::KernelError | Reason::ForeignConflict);
    wired.problems.iter().any(|problem| takes(problem.reason))
        || ready
            .flat_map(|record| &record.addresses)
            .any(|address| wired.nics.iter().all(|nic| nic.id != address.nic))
}
