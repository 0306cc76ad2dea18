//! The VPC's process: owns the model, drives the fabric, serves the APIs.
//!
//! Calls change the model under its lock; the driver hands the fabric what the model desires, tells the model what is plugged,
//! and announces the generation that is in place. A lock in the state directory keeps two servers of one lab apart.

mod dispatch;
mod http;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tombolo_cloud_sim::wire::ApiError;
use tombolo_core::types::Millis;

use crate::admin::{CallCount, CounterReport, InstanceDetail, LabInfo, LinkInfo, RunInstance};
use crate::client::AdminClient;
use crate::config::Config;
use crate::fabric::{self, Fabric, NsError, Outcome, Sockets};
use crate::knobs::{Knob, KnobBoard};
use crate::model::{Model, Refusal};
use dispatch::error;

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

/// What the tasks share.
#[derive(Debug)]
struct Shared {
    info: LabInfo,
    origin: Instant,
    model: Mutex<Model>,
    knobs: Mutex<KnobBoard>,
    calls: Mutex<BTreeMap<String, CallCount>>,
    outcome: Mutex<Outcome>,
    fabric: Option<Fabric>,
    kick: Notify,
    in_place: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
}

/// None of the locked values is left half-changed by a panic, so a poisoned lock is as good as any.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn new(
        options: &Options,
        model: Model,
        fabric: Option<Fabric>,
        in_place: watch::Receiver<u64>,
    ) -> Self {
        let mut knobs = KnobBoard::default();
        knobs.state.attach_delay_ms = options.config.delays.attach_ms;
        knobs.state.detach_delay_ms = options.config.delays.detach_ms;
        let plan = model.fabric_plan();
        let path = |name: String| options.fabric.then(|| format!("/run/netns/{name}"));
        let info = LabInfo {
            lab: options.lab.clone(),
            pid: std::process::id(),
            fabric_netns: path(plan.fabric()),
            inet_netns: path(plan.inet()),
            config: options.config.clone(),
        };
        Self {
            info,
            origin: Instant::now(),
            model: Mutex::new(model),
            knobs: Mutex::new(knobs),
            calls: Mutex::default(),
            outcome: Mutex::default(),
            fabric,
            kick: Notify::new(),
            in_place,
            stop: watch::Sender::new(false),
        }
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        locked(&self.model)
    }

    fn knobs(&self) -> MutexGuard<'_, KnobBoard> {
        locked(&self.knobs)
    }

    fn calls(&self) -> MutexGuard<'_, BTreeMap<String, CallCount>> {
        locked(&self.calls)
    }

    fn count(&self, verb: &str, add: impl FnOnce(&mut CallCount)) {
        add(self.calls().entry(verb.to_owned()).or_default());
    }

    fn info(&self) -> LabInfo {
        self.info.clone()
    }

    fn stop(&self) {
        self.stop.send_replace(true);
    }

    fn note(&self, outcome: Outcome) {
        let mut last = locked(&self.outcome);
        for (what, why) in &outcome.errors {
            if last.errors.get(what) != Some(why) {
                tracing::warn!(what, why, "not as desired; trying again");
            }
        }
        *last = outcome;
    }

    /// A cloud call: the model's answer, after the fabric caught up where the call promises that.
    async fn cloud(&self, verb: &str, body: &[u8]) -> Result<Vec<u8>, ApiError> {
        let done = dispatch::cloud(&mut self.model(), self.now(), verb, body)?;
        self.kick.notify_one();
        if done.wait {
            self.settle().await?;
        }
        Ok(done.body)
    }

    /// Changes the model and waits until the fabric caught up.
    async fn change<T>(
        &self,
        change: impl FnOnce(&mut Model) -> Result<T, Refusal>,
    ) -> Result<T, ApiError> {
        let done = change(&mut self.model())?;
        self.kick.notify_one();
        self.settle().await?;
        Ok(done)
    }

    /// Waits until everything that the model desires has been tried.
    async fn settle(&self) -> Result<(), ApiError> {
        let mut in_place = self.in_place.clone();
        loop {
            let generation = self.model().generation();
            in_place
                .wait_for(|g| *g >= generation)
                .await
                .map_err(|_| error("ServiceUnavailable", "the VPC is being taken down"))?;
            if self.model().generation() == generation {
                return Ok(());
            }
        }
    }

    async fn run_instance(&self, call: &RunInstance) -> Result<InstanceDetail, ApiError> {
        let detail = self.change(|m| m.run_instance(call)).await?;
        let failure = {
            let outcome = locked(&self.outcome);
            outcome
                .errors
                .get(&detail.id)
                .or_else(|| outcome.errors.get(&detail.primary_nic))
                .cloned()
        };
        let Some(failure) = failure else {
            return Ok(detail);
        };
        self.change(|m| m.terminate_instance(&detail.id)).await?;
        Err(error(
            "InternalError",
            format!("instance {:?} could not be plugged: {failure}", detail.name),
        ))
    }

    fn links(&self) -> Vec<LinkInfo> {
        let mut links = self.model().links();
        let outcome = locked(&self.outcome);
        for link in &mut links {
            link.plugged = outcome.plugged.contains(&link.nic);
            link.error = outcome
                .errors
                .get(&link.nic)
                .or_else(|| outcome.errors.get(&link.instance))
                .cloned();
        }
        links
    }

    async fn counters(&self) -> Result<CounterReport, ApiError> {
        let Some(fabric) = &self.fabric else {
            return Ok(CounterReport::default());
        };
        flatten(fabric.counters().await)
    }

    async fn reset_counters(&self) -> Result<(), ApiError> {
        let Some(fabric) = &self.fabric else {
            return Ok(());
        };
        flatten(fabric.reset_counters().await)
    }

    fn set_knob(&self, knob: Knob) -> Result<(), ApiError> {
        if let Some(verb) = knob.verb().filter(|v| !dispatch::is_cloud_verb(v)) {
            return Err(Refusal::parameter("verb", format!("there is no call {verb:?}")).into());
        }
        match knob {
            Knob::AttachDelay { ms } => self.model().set_attach_delay(Millis(ms)),
            Knob::DetachDelay { ms } => self.model().set_detach_delay(Millis(ms)),
            _ => {}
        }
        let now = self.now();
        self.knobs().set(now, knob);
        Ok(())
    }
}

fn flatten<T>(outcome: Result<Result<T, NsError>, fabric::Ended>) -> Result<T, ApiError> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(error("InternalError", e.to_string())),
        Err(e) => Err(error("InternalError", e.to_string())),
    }
}
