//! Takes steps on a lab, and judges it at every rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tombolo_lab_vpc::knobs::Knob;

use super::step::Step;
use super::{cloud, nodes};
use crate::check;
use crate::http::post_unix;
use crate::kubeapi::{Api, text};
use crate::pods;
use crate::process::Process;
use crate::state::{Lab, Node};
use crate::up;

/// A backup is at least so old when it is restored.
const YOUNGEST: Duration = Duration::from_millis(2500);

/// A lab that is being tortured.
#[derive(Debug)]
pub struct Runner {
    pub lab: Lab,
    api: Api,
    rest: Duration,
    /// Pods that should be there, with their node.
    pods: Vec<(String, usize)>,
    made: usize,
    nodes: Vec<Load>,
    /// When the API server's backup was made, and the pods that it has; `None`: there is no backup.
    backup: Option<(Instant, Vec<(String, usize)>)>,
}

/// What explains a node's NICs.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    pods: usize,
    peak: usize,
    /// Pods deleted since the rest before the last: their addresses may be cooling, or not yet have begun to.
    ended: [usize; 2],
}

impl Load {
    fn add_pod(&mut self) {
        self.pods += 1;
        self.peak = self.peak.max(self.pods);
    }

    fn end_pod(&mut self) {
        self.pods -= 1;
        self.ended[0] += 1;
    }
}

impl Runner {
    /// Begins with a lab that is up and has no pods. `rest`: how long it may take to come to rest.
    pub fn new(lab: Lab, rest: Duration) -> Result<Self> {
        Ok(Self {
            api: Api::new(&lab.api_url)?,
            nodes: vec![Load::default(); lab.nodes.len()],
            lab,
            rest,
            pods: Vec::new(),
            made: 0,
            backup: None,
        })
    }

    /// Takes all steps.
    pub async fn run(&mut self, steps: &[Step]) -> Result<()> {
        for (n, step) in steps.iter().enumerate() {
            tracing::info!(n, ?step, "step");
            self.step(step)
                .await
                .with_context(|| format!("step {n}: {step:?}"))?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::AddPod { node } => self.add_pod(node % self.nodes.len()).await,
            Step::DeletePod { nth } => self.delete_pod(*nth).await,
            Step::KillAgent { node } => self.replace_agent(*node, Process::kill),
            Step::RestartAgent { node } => {
                self.replace_agent(*node, |agent| agent.end(Duration::from_secs(10)))
            }
            Step::FreezeAgent { node } => self.agent(*node)?.signal(Signal::STOP),
            Step::StopAgent { node } => nodes::stop_agent(&self.lab, node % self.nodes.len()),
            Step::LoseJournal { node } => self.lose_journal(node % self.nodes.len()).await,
            Step::Reboot { node } => nodes::reboot(&mut self.lab, node % self.nodes.len()),
            Step::BackupApi => {
                self.api_call("backup").await?;
                self.backup = Some((Instant::now(), self.pods.clone()));
                Ok(())
            }
            Step::RestoreApi => self.restore_api().await,
            Step::KillOperator => self.replace_operator(),
            Step::FreezeOperator => self.operator()?.signal(Signal::STOP),
            Step::Flush { node, what } => {
                nodes::flush(&self.lab.nodes[node % self.nodes.len()], *what)
            }
            Step::Cloud { knob } => cloud::turn(&self.lab, knob).await,
            Step::Meddle { what, nth, to } => cloud::meddle(&self.lab, *what, *nth, *to).await,
            Step::HideNic { nth, replies } => cloud::hide_nic(&self.lab, *nth, *replies).await,
            Step::Pass { ms } => {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
                Ok(())
            }
            Step::Rest => self.take_rest().await,
        }
    }

    async fn add_pod(&mut self, node: usize) -> Result<()> {
        if self.nodes[node].pods >= usize::try_from(self.lab.nodes[node].max_pods)? {
            return Ok(());
        }
        let name = format!("pod-{:05}", self.made);
        self.create(&name, node).await?;
        let load = &mut self.nodes[node];
        self.made += 1;
        self.pods.push((name, node));
        load.add_pod();
        Ok(())
    }

    async fn create(&self, name: &str, node: usize) -> Result<()> {
        let probe = self.lab.topology.binary("tombolo-lab")?;
        let manifest = pods::manifest(name, Some(&self.lab.nodes[node].name), &probe, &[]);
        pods::create(&self.api, &manifest).await
    }

    async fn delete_pod(&mut self, nth: usize) -> Result<()> {
        if self.pods.is_empty() {
            return Ok(());
        }
        let (name, node) = self.pods.remove(nth % self.pods.len());
        self.nodes[node].end_pod();
        pods::delete(&self.api, &name).await
    }

    /// Deletes the pods that are chosen by name and node.
    async fn delete_pods(&mut self, chosen: impl Fn(&str, usize) -> bool) -> Result<()> {
        let all = std::mem::take(&mut self.pods);
        let (go, stay): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|(name, node)| chosen(name, *node));
        self.pods = stay;
        for (name, node) in go {
            self.nodes[node].end_pod();
            pods::delete(&self.api, &name).await?;
        }
        Ok(())
    }

    async fn lose_journal(&mut self, node: usize) -> Result<()> {
        nodes::lose_journal(&mut self.lab, node)?;
        self.delete_pods(|_, of| of == node).await
    }

    async fn api_call(&self, what: &str) -> Result<()> {
        let path = format!("/lab/v1/{what}");
        let nothing = json!({});
        self.api
            .call("POST", &path, "application/json", Some(&nothing))
            .await?;
        Ok(())
    }

    async fn restore_api(&mut self) -> Result<()> {
        let Some((made, then)) = self.backup.clone() else {
            return Ok(());
        };
        // Nobody restores what is younger. The operator tells a restored API server by its lease, which it writes every
        // second here: of a shorter way back it would see nothing.
        tokio::time::sleep(YOUNGEST.saturating_sub(made.elapsed())).await;
        self.api_call("restore").await?;
        // As the restore procedure of Kubernetes asks. Agents and operator must do without.
        for node in 0..self.nodes.len() {
            nodes::restart_kubelet(&mut self.lab, node)?;
        }
        for (pod, node) in &self.pods {
            if !then.iter().any(|(name, _)| name == pod) {
                self.nodes[*node].end_pod();
            }
        }
        for (pod, node) in &then {
            if !self.pods.iter().any(|(name, _)| name == pod) {
                self.nodes[*node].add_pod();
            }
        }
        self.pods = then;
        Ok(())
    }

    fn agent(&self, node: usize) -> Result<&Process> {
        let node = &self.lab.nodes[node % self.nodes.len()];
        node.agent.as_ref().context("the node has no agent")
    }

    fn operator(&self) -> Result<&Process> {
        let mut services = self.lab.services.iter();
        services
            .find(|process| process.name == "operator")
            .context("the lab has no operator")
    }

    fn replace_agent(&mut self, node: usize, end: impl Fn(&Process) -> Result<()>) -> Result<()> {
        let node = node % self.nodes.len();
        self.agent(node)?.signal(Signal::CONT)?;
        nodes::replace_agent(&mut self.lab, node, end)
    }

    fn replace_operator(&mut self) -> Result<()> {
        self.operator()?.kill()?;
        let control = self.lab.vm("control")?.netns.clone();
        up::start_operator(&mut self.lab, &control)?;
        self.lab.save()
    }

    /// Lets frozen agents go on.
    pub fn awaken(&self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|node| self.agent(node)?.signal(Signal::CONT))
    }

    async fn take_rest(&mut self) -> Result<()> {
        self.awaken()?;
        for node in 0..self.nodes.len() {
            if !self.agent(node)?.alive() {
                self.replace_agent(node, |_| Ok(()))?;
            }
        }
        cloud::turn(&self.lab, &Knob::Reset).await?;
        let begin = Instant::now();
        loop {
            self.await_pods().await?;
            // An agent that was just started may not answer yet.
            let text = match check::check(&self.lab).await {
                Ok(violations) => violations.iter().map(ToString::to_string).collect(),
                Err(error) => vec![format!("{error:#}")],
            };
            if text.is_empty() {
                break;
            }
            ensure!(
                begin.elapsed() < self.rest,
                "the invariant does not hold:\n{}",
                text.join("\n")
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.explain_nics().await?;
        for load in &mut self.nodes {
            load.ended = [0, load.ended[0]];
        }
        Ok(())
    }

    /// Waits until the pods that should be there run, and no other is left. Those that hold an address which the cloud
    /// took away are deleted, as an administrator would. One that its node had no room for yet, since others were still
    /// on their way out, is made again, as whoever owns it would.
    async fn await_pods(&mut self) -> Result<()> {
        let mut rejected = BTreeSet::new();
        let begin = Instant::now();
        loop {
            let lost = cloud::lost_pods(&self.lab, &self.api).await?;
            self.delete_pods(|name, _| lost.iter().any(|pod| pod == name))
                .await?;
            let wanted: BTreeMap<&str, usize> = self
                .pods
                .iter()
                .map(|(name, node)| (name.as_str(), *node))
                .collect();
            let all = self.api.list("/api/v1/namespaces/default/pods").await?;
            let names: BTreeSet<String> =
                all.iter().map(|pod| text(pod, "/metadata/name")).collect();
            let wrong: Vec<&Value> = all
                .iter()
                .filter(|pod| {
                    text(pod, "/status/phase") != "Running"
                        || pod.pointer("/metadata/deletionTimestamp").is_some()
                        || !wanted.contains_key(text(pod, "/metadata/name").as_str())
                })
                .collect();
            if wrong.is_empty() && all.len() == wanted.len() {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < self.rest,
                "{} pods are there and {} wanted after {:?}: {:#?}",
                all.len(),
                wanted.len(),
                self.rest,
                wrong
                    .iter()
                    .map(|pod| format!("{} {}", text(pod, "/metadata/name"), pod["status"]))
                    .collect::<Vec<_>>()
            );
            for pod in wrong {
                let name = text(pod, "/metadata/name");
                if text(pod, "/status/reason") == "OutOfpods" && rejected.insert(name.clone()) {
                    pods::delete(&self.api, &name).await?;
                }
            }
            for name in rejected.difference(&names).cloned().collect::<Vec<_>>() {
                rejected.remove(&name);
                if let Some(node) = wanted.get(name.as_str()) {
                    self.create(&name, *node).await?;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// No node has more NICs than the most pods it ever had, its warm addresses and its cooling ones need.
    async fn explain_nics(&self) -> Result<()> {
        let snapshot = check::gather::gather(&self.lab).await?;
        let warm = usize::try_from(self.lab.topology.profile.pool.warm_max)?;
        for (node, load) in self.lab.nodes.iter().zip(&self.nodes) {
            let slots = self.slots(node).await?;
            let of_node = |nic: &&check::snapshot::CloudNic| {
                nic.instance.as_deref() == Some(node.instance.as_str())
            };
            let nics = snapshot.cloud.values().filter(of_node).count();
            let addresses = load.peak + warm + load.ended.iter().sum::<usize>();
            let most = addresses.div_ceil(slots).max(1);
            ensure!(
                nics <= most,
                "{} has {nics} NICs; {load:?}, {warm} warm and {slots} slots a NIC explain {most}",
                node.name
            );
        }
        Ok(())
    }

    /// Pod addresses that fit on a NIC of a node.
    async fn slots(&self, node: &Node) -> Result<usize> {
        let nodes = &self.lab.topology.nodes;
        let spec = nodes.iter().find(|spec| spec.name == node.name);
        let kind = &spec
            .context("the node is not in the topology")?
            .instance_type;
        let body = json!({ "names": [kind] });
        let types = post_unix(&self.lab.vpc_socket(), "/v1/DescribeInstanceTypes", &body).await?;
        let addresses = types.pointer("/0/ipv4_per_nic").and_then(Value::as_u64);
        Ok(usize::try_from(addresses.context("ipv4_per_nic")? - 1)?)
    }
}
