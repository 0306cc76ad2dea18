//! The agent's side of Kubernetes. Nothing here is needed by ADD or DEL: each task is level-triggered, compares what it
//! wants with what the API server last showed, and tries again after a failure.
//!
//! ```text
//!   specification ◀── watch of our NetResourceSet ──▶ node.accept
//!   status        ──▶ NetResourceSet.status.agent and its Ready condition
//!   endpoints     ──▶ PodEndpoints of this node
//!   problems      ──▶ Events
//! ```

mod client;
mod endpoints;
mod events;
mod problems;
mod specification;
mod status;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::node::Node;

/// Pause after a failed write.
const RETRY: Duration = Duration::from_secs(1);

/// What all tasks share.
#[derive(Debug)]
struct Cluster {
    node: Arc<Node>,
    node_name: String,
    events: events::Events,
    /// Our NetResourceSet as last seen, undecoded.
    object: watch::Sender<Option<Arc<Value>>>,
}

/// Connects and starts all tasks. The API server need not be there: they wait for it.
pub async fn start(
    node: &Arc<Node>,
    node_name: String,
    api_server: Option<http::Uri>,
) -> anyhow::Result<()> {
    let client = client::connect(api_server).await?;
    let cluster = Arc::new(Cluster {
        node: Arc::clone(node),
        events: events::Events::new(client.clone(), &node_name),
        node_name,
        object: watch::Sender::new(None),
    });
    tokio::spawn(specification::run(Arc::clone(&cluster), client.clone()));
    tokio::spawn(status::run(Arc::clone(&cluster), client.clone()));
    tokio::spawn(endpoints::run(Arc::clone(&cluster), client));
    tokio::spawn(problems::run(cluster));
    Ok(())
}
