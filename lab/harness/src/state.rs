//! What a running lab consists of, kept in `/run/tombolo-lab/<name>/lab.json` so that later commands find it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::topology::Topology;

/// Where labs live.
pub const BASE: &str = "/run/tombolo-lab";

/// One running lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Lab {
    /// What was asked for.
    pub topology: Topology,
    /// Simulator, API server, operator.
    pub services: Vec<Process>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Plain VMs.
    pub vms: Vec<Vm>,
    /// API server as seen from the root namespace.
    pub api_url: String,
    /// API server as seen from inside the VPC.
    pub api_url_inside: String,
    /// The internet host's addresses, both families.
    pub internet: Vec<std::net::IpAddr>,
}

/// A plain VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Vm {
    /// Name.
    pub name: String,
    /// Instance id.
    pub instance: String,
    /// Network namespace (a path).
    pub netns: String,
    /// Primary addresses, both families.
    pub addresses: Vec<std::net::IpAddr>,
}

/// A Kubernetes node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Instance id.
    pub instance: String,
    /// Keeps the namespaces.
    pub holder: Process,
    /// The agent.
    pub agent: Option<Process>,
    /// The kubelet stand-in.
    pub kubelet: Option<Process>,
    /// containerd, where pods run in it.
    #[serde(default)]
    pub containerd: Option<Process>,
    /// Primary IPv4 address.
    pub address4: Ipv4Addr,
    /// Primary IPv6 address.
    pub address6: Option<std::net::Ipv6Addr>,
    /// Zone of the instance.
    pub zone: String,
    /// Pods that the kubelet stand-in takes at most.
    pub max_pods: u32,
}

impl Lab {
    /// Directory of the lab with this name.
    #[must_use]
    pub fn dir_of(name: &str) -> PathBuf {
        Path::new(BASE).join(name)
    }

    /// Directory of this lab.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Self::dir_of(&self.topology.name)
    }

    /// The simulator's socket.
    #[must_use]
    pub fn vpc_socket(&self) -> PathBuf {
        self.dir().join("vpc.sock")
    }

    /// Log file of a process.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.dir().join("logs").join(format!("{process}.log"))
    }

    /// Loads a running lab.
    pub fn load(name: &str) -> Result<Self> {
        let path = Self::dir_of(name).join("lab.json");
        if !path.exists() {
            bail!(
                "no lab named {name:?} is up (there is no {})",
                path.display()
            );
        }
        let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("decode {}", path.display()))
    }

    /// Saves, atomically.
    pub fn save(&self) -> Result<()> {
        let path = self.dir().join("lab.json");
        let temp = path.with_extension("json.new");
        fs::write(&temp, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("write {}", temp.display()))?;
        fs::rename(&temp, &path).with_context(|| format!("rename to {}", path.display()))
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes
            .iter()
            .find(|n| n.name == name)
            .with_context(|| format!("lab {}: no node {name:?}", self.topology.name))
    }

    /// A node by name, to be changed.
    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        let lab = self.topology.name.clone();
        self.nodes
            .iter_mut()
            .find(|n| n.name == name)
            .with_context(|| format!("lab {lab}: no node {name:?}"))
    }

    /// A plain VM by name.
    pub fn vm(&self, name: &str) -> Result<&Vm> {
        self.vms
            .iter()
            .find(|v| v.name == name)
            .with_context(|| format!("lab {}: no VM {name:?}", self.topology.name))
    }
}
