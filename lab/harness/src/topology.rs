//! A lab as a typed value: what `lab up -f` reads and what tests build.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tombolo_api::NetworkProfileSpec;

/// A lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Topology {
    /// Name: state directory, namespaces and cluster are called after it.
    pub name: String,
    /// Nodes.
    pub nodes: Vec<NodeSpec>,
    /// Plain VMs beside the nodes.
    pub vms: Vec<String>,
    /// Families, pool and so on; waiting times are short, so that a lab shows in seconds what takes minutes elsewhere.
    pub profile: NetworkProfileSpec,
    /// The simulated VPC's own configuration (`tombolo-lab vpc serve --config`); the default when absent.
    pub vpc: Option<serde_json::Value>,
    /// Further arguments of every agent.
    pub agent_args: Vec<String>,
    /// Further arguments of the operator.
    pub operator_args: Vec<String>,
    /// What runs pods.
    pub runtime: Runtime,
    /// Where the binaries are; the directory of this program when absent.
    pub bin_dir: Option<PathBuf>,
}

/// What runs the pods of a lab's nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// The kubelet stand-in itself: sandboxes as libcni makes them, containers as plain processes.
    #[default]
    StandIn,
    /// containerd, by the Container Runtime Interface.
    Containerd,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeSpec {
    /// Name.
    pub name: String,
    /// Instance type.
    pub instance_type: String,
    /// The kubelet's maxPods; what the instance type can address when absent.
    #[serde(default)]
    pub max_pods: Option<u32>,
}

/// The operator's waiting times, so that a lab shows in seconds what takes minutes in a cloud.
const SHORT_WAITS: [&str; 6] = [
    "--nic-idle=3s",
    "--attach-poll=100ms",
    "--subnet-hold=5s",
    "--limit-hold=5s",
    "--refused-hold=2s",
    "--backoff-max=2s",
];

impl Default for Topology {
    fn default() -> Self {
        Self::with("lab", 2, "m5.large", 1)
    }
}

impl Topology {
    /// `nodes` nodes of one type and `vms` plain VMs.
    #[must_use]
    pub fn with(name: &str, nodes: usize, instance_type: &str, vms: usize) -> Self {
        let mut profile = NetworkProfileSpec::default();
        profile.pool.cooling_seconds = 3;
        profile.pool.churn_window_seconds = 5;
        profile.pool.warm_min = 2;
        profile.pool.warm_max = 6;
        Self {
            name: name.to_owned(),
            nodes: (1..=nodes)
                .map(|i| NodeSpec {
                    name: format!("node{i}"),
                    instance_type: instance_type.to_owned(),
                    max_pods: None,
                })
                .collect(),
            vms: (1..=vms).map(|i| format!("vm{i}")).collect(),
            profile,
            vpc: None,
            agent_args: Vec::new(),
            operator_args: SHORT_WAITS.iter().map(|a| (*a).to_owned()).collect(),
            runtime: Runtime::default(),
            bin_dir: None,
        }
    }

    /// Checks what types cannot say.
    pub fn validate(&self) -> Result<()> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ok = |s: &str| (1..=20).contains(&s.len()) && s.bytes().all(|b| plain(b) || b == b'-');
        // No '-': the names of a lab's namespaces begin with its name and one, so that none is the beginning of another's.
        if !(1..=20).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            bail!("name {:?}: 1 to 20 of a-z and 0-9 are wanted", self.name);
        }
        let mut seen = std::collections::BTreeSet::from(["control", "fabric", "inet"]);
        let names = self
            .nodes
            .iter()
            .map(|n| ("nodes", n.name.as_str()))
            .chain(self.vms.iter().map(|v| ("vms", v.as_str())));
        for (field, name) in names {
            if !ok(name) {
                bail!("{field}: name {name:?}: 1 to 20 of a-z, 0-9 and '-' are wanted");
            }
            if !seen.insert(name) {
                bail!("{field}: name {name:?} is taken");
            }
        }
        Ok(())
    }

    /// The control group of a node's containers.
    #[must_use]
    pub fn group(&self, node: &str) -> String {
        format!("tombolo-lab-{}-{node}", self.name)
    }

    /// Path of one of our binaries.
    pub fn binary(&self, name: &str) -> Result<PathBuf> {
        let dir = match &self.bin_dir {
            Some(dir) => dir.clone(),
            None => {
                let own = std::env::current_exe().context("path of this program")?;
                own.parent()
                    .context("directory of this program")?
                    .to_owned()
            }
        };
        let path = dir.join(name);
        if !path.exists() {
            bail!(
                "{} does not exist; build the workspace first (cargo build --workspace --release)",
                path.display()
            );
        }
        Ok(path)
    }
}
