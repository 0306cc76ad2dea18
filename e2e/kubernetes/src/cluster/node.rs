//! A node: an instance of the VPC with a network, mount and UTS namespace of its own, in which containerd, kubelet and
//! kube-proxy run as on a machine. What they write of the machine's files lands in layers and mounts of the node.

use std::ffi::CString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::Signal;
use serde_json::json;
use tombolo_lab::process::Process;

use super::Programs;
use super::cgroup;
use super::pki::{Pki, write};
use crate::command::{command, output};
use crate::image::TEST_IMAGE;
use crate::vpc::{Machine, Vpc};
use crate::wait::until;

/// Taint with which nodes register, as the manual asks for: it goes when the node's agent serves.
pub const TAINT: &str = "tombolo.dev/agent-not-ready";

const CONTAINERD: &str = r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "@IMAGE@"
  disable_apparmor = true
  # The test machine grants no CAP_SYS_RESOURCE.
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
"#;

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: &'static str,
    pub instance_type: &'static str,
    pub max_pods: u32,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    pub spec: Spec,
    pub machine: Machine,
    holder: Process,
    containerd: Process,
    /// `None` while it is away.
    kubelet: Option<Process>,
    /// `None` while it is changed.
    proxy: Option<Process>,
}

/// How kube-proxy makes Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    Iptables,
    /// From Kubernetes 1.31 on.
    Nftables,
}

/// What the holder runs after `unshare`: layers over what the node writes, then nothing until it is killed.
pub fn hold(name: &str, dir: &Path) -> Result<()> {
    rustix::system::sethostname(name.as_bytes())
        .with_context(|| format!("set host name {name}"))?;
    tombolo_lab::node::keep_mounts_here().context("make the mounts private")?;
    for place in ["etc", "opt", "var"] {
        let (upper, work) = (dir.join(place), dir.join(format!("{place}.work")));
        for made in [&upper, &work] {
            fs::create_dir_all(made).with_context(|| format!("create {}", made.display()))?;
        }
        let options = format!(
            "lowerdir=/{place},upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        let options = CString::new(options).context("mount options")?;
        mount(
            "overlay",
            format!("/{place}"),
            "overlay",
            MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .with_context(|| format!("mount a layer over /{place}"))?;
    }
    // Container layers and volumes lie on no layer.
    for place in ["containerd", "kubelet"] {
        let (from, to) = (dir.join(place), PathBuf::from("/var/lib").join(place));
        for made in [&from, &to] {
            fs::create_dir_all(made).with_context(|| format!("create {}", made.display()))?;
        }
        mount_bind(&from, &to).with_context(|| format!("bind {}", to.display()))?;
    }
    mount_change("/var/lib/kubelet", MountPropagationFlags::SHARED)
        .context("share /var/lib/kubelet")?;
    mount(
        "tmpfs",
        "/run",
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=0755"),
    )
    .context("mount /run")?;
    for made in [
        "/run/netns",
        "/etc/kubernetes/manifests",
        "/etc/containerd",
        "/etc/cni/net.d",
        "/opt/cni/bin",
        "/var/log/pods",
    ] {
        fs::create_dir_all(made).with_context(|| format!("create {made}"))?;
    }
    // What other networks configured on this machine is none of this cluster's.
    let foreign = fs::read_dir("/etc/cni/net.d").context("read /etc/cni/net.d")?;
    for entry in foreign {
        let path = entry.context("read /etc/cni/net.d")?.path();
        fs::remove_file(&path).with_context(|| format!("hide {}", path.display()))?;
    }
    println!("ready");
    // Blocks until killed: nobody ever writes to our standard input.
    let _eof = std::io::stdin().read(&mut [0_u8; 1]);
    loop {
        std::thread::park();
    }
}

fn start_holder(name: &str, dir: &Path) -> Result<Process> {
    let own = std::env::current_exe().context("path of this program")?;
    let mut unshare = command("unshare");
    unshare
        .args(["--net", "--mount", "--uts", "--propagation=unchanged", "--"])
        .arg(own);
    let mut child = unshare
        .args(["hold", name])
        .arg(dir)
        .stdout(Stdio::piped())
        .spawn()
        .context("start unshare")?;
    let process = Process::adopt(
        &format!("holder-{name}"),
        i32::try_from(child.id()).context("pid out of range")?,
    )?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("holder's standard output")?;
    BufReader::new(stdout)
        .read_line(&mut line)
        .context("read from the node's holder")?;
    if line.trim() != "ready" {
        bail!(
            "the holder of node {name} did not start: {:?}",
            child.wait()
        );
    }
    Ok(process)
}

impl Node {
    /// Starts a node; it registers by itself.
    pub fn start(
        programs: &Programs,
        dir: &Path,
        vpc: &Vpc,
        pki: &Pki,
        spec: Spec,
        test_image: &Path,
    ) -> Result<Self> {
        let name = spec.name;
        let own = dir.join(name);
        let holder = start_holder(name, &own)?;
        let machine = vpc.run(
            name,
            spec.instance_type,
            Some(&format!("/proc/{}/ns/net", holder.pid)),
        )?;
        let logs = dir.join("logs");
        let root = PathBuf::from(format!("/proc/{}/root", holder.pid));
        write(
            &root.join("etc/containerd/config.toml"),
            &CONTAINERD.replace("@IMAGE@", TEST_IMAGE),
        )?;
        let loopback = Path::new("/usr/lib/cni/loopback");
        fs::copy(loopback, root.join("opt/cni/bin/loopback"))
            .with_context(|| format!("copy {}", loopback.display()))?;
        let enter = |program: &Path| enter(&holder, program);
        let mut containerd = enter(Path::new("containerd"));
        containerd.args([
            "--config",
            "/etc/containerd/config.toml",
            "--log-level",
            "info",
        ]);
        let containerd = Process::spawn(
            "containerd",
            containerd,
            &logs.join(format!("containerd-{name}.log")),
        )?;
        until("containerd", Duration::from_secs(30), || {
            output(enter(Path::new("ctr")).args(["--connect-timeout", "2s", "version"])).map(|_| ())
        })?;
        import(&holder, test_image)?;
        cgroup::create(name)?;
        for (file, from) in [("kubelet", name), ("kube-proxy", "kube-proxy")] {
            fs::copy(
                pki.path(&format!("{from}.kubeconfig")),
                root.join(format!("etc/kubernetes/{file}.kubeconfig")),
            )
            .with_context(|| format!("copy the kubeconfig of {file}"))?;
        }
        write(
            &root.join("etc/kubernetes/kubelet.yaml"),
            &kubelet_config(&spec, &machine),
        )?;
        let mut node = Self {
            spec,
            machine,
            holder,
            containerd,
            kubelet: None,
            proxy: None,
        };
        node.use_proxy(programs, dir, ProxyMode::Iptables)?;
        node.start_kubelet(programs, dir)?;
        Ok(node)
    }

    /// Starts kube-proxy, in the place of the one that runs. In its new mode it removes what the other one made.
    pub fn use_proxy(&mut self, programs: &Programs, dir: &Path, mode: ProxyMode) -> Result<()> {
        if let Some(proxy) = self.proxy.take() {
            proxy.end(Duration::from_secs(10))?;
        }
        let name = self.spec.name;
        let mut proxy = self.enter(programs.kube("kube-proxy"));
        proxy.arg("--kubeconfig=/etc/kubernetes/kube-proxy.kubeconfig");
        match mode {
            ProxyMode::Iptables => proxy.args([
                "--proxy-mode=iptables",
                "--iptables-min-sync-period=0s",
                "--iptables-sync-period=30s",
            ]),
            // Of its own, it serves ports of nodes at the node's own address only.
            ProxyMode::Nftables => {
                proxy.args(["--proxy-mode=nftables", "--nodeport-addresses=0.0.0.0/0"])
            }
        };
        // Limits of the whole machine, which a node in a namespace cannot set.
        proxy.args([
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ]);
        proxy.arg(format!("--hostname-override={name}"));
        self.proxy = Some(Process::spawn(
            "kube-proxy",
            proxy,
            &dir.join(format!("logs/kube-proxy-{name}.log")),
        )?);
        Ok(())
    }

    /// Starts the kubelet.
    pub fn start_kubelet(&mut self, programs: &Programs, dir: &Path) -> Result<()> {
        let name = self.spec.name;
        let mut kubelet = self.enter(programs.kube("kubelet"));
        kubelet.args([
            "--config=/etc/kubernetes/kubelet.yaml",
            "--kubeconfig=/etc/kubernetes/kubelet.kubeconfig",
        ]);
        if !programs.since(24) {
            kubelet.args(["--container-runtime=remote", "--network-plugin=cni"]);
        }
        kubelet.args([
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock",
            "--root-dir=/var/lib/kubelet",
            "--cert-dir=/var/lib/kubelet/pki",
        ]);
        kubelet.arg("--volume-plugin-dir=/var/lib/kubelet/volumeplugins");
        kubelet.arg(format!("--hostname-override={name}"));
        kubelet.arg(format!("--node-ip={}", self.machine.address));
        kubelet.arg(format!("--register-with-taints={TAINT}=:NoSchedule"));
        self.kubelet = Some(Process::spawn(
            "kubelet",
            kubelet,
            &dir.join(format!("logs/kubelet-{name}.log")),
        )?);
        Ok(())
    }

    /// Stops the kubelet; pods run on.
    pub fn stop_kubelet(&mut self) -> Result<()> {
        let kubelet = self.kubelet.take().context("the kubelet is away already")?;
        kubelet.end(Duration::from_secs(10))
    }

    /// Gives the node's runtime the images of an archive.
    pub fn import(&self, archive: &Path) -> Result<()> {
        import(&self.holder, archive)
    }

    /// A command inside the node.
    pub fn enter(&self, program: impl AsRef<Path>) -> Command {
        enter(&self.holder, program.as_ref())
    }

    /// A path of the node, seen from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.holder.pid))
    }

    /// Path of the network namespace in which a pod of this node runs.
    pub fn pod_netns(&self, uid: &str) -> Result<String> {
        let pid = cgroup::process_of_pod(self.spec.name, uid)?;
        Ok(format!("/proc/{pid}/ns/net"))
    }

    /// Ends everything on the node, pods included, as when a machine loses its power.
    pub fn kill(&self) -> Result<()> {
        for process in [
            self.kubelet.as_ref(),
            self.proxy.as_ref(),
            Some(&self.containerd),
        ]
        .into_iter()
        .flatten()
        {
            process.signal(Signal::KILL)?;
        }
        cgroup::kill(self.spec.name)?;
        kill_mount_namespace(&self.holder)?;
        cgroup::kill(self.spec.name)?;
        self.holder.kill()?;
        cgroup::remove(self.spec.name)
    }
}

fn enter(holder: &Process, program: &Path) -> Command {
    let mut inside = command("nsenter");
    inside.args(["--net", "--mount", "--uts", "--root", "--target"]);
    inside.arg(holder.pid.to_string()).arg("--").arg(program);
    inside
}

/// Gives a node's runtime the images of an archive, which may lie where the node does not see it.
fn import(holder: &Process, archive: &Path) -> Result<()> {
    let file = fs::File::open(archive).with_context(|| format!("open {}", archive.display()))?;
    let mut ctr = enter(holder, Path::new("ctr"));
    ctr.args(["-n", "k8s.io", "image", "import", "-"])
        .stdin(file);
    output(&mut ctr).with_context(|| format!("import {}", archive.display()))?;
    Ok(())
}

fn kubelet_config(spec: &Spec, machine: &Machine) -> String {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        // Only the API server and the node itself reach it in this VPC.
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup::path_of(spec.name),
        "failSwapOn": false,
        "evictionHard": {"memory.available": "10Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
        "imageGCHighThresholdPercent": 100,
        "maxPods": spec.max_pods,
        "providerID": format!("sim:///{}/{}", machine.zone, machine.instance),
        "staticPodPath": "/etc/kubernetes/manifests",
        "fileCheckFrequency": "2s",
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 12,
        "readOnlyPort": 0,
        "resolvConf": "",
        "registryPullQPS": 0, "eventRecordQPS": 0,
        "kubeAPIQPS": 50, "kubeAPIBurst": 100,
    });
    config.to_string()
}

/// Kills what runs in a node's mount namespace beside its holder: what the runtime left.
fn kill_mount_namespace(holder: &Process) -> Result<()> {
    let own = fs::read_link(format!("/proc/{}/ns/mnt", holder.pid))
        .context("the node's mount namespace")?;
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let name = entry.context("read /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        // Processes may end while we look.
        let Ok(mnt) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else {
            continue;
        };
        if mnt == own
            && pid != holder.pid
            && let Ok(process) = Process::adopt("left over", pid)
        {
            process.kill()?;
        }
    }
    Ok(())
}
