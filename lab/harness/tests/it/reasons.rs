//! Every fault that the simulated cloud knows has one word, and it is the same word wherever people look: in the logs, the
//! metrics, the Events, the conditions, and in the error of an ADD by the shipped plugin. The table is [`faults`];
//! docs/failures.md shows it to people and is read here.
//!
//! ```text
//!   a node with one free address ─▶ fault ─▶ that one is taken ─▶ the problem is told ─▶ ADD fails in the same word
//!        ▲                                                                                   │
//!        └──────────────────────────── ADD succeeds ◀─ the fault ends ◀──────────────────────┘
//! ```

mod deeds;
mod faults;
mod pods;
mod telling;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tombolo_cloud_sim::wire::DescribeNics;
use tombolo_core::types::Reason;
use tombolo_lab::check::gather::AGENT_PORT;
use tombolo_lab::http::get_in_netns;
use tombolo_lab::kubeapi::{Api, text};
use tombolo_lab::state::{Lab, Node};
use tombolo_lab::topology::{NodeSpec, Topology};
use tombolo_lab::up::wait_for;
use tombolo_lab_vpc::AdminClient;

use faults::{ATTACH_TIMEOUT, ATTACHING, Fault, Misdeed, Row, SLIM, Seen, TINY, Teller, WIDE};
use telling::number;

use crate::support::scenario;

/// Only failing tests wait so long.
const PATIENCE: Duration = Duration::from_secs(20);
const OPERATOR_PORT: u16 = 9811;

/// The page has what the test shows, and nothing else.
#[test]
fn failures_md_has_each_fault_and_its_word() {
    let page = include_str!("../../../../docs/failures.md");
    let (_, section) = page
        .split_once("\n## Faults")
        .expect("a section about faults");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| "));
    let told: Vec<String> = rows.skip(1).map(str::to_owned).collect();
    let mut shown: Vec<String> = Vec::new();
    for row in faults::all() {
        let word = row.word.map_or("–".to_owned(), |word| format!("`{word}`"));
        let line = format!("{} | {word} | {} |", row.what, row.seen.text());
        if !shown.contains(&line) {
            shown.push(line);
        }
    }
    let sorted = |lines: &[String]| lines.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(sorted(&told), sorted(&shown));
    assert_eq!(told.len(), shown.len(), "each once");
}

#[test]
fn every_fault_has_the_same_word_wherever_people_look() {
    let mut topology = Topology::with("reasons", 0, "wide", 0);
    let kinds = [(WIDE, 4, 60), (SLIM, 40, 2), (TINY, 2, 2)];
    topology.nodes = kinds.map(|(name, ..)| node(name)).into();
    let types = kinds.map(|(name, nics, addresses)| {
        json!({"name": name, "max_nics": nics, "ipv4_per_nic": addresses, "ipv6_per_nic": addresses})
    });
    topology.vpc = Some(json!({
        "cidrs": ["10.0.0.0/16", "2001:db8:1::/48"],
        "delays": {"attach_ms": ATTACHING, "detach_ms": ATTACHING},
        "subnets": [{"id": "subnet-a", "zone": "zone-a", "cidr4": "10.0.1.0/24", "cidr6": "2001:db8:1:1::/120"}],
        "instance_types": types,
    }));
    topology.profile.pool.warm_min = 1;
    topology.profile.pool.warm_max = 1;
    topology.profile.pool.cooling_seconds = 0;
    topology.profile.pool.churn_window_seconds = 0;
    // Longer than anything that is made good takes; an ADD that is to fail has less patience.
    topology.profile.pool.wait_seconds = 20;
    let times = "--resync=150ms --sweep-gap=50ms --confirm-after=250ms --stale-grace=1s --attach-poll=50ms \
                 --cloud-timeout=400ms --backoff-base=50ms --backoff-max=300ms --nic-idle=300ms --subnet-hold=300ms \
                 --limit-hold=300ms --refused-hold=300ms --cloud-rate=1000 --cloud-burst=1000";
    topology.operator_args = times.split_whitespace().map(str::to_owned).collect();
    let attach_timeout = format!("--attach-timeout={ATTACH_TIMEOUT}ms");
    topology.operator_args.push(attach_timeout);
    scenario(topology, async |lab| {
        let day = Day::new(&lab)?;
        for row in faults::all() {
            let begin = std::time::Instant::now();
            let outcome = day.live_through(&row).await;
            outcome.with_context(|| format!("{:?} on {}", row.what, row.node))?;
            eprintln!("{:>6} ms  {}", begin.elapsed().as_millis(), row.what);
        }
        day.leave(0)
    });
}

fn node(name: &str) -> NodeSpec {
    NodeSpec {
        name: name.to_owned(),
        instance_type: name.to_owned(),
        max_pods: Some(200),
    }
}

struct Day<'a> {
    lab: &'a Lab,
    api: Api,
    cloud: AdminClient,
    number: Cell<usize>,
    /// Pods that run, by node, the last one last.
    pods: RefCell<Vec<(String, String)>>,
    /// NICs of strangers.
    strangers: RefCell<Vec<String>>,
}

impl<'a> Day<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        Ok(Self {
            lab,
            api: Api::new(&lab.api_url)?,
            cloud: AdminClient::new(lab.vpc_socket()),
            number: Cell::new(0),
            pods: RefCell::default(),
            strangers: RefCell::default(),
        })
    }

    async fn live_through(&self, row: &Row) -> Result<()> {
        let node = self.lab.node(row.node)?;
        self.rest(node).await?;
        let before = self.before(node).await?;
        let had = self.pods.borrow().len();
        self.plant(row, node).await?;
        match (row.seen, row.word) {
            (Seen::Everywhere, Some(word)) => {
                self.hunger(row, node, word).await?;
                let name = self.name();
                let failed = self.add(node, &name, 2)?.err();
                let failed = failed.context("ADD succeeded")?;
                ensure!(failed.code == 11, "{failed:?}");
                let begins = failed.msg.starts_with(&format!("{word}: "));
                ensure!(
                    begins,
                    "the CNI error does not begin with {word}: {failed:?}"
                );
                if let Fault::Deed(Misdeed::FillSubnet { v4: false }) = row.fault {
                    ensure!(failed.msg.contains("IPv6)"), "no family: {failed:?}");
                }
                self.told_of_add(node, word, &before).await?;
                self.told((row.teller, row.also), node, word, &before)
                    .await?;
                self.heal(row, node, had).await?;
                self.add_now(node, &name)?;
            }
            (Seen::AllButAdd, Some(word)) => {
                if matches!(row.fault, Fault::Turned(_)) {
                    self.eat(node).await?;
                }
                self.told((row.teller, row.also), node, word, &before)
                    .await?;
                if let Fault::Deed(Misdeed::MoveBound) = row.fault {
                    // Of the node that has it now, the operator tells.
                    let other = self.lab.node(WIDE)?;
                    let told = self.told((Teller::Operator, &[]), other, word, &before);
                    told.await.context("at the other node")?;
                }
                self.add_some(row, node)?;
                self.heal(row, node, had).await?;
            }
            (Seen::Log, Some(word)) => {
                self.eat(node).await?;
                self.add_some(row, node)?;
                let line = |line: &str| {
                    line.contains("call failed") && line.contains(&format!("reason={word} "))
                };
                wait_for("the call in the log", PATIENCE, async || {
                    let log = self.log("operator", before.operator_log)?;
                    Ok(log.lines().any(line))
                })
                .await?;
                self.heal(row, node, had).await?;
                // By then it is forgotten: a second failure soon after it would be a problem.
                self.readings(1).await?;
                self.nothing_else(row, node, &before).await?;
            }
            (Seen::Nowhere, None) => {
                self.eat(node).await?;
                self.add_some(row, node)?;
                if row.is_about_readings() {
                    self.readings(2).await?;
                }
                self.heal(row, node, had).await?;
                self.nothing_else(row, node, &before).await?;
            }
            contradiction => bail!("{contradiction:?}"),
        }
        if row.node == TINY {
            // It has no room for the pods of another row.
            self.leave(had)?;
        }
        Ok(())
    }

    /// Waits until the node has what the cloud says, of that one free pair and the rest in use, and nobody has a problem.
    async fn rest(&self, node: &Node) -> Result<()> {
        let last = RefCell::default();
        let rested = wait_for("rest", PATIENCE, async || {
            let problems = number(&self.operator().await?, "operator_problems", &[]);
            let state = self.state(node).await?;
            let quiet = state["problems"].as_array().is_some_and(Vec::is_empty);
            let pool = pool(&state);
            let spare: Vec<_> = pool.iter().filter(|(_, (_, w))| w != "bound").collect();
            let nics = self.cloud.cloud(&DescribeNics::default()).await?;
            let attached = nics.iter().filter(|nic| {
                let to = nic.attachment.as_ref().map(|a| a.instance.as_str());
                to == Some(&node.instance)
            });
            let given: BTreeSet<IpAddr> = attached.flat_map(|nic| nic.secondary.clone()).collect();
            let free = spare.iter().all(|(_, (_, word))| word == "free");
            // One without a partner on its NIC may stay where that one's pod has the other family from another NIC.
            let of = |v4: bool| spare.iter().filter(|(ip, _)| ip.is_ipv4() == v4).count();
            let one_pair = of(true).min(of(false)) == 1;
            let same = pool.keys().eq(given.iter());
            last.replace(format!(
                "{problems} problems, {spare:?}, {given:?}, {state}"
            ));
            Ok(problems == 0 && quiet && same && free && one_pair)
        });
        rested.await.with_context(|| last.take())
    }

    /// Takes what is free until nothing is and the problem is told.
    async fn hunger(&self, row: &Row, node: &Node, word: Reason) -> Result<()> {
        let hungry = wait_for("the condition", PATIENCE, async || {
            // What the agent cannot use looks free.
            if row.teller == Teller::Operator && self.has_pair(node).await? {
                self.add_now(node, &self.name())?;
                return Ok(false);
            }
            Ok(self.conditions(node).await?.contains(word.word()))
        });
        hungry.await
    }

    async fn state(&self, node: &Node) -> Result<Value> {
        let address = SocketAddr::from(([127, 0, 0, 1], AGENT_PORT));
        get_in_netns(&node.netns(), address, "/debug/state").await
    }

    /// A free IPv4 address of the node, and its NIC.
    async fn free(&self, node: &Node) -> Result<(IpAddr, String)> {
        let pool = pool(&self.state(node).await?);
        let mut free = pool.into_iter().filter(|(_, (_, word))| word == "free");
        let found = free.find(|(ip, _)| ip.is_ipv4());
        found
            .map(|(ip, (nic, _))| (ip, nic))
            .context("no free address")
    }

    /// Whether a pod could have its addresses at once.
    async fn has_pair(&self, node: &Node) -> Result<bool> {
        let pool = pool(&self.state(node).await?);
        let free = pool.iter().filter(|(_, (_, word))| word == "free");
        let families: BTreeSet<bool> = free.map(|(ip, _)| ip.is_ipv4()).collect();
        Ok(families.len() == 2)
    }

    async fn nrs(&self, node: &Node) -> Result<Value> {
        let path = format!("/apis/tombolo.dev/v1alpha1/netresourcesets/{}", node.name);
        self.api.get(&path).await
    }

    /// MAC of a NIC, by device index.
    async fn mac_of(&self, node: &Node, index: u64) -> Result<String> {
        let nrs = self.nrs(node).await?;
        let nics = nrs.pointer("/spec/nics").and_then(Value::as_array);
        let mut nics = nics.into_iter().flatten();
        let nic = nics
            .find(|nic| nic["deviceIndex"] == index)
            .context("the NIC")?;
        Ok(text(nic, "/mac"))
    }
}

/// NIC and state of the pool's addresses, as the agent tells them.
fn pool(state: &Value) -> BTreeMap<IpAddr, (String, String)> {
    let all = state.pointer("/pool/addresses").and_then(Value::as_array);
    let all = all.into_iter().flatten().filter_map(|a| {
        let ip = text(a, "/ip").parse().ok()?;
        Some((ip, (text(a, "/nic"), text(a, "/state"))))
    });
    all.collect()
}
