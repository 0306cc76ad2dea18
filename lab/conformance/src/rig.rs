//! What stands around the plugin while cases run: a node, its agent if it has one, a directory, containers.

mod agent;
mod fabric;
mod fake_agent;
mod gate;
mod leak;
mod pod;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde_json::Value;

pub use agent::{Agent, Place};
pub use fabric::{Fabric, NODE, OUTSIDE};
pub use fake_agent::{Asked, FakeAgent, Script};
pub use gate::write as write_script;
pub use leak::{Snapshot, difference, has_records};
pub use pod::Pod;

use crate::call::Call;
use crate::case::inapplicable;
use crate::subject::{DEBIAN, Kind, NETWORKS, Subject};
use crate::version::Version;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Something to run cases on. All of it goes with the value.
#[derive(Debug)]
pub struct Rig {
    /// The plugin.
    pub subject: Subject,
    /// The agent by script, where there is no node.
    pub fake: Option<FakeAgent>,
    agent: Option<Agent>,
    /// Whether the delegate of a plugin waits in the middle of its ADD.
    gated: bool,
    fabric: Option<Fabric>,
    dir: tempfile::TempDir,
    id: String,
}

impl Rig {
    /// For the protocol tier: no node.
    ///
    /// # Errors
    /// Where a directory or a socket cannot be made.
    pub fn plain(subject: &Subject) -> Result<Self> {
        let mut rig = Self::empty(subject)?;
        if let Kind::Tombolo { .. } = subject.kind {
            let run = rig.dir().join("run");
            std::fs::create_dir(&run).context("make the agent's directory")?;
            rig.fake = Some(FakeAgent::start(&run.join("agent.sock"))?);
        }
        Ok(rig)
    }

    /// With a node, and one attachment to each network made and removed: what a plugin makes once for all is there.
    ///
    /// # Errors
    /// Where that is not possible here, or the plugin cannot do it.
    pub fn with_node(subject: &Subject, version: Version) -> Result<Self> {
        let mut rig = Self::empty(subject)?;
        let fabric = Fabric::new(&rig.id)?;
        let nics = if let Kind::Tombolo { .. } = subject.kind {
            2
        } else {
            1
        };
        rig.fabric = Some(fabric);
        if let Some(place) = rig.place() {
            let specification = Fabric::specification().to_string();
            std::fs::write(place.specification(), specification)
                .context("write the node's specification")?;
            rig.agent = Some(place.start(&[])?);
        }
        rig.fabric()?.await_carrier(nics)?;
        for (network, name) in NETWORKS.iter().enumerate() {
            let first = || format!("the first attachment to {name}, before any case");
            let pod = rig.pod()?;
            let conf = rig.conf(version.text(), network);
            let call = |command| rig.call(command, version.text(), &pod).conf(&conf);
            call("ADD").run()?.result().with_context(first)?;
            call("DEL").run()?.silent().with_context(first)?;
        }
        Ok(rig)
    }

    fn empty(subject: &Subject) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            subject: subject.clone(),
            fake: None,
            agent: None,
            gated: false,
            fabric: None,
            dir: tempfile::tempdir().context("make a directory")?,
            id: format!("cnf-{}-{number}", std::process::id()),
        })
    }

    /// The rig's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The node and what is behind it.
    ///
    /// # Errors
    /// In the protocol tier, which has none.
    pub fn fabric(&self) -> Result<&Fabric> {
        self.fabric.as_ref().context("this tier has no node")
    }

    /// A new container.
    ///
    /// # Errors
    /// Where its namespace cannot be made.
    pub fn pod(&self) -> Result<Pod> {
        if self.fabric.is_none() {
            return Ok(Pod::without_namespace());
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Pod::new(format!("{}-{number}", self.id))
    }

    /// The configuration of one of the networks.
    #[must_use]
    pub fn conf(&self, version: &str, network: usize) -> Value {
        let mut conf = self.subject.conf(self.dir(), version, network);
        if self.gated {
            conf["ipam"]["type"] = gate::NAME.into();
        }
        conf
    }

    /// Directories of plugins.
    #[must_use]
    pub fn cni_path(&self) -> String {
        format!("{}:{DEBIAN}", self.bin().display())
    }

    /// Where a case may put programs.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.dir().join("bin")
    }

    /// A well-formed call for `eth0` of a container.
    #[must_use]
    pub fn call(&self, command: &str, version: &str, pod: &Pod) -> Call {
        let call = self.query(command, version);
        let call = call
            .env("CNI_CONTAINERID", &pod.id)
            .env("CNI_NETNS", &pod.path);
        let call = call.env("CNI_IFNAME", "eth0").env(
            "CNI_ARGS",
            "K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_UID=u-1",
        );
        if self.fake.is_some() {
            // Without a node the only namespace that there is.
            return call
                .env("CNI_NETNS", "/proc/self/ns/net")
                .env("CNI_NETNS_OVERRIDE", "1");
        }
        call
    }

    /// A well-formed call that is about no container.
    #[must_use]
    pub fn query(&self, command: &str, version: &str) -> Call {
        let node = self.fabric.as_ref().map(Fabric::node);
        let call = Call::new(&self.subject.plugin, node.as_deref()).env("CNI_COMMAND", command);
        call.env("CNI_PATH", self.cni_path())
            .conf(&self.conf(version, 0))
    }

    /// What is on the node now.
    ///
    /// # Errors
    /// Where it cannot be asked.
    pub fn snapshot(&self) -> Result<Snapshot> {
        leak::snapshot(&self.fabric()?.node(), self.dir())
    }

    /// Where the agent is started; `None` where the plugin has none.
    fn place(&self) -> Option<Place> {
        match (&self.subject.kind, &self.fabric) {
            (Kind::Tombolo { agent }, Some(fabric)) => Some(Place {
                program: agent.clone(),
                node: fabric.node(),
                dir: self.dir().to_owned(),
            }),
            _ => None,
        }
    }

    /// The agent that runs.
    ///
    /// # Errors
    /// Inapplicable where the plugin needs none.
    pub fn agent(&self) -> Result<&Agent> {
        self.agent
            .as_ref()
            .ok_or_else(|| inapplicable("it works without an agent"))
    }

    /// Ends the agent as a crash does.
    ///
    /// # Errors
    /// As [`Self::agent`].
    pub fn kill_agent(&mut self) -> Result<()> {
        self.agent()?;
        self.agent.take().map_or(Ok(()), Agent::kill)
    }

    /// Starts the agent again.
    ///
    /// # Errors
    /// Where it does not come to listen.
    pub fn start_agent(&mut self, arguments: &[&str]) -> Result<()> {
        let place = self
            .place()
            .ok_or_else(|| inapplicable("it works without an agent"))?;
        self.agent = Some(place.start(arguments)?);
        Ok(())
    }

    /// From now on an ADD stops in the middle, with something made and nothing answered.
    ///
    /// # Errors
    /// Inapplicable where we cannot get there from outside.
    pub fn hold_adds(&mut self) -> Result<()> {
        match self.subject.kind {
            Kind::Tombolo { .. } => {
                self.kill_agent()?;
                self.start_agent(&["--failpoint", "add.journal-ready.before=stop"])
            }
            Kind::Reference => {
                gate::set_up(&self.bin())?;
                self.gated = true;
                Ok(())
            }
            Kind::Given { .. } => Err(inapplicable("it is not known how to stop it in the middle")),
        }
    }

    /// Waits until an ADD is in the middle.
    ///
    /// # Errors
    /// Where none comes there.
    pub fn await_held(&self) -> Result<()> {
        if self.gated {
            return gate::await_entered(&self.bin());
        }
        let agent = self.agent()?;
        crate::tools::wait_until("an ADD is in the middle", || agent.is_stopped())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// Where there is none.
    pub fn let_go(&mut self) -> Result<()> {
        if self.gated {
            self.gated = false;
            return gate::open(&self.bin());
        }
        self.agent()?.go_on()
    }
}
