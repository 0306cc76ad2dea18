//! Who may write what, on a real kube-apiserver with what `deploy/` ships: two replicas of the shipped operator, agents'
//! accounts with tokens bound to pods. No nodes, no packets.
//!
//! Run by `scripts/api-suite.sh` (part of `make e2e`) with `KUBE_BIN_DIR`, in a network namespace of its own that has
//! [`REPLICAS`] on its loopback interface: the API server calls a webhook at an address that is no loopback one.

use std::cell::{Cell, RefCell};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tombolo_lab::kubeapi::{Api, text};
use tombolo_lab::up::wait_for;
use tombolo_lab_vpc::admin::RunInstance;
use tombolo_lab_vpc::{Config, Options, Server};

use crate::headless::GROUP;
use crate::support::bin_dir;

/// Addresses of the operator's replicas.
const REPLICAS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
const NODES: [&str; 2] = ["node-a", "node-b"];
const PODS: &str = "/api/v1/namespaces/kube-system/pods";
const ACCOUNTS: &str = "/api/v1/namespaces/kube-system/serviceaccounts";
const TAINT: &str = "tombolo.dev/agent-not-ready";
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends with this process: the script waits for the end of its input.
struct ControlPlane {
    script: Child,
    dir: PathBuf,
    api: Api,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        drop(self.script.wait());
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl ControlPlane {
    /// A control plane with the manifests that users install.
    fn start() -> Result<Self> {
        let mut script = Command::new(root().join("scripts/api-server.sh"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start scripts/api-server.sh")?;
        let mut line = String::new();
        let stdout = script.stdout.take().context("its output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ready", port, dir] = words[..] else {
            anyhow::bail!("the API server is not ready: {line:?}");
        };
        let cluster = Self {
            script,
            dir: dir.into(),
            api: Api::new(&format!("http://127.0.0.1:{port}"))?,
        };
        // 1.20 knows no CEL rules and drops them; its kubectl would refuse them.
        for manifest in [
            "crds/enis.yaml",
            "crds/netresourcesets.yaml",
            "crds/networkprofiles.yaml",
            "crds/podendpoints.yaml",
            "base/rbac-agent.yaml",
            "base/rbac-operator.yaml",
            "base/webhook.yaml",
        ] {
            let path = root().join("deploy").join(manifest);
            let path = path.to_str().context("a path in UTF-8")?.to_owned();
            cluster.kubectl(&["apply", "--validate=false", "-f", &path])?;
        }
        for plural in ["enis", "netresourcesets", "networkprofiles", "podendpoints"] {
            let name = format!("crd/{plural}.tombolo.dev");
            cluster.kubectl(&[
                "wait",
                "--for=condition=Established",
                "--timeout=30s",
                &name,
            ])?;
        }
        Ok(cluster)
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let bin = std::env::var("KUBE_BIN_DIR").context("KUBE_BIN_DIR")?;
        let output = Command::new(Path::new(&bin).join("kubectl"))
            .arg("--kubeconfig")
            .arg(self.dir.join("admin.kubeconfig"))
            .args(arguments)
            .output()
            .context("run kubectl")?;
        ensure!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A token of this account, bound to a pod where one is named.
    async fn token(&self, account: &str, pod: Option<&Value>) -> Result<String> {
        let mut spec = json!({ "expirationSeconds": 3600 });
        if let Some(pod) = pod {
            spec["boundObjectRef"] = json!({
                "kind": "Pod", "apiVersion": "v1", "name": text(pod, "/metadata/name"), "uid": text(pod, "/metadata/uid"),
            });
        }
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
        let made = self
            .api
            .create(&format!("{ACCOUNTS}/{account}/token"), &request)
            .await?;
        Ok(text(&made, "/status/token"))
    }

    /// A kubeconfig for this token.
    fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let admin = std::fs::read_to_string(self.dir.join("admin.kubeconfig"))?;
        let secret = std::fs::read_to_string(self.dir.join("admin.token"))?;
        let path = self.dir.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, admin.replace(secret.trim(), token))?;
        Ok(path)
    }

    async fn speaker(&self, name: &str, token: &str) -> Result<Speaker> {
        let path = self.kubeconfig(name, token)?;
        let kubeconfig = Kubeconfig::read_from(path)?;
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Speaker(kube::Client::try_from(config)?))
    }

    /// A pod that was bound to a node.
    async fn pod(&self, name: &str, node: &str, account: &str, label: &str) -> Result<Value> {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": { "app.kubernetes.io/name": label } },
            "spec": {
                "nodeName": node, "serviceAccountName": account, "hostNetwork": true,
                // Of 1.20 such a one would wait until the account has a token of its own.
                "automountServiceAccountToken": false,
                "containers": [{ "name": "c", "image": "i" }],
            },
        });
        self.api.create(PODS, &pod).await
    }
}

/// Somebody with a token.
struct Speaker(kube::Client);

impl Speaker {
    /// What the API server answers: the object, or code and message.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Result<Value, (u16, String)>> {
        let kind = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind);
        let request = request.body(serde_json::to_vec(body)?)?;
        match self.0.request::<Value>(request).await {
            Ok(value) => Ok(Ok(value)),
            Err(kube::Error::Api(status)) => Ok(Err((status.code, status.message.clone()))),
            Err(error) => Err(error).with_context(|| format!("{method} {path}")),
        }
    }
}

struct Operator(Child);

impl Operator {
    /// Asked to end, as by a kubelet, it does.
    async fn end(&mut self) -> Result<()> {
        let id = self.0.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status()?;
        ensure!(asked.success(), "kill -TERM {id}");
        let child = RefCell::new(&mut self.0);
        wait_for("the operator ends", PATIENCE, async || {
            Ok(child.borrow_mut().try_wait()?.is_some())
        })
        .await?;
        Ok(())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn start_operator(address: &str, kubeconfig: &Path, socket: &Path, log: &Path) -> Result<Operator> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)?;
    let child = Command::new(bin_dir().join("tombolo-operator"))
        .env("KUBECONFIG", kubeconfig)
        .args(["--cloud=sim", "--cluster=identity", "--resync=1s"])
        .arg(format!("--cloud-endpoint=unix:{}", socket.display()))
        .arg(format!("--metrics-listen={address}:9811"))
        .arg(format!("--webhook-listen={address}:9443"))
        .arg(format!("--identity=at-{address}"))
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start the operator")?;
    Ok(Operator(child))
}

fn endpoint(node: &str, label: &str) -> Value {
    json!({
        "apiVersion": "tombolo.dev/v1alpha1", "kind": "PodEndpoint",
        "metadata": { "name": format!("of-{node}"), "labels": { "tombolo.dev/node": label } },
        "spec": {
            "node": node, "pod": "p", "podUid": "1", "network": "tombolo", "containerId": "c", "ifname": "eth0",
            "hostIfname": "tmb0", "state": "Ready",
        },
    })
}

fn ready(status: &str) -> Value {
    json!({ "status": { "agent": { "nics": 1 }, "conditions": [{
        "type": "Ready", "status": status, "reason": "Said", "message": "by a test",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }] } })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a real kube-apiserver: scripts/api-suite.sh"]
async fn an_agent_writes_the_objects_of_its_own_node_only() {
    let log = tempfile::tempdir().unwrap();
    let log = log.path().join("operator.log");
    if let Err(error) = identities(&log).await {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        panic!("{error:?}\n--- operators\n{said}");
    }
}

async fn identities(log: &Path) -> Result<()> {
    let state = tempfile::tempdir()?;
    let vpc = Server::start(Options {
        lab: "identity".to_owned(),
        state: state.path().to_owned(),
        config: Config::default(),
        fabric: false,
    })
    .await?;
    let cluster = ControlPlane::start()?;
    let api = &cluster.api;
    for node in NODES {
        let run = RunInstance {
            name: node.to_owned(),
            instance_type: "t3.medium".to_owned(),
            subnet: "subnet-a".to_owned(),
            netns: None,
        };
        let instance = vpc.client().lab(&run).await?;
        let taints =
            [TAINT, "somebody.else/taint"].map(|key| json!({ "key": key, "effect": "NoSchedule" }));
        let id = format!("sim:///{}/{}", instance.zone, instance.id);
        let body = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": node },
            "spec": { "providerID": id, "taints": taints },
        });
        api.create("/api/v1/nodes", &body).await?;
    }
    let mut agents = Vec::new();
    for node in NODES {
        let pod = cluster
            .pod(
                &format!("agent-{node}"),
                node,
                "tombolo-agent",
                "tombolo-agent",
            )
            .await?;
        let token = cluster.token("tombolo-agent", Some(&pod)).await?;
        agents.push(cluster.speaker(node, &token).await?);
    }
    let unbound = cluster.token("tombolo-agent", None).await?;
    let unbound = cluster.speaker("unbound", &unbound).await?;
    let [a, b] = &agents[..] else { unreachable!() };

    let endpoints = format!("{GROUP}/namespaces/default/podendpoints");
    let (own, other) = (endpoint(NODES[0], NODES[0]), endpoint(NODES[1], NODES[1]));
    let closed = a.ask("POST", &endpoints, &own).await?;
    let (code, message) = closed.err().context("written without a webhook")?;
    ensure!(
        code == 500 && message.contains("identity.tombolo.dev"),
        "{code} {message}"
    );

    let token = cluster.token("tombolo-operator", None).await?;
    let kubeconfig = cluster.kubeconfig("operator", &token)?;
    let socket = vpc.client().socket().to_owned();
    let mut operators = Vec::new();
    for (address, node) in REPLICAS.into_iter().zip(NODES) {
        operators.push(start_operator(address, &kubeconfig, &socket, log)?);
        // What a kubelet would say, and what the Service goes by.
        let name = format!("operator-{node}");
        cluster
            .pod(&name, node, "tombolo-operator", "tombolo-operator")
            .await?;
        let status = json!({ "status": {
            "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        } });
        api.merge(&format!("{PODS}/{name}/status"), &status).await?;
    }
    wait_for("both replicas in the Service", PATIENCE, async || {
        let found = api
            .find("/api/v1/namespaces/kube-system/endpoints/tombolo-webhook")
            .await?;
        let addresses = found
            .as_ref()
            .and_then(|found| found.pointer("/subsets/0/addresses"));
        Ok(addresses
            .and_then(Value::as_array)
            .is_some_and(|all| all.len() == 2))
    })
    .await?;
    wait_for("both replicas ready", PATIENCE, async || {
        let mut ready = 0;
        for address in REPLICAS {
            let url = Api::new(&format!("http://{address}:9811"))?;
            ready += usize::from(url.text("/readyz").await.is_ok());
        }
        Ok(ready == 2)
    })
    .await?;
    wait_for("the NetResourceSets", PATIENCE, async || {
        Ok(api.list(&format!("{GROUP}/netresourcesets")).await?.len() == 2)
    })
    .await?;

    // Own ones pass.
    let done = |what: &str, answer: Result<Value, (u16, String)>| {
        answer.map_err(|(code, message)| anyhow::anyhow!("{what}: {code} {message}"))
    };
    done("own PodEndpoint", a.ask("POST", &endpoints, &own).await?)?;
    done("the other's", b.ask("POST", &endpoints, &other).await?)?;
    let set = |node: &str| format!("{GROUP}/netresourcesets/{node}/status");
    let of = |node: &str| format!("{endpoints}/of-{node}");
    let changed = json!({ "spec": { "state": "Removing" } });
    done("own patch", a.ask("PATCH", &of(NODES[0]), &changed).await?)?;
    done(
        "own status",
        a.ask("PATCH", &set(NODES[0]), &ready("True")).await?,
    )?;

    // All else does not.
    let stolen = json!({ "metadata": { "labels": { "tombolo.dev/node": NODES[0] } }, "spec": { "node": NODES[0] } });
    let given = json!({ "metadata": { "labels": { "tombolo.dev/node": NODES[1] } }, "spec": { "node": NODES[1] } });
    let mut third = endpoint(NODES[1], NODES[1]);
    third["metadata"]["name"] = json!("third");
    let mut lying = endpoint(NODES[0], NODES[1]);
    lying["metadata"]["name"] = json!("lying");
    let node = |name: &str| format!("/api/v1/nodes/{name}");
    let untaint = json!({ "spec": { "taints": null } });
    let delete = json!({});
    let own_set = format!("{GROUP}/netresourcesets/{}", NODES[0]);
    for (who, what, method, path, body, why) in [
        (
            a,
            "the other's status",
            "PATCH",
            set(NODES[1]),
            &ready("False"),
            "the agent of node node-a",
        ),
        (
            a,
            "create the other's",
            "POST",
            endpoints.clone(),
            &third,
            "the agent of node node-a",
        ),
        (
            a,
            "patch the other's",
            "PATCH",
            of(NODES[1]),
            &changed,
            "the agent of node node-a",
        ),
        (
            a,
            "delete the other's",
            "DELETE",
            of(NODES[1]),
            &delete,
            "the agent of node node-a",
        ),
        (
            a,
            "take the other's",
            "PATCH",
            of(NODES[1]),
            &stolen,
            "spec.node: ",
        ),
        (
            a,
            "give its own away",
            "PATCH",
            of(NODES[0]),
            &given,
            "spec.node: ",
        ),
        (
            a,
            "lie in the label",
            "POST",
            endpoints.clone(),
            &lying,
            "metadata.labels[tombolo.dev/node]: ",
        ),
        (
            &unbound,
            "without a pod",
            "PATCH",
            set(NODES[0]),
            &ready("False"),
            "not bound to a pod",
        ),
        (
            &unbound,
            "without a pod",
            "DELETE",
            of(NODES[0]),
            &delete,
            "not bound to a pod",
        ),
        (
            a,
            "its own spec",
            "PATCH",
            own_set,
            &json!({ "spec": { "release": [] } }),
            "cannot patch resource",
        ),
        (
            a,
            "its own Node",
            "PATCH",
            node(NODES[0]),
            &untaint,
            "cannot patch resource",
        ),
        (
            a,
            "its own Node's status",
            "PATCH",
            format!("{}/status", node(NODES[0])),
            &delete,
            "cannot patch resource",
        ),
        (
            a,
            "the Secret",
            "GET",
            "/api/v1/namespaces/kube-system/secrets/tombolo-webhook".to_owned(),
            &delete,
            "cannot get",
        ),
    ] {
        let answer = who.ask(method, &path, body).await?;
        let (code, message) = answer
            .err()
            .with_context(|| format!("{what}: was allowed"))?;
        ensure!(
            code == 403 && message.contains(why),
            "{what}: {code} {message}"
        );
    }
    let untouched = api.get(&of(NODES[1])).await?;
    ensure!(text(&untouched, "/spec/state") == "Ready", "{untouched}");

    // The operator tells the Node what its agent said: this one alone.
    let tells = |node: &Value| {
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        let ours = conditions
            .into_iter()
            .flatten()
            .find(|c| c["type"] == "NetworkUnavailable");
        let taints = node.pointer("/spec/taints").and_then(Value::as_array);
        let keys: Vec<String> = taints
            .into_iter()
            .flatten()
            .map(|t| text(t, "/key"))
            .collect();
        (ours.map(|c| text(c, "/status")).unwrap_or_default(), keys)
    };
    wait_for("node-a's taint goes", PATIENCE, async || {
        let (status, taints) = tells(&api.get(&node(NODES[0])).await?);
        Ok(status == "False"
            && !taints.contains(&TAINT.to_owned())
            && taints.contains(&"somebody.else/taint".to_owned()))
    })
    .await?;
    wait_for("node-b is told of", PATIENCE, async || {
        let (status, taints) = tells(&api.get(&node(NODES[1])).await?);
        Ok(status == "True" && taints.contains(&TAINT.to_owned()))
    })
    .await?;
    done(
        "own failure",
        a.ask("PATCH", &set(NODES[0]), &ready("False")).await?,
    )?;
    wait_for("node-a is told of", PATIENCE, async || {
        Ok(tells(&api.get(&node(NODES[0])).await?).0 == "True")
    })
    .await?;

    // The certificate goes: it is made anew, and nobody was refused meanwhile.
    let secret = "/api/v1/namespaces/kube-system/secrets/tombolo-webhook";
    let before = text(&api.get(secret).await?, "/data/tls.crt");
    api.merge(
        secret,
        &json!({ "data": { "renew-after": "MjAyMC0wMS0wMVQwMDowMDowMFo=" } }),
    )
    .await?;
    let turn = Cell::new(0);
    wait_for("a new certificate, served by both", PATIENCE, async || {
        turn.set(turn.get() + 1);
        let note = json!({ "status": { "agent": { "used": turn.get() } } });
        done(
            "while it is renewed",
            a.ask("PATCH", &set(NODES[0]), &note).await?,
        )?;
        let said = std::fs::read_to_string(log)?;
        let serves = said.matches("the webhook serves").count();
        Ok(serves == 4 && text(&api.get(secret).await?, "/data/tls.crt") != before)
    })
    .await?;
    done(
        "after it",
        a.ask("PATCH", &set(NODES[0]), &ready("True")).await?,
    )?;

    // One replica is enough, none is too few.
    let mut other = operators.pop().context("the other one")?;
    other.end().await?;
    let gone = format!("{PODS}/operator-{}", NODES[1]);
    api.merge(
        &format!("{gone}/status"),
        &json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
    )
    .await?;
    wait_for("one is enough", PATIENCE, async || {
        Ok(a.ask(
            "PATCH",
            &of(NODES[0]),
            &json!({ "spec": { "state": "Ready" } }),
        )
        .await?
        .is_ok())
    })
    .await?;
    for mut last in operators {
        last.end().await?;
    }
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/tombolo-operator";
    let holder = text(&api.get(lease).await?, "/spec/holderIdentity");
    ensure!(holder.is_empty(), "{holder} has the lease");
    let closed = a.ask("DELETE", &of(NODES[0]), &delete).await?;
    let (code, message) = closed.err().context("written without a webhook")?;
    ensure!(
        code == 500 && message.contains("identity.tombolo.dev"),
        "{code} {message}"
    );
    drop(cluster);
    Ok(vpc.shutdown().await?)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a real kube-apiserver: scripts/api-suite.sh"]
async fn invalid_objects_are_refused_with_the_field_that_is_wrong() {
    refusals().await.unwrap();
}

async fn refusals() -> Result<()> {
    let cluster = ControlPlane::start()?;
    let token = std::fs::read_to_string(cluster.dir.join("admin.token"))?;
    let admin = cluster.speaker("admin2", token.trim()).await?;
    let profile = |spec: Value| {
        let body = json!({
            "apiVersion": "tombolo.dev/v1alpha1", "kind": "NetworkProfile", "metadata": { "name": "p" }, "spec": spec,
        });
        (format!("{GROUP}/networkprofiles"), body)
    };
    let mut wrong_state = endpoint("a", "a");
    wrong_state["spec"]["state"] = json!("Sleeping");
    let mut no_node = endpoint("a", "a");
    no_node["spec"]["node"].take();
    let pep = |body: Value| (format!("{GROUP}/namespaces/default/podendpoints"), body);
    let eni = |index: i64| {
        let body = json!({
            "apiVersion": "tombolo.dev/v1alpha1", "kind": "Eni", "metadata": { "name": "e" },
            "spec": { "node": "n", "instanceId": "i", "deviceIndex": index, "subnet": "s" },
        });
        (format!("{GROUP}/enis"), body)
    };
    let set = json!({
        "apiVersion": "tombolo.dev/v1alpha1", "kind": "NetResourceSet", "metadata": { "name": "n" },
        "spec": { "instanceId": "i" },
    });
    for ((path, body), field) in [
        (profile(json!({ "mtu": 575 })), "spec.mtu"),
        (profile(json!({ "mtu": 9501 })), "spec.mtu"),
        (profile(json!({ "mtu": "big" })), "spec.mtu"),
        (profile(json!({ "ipFamilies": "both" })), "spec.ipFamilies"),
        (
            profile(json!({ "attachment": "pigeon" })),
            "spec.attachment",
        ),
        (
            profile(json!({ "pool": { "warmMax": 10001 } })),
            "spec.pool.warmMax",
        ),
        (
            profile(json!({ "pool": { "warmMin": -1 } })),
            "spec.pool.warmMin",
        ),
        (
            profile(json!({ "pool": { "waitSeconds": 101 } })),
            "spec.pool.waitSeconds",
        ),
        (
            profile(json!({ "pool": { "coolingSeconds": 3601 } })),
            "spec.pool.coolingSeconds",
        ),
        (
            profile(json!({ "snat": { "exclude": ["fd00::/8"] } })),
            "spec.snat.exclude",
        ),
        (
            profile(json!({ "subnets": { "ids": [""] } })),
            "spec.subnets.ids",
        ),
        (
            profile(json!({ "securityGroups": [""] })),
            "spec.securityGroups",
        ),
        (
            profile(json!({ "securityGroups": vec!["sg"; 17] })),
            "spec.securityGroups",
        ),
        (
            profile(json!({ "nodeSelector": { "a": 1 } })),
            "spec.nodeSelector",
        ),
        (pep(wrong_state), "spec.state"),
        (pep(no_node), "spec.node"),
        (eni(-1), "spec.deviceIndex"),
        (eni(1000), "spec.deviceIndex"),
        ((format!("{GROUP}/netresourcesets"), set), "spec.limits"),
    ] {
        let answer = admin.ask("POST", &path, &body).await?;
        let (code, message) = answer.err().with_context(|| format!("{body}: was taken"))?;
        // A PodEndpoint is judged by its schema before the webhook is asked.
        ensure!(
            code == 422 && message.contains(field),
            "{body}: {code} {message}"
        );
    }
    Ok(())
}
