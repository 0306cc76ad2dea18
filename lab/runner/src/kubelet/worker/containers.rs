//! A pod's containers: found again, started, noted when they end, stopped.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::{Instant, timeout_at};

use super::{PAUSE, Worker};
use crate::kubelet::command::launch;
use crate::kubelet::process::{self, Ended, Process};
use crate::kubelet::state::{ContainerState, Exit, Running};
use crate::kubelet::status::{self, RestartPolicy, Waiting};

/// A container that ran this long starts over with its pauses.
const SETTLED: Duration = Duration::from_secs(10);

/// A container, beside what is remembered of it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) spec: Container,
    pub(super) process: Option<Process>,
    pub(super) failures: u32,
    pub(super) start_at: Option<Instant>,
    pub(super) waiting: Waiting,
}

impl Worker {
    /// Makes the list of containers, once.
    pub(super) fn prepare(&mut self, pod: &Pod) {
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
    pub(super) async fn adopt(&mut self) -> Result<()> {
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
            let found = Process::find(running.pid, running.ticks)?;
            let found = found.map(|process| match &self.context.runtime {
                Some(runtime) => process.of_container(runtime, &running.id),
                None => process,
            });
            match (found, live) {
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

    /// Starts every container whose time has come.
    pub(super) async fn start_due(&mut self, pod: &Pod) -> Result<()> {
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
        let (mut id, mut restarts) = (id, self.state.containers[index].restarts);
        if self.state.containers[index].last_exit.is_some() {
            restarts += 1;
        }
        let started = match &self.context.runtime {
            None => {
                let start = move || process::start(&launch, netns.as_ref(), &log);
                let started = tokio::task::spawn_blocking(start).await;
                let started = started.context("the thread that starts a container died")?;
                started.and_then(Process::watch)
            }
            Some(runtime) => {
                let (state, spec) = (&self.state, &self.live[index].spec);
                let started = match &state.sandbox {
                    Some(sandbox) => {
                        runtime
                            .start(pod, state, sandbox, spec, restarts, &launch)
                            .await
                    }
                    None => bail!("a container without sandbox"),
                };
                started.and_then(|started| {
                    id.clone_from(&started.id);
                    Process::first_of(runtime, started)
                })
            }
        };
        let live = &mut self.live[index];
        let state = &mut self.state.containers[index];
        let now = Timestamp::now();
        state.restarts = restarts;
        match started {
            Ok(process) => {
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

    pub(super) fn note_end(&mut self, index: usize, ended: Ended) -> Result<()> {
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
    pub(super) async fn stop_containers(&mut self) -> Result<()> {
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
}

/// The next container to end; never returns while none runs.
pub(super) async fn any_ended(live: &mut [Live]) -> (usize, Result<Ended>) {
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
