//! The tasks of an active operator: watches, inventory, leak collection, and one task a node.
//!
//! Everything here is dropped when the lease is lost, and at a shutdown, once calls that end soon are taken in. What became of
//! the others the next leader finds out, as after the end of a process that was killed (docs/adr/0010).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tombolo_api::{Eni, NetResourceSet, NetworkProfile};
use tombolo_core::eni::Term;

use crate::leaks;
use crate::node::Worker;
use crate::objects::follow;
use crate::readiness;
use crate::shared::Shared;

/// How long a shutdown waits for calls under way. A slow cloud takes longer for one than a kubelet waits for a process, and
/// until the lease is given up nobody leads.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// Runs until shutdown.
pub async fn run(
    shared: Arc<Shared>,
    client: Client,
    ready: Arc<AtomicBool>,
    mut shutdown: watch::Receiver<bool>,
) {
    // Aborted when dropped.
    let mut background = JoinSet::new();
    spawn_watches(&mut background, &shared, &client);
    let inventory = Arc::clone(&shared.inventory);
    background.spawn(async move { inventory.keep_reading().await });
    let inventory = Arc::clone(&shared.inventory);
    background.spawn(async move { inventory.keep_polling().await });
    let collector = Arc::clone(&shared);
    background.spawn(async move { leaks::keep_collecting(&collector).await });

    let mut nodes: JoinSet<String> = JoinSet::new();
    let mut begun = false;
    loop {
        // Before everything was listed and read, what is missing means nothing.
        let known = shared.objects.synced() && shared.inventory.swept();
        ready.store(known, Ordering::Relaxed);
        if known {
            if !begun {
                let all = shared.objects.nrs.list();
                let terms = all.iter().map(|nrs| Term(nrs.spec.term));
                if !shared.leadership.begins_after(terms) {
                    tracing::warn!("the objects are of a later leader: leading is taken up anew");
                    // The one who waits for that drops us.
                    drop(shutdown.wait_for(|stop| *stop).await);
                    break;
                }
                claim(&shared);
                begun = true;
            }
            for node in shared.wakers.take_queue() {
                spawn_node(&mut nodes, &shared, node, &shutdown);
            }
            shared
                .metrics
                .nodes
                .set(i64::try_from(nodes.len()).unwrap_or(i64::MAX));
        }
        tokio::select! {
            () = shared.wakers.queued() => {}
            Some(ended) = nodes.join_next() => match ended {
                Ok(node) => {
                    shared.wakers.remove(&node);
                    // Something may have come while the task was ending.
                    let objects = &shared.objects;
                    let left = objects.nodes.get(&node).is_some()
                        || objects.nrs.get(&node).is_some()
                        || !objects.enis_of(&node).is_empty();
                    if left {
                        shared.wakers.wake(&node);
                    }
                }
                Err(error) => tracing::error!(%error, "a node's task broke"),
            },
            Some(ended) = background.join_next() => {
                tracing::error!(?ended, "a background task ended");
                return;
            }
            _ = shutdown.wait_for(|stop| *stop) => break,
        }
    }
    ready.store(false, Ordering::Relaxed);
    let ended = async { while nodes.join_next().await.is_some() {} };
    if timeout(LAST_CALLS, ended).await.is_err() {
        let nodes_left = nodes.len();
        tracing::info!(nodes_left, "calls under way are left to the next leader");
        // Before the lease is given up.
        nodes.shutdown().await;
    }
}

/// What nodes list or use and the cloud shows on others has moved while nobody looked.
fn claim(shared: &Shared) {
    let all = shared.objects.nrs.list();
    let claims = all.iter().flat_map(|nrs| {
        let listed = nrs.spec.nics.iter().flat_map(|nic| nic.addresses.clone());
        let agent = nrs.status.iter().map(|status| &status.agent);
        let used = agent.flat_map(|agent| agent.in_use.keys().filter_map(|ip| ip.parse().ok()));
        let instance = &nrs.spec.instance_id;
        listed.chain(used).map(move |ip| (ip, instance.clone()))
    });
    shared.inventory.write(|snapshot| snapshot.claim(claims));
}

fn spawn_node(
    nodes: &mut JoinSet<String>,
    shared: &Arc<Shared>,
    node: String,
    shutdown: &watch::Receiver<bool>,
) {
    let Some(notify) = shared.wakers.add(&node) else {
        return;
    };
    let worker = Worker::new(Arc::clone(shared), &node);
    let shutdown = shutdown.clone();
    nodes.spawn(async move {
        worker.run(notify, shutdown).await;
        node
    });
}

fn spawn_watches(tasks: &mut JoinSet<()>, shared: &Arc<Shared>, client: &Client) {
    let (all, client_of) = (Arc::clone(shared), client.clone());
    tasks.spawn(async move {
        let changed = |name: &str, old: Option<&Node>, new: Option<&Node>| {
            // Heartbeats change nothing for us.
            if old.map(of_interest) != new.map(of_interest) {
                all.wakers.wake(name);
            }
        };
        follow::<Node>(
            client_of,
            &all.objects.nodes,
            &all.events,
            &all.metrics,
            &all.wakers,
            changed,
        )
        .await;
    });
    let (all, client_of) = (Arc::clone(shared), client.clone());
    tasks.spawn(async move {
        let changed = |name: &str, _: Option<&NetResourceSet>, _: Option<&NetResourceSet>| {
            all.wakers.wake(name);
        };
        follow::<NetResourceSet>(
            client_of,
            &all.objects.nrs,
            &all.events,
            &all.metrics,
            &all.wakers,
            changed,
        )
        .await;
    });
    let (all, client_of) = (Arc::clone(shared), client.clone());
    tasks.spawn(async move {
        let changed = |_: &str, old: Option<&Eni>, new: Option<&Eni>| {
            for eni in [old, new].into_iter().flatten() {
                all.wakers.wake(&eni.spec.node);
            }
        };
        follow::<Eni>(
            client_of,
            &all.objects.enis,
            &all.events,
            &all.metrics,
            &all.wakers,
            changed,
        )
        .await;
    });
    let (all, client_of) = (Arc::clone(shared), client.clone());
    tasks.spawn(async move {
        let changed =
            |_: &str, _: Option<&NetworkProfile>, _: Option<&NetworkProfile>| all.wakers.wake_all();
        follow::<NetworkProfile>(
            client_of,
            &all.objects.profiles,
            &all.events,
            &all.metrics,
            &all.wakers,
            changed,
        )
        .await;
    });
}

/// What of a Node we look at.
fn of_interest(node: &Node) -> impl PartialEq + use<> {
    let provider = node.spec.as_ref().and_then(|spec| spec.provider_id.clone());
    let labels: Vec<_> = node
        .labels()
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    (node.uid(), provider, labels, readiness::of_interest(node))
}
