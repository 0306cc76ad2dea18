//! The life of the agent: restore, wire the node, then serve; at the end, let running requests finish (not those that only
//! wait), and change nothing.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, OFlags, flock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tombolo_netlink::events::Events;
use tracing::{error, info};

use crate::config::{Config, Source};
use crate::error::{Error, chain};
use crate::journal::{Journal, Notes};
use crate::kernels::Kernels;
use crate::node::Node;
use crate::spec::{self, Plan};
use crate::{
    cluster, conflist, http, notes, reaper, restore, resync, rpc, standalone, steps, watch,
};

/// Runs until SIGTERM or SIGINT. Returns the lock of the run directory, for as long as work is under way that nobody awaits.
pub async fn run(config: Config) -> anyhow::Result<std::fs::File> {
    // Before the first look, so that no change falls between.
    let events = Events::open().context("subscribe to kernel notifications")?;
    let kernels = Kernels::open().context("open kernel sockets")?;
    let journal = Journal::open(&config.run_dir).context("open the journal")?;
    let notes = Notes::open(&config.socket, journal.quarantine_dir())
        .context("open the directory of the plugin's notes")?;
    let lock = lock(&config.run_dir)?;
    let (doomed, doomed_receiver) = mpsc::unbounded_channel();
    let node = Node::new(config, kernels, journal, notes, doomed);

    recall(&node);
    restore::restore(&node).await.context("restore")?;
    tokio::spawn(reaper::run(Arc::clone(&node), doomed_receiver));
    tokio::spawn(notes::run(Arc::clone(&node)));
    if let Source::File(path) = &node.config.source
        && let Err(error) = standalone::read(&node, path).await
    {
        anyhow::ensure!(node.plan.borrow().is_some(), error);
        error!(error = chain(&error), "the last specification is used");
    }
    if let Err(error) = resync::pass(&node).await {
        error!(error = error.chain(), reason = %error.reason(), "first comparison with the kernel");
        node.look_again_soon();
    }
    watch::start(Arc::clone(&node), events).context("start to listen to the kernel")?;
    tokio::spawn(resync::run(Arc::clone(&node)));
    match node.config.source.clone() {
        Source::File(path) => drop(tokio::spawn(standalone::run(Arc::clone(&node), path))),
        Source::Cluster {
            node_name,
            api_server,
        } => {
            cluster::start(&node, node_name, api_server)
                .await
                .context("connect to the API server")?;
        }
    }
    for (address, audience) in [
        (node.config.http, http::Audience::Node),
        (node.config.metrics_listen, http::Audience::Others),
    ] {
        let Some(address) = address else { continue };
        let server = http::serve(Arc::clone(&node), address, audience);
        tokio::spawn(async move {
            if let Err(error) = server.await {
                error!(%error, %address, "HTTP server");
            }
        });
    }
    serve(&node).await?;
    Ok(lock)
}

async fn serve(node: &Arc<Node>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("await SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("await SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("asked to end: running requests finish, the data path stays");
    };
    let listener = rpc::bind(&node.config.socket)?;
    info!(socket = %node.config.socket.display(), ready = node.wired.borrow().is_ready(), "serving");
    if let Some(cni) = node.config.cni.clone() {
        tokio::spawn(conflist::run(Arc::clone(node), cni));
    }
    rpc::serve(Arc::clone(node), listener, stop)
        .await
        .context("serve the plugin")
}

/// One agent a run directory. The lock ends with the process, however that ends.
pub fn lock(run_dir: &Path) -> anyhow::Result<std::fs::File> {
    let path = run_dir.join("lock");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let file = steps::START_LOCK
        .around(|| options.open(&path))
        .with_context(|| format!("open {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another agent uses {}", run_dir.display()))?;
    Ok(file)
}

/// The specification that an earlier agent kept: pods can be served before anybody else answers.
fn recall(node: &Arc<Node>) {
    let cached = match spec::read_cache(&node.config.run_dir) {
        Ok(Some(cached)) => cached,
        Ok(None) => return,
        Err(error) => {
            return error!(
                error = chain(&error),
                "the kept specification cannot be used"
            );
        }
    };
    match Plan::new(cached.generation, &cached.spec, node.config.max_pods).map_err(Error::from) {
        Ok(plan) => {
            info!(
                generation = plan.generation,
                nics = plan.nics.len(),
                "begins with the kept specification"
            );
            node.plan.send_replace(Some(Arc::new(plan)));
        }
        Err(error) => {
            error!(error = error.chain(), reason = %error.reason(), "the kept specification is refused")
        }
    }
}
