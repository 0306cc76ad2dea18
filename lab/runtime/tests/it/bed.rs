//! A lab with one node, and a runtime in the node. Looks only at what is its own: other labs may run beside it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tombolo_lab::check;
use tombolo_lab::http::{get_text_in_netns, post_unix};
use tombolo_lab::node::{in_netns, output};
use tombolo_lab::process::Process;
use tombolo_lab::state::Lab;
use tombolo_lab::topology::Topology;
use tombolo_lab::up;
use tombolo_lab_runtime::containerd::{self, Cni, Containerd};
use tombolo_lab_runtime::cri::{
    ContainerConfig, ContainerMetadata, Cri, ImageSpec, LinuxPodSandboxConfig, PodSandboxConfig,
    PodSandboxMetadata,
};
use tombolo_lab_runtime::{Inside, images};

use crate::calls::{self, Call};

/// Plugins of Debian's that a node gets beside ours.
const DEBIAN: [&str; 8] = [
    "loopback",
    "portmap",
    "tuning",
    "bandwidth",
    "firewall",
    "ptp",
    "bridge",
    "host-local",
];
const DEBIAN_DIR: &str = "/usr/lib/cni";
/// Longest wait for what comes by itself.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Attachments that the agent knows, a file each.
const JOURNAL: &str = "/run/tombolo/journal";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One lab at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Bed {
    pub lab: Lab,
    pub inside: Inside,
    pub containerd: Containerd,
    daemon: Process,
    pub cri: Cri,
}

/// What is missing here for tests with these programs; in CI nothing may be.
pub fn possible(test: &str, programs: &[(&str, &str)]) -> bool {
    let there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut dirs: Vec<_> = std::env::split_paths(&path).collect();
        dirs.push(DEBIAN_DIR.into());
        dirs.iter().any(|dir| dir.join(program).exists())
    };
    let debian = DEBIAN.map(|plugin| (plugin, "containernetworking-plugins"));
    let mut needs = programs.iter().chain(&debian);
    let missing = needs.find(|(program, _)| !there(program));
    let reason = match missing {
        Some((_, package)) => format!("needs Debian's {package}"),
        None if !rustix::process::geteuid().is_root() => "needs root".to_owned(),
        None => return true,
    };
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test}: {reason}"
    );
    println!("SKIP {test}: {reason}");
    false
}

/// Runs a test on a lab whose node has Debian's plugins and the recorder; then the invariant, and what is left, are judged.
pub fn on_a_node(name: &str, body: impl AsyncFnOnce(&mut Lab, Inside) -> Result<()>) {
    let _one = alone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = runtime.block_on(async {
        let mut topology = Topology::with(name, 1, "m5.large", 1);
        topology.bin_dir = Some(bin_dir());
        topology.profile.pool.cooling_seconds = 1;
        let mut lab = up::up(&topology, false, |_| {}).await?;
        let inside = Inside::of(lab.nodes[0].holder.pid);
        let outcome = async {
            for plugin in DEBIAN {
                let to = inside.path("/run/cni/bin").join(plugin);
                fs::copy(Path::new(DEBIAN_DIR).join(plugin), &to)
                    .with_context(|| format!("copy {plugin}"))?;
            }
            calls::record(inside)?;
            let outcome = body(&mut lab, inside).await;
            calls::keep(inside, name)?;
            outcome?;
            let violations = check::settle(&lab, PATIENCE).await?;
            ensure!(violations.is_empty(), "the invariant: {violations:?}");
            Ok(())
        };
        let outcome = outcome.await;
        let outcome = outcome.map_err(|e: anyhow::Error| e.context(up::tails(&lab)));
        up::down(&lab).and(outcome)
    });
    if let Err(error) = result {
        panic!("{error:?}");
    }
}

/// Runs a test with containerd in the node; afterwards nothing of it may be left.
pub fn with_containerd(test: &str, name: &str, body: impl AsyncFnOnce(&mut Bed) -> Result<()>) {
    if !possible(test, &containerd::NEEDS) {
        return;
    }
    let group = format!("tombolo-{name}-node1");
    on_a_node(name, async |lab, inside| {
        let containerd = Containerd::new(inside, &group);
        containerd.prepare(&Cni::of_the_lab())?;
        let daemon = spawn(lab, &containerd)?;
        let outcome = async {
            let cri = containerd.ready().await?;
            let mut bed = Bed {
                lab: lab.clone(),
                inside,
                containerd: containerd.clone(),
                daemon,
                cri,
            };
            let outcome = async {
                body(&mut bed).await?;
                bed.nothing_is_left().await
            }
            .await;
            *lab = bed.lab.clone();
            outcome
        };
        let outcome = outcome.await;
        let ours = spared(lab);
        containerd.end(&ours)?;
        outcome?;
        let left = containerd.left(&ours)?;
        ensure!(left.is_empty(), "after the end: {left:?}");
        Ok(())
    });
}

fn spawn(lab: &Lab, containerd: &Containerd) -> Result<Process> {
    Process::spawn("containerd", containerd.command(), &lab.log("containerd"))
}

/// What belongs to the lab in the node's mount namespace.
fn spared(lab: &Lab) -> Vec<i32> {
    let node = &lab.nodes[0];
    let processes = [&node.agent, &node.kubelet].into_iter().flatten();
    processes.map(|process| process.pid).collect()
}

/// Binaries of this build: the tests lie beside them.
pub fn bin_dir() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().to_owned()
}

/// A sandbox's configuration; the uid follows from the name.
pub fn pod(name: &str, attempt: u32, bed: &Bed) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-of-{name}"),
            namespace: "default".to_owned(),
            attempt,
        }),
        hostname: name.to_owned(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: bed.containerd.cgroup_parent(),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    }
}

/// A container that runs this command of busybox.
pub fn container(name: &str, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: images::NAME.to_owned(),
        }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ..ContainerConfig::default()
    }
}

impl Bed {
    pub fn calls(&self) -> Result<Vec<Call>> {
        calls::calls(self.inside)
    }

    /// The calls for one container, by command.
    pub fn calls_of(&self, id: &str) -> Result<Vec<Call>> {
        let mut calls = self.calls()?;
        calls.retain(|call| call.container == id);
        Ok(calls)
    }

    /// Starts a container in a sandbox.
    pub async fn start(
        &self,
        sandbox: &str,
        of: &PodSandboxConfig,
        container: &ContainerConfig,
    ) -> Result<String> {
        let id = self.cri.create_container(sandbox, of, container).await?;
        self.cri.start_container(&id).await?;
        Ok(id)
    }

    /// Addresses that the runtime shows for a sandbox.
    pub async fn addresses(&self, sandbox: &str) -> Result<Vec<IpAddr>> {
        let (status, _) = self.cri.sandbox(sandbox).await?;
        status.network.unwrap_or_default().addresses()
    }

    /// The path of a sandbox's network namespace, seen from outside.
    pub async fn netns(&self, sandbox: &str) -> Result<PathBuf> {
        let (_, info) = self.cri.sandbox(sandbox).await?;
        let info = info.get("info").context("PodSandboxStatus without info")?;
        let info: Value = serde_json::from_str(info).context("decode info")?;
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array();
        let network = namespaces
            .into_iter()
            .flatten()
            .find(|namespace| namespace["type"] == "network");
        let path = network.and_then(|namespace| namespace["path"].as_str());
        let path = path.context("the sandbox has no network namespace of its own")?;
        Ok(self.inside.path(&path.replace("/var/run", "/run")))
    }

    /// Every address that the cloud lists on the node's NICs.
    pub async fn addresses_of_the_cloud(&self) -> Result<Vec<IpAddr>> {
        let nics = json!({});
        let nics = post_unix(&self.lab.vpc_socket(), "/v1/DescribeNics", &nics).await?;
        Ok(leaves(&nics))
    }

    /// Whether a plain VM of the VPC reaches an address.
    pub fn vm_reaches(&self, ip: IpAddr) -> Result<()> {
        let mut ping = in_netns(&self.lab.vm("vm1")?.netns, "ping");
        ping.args(["-n", "-c1", "-W5", &ip.to_string()]);
        output(ping).map(drop)
    }

    /// `ip -j` in a namespace.
    pub fn ip_json(netns: &Path, arguments: &[&str]) -> Result<Value> {
        let mut ip = in_netns(&netns.to_string_lossy(), "ip");
        ip.arg("-j").args(arguments);
        let text = output(ip)?;
        if text.trim().is_empty() {
            return Ok(json!([]));
        }
        serde_json::from_str(&text).context("decode ip's output")
    }

    /// Host ends of pods on the node.
    pub fn pod_links(&self) -> Result<Vec<String>> {
        let netns = PathBuf::from(self.lab.nodes[0].netns());
        let links = Self::ip_json(&netns, &["link", "show"])?;
        let names = links.as_array().into_iter().flatten();
        let names = names.filter_map(|link| link["ifname"].as_str());
        Ok(names
            .filter(|name| name.starts_with("tmb"))
            .map(str::to_owned)
            .collect())
    }

    pub fn agent(&self) -> Result<&Process> {
        self.lab.nodes[0].agent.as_ref().context("no agent")
    }

    pub fn start_agent(&mut self) -> Result<()> {
        let agent = up::start_agent(&self.lab, &self.lab.nodes[0])?;
        self.lab.nodes[0].agent = Some(agent);
        self.lab.save()
    }

    /// Ends containerd alone, as an upgrade does, and starts it again: sandboxes stay.
    pub async fn restart_containerd(&mut self, cni: &Cni) -> Result<()> {
        self.daemon.signal(Signal::TERM)?;
        ensure!(self.daemon.wait_gone(PATIENCE)?, "containerd does not end");
        self.containerd.configure(cni)?;
        self.daemon = spawn(&self.lab, &self.containerd)?;
        self.cri = self.containerd.ready().await?;
        Ok(())
    }

    /// Writes a file of the CNI directory as installers do: under another name, then renamed.
    pub fn write_network(&self, name: &str, content: &str) -> Result<()> {
        let dir = self.inside.path("/run/cni/net.d");
        let temporary = dir.join(".new");
        fs::write(&temporary, content).context("write a network")?;
        fs::rename(temporary, dir.join(name)).context("rename a network")
    }

    pub fn remove_network(&self, name: &str) -> Result<()> {
        fs::remove_file(self.inside.path("/run/cni/net.d").join(name)).context("remove a network")
    }

    /// Waits until the runtime says whether pods can have a network.
    pub async fn await_network(&self, ready: bool) -> Result<String> {
        up::wait_for("the runtime's word", PATIENCE, async || {
            Ok(self.cri.condition("NetworkReady").await?.0.status == ready)
        })
        .await?;
        let (condition, info) = self.cri.condition("NetworkReady").await?;
        let load = info.get("lastCNILoadStatus").cloned().unwrap_or_default();
        Ok(format!("{}: {load}", condition.message))
    }

    /// Replaces the network by a list of these plugins, with ours the first, and waits until the runtime has it.
    pub async fn use_network(&self, ours: Value, others: &[Value]) -> Result<()> {
        self.remove_network("10-tombolo.conflist")?;
        self.await_network(false).await?;
        let mut first = json!({ "type": "tombolo-cni" });
        if let (Some(first), Some(more)) = (first.as_object_mut(), ours.as_object()) {
            first.extend(more.clone());
        }
        let plugins: Vec<_> = std::iter::once(&first).chain(others).collect();
        let list = json!({ "cniVersion": "1.0.0", "name": "tombolo", "plugins": plugins });
        self.write_network("10-tombolo.conflist", &list.to_string())?;
        self.await_network(true).await.map(drop)
    }

    /// Waits until no pod's link is left on the node: they go in the background.
    pub async fn await_no_links(&self) -> Result<()> {
        up::wait_for("pods' links to be gone", PATIENCE, async || {
            Ok(self.pod_links()?.is_empty())
        })
        .await
    }

    /// After the last sandbox: no container, no namespace, no link, no journal entry, no control group of one.
    async fn nothing_is_left(&self) -> Result<()> {
        let sandboxes = self.cri.sandboxes().await?;
        ensure!(sandboxes.is_empty(), "sandboxes are left: {sandboxes:?}");
        let containers = self.cri.containers().await?;
        ensure!(containers.is_empty(), "containers are left: {containers:?}");
        self.await_no_links().await?;
        let namespaces = names(self.inside, "/run/netns")?;
        ensure!(namespaces.is_empty(), "namespaces: {namespaces:?}");
        up::wait_for("the journal to be empty", PATIENCE, async || {
            Ok(names(self.inside, JOURNAL)?.is_empty())
        })
        .await?;
        // Shims end a moment after their containers.
        up::wait_for("nothing to be left of containers", PATIENCE, async || {
            Ok(self.left_of_containers()?.is_empty())
        })
        .await
        .with_context(|| format!("{:?}", self.left_of_containers()))
    }

    fn left_of_containers(&self) -> Result<Vec<String>> {
        let mut left = self.containerd.left(&spared(&self.lab))?;
        // containerd itself, and the group that all its containers shared.
        left.retain(|line| !line.contains("containerd --config"));
        left.retain(|line| !line.ends_with(&self.containerd.cgroup_parent()));
        Ok(left)
    }
}

/// Waits until a plain VM of the VPC gets this text from a server.
pub async fn await_from_vm(lab: &Lab, address: SocketAddr, text: &str) -> Result<()> {
    let netns = &lab.vm("vm1")?.netns;
    up::wait_for("a server", PATIENCE, async || {
        let fetched = get_text_in_netns(netns, address, "/x").await;
        Ok(fetched.is_ok_and(|fetched| fetched == text))
    })
    .await
    .with_context(|| format!("http://{address}/x"))
}

/// Names in a directory of the node.
pub fn names(inside: Inside, dir: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(inside.path(dir)).with_context(|| format!("read {dir}"))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names
        .map(|name| name.to_string_lossy().into_owned())
        .collect())
}

/// Whatever in a reply is an address.
fn leaves(value: &Value) -> Vec<IpAddr> {
    match value {
        Value::String(text) => text.parse().into_iter().collect(),
        Value::Array(items) => items.iter().flat_map(leaves).collect(),
        Value::Object(fields) => fields.values().flat_map(leaves).collect(),
        _ => Vec::new(),
    }
}
