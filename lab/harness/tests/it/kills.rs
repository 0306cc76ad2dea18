//! Agent and operator are killed again and again, most of the time in the middle of a write, while pods come and go and
//! connections carry verified bytes over both NICs.
//!
//! `TOMBOLO_KILLS_AGENT`, `TOMBOLO_KILLS_OPERATOR` and `TOMBOLO_KILLS_CONNECTIONS` say how often and how many. With a hundred
//! agents and fifty operators at least ten must have died in each of ADD, DEL, attach, release and repair.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tombolo_lab::kubeapi::Api;
use tombolo_lab::matrix::PORT;
use tombolo_lab::pods::{self, Pod};
use tombolo_lab::probe::Carried;
use tombolo_lab::process::Process;
use tombolo_lab::state::Lab;
use tombolo_lab::topology::Topology;
use tombolo_lab::up;

use crate::restart::Traffic;
use crate::support::{in_ns, one_of_each_nic, place, probe, run_pods, scenario};

/// Pods that stay: enough for two NICs.
const STAYING: usize = 7;
/// Pods of a wave: enough for a third one.
const WAVE: usize = 5;
/// Killed from outside once it has run for a moment.
const AT_ANY_TIME: &str = "";
const MOMENT: Duration = Duration::from_millis(700);
/// How long the kernel may take for that.
const GONE: Duration = Duration::from_secs(60);
/// Of each connection, between two blocks.
const PAUSE: Duration = Duration::from_millis(50);

/// Where agents die, one after the other: in ADD, DEL, what follows it, and repair.
const AGENT: [&str; 15] = [
    "add.create-link.after",
    "del.sources.after",
    "repair.route.before",
    AT_ANY_TIME,
    "reap.cool.after",
    "add.pod-end.before",
    "del.journal-draining.after",
    "repair.route.after",
    "add.journal-ready.before",
    "reap.delete-links.before",
    "del.doom-link.before",
    "add.sources.after@2",
    "repair.route.before",
    "object.status.after",
    "reap.journal-gone.before",
];

/// Where operators die: growing, and giving back.
const OPERATOR: [&str; 11] = [
    "cloud.attach-nic.after",
    "cloud.unassign.after",
    "cloud.create-nic.after",
    "cloud.detach-nic.before",
    "cloud.attach-nic.before",
    "cloud.unassign.before",
    "cloud.assign.after",
    "cloud.delete-nic.before",
    "cloud.attach-nic.after",
    "cloud.unassign.after",
    AT_ANY_TIME,
];

/// What is counted, and where one dies in it.
const OPERATIONS: [(&str, &str); 5] = [
    ("ADD", "add."),
    ("DEL", "del."),
    ("attach", "cloud.attach-nic."),
    ("release", "cloud.unassign."),
    ("repair", "repair."),
];

fn count(variable: &str, default: usize) -> usize {
    let text = std::env::var(variable).ok();
    text.map_or(default, |text| text.parse().unwrap())
}

#[test]
fn killed_again_and_again_nobody_notices_and_nothing_is_lost() {
    let mut topology = Topology::with("kills", 1, "t3.medium", 1);
    let lease = ["--lease-duration=2s", "--lease-renew=500ms"];
    topology.operator_args.extend(lease.map(str::to_owned));
    // No more than the pods need, so that every wave needs a NIC more and gives it back.
    topology.profile.pool.warm_min = 0;
    topology.profile.pool.warm_max = 1;
    topology.profile.pool.cooling_seconds = 1;
    scenario(topology, async |lab| {
        let staying = run_pods(&lab, STAYING).await?;
        let traffic = carry(&lab, &staying, count("TOMBOLO_KILLS_CONNECTIONS", 24)).await?;
        let mut chaos = Chaos::new(lab)?;
        let wanted = (
            count("TOMBOLO_KILLS_AGENT", 10),
            count("TOMBOLO_KILLS_OPERATOR", 5),
        );
        let bound = (wanted.0 + wanted.1) * 2;
        for wave in 0..bound {
            if chaos.agent.deaths >= wanted.0 && chaos.operator.deaths >= wanted.1 {
                break;
            }
            chaos.wave(wave, &staying).await?;
        }
        let deaths = (chaos.agent.deaths, chaos.operator.deaths);
        let died_in = std::mem::take(&mut chaos.died_in);
        println!(
            "killed: {} agents, {} operators; {died_in:?}",
            deaths.0, deaths.1
        );
        ensure!(
            deaths.0 >= wanted.0 && deaths.1 >= wanted.1,
            "only {deaths:?} were killed in {bound} waves"
        );
        let least = (wanted.0 / 10).min(wanted.1 / 5);
        for (operation, _) in OPERATIONS {
            let count = died_in.get(operation).copied().unwrap_or(0);
            ensure!(count >= least, "{count} died in {operation}: {died_in:?}");
        }
        chaos.end()?;
        let carried: Result<Vec<Carried>> = traffic
            .into_iter()
            .map(Traffic::carried_throughout)
            .collect();
        let carried = carried?;
        println!(
            "{} connections, {} bytes verified, the longest stall {:?} ms",
            carried.len(),
            carried.iter().map(|c| c.verified).sum::<u64>(),
            carried.iter().map(|c| c.longest_stall_ms).max()
        );
        Ok(())
    });
}

/// So many connections, in and out, inside and outside the VPC, on pods of every NIC.
pub async fn carry(
    lab: &Lab,
    staying: &BTreeMap<String, Pod>,
    connections: usize,
) -> Result<Vec<Traffic>> {
    let vm = lab.vm("vm1")?.clone();
    let mut ways: Vec<(String, SocketAddr)> = Vec::new();
    let chosen = one_of_each_nic(lab, staying).await?;
    ensure!(chosen.len() >= 2, "two NICs are wanted");
    for pod in chosen.values() {
        let netns = place(lab, pod)?.netns;
        for (pod_ip, vm_ip) in pod.ips.iter().zip(&vm.addresses) {
            ways.push((vm.netns.clone(), SocketAddr::new(*pod_ip, PORT)));
            ways.push((netns.clone(), SocketAddr::new(*vm_ip, PORT)));
        }
        for outside in &lab.internet {
            ways.push((netns.clone(), SocketAddr::new(*outside, PORT)));
        }
    }
    let ways = ways.iter().cycle().take(connections.max(ways.len()));
    ways.map(|(netns, to)| Traffic::paced(netns, *to, PAUSE))
        .collect()
}

/// A program that is killed.
struct Victim {
    orders: std::iter::Cycle<std::slice::Iter<'static, &'static str>>,
    /// What the present one is to die of.
    order: Option<&'static str>,
    since: Instant,
    deaths: usize,
    limit: usize,
}

impl Victim {
    fn new(orders: &'static [&'static str], limit: usize) -> Self {
        Self {
            orders: orders.iter().cycle(),
            order: None,
            since: Instant::now(),
            deaths: 0,
            limit,
        }
    }

    /// The order of the next one; none once there were enough.
    fn next(&mut self) -> Vec<String> {
        self.since = Instant::now();
        let enough = self.deaths >= self.limit;
        self.order = if enough {
            None
        } else {
            self.orders.next().copied()
        };
        let order = self.order.filter(|order| *order != AT_ANY_TIME);
        let arguments = order.map(|order| vec!["--failpoint".to_owned(), order.to_owned()]);
        arguments.unwrap_or_default()
    }

    fn is_due(&self) -> bool {
        self.order == Some(AT_ANY_TIME) && self.since.elapsed() > MOMENT
    }
}

struct Chaos {
    lab: Lab,
    api: Api,
    agent: Victim,
    operator: Victim,
    /// How many died in which operation.
    died_in: BTreeMap<&'static str, usize>,
}

impl Chaos {
    fn new(lab: Lab) -> Result<Self> {
        let api = Api::new(&lab.api_url)?;
        let mut chaos = Self {
            lab,
            api,
            agent: Victim::new(&AGENT, count("TOMBOLO_KILLS_AGENT", 10)),
            operator: Victim::new(&OPERATOR, count("TOMBOLO_KILLS_OPERATOR", 5)),
            died_in: BTreeMap::new(),
        };
        chaos.agent()?.kill()?;
        chaos.start_agent()?;
        chaos.operator()?.kill()?;
        chaos.start_operator()?;
        Ok(chaos)
    }

    fn agent(&self) -> Result<Process> {
        self.lab.nodes[0].agent.clone().context("an agent")
    }

    fn operator(&self) -> Result<Process> {
        let found = self.lab.services.iter().find(|p| p.name == "operator");
        found.cloned().context("an operator")
    }

    fn start_agent(&mut self) -> Result<()> {
        let arguments = self.agent.next();
        // Something to repair that no packet needs: a route of ours to an address that nobody has.
        let netns = self.lab.nodes[0].netns();
        let stray = "route replace 192.0.2.1 dev eth0 table 990 proto 116";
        in_ns(&netns, "ip", &stray.split(' ').collect::<Vec<_>>())?;
        let mut with = self.lab.clone();
        with.topology.agent_args.extend(arguments);
        self.lab.nodes[0].agent = Some(up::start_agent(&with, &self.lab.nodes[0])?);
        self.lab.save()
    }

    fn start_operator(&mut self) -> Result<()> {
        let arguments = self.operator.next();
        let plain = self.lab.topology.operator_args.clone();
        self.lab.topology.operator_args.extend(arguments);
        let netns = self.lab.vm("control")?.netns.clone();
        let started = up::start_operator(&mut self.lab, &netns);
        self.lab.topology.operator_args = plain;
        started?;
        self.lab.save()
    }

    /// What keeps services running does: starts again what has ended. Only what was to die may have.
    fn tend(&mut self) -> Result<()> {
        let agent = self.agent()?;
        if self.agent.is_due() {
            agent.kill()?;
        }
        if !agent.alive() {
            self.died(&agent, self.agent.order)?;
            self.agent.deaths += 1;
            self.start_agent()?;
        }
        let operator = self.operator()?;
        if self.operator.is_due() {
            operator.kill()?;
        }
        if !operator.alive() {
            self.died(&operator, self.operator.order)?;
            self.operator.deaths += 1;
            self.start_operator()?;
        }
        Ok(())
    }

    fn died(&mut self, process: &Process, order: Option<&str>) -> Result<()> {
        let name = &process.name;
        // As whatever keeps services running does: until the kernel has closed what it had open.
        ensure!(process.wait_gone(GONE)?, "{name}: its files are still open");
        let order = order.with_context(|| format!("{name} died by itself"))?;
        let log = std::fs::read_to_string(self.lab.log(name))?;
        let last = log.lines().rfind(|line| line.starts_with("failpoint "));
        let there = last.is_some_and(|line| line.starts_with(&format!("failpoint {order}")));
        ensure!(
            order == AT_ANY_TIME || there,
            "{name} died elsewhere than at {order}: {last:?}"
        );
        let of = |(_, prefix): &&(&str, &str)| order.starts_with(prefix);
        if let Some((operation, _)) = OPERATIONS.iter().find(of) {
            *self.died_in.entry(operation).or_default() += 1;
        }
        Ok(())
    }

    async fn until(
        &mut self,
        what: &str,
        bound: Duration,
        holds: impl AsyncFn(&Self) -> Result<bool>,
    ) -> Result<()> {
        let begin = Instant::now();
        while !holds(self).await? {
            self.tend()?;
            if begin.elapsed() > bound {
                bail!("{what}: not within {bound:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Pods come, run, and go, and the NIC that they needed goes with them.
    async fn wave(&mut self, wave: usize, staying: &BTreeMap<String, Pod>) -> Result<()> {
        let names: Vec<String> = (0..WAVE).map(|n| format!("wave-{wave}-{n}")).collect();
        for name in &names {
            let manifest = pods::manifest(name, None, &probe(), &[]);
            pods::create(&self.api, &manifest).await?;
        }
        self.until("the wave runs", Duration::from_secs(90), async |chaos| {
            let running = pods::running(&chaos.api).await?;
            let ips: Vec<IpAddr> = running.values().flat_map(|pod| pod.ips.clone()).collect();
            let distinct: BTreeSet<&IpAddr> = ips.iter().collect();
            ensure!(
                distinct.len() == ips.len(),
                "an address has two pods: {running:#?}"
            );
            for (name, pod) in staying {
                ensure!(running.get(name) == Some(pod), "{name} is another now");
            }
            Ok(names.iter().all(|name| running.contains_key(name)))
        })
        .await?;
        for name in &names {
            pods::delete(&self.api, name).await?;
        }
        self.until("the wave is gone", Duration::from_secs(60), async |chaos| {
            let all = chaos.api.list("/api/v1/namespaces/default/pods").await?;
            Ok(all.len() == staying.len())
        })
        .await?;
        self.until(
            "the NIC is given back",
            Duration::from_secs(60),
            async |chaos| {
                let enis = chaos.api.list("/apis/tombolo.dev/v1alpha1/enis").await?;
                Ok(enis.len() == 2)
            },
        )
        .await
    }

    /// Agent and operator that stay.
    fn end(mut self) -> Result<()> {
        self.agent.limit = 0;
        self.operator.limit = 0;
        self.agent()?.kill()?;
        self.start_agent()?;
        self.operator()?.kill()?;
        self.start_operator()
    }
}
