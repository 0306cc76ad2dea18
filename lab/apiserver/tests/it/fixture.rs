//! A server, a client and a namespace for one test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tombolo_lab_apiserver::{Args, Server};

use crate::client::Client;

static COUNT: AtomicU32 = AtomicU32::new(0);
/// One real server for all tests of this program. It ends when its standard input does, which is when this process ends.
static REAL: OnceLock<Real> = OnceLock::new();

struct Real {
    url: String,
    _script: Child,
}

impl Real {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/api-server.sh");
        let mut script = Command::new(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = script.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let port = line.split_whitespace().nth(1).expect("a ready line");
        Self {
            url: format!("http://127.0.0.1:{port}"),
            _script: script,
        }
    }
}

/// Whether the tests of the API itself run against a real kube-apiserver.
pub fn is_real() -> bool {
    std::env::var_os("KUBE_BIN_DIR").is_some()
}

/// Whether the server refuses what 1.20 does, and as it does: that one itself, and ours. Later ones take empty texts.
pub async fn is_like_1_20(client: &Client) -> bool {
    !is_real() || client.minor().await == 20
}

pub struct Fixture {
    pub client: Client,
    /// A namespace of this test alone.
    pub ns: String,
    _server: Option<Server>,
}

impl Fixture {
    /// The server under test: ours, or the real one.
    pub async fn new() -> Self {
        if is_real() {
            Self::at(&REAL.get_or_init(Real::start).url, None).await
        } else {
            Self::local(Args::default()).await
        }
    }

    /// Our server with these arguments.
    pub async fn local(args: Args) -> Self {
        let server = Server::start(&args).unwrap();
        let url = server.url();
        Self::at(&url, Some(server)).await
    }

    async fn at(url: &str, server: Option<Server>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let fixture = Self {
            client: Client::new(url),
            ns: format!("t{:x}-{count}", now.as_millis()),
            _server: server,
        };
        let body =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": fixture.ns}});
        let made = fixture.client.post("/api/v1/namespaces", &body).await;
        made.expect(201);
        if fixture._server.is_none() {
            // A real server refuses pods before this account exists and, up to 1.23, has its token.
            let has_tokens = fixture.client.minor().await < 24;
            let path = format!("/api/v1/namespaces/{}/serviceaccounts", fixture.ns);
            let mut watch = fixture.client.watch(&path).await;
            while watch.event().await.1.pointer("/secrets/0").is_none() && has_tokens {}
        }
        fixture
    }

    /// Path of a collection of the core group in this namespace.
    pub fn core(&self, plural: &str) -> String {
        format!("/api/v1/namespaces/{}/{plural}", self.ns)
    }

    pub fn maps(&self) -> String {
        self.core("configmaps")
    }

    /// Creates a ConfigMap.
    pub async fn map(&self, name: &str, metadata: Value) -> Value {
        let mut body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"k": "v"}});
        body["metadata"]["name"] = json!(name);
        self.client.post(&self.maps(), &body).await.expect(201)
    }

    /// Short name of this test's kind; tests share a cluster's names.
    pub fn short(&self) -> String {
        format!("th-{}", self.ns)
    }

    /// Category of this test's kind.
    pub fn category(&self) -> String {
        format!("lab-{}", self.ns)
    }

    /// Serves a namespaced kind of this test's own and returns the path of its collection here.
    pub async fn define(&self, schema: Value, more: Value) -> String {
        let group = format!("{}.lab.tombolo.dev", self.ns);
        let mut version = json!({
            "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            version[key] = value.clone();
        }
        let body = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("things.{group}")},
            "spec": {
                "group": group, "scope": "Namespaced", "versions": [version],
                "names": {"plural": "things", "kind": "Thing", "shortNames": [self.short()], "categories": [self.category()]},
            },
        });
        let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        self.client.post(definitions, &body).await.expect(201);
        let path = format!("/apis/{group}/v1/namespaces/{}/things", self.ns);
        // A real server serves a kind some time after its definition; nothing can be watched for that.
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..600 {
            if self.client.get(&path).await.code == 200 {
                return path;
            }
            tick.tick().await;
        }
        panic!("{path} is not served");
    }

    /// Body of a Thing.
    pub fn thing(&self, name: &str, spec: Value) -> Value {
        json!({
            "apiVersion": format!("{}.lab.tombolo.dev/v1", self.ns), "kind": "Thing",
            "metadata": {"name": name}, "spec": spec,
        })
    }
}

/// A schema with an open spec and status.
pub fn open_schema() -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({"type": "object", "properties": {"spec": open, "status": open}})
}

/// Body of a pod.
pub fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

/// `metadata.resourceVersion`.
pub fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

/// Names in a list.
pub fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["metadata"]["name"].as_str().unwrap())
        .collect()
}
