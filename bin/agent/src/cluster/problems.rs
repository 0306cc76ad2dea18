//! Problems that begin become Events. What lasts is in the condition Ready (`status.rs`), from which the operator tells the
//! Node: agents have no right to write Nodes (docs/adr/0012).

use std::sync::Arc;

use super::Cluster;
use crate::node::Problem;

/// Runs as long as the agent.
pub async fn run(cluster: Arc<Cluster>) {
    let mut wired = cluster.node.wired.subscribe();
    let mut told: Vec<Problem> = Vec::new();
    loop {
        let now = wired.borrow_and_update().clone();
        for problem in now.problems.iter().filter(|p| !told.contains(p)) {
            cluster.events.warn(problem.reason, &problem.message);
        }
        told.clone_from(&now.problems);
        if wired.changed().await.is_err() {
            return;
        }
    }
}
