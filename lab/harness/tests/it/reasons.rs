//! Every fault that the simulated cloud knows has one word, and it is the same word wherever people look: in the logs, the
//! metrics, the Events, the conditions, and in the error of an ADD by the shipped plugin. The table is [`faults`];
//! docs/failures.md shows it to people and is read here.
//!
//! ```text
//!   a node with one free address ─▶ fault ─▶ that one is taken ─▶ the problem is told ─▶ ADD fails in the same word
//!        ▲                                                                                   │
//!        └──────────────────────────── ADD succeeds ◀─ the fault ends ◀──────────────────────┘
//! ```

mod faults;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use tombolo_cloud_sim::wire::{CreateNic, DeleteNic, DescribeNics};
use tombolo_core::types::Reason;
use tombolo_lab::check::gather::AGENT_PORT;
use tombolo_lab::http::{get_in_netns, get_text_in_netns};
use tombolo_lab::kubeapi::{Api, text};
use tombolo_lab::node::output;
use tombolo_lab::state::{Lab, Node};
use tombolo_lab::topology::{NodeSpec, Topology};
use tombolo_lab::up::wait_for;
use tombolo_lab_vpc::AdminClient;
use tombolo_lab_vpc::admin::{Calls, ForceDetach, MoveAddress, SetKnob, TakeAddress, VanishNic};
use tombolo_lab_vpc::knobs::Knob;

use faults::{ATTACH_TIMEOUT, ATTACHING, Fault, Misdeed, Row, SLIM, Seen, TINY, Teller, WIDE};

use crate::bed::FOR_EVER;
use crate::support::{in_ns, scenario};

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

/// What the plugin wrote when it failed.
#[derive(Debug)]
struct CniError {
    code: u64,
    msg: String,
}

/// What people could have seen before the fault.
struct Before {
    operator_log: usize,
    agent_log: usize,
    operator: String,
    agent: String,
    events: BTreeSet<String>,
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

    async fn before(&self, node: &Node) -> Result<Before> {
        Ok(Before {
            operator_log: self.log("operator", 0)?.len(),
            agent_log: self.log(&format!("agent-{}", node.name), 0)?.len(),
            operator: self.operator().await?,
            agent: self.agent(node, "/metrics").await?,
            events: self.events().await?.into_keys().collect(),
        })
    }

    async fn plant(&self, row: &Row, node: &Node) -> Result<()> {
        match &row.fault {
            Fault::Turned(knobs) => {
                for knob in knobs {
                    self.turn(knob.clone()).await?;
                }
                Ok(())
            }
            Fault::Deed(deed) => self.commit(*deed, node).await,
        }
    }

    async fn commit(&self, deed: Misdeed, node: &Node) -> Result<()> {
        match deed {
            Misdeed::Crowd => {}
            Misdeed::HideInstance => {
                let (what, replies) = (node.instance.clone(), FOR_EVER);
                self.turn(Knob::Hide { what, replies }).await?;
                self.readings(2).await?;
            }
            Misdeed::FillSubnet { v4 } => {
                let mut count = 49;
                while count > 0 {
                    let (ipv4_count, ipv6_count) = if v4 { (count, 0) } else { (0, count) };
                    let call = CreateNic {
                        subnet: "subnet-a".to_owned(),
                        description: "a stranger's".to_owned(),
                        client_token: None,
                        ipv4_count,
                        ipv6_count,
                        security_groups: Vec::new(),
                        tags: BTreeMap::new(),
                    };
                    match self.cloud.cloud(&call).await {
                        Ok(nic) => self.strangers.borrow_mut().push(nic.id),
                        Err(_) => count /= 2,
                    }
                }
            }
            Misdeed::HideLink => {
                // The NIC with the free address is to be the second one.
                self.eat(node).await?;
                self.rest(node).await?;
                in_ns(
                    &node.netns(),
                    "ip",
                    &["link", "set", "eth1", "address", "02:00:00:00:ff:ff"],
                )?;
            }
            Misdeed::DetachNic | Misdeed::DeleteNic => {
                let nic = self.free(node).await?.1;
                if deed == Misdeed::DetachNic {
                    self.cloud.lab(&ForceDetach { nic }).await?;
                } else {
                    self.cloud.lab(&VanishNic { nic }).await?;
                }
            }
            Misdeed::TakeFree => {
                let (address, _) = self.free(node).await?;
                self.cloud.lab(&TakeAddress { address }).await?;
                wait_for("another one", PATIENCE, async || {
                    Ok(self.free(node).await.is_ok_and(|(ip, _)| ip != address))
                })
                .await?;
            }
            Misdeed::TakeBound | Misdeed::MoveBound => {
                let address = self.add_now(node, &self.name())?;
                if deed == Misdeed::TakeBound {
                    self.cloud.lab(&TakeAddress { address }).await?;
                } else {
                    let other = self.lab.node(WIDE)?;
                    let (_, to) = self.free(other).await?;
                    self.cloud.lab(&MoveAddress { address, to }).await?;
                }
            }
        }
        Ok(())
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

    /// Log, metric and Event of the problem itself.
    async fn told(
        &self,
        (teller, also): (Teller, &[Reason]),
        node: &Node,
        word: Reason,
        before: &Before,
    ) -> Result<()> {
        let reason = [("reason", word.word())];
        let of_node = [("operation", "node"), reason[0]];
        match teller {
            Teller::Operator => {
                let begun = wait_for("the metric", PATIENCE, async || {
                    let operator = self.operator().await?;
                    Ok(grew(
                        &before.operator,
                        &operator,
                        "operator_problems_begun_total",
                        &reason,
                    ))
                });
                begun.await?;
                let log = self.log("operator", before.operator_log)?;
                ensure!(
                    log.contains(&format!("{}{word} ", problem_of(node))),
                    "{word} is not in the operator's log:\n{log}"
                );
            }
            Teller::Agent => {
                let begun = wait_for("the metric", PATIENCE, async || {
                    let agent = self.agent(node, "/metrics").await?;
                    Ok(grew(
                        &before.agent,
                        &agent,
                        "agent_operations_total",
                        &of_node,
                    ))
                });
                begun.await?;
                let log = self.log(&format!("agent-{}", node.name), before.agent_log)?;
                ensure!(
                    log.contains(&format!("problem on this node reason={word} ")),
                    "{word} is not in the agent's log:\n{log}"
                );
            }
        }
        wait_for("the Event", PATIENCE, async || {
            let seen = self.new_events(node, before).await?;
            Ok(seen.iter().any(|reason| reason == word.word()))
        })
        .await?;
        let seen = self.new_events(node, before).await?;
        let expected =
            |seen: &String| *seen == word.word() || also.iter().any(|also| *seen == also.word());
        ensure!(seen.iter().all(expected), "other words, too: {seen:?}");
        Ok(())
    }

    /// Log and metric of the ADD that failed.
    async fn told_of_add(&self, node: &Node, word: Reason, before: &Before) -> Result<()> {
        let agent = self.agent(node, "/metrics").await?;
        let labels = [("operation", "add"), ("reason", word.word())];
        let counted = grew(&before.agent, &agent, "agent_operations_total", &labels);
        ensure!(counted, "no metric of the ADD that failed with {word}");
        let log = self.log(&format!("agent-{}", node.name), before.agent_log)?;
        let line =
            |l: &str| l.contains(r#"operation="add""#) && l.contains(&format!("reason={word} "));
        ensure!(
            log.lines().any(line),
            "the agent's log has no ADD with {word}:\n{log}"
        );
        Ok(())
    }

    /// No problem of the node began, and no Event came.
    async fn nothing_else(&self, row: &Row, node: &Node, before: &Before) -> Result<()> {
        let events = self.new_events(node, before).await?;
        let log = self.log("operator", before.operator_log)?;
        ensure!(
            events.is_empty() && !log.contains(&problem_of(node)),
            "{:?} was told: {events:?}",
            row.what
        );
        Ok(())
    }

    async fn heal(&self, row: &Row, node: &Node, had: usize) -> Result<()> {
        self.turn(Knob::Reset).await?;
        self.turn(Knob::AttachDelay { ms: ATTACHING }).await?;
        let strangers = self.strangers.take();
        for nic in &strangers {
            let nic = nic.clone();
            self.cloud.cloud(&DeleteNic { nic }).await?;
        }
        if !strangers.is_empty() {
            // Until they are believed gone, the operator takes nothing that they had.
            self.readings(3).await?;
        }
        match row.fault {
            Fault::Deed(Misdeed::HideLink) => {
                let mac = self.mac_of(node, 1).await?;
                in_ns(
                    &node.netns(),
                    "ip",
                    &["link", "set", "eth1", "address", &mac],
                )?;
            }
            // What is wrong with them ends with them.
            Fault::Deed(Misdeed::TakeBound | Misdeed::MoveBound | Misdeed::Crowd) => {
                self.leave(had)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes the free address.
    async fn eat(&self, node: &Node) -> Result<()> {
        self.add_now(node, &self.name()).map(drop)
    }

    /// ADDs that wait as long as the profile says.
    fn add_some(&self, row: &Row, node: &Node) -> Result<()> {
        let names: Vec<String> = (0..row.adds).map(|_| self.name()).collect();
        let outcomes: Vec<Result<_>> = std::thread::scope(|scope| {
            let adds: Vec<_> = names
                .iter()
                .map(|name| scope.spawn(|| plugin(node, "ADD", name, 30)))
                .collect();
            adds.into_iter()
                .map(|add| add.join().expect("a thread"))
                .collect()
        });
        for (name, outcome) in names.into_iter().zip(outcomes) {
            outcome?.map_err(|failed| anyhow!("ADD: {failed:?}"))?;
            self.pods.borrow_mut().push((node.name.clone(), name));
        }
        Ok(())
    }

    /// An ADD that succeeds; the pod's IPv4 address.
    fn add_now(&self, node: &Node, name: &str) -> Result<IpAddr> {
        let added = self.add(node, name, 30)?;
        let result = added.map_err(|failed| anyhow!("ADD: {failed:?}"))?;
        let address = text(&result, "/ips/0/address");
        let ip = address.split('/').next().unwrap_or_default();
        ip.parse()
            .with_context(|| format!("no address in {result}"))
    }

    fn add(&self, node: &Node, name: &str, seconds: u64) -> Result<Result<Value, CniError>> {
        let outcome = plugin(node, "ADD", name, seconds)?;
        if outcome.is_ok() {
            self.pods
                .borrow_mut()
                .push((node.name.clone(), name.to_owned()));
        }
        Ok(outcome)
    }

    /// The pods beyond so many go.
    fn leave(&self, staying: usize) -> Result<()> {
        let leaving = self.pods.borrow_mut().split_off(staying);
        let lab = self.lab;
        std::thread::scope(|scope| {
            let lanes: Vec<_> = leaving
                .chunks(leaving.len().div_ceil(4).max(1))
                .map(|pods| scope.spawn(|| pods.iter().try_for_each(|pod| del(lab, pod))))
                .collect();
            let mut lanes = lanes.into_iter().map(|lane| lane.join().unwrap());
            lanes.try_for_each(|outcome| outcome)
        })
    }

    fn name(&self) -> String {
        self.number.set(self.number.get() + 1);
        format!("pod-{:03}", self.number.get())
    }

    async fn turn(&self, knob: Knob) -> Result<()> {
        self.cloud.lab(&SetKnob { knob }).await?;
        Ok(())
    }

    /// Lets the operator take so many whole readings from now on.
    async fn readings(&self, count: u64) -> Result<()> {
        let taken = async || -> Result<u64> {
            let calls = self.cloud.lab(&Calls {}).await?;
            Ok(calls.get("DescribeVpc").map_or(0, |calls| calls.total()))
        };
        let begun = taken().await?;
        wait_for("readings", PATIENCE, async || {
            Ok(taken().await? > begun + count)
        })
        .await
    }

    async fn state(&self, node: &Node) -> Result<Value> {
        let address = SocketAddr::from(([127, 0, 0, 1], AGENT_PORT));
        get_in_netns(&node.netns(), address, "/debug/state").await
    }

    async fn agent(&self, node: &Node, path: &str) -> Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], AGENT_PORT));
        get_text_in_netns(&node.netns(), address, path).await
    }

    async fn operator(&self) -> Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], OPERATOR_PORT));
        get_text_in_netns(&self.lab.vm("control")?.netns, address, "/metrics").await
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

    /// Reasons of all conditions.
    async fn conditions(&self, node: &Node) -> Result<BTreeSet<String>> {
        let nrs = self.nrs(node).await?;
        let all = nrs.pointer("/status/conditions").and_then(Value::as_array);
        let all = all.into_iter().flatten();
        Ok(all.map(|c| text(c, "/reason")).collect())
    }

    /// Events of ours, by name.
    async fn events(&self) -> Result<BTreeMap<String, Value>> {
        let all = self
            .api
            .list("/apis/events.k8s.io/v1/events")
            .await?
            .into_iter();
        let ours =
            all.filter(|event| text(event, "/reportingController").starts_with("tombolo.dev/"));
        Ok(ours
            .map(|event| (text(&event, "/metadata/name"), event))
            .collect())
    }

    /// Words of the Events about this node since then.
    async fn new_events(&self, node: &Node, before: &Before) -> Result<Vec<String>> {
        let all = self.events().await?.into_iter();
        let new = all.filter(|(name, _)| !before.events.contains(name));
        let about = new.filter(|(_, event)| text(event, "/regarding/name") == node.name);
        Ok(about.map(|(_, event)| text(&event, "/reason")).collect())
    }

    /// What a process logged after so many bytes.
    fn log(&self, process: &str, after: usize) -> Result<String> {
        let log = std::fs::read_to_string(self.lab.log(process))?;
        Ok(log.get(after..).unwrap_or_default().to_owned())
    }
}

/// How a line of the operator's log goes on in which a problem of this node begins.
fn problem_of(node: &Node) -> String {
    format!(": problem node={} reason=", node.name)
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

/// Calls the plugin as a runtime does. Success gives its result (DEL: nothing).
fn plugin(node: &Node, command: &str, name: &str, seconds: u64) -> Result<Result<Value, CniError>> {
    let netns = format!("/run/netns/{name}");
    if command == "ADD" && !node.path(&netns).exists() {
        let mut make = node.command("ip");
        make.args(["netns", "add", name]);
        output(make)?;
    }
    let mut process = node.command("/run/cni/bin/tombolo-cni");
    process
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", name)
        .env("CNI_NETNS", &netns)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/run/cni/bin")
        .env(
            "CNI_ARGS",
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={name}"
            ),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let conf = json!({"cniVersion": "1.1.0", "name": "tombolo", "type": "tombolo-cni", "timeoutSeconds": seconds});
    let mut child = process.spawn().context("start the plugin")?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    stdin.write_all(&serde_json::to_vec(&conf)?)?;
    drop(stdin);
    let out = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() {
        return Ok(Ok(serde_json::from_str(&said).unwrap_or_default()));
    }
    let object: Value = serde_json::from_str(&said).with_context(|| {
        format!(
            "{command}: {said:?}, {:?}",
            String::from_utf8_lossy(&out.stderr)
        )
    })?;
    Ok(Err(CniError {
        code: object["code"].as_u64().context("code")?,
        msg: text(&object, "/msg"),
    }))
}

fn del(lab: &Lab, (node, name): &(String, String)) -> Result<()> {
    let node = lab.node(node)?;
    let outcome = plugin(node, "DEL", name, 30)?;
    outcome.map_err(|failed| anyhow!("DEL: {failed:?}"))?;
    let mut command = node.command("ip");
    command.args(["netns", "del", name]);
    output(command).map(drop)
}

/// Sum of a metric's lines with these labels.
fn number(metrics: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    let name = format!("tombolo_{name}{{");
    let labels: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    let lines = metrics.lines().filter(|line| line.starts_with(&name));
    let mine = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
    let values = mine.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

fn grew(before: &str, now: &str, name: &str, labels: &[(&str, &str)]) -> bool {
    number(now, name, labels) > number(before, name, labels)
}
