//! The life of one pod on this node. Everything it does can be begun again: what was done is in the state, and an error
//! leads to the same steps again after a pause.

mod containers;
mod report;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use self::containers::{Live, any_ended};
use super::Context;
use super::pods::Place;
use super::sandbox::{self, Attached};
use super::state::{PodState, Sandbox};
use super::status::{self, RestartPolicy, Verdict};

/// First and longest pause before a sandbox, a DEL or a container is tried again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
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

    /// Makes sandboxes until one stands.
    async fn attach(&mut self, pod: &Pod) -> Result<Option<Turn>> {
        let host_network = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.host_network)
            .unwrap_or_default();
        let mut pause = PAUSE.0;
        loop {
            // One that was taken down keeps its addresses, for the status, but no namespace. Its pod may be wanted again: an
            // API server was restored from a backup.
            let stands = |sandbox: &Sandbox| {
                sandbox.usable(&self.context) && (host_network || sandbox.netns.is_some())
            };
            if self.state.sandbox.as_ref().is_some_and(stands) {
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
            let sandbox = Sandbox {
                attempt: self.state.attempts,
                in_runtime: self.context.runtime.is_some(),
                ..Sandbox::plan(host_network)?
            };
            self.state.attempts += 1;
            self.state.sandbox = Some(sandbox.clone());
            self.save()?;
            self.report(pod, None).await;
            let leaving = self.leaving();
            let interrupted = async move {
                let _which_comes_out_later = leaving.await;
            };
            let attached =
                sandbox::attach(&self.context, pod, &self.state, &sandbox, interrupted).await?;
            match attached {
                Attached::Ready { ips, netns } => {
                    self.state.sandbox = Some(Sandbox {
                        attached: true,
                        ips,
                        netns,
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
            let stands = |sandbox: &&Sandbox| sandbox.netns.is_some() || sandbox.in_runtime;
            let current = self.state.sandbox.iter().filter(stands);
            let sandboxes = self.state.stale.iter().chain(current);
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
                        current.in_runtime = false;
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
}
