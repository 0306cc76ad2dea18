//! The shipped operator between the simulated cloud (API only) and the API server. The agents are played: each answers its
//! NetResourceSet as an agent does, and says what the test wants it to want and to use.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tombolo_cloud_sim::wire::{DescribeNics, NicInfo};
use tombolo_lab::kubeapi::{Api, text};
use tombolo_lab_apiserver::{Args, Server as ApiServer};
use tombolo_lab_vpc::admin::{CallCount, Calls, InstanceDetail, LabVerb, RunInstance, SetKnob};
use tombolo_lab_vpc::knobs::Knob;
use tombolo_lab_vpc::{AdminClient, Config, Options, Server as Vpc};

use crate::support::{alone, bin_dir};

pub const CLUSTER: &str = "bed";
/// Long enough for a loaded machine; only failing tests wait for it.
const PATIENCE: Duration = Duration::from_secs(30);
/// For "as often as it happens".
pub const FOR_EVER: u32 = u32::MAX;

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/tombolo-operator";

/// Two subnets in one zone: where one is full the other may do.
const VPC: &str = "
cidrs: [10.0.0.0/16, '2001:db8:1::/48']
delays: {attach_ms: 20, detach_ms: 20}
subnets:
  - {id: s1, zone: z1, cidr4: 10.0.1.0/24, cidr6: '2001:db8:1:1::/64'}
  - {id: s2, zone: z1, cidr4: 10.0.2.0/24, cidr6: '2001:db8:1:2::/64'}
instance_types:
  - {name: small, max_nics: 3, ipv4_per_nic: 5, ipv6_per_nic: 5}
";

/// Waiting times of the product, shortened alike.
const TIMES: [(&str, &str); 15] = [
    ("--resync", "400ms"),
    ("--sweep-gap", "50ms"),
    ("--confirm-after", "300ms"),
    ("--stale-grace", "1s"),
    ("--leak-age", "500ms"),
    ("--attach-poll", "50ms"),
    ("--cloud-timeout", "1s"),
    ("--backoff-base", "50ms"),
    ("--backoff-max", "400ms"),
    ("--nic-idle", "500ms"),
    ("--attach-timeout", "700ms"),
    ("--lease-duration", "5s"),
    ("--lease-renew", "300ms"),
    ("--subnet-hold", "300ms"),
    ("--limit-hold", "300ms"),
];

pub struct Bed {
    pub cloud: AdminClient,
    pub api: Api,
    vpc: Option<Vpc>,
    api_server: Option<ApiServer>,
    operator: Option<Child>,
    metrics: u16,
    agents: Vec<tokio::task::JoinHandle<()>>,
    dir: TempDir,
}

/// What a played agent says.
#[derive(Clone, Debug, Default)]
pub struct Says {
    pub low: u32,
    pub high: u32,
    /// Addresses bound to pods.
    pub bound: BTreeSet<IpAddr>,
    /// It refuses to give anything back.
    pub stubborn: bool,
}

/// A node: an instance, a Node object and a played agent.
#[derive(Clone)]
pub struct Node {
    pub name: String,
    pub vm: InstanceDetail,
    pub says: Arc<Mutex<Says>>,
}

impl Node {
    pub fn say(&self, change: impl FnOnce(&mut Says)) {
        change(&mut self.says.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Runs a test on a bed of its own.
pub fn on_bed<R: Future<Output = ()>>(test: impl FnOnce(Bed) -> R) {
    let _one = alone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { test(Bed::start(VPC).await).await });
}

/// As [`on_bed`], in another VPC.
pub fn on_bed_of<R: Future<Output = ()>>(vpc: &str, test: impl FnOnce(Bed) -> R) {
    let _one = alone();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { test(Bed::start(vpc).await).await });
}

impl Bed {
    async fn start(yaml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options {
            lab: "bed".to_owned(),
            state: dir.path().join("vpc"),
            config: Config::parse(yaml).unwrap(),
            fabric: false,
        };
        let vpc = Vpc::start(options).await.unwrap();
        let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds");
        let args = Args {
            load: vec![crds.into()],
            ..Args::default()
        };
        let api_server = ApiServer::start(&args).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            cloud: vpc.client(),
            api: Api::new(&api_server.url()).unwrap(),
            metrics: free.local_addr().unwrap().port(),
            vpc: Some(vpc),
            api_server: Some(api_server),
            operator: None,
            agents: Vec::new(),
            dir,
        }
    }

    /// An operator begins; returns once it leads.
    pub async fn operator(&mut self) {
        self.operator_with(&[]).await;
    }

    /// As [`Self::operator`], with some of [`TIMES`] changed.
    pub async fn operator_with(&mut self, changed: &[(&str, &str)]) {
        let kept = TIMES
            .iter()
            .filter(|(flag, _)| changed.iter().all(|(other, _)| flag != other));
        assert!(self.operator.is_none(), "one runs");
        let log = self.dir.path().join("operator.log");
        let out = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut command = Command::new(bin_dir().join("tombolo-operator"));
        command
            .args(["--cloud", "sim", "--cluster", CLUSTER])
            .arg("--cloud-endpoint")
            .arg(format!("unix:{}", self.cloud.socket().display()))
            .arg("--api-server")
            .arg(self.api_server.as_ref().unwrap().url())
            .arg(format!("--metrics-listen=127.0.0.1:{}", self.metrics))
            .args(["--cloud-rate", "1000", "--cloud-burst", "1000"])
            .args(
                kept.chain(changed)
                    .flat_map(|(flag, value)| [*flag, *value]),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out);
        self.operator = Some(command.spawn().expect("start tombolo-operator"));
        self.eventually("the operator leads", async || {
            let metrics = self.scrape().await?;
            metrics.contains("tombolo_operator_leader 1").then_some(())
        })
        .await;
    }

    /// SIGKILL: nothing is taken in, nothing is given up. The lease is taken away, so that the next one need not wait for it.
    pub async fn kill_operator(&mut self) {
        let mut child = self.operator.take().expect("one runs");
        child.kill().unwrap();
        child.wait().unwrap();
        self.api.delete(LEASE).await.unwrap();
    }

    /// SIGTERM; returns who has the lease once the process has ended.
    pub async fn end_operator(&mut self) -> String {
        let operator = self.operator.as_ref().expect("one runs");
        let id = operator.id().to_string();
        let status = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(status.success(), "kill -TERM {id}");
        let begin = Instant::now();
        while let Ok(None) = self.operator.as_mut().expect("one runs").try_wait() {
            assert!(
                begin.elapsed() < PATIENCE,
                "it does not end\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.operator = None;
        let lease = self.api.find(LEASE).await.unwrap().unwrap_or_default();
        text(&lease, "/spec/holderIdentity")
    }

    /// SIGSTOP: the operator knows nothing from here on, and leads in its dreams. The lease is taken away as in
    /// [`Self::kill_operator`].
    pub async fn put_operator_to_sleep(&mut self) -> Sleeper {
        let sleeper = Sleeper {
            child: self.operator.take().expect("one runs"),
            metrics: self.metrics,
        };
        sleeper.signal("-STOP");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        self.metrics = free.local_addr().unwrap().port();
        self.api.delete(LEASE).await.unwrap();
        sleeper
    }

    /// SIGCONT; returns once it knows that it leads no more.
    pub async fn wake(&self, sleeper: &Sleeper) {
        sleeper.signal("-CONT");
        self.eventually("the sleeper leads no more", async || {
            let metrics = scrape(sleeper.metrics).await?;
            metrics.contains("tombolo_operator_leader 0").then_some(())
        })
        .await;
    }

    /// How often the lease was taken.
    pub async fn term(&self) -> i64 {
        let lease = self.api.find(LEASE).await.unwrap().unwrap_or_default();
        let transitions = lease.pointer("/spec/leaseTransitions");
        transitions.and_then(Value::as_i64).unwrap_or_default()
    }

    /// A node joins; its agent wants nothing yet.
    pub async fn node(&mut self, name: &str) -> Node {
        let call = RunInstance {
            name: name.to_owned(),
            instance_type: "small".to_owned(),
            subnet: "s1".to_owned(),
            netns: None,
        };
        let vm = self.cloud.lab(&call).await.unwrap();
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"providerID": format!("sim:///{}/{}", vm.zone, vm.id)},
        });
        self.api.create("/api/v1/nodes", &object).await.unwrap();
        let node = Node {
            name: name.to_owned(),
            vm,
            says: Arc::default(),
        };
        let (api, played) = (self.api.clone(), node.clone());
        self.agents.push(tokio::spawn(async move {
            loop {
                // A conflict or a restart of the server: the next look repairs it.
                drop(play(&api, &played).await);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
        node
    }

    pub async fn turn(&self, knob: Knob) {
        self.cloud.lab(&SetKnob { knob }).await.unwrap();
    }

    pub async fn lab<V: LabVerb>(&self, call: &V) -> V::Reply {
        self.cloud.lab(call).await.unwrap()
    }

    /// What became of the calls of a verb.
    pub async fn calls(&self, verb: &str) -> CallCount {
        let all = self.cloud.lab(&Calls {}).await.unwrap();
        all.get(verb).copied().unwrap_or_default()
    }

    /// The NICs as they are; only for use while no knob distorts readings. A reply that is lost or spoilt is asked for again.
    pub async fn nics(&self) -> Vec<NicInfo> {
        let call = DescribeNics::default();
        self.eventually("the NICs", async || self.cloud.cloud(&call).await.ok())
            .await
    }

    /// NICs of this cluster.
    pub async fn ours(&self) -> Vec<NicInfo> {
        let mut all = self.nics().await;
        all.retain(|nic| nic.tags.get("tombolo.dev/cluster").map(String::as_str) == Some(CLUSTER));
        all
    }

    pub async fn nrs(&self, node: &str) -> Option<Value> {
        self.api
            .find(&format!(
                "/apis/tombolo.dev/v1alpha1/netresourcesets/{node}"
            ))
            .await
            .unwrap()
    }

    /// The addresses of a node's spec, by NIC.
    pub async fn spec(&self, node: &str) -> BTreeMap<String, BTreeSet<IpAddr>> {
        self.nrs(node)
            .await
            .map(|nrs| spec_of(&nrs))
            .unwrap_or_default()
    }

    /// Addresses of a family in a node's spec.
    pub async fn count(&self, node: &str, v4: bool) -> usize {
        let spec = self.spec(node).await;
        spec.values()
            .flatten()
            .filter(|ip| ip.is_ipv4() == v4)
            .count()
    }

    pub async fn enis(&self) -> Vec<Value> {
        self.api
            .list("/apis/tombolo.dev/v1alpha1/enis")
            .await
            .unwrap()
    }

    /// Reasons of the Events so far.
    pub async fn events(&self) -> Vec<String> {
        let all = self
            .api
            .list("/apis/events.k8s.io/v1/events")
            .await
            .unwrap();
        all.iter().map(|event| text(event, "/reason")).collect()
    }

    /// What the last Event of a reason says.
    pub async fn note(&self, reason: &str) -> String {
        let all = self
            .api
            .list("/apis/events.k8s.io/v1/events")
            .await
            .unwrap();
        let found = all.iter().rfind(|event| text(event, "/reason") == reason);
        found.map(|event| text(event, "/note")).unwrap_or_default()
    }

    /// Status and reason of a node's condition.
    pub async fn condition(&self, node: &str, kind: &str) -> (String, String) {
        let nrs = self.nrs(node).await.unwrap_or_default();
        let all = nrs.pointer("/status/conditions").and_then(Value::as_array);
        let found = all.into_iter().flatten().find(|c| text(c, "/type") == kind);
        found
            .map(|c| (text(c, "/status"), text(c, "/reason")))
            .unwrap_or_default()
    }

    /// Lets new NICs be in these subnets.
    pub async fn profile(&self, subnets: &[&str]) {
        let profile = json!({
            "apiVersion": "tombolo.dev/v1alpha1", "kind": "NetworkProfile",
            "metadata": {"name": "default"}, "spec": {"subnets": {"ids": subnets}},
        });
        let path = "/apis/tombolo.dev/v1alpha1/networkprofiles";
        self.api.create(path, &profile).await.unwrap();
    }

    /// A lab call of the API server.
    pub async fn post(&self, path: &str) {
        let nothing = json!({});
        self.api
            .call("POST", path, "application/json", Some(&nothing))
            .await
            .unwrap();
    }

    /// Problems that began so far, by reason.
    pub async fn begun(&self, reason: &str) -> u64 {
        let label = format!("tombolo_operator_problems_begun_total{{reason=\"{reason}\"}} ");
        let metrics = self.scrape().await.unwrap_or_default();
        let line = metrics.lines().find_map(|l| l.strip_prefix(&label));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    async fn scrape(&self) -> Option<String> {
        scrape(self.metrics).await
    }

    /// Cloud, Eni objects and NetResourceSets agree, each NIC of ours has one object and one place, and each address one node;
    /// every node has what it wants.
    pub async fn agree(&self, nodes: &[&Node]) {
        self.eventually("cloud and objects agree", async || {
            self.disagreement(nodes).await.map_or(Some(()), |_| None)
        })
        .await;
    }

    pub async fn disagreement(&self, nodes: &[&Node]) -> Option<String> {
        let (nics, enis) = (self.nics().await, self.enis().await);
        let mut listed = BTreeSet::new();
        for node in nodes {
            let spec = self.spec(&node.name).await;
            for (id, addresses) in &spec {
                let Some(nic) = nics.iter().find(|nic| nic.id == *id) else {
                    return Some(format!("{}: {id} is not in the cloud", node.name));
                };
                let place = nic.attachment.as_ref().map(|a| a.instance.clone());
                if place.as_ref() != Some(&node.vm.id) {
                    return Some(format!("{}: {id} is at {place:?}", node.name));
                }
                let has: BTreeSet<IpAddr> = nic.secondary.iter().copied().collect();
                if has != *addresses {
                    return Some(format!(
                        "{}: {id} has {has:?}, not {addresses:?}",
                        node.name
                    ));
                }
                for address in addresses {
                    if !listed.insert(*address) {
                        return Some(format!("{address} is listed twice"));
                    }
                }
                let objects = enis.iter().filter(|e| text(e, "/status/nicId") == *id);
                if objects.count() != 1 {
                    return Some(format!("{id} has not one Eni object"));
                }
            }
            let low = node.says.lock().unwrap_or_else(PoisonError::into_inner).low;
            for v4 in [true, false] {
                let has = spec
                    .values()
                    .flatten()
                    .filter(|ip| ip.is_ipv4() == v4)
                    .count();
                if has < low as usize {
                    return Some(format!("{} wants {low} and has {has}", node.name));
                }
            }
        }
        let attached: BTreeSet<&str> = nodes.iter().map(|n| n.vm.id.as_str()).collect();
        for nic in self.ours().await {
            let place = nic.attachment.as_ref().map(|a| a.instance.as_str());
            if !place.is_some_and(|place| attached.contains(place)) {
                return Some(format!("{} is ours and at {place:?}", nic.id));
            }
        }
        for eni in &enis {
            let id = text(eni, "/status/nicId");
            if nics.iter().all(|nic| nic.id != id) {
                return Some(format!(
                    "Eni {} stands for nothing",
                    text(eni, "/metadata/name")
                ));
            }
        }
        None
    }

    /// Waits until a condition gives a value; on failure tells what the operator said last.
    pub async fn eventually<T>(
        &self,
        what: &str,
        mut condition: impl AsyncFnMut() -> Option<T>,
    ) -> T {
        let start = Instant::now();
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            assert!(start.elapsed() < PATIENCE, "never: {what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets the operator take so many whole readings from now on.
    pub async fn readings(&self, count: u64) {
        let begun = self.calls("DescribeVpc").await.total();
        self.eventually("the operator reads the cloud", async || {
            // The last one may just begin; the one after it shows that it was taken in.
            (self.calls("DescribeVpc").await.total() > begun + count).then_some(())
        })
        .await;
    }

    fn log(&self) -> String {
        let all = std::fs::read_to_string(self.dir.path().join("operator.log")).unwrap_or_default();
        let lines: Vec<&str> = all.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    pub async fn down(mut self) {
        for agent in &self.agents {
            agent.abort();
        }
        if self.operator.is_some() {
            self.kill_operator().await;
        }
        if let Some(server) = self.api_server.take() {
            server.stop().await;
        }
        if let Some(vpc) = self.vpc.take() {
            vpc.shutdown().await.unwrap();
        }
    }
}

/// A failed test leaves no process either.
impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(mut child) = self.operator.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// An operator that was stopped. It ends with this value.
pub struct Sleeper {
    child: Child,
    metrics: u16,
}

impl Sleeper {
    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(status.success(), "kill {signal} {id}");
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn scrape(port: u16) -> Option<String> {
    let address = ([127, 0, 0, 1], port).into();
    tombolo_lab::http::get_text_in_netns("/proc/self/ns/net", address, "/metrics")
        .await
        .ok()
}

pub fn spec_of(nrs: &Value) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let nics = nrs
        .pointer("/spec/nics")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    nics.map(|nic| (text(nic, "/id"), addresses(nic, "/addresses")))
        .collect()
}

fn addresses(value: &Value, pointer: &str) -> BTreeSet<IpAddr> {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|ip| ip.as_str()?.parse().ok())
        .collect()
}

/// One look of an agent at its NetResourceSet, and its answer.
async fn play(api: &Api, node: &Node) -> anyhow::Result<()> {
    let path = format!("/apis/tombolo.dev/v1alpha1/netresourcesets/{}", node.name);
    let Some(nrs) = api.find(&path).await? else {
        return Ok(());
    };
    let says = node
        .says
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let release = addresses(&nrs, "/spec/release");
    let held: BTreeSet<IpAddr> = spec_of(&nrs).into_values().flatten().collect();
    let answers: BTreeMap<String, &str> = release
        .iter()
        .map(|ip| {
            let refused = says.stubborn || says.bound.contains(ip);
            (ip.to_string(), if refused { "refused" } else { "ready" })
        })
        .collect();
    let free: Vec<String> = held
        .iter()
        .rev()
        .filter(|ip| !says.bound.contains(*ip) && !release.contains(*ip))
        .map(ToString::to_string)
        .collect();
    let in_use: BTreeMap<String, &str> = says
        .bound
        .iter()
        .map(|ip| (ip.to_string(), "bound"))
        .collect();
    let demand = json!({"low": says.low, "high": says.high});
    let wanted = json!({
        "observedGeneration": nrs["metadata"]["generation"],
        "nics": spec_of(&nrs).len(), "used": says.bound.len(), "total": held.len(),
        "demand": {"IPv4": demand, "IPv6": demand},
        "inUse": in_use, "releasable": free, "release": answers,
    });
    if nrs.pointer("/status/agent") == Some(&wanted) {
        return Ok(());
    }
    // A merge patch does not take keys away by itself; the two maps are written whole by way of null.
    let mut patch = wanted;
    for map in ["inUse", "release"] {
        let old = nrs.pointer(&format!("/status/agent/{map}"));
        for key in old
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(k, _)| k)
        {
            if patch[map].get(key).is_none() {
                patch[map][key] = Value::Null;
            }
        }
    }
    api.merge(
        &format!("{path}/status"),
        &json!({"metadata": {"uid": nrs["metadata"]["uid"]}, "status": {"agent": patch}}),
    )
    .await?;
    Ok(())
}
