use k8s_openapi::serde_json::{from_value, json};

use super::*;
use crate::kubelet::state::{Running, Sandbox};

const EPOCH: Timestamp = Timestamp::UNIX_EPOCH;

fn exited(name: &str, init: bool, code: i32) -> ContainerState {
    let exit = Exit {
        id: "e".into(),
        code,
        signal: None,
        reason: "r".into(),
        message: String::new(),
        started_at: EPOCH,
        finished_at: EPOCH,
    };
    ContainerState {
        last_exit: Some(exit),
        ..fresh(name, init)
    }
}

fn running(name: &str, init: bool) -> ContainerState {
    let running = Running {
        id: "r".into(),
        pid: 1,
        ticks: 1,
        started_at: EPOCH,
    };
    ContainerState {
        running: Some(running),
        ..fresh(name, init)
    }
}

fn fresh(name: &str, init: bool) -> ContainerState {
    ContainerState {
        name: name.into(),
        init,
        ..ContainerState::default()
    }
}

#[test]
fn restart_policies() {
    use RestartPolicy::{Always, Never, OnFailure};
    use Verdict::{Failed, Succeeded};
    let (ok, bad) = (exited("a", false, 0), exited("b", false, 1));
    // (policy, containers, which should start, verdict)
    for (policy, containers, start, end) in [
        (
            Always,
            vec![fresh("a", false), running("b", false)],
            vec![0],
            None,
        ),
        (Always, vec![ok.clone(), bad.clone()], vec![0, 1], None),
        (OnFailure, vec![ok.clone(), bad.clone()], vec![1], None),
        (
            OnFailure,
            vec![ok.clone(), ok.clone()],
            vec![],
            Some(Succeeded),
        ),
        (Never, vec![ok.clone(), ok.clone()], vec![], Some(Succeeded)),
        (Never, vec![ok.clone(), bad.clone()], vec![], Some(Failed)),
        (Never, vec![bad.clone(), running("b", false)], vec![], None),
        // Init containers: one after the other, then the rest.
        (
            Always,
            vec![fresh("i", true), fresh("j", true), fresh("a", false)],
            vec![0],
            None,
        ),
        (
            Always,
            vec![running("i", true), fresh("j", true), fresh("a", false)],
            vec![],
            None,
        ),
        (
            Always,
            vec![exited("i", true, 0), fresh("j", true), fresh("a", false)],
            vec![1],
            None,
        ),
        (
            Always,
            vec![
                exited("i", true, 0),
                exited("j", true, 0),
                fresh("a", false),
            ],
            vec![2],
            None,
        ),
        (
            Always,
            vec![exited("i", true, 3), fresh("a", false)],
            vec![0],
            None,
        ),
        (
            OnFailure,
            vec![exited("i", true, 3), fresh("a", false)],
            vec![0],
            None,
        ),
        (
            Never,
            vec![exited("i", true, 3), fresh("a", false)],
            vec![],
            Some(Failed),
        ),
    ] {
        let starts: Vec<_> = (0..containers.len())
            .filter(|i| should_start(policy, &containers, *i))
            .collect();
        assert_eq!(starts, start, "{policy:?} {containers:?}");
        assert_eq!(
            verdict(policy, &containers),
            end,
            "{policy:?} {containers:?}"
        );
    }
}

fn pod() -> Pod {
    from_value(json!({
        "metadata": { "name": "p", "uid": "u" },
        "spec": { "containers": [{ "name": "a", "image": "x" }, { "name": "b" }] },
        "status": { "conditions": [
            { "type": "Foreign", "status": "True" },
            { "type": "PodScheduled", "status": "True", "lastTransitionTime": "2001-01-01T00:00:00Z" },
        ] },
    }))
    .unwrap()
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status
        .conditions
        .as_ref()
        .unwrap()
        .iter()
        .find(|c| c.type_ == kind)
        .unwrap()
}

#[test]
fn a_running_pod() {
    let mut state = PodState::new("u", "ns", "p");
    let ips = vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()];
    state.sandbox = Some(Sandbox {
        id: "s".into(),
        netns: Some("n".into()),
        attached: true,
        ips,
        ..Sandbox::default()
    });
    state.containers = vec![running("a", false), exited("b", false, 1)];
    let back_off = Some(("CrashLoopBackOff".to_owned(), String::new()));
    let (pod, host_ips) = (pod(), ["10.9.0.1".to_owned(), "fd09::1".to_owned()]);
    let mut view = View {
        pod: &pod,
        state: &state,
        waiting: &[None, back_off],
        host_ips: &host_ips,
        verdict: None,
        problem: None,
    };
    let status = of(&view, EPOCH);
    assert_eq!(
        (status.phase.as_deref(), status.pod_ip.as_deref()),
        (Some("Running"), Some("10.0.0.1"))
    );
    assert_eq!(status.pod_ips.as_ref().unwrap()[1].ip, "fd00::1");
    assert_eq!(status.host_ips.as_ref().unwrap()[1].ip, "fd09::1");
    assert_eq!(condition(&status, "Ready").status, "False");
    assert_eq!(condition(&status, "Foreign").status, "True");
    let scheduled = condition(&status, "PodScheduled")
        .last_transition_time
        .as_ref()
        .unwrap();
    assert_eq!(
        scheduled.0.to_string(),
        "2001-01-01T00:00:00Z",
        "unchanged conditions keep their time"
    );
    let containers = status.container_statuses.unwrap();
    assert!(containers[0].ready && containers[0].state.as_ref().unwrap().running.is_some());
    let b = &containers[1];
    assert_eq!(
        b.state
            .as_ref()
            .unwrap()
            .waiting
            .as_ref()
            .unwrap()
            .reason
            .as_deref(),
        Some("CrashLoopBackOff")
    );
    assert_eq!(
        b.last_state
            .as_ref()
            .unwrap()
            .terminated
            .as_ref()
            .unwrap()
            .exit_code,
        1
    );

    let mut both = state.clone();
    both.containers = vec![running("a", false), running("b", false)];
    view.state = &both;
    view.waiting = &[None, None];
    assert_eq!(condition(&of(&view, EPOCH), "Ready").status, "True");
}

#[test]
fn a_pod_without_sandbox_says_why() {
    let mut state = PodState::new("u", "ns", "p");
    state.containers = vec![fresh("a", false), fresh("b", false)];
    let pod = pod();
    let problem = Some("PoolEmpty: no address");
    let waiting = [None, None];
    let view = View {
        pod: &pod,
        state: &state,
        waiting: &waiting,
        host_ips: &[],
        verdict: None,
        problem,
    };
    let status = of(&view, EPOCH);
    assert_eq!(
        (status.phase.as_deref(), status.pod_ip.as_deref()),
        (Some("Pending"), None)
    );
    let sandbox = condition(&status, "PodReadyToStartContainers");
    assert_eq!(
        (sandbox.status.as_str(), sandbox.message.as_deref()),
        ("False", problem)
    );
    assert_eq!(condition(&status, "Ready").message.as_deref(), problem);
    let first = &status.container_statuses.unwrap()[0];
    assert_eq!(
        first
            .state
            .as_ref()
            .unwrap()
            .waiting
            .as_ref()
            .unwrap()
            .reason
            .as_deref(),
        Some("ContainerCreating")
    );
}

#[test]
fn an_ended_pod_keeps_its_address_in_the_status() {
    let mut state = PodState::new("u", "ns", "p");
    let ips = vec!["10.0.0.1".to_owned()];
    state.sandbox = Some(Sandbox {
        id: "s".into(),
        netns: Some("n".into()),
        attached: true,
        ips,
        ..Sandbox::default()
    });
    state.containers = vec![exited("a", false, 0), exited("b", false, 2)];
    let pod = pod();
    let verdict = verdict(RestartPolicy::Never, &state.containers);
    let waiting = [None, None];
    let view = View {
        pod: &pod,
        state: &state,
        waiting: &waiting,
        host_ips: &[],
        verdict,
        problem: None,
    };
    let status = of(&view, EPOCH);
    assert_eq!(
        (status.phase.as_deref(), status.pod_ip.as_deref()),
        (Some("Failed"), Some("10.0.0.1"))
    );
    assert_eq!(
        condition(&status, "Ready").reason.as_deref(),
        Some("PodFailed")
    );
    let ended = status.container_statuses.unwrap()[1]
        .state
        .clone()
        .unwrap()
        .terminated
        .unwrap();
    assert_eq!(ended.exit_code, 2);
    assert_eq!(out_of_pods(3, EPOCH).reason.as_deref(), Some("OutOfpods"));
}
