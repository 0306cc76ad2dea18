//! Before addresses are handed out that were not this node's a moment ago (the cloud gave them to it, or the agent was
//! away): connections that still name them are forgotten. They are of an earlier owner; a translated one would steer
//! packets of the new one. While an address is ours and no pod has it, no new ones come: packets for it meet its
//! `unreachable` route before connection tracking keeps anything, and nobody can send from it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tombolo_netlink::{Kernel, conntrack};
use tracing::info;

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
    let mut new: BTreeSet<IpAddr> = held.difference(&clean).copied().collect();
    for record in node.all_records() {
        for address in &record.addresses {
            new.remove(&address.ip);
        }
    }
    for ip in node.orphans().values().flat_map(|orphan| &orphan.addresses) {
        new.remove(ip);
    }
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
