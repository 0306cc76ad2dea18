//! A stand-in for the kubelet: registers a node, watches its pods, and runs their containers as plain processes of the
//! host's file system in network namespaces that the real plugin fills; or, where it is given one, in a container runtime.
//!
//! ```text
//!  node    registration, heartbeat, Ready
//!  pods    watch → admission (max-pods) → one worker for each pod
//!  worker    waiting for a slot ─▶ sandbox (netns, ADD; again with back-off) ─▶ containers ─▶ finished
//!               │ deleted             │ deleted                                 │ deleted      │
//!               └─────────────────────┴────▶ stop containers ─▶ DEL until it succeeds ◀────────┘
//!                                                 ─▶ remove netns ─▶ delete the object ─▶ forget
//!  state   one file for each pod, written before the namespace is made: a restarted stand-in finds its pods again
//! ```
//!
//! Like a kubelet it leaves its pods running when it ends. A container that ended meanwhile has an unknown exit code.

mod command;
mod cri;
mod events;
mod node;
mod pods;
mod process;
mod sandbox;
mod state;
mod status;
mod worker;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use crate::cni::Runner;

/// How long the end of what is under way is waited for at shutdown.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// Settings of one node.
#[derive(Clone, Debug, clap::Args)]
pub struct KubeletArgs {
    /// Name of the node.
    #[arg(long)]
    pub node: String,
    /// URL of the API server.
    #[arg(long)]
    pub api: String,
    /// providerID of the node.
    #[arg(long)]
    pub provider_id: Option<String>,
    /// An address of the node; the first of each family counts.
    #[arg(long = "node-ip", required = true)]
    pub node_ips: Vec<IpAddr>,
    /// Pods that may run here at once.
    #[arg(long, default_value_t = 110)]
    pub max_pods: u32,
    /// A directory of CNI plugins.
    #[arg(long = "cni-bin-dir", default_value = "/opt/cni/bin")]
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Where the CNI configuration is found.
    #[arg(long, default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// A plugin that takes longer is killed.
    #[arg(long, default_value_t = 220)]
    pub cni_timeout_seconds: u64,
    /// The node is Ready while something listens here (and a CNI configuration is found).
    #[arg(long, default_value = "/run/tombolo/agent.sock")]
    pub agent_socket: PathBuf,
    /// State files of pods, their logs (in `logs`), and results of plugins.
    #[arg(long, default_value = "/run/tombolo-kubelet")]
    pub state_dir: PathBuf,
    /// Where the namespaces of pods are named.
    #[arg(long, default_value = crate::netns::DIR)]
    pub netns_dir: PathBuf,
    /// Key of the taint (NoSchedule) that the node registers with; empty: none.
    #[arg(long, default_value = "tombolo.dev/agent-not-ready")]
    pub startup_taint: String,
    /// Pods that are started at once. A pod that waits for an address counts: what the node lacks shows at once.
    #[arg(long, default_value_t = 64)]
    pub parallel: usize,
    /// Socket of a container runtime: pods run as its containers. Absent: as plain processes.
    #[arg(long)]
    pub runtime_endpoint: Option<PathBuf>,
    /// The control group that containers get theirs below.
    #[arg(long, default_value = "/tombolo-kubelet")]
    pub cgroup_parent: String,
    /// Seconds between two signs of life.
    #[arg(long, default_value_t = 10)]
    pub heartbeat_seconds: u64,
}

impl KubeletArgs {
    /// The first address of each family, IPv4 first.
    fn addresses(&self) -> Vec<IpAddr> {
        let first = |v4: bool| self.node_ips.iter().copied().find(|ip| ip.is_ipv4() == v4);
        [true, false].into_iter().filter_map(first).collect()
    }
}

/// What all parts share.
struct Context {
    args: KubeletArgs,
    runner: Runner,
    runtime: Option<cri::Runtime>,
    events: events::Events,
    api: kube::Client,
    slots: Semaphore,
    stopping: watch::Receiver<bool>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Returns once the stand-in is about to end.
    async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // The sender lives as long as the stand-in; without it there is nothing to wait for either.
        let _gone = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// Runs until SIGTERM or SIGINT; pods keep running then.
///
/// # Errors
/// Where the node cannot be registered or the state directory cannot be used.
pub async fn run_kubelet(args: KubeletArgs) -> Result<()> {
    let uri = args
        .api
        .parse()
        .with_context(|| format!("--api {:?}", args.api))?;
    let mut config = kube::Config::new(uri);
    // What fails is tried again here, where it is known what it was for.
    config.default_retry = false;
    let api = kube::Client::try_from(config).context("make an API client")?;
    let runner = Runner::new(&args.cni_bin_dirs)
        .with_cache(&args.state_dir.join("cni"))
        .with_timeout(Duration::from_secs(args.cni_timeout_seconds));
    let (stop, stopping) = watch::channel(false);
    let context = Arc::new(Context {
        runner,
        runtime: cri::Runtime::connect(&args).await?,
        events: events::Events::new(api.clone(), &args.node),
        slots: Semaphore::new(args.parallel),
        api,
        stopping,
        args,
    });
    let found = state::load_all(&context.args.state_dir)?;
    node::register(&context).await?;

    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut workers = pods::Workers::new(Arc::clone(&context), found);
    tokio::select! {
        () = node::heartbeat(&context) => {}
        () = workers.watch() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(node = context.args.node, "ending; pods keep running");
    stop.send_replace(true);
    workers.finish(SHUTDOWN).await;
    Ok(())
}
