//! The kubelet stand-in against the lab's API server, with a scripted plugin and real namespaces and processes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::runtime::wait::{Condition, await_condition, conditions};
use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tombolo_lab_apiserver::{Args, Server};
use tombolo_lab_runner::netns::NamedNetns;
use tombolo_lab_runner::{KubeletArgs, run_kubelet};

use crate::privilege::available;

/// Longer than anything takes: only a test that fails reaches it.
const BOUND: Duration = Duration::from_secs(60);

/// Notes each call; fails while a file `fail-<COMMAND>` exists, hangs while `hang-<COMMAND>` does.
const PLUGIN: &str = r#"#!/bin/sh
dir=${0%/*}
cat > /dev/null
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_ARGS" >> "$dir/log"
if [ -e "$dir/hang-$CNI_COMMAND" ]; then exec sleep 1000; fi
if [ -e "$dir/fail-$CNI_COMMAND" ]; then
    echo '{"cniVersion":"1.0.0","code":11,"msg":"PoolEmpty: no address"}'; exit 1
fi
[ "$CNI_COMMAND" = ADD ] || exit 0
n=$(grep -c ^ADD "$dir/log")
echo "{\"cniVersion\":\"1.0.0\",\"interfaces\":[{\"name\":\"eth0\",\"sandbox\":\"$CNI_NETNS\"}],
\"ips\":[{\"address\":\"fd00::$n/128\",\"interface\":0},{\"address\":\"10.0.0.$n/32\",\"interface\":0}]}"
"#;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: KubeletArgs,
}

struct Bed {
    dir: TempDir,
    server: Option<Server>,
    client: Client,
    kubelet: Option<JoinHandle<()>>,
    agent: Option<UnixListener>,
    max_pods: u32,
}

impl Bed {
    async fn new(max_pods: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(&Args::default()).unwrap();
        let mut config = Config::new(server.url().parse().unwrap());
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        for below in ["bin", "net.d"] {
            fs::create_dir(dir.path().join(below)).unwrap();
        }
        let plugin = dir.path().join("bin/scripted");
        fs::write(dir.path().join("bin/tmp"), PLUGIN).unwrap();
        fs::set_permissions(
            dir.path().join("bin/tmp"),
            fs::Permissions::from_mode(0o755),
        )
        .unwrap();
        fs::rename(dir.path().join("bin/tmp"), plugin).unwrap();
        let mut bed = Self {
            dir,
            server: Some(server),
            client,
            kubelet: None,
            agent: None,
            max_pods,
        };
        bed.start();
        bed
    }

    fn start(&mut self) {
        let at = |below: &str| self.dir.path().join(below).to_str().unwrap().to_owned();
        let pods = self.max_pods.to_string();
        let url = self.server.as_ref().unwrap().url();
        let words = [
            "kubelet",
            "--node",
            "n1",
            "--api",
            &url,
            "--node-ip",
            "10.9.0.1",
            "--node-ip",
            "fd09::1",
            "--provider-id",
            "sim:///z/i-1",
            "--max-pods",
            &pods,
            "--cni-bin-dir",
            &at("bin"),
            "--cni-conf-dir",
            &at("net.d"),
            "--agent-socket",
            &at("agent.sock"),
            "--state-dir",
            &at("state"),
            "--netns-dir",
            &at("netns"),
        ];
        let args = Cli::try_parse_from(words).unwrap().args;
        self.kubelet = Some(tokio::spawn(
            async move { run_kubelet(args).await.unwrap() },
        ));
    }

    /// As if killed: nothing is put in order.
    async fn kill(&mut self) {
        let kubelet = self.kubelet.take().unwrap();
        kubelet.abort();
        assert!(kubelet.await.unwrap_err().is_cancelled());
    }

    fn configure(&mut self) {
        let conf =
            json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "scripted" }] });
        fs::write(
            self.dir.path().join("net.d/10-net.conflist"),
            conf.to_string(),
        )
        .unwrap();
        self.agent = Some(UnixListener::bind(self.dir.path().join("agent.sock")).unwrap());
    }

    fn flag(&self, name: &str, on: bool) {
        let path = self.dir.path().join("bin").join(name);
        if on {
            fs::write(path, "").unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
    }

    /// (command, container id) of each call of the plugin.
    fn calls(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.dir.path().join("bin/log")).unwrap_or_default();
        let words = |line: &str| {
            line.split(' ')
                .take(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        text.lines()
            .map(words)
            .map(|words| (words[0].clone(), words[1].clone()))
            .collect()
    }

    fn namespaces(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("netns"));
        entries
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default()
    }

    /// The stand-in's state files.
    fn states(&self) -> Vec<Value> {
        let entries = fs::read_dir(self.dir.path().join("state/pods"));
        let files = entries
            .into_iter()
            .flatten()
            .map(|entry| fs::read(entry.unwrap().path()).unwrap());
        files
            .map(|bytes| serde_json::from_slice(&bytes).unwrap())
            .collect()
    }

    fn log(&self, pod: &str) -> String {
        fs::read_to_string(
            self.dir
                .path()
                .join(format!("state/logs/default_{pod}_c.log")),
        )
        .unwrap_or_default()
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create(&self, name: &str, script: &str, extra: Value) {
        let container =
            json!({ "name": "c", "image": "host", "command": ["/bin/sh", "-c", script] });
        let mut spec = json!({ "nodeName": "n1", "terminationGracePeriodSeconds": 1, "containers": [container] });
        spec.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let pod =
            serde_json::from_value(json!({ "metadata": { "name": name }, "spec": spec })).unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
    }

    /// The first state of the pod that satisfies the condition.
    async fn until(&self, name: &str, what: &str, condition: impl Condition<Pod>) -> Option<Pod> {
        let waited =
            tokio::time::timeout(BOUND, await_condition(self.pods(), name, condition)).await;
        let Ok(pod) = waited else {
            let pod = self.pods().get_opt(name).await.unwrap();
            panic!(
                "{name} never {what}: {}",
                serde_json::to_string_pretty(&pod).unwrap()
            );
        };
        pod.unwrap()
    }

    async fn phase(&self, name: &str, phase: &'static str) -> Pod {
        let is =
            move |pod: Option<&Pod>| pod.is_some_and(|pod| text(pod, "/status/phase") == phase);
        self.until(name, phase, is).await.unwrap()
    }

    /// Reasons of the events so far.
    async fn events(&self) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let events = api.list(&ListParams::default()).await.unwrap();
        events
            .items
            .into_iter()
            .filter_map(|event| event.reason)
            .collect()
    }

    async fn delete(&self, name: &str) {
        let uid = self.pods().get(name).await.unwrap().metadata.uid.unwrap();
        self.pods()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
        self.until(name, "gone", conditions::is_deleted(&uid)).await;
    }

    async fn end(mut self) {
        self.kill().await;
        assert_eq!(self.namespaces(), Vec::<PathBuf>::new());
        self.server.take().unwrap().stop().await;
    }
}

/// For what nobody tells us about: looks again and again.
async fn eventually(holds: impl AsyncFn() -> bool) {
    let looking = async {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while !holds().await {
            looks.tick().await;
        }
    };
    tokio::time::timeout(BOUND, looking).await.unwrap();
}

impl Drop for Bed {
    /// What a failed test leaves: processes and mounts.
    fn drop(&mut self) {
        for state in self.states() {
            for container in state["containers"].as_array().into_iter().flatten() {
                let pid = container["running"]["pid"]
                    .as_i64()
                    .and_then(|pid| i32::try_from(pid).ok());
                if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                    let killed =
                        rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
                    println!("left behind: process group {pid:?}, killed: {killed:?}");
                }
            }
        }
        for path in self.namespaces() {
            let (dir, name) = (
                path.parent().unwrap(),
                path.file_name().unwrap().to_str().unwrap(),
            );
            println!(
                "left behind: {path:?}, removed: {:?}",
                NamedNetns::existing(dir, name).remove()
            );
        }
    }
}

fn json_of(pod: &impl serde::Serialize) -> Value {
    serde_json::to_value(pod).unwrap()
}

fn text(object: &impl serde::Serialize, pointer: &str) -> String {
    json_of(object)
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn condition(object: &impl serde::Serialize, kind: &str) -> Value {
    let conditions = json_of(object)
        .pointer("/status/conditions")
        .cloned()
        .unwrap_or_default();
    conditions
        .as_array()
        .into_iter()
        .flatten()
        .find(|c| c["type"] == kind)
        .cloned()
        .unwrap_or_default()
}

const FOREVER: &str =
    "trap 'exit 0' TERM; echo up $POD_IPS $HOSTNAME; while :; do sleep 0.05; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_registers_and_becomes_ready() {
    if !available("a_node_registers_and_becomes_ready", &[]) {
        return;
    }
    let mut bed = Bed::new(5).await;
    let nodes: Api<Node> = Api::all(bed.client.clone());
    let ready = |status: &'static str| {
        move |node: Option<&Node>| {
            node.is_some_and(|node| condition(node, "Ready")["status"] == status)
        }
    };
    let wait =
        |status| tokio::time::timeout(BOUND, await_condition(nodes.clone(), "n1", ready(status)));
    let node = wait("False").await.unwrap().unwrap().unwrap();
    assert_eq!(text(&node, "/spec/providerID"), "sim:///z/i-1");
    assert_eq!(
        text(&node, "/spec/taints/0/key"),
        "tombolo.dev/agent-not-ready"
    );
    assert_eq!(text(&node, "/status/allocatable/pods"), "5");
    assert_eq!(text(&node, "/status/addresses/1/address"), "fd09::1");
    assert!(
        condition(&node, "Ready")["message"]
            .as_str()
            .unwrap()
            .contains("no CNI configuration")
    );

    // The agent's own condition and the removal of its taint survive heartbeats and a second registration.
    let status = json!({ "status": { "conditions": [{ "type": "NetworkUnavailable", "status": "False" }] } });
    let strategic = kube::api::Patch::Strategic(status);
    nodes
        .patch_status("n1", &Default::default(), &strategic)
        .await
        .unwrap();
    let untaint = kube::api::Patch::Merge(json!({ "spec": { "taints": null } }));
    nodes
        .patch("n1", &Default::default(), &untaint)
        .await
        .unwrap();
    bed.configure();
    let node = wait("True").await.unwrap().unwrap().unwrap();
    assert_eq!(condition(&node, "NetworkUnavailable")["status"], "False");
    bed.kill().await;
    bed.agent = None;
    bed.start();
    let node = wait("False").await.unwrap().unwrap().unwrap();
    assert_eq!(json_of(&node).pointer("/spec/taints"), None);
    assert_eq!(condition(&node, "NetworkUnavailable")["status"], "False");
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
        Api::namespaced(bed.client.clone(), "kube-node-lease");
    assert!(
        leases
            .get("n1")
            .await
            .unwrap()
            .spec
            .unwrap()
            .renew_time
            .is_some()
    );
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_in_its_namespace_and_goes() {
    if !available("a_pod_runs_in_its_namespace_and_goes", &[]) {
        return;
    }
    let mut bed = Bed::new(5).await;
    bed.configure();
    let script = format!("readlink /proc/self/ns/net; {FOREVER}");
    bed.create("web", &script, json!({})).await;
    let up = |pod: Option<&Pod>| pod.is_some_and(|pod| condition(pod, "Ready")["status"] == "True");
    let pod = bed.until("web", "Ready", up).await.unwrap();
    assert_eq!(
        (
            text(&pod, "/status/podIP"),
            text(&pod, "/status/podIPs/1/ip")
        ),
        ("10.0.0.1".into(), "fd00::1".into())
    );
    assert_eq!(text(&pod, "/status/hostIP"), "10.9.0.1");
    let [netns] = &bed.namespaces()[..] else {
        panic!("one namespace")
    };
    assert!(
        netns
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("cni-")
    );
    let log = fs::read_to_string(bed.dir.path().join("bin/log")).unwrap();
    for word in [
        "K8S_POD_NAME=web",
        "K8S_POD_NAMESPACE=default",
        "IgnoreUnknown=1",
        netns.to_str().unwrap(),
    ] {
        assert!(log.contains(word), "{word}: {log}");
    }
    bed.delete("web").await;
    let lines = bed.log("web");
    let (namespace, rest) = lines.split_once('\n').unwrap();
    assert_ne!(
        namespace,
        fs::read_link("/proc/self/ns/net")
            .unwrap()
            .to_str()
            .unwrap()
    );
    assert_eq!(rest, "up 10.0.0.1,fd00::1 web\n");
    let commands: Vec<_> = bed
        .calls()
        .into_iter()
        .map(|(command, _)| command)
        .collect();
    assert_eq!(commands, ["ADD", "DEL"]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_plugin_is_reported_and_tried_again() {
    if !available("a_failing_plugin_is_reported_and_tried_again", &[]) {
        return;
    }
    let mut bed = Bed::new(5).await;
    bed.configure();
    bed.flag("fail-ADD", true);
    bed.create("web", FOREVER, json!({})).await;
    let told = |pod: Option<&Pod>| {
        pod.is_some_and(|pod| {
            condition(pod, "PodReadyToStartContainers")["reason"] == "FailedCreatePodSandBox"
        })
    };
    let pod = bed.until("web", "told why", told).await.unwrap();
    let message = condition(&pod, "PodReadyToStartContainers")["message"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.contains("PoolEmpty: no address"), "{message}");
    assert!(
        bed.events()
            .await
            .contains(&"FailedCreatePodSandBox".to_owned())
    );

    bed.flag("fail-ADD", false);
    bed.phase("web", "Running").await;
    let calls = bed.calls();
    let (adds, dels): (Vec<_>, Vec<_>) = calls.iter().partition(|(command, _)| command == "ADD");
    assert_eq!(
        adds.len(),
        dels.len() + 1,
        "a DEL after each failed ADD: {calls:?}"
    );
    let ids: std::collections::BTreeSet<_> = adds.iter().map(|(_, id)| id).collect();
    assert_eq!(
        ids.len(),
        adds.len(),
        "each attempt is a sandbox of its own"
    );
    assert_eq!(bed.namespaces().len(), 1);

    // DEL is repeated until it succeeds, and the pod's object stays so long.
    bed.flag("fail-DEL", true);
    bed.pods()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    eventually(async || bed.events().await.contains(&"FailedKillPod".to_owned())).await;
    let pod = bed.pods().get("web").await.unwrap();
    bed.flag("fail-DEL", false);
    bed.until(
        "web",
        "gone",
        conditions::is_deleted(&pod.metadata.uid.unwrap()),
    )
    .await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_during_add_does_not_wait_for_it() {
    if !available("a_pod_deleted_during_add_does_not_wait_for_it", &[]) {
        return;
    }
    let mut bed = Bed::new(5).await;
    bed.configure();
    bed.flag("hang-ADD", true);
    bed.create("web", FOREVER, json!({})).await;
    eventually(async || !bed.calls().is_empty()).await;
    bed.delete("web").await;
    let calls = bed.calls();
    assert_eq!((calls[0].0.as_str(), calls[1].0.as_str()), ("ADD", "DEL"));
    assert_eq!(calls[0].1, calls[1].1);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_exit_codes_and_the_hosts_network() {
    if !available("policies_exit_codes_and_the_hosts_network", &[]) {
        return;
    }
    let mut bed = Bed::new(10).await;
    bed.configure();
    bed.create("fails", "exit 3", json!({ "restartPolicy": "Never" }))
        .await;
    bed.create("works", "exit 0", json!({ "restartPolicy": "OnFailure" }))
        .await;
    bed.create("absent", "", json!({
        "restartPolicy": "Never", "containers": [{ "name": "c", "image": "host", "command": ["/nowhere/x"] }],
    })).await;
    bed.create("host", FOREVER, json!({ "hostNetwork": true }))
        .await;
    let state = bed.dir.path().join("once");
    let script = format!(
        "[ -e {0} ] || {{ touch {0}; exit 1; }}; {FOREVER}",
        state.display()
    );
    bed.create("again", &script, json!({})).await;

    let pod = bed.phase("fails", "Failed").await;
    assert_eq!(
        json_of(&pod).pointer("/status/containerStatuses/0/state/terminated/exitCode"),
        Some(&json!(3))
    );
    assert!(!text(&pod, "/status/podIP").is_empty());
    bed.phase("works", "Succeeded").await;
    let pod = bed.phase("absent", "Failed").await;
    assert_eq!(
        text(&pod, "/status/containerStatuses/0/state/terminated/reason"),
        "StartError"
    );
    let pod = bed.phase("host", "Running").await;
    assert_eq!(text(&pod, "/status/podIPs/1/ip"), "fd09::1");
    let restarted = |pod: Option<&Pod>| {
        let status = pod.map(json_of).unwrap_or_default();
        let first = &status["status"]["containerStatuses"][0];
        first["restartCount"] == 1 && first["ready"] == true
    };
    let pod = bed.until("again", "restarted", restarted).await.unwrap();
    assert_eq!(
        json_of(&pod).pointer("/status/containerStatuses/0/lastState/terminated/exitCode"),
        Some(&json!(1))
    );

    // The network of a pod that ended goes although its object stays.
    assert_eq!(bed.namespaces().len(), 1, "only that of `again`");
    for name in ["fails", "works", "absent", "host", "again"] {
        bed.delete(name).await;
    }
    let calls = bed.calls();
    assert_eq!(
        calls.iter().filter(|(command, _)| command == "ADD").count(),
        4
    );
    assert_eq!(
        calls.iter().filter(|(command, _)| command == "DEL").count(),
        4
    );
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_pods_than_allowed() {
    if !available("no_more_pods_than_allowed", &[]) {
        return;
    }
    let mut bed = Bed::new(1).await;
    bed.configure();
    bed.create("one", FOREVER, json!({})).await;
    bed.phase("one", "Running").await;
    bed.create("two", FOREVER, json!({})).await;
    let pod = bed.phase("two", "Failed").await;
    assert_eq!(text(&pod, "/status/reason"), "OutOfpods");
    bed.delete("two").await;
    bed.delete("one").await;
    bed.create("three", FOREVER, json!({})).await;
    bed.phase("three", "Running").await;
    bed.delete("three").await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_finds_its_pods() {
    if !available("a_restart_finds_its_pods", &[]) {
        return;
    }
    let mut bed = Bed::new(5).await;
    bed.configure();
    for name in ["stays", "ends", "goes", "vanishes"] {
        bed.create(name, FOREVER, json!({})).await;
        bed.phase(name, "Running").await;
    }
    let id = |pod: &Pod| text(pod, "/status/containerStatuses/0/containerID");
    let before = id(&bed.pods().get("stays").await.unwrap());
    bed.kill().await;

    // While nobody looks: one container dies, one pod is deleted, one object is forced out.
    let ends = bed
        .states()
        .into_iter()
        .find(|state| state["name"] == "ends")
        .unwrap();
    let pid = i32::try_from(ends["containers"][0]["running"]["pid"].as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // Still a child of this process, so that it would stay as a zombie.
    let _status =
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
    bed.pods()
        .delete("goes", &DeleteParams::default())
        .await
        .unwrap();
    bed.pods()
        .delete("vanishes", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    let goes = bed.pods().get("goes").await.unwrap().metadata.uid.unwrap();
    bed.start();

    bed.until("goes", "gone", conditions::is_deleted(&goes))
        .await;
    let restarted = |pod: Option<&Pod>| {
        let status = pod.map(json_of).unwrap_or_default();
        let first = &status["status"]["containerStatuses"][0];
        first["restartCount"] == 1 && first["ready"] == true
    };
    let pod = bed.until("ends", "restarted", restarted).await.unwrap();
    let reason = text(
        &pod,
        "/status/containerStatuses/0/lastState/terminated/reason",
    );
    assert_eq!(reason, "ContainerStatusUnknown");
    assert_eq!(id(&bed.pods().get("stays").await.unwrap()), before);
    eventually(async || bed.namespaces().len() == 2).await;
    assert_eq!(
        bed.calls()
            .iter()
            .filter(|(command, _)| command == "ADD")
            .count(),
        4,
        "no ADD again"
    );
    assert_eq!(bed.log("stays").lines().count(), 1, "not started again");
    bed.delete("stays").await;
    bed.delete("ends").await;
    bed.end().await;
}

/// As of a stand-in that ended between DEL and the end of the pod's object, which a restored API server shows as running.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_was_taken_down_and_is_wanted_again_gets_a_sandbox() {
    if !available("a_pod_that_was_taken_down_and_is_wanted_again", &[]) {
        return;
    }
    let mut bed = Bed::new(5).await;
    bed.configure();
    bed.create("back", FOREVER, json!({})).await;
    bed.phase("back", "Running").await;
    bed.kill().await;
    let mut state = bed.states().remove(0);
    let pid = i32::try_from(state["containers"][0]["running"]["pid"].as_i64().unwrap()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let _status =
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
    for netns in bed.namespaces() {
        rustix::mount::unmount(&netns, rustix::mount::UnmountFlags::DETACH).unwrap();
        fs::remove_file(netns).unwrap();
    }
    state["sandbox"]["netns"] = Value::Null;
    let file = format!("state/pods/{}.json", state["uid"].as_str().unwrap());
    fs::write(bed.dir.path().join(file), state.to_string()).unwrap();
    bed.start();
    let adds = async || {
        bed.calls()
            .iter()
            .filter(|(command, _)| command == "ADD")
            .count()
            == 2
    };
    eventually(adds).await;
    assert_eq!(bed.namespaces().len(), 1);
    bed.delete("back").await;
    bed.end().await;
}
