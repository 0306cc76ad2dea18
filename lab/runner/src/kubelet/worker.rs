//! The life of one pod on this node. Everything it does can be begun again: what was done is in the state, and an error
//! leads to the same steps again after a pause.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Context;
use super::command::launch;
use super::pods::Place;
use super::process::{self, Ended, Process};
use super::sandbox::{self, Attached};
use super::state::{ContainerState, Exit, PodState, Running, Sandbox};
use super::status::{self, RestartPolicy, Verdict, View, Waiting};

/// First and longest pause before a sandbox, a DEL or a container is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A container that ran this long starts over with its pauses.
const SETTLED: Duration = Duration::from_secs(10);
/// Before a status that could not be written is written again.
const REPORT_AGAIN: Duration = Duration::from_secs(1);

/// What the API says of the pod.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// As last seen; absent for a pod of an earlier run that is gone.
    pub pod: Option<Arc<Pod>>,
    /// The object exists no more.
    pub gone: bool,
}

impl Wanted {
    fn deleting(&self) -> bool {
        self.gone
            || self
                .pod
                .as_ref()
                .is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    }

    /// How long the containers may take to end.
    fn grace(&self) -> Duration {
        let pod = self.pod.as_ref().filter(|_| !self.gone);
        let seconds = pod.and_then(|pod| pod.metadata.deletion_grace_period_seconds);
        Duration::from_secs(
            seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .unwrap_or_default(),
        )
    }
}

/// Why a part of the life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The pod is to go.
    Deleted,
    /// The pod has come to its end by itself.
    Finished,
    /// The stand-in ends.
    Stopped,
}

/// A container, beside what is remembered of it.
#[derive(Debug)]
struct Live {
    spec: Container,
    process: Option<Process>,
    failures: u32,
    start_at: Option<Instant>,
    waiting: Waiting,
}

#[derive(Debug)]
pub struct Worker {
    context: Arc<Context>,
    wanted: watch::Receiver<Wanted>,
    state: PodState,
    place: Option<Place>,
    live: Vec<Live>,
    problem: Option<String>,
    reported: Option<PodStatus>,
    report_at: Option<Instant>,
}

impl Worker {
    pub fn new(
        context: Arc<Context>,
        wanted: watch::Receiver<Wanted>,
        state: PodState,
        place: Option<Place>,
    ) -> Self {
        let (live, problem, reported, report_at) = Default::default();
        Self {
            context,
            wanted,
            state,
            place,
            live,
            problem,
            reported,
            report_at,
        }
    }

    /// Runs until the pod is gone from this node, or the stand-in ends.
    pub async fn run(mut self) {
        let mut pause = PAUSE.0;
        loop {
            let Err(error) = self.live().await else {
                return;
            };
            tracing::error!(pod = self.state.name, "{error:#}");
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(PAUSE.1),
                () = self.context.stopped() => return,
            }
        }
    }

    async fn live(&mut self) -> Result<()> {
        let mut turn = if self.wanted.borrow().deleting() {
            self.adopt().await?;
            Turn::Deleted
        } else if self.state.finished {
            Turn::Finished
        } else if self.place.is_none() {
            self.reject().await
        } else {
            self.work().await?
        };
        if turn == Turn::Finished {
            turn = self.rest().await?;
        }
        if turn == Turn::Deleted {
            self.stop_containers().await?;
            turn = self.detach_all().await?;
        }
        if turn == Turn::Stopped {
            return Ok(());
        }
        // Free before the object is gone: whoever sees that may send the next pod.
        self.place = None;
        self.delete_object().await?;
        self.state.forget(&self.context.args.state_dir)
    }

    /// Deleted, or the stand-in ends.
    fn leaving(&self) -> impl Future<Output = Turn> + use<> {
        let (mut wanted, context) = (self.wanted.clone(), Arc::clone(&self.context));
        async move {
            tokio::select! {
                // Without a sender the stand-in is ending.
                outcome = wanted.wait_for(Wanted::deleting) => outcome.map_or(Turn::Stopped, |_| Turn::Deleted),
                () = context.stopped() => Turn::Stopped,
            }
        }
    }

    fn pod(&self) -> Result<Arc<Pod>> {
        self.wanted
            .borrow()
            .pod
            .clone()
            .context("the pod's object was never seen")
    }

    fn save(&self) -> Result<()> {
        self.state.save(&self.context.args.state_dir)
    }

    /// There is no place for this pod: says so and waits for it to go.
    async fn reject(&mut self) -> Turn {
        let status = status::out_of_pods(self.context.args.max_pods, Timestamp::now());
        if let Ok(pod) = self.pod() {
            let message = status.message.clone().unwrap_or_default();
            self.context.events.warn(&pod, "OutOfpods", &message).await;
        }
        self.report_until_leaving(status).await
    }

    async fn report_until_leaving(&mut self, status: PodStatus) -> Turn {
        let leaving = self.leaving();
        tokio::select! {
            turn = leaving => return turn,
            () = async { while !self.write(&status).await { sleep(REPORT_AGAIN).await; } } => {}
        }
        self.leaving().await
    }

    /// The pod has ended: its network goes at once, its object stays.
    async fn rest(&mut self) -> Result<Turn> {
        self.adopt().await?;
        if self.detach_all().await? == Turn::Stopped {
            return Ok(Turn::Stopped);
        }
        self.place = None;
        let pod = self.pod()?;
        if self.state.containers.is_empty() {
            return Ok(self.leaving().await);
        }
        let verdict = status::verdict(RestartPolicy::of(&pod), &self.state.containers);
        let status = self.status(&pod, Some(verdict.unwrap_or(Verdict::Failed)));
        Ok(self.report_until_leaving(status).await)
    }

    async fn work(&mut self) -> Result<Turn> {
        let pod = self.pod()?;
        self.adopt().await?;
        if self.live.is_empty() {
            self.prepare(&pod);
        }
        if let Some(turn) = self.attach(&pod).await? {
            return Ok(turn);
        }
        self.supervise(&pod).await
    }

    /// Makes the list of containers, once.
    fn prepare(&mut self, pod: &Pod) {
        let Some(spec) = &pod.spec else { return };
        let init = spec
            .init_containers
            .iter()
            .flatten()
            .map(|container| (container, true));
        let all: Vec<_> = init
            .chain(spec.containers.iter().map(|container| (container, false)))
            .collect();
        if self.state.containers.len() != all.len() {
            let fresh = |(container, init): &(&Container, bool)| ContainerState {
                name: container.name.clone(),
                init: *init,
                ..ContainerState::default()
            };
            self.state.containers = all.iter().map(fresh).collect();
        }
        let live = |(container, _): (&Container, bool)| Live {
            spec: container.clone(),
            process: None,
            failures: 0,
            start_at: None,
            waiting: None,
        };
        self.live = all.into_iter().map(live).collect();
    }

    /// Finds the processes that an earlier run left.
    async fn adopt(&mut self) -> Result<()> {
        if self.live.is_empty()
            && let Ok(pod) = self.pod()
        {
            self.prepare(&pod);
        }
        for index in 0..self.state.containers.len() {
            let Some(running) = self.state.containers[index].running.clone() else {
                continue;
            };
            let live = self.live.get_mut(index);
            if live.as_ref().is_some_and(|live| live.process.is_some()) {
                continue;
            }
            match (Process::find(running.pid, running.ticks)?, live) {
                (Some(process), Some(live)) => live.process = Some(process),
                // The pod's object is gone, and with it the spec: all that is left to do is to end it.
                (Some(mut process), None) => {
                    process.kill()?;
                    process.ended().await?;
                    self.note_end(index, Ended::Unknown)?;
                }
                (None, _) => self.note_end(index, Ended::Unknown)?,
            }
        }
        Ok(())
    }

    /// Makes sandboxes until one stands.
    async fn attach(&mut self, pod: &Pod) -> Result<Option<Turn>> {
        let host_network = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.host_network)
            .unwrap_or_default();
        let mut pause = PAUSE.0;
        loop {
            if self
                .state
                .sandbox
                .as_ref()
                .is_some_and(|sandbox| sandbox.usable(&self.context))
            {
                self.problem = None;
                return Ok(None);
            }
            let (leaving, context) = (self.leaving(), Arc::clone(&self.context));
            // Given back between two attempts: pods that cannot start do not hold up those that can.
            let slot = tokio::select! {
                turn = leaving => return Ok(Some(turn)),
                slot = context.slots.acquire() => slot.context("the slots are closed")?,
            };
            self.state.stale.extend(self.state.sandbox.take());
            self.detach_stale().await?;
            let sandbox = Sandbox::plan(host_network)?;
            self.state.sandbox = Some(sandbox.clone());
            self.save()?;
            self.report(pod, None).await;
            let leaving = self.leaving();
            let interrupted = async move {
                let _which_comes_out_later = leaving.await;
            };
            match sandbox::attach(&self.context, &self.state, &sandbox, interrupted).await? {
                Attached::Ready(ips) => {
                    self.state.sandbox = Some(Sandbox {
                        attached: true,
                        ips,
                        ..sandbox
                    });
                    self.save()?;
                    self.start_due(pod).await?;
                    continue;
                }
                Attached::Interrupted => return Ok(Some(self.leaving().await)),
                Attached::Failed(message) => {
                    self.state.stale.extend(self.state.sandbox.take());
                    self.detach_stale().await?;
                    self.context
                        .events
                        .warn(pod, "FailedCreatePodSandBox", &message)
                        .await;
                    self.problem = Some(message);
                    self.report(pod, None).await;
                }
            }
            drop(slot);
            tokio::select! {
                turn = self.leaving() => return Ok(Some(turn)),
                () = sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        }
    }

    /// One attempt to take down each sandbox that was given up; what fails stays for later.
    async fn detach_stale(&mut self) -> Result<()> {
        let mut left = Vec::new();
        for sandbox in std::mem::take(&mut self.state.stale) {
            if let Err(error) = sandbox::detach(&self.context, &self.state, &sandbox).await {
                tracing::warn!(pod = self.state.name, "{error:#}");
                left.push(sandbox);
            }
        }
        self.state.stale = left;
        self.save()
    }

    /// Takes down all sandboxes, again and again until it succeeds.
    async fn detach_all(&mut self) -> Result<Turn> {
        let mut pause = PAUSE.0;
        loop {
            let sandboxes = self
                .state
                .stale
                .iter()
                .chain(self.state.sandbox.iter().filter(|s| s.netns.is_some()));
            let Some(sandbox) = sandboxes.into_iter().next().cloned() else {
                return Ok(Turn::Deleted);
            };
            match sandbox::detach(&self.context, &self.state, &sandbox).await {
                Ok(()) => {
                    self.state.stale.retain(|stale| stale.id != sandbox.id);
                    if let Some(current) = self
                        .state
                        .sandbox
                        .as_mut()
                        .filter(|current| current.id == sandbox.id)
                    {
                        // Its addresses stay in the status of a pod that ended.
                        current.netns = None;
                    }
                    self.save()?;
                    continue;
                }
                Err(error) => match self.pod() {
                    Ok(pod) => {
                        self.context
                            .events
                            .warn(&pod, "FailedKillPod", &format!("{error:#}"))
                            .await
                    }
                    Err(_never_seen) => tracing::warn!(pod = self.state.name, "{error:#}"),
                },
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(PAUSE.1),
                () = self.context.stopped() => return Ok(Turn::Stopped),
            }
        }
    }

    /// Starts, watches and restarts containers until the pod ends or has to.
    async fn supervise(&mut self, pod: &Pod) -> Result<Turn> {
        let policy = RestartPolicy::of(pod);
        loop {
            self.start_due(pod).await?;
            if status::verdict(policy, &self.state.containers).is_some() {
                self.state.finished = true;
                self.save()?;
                return Ok(Turn::Finished);
            }
            self.report(pod, None).await;
            let due = self
                .live
                .iter()
                .filter_map(|live| live.start_at)
                .chain(self.report_at)
                .min();
            let leaving = self.leaving();
            tokio::select! {
                turn = leaving => return Ok(turn),
                (index, ended) = any_ended(&mut self.live) => self.note_end(index, ended?)?,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Starts every container whose time has come.
    async fn start_due(&mut self, pod: &Pod) -> Result<()> {
        let policy = RestartPolicy::of(pod);
        for index in 0..self.live.len() {
            let live = &mut self.live[index];
            let due = live.start_at.is_none_or(|at| at <= Instant::now());
            if live.process.is_some()
                || !due
                || !status::should_start(policy, &self.state.containers, index)
            {
                continue;
            }
            live.start_at = None;
            live.waiting = None;
            self.start(pod, index).await?;
        }
        Ok(())
    }

    async fn start(&mut self, pod: &Pod, index: usize) -> Result<()> {
        let ips = self
            .state
            .sandbox
            .as_ref()
            .map(|sandbox| sandbox.ips.clone())
            .unwrap_or_default();
        let host_ip = self.host_ips().into_iter().next().unwrap_or_default();
        let live = &mut self.live[index];
        let launch = match launch(pod, &live.spec, &ips, &host_ip) {
            Ok(launch) => launch,
            Err(error) => {
                live.waiting = Some(("CreateContainerConfigError".to_owned(), error.to_string()));
                live.start_at = Some(Instant::now() + PAUSE.1);
                self.context
                    .events
                    .warn(pod, "Failed", &error.to_string())
                    .await;
                return Ok(());
            }
        };
        let id = crate::ids::container_id().context("make a container id")?;
        let netns = self
            .state
            .sandbox
            .as_ref()
            .and_then(|sandbox| sandbox.namespace(&self.context));
        let file = format!(
            "{}_{}_{}.log",
            self.state.namespace, self.state.name, live.spec.name
        );
        let log = self.context.args.state_dir.join("logs").join(file);
        let started =
            tokio::task::spawn_blocking(move || process::start(&launch, netns.as_ref(), &log))
                .await;
        let state = &mut self.state.containers[index];
        let now = Timestamp::now();
        if state.last_exit.is_some() {
            state.restarts += 1;
        }
        match started.context("the thread that starts a container died")? {
            Ok(started) => {
                let process = Process::watch(started)?;
                state.running = Some(Running {
                    id,
                    pid: process.pid(),
                    ticks: process.ticks(),
                    started_at: now,
                });
                live.process = Some(process);
            }
            Err(error) => {
                let (reason, message) = ("StartError".to_owned(), format!("{error:#}"));
                self.context.events.warn(pod, "Failed", &message).await;
                let exit = Exit {
                    id,
                    code: 128,
                    signal: None,
                    reason,
                    message,
                    started_at: now,
                    finished_at: now,
                };
                self.ended(index, exit);
            }
        }
        self.save()
    }

    fn note_end(&mut self, index: usize, ended: Ended) -> Result<()> {
        let Some(running) = self.state.containers[index].running.take() else {
            return Ok(());
        };
        let (code, signal, reason) = match ended {
            Ended::Code(0) => (0, None, "Completed"),
            Ended::Code(code) => (code, None, "Error"),
            Ended::Signal(signal) => (128 + signal, Some(signal), "Error"),
            Ended::Unknown => (137, None, "ContainerStatusUnknown"),
        };
        let exit = Exit {
            id: running.id,
            code,
            signal,
            reason: reason.to_owned(),
            message: String::new(),
            started_at: running.started_at,
            finished_at: Timestamp::now(),
        };
        self.ended(index, exit);
        self.save()
    }

    /// Notes an end, and when the container may start again.
    fn ended(&mut self, index: usize, exit: Exit) {
        let settled = exit
            .finished_at
            .duration_since(exit.started_at)
            .unsigned_abs()
            >= SETTLED;
        if let Some(live) = self.live.get_mut(index) {
            live.process = None;
            live.failures = if settled { 0 } else { live.failures + 1 };
            let pause =
                (PAUSE.0 * 2_u32.saturating_pow(live.failures.saturating_sub(1))).min(PAUSE.1);
            live.start_at = Some(Instant::now() + pause);
        }
        self.state.containers[index].last_exit = Some(exit);
        let policy = self
            .pod()
            .map_or(RestartPolicy::Never, |pod| RestartPolicy::of(&pod));
        if let Some(live) = self.live.get_mut(index) {
            if status::should_start(policy, &self.state.containers, index) {
                let message = format!("back-off restarting container {}", live.spec.name);
                live.waiting = Some(("CrashLoopBackOff".to_owned(), message));
            } else {
                live.start_at = None;
            }
        }
    }

    /// SIGTERM, the grace period, SIGKILL.
    async fn stop_containers(&mut self) -> Result<()> {
        let begin = Instant::now();
        let grace = self.wanted.borrow().grace();
        if !grace.is_zero() {
            for process in self.processes() {
                process.terminate()?;
            }
            let mut wanted = self.wanted.clone();
            // The grace period may be cut short.
            while self.live.iter().any(|live| live.process.is_some()) {
                let deadline = begin + self.wanted.borrow().grace();
                tokio::select! {
                    ended = timeout_at(deadline, any_ended(&mut self.live)) => match ended {
                        Ok((index, ended)) => self.note_end(index, ended?)?,
                        Err(_elapsed) => break,
                    },
                    changed = wanted.changed() => if changed.is_err() { break },
                }
            }
        }
        for process in self.processes() {
            process.kill()?;
        }
        while self.live.iter().any(|live| live.process.is_some()) {
            let (index, ended) = any_ended(&mut self.live).await;
            self.note_end(index, ended?)?;
        }
        Ok(())
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.live.iter().filter_map(|live| live.process.as_ref())
    }

    fn host_ips(&self) -> Vec<String> {
        self.context
            .args
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn status(&self, pod: &Pod, verdict: Option<Verdict>) -> PodStatus {
        let waiting: Vec<_> = self.live.iter().map(|live| live.waiting.clone()).collect();
        let (host_ips, problem) = (self.host_ips(), self.problem.as_deref());
        // The latest object, for the conditions that others keep there.
        let latest = self.pod();
        let pod = latest.as_deref().unwrap_or(pod);
        let view = View {
            pod,
            state: &self.state,
            waiting: &waiting,
            host_ips: &host_ips,
            verdict,
            problem,
        };
        status::of(&view, Timestamp::now())
    }

    /// Writes the status where it changed; a failure is made up for later.
    async fn report(&mut self, pod: &Pod, verdict: Option<Verdict>) {
        let status = self.status(pod, verdict);
        if self
            .reported
            .as_ref()
            .is_some_and(|reported| same(reported, &status))
        {
            self.report_at = None;
            return;
        }
        let written = self.write(&status).await;
        self.report_at = (!written).then(|| Instant::now() + REPORT_AGAIN);
    }

    /// Whether the status is written, or need not be any more.
    async fn write(&mut self, status: &PodStatus) -> bool {
        let api: Api<Pod> = Api::namespaced(self.context.api.clone(), &self.state.namespace);
        // The uid keeps it from a later pod of the same name.
        let patch =
            Patch::Merge(json!({ "metadata": { "uid": self.state.uid }, "status": status }));
        match api
            .patch_status(&self.state.name, &PatchParams::default(), &patch)
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409 | 422) => {
                tracing::info!(
                    pod = self.state.name,
                    code = answer.code,
                    "status not written: {}",
                    answer.message
                );
            }
            Err(error) => {
                tracing::warn!(pod = self.state.name, %error, "status not written");
                return false;
            }
        }
        self.reported = Some(status.clone());
        true
    }

    async fn delete_object(&mut self) -> Result<()> {
        if self.wanted.borrow().gone {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.context.api.clone(), &self.state.namespace);
        let uid = Some(self.state.uid.clone());
        let preconditions = Some(Preconditions {
            uid,
            resource_version: None,
        });
        let options = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions,
            ..DeleteParams::default()
        };
        match api.delete(&self.state.name, &options).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(answer)) if matches!(answer.code, 404 | 409) => Ok(()),
            Err(error) => Err(error).with_context(|| {
                format!("delete pod {}/{}", self.state.namespace, self.state.name)
            }),
        }
    }
}

/// Whether two statuses say the same; when a condition changed is decided anew each time and does not count.
fn same(a: &PodStatus, b: &PodStatus) -> bool {
    let without_times = |status: &PodStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_transition_time = None;
        }
        status
    };
    without_times(a) == without_times(b)
}

/// The next container to end; never returns while none runs.
async fn any_ended(live: &mut [Live]) -> (usize, Result<Ended>) {
    let processes = live
        .iter_mut()
        .enumerate()
        .filter_map(|(index, live)| Some((index, live.process.as_mut()?)));
    let ends: Vec<_> = processes
        .map(|(index, process)| Box::pin(async move { (index, process.ended().await) }))
        .collect();
    if ends.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(ends).await.0
}
