//! Puts the kernel's own rules back where somebody flushed them. A described node has this with the rest of its state
//! ([`crate::resync`]); one that waits for its description has this alone, since without a way out no description comes.

use std::sync::Arc;

use tombolo_core::datapath::system_rules::{SystemRule, missing};
use tombolo_core::types::Family;
use tombolo_netlink::{Error as NetlinkError, Kernel, rule, sysctl};
use tracing::warn;

use crate::error::Error;
use crate::node::Node;
use crate::steps;

/// Puts one back.
pub fn restore(kernel: &mut Kernel, missing: &SystemRule) -> Result<(), NetlinkError> {
    steps::REPAIR_SYSTEM_RULE.around(|| kernel.route.request(rule::restore(missing)))
}

/// Says so.
pub fn restored(node: &Node, rules: &[SystemRule]) {
    for rule in rules {
        node.metrics.repaired("system-rule");
        warn!(?rule, "somebody flushed a rule of the kernel: it is back");
    }
}

/// All that is repaired as long as the node is not described.
pub async fn undescribed(node: &Arc<Node>) -> Result<(), Error> {
    let back = node.kernels.run(|kernel| {
        let found = rule::list(&mut kernel.route)?.foreign;
        let asked = rule::system_tables_asked(&found);
        let back = missing(families()?.into_iter(), &asked);
        for one in &back {
            restore(kernel, one)?;
        }
        Ok(back)
    });
    let back = back.await?.map_err(|source| Error::Kernel {
        operation: "repair",
        key: "rule of the kernel".to_owned(),
        source,
    })?;
    restored(node, &back);
    Ok(())
}

/// Those of this kernel: IPv6 may have been left out of it, or turned off as a whole.
fn families() -> Result<Vec<Family>, NetlinkError> {
    match sysctl::read("ipv6/conf/all/forwarding") {
        Ok(_) => Ok(Family::ALL.to_vec()),
        Err(error) if error.is_missing() => Ok(vec![Family::V4]),
        Err(error) => Err(error),
    }
}
