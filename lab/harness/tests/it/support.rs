//! One lab for one scenario.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tombolo_lab::check;
use tombolo_lab::kubeapi::{Api, text};
use tombolo_lab::matrix::Place;
use tombolo_lab::node::{in_netns, output};
use tombolo_lab::pods::{self, Pod};
use tombolo_lab::residue;
use tombolo_lab::state::Lab;
use tombolo_lab::topology::Topology;
use tombolo_lab::up;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The machine for oneself.
pub fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a scenario on a lab of its own. What the scenario returns, the invariant and the residue are all judged.
pub fn scenario<F, R>(topology: Topology, body: F)
where
    F: FnOnce(Lab) -> R,
    R: Future<Output = Result<()>>,
{
    let name = topology.name.clone();
    let result = run_alone(&name, async || {
        let before = residue::snapshot()?;
        let mut topology = topology;
        topology.bin_dir = Some(bin_dir());
        let lab = up::up(&topology, false, |_| {}).await?;
        let result = async {
            body(Lab::load(&topology.name)?).await?;
            let lab = Lab::load(&topology.name)?;
            let violations = check::settle(&lab, Duration::from_secs(15)).await?;
            ensure!(
                violations.is_empty(),
                "the invariant does not hold:\n{}",
                lines(&violations)
            );
            Ok(())
        }
        .await;
        // A scenario may have replaced processes: the state on disk is the present one.
        let lab = Lab::load(&topology.name).unwrap_or(lab);
        let result = result.map_err(|e: anyhow::Error| e.context(up::tails(&lab)));
        up::down(&lab)?;
        result?;
        let left = residue::left_since(&before)?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    });
    if let Some(Err(error)) = result {
        panic!("{error:?}");
    }
}

/// Runs what needs the machine for itself; `None` where it cannot run.
pub fn run_alone<T>(name: &str, body: impl AsyncFnOnce() -> T) -> Option<T> {
    let _one = alone();
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "labs need root");
        eprintln!("SKIP {name}: labs need root");
        return None;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    Some(runtime.block_on(body()))
}

pub fn lines<T: std::fmt::Display>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// The directory of the binaries that this build made.
pub fn bin_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tombolo-lab"))
        .parent()
        .unwrap()
        .to_owned()
}

pub fn probe() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tombolo-lab"))
}

/// Starts so many pods and waits for them.
pub async fn run_pods(lab: &Lab, count: usize) -> Result<BTreeMap<String, Pod>> {
    let api = Api::new(&lab.api_url)?;
    for i in 0..count {
        pods::create(
            &api,
            &pods::manifest(&format!("pod-{i:03}"), None, &probe(), &[]),
        )
        .await?;
    }
    pods::wait_running(&api, count, Duration::from_secs(60), |_| {}).await
}

/// The device index of the NIC that owns a pod's IPv4 address, by pod.
pub async fn device_of(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let api = Api::new(&lab.api_url)?;
    let wanted = pods::running(&api).await?.len();
    up::wait_for("PodEndpoints", Duration::from_secs(10), async || {
        Ok(api
            .list("/apis/tombolo.dev/v1alpha1/podendpoints")
            .await?
            .len()
            >= wanted)
    })
    .await?;
    let enis = api.list("/apis/tombolo.dev/v1alpha1/enis").await?;
    let mut devices = BTreeMap::new();
    for pep in api.list("/apis/tombolo.dev/v1alpha1/podendpoints").await? {
        let nic = text(&pep, "/spec/ipv4/nic");
        let eni = enis
            .iter()
            .find(|e| text(e, "/status/nicId") == nic)
            .with_context(|| format!("no Eni for {nic}"))?;
        devices.insert(
            text(&pep, "/spec/pod"),
            eni.pointer("/spec/deviceIndex")
                .and_then(Value::as_u64)
                .context("deviceIndex")?,
        );
    }
    Ok(devices)
}

/// One pod of each (node, device index).
pub async fn one_of_each_nic(
    lab: &Lab,
    running: &BTreeMap<String, Pod>,
) -> Result<BTreeMap<(String, u64), Pod>> {
    let devices = device_of(lab).await?;
    let mut chosen = BTreeMap::new();
    for (name, pod) in running {
        let device = devices
            .get(name)
            .with_context(|| format!("pod {name} has no PodEndpoint"))?;
        chosen
            .entry((pod.node.clone(), *device))
            .or_insert_with(|| pod.clone());
    }
    Ok(chosen)
}

pub fn place(lab: &Lab, pod: &Pod) -> Result<Place> {
    Ok(Place {
        name: pod.name.clone(),
        netns: pods::netns(lab, pod)?.to_string_lossy().into_owned(),
        ips: pod.ips.clone(),
    })
}

pub fn vm_place(lab: &Lab, name: &str) -> Result<Place> {
    let vm = lab.vm(name)?;
    Ok(Place {
        name: vm.name.clone(),
        netns: vm.netns.clone(),
        ips: vm.addresses.clone(),
    })
}

pub fn ip4(pod: &Pod) -> IpAddr {
    *pod.ips.iter().find(|ip| ip.is_ipv4()).unwrap()
}

pub fn ip6(pod: &Pod) -> IpAddr {
    *pod.ips.iter().find(|ip| ip.is_ipv6()).unwrap()
}

/// Output of a program in a namespace.
pub fn in_ns(netns: &str, program: &str, args: &[&str]) -> Result<String> {
    let mut command = in_netns(netns, program);
    command.args(args);
    output(command)
}

/// A running tcpdump; `stop` returns its lines.
pub struct Capture {
    child: Child,
    name: String,
}

impl Capture {
    /// Starts one on a link of a namespace and waits until it listens.
    pub fn start(netns: &str, link: &str, filter: &str) -> Result<Self> {
        let mut command = in_netns(netns, "tcpdump");
        command
            .args([
                "--immediate-mode",
                "-Q",
                "inout",
                "-nn",
                "-l",
                "-e",
                "-i",
                link,
                filter,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("start tcpdump")?;
        let mut stderr = BufReader::new(child.stderr.take().context("standard error")?);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            ensure!(
                stderr.read_line(&mut line)? > 0,
                "tcpdump on {link} in {netns} ended"
            );
        }
        Ok(Self {
            child,
            name: format!("{link} in {netns}"),
        })
    }

    /// Ends it; tcpdump writes what it has before it goes.
    pub fn stop(self) -> Result<Vec<String>> {
        let mut kill = Command::new("kill");
        kill.args(["-INT", &self.child.id().to_string()]);
        output(kill)?;
        let out = self
            .child
            .wait_with_output()
            .with_context(|| format!("tcpdump on {}", self.name))?;
        // An interrupted tcpdump ends its output with an empty line.
        let text = String::from_utf8_lossy(&out.stdout);
        Ok(text
            .lines()
            .filter(|l| !l.is_empty())
            .map(str::to_owned)
            .collect())
    }
}

/// The fabric's namespace, and the name there of a node's link `eth<device>`.
pub async fn fabric_link(lab: &Lab, instance: &str, device: u64) -> Result<(String, String)> {
    let links =
        tombolo_lab::http::post_unix(&lab.vpc_socket(), "/lab/v1/Links", &serde_json::json!({}))
            .await?;
    let link = links
        .as_array()
        .into_iter()
        .flatten()
        .find(|l| {
            text(l, "/instance") == instance
                && l.pointer("/device_index").and_then(Value::as_u64) == Some(device)
        })
        .with_context(|| format!("instance {instance} has no eth{device}: {links}"))?;
    Ok((
        format!("/run/netns/tl-{}-fabric", lab.topology.name),
        text(link, "/link"),
    ))
}
