//! A Kubernetes cluster on the lab's VPC: bringing it up without any network for pods, and taking it down without a trace.

pub mod cgroup;
pub mod control;
pub mod node;
pub mod pki;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tombolo_lab::process::Process;

use crate::command::{command, output};
use crate::image;
use crate::kubectl::Kubectl;
use crate::vpc::{Machine, Vpc};
use crate::wait;
use control::Control;
use node::{Node, Spec};
use pki::Pki;

/// Addresses of Services.
pub const SERVICES: &str = "172.30.0.0/16";
/// The API server's own Service.
const API_SERVICE: &str = "172.30.0.1";

/// Nodes of the cluster. The last one is small: it is filled and terminated.
pub const NODES: [Spec; 3] = [
    Spec {
        name: "node1",
        instance_type: "m5.large",
        max_pods: 27,
    },
    Spec {
        name: "node2",
        instance_type: "m5.large",
        max_pods: 27,
    },
    Spec {
        name: "node3",
        instance_type: "t3.medium",
        max_pods: 15,
    },
];

/// The oldest Kubernetes that Tombolo is for.
const OLDEST: u32 = 20;

/// Programs of others that the cluster consists of.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Folder of Kubernetes' programs.
    pub kube: PathBuf,
    /// Their version: 1.`minor`.
    pub minor: u32,
    pub etcd: PathBuf,
}

impl Programs {
    /// Finds everything, or says what is missing.
    pub fn find(kube: &Path) -> Result<Self> {
        let mut programs = Self {
            kube: kube.to_owned(),
            minor: OLDEST,
            etcd: which("etcd")?,
        };
        for program in [
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        ] {
            let path = programs.kube(program);
            if !path.is_file() {
                bail!(
                    "{} is missing; `scripts/kubernetes.sh` builds it, or KUBE_BIN_DIR names the folder",
                    path.display()
                );
            }
        }
        for program in [
            "containerd",
            "ctr",
            "runc",
            "iptables",
            "conntrack",
            "curl",
            "openssl",
            "nsenter",
            "unshare",
            "tar",
            "ip",
        ] {
            which(program)?;
        }
        let said = output(command(programs.kube("kube-apiserver")).arg("--version"))?;
        programs.minor =
            minor(&said).with_context(|| format!("kube-apiserver --version says {said:?}"))?;
        if !programs.since(OLDEST) {
            bail!("{} is older than 1.{OLDEST}", said.trim());
        }
        Ok(programs)
    }

    /// Whether they are of Kubernetes 1.`minor` or later.
    pub fn since(&self, minor: u32) -> bool {
        self.minor >= minor
    }

    /// A program of Kubernetes.
    pub fn kube(&self, name: &str) -> PathBuf {
        self.kube.join(name)
    }
}

/// The second number of what a program of Kubernetes says of its version: `Kubernetes v1.20.2`.
fn minor(said: &str) -> Option<u32> {
    let rest = said.trim().strip_prefix("Kubernetes v1.")?;
    rest.split('.').next()?.parse().ok()
}

fn which(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join(program));
    found
        .find(|p| p.is_file())
        .with_context(|| format!("{program} is not installed; `scripts/setup.sh e2e` does that"))
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    pub dir: PathBuf,
    pub programs: Programs,
    pub vpc: Vpc,
    pub control: Option<Control>,
    /// A VM of the VPC that has nothing to do with the cluster.
    pub outside: Option<Machine>,
    pub nodes: Vec<Node>,
    /// Control groups are the whole machine's: there is one cluster at a time.
    _lock: File,
}

impl Cluster {
    /// Starts everything but a network for pods. On failure nothing is left.
    pub fn start(
        dir: &Path,
        programs: Programs,
        nodes: &[Spec],
        say: impl Fn(&str),
    ) -> Result<Self> {
        let lock = cgroup::lock()?;
        sweep(dir)?;
        fs::create_dir_all(dir.join("logs"))
            .with_context(|| format!("create {}", dir.display()))?;
        say("start the VPC");
        let vpc = Vpc::start(dir)?;
        let mut cluster = Self {
            dir: dir.to_owned(),
            programs,
            vpc,
            control: None,
            outside: None,
            nodes: Vec::new(),
            _lock: lock,
        };
        match cluster.build(nodes, say) {
            Ok(()) => Ok(cluster),
            Err(error) => {
                println!("{}", cluster.tails());
                wait::ignore_interrupt();
                match cluster.down() {
                    Ok(()) => Err(error),
                    Err(second) => Err(error.context(format!("and taking it down: {second:#}"))),
                }
            }
        }
    }

    fn build(&mut self, nodes: &[Spec], say: impl Fn(&str)) -> Result<()> {
        let dir = self.dir.clone();
        let test_image = dir.join("test-image.tar");
        image::write_test_image(&test_image, &dir.join("image"))?;
        say("start the control plane");
        let machine = self.vpc.run("control", "t3.small", None)?;
        self.outside = Some(self.vpc.run("outside", "t3.small", None)?);
        let pki = Pki::make(
            dir.join("pki"),
            machine.address,
            API_SERVICE,
            &nodes.iter().map(|n| n.name).collect::<Vec<_>>(),
        )?;
        self.control = Some(Control::start(&self.programs, &dir, machine, pki.clone())?);
        let kubectl = self.kubectl()?;
        self.control()?.await_apiserver(&kubectl)?;
        let (programs, vpc) = (&self.programs, &self.vpc);
        self.control
            .as_mut()
            .context("no control plane")?
            .start_others(programs, &dir)?;
        // The manifest of Kubernetes' own installers for kube-proxy.
        kubectl.run(&[
            "create",
            "clusterrolebinding",
            "e2e-kube-proxy",
            "--clusterrole=system:node-proxier",
            "--user=system:kube-proxy",
        ])?;
        for spec in nodes {
            say(&format!("start {}", spec.name));
            let node = Node::start(programs, &dir, vpc, &pki, spec.clone(), &test_image)?;
            self.nodes.push(node);
        }
        say("wait until every node is registered");
        wait::until("the nodes", Duration::from_secs(60), || {
            let known = kubectl.items(&["get", "nodes"])?.len();
            if known < nodes.len() {
                bail!("{known} of {} nodes", nodes.len());
            }
            Ok(())
        })
    }

    /// The control plane.
    pub fn control(&self) -> Result<&Control> {
        self.control.as_ref().context("the control plane is not up")
    }

    /// A VM that is no node.
    pub fn outside(&self) -> Result<&Machine> {
        self.outside.as_ref().context("the VM is not up")
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|n| n.spec.name == name)
            .with_context(|| format!("no node {name}"))
    }

    /// The cluster's administrator.
    pub fn kubectl(&self) -> Result<Kubectl> {
        let control = self.control()?;
        Ok(Kubectl {
            program: self.programs.kube("kubectl"),
            netns: control.machine.netns.clone(),
            kubeconfig: control.pki.path("admin.kubeconfig"),
            cache: self.dir.join("kubectl-cache"),
        })
    }

    /// Takes everything down; what could not be is in the error, and the rest is gone.
    pub fn down(&mut self) -> Result<()> {
        let mut problems = Vec::new();
        let mut note = |result: Result<()>| problems.extend(result.err().map(|e| format!("{e:#}")));
        for node in self.nodes.drain(..) {
            note(node.kill());
        }
        for process in self.control.iter().flat_map(Control::processes) {
            note(process.end(Duration::from_secs(5)));
        }
        note(self.vpc.stop());
        note(sweep(&self.dir));
        if !problems.is_empty() {
            bail!("taking the cluster down: {}", problems.join("; "));
        }
        Ok(())
    }

    /// The last lines of every log: the cluster's, and those of Tombolo's pods.
    pub fn tails(&self) -> String {
        let mut logs = vec![self.dir.join("logs")];
        for node in &self.nodes {
            let pods = files(&node.path("/var/log/pods"));
            let ours = pods
                .iter()
                .filter(|p| p.to_string_lossy().contains("kube-system_tombolo"));
            logs.extend(ours.flat_map(|pod| files(pod)));
        }
        let mut text = String::new();
        for log in logs.iter().flat_map(|folder| files(folder)) {
            let content = fs::read(&log).unwrap_or_default();
            let content = String::from_utf8_lossy(&content);
            let lines: Vec<&str> = content.lines().collect();
            text.push_str(&format!("--- {}\n", log.display()));
            for line in lines
                .get(lines.len().saturating_sub(8)..)
                .unwrap_or_default()
            {
                text.extend(line.chars().take(240).chain(['\n']));
            }
        }
        text
    }
}

/// What lies in a folder; nothing where it cannot be read.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// Removes what an earlier run left: processes that lie below `dir` in their arguments, control groups, the folder.
fn sweep(dir: &Path) -> Result<()> {
    for process in leftovers(dir)? {
        process.kill()?;
    }
    for node in cgroup::nodes()? {
        cgroup::kill(&node)?;
        cgroup::remove(&node)?;
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Processes of a cluster whose folder this is: it stands in their command lines, or they are in the mount namespace of one
/// in whose command line it stands.
pub fn leftovers(dir: &Path) -> Result<Vec<Process>> {
    let dir = dir.display().to_string();
    let mut found = Vec::new();
    let mut others = Vec::new();
    let own_mounts = fs::read_link("/proc/self/ns/mnt").context("our mount namespace")?;
    let mut theirs = std::collections::BTreeSet::new();
    for entry in fs::read_dir("/proc").context("read /proc")? {
        let name = entry.context("read /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        // Processes may end while we look.
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else {
            continue;
        };
        let mounts = fs::read_link(format!("/proc/{pid}/ns/mnt"))
            .ok()
            .filter(|m| *m != own_mounts);
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let is_ours = u32::try_from(pid).is_ok_and(|p| p == std::process::id());
        if line.contains(&format!("{dir}/")) && !is_ours {
            found.extend(Process::adopt(&line, pid).ok());
            theirs.extend(mounts);
        } else if let Some(mounts) = mounts {
            others.push((pid, mounts, line));
        }
    }
    for (pid, mounts, line) in others {
        if theirs.contains(&mounts) {
            found.extend(Process::adopt(&line, pid).ok());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::minor;

    #[test]
    fn the_version_is_the_second_number() {
        assert_eq!(minor("Kubernetes v1.20.2\n"), Some(20));
        assert_eq!(minor("Kubernetes v1.33.4+k3s1\n"), Some(33));
        assert_eq!(minor("Kubernetes v1.34.0-alpha.1\n"), Some(34));
        for other in ["", "v1.20.2", "Kubernetes v2.0.0", "Kubernetes v1.x.0"] {
            assert_eq!(minor(other), None, "{other}");
        }
    }
}
