//! Before addresses are handed out that were not this node's a moment ago (the cloud gave them to it, or the agent was
//! away): connections that still name them are forgotten. They are of an earlier owner; a translated one would steer
//! packets of the new one. While an address is ours and no pod has it, no new ones come: packets for it meet its
//! `unreachable` route before connection tracking keeps anything, and nobody can send from it. What a program plants there
//! nevertheless is swept out by the clock: to look at ADD would cost a walk through all connections, twice the rest of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tombolo_netlink::{Kernel, conntrack};
use tracing::{info, warn};

use crate::error::Error;
use crate::node::Node;
use crate::spec::Plan;
use crate::steps;

/// Addresses of which nothing old is left.
#[derive(Debug, Default)]
pub struct Clean(Mutex<BTreeSet<IpAddr>>);

/// Cleans those that are new in `plan`. The pool does not hand them out yet, so that no ADD can have one meanwhile; what
/// pods have had since before is left alone.
pub async fn scrub(node: &Arc<Node>, plan: &Plan) -> Result<(), Error> {
    let held = plan.held();
    let clean = node.clean.get();
    let new = without_pod(node, held.difference(&clean).copied());
    if !new.is_empty() {
        let forget = move |kernel: &mut Kernel| {
            let forget = || conntrack::delete_addresses(&mut kernel.netfilter, &new);
            steps::SCRUB_CONNECTIONS.around(forget)
        };
        let deleted = node.kernels.run(forget).await?;
        let deleted = deleted.map_err(|source| Error::Kernel {
            operation: "forget connections",
            key: "addresses that are new".to_owned(),
            source,
        })?;
        if !deleted.is_empty() {
            let addresses: BTreeSet<IpAddr> = deleted.iter().copied().collect();
            info!(
                connections = deleted.len(),
                ?addresses,
                "forgot connections of earlier owners"
            );
        }
    }
    node.clean.set(held);
    Ok(())
}

/// Forgets what was planted for addresses that no pod has. The walk is made beside running ADDs; only if it finds
/// something, they wait until what it found is gone.
pub async fn sweep(node: &Arc<Node>) -> Result<(), Error> {
    let failed = |source| Error::Kernel {
        operation: "forget connections",
        key: "addresses without pod".to_owned(),
        source,
    };
    let idle = without_pod(node, node.clean.get().into_iter());
    let found = node
        .kernels
        .run(move |kernel| conntrack::find(&mut kernel.netfilter, &idle));
    let mut found = found.await?.map_err(failed)?;
    if found.is_empty() {
        return Ok(());
    }
    let _closed = node.gate.write().await;
    // A pod that came meanwhile has what was found, or made it.
    let idle = without_pod(node, found.iter().map(|entry| entry.ip));
    found.retain(|entry| idle.contains(&entry.ip));
    let deleted = node
        .kernels
        .run(move |kernel| conntrack::delete(&mut kernel.netfilter, found));
    let deleted: BTreeSet<IpAddr> = deleted.await?.map_err(failed)?.into_iter().collect();
    if !deleted.is_empty() {
        warn!(addresses = ?deleted, "somebody put connections in for addresses that no pod has: forgotten");
    }
    Ok(())
}

/// Those that no attachment and no unknown pod link has.
fn without_pod(node: &Node, ips: impl Iterator<Item = IpAddr>) -> BTreeSet<IpAddr> {
    let mut idle: BTreeSet<IpAddr> = ips.collect();
    for record in node.all_records() {
        for address in &record.addresses {
            idle.remove(&address.ip);
        }
    }
    for ip in node.orphans().values().flat_map(|orphan| &orphan.addresses) {
        idle.remove(ip);
    }
    idle
}

impl Clean {
    fn get(&self) -> BTreeSet<IpAddr> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, clean: BTreeSet<IpAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = clean;
    }
}
