//! What becomes of a pod's containers by its restart policy, and the status that says so. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::state::{ContainerState, Exit, PodState};

/// `spec.restartPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub fn of(pod: &Pod) -> Self {
        match pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref())
        {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }
}

/// How a pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Succeeded,
    Failed,
}

fn succeeded(container: &ContainerState) -> bool {
    container.running.is_none()
        && container
            .last_exit
            .as_ref()
            .is_some_and(|exit| exit.code == 0)
}

/// Whether a container that does not run should: init containers one after the other until each succeeds, the others
/// together after them.
pub fn should_start(policy: RestartPolicy, containers: &[ContainerState], index: usize) -> bool {
    let Some(container) = containers.get(index) else {
        return false;
    };
    let before = containers.iter().take(if container.init {
        index
    } else {
        containers.len()
    });
    if container.running.is_some() || !before.filter(|c| c.init).all(succeeded) {
        return false;
    }
    match (&container.last_exit, container.init) {
        (None, _) => true,
        (Some(exit), true) => exit.code != 0 && policy != RestartPolicy::Never,
        (Some(exit), false) => match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit.code != 0,
            RestartPolicy::Never => false,
        },
    }
}

/// The end of the pod, once no container runs and none will.
pub fn verdict(policy: RestartPolicy, containers: &[ContainerState]) -> Option<Verdict> {
    let ended = |c: &ContainerState| c.running.is_none() && c.last_exit.is_some();
    let failed = |c: &&ContainerState| ended(c) && !succeeded(c);
    let init_failed = containers.iter().filter(|c| c.init).any(|c| failed(&c));
    if init_failed && policy == RestartPolicy::Never {
        return Some(Verdict::Failed);
    }
    let none_left = (0..containers.len()).all(|index| !should_start(policy, containers, index));
    let mut main = containers.iter().filter(|c| !c.init);
    if init_failed || !none_left || !main.clone().all(ended) {
        return None;
    }
    Some(if main.any(|c| failed(&c)) {
        Verdict::Failed
    } else {
        Verdict::Succeeded
    })
}

/// Why a container does not run, where it is not because it ended.
pub type Waiting = Option<(String, String)>;

/// What the status is made from.
#[derive(Debug)]
pub struct View<'a> {
    pub pod: &'a Pod,
    pub state: &'a PodState,
    /// For each container of the state.
    pub waiting: &'a [Waiting],
    pub host_ips: &'a [String],
    pub verdict: Option<Verdict>,
    /// Why there is no sandbox, where making one failed.
    pub problem: Option<&'a str>,
}

/// The status of a pod that this node runs. Conditions that are not the kubelet's stay.
pub fn of(view: &View<'_>, now: Timestamp) -> PodStatus {
    let View { pod, state, .. } = view;
    let sandbox = state.sandbox.as_ref().filter(|sandbox| sandbox.attached);
    let init_done = state.containers.iter().filter(|c| c.init).all(succeeded);
    let mut main = state.containers.iter().filter(|c| !c.init);
    let all_running = !state.containers.is_empty() && main.clone().all(|c| c.running.is_some());
    let started = main.any(|c| c.running.is_some() || c.last_exit.is_some());
    let phase = match view.verdict {
        Some(Verdict::Succeeded) => "Succeeded",
        Some(Verdict::Failed) => "Failed",
        None if started => "Running",
        None => "Pending",
    };
    let not_ready = match view.verdict {
        Some(Verdict::Succeeded) => "PodCompleted",
        Some(Verdict::Failed) => "PodFailed",
        None => "ContainersNotReady",
    };
    let sandbox_reason = view
        .problem
        .map(|problem| ("FailedCreatePodSandBox", problem));
    let unready = (!all_running).then_some((not_ready, view.problem.unwrap_or_default()));
    let before = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let ours = [
        (
            "PodReadyToStartContainers",
            sandbox.is_some() && view.verdict.is_none(),
            sandbox_reason,
        ),
        (
            "Initialized",
            init_done,
            (!init_done).then_some(("ContainersNotInitialized", "")),
        ),
        ("Ready", all_running, unready),
        ("ContainersReady", all_running, unready),
        ("PodScheduled", true, None),
    ];
    let conditions = merge(before, &ours, now);
    let statuses = statuses(view, sandbox.is_some());
    let (init, main): (Vec<_>, Vec<_>) = statuses.into_iter().partition(|(is_init, _)| *is_init);
    let list = |part: Vec<(bool, ContainerStatus)>| {
        (!part.is_empty()).then(|| {
            part.into_iter()
                .map(|(_, status)| status)
                .collect::<Vec<_>>()
        })
    };
    let ips = state
        .sandbox
        .as_ref()
        .map(|sandbox| sandbox.ips.as_slice())
        .unwrap_or_default();
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        host_ip: view.host_ips.first().cloned(),
        host_ips: Some(
            view.host_ips
                .iter()
                .map(|ip| HostIP { ip: ip.clone() })
                .collect(),
        ),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        start_time: Some(Time(state.started_at)),
        init_container_statuses: list(init),
        container_statuses: list(main),
        ..PodStatus::default()
    }
}

/// The status of a pod that found no place here.
pub fn out_of_pods(max_pods: u32, now: Timestamp) -> PodStatus {
    let message = format!(
        "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: {max_pods}, capacity: {max_pods}"
    );
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some("OutOfpods".into()),
        message: Some(message),
        start_time: Some(Time(now)),
        ..PodStatus::default()
    }
}

type Ours<'a> = (&'static str, bool, Option<(&'static str, &'a str)>);

fn merge(before: &[PodCondition], ours: &[Ours<'_>], now: Timestamp) -> Vec<PodCondition> {
    let foreign = before
        .iter()
        .filter(|condition| ours.iter().all(|(kind, _, _)| condition.type_ != *kind));
    let mut conditions: Vec<_> = foreign.cloned().collect();
    for (kind, holds, why) in ours {
        let status = if *holds { "True" } else { "False" };
        let same = before
            .iter()
            .find(|condition| condition.type_ == *kind && condition.status == status);
        let since = same.and_then(|condition| condition.last_transition_time.clone());
        conditions.push(PodCondition {
            type_: (*kind).to_owned(),
            status: status.to_owned(),
            reason: why.map(|(reason, _)| reason.to_owned()),
            message: why
                .map(|(_, message)| message.to_owned())
                .filter(|message| !message.is_empty()),
            last_transition_time: Some(since.unwrap_or(Time(now))),
            ..PodCondition::default()
        });
    }
    conditions
}

fn statuses(view: &View<'_>, has_sandbox: bool) -> Vec<(bool, ContainerStatus)> {
    let spec = view.pod.spec.as_ref();
    let specs = spec.map(|spec| {
        (
            spec.init_containers.as_deref().unwrap_or_default(),
            spec.containers.as_slice(),
        )
    });
    let (init, main) = specs.unwrap_or_default();
    let specs: Vec<&Container> = init.iter().chain(main).collect();
    let containers = view.state.containers.iter().zip(view.waiting);
    containers
        .zip(specs)
        .map(|((state, waiting), spec)| (state.init, status_of(state, waiting, spec, has_sandbox)))
        .collect()
}

fn status_of(
    state: &ContainerState,
    waiting: &Waiting,
    spec: &Container,
    has_sandbox: bool,
) -> ContainerStatus {
    let terminated = |exit: &Exit| ContainerStateTerminated {
        container_id: Some(format!("process://{}", exit.id)),
        exit_code: exit.code,
        signal: exit.signal,
        reason: Some(exit.reason.clone()),
        message: Some(exit.message.clone()).filter(|message| !message.is_empty()),
        started_at: Some(Time(exit.started_at)),
        finished_at: Some(Time(exit.finished_at)),
    };
    let last = state.last_exit.as_ref().map(terminated);
    let mut now = ApiState::default();
    let mut before = ApiState::default();
    let id = match (&state.running, waiting, last) {
        (Some(running), _, last) => {
            now.running = Some(ContainerStateRunning {
                started_at: Some(Time(running.started_at)),
            });
            before.terminated = last;
            Some(running.id.clone())
        }
        (None, Some((reason, message)), last) => {
            let message = Some(message.clone()).filter(|message| !message.is_empty());
            now.waiting = Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message,
            });
            before.terminated = last;
            state.last_exit.as_ref().map(|exit| exit.id.clone())
        }
        (None, None, Some(last)) => {
            now.terminated = Some(last);
            state.last_exit.as_ref().map(|exit| exit.id.clone())
        }
        (None, None, None) => {
            let reason = if has_sandbox && !state.init {
                "PodInitializing"
            } else {
                "ContainerCreating"
            };
            now.waiting = Some(ContainerStateWaiting {
                reason: Some(reason.to_owned()),
                message: None,
            });
            None
        }
    };
    ContainerStatus {
        name: state.name.clone(),
        image: spec.image.clone().unwrap_or_default(),
        image_id: String::new(),
        container_id: id.map(|id| format!("process://{id}")),
        ready: if state.init {
            succeeded(state)
        } else {
            state.running.is_some()
        },
        started: Some(state.running.is_some()),
        restart_count: state.restarts,
        state: Some(now),
        last_state: Some(before),
        ..ContainerStatus::default()
    }
}

#[cfg(test)]
mod tests;
