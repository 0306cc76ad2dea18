//! Takes steps on a lab, and judges it at every rest.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use tombolo_lab_vpc::knobs::Knob;

use super::step::{Flushed, Step};
use crate::check;
use crate::http::post_unix;
use crate::kubeapi::{Api, text};
use crate::node::{in_netns, output};
use crate::pods;
use crate::process::Process;
use crate::state::{Lab, Node};
use crate::up;

/// Our protocol number on rules and routes, as `ip` takes it.
const OURS: &str = "116";

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
}

/// What explains a node's NICs.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    pods: usize,
    peak: usize,
    /// Pods deleted since the rest before the last: their addresses may be cooling, or not yet have begun to.
    ended: [usize; 2],
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
            Step::KillOperator => self.replace_operator(),
            Step::FreezeOperator => self.operator()?.signal(Signal::STOP),
            Step::Flush { node, what } => flush(&self.lab.nodes[node % self.nodes.len()], *what),
            Step::Cloud { knob } => self.knob(knob).await,
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
        load.pods += 1;
        load.peak = load.peak.max(load.pods);
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
        pods::delete(&self.api, &name).await?;
        let load = &mut self.nodes[node];
        load.pods -= 1;
        load.ended[0] += 1;
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
        let agent = self.agent(node)?;
        agent.signal(Signal::CONT)?;
        end(agent)?;
        let new = up::start_agent(&self.lab, &self.lab.nodes[node])?;
        self.lab.nodes[node].agent = Some(new);
        self.lab.save()
    }

    fn replace_operator(&mut self) -> Result<()> {
        self.operator()?.kill()?;
        let control = self.lab.vm("control")?.netns.clone();
        up::start_operator(&mut self.lab, &control)?;
        self.lab.save()
    }

    async fn knob(&self, knob: &Knob) -> Result<()> {
        let body = json!({ "knob": knob });
        post_unix(&self.lab.vpc_socket(), "/lab/v1/SetKnob", &body).await?;
        Ok(())
    }

    /// Lets frozen agents go on.
    pub fn awaken(&self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|node| self.agent(node)?.signal(Signal::CONT))
    }

    async fn take_rest(&mut self) -> Result<()> {
        self.awaken()?;
        self.knob(&Knob::Reset).await?;
        self.await_pods().await?;
        let violations = check::settle(&self.lab, self.rest).await?;
        let text: Vec<String> = violations.iter().map(ToString::to_string).collect();
        ensure!(
            text.is_empty(),
            "the invariant does not hold:\n{}",
            text.join("\n")
        );
        self.explain_nics().await?;
        for load in &mut self.nodes {
            load.ended = [0, load.ended[0]];
        }
        Ok(())
    }

    /// Waits until the pods that should be there run, and no other is left. One that its node had no room for yet, since
    /// others were still on their way out, is made again, as whoever owns it would.
    async fn await_pods(&self) -> Result<()> {
        let wanted: BTreeMap<&str, usize> = self
            .pods
            .iter()
            .map(|(name, node)| (name.as_str(), *node))
            .collect();
        let mut rejected = BTreeSet::new();
        let begin = Instant::now();
        loop {
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

/// Deletes what carries our mark, with the tools that an administrator would use.
fn flush(node: &Node, what: Flushed) -> Result<()> {
    let netns = node.netns();
    let run = |program: &str, args: &[&str]| -> Result<()> {
        let mut command: Command = in_netns(&netns, program);
        command.args(args);
        output(command).map(drop)
    };
    match what {
        Flushed::Rules4 => run("ip", &["-4", "rule", "flush", "protocol", OURS]),
        Flushed::Rules6 => run("ip", &["-6", "rule", "flush", "protocol", OURS]),
        Flushed::Routes => ["-4", "-6"].iter().try_for_each(|family| {
            run(
                "ip",
                &[family, "route", "flush", "table", "all", "proto", OURS],
            )
        }),
        // Either may just be missing, and `destroy` is unknown to nft before 1.0.7.
        Flushed::Tables => ["inet", "arp"].iter().try_for_each(|family| {
            let table = format!("table {family} tombolo");
            run("nft", &[&format!("add {table}; delete {table}")])
        }),
        Flushed::Neighbours => ["-4", "-6"]
            .iter()
            .try_for_each(|family| run("ip", &[family, "neigh", "flush", "nud", "permanent"])),
    }
}
