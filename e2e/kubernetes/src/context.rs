//! What checks work on: the cluster, what was installed in it, and pods that most of them use.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::cluster::Cluster;
use crate::kubectl::Kubectl;
use crate::workload::{self, Pod};

/// What checks work on.
#[derive(Debug)]
pub struct Context {
    pub cluster: Cluster,
    pub kubectl: Kubectl,
    pub deploy: PathBuf,
    /// Tombolo's image.
    pub image: PathBuf,
    /// Image of the previous commit.
    pub previous: Option<PathBuf>,
    /// Longer texts for the end of the report.
    pub notes: Vec<String>,
    base: Option<Base>,
}

/// Pods that most checks use: more than one NIC's worth on the first node, and two on the second.
#[derive(Clone, Debug)]
pub struct Base {
    /// On the first node, with an address of its primary NIC.
    pub near: Pod,
    /// On the first node, with an address of its second NIC.
    pub second: Pod,
    /// On the second node.
    pub far: Pod,
    pub all: Vec<Pod>,
}

/// Pods on the first node: a NIC of its type has 9 addresses for pods.
const WIDE: usize = 11;

impl Context {
    pub fn new(
        cluster: Cluster,
        deploy: PathBuf,
        image: PathBuf,
        previous: Option<PathBuf>,
    ) -> Result<Self> {
        let kubectl = cluster.kubectl()?;
        Ok(Self {
            cluster,
            kubectl,
            deploy,
            image,
            previous,
            notes: Vec::new(),
            base: None,
        })
    }

    /// The pods that most checks use, made when they are first asked for.
    pub fn base(&mut self) -> Result<Base> {
        if let Some(base) = &self.base {
            return Ok(base.clone());
        }
        let kubectl = &self.kubectl;
        let wide = workload::deployment("wide", WIDE, workload::spec(Some("node1")));
        let far = workload::deployment("far", 2, workload::spec(Some("node2")));
        kubectl.apply(&[wide, far])?;
        let wide = workload::ready(kubectl, "wide", WIDE)?;
        let far = workload::ready(kubectl, "far", 2)?;
        let nics = self
            .cluster
            .vpc
            .nics(&self.cluster.node("node1")?.machine)?;
        let of_nic = |index: usize| {
            let nic = nics
                .get(index)
                .with_context(|| format!("node1 has no NIC {index}"))?;
            let pod = wide.iter().find(|p| nic.secondary.contains(&p.ip));
            pod.cloned()
                .with_context(|| format!("no pod has an address of NIC {index} of node1"))
        };
        let base = Base {
            near: of_nic(0)?,
            second: of_nic(1)?,
            far: far.first().cloned().context("no pod on node2")?,
            all: wide.iter().chain(&far).cloned().collect(),
        };
        self.base = Some(base.clone());
        Ok(base)
    }

    /// They are gone, or not what they were.
    pub fn forget_base(&mut self) {
        self.base = None;
    }

    /// Path of a pod's network namespace.
    pub fn netns(&self, pod: &Pod) -> Result<String> {
        self.cluster.node(&pod.node)?.pod_netns(&pod.uid)
    }

    /// The own addresses of a node's NICs, the primary one's first.
    pub fn nic_addresses(&self, node: &str) -> Result<Vec<IpAddr>> {
        let nics = self.cluster.vpc.nics(&self.cluster.node(node)?.machine)?;
        Ok(nics.iter().map(|nic| nic.primary4.into()).collect())
    }
}
