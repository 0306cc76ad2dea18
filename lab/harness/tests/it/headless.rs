//! A lab without nodes and packets: the simulated cloud's API, the API server, the shipped operator, and a node's agent
//! played by a task. Needs no privileges, and many fit beside each other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tombolo_cloud_sim::wire::{DescribeNics, NicInfo};
use tombolo_lab::kubeapi::{Api, text};
use tombolo_lab_apiserver as apiserver;
use tombolo_lab_vpc::admin::{InstanceDetail, RunInstance};
use tombolo_lab_vpc::{AdminClient, Config, Options, Server};

use crate::support::bin_dir;

/// The cluster's name: cloud tags carry it.
pub const CLUSTER: &str = "headless";
pub const NODE: &str = "node1";
pub const GROUP: &str = "/apis/tombolo.dev/v1alpha1";

/// Waiting times so short that a life passes in seconds.
const ARGUMENTS: &str = "--cloud=sim --metrics-listen=127.0.0.1:0 --cloud-rate=1000 --cloud-burst=1000 --resync=300ms \
    --sweep-gap=20ms --confirm-after=60ms --stale-grace=400ms --absent-grace=400ms --leak-age=400ms --attach-poll=20ms \
    --backoff-base=50ms --backoff-max=200ms --subnet-hold=400ms --limit-hold=400ms --refused-hold=200ms --nic-idle=200ms \
    --attach-timeout=5s --lease-duration=2s --lease-renew=200ms --identity=operator --webhook-listen=127.0.0.1:0";

/// Longer than anything takes; only failing tests wait for it.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Headless {
    server: Server,
    api_server: apiserver::Server,
    pub api: Api,
    pub cloud: AdminClient,
    pub instance: InstanceDetail,
    dir: tempfile::TempDir,
    operator: Option<Operator>,
    /// Where in the log the present operator begins.
    log_begin: usize,
    agent: Agent,
    /// The failpoint that the operator is to die at, until it has.
    pub order: Option<String>,
    /// Addresses that the cloud had for the node's pods.
    held: BTreeSet<IpAddr>,
    /// From now on addresses may go without having been agreed to: the instance is gone.
    pub reclaiming: bool,
}

/// What the agent says; the task puts it into the object's status.
#[derive(Debug, Default)]
struct Will {
    low: u32,
    high: u32,
    /// Addresses of a pod that must never be taken.
    bound: BTreeSet<IpAddr>,
    /// Every address that it agreed to give back.
    agreed: BTreeSet<IpAddr>,
}

struct Agent {
    will: Arc<Mutex<Will>>,
    task: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Operator(Child);

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Headless {
    /// Everything but the operator, with one instance.
    pub async fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut config = Config::default();
        config.delays.attach_ms = 30;
        config.delays.detach_ms = 30;
        config.instance_types = serde_json::from_value(json!([
            { "name": "tiny", "max_nics": 3, "ipv4_per_nic": 4, "ipv6_per_nic": 4 },
        ]))?;
        let options = Options {
            lab: CLUSTER.to_owned(),
            state: dir.path().to_owned(),
            config,
            fabric: false,
        };
        let server = Server::start(options).await?;
        let cloud = server.client();
        let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds");
        let webhook = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/base/webhook.yaml"
        );
        let api_server = apiserver::Server::start(&apiserver::Args {
            load: vec![crds.into(), webhook.into()],
            ..apiserver::Args::default()
        })?;
        let api = Api::new(&api_server.url())?;
        let run = RunInstance {
            name: NODE.to_owned(),
            instance_type: "tiny".to_owned(),
            subnet: "subnet-a".to_owned(),
            netns: None,
        };
        let instance = cloud.lab(&run).await?;
        let will = Arc::new(Mutex::new(Will::default()));
        let task = tokio::spawn(play_agent(api.clone(), Arc::clone(&will)));
        Ok(Self {
            server,
            api_server,
            api,
            cloud,
            instance,
            dir,
            operator: None,
            log_begin: 0,
            agent: Agent { will, task },
            order: None,
            held: BTreeSet::new(),
            reclaiming: false,
        })
    }

    /// The Node registers.
    pub async fn register(&self) -> Result<()> {
        let id = format!("sim:///{}/{}", self.instance.zone, self.instance.id);
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
            "spec": {
                "providerID": id, "taints": [{ "key": "tombolo.dev/agent-not-ready", "effect": "NoSchedule" }],
            },
        });
        self.api.create("/api/v1/nodes", &node).await.map(drop)
    }

    /// Starts the operator, with the failpoint where one is still to be reached.
    pub fn start_operator(&mut self) -> Result<()> {
        let mut command = Command::new(bin_dir().join("tombolo-operator"));
        command
            .args(ARGUMENTS.split_whitespace())
            .args(["--cluster", CLUSTER, "--api-server", &self.api_server.url()])
            .arg(format!(
                "--cloud-endpoint=unix:{}",
                self.cloud.socket().display()
            ));
        if let Some(order) = &self.order {
            command.args(["--failpoint", order]);
        }
        self.log_begin = self.log().len();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("operator.log"))?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.operator = Some(Operator(command.spawn().context("start the operator")?));
        Ok(())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("operator.log")).unwrap_or_default()
    }

    /// SIGTERM, and its end; started and ended again where it died at its failpoint instead.
    pub async fn end_operator(&mut self) -> Result<()> {
        loop {
            // One that has not come so far does not yet listen to the signal.
            self.settle("the operator leads", async |world| {
                let log = world.log();
                let present = log.get(world.log_begin..).unwrap_or_default();
                Ok(present.contains("leading identity="))
            })
            .await?;
            let operator = self.operator.as_ref().context("an operator runs")?;
            let pid = i32::try_from(operator.0.id()).ok();
            let pid = pid
                .and_then(rustix::process::Pid::from_raw)
                .context("pid")?;
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
            let begin = Instant::now();
            let status = loop {
                if let Some(status) = self.ended()? {
                    break status;
                }
                ensure!(begin.elapsed() < PATIENCE, "the operator does not end");
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            if status.success() {
                return Ok(());
            }
            self.died_as_ordered(status)?;
            self.start_operator()?;
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(operator) = &mut self.operator else {
            return Ok(None);
        };
        let status = operator.0.try_wait().context("look at the operator")?;
        if status.is_some() {
            self.operator = None;
        }
        Ok(status)
    }

    /// The only end that is allowed.
    fn died_as_ordered(&mut self, status: ExitStatus) -> Result<()> {
        let order = self
            .order
            .take()
            .with_context(|| format!("died: {status}"))?;
        ensure!(
            status.signal() == Some(9),
            "died of something else: {status}"
        );
        let marker = format!("failpoint {order}@1=kill");
        ensure!(
            self.log().contains(&marker),
            "died elsewhere than at {order}"
        );
        Ok(())
    }

    /// Waits until it holds. Meanwhile the operator may die where it was told to, and is started again; and at every moment
    /// what must never be is looked for.
    pub async fn settle(
        &mut self,
        what: &str,
        holds: impl AsyncFn(&Self) -> Result<bool>,
    ) -> Result<()> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                self.died_as_ordered(status)?;
                self.start_operator()?;
            }
            self.never().await?;
            if holds(self).await? {
                // What it saw may be newer than what was looked at before.
                return self.never().await;
            }
            if begin.elapsed() > PATIENCE {
                let nics = self.nics().await?;
                let enis = self.api.list(&format!("{GROUP}/enis")).await?;
                let sets = self.api.list(&format!("{GROUP}/netresourcesets")).await?;
                bail!("{what}: not in {PATIENCE:?}\ncloud: {nics:#?}\n{enis:#?}\n{sets:#?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// All NICs of the cloud.
    pub async fn nics(&self) -> Result<Vec<NicInfo>> {
        Ok(self.cloud.cloud(&DescribeNics::default()).await?)
    }

    /// What must not be at any moment.
    async fn never(&mut self) -> Result<()> {
        // Read before the cloud, so that no agreement is missed.
        let agreed = self.will(|will| will.agreed.clone());
        let bound = self.will(|will| will.bound.clone());
        let nics = self.nics().await?;
        ensure!(
            nics.len() <= 4,
            "more NICs than the instance and one leak: {nics:#?}"
        );
        let mut enis = BTreeSet::new();
        for nic in &nics {
            if let Some(eni) = nic.tags.get("tombolo.dev/eni") {
                ensure!(enis.insert(eni.clone()), "{eni} was made twice: {nics:#?}");
            }
        }
        let now: BTreeSet<IpAddr> = nics.iter().flat_map(|nic| nic.secondary.clone()).collect();
        let high = self.will(|will| will.high).max(self.held_pairs());
        for family in ["v4", "v6"] {
            let of = now.iter().filter(|ip| ip.is_ipv4() == (family == "v4"));
            let count = of.count();
            ensure!(
                count <= high as usize,
                "{count} {family} addresses where {high} are wanted: assigned twice"
            );
        }
        if !self.reclaiming {
            ensure!(
                bound.is_subset(&now),
                "taken from a pod: {bound:?} of {now:?}"
            );
            for gone in self.held.difference(&now) {
                ensure!(agreed.contains(gone), "{gone} was taken without consent");
            }
        }
        self.held = now;
        Ok(())
    }

    fn held_pairs(&self) -> u32 {
        let v4 = self.held.iter().filter(|ip| ip.is_ipv4()).count();
        let v6 = self.held.len() - v4;
        u32::try_from(v4.max(v6)).unwrap_or(u32::MAX)
    }

    fn will<T>(&self, look: impl FnOnce(&mut Will) -> T) -> T {
        look(&mut self.agent.will.lock().unwrap())
    }

    /// What the node wants from now on.
    pub fn demand(&self, low: u32, high: u32) {
        self.will(|will| (will.low, will.high) = (low, high));
    }

    /// A pod on these.
    pub fn bind(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.will(|will| will.bound.extend(addresses));
    }

    /// Whether cloud, Eni objects and NetResourceSet say the same, with so many NICs and address pairs within bounds.
    pub async fn agrees(&self, nics: usize, low: usize, high: usize) -> Result<bool> {
        type Ledger = BTreeMap<String, BTreeSet<String>>;
        let mut cloud = Ledger::new();
        let mut pairs = [0, 0];
        for nic in self.nics().await? {
            if nic.attachment.as_ref().map(|a| &a.instance) != Some(&self.instance.id) {
                return Ok(false);
            }
            for ip in &nic.secondary {
                pairs[usize::from(ip.is_ipv6())] += 1;
            }
            let addresses = nic.secondary.iter().map(ToString::to_string).collect();
            cloud.insert(nic.id, addresses);
        }
        let strings = |value: &Value, pointer: &str| -> BTreeSet<String> {
            let list = value.pointer(pointer).and_then(Value::as_array);
            let texts = list.into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        let mut enis = Ledger::new();
        for eni in self.api.list(&format!("{GROUP}/enis")).await? {
            if text(&eni, "/status/phase") != "InUse" {
                return Ok(false);
            }
            enis.insert(
                text(&eni, "/status/nicId"),
                strings(&eni, "/status/addresses"),
            );
        }
        let Some(set) = self.set().await? else {
            return Ok(false);
        };
        let listed = set.pointer("/spec/nics").and_then(Value::as_array);
        let listed: Ledger = listed
            .into_iter()
            .flatten()
            .map(|nic| (text(nic, "/id"), strings(nic, "/addresses")))
            .collect();
        let within = pairs.iter().all(|count| (low..=high).contains(count));
        let marks = strings(&set, "/spec/release");
        Ok(cloud.len() == nics && within && marks.is_empty() && cloud == enis && cloud == listed)
    }

    pub async fn set(&self) -> Result<Option<Value>> {
        self.api
            .find(&format!("{GROUP}/netresourcesets/{NODE}"))
            .await
    }

    /// Takes it down; the operator has ended before.
    pub async fn down(self) -> Result<()> {
        ensure!(self.operator.is_none(), "the operator still runs");
        drop(self.agent);
        self.api_server.stop().await;
        Ok(self.server.shutdown().await?)
    }
}

/// Who holds the lease.
pub async fn holder(world: &Headless) -> Result<Option<String>> {
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/tombolo-operator";
    let lease = world.api.find(path).await?;
    Ok(lease.map(|lease| text(&lease, "/spec/holderIdentity")))
}

/// The node's agent, as far as the operator sees it: says what it wants, and agrees to every mark but those of its pods.
async fn play_agent(api: Api, will: Arc<Mutex<Will>>) {
    let path = format!("{GROUP}/netresourcesets/{NODE}");
    loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let Ok(Some(set)) = api.find(&path).await else {
            continue;
        };
        let texts = |pointer: &str| -> Vec<String> {
            let list = set.pointer(pointer).and_then(Value::as_array);
            let texts = list.into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        let nics = set.pointer("/spec/nics").and_then(Value::as_array);
        let nics = nics.map_or(0, Vec::len);
        let held: Vec<String> = (0..nics)
            .flat_map(|n| texts(&format!("/spec/nics/{n}/addresses")))
            .collect();
        let marked = texts("/spec/release");
        let (agent, agreed) = {
            let will = will.lock().unwrap();
            let bound = |ip: &String| ip.parse().is_ok_and(|ip: IpAddr| will.bound.contains(&ip));
            let demand = json!({ "low": will.low, "high": will.high });
            let in_use: BTreeMap<&String, &str> = held
                .iter()
                .filter(|ip| bound(ip))
                .map(|ip| (ip, "bound"))
                .collect();
            let answers: BTreeMap<&String, &str> = marked
                .iter()
                .map(|ip| (ip, if bound(ip) { "refused" } else { "ready" }))
                .collect();
            let free = |ip: &&String| !bound(ip) && !marked.contains(ip);
            let releasable: Vec<&String> = held.iter().filter(free).collect();
            let agreed: Vec<IpAddr> = marked
                .iter()
                .filter(|ip| !bound(ip))
                .filter_map(|ip| ip.parse().ok())
                .collect();
            let agent = json!({
                "observedGeneration": set.pointer("/metadata/generation"), "nics": nics, "used": in_use.len(),
                "total": held.len(), "demand": { "IPv4": demand, "IPv6": demand }, "inUse": in_use,
                "releasable": releasable, "release": answers,
            });
            (agent, agreed)
        };
        let conditions = set.pointer("/status/conditions").and_then(Value::as_array);
        let mut conditions = conditions.cloned().unwrap_or_default();
        let ready = conditions.iter().any(|c| c["type"] == "Ready");
        if set.pointer("/status/agent") == Some(&agent) && ready {
            continue;
        }
        if !ready {
            conditions.push(json!({
                "type": "Ready", "status": "True", "reason": "Serving", "message": "by a test",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }));
        }
        will.lock().unwrap().agreed.extend(agreed);
        // A map is replaced whole: what it no longer has is said so.
        let mut change = agent;
        for map in ["release", "inUse"] {
            let old = set
                .pointer(&format!("/status/agent/{map}"))
                .and_then(Value::as_object);
            for key in old.into_iter().flat_map(|old| old.keys()) {
                if change[map].get(key).is_none() {
                    change[map][key] = Value::Null;
                }
            }
        }
        let version = set.pointer("/metadata/resourceVersion");
        let status = json!({ "agent": change, "conditions": conditions });
        let patch = json!({ "metadata": { "resourceVersion": version }, "status": status });
        // Somebody wrote meanwhile: the next look sees it.
        drop(api.merge(&format!("{path}/status"), &patch).await);
    }
}
