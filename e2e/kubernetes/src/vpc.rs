//! The lab's VPC beneath the cluster: a process of its own, asked through its socket.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tombolo_cloud_sim::wire::{DescribeNics, NicInfo, Verb};
use tombolo_lab::process::Process;
use tombolo_lab_vpc::AdminClient;
use tombolo_lab_vpc::admin::{Info, InstanceDetail, LabVerb, RunInstance, TerminateInstance};

use crate::command::command;
use crate::wait::until;

/// Name of the simulated VPC: its namespaces are `tl-e2e-…`.
pub const NAME: &str = "e2e";
/// One subnet, large enough for three nodes full of pods.
const CONFIG: &str = r#"{
  "id": "vpc-e2e", "cidrs": ["10.0.0.0/16", "2001:db8:1::/48"],
  "subnets": [{"id": "subnet-a", "zone": "zone-a", "cidr4": "10.0.0.0/21", "cidr6": "2001:db8:1:1::/64"}]
}"#;

/// A running VPC.
#[derive(Debug)]
pub struct Vpc {
    runtime: tokio::runtime::Runtime,
    client: AdminClient,
    process: Process,
}

/// An instance of the VPC.
#[derive(Clone, Debug)]
pub struct Machine {
    pub instance: String,
    pub zone: String,
    /// Path of its network namespace.
    pub netns: String,
    pub address: Ipv4Addr,
}

impl Vpc {
    /// Starts the simulator; its state is below `dir`.
    pub fn start(dir: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start a runtime")?;
        let state = dir.join("vpc");
        std::fs::create_dir_all(&state).with_context(|| format!("create {}", state.display()))?;
        let config = state.join("vpc.yaml");
        std::fs::write(&config, CONFIG).with_context(|| format!("write {}", config.display()))?;
        let own = std::env::current_exe().context("path of this program")?;
        let mut serve = command(own);
        serve.args(["vpc", "--lab", NAME, "--state"]).arg(&state);
        serve.args(["serve", "--config"]).arg(&config);
        let process = Process::spawn("vpc", serve, &dir.join("logs/vpc.log"))?;
        let client = AdminClient::new(state.join("vpc.sock"));
        until("the VPC simulator", Duration::from_secs(30), || {
            Ok(runtime.block_on(client.lab(&Info {}))?)
        })?;
        Ok(Self {
            runtime,
            client,
            process,
        })
    }

    /// A call of the cloud.
    pub fn cloud<V: Verb>(&self, call: &V) -> Result<V::Reply> {
        let reply = self.runtime.block_on(self.client.cloud(call));
        reply.with_context(|| format!("cloud call {}", V::NAME))
    }

    /// A call of the lab.
    pub fn lab<V: LabVerb>(&self, call: &V) -> Result<V::Reply> {
        let reply = self.runtime.block_on(self.client.lab(call));
        reply.with_context(|| format!("call of the lab {}", V::NAME))
    }

    /// Starts an instance; in a namespace of its own where `netns` names none.
    pub fn run(&self, name: &str, kind: &str, netns: Option<&str>) -> Result<Machine> {
        let detail: InstanceDetail = self.lab(&RunInstance {
            name: name.to_owned(),
            instance_type: kind.to_owned(),
            subnet: "subnet-a".to_owned(),
            netns: netns.map(str::to_owned),
        })?;
        Ok(Machine {
            instance: detail.id,
            zone: detail.zone,
            netns: detail.netns,
            address: detail.primary4.addr(),
        })
    }

    /// Ends an instance.
    pub fn terminate(&self, machine: &Machine) -> Result<()> {
        let instance = machine.instance.clone();
        self.lab(&TerminateInstance { instance }).map(|_| ())
    }

    /// NICs of an instance, the primary one first.
    pub fn nics(&self, machine: &Machine) -> Result<Vec<NicInfo>> {
        let mut nics = self.cloud(&DescribeNics {
            instance: Some(machine.instance.clone()),
            ..DescribeNics::default()
        })?;
        nics.sort_by_key(|nic| nic.attachment.as_ref().map(|a| a.device_index));
        Ok(nics)
    }

    /// Ends the simulator, which removes its namespaces.
    pub fn stop(&self) -> Result<()> {
        self.process.end(Duration::from_secs(30))
    }
}
