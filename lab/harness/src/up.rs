//! Bringing a lab up, step by step, and taking it down so that nothing is left.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tombolo_lab_runtime::containerd::{self, Cni, Containerd};

use crate::http::post_unix;
use crate::kubeapi::{Api, text};
use crate::node::{in_netns, start_holder};
use crate::process::Process;
use crate::state::{Lab, Node, Vm};
use crate::topology::{NodeSpec, Runtime, Topology};

/// The CRDs as users install them.
const CRDS: [(&str, &str); 4] = [
    ("enis", include_str!("../../../deploy/crds/enis.yaml")),
    (
        "netresourcesets",
        include_str!("../../../deploy/crds/netresourcesets.yaml"),
    ),
    (
        "networkprofiles",
        include_str!("../../../deploy/crds/networkprofiles.yaml"),
    ),
    (
        "podendpoints",
        include_str!("../../../deploy/crds/podendpoints.yaml"),
    ),
];

/// Directory inside a node for the harness's own files.
const NODE_DIR: &str = "/run/lab";
/// Port of the API server inside the VPC.
const API_PORT: u16 = 6443;

/// Brings a lab up; on failure takes down what was made, unless `keep`.
pub async fn up(topology: &Topology, keep: bool, mut say: impl FnMut(&str)) -> Result<Lab> {
    topology.validate()?;
    if let Ok(old) = Lab::load(&topology.name) {
        say("sweep the residue of an earlier lab of this name");
        down(&old)?;
    }
    let dir = Lab::dir_of(&topology.name);
    fs::create_dir_all(dir.join("logs")).with_context(|| format!("create {}", dir.display()))?;
    let mut lab = Lab {
        topology: topology.clone(),
        services: Vec::new(),
        nodes: Vec::new(),
        vms: Vec::new(),
        api_url: String::new(),
        api_url_inside: String::new(),
        internet: Vec::new(),
    };
    let result = build(&mut lab, &mut say).await;
    lab.save()?;
    match result {
        Ok(()) => Ok(lab),
        Err(error) if keep => {
            Err(error.context("the lab is kept as it is; `tombolo lab down` removes it"))
        }
        Err(error) => {
            let logs = tails(&lab);
            down(&lab)?;
            Err(error.context(logs))
        }
    }
}

async fn build(lab: &mut Lab, say: &mut impl FnMut(&str)) -> Result<()> {
    say("start the VPC");
    start_vpc(lab).await?;
    say("start the control plane");
    start_control(lab).await?;
    for name in lab.topology.vms.clone() {
        let vm = run_vm(lab, &name).await?;
        let probe = in_netns(&vm.netns, lab.topology.binary("tombolo-lab")?);
        start_probe(lab, &name, probe)?;
        lab.vms.push(vm);
    }
    let inet = in_netns(
        &format!("/run/netns/tl-{}-inet", lab.topology.name),
        lab.topology.binary("tombolo-lab")?,
    );
    start_probe(lab, "internet", inet)?;
    for spec in lab.topology.nodes.clone() {
        say(&format!("start {}", spec.name));
        let node = start_node(lab, &spec).await?;
        lab.nodes.push(node);
        lab.save()?;
    }
    say("wait until every node is Ready");
    wait_ready(lab, Duration::from_secs(60)).await
}

async fn start_vpc(lab: &mut Lab) -> Result<()> {
    let config = lab.dir().join("vpc.json");
    let mut command = Command::new(lab.topology.binary("tombolo-lab")?);
    command.args(["vpc", "--lab", &lab.topology.name, "serve"]);
    if let Some(value) = &lab.topology.vpc {
        // JSON is YAML.
        fs::write(&config, serde_json::to_vec_pretty(value)?)
            .with_context(|| format!("write {}", config.display()))?;
        command.arg("--config").arg(&config);
    }
    spawn(lab, "vpc", command)?;
    let socket = lab.vpc_socket();
    wait_for("the VPC simulator", Duration::from_secs(20), async || {
        still_runs(lab, "vpc")?;
        Ok(post_unix(&socket, "/lab/v1/Info", &json!({})).await.is_ok())
    })
    .await?;
    let info = post_unix(&socket, "/lab/v1/Info", &json!({})).await?;
    let hosts = info
        .pointer("/config/internet/hosts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    lab.internet = hosts.filter_map(|h| h.as_str()?.parse().ok()).collect();
    Ok(())
}

/// The control-plane VM carries API server and operator, as a managed control plane would: reached through the VPC.
async fn start_control(lab: &mut Lab) -> Result<()> {
    let vm = run_vm(lab, "control").await?;
    let inside = vm
        .addresses
        .first()
        .context("the control VM has no address")?;
    lab.api_url_inside = format!("http://{inside}:{API_PORT}");
    let crds = lab.dir().join("crds");
    fs::create_dir_all(&crds).with_context(|| format!("create {}", crds.display()))?;
    for (name, crd) in CRDS {
        fs::write(crds.join(format!("{name}.yaml")), crd)
            .with_context(|| format!("write CRD {name}"))?;
    }
    let mut command = Command::new(lab.topology.binary("tombolo-lab")?);
    command.args(["apiserver", "--scheduler", "--listen", "127.0.0.1:0"]);
    command
        .arg(format!("--listen-in={}={inside}:{API_PORT}", vm.netns))
        .arg("--load")
        .arg(&crds);
    spawn(lab, "apiserver", command)?;
    let log = lab.log("apiserver");
    wait_for("the API server", Duration::from_secs(20), async || {
        still_runs(lab, "apiserver")?;
        Ok(ready_line(&log)?.is_some())
    })
    .await?;
    let port = ready_line(&log)?.context("the API server printed no ready line")?;
    lab.api_url = format!("http://{port}");
    write_kubeconfig(&lab.dir().join("kubeconfig"), &lab.api_url)?;
    write_kubeconfig(&lab.dir().join("kubeconfig-inside"), &lab.api_url_inside)?;

    let profile = json!({
        "apiVersion": "tombolo.dev/v1alpha1", "kind": "NetworkProfile",
        "metadata": { "name": "default" }, "spec": lab.topology.profile,
    });
    Api::new(&lab.api_url)?
        .create("/apis/tombolo.dev/v1alpha1/networkprofiles", &profile)
        .await?;
    start_operator(lab, &vm.netns)?;
    lab.vms.push(vm);
    Ok(())
}

/// Starts the operator in the control VM.
pub fn start_operator(lab: &mut Lab, control_netns: &str) -> Result<()> {
    let mut command = in_netns(control_netns, lab.topology.binary("tombolo-operator")?);
    command.env("KUBECONFIG", lab.dir().join("kubeconfig-inside"));
    command.args([
        "--cloud",
        "sim",
        "--cloud-endpoint",
        "http://169.254.169.254",
        "--cluster",
        &lab.topology.name,
    ]);
    command.args(&lab.topology.operator_args);
    spawn(lab, "operator", command)
}

async fn run_vm(lab: &Lab, name: &str) -> Result<Vm> {
    let instance = run_instance(lab, name, "t3.small", None).await?;
    Ok(Vm {
        name: name.to_owned(),
        instance: text(&instance, "/id"),
        netns: text(&instance, "/netns"),
        addresses: primary_addresses(&instance)?,
    })
}

async fn run_instance(
    lab: &Lab,
    name: &str,
    instance_type: &str,
    netns: Option<&str>,
) -> Result<Value> {
    let info = post_unix(&lab.vpc_socket(), "/lab/v1/Info", &json!({})).await?;
    let subnet = text(&info, "/config/subnets/0/id");
    let body =
        json!({ "name": name, "instance_type": instance_type, "subnet": subnet, "netns": netns });
    post_unix(&lab.vpc_socket(), "/lab/v1/RunInstance", &body).await
}

fn primary_addresses(instance: &Value) -> Result<Vec<IpAddr>> {
    let v4 = text(instance, "/primary4");
    let v4 = v4
        .split('/')
        .next()
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("primary address of {instance}"))?;
    let v6 = instance
        .pointer("/primary6")
        .and_then(Value::as_str)
        .and_then(|t| t.parse().ok());
    Ok(std::iter::once(v4).chain(v6).collect())
}

fn start_probe(lab: &mut Lab, name: &str, mut command: Command) -> Result<()> {
    command.args(["probe", "serve", "--port", &crate::matrix::PORT.to_string()]);
    spawn(lab, &format!("probe-{name}"), command)
}

async fn start_node(lab: &mut Lab, spec: &NodeSpec) -> Result<Node> {
    let holder = start_holder(&lab.topology.binary("tombolo-lab")?, &spec.name)?;
    // Kept at once, so that a failure further on takes the holder down too.
    lab.services.push(holder.clone());
    let netns = format!("/proc/{}/ns/net", holder.pid);
    let instance = run_instance(lab, &spec.name, &spec.instance_type, Some(&netns)).await?;
    let addresses = primary_addresses(&instance)?;
    let mut address4 = None;
    let mut address6 = None;
    for ip in addresses {
        match ip {
            IpAddr::V4(ip) => address4 = Some(ip),
            IpAddr::V6(ip) => address6 = Some(ip),
        }
    }
    let mut node = Node {
        name: spec.name.clone(),
        instance: text(&instance, "/id"),
        holder,
        agent: None,
        kubelet: None,
        containerd: None,
        address4: address4.context("the node has no IPv4 address")?,
        address6,
        zone: text(&instance, "/zone"),
        max_pods: match spec.max_pods {
            Some(n) => n,
            None => capacity(lab, &spec.instance_type).await?,
        },
    };
    write_kubeconfig_in(&node, &lab.api_url_inside)?;
    install_plugin(lab, &node)?;
    if lab.topology.runtime == Runtime::Containerd {
        let started = start_containerd(lab, &mut node).await;
        // Kept at once, as the holder is.
        lab.services.extend(node.containerd.clone());
        started?;
    }
    node.kubelet = Some(start_kubelet(lab, &node)?);
    node.agent = Some(start_agent(lab, &node)?);
    Ok(node)
}

/// Pods that an instance type can address: every address but the NICs' own.
async fn capacity(lab: &Lab, instance_type: &str) -> Result<u32> {
    let types = post_unix(
        &lab.vpc_socket(),
        "/v1/DescribeInstanceTypes",
        &json!({ "names": [instance_type] }),
    )
    .await?;
    let number = |field: &str| {
        types
            .pointer(&format!("/0/{field}"))
            .and_then(Value::as_u64)
    };
    let (Some(nics), Some(addresses)) = (number("max_nics"), number("ipv4_per_nic")) else {
        bail!("instance type {instance_type:?} is unknown to the cloud");
    };
    u32::try_from(nics * (addresses - 1)).context("capacity")
}

/// Starts the agent of a node.
pub fn start_agent(lab: &Lab, node: &Node) -> Result<Process> {
    let mut command = node.command(lab.topology.binary("tombolo-agent")?);
    command
        .env("KUBECONFIG", format!("{NODE_DIR}/kubeconfig"))
        .args(["run", "--node-name", &node.name])
        .args(["--max-pods", &node.max_pods.to_string()]);
    command.args(&lab.topology.agent_args);
    let process = Process::spawn(
        &format!("agent-{}", node.name),
        command,
        &lab.log(&format!("agent-{}", node.name)),
    )?;
    Ok(process)
}

/// Debian's directory of CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// Starts containerd in a node and waits until it can run pods.
async fn start_containerd(lab: &Lab, node: &mut Node) -> Result<()> {
    if let Some(package) = containerd::missing() {
        bail!("containerd cannot run here: install Debian's {package}");
    }
    let loopback = Path::new(PLUGINS).join("loopback");
    let to = node.path("/run/cni/bin/loopback");
    fs::copy(&loopback, &to).with_context(|| {
        let from = loopback.display();
        format!("copy {from} (Debian: containernetworking-plugins)")
    })?;
    let containerd = Containerd::new(node.inside(), &lab.topology.group(&node.name));
    containerd.prepare(&Cni::of_the_lab())?;
    let name = format!("containerd-{}", node.name);
    node.containerd = Some(Process::spawn(
        &name,
        containerd.command(),
        &lab.log(&name),
    )?);
    containerd.ready().await.map(drop)
}

/// Starts the kubelet stand-in of a node.
pub fn start_kubelet(lab: &Lab, node: &Node) -> Result<Process> {
    let mut command = node.command(lab.topology.binary("tombolo-lab")?);
    command.args([
        "kubelet",
        "--node",
        &node.name,
        "--api",
        &lab.api_url_inside,
        "--max-pods",
        &node.max_pods.to_string(),
    ]);
    command.args([
        "--provider-id",
        &format!("sim:///{}/{}", node.zone, node.instance),
    ]);
    command.args(["--node-ip", &node.address4.to_string()]);
    if let Some(ip) = node.address6 {
        command.args(["--node-ip", &ip.to_string()]);
    }
    command.args([
        "--cni-bin-dir",
        "/run/cni/bin",
        "--cni-conf-dir",
        "/run/cni/net.d",
    ]);
    if node.containerd.is_some() {
        let group = format!("/{}", lab.topology.group(&node.name));
        command.args(["--runtime-endpoint", containerd::SOCKET]);
        command.args(["--cgroup-parent", &group]);
    }
    let name = format!("kubelet-{}", node.name);
    Process::spawn(&name, command, &lab.log(&name))
}

/// Puts the plugin and its configuration into a node, in place of those that are there.
pub fn install_plugin(lab: &Lab, node: &Node) -> Result<()> {
    let to = node.path("/run/cni/bin/tombolo-cni");
    // One that is just being executed cannot be written to.
    let whole = to.with_extension("new");
    fs::copy(lab.topology.binary("tombolo-cni")?, &whole)
        .and_then(|_| fs::rename(&whole, &to))
        .with_context(|| format!("copy the plugin to {}", to.display()))?;
    // A runtime that does not know 1.1.0 (containerd 1.6) takes the first, one that does the highest.
    let conflist = json!({
        "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "tombolo",
        "plugins": [{ "type": "tombolo-cni", "capabilities": { "portMappings": true } }],
    });
    let to = node.path("/run/cni/net.d/10-tombolo.conflist");
    fs::write(&to, serde_json::to_vec_pretty(&conflist)?)
        .with_context(|| format!("write {}", to.display()))
}

fn write_kubeconfig_in(node: &Node, url: &str) -> Result<()> {
    let dir = node.path(NODE_DIR);
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    write_kubeconfig(&dir.join("kubeconfig"), url)
}

fn write_kubeconfig(path: &Path, url: &str) -> Result<()> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{ "name": "lab", "cluster": { "server": url } }],
        "users": [{ "name": "lab", "user": {} }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
    });
    fs::write(path, serde_json::to_vec_pretty(&config)?)
        .with_context(|| format!("write {}", path.display()))
}

/// Fails as soon as a service has ended, instead of waiting for it in vain.
fn still_runs(lab: &Lab, name: &str) -> Result<()> {
    match lab.services.iter().find(|p| p.name == name) {
        Some(process) if process.alive() => Ok(()),
        _ => bail!("{name} has ended"),
    }
}

fn spawn(lab: &mut Lab, name: &str, command: Command) -> Result<()> {
    let process = Process::spawn(name, command, &lab.log(name))?;
    lab.services.retain(|p| p.name != name);
    lab.services.push(process);
    Ok(())
}

/// The loopback address from the line that the API server prints when it serves.
fn ready_line(log: &Path) -> Result<Option<String>> {
    let log = fs::read_to_string(log).with_context(|| format!("read {}", log.display()))?;
    let line = log.lines().find_map(|l| l.strip_prefix("ready "));
    Ok(line
        .and_then(|l| l.split([' ', ',']).find(|a| a.starts_with("127.0.0.1:")))
        .map(str::to_owned))
}

/// Polls what only another program knows.
pub async fn wait_for(
    what: &str,
    bound: Duration,
    ready: impl AsyncFn() -> Result<bool>,
) -> Result<()> {
    let begin = Instant::now();
    while !ready().await? {
        if begin.elapsed() > bound {
            bail!("{what}: not ready after {bound:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Waits until every node is Ready and has no start-up taint.
pub async fn wait_ready(lab: &Lab, bound: Duration) -> Result<()> {
    let api = Api::new(&lab.api_url)?;
    let names: Vec<&str> = lab.nodes.iter().map(|n| n.name.as_str()).collect();
    wait_for("the nodes", bound, async || {
        for name in &names {
            let Some(node) = api.find(&format!("/api/v1/nodes/{name}")).await? else {
                return Ok(false);
            };
            let conditions = node
                .pointer("/status/conditions")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let ready = conditions
                .filter(|c| text(c, "/type") == "Ready")
                .any(|c| text(c, "/status") == "True");
            let taints = node
                .pointer("/spec/taints")
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            let tainted = taints
                .filter(|t| text(t, "/key") == "tombolo.dev/agent-not-ready")
                .count()
                > 0;
            if !ready || tainted {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

/// Ends every process, then the simulator (which removes its namespaces), then the state directory.
pub fn down(lab: &Lab) -> Result<()> {
    let mut problems = Vec::new();
    let mut note = |r: Result<()>| {
        if let Err(error) = r {
            problems.push(format!("{error:#}"));
        }
    };
    let grace = Duration::from_secs(5);
    for node in &lab.nodes {
        let processes = [&node.kubelet, &node.containerd, &node.agent];
        for process in processes.into_iter().flatten() {
            note(process.end(grace));
        }
        note(kill_namespace(node));
    }
    if lab.topology.runtime == Runtime::Containerd {
        // Also of a node that did not come up.
        for node in &lab.topology.nodes {
            note(containerd::end_group(&lab.topology.group(&node.name)));
        }
    }
    let (vpc, others): (Vec<_>, Vec<_>) = lab.services.iter().partition(|p| p.name == "vpc");
    for process in others.iter().filter(|p| !p.name.starts_with("holder-")) {
        note(process.end(grace));
    }
    for process in vpc {
        note(process.end(Duration::from_secs(20)));
    }
    for process in others.iter().filter(|p| p.name.starts_with("holder-")) {
        note(process.kill());
    }
    let dir = lab.dir();
    if dir.exists() {
        note(fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display())));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        bail!("taking the lab down: {}", problems.join("; "))
    }
}

/// Kills what still runs in a node's mount namespace: its pods.
pub fn kill_namespace(node: &Node) -> Result<()> {
    if !node.holder.alive() {
        return Ok(());
    }
    let own = fs::read_link(format!("/proc/{}/ns/mnt", node.holder.pid))
        .context("the node's mount namespace")?;
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        // Processes may end while we look.
        let Ok(mnt) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else {
            continue;
        };
        if mnt == own
            && pid != node.holder.pid
            && let Ok(process) = Process::adopt("pod", pid)
        {
            process.kill()?;
        }
    }
    Ok(())
}

/// The last lines of every log, for a failure's message.
pub fn tails(lab: &Lab) -> String {
    let mut text = String::new();
    let Ok(entries) = fs::read_dir(lab.dir().join("logs")) else {
        return text;
    };
    for entry in entries.flatten() {
        let Ok(log) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let lines: Vec<&str> = log.lines().collect();
        let last = lines
            .get(lines.len().saturating_sub(15)..)
            .unwrap_or_default();
        text.push_str(&format!(
            "--- {}\n{}\n",
            entry.file_name().to_string_lossy(),
            last.join("\n")
        ));
    }
    text
}
