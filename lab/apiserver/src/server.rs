//! The process: arguments, tasks, start and end.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::serve::ListenerExt;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::Api;
use crate::http::{App, router};
use crate::listen::{self, InNamespace};
use crate::{gc, load, scheduler};

/// Time that requests under way get at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves a small Kubernetes API over plain HTTP.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Listen here; repeatable. Port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "listen_in")]
    pub listen: Vec<SocketAddr>,
    /// Listen inside another network namespace; repeatable
    #[arg(long, value_name = "NETNS_PATH=ADDR:PORT")]
    pub listen_in: Vec<InNamespace>,
    /// Apply a manifest or a directory of them at start; repeatable
    #[arg(long, value_name = "PATH")]
    pub load: Vec<PathBuf>,
    /// Changes kept for watches, a kind
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub history: usize,
    /// Seconds between bookmarks of a watch
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub bookmark_seconds: u64,
    /// Bind pending pods to nodes
    #[arg(long)]
    pub scheduler: bool,
}

impl Default for Args {
    /// A free port on loopback, nothing loaded, no scheduler.
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            listen_in: Vec::new(),
            load: Vec::new(),
            history: 4096,
            bookmark_seconds: 60,
            scheduler: false,
        }
    }
}

/// A running server. Dropped without [`Server::stop`], it ends at once.
#[derive(Debug)]
pub struct Server {
    addrs: Vec<SocketAddr>,
    app: Arc<App>,
    ending: watch::Sender<bool>,
    listeners: JoinSet<()>,
    /// Collector and scheduler.
    workers: JoinSet<()>,
}

impl Server {
    /// Loads, listens and serves; must be called in a tokio runtime.
    ///
    /// # Errors
    /// Where a manifest is not taken or a socket cannot be made.
    pub fn start(args: &Args) -> anyhow::Result<Self> {
        // Versions rise across restarts too, so that a client's old version is expired and not somebody else's.
        let version = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let api = Arc::new(Api::new(version, args.history)?);
        for path in &args.load {
            let count = load::load(&api, path)?;
            tracing::info!(path = %path.display(), count, "manifests loaded");
        }
        let mut sockets = Vec::new();
        for addr in &args.listen {
            sockets.push(listen::here(*addr)?);
        }
        for place in &args.listen_in {
            sockets.push(listen::there(place)?);
        }
        let bookmarks = Duration::from_secs(args.bookmark_seconds.max(1));
        let app = Arc::new(App::new(api.clone(), bookmarks));
        let mut server = Self {
            addrs: Vec::new(),
            app,
            ending: watch::channel(false).0,
            listeners: JoinSet::new(),
            workers: JoinSet::new(),
        };
        for socket in sockets {
            server.serve(socket)?;
        }
        server.workers.spawn(gc::run(api.clone()));
        if args.scheduler {
            server.workers.spawn(scheduler::run(api));
        }
        Ok(server)
    }

    fn serve(&mut self, socket: std::net::TcpListener) -> anyhow::Result<()> {
        socket
            .set_nonblocking(true)
            .context("make a socket non-blocking")?;
        let socket = TcpListener::from_std(socket).context("hand a socket to the runtime")?;
        self.addrs
            .push(socket.local_addr().context("address of a socket")?);
        // Watch events are small and must not wait for each other.
        let socket = socket.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "set TCP_NODELAY");
            }
        });
        let mut ending = self.ending.subscribe();
        let service = router(self.app.clone());
        self.listeners.spawn(async move {
            let end = async move {
                // An error means that the server was dropped.
                let _ = ending.wait_for(|end| *end).await;
            };
            if let Err(error) = axum::serve(socket, service)
                .with_graceful_shutdown(end)
                .await
            {
                tracing::error!(%error, "serving ended");
            }
        });
        Ok(())
    }

    /// Where it listens, in the order of the arguments, with real ports.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// `http://` and the first address.
    pub fn url(&self) -> String {
        self.addrs
            .first()
            .map_or_else(String::new, |a| format!("http://{a}"))
    }

    /// Answers 503 for that time and ends all watches.
    pub fn pause(&self, time: Duration) {
        self.app.pause(time);
    }

    /// Ends watches, lets requests under way end, and ends.
    pub async fn stop(mut self) {
        self.workers.shutdown().await;
        self.ending.send_replace(true);
        self.app.cut_watches();
        let drained = async { while self.listeners.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("some connections did not end in time");
            self.listeners.shutdown().await;
        }
    }
}

/// Serves until SIGINT or SIGTERM. Prints `ready <addr> ...` on stdout once it listens.
///
/// # Errors
/// As [`Server::start`].
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let server = Server::start(&args)?;
    let addrs: Vec<String> = server.addrs().iter().map(SocketAddr::to_string).collect();
    {
        let mut out = std::io::stdout().lock();
        writeln!(out, "ready {}", addrs.join(" ")).context("write to stdout")?;
        out.flush().context("write to stdout")?;
    }
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.stop().await;
    Ok(())
}
