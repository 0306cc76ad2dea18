//! The VPC's process: owns the model, drives the fabric, serves the APIs.
//!
//! Calls change the model under its lock; the driver hands the fabric what the model desires, tells the model what is plugged,
//! and announces the generation that is in place. A lock in the state directory keeps two servers of one lab apart.

mod dispatch;
mod http;
mod shared;

#[cfg(test)]
pub(crate) use dispatch::cloud as cloud_call;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::AdminClient;
use crate::config::Config;
use crate::fabric::{self, Fabric, NsError, Outcome, Sockets};
use crate::model::Model;
use shared::Shared;

/// Links are compared with the kernel this often, to find those that vanished.
const RESYNC: Duration = Duration::from_millis(200);

/// Name of the socket in the state directory.
pub const SOCKET: &str = "vpc.sock";

/// A server that could not start or stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The lab's name would not make good namespace names.
    #[error("lab name {0:?}: 1 to 20 lower-case letters and digits are wanted")]
    Name(String),
    /// Something about the state directory.
    #[error("{what} {path}")]
    State {
        /// The operation.
        what: &'static str,
        /// The file or directory.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another server of this lab runs.
    #[error("the VPC of lab {0:?} is running already")]
    Running(String),
    /// The fabric.
    #[error("build the fabric")]
    Fabric(#[from] NsError),
    /// The fabric's thread ended by itself, or things remain.
    #[error("take the fabric down: {0}")]
    Down(String),
    /// The advertising task's socket.
    #[error("router advertisements")]
    Ra(#[source] std::io::Error),
}

/// What to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// The lab's name: lower-case letters and digits.
    pub lab: String,
    /// State directory; made if it does not exist.
    pub state: PathBuf,
    /// The VPC.
    pub config: Config,
    /// Without a fabric there is only the API on the unix socket: for tests of controllers at a scale that no machine plugs.
    pub fabric: bool,
}

/// A running VPC.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    task: JoinHandle<Result<(), ServeError>>,
    client: AdminClient,
}

impl Server {
    /// Sweeps residue of a lab of the same name and starts. The API answers when this returns.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn start(options: Options) -> Result<Self, ServeError> {
        let lab = &options.lab;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if lab.is_empty() || lab.len() > 20 || !lab.chars().all(allowed) {
            return Err(ServeError::Name(lab.clone()));
        }
        let at = |what, path: &Path| {
            let path = path.display().to_string();
            move |source| ServeError::State { what, path, source }
        };
        let socket = options.state.join(SOCKET);
        std::fs::create_dir_all(&options.state).map_err(at("make directory", &options.state))?;
        let lock = lock(&options)?;
        let model = Model::new(lab, options.config.clone());
        let parts = if options.fabric {
            for name in fabric::sweep(lab)? {
                tracing::info!(name, "swept a namespace of an earlier run");
            }
            Some(Fabric::start(model.fabric_plan()).await?)
        } else {
            None
        };
        match std::fs::remove_file(&socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(at("remove", &socket)(e));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&socket).map_err(at("listen on", &socket))?;
        let only_root = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&socket, only_root).map_err(at("set permissions of", &socket))?;
        let (fabric, sockets) = parts.unzip();
        let (applied, in_place) = watch::channel(0);
        let shared = Arc::new(Shared::new(&options, model, fabric, in_place));
        let task = tokio::spawn(serve(
            Arc::clone(&shared),
            listener,
            sockets,
            applied,
            socket.clone(),
            lock,
        ));
        Ok(Self {
            shared,
            task,
            client: AdminClient::new(socket),
        })
    }

    /// A client of this server.
    #[must_use]
    pub fn client(&self) -> AdminClient {
        self.client.clone()
    }

    /// Waits until somebody stops it.
    ///
    /// # Errors
    /// What made it stop, or what remains.
    pub async fn wait(self) -> Result<(), ServeError> {
        self.task
            .await
            .unwrap_or_else(|e| Err(ServeError::Down(e.to_string())))
    }

    /// Removes everything and stops.
    ///
    /// # Errors
    /// What remains.
    pub async fn shutdown(self) -> Result<(), ServeError> {
        self.shared.stop();
        self.wait().await
    }
}

/// The lock lives as long as the returned file.
fn lock(options: &Options) -> Result<File, ServeError> {
    let path = options.state.join("vpc.lock");
    let file = File::create(&path).map_err(|source| ServeError::State {
        what: "make",
        path: path.display().to_string(),
        source,
    })?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServeError::Running(options.lab.clone())),
        Err(e) => Err(ServeError::State {
            what: "lock",
            path: path.display().to_string(),
            source: e.into(),
        }),
    }
}

async fn serve(
    shared: Arc<Shared>,
    unix: UnixListener,
    sockets: Option<Sockets>,
    applied: watch::Sender<u64>,
    path: PathBuf,
    _lock: File,
) -> Result<(), ServeError> {
    let (api, ra) = sockets.map(|s| (s.api, s.ra)).unzip();
    let interval = Duration::from_millis(shared.model().config().ra.interval_ms);
    let tcp = async {
        let listener = match api {
            Some(api) => TcpListener::from_std(api),
            None => return std::future::pending().await,
        };
        match listener {
            Ok(listener) => match http::serve_tcp(Arc::clone(&shared), listener).await {},
            Err(source) => Err(ServeError::State {
                what: "watch listener",
                path: "169.254.169.254:80".into(),
                source,
            }),
        }
    };
    let advertise = async {
        match ra {
            Some(ra) => ra.serve(interval).await.map_err(ServeError::Ra),
            None => std::future::pending().await,
        }
    };
    let mut stop = shared.stop.subscribe();
    let ended = tokio::select! {
        lost = drive(&shared, &applied) => Err(lost),
        never = http::serve_unix(Arc::clone(&shared), unix) => match never {},
        ended = tcp => ended,
        ended = advertise => ended,
        // The sender lives in `shared`.
        _ = stop.wait_for(|s| *s) => Ok(()),
    };
    let mut left = Vec::new();
    if let Some(fabric) = &shared.fabric {
        match fabric.down().await {
            Ok(remains) => left = remains,
            Err(e) => left.push(e.to_string()),
        }
    }
    std::fs::remove_file(&path).map_err(|source| ServeError::State {
        what: "remove",
        path: path.display().to_string(),
        source,
    })?;
    ended?;
    if left.is_empty() {
        Ok(())
    } else {
        Err(ServeError::Down(left.join("; ")))
    }
}

/// Keeps the fabric as the model desires. Returns only if the fabric is lost.
async fn drive(shared: &Shared, applied: &watch::Sender<u64>) -> ServeError {
    loop {
        let (generation, desired) = {
            let mut model = shared.model();
            model.tick(shared.now());
            (model.generation(), model.desired())
        };
        let outcome = match &shared.fabric {
            Some(fabric) => match fabric.apply(desired).await {
                Ok(outcome) => outcome,
                Err(ended) => return ServeError::Down(ended.to_string()),
            },
            None => Outcome {
                plugged: desired.plugs.into_keys().collect(),
                errors: BTreeMap::new(),
            },
        };
        let (settled, due) = {
            let mut model = shared.model();
            model.observe(&outcome.plugged);
            shared.remember(&model);
            (model.generation() == generation, model.next_due())
        };
        shared.note(outcome);
        applied.send_replace(generation);
        if settled {
            let pause = due.map_or(RESYNC, |d| {
                RESYNC.min(Duration::from_millis((d - shared.now()).0))
            });
            // Elapsing is the normal case.
            let _ = tokio::time::timeout(pause, shared.kick.notified()).await;
        }
    }
}
