//! A firewall of another that drops what nodes forward: an accept of ours cannot overrule it, so it is named. Whether its
//! rules accept pods' packets is its administrator's to know.

use std::sync::Arc;

use tombolo_core::types::Reason;
use tombolo_netlink::nft::{self, ForwardDrop};

use crate::error::Error;
use crate::node::{Node, Problem};
use crate::spec::Plan;

/// What is to be named now. No lock is held meanwhile: others may have many chains.
pub async fn find(node: &Arc<Node>, plan: &Plan) -> Result<Vec<Problem>, Error> {
    let drops = node
        .kernels
        .run(|kernel| nft::forward_drops(&mut kernel.netfilter))
        .await?;
    let drops = drops.map_err(|source| Error::Kernel {
        operation: "list",
        key: "chains of others".to_owned(),
        source,
    })?;
    let of_pods = |drop: &&ForwardDrop| {
        let families = plan.pool.families;
        drop.family
            .is_none_or(|family| families.iter().any(|ours| ours == family))
    };
    Ok(drops.iter().filter(of_pods).map(problem).collect())
}

fn problem(drop: &ForwardDrop) -> Problem {
    Problem {
        reason: Reason::ForeignConflict,
        message: format!(
            "nft chain \"{drop}\" drops forwarded packets that its own rules do not accept, those of pods included"
        ),
        serving: true,
    }
}

/// Whether this is such a problem: it may be over when a chain of another goes.
pub fn is_one(problem: &Problem) -> bool {
    problem.reason == Reason::ForeignConflict && problem.message.starts_with("nft chain ")
}
