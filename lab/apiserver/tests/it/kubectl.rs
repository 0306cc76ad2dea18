//! kubectl from PATH (or `TOMBOLO_TEST_KUBECTL`) against the server: create, get, describe, change, watch, delete.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::fixture::Fixture;

struct Kubectl {
    program: PathBuf,
    f: Fixture,
    dir: tempfile::TempDir,
}

impl Kubectl {
    /// `None`, said aloud, where there is no kubectl.
    async fn new(test: &str) -> Option<Self> {
        let named = std::env::var_os("TOMBOLO_TEST_KUBECTL").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = named.or_else(|| {
            std::env::split_paths(&path)
                .map(|dir| dir.join("kubectl"))
                .find(|p| p.is_file())
        });
        let Some(program) = found else {
            assert!(std::env::var("CI").is_err(), "kubectl is not installed");
            println!("SKIP {test}: no kubectl in PATH");
            return None;
        };
        let k = Self {
            program,
            f: Fixture::new().await,
            dir: tempfile::tempdir().unwrap(),
        };
        k.file(
            "config",
            "apiVersion: v1
kind: Config
",
        );
        Some(k)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["-s", &self.f.client.url, "-n", &self.f.ns])
            .args(args)
            // Neither this user's configuration nor cache has a say.
            .env("HOME", self.dir.path())
            .env("KUBECONFIG", self.dir.path().join("config"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str]) -> (bool, String) {
        let output = self.command(args).output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.success(), text)
    }

    /// Output of a command that must succeed.
    async fn ok(&self, args: &[&str]) -> String {
        let (fine, text) = self.run(args).await;
        assert!(fine, "kubectl {args:?}: {text}");
        text
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// First words of the lines of a table.
fn column(text: &str, at: usize) -> Vec<&str> {
    text.lines()
        .filter_map(|l| l.split_whitespace().nth(at))
        .collect()
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: no-such-node
  containers: [{name: c, image: busybox, command: [sleep, \"1000\"]}]
";

#[tokio::test]
async fn pods_from_creation_to_deletion() {
    let Some(k) = Kubectl::new("pods_from_creation_to_deletion").await else {
        return;
    };
    let file = k.file("pod.yaml", POD);
    let made = k.ok(&["create", "--validate=false", "-f", &file]).await;
    assert_eq!(made.trim(), "pod/web created");
    let (fine, again) = k.run(&["create", "--validate=false", "-f", &file]).await;
    assert!(!fine && again.contains("AlreadyExists"), "{again}");
    let table = k.ok(&["get", "pods"]).await;
    let heading: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heading, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    assert_eq!(column(&table, 0), ["NAME", "web"]);
    assert_eq!(column(&table, 2), ["STATUS", "Pending"]);
    let wide = k.ok(&["get", "pods", "-o", "wide"]).await;
    assert!(
        wide.contains("NODE") && wide.contains("no-such-node"),
        "{wide}"
    );
    assert!(
        k.ok(&["get", "pod", "web", "-o", "yaml"])
            .await
            .contains("image: busybox")
    );
    assert!(
        k.ok(&["get", "po/web", "-o", "json"])
            .await
            .contains("\"phase\": \"Pending\"")
    );
    let described = k.ok(&["describe", "pod", "web"]).await;
    assert!(
        described.contains("Name:") && described.contains("Events:"),
        "{described}"
    );
    k.ok(&["label", "pod", "web", "tier=front"]).await;
    k.ok(&["annotate", "pod", "web", "note=x"]).await;
    assert_eq!(
        column(&k.ok(&["get", "pods", "-l", "tier=front"]).await, 0),
        ["NAME", "web"]
    );
    let (_, none) = k.run(&["get", "pods", "-l", "tier=back"]).await;
    assert!(none.contains("No resources found"), "{none}");
    k.ok(&["delete", "pod", "web", "--wait=false"]).await;
    assert_eq!(
        column(&k.ok(&["get", "pods"]).await, 2),
        ["STATUS", "Terminating"]
    );
    k.ok(&["delete", "pod", "web", "--grace-period=0", "--force"])
        .await;
    let (fine, gone) = k.run(&["get", "pod", "web"]).await;
    assert!(!fine && gone.contains("pods \"web\" not found"), "{gone}");
}

#[tokio::test]
async fn deletion_waits_for_the_end() {
    let Some(k) = Kubectl::new("deletion_waits_for_the_end").await else {
        return;
    };
    k.f.map("held", json!({"finalizers": ["lab.tombolo.dev/hold"]}))
        .await;
    let mut delete = k
        .command(&["delete", "configmap", "held", "--timeout=60s"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut watch = k.f.client.watch(&k.f.maps()).await;
    loop {
        let (_, object) = watch.event().await;
        if object["metadata"]["name"] == "held"
            && object["metadata"]["deletionTimestamp"].is_string()
        {
            break;
        }
    }
    assert!(delete.try_wait().unwrap().is_none(), "it waits");
    let release = json!({"metadata": {"finalizers": null}});
    let path = format!("{}/held", k.f.maps());
    k.f.client
        .patch(&path, crate::client::MERGE, &release)
        .await
        .expect(200);
    assert!(delete.wait().await.unwrap().success());
}

#[tokio::test]
async fn custom_resources_by_short_name() {
    let Some(k) = Kubectl::new("custom_resources_by_short_name").await else {
        return;
    };
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "node": {"type": "string"}, "index": {"type": "integer", "minimum": 0}}}}});
    let columns = json!({"additionalPrinterColumns": [
        {"name": "Node", "type": "string", "jsonPath": ".spec.node"},
        {"name": "Index", "type": "integer", "jsonPath": ".spec.index", "priority": 1},
    ]});
    k.f.define(schema, columns).await;
    let (short, category) = (k.f.short(), k.f.category());
    let full = format!("things.{}.lab.tombolo.dev", k.f.ns);
    let (short, category) = (short.as_str(), category.as_str());
    let file = k.file(
        "thing.json",
        &k.f.thing("a", json!({"node": "n1", "index": 2}))
            .to_string(),
    );
    k.ok(&["create", "--validate=false", "-f", &file]).await;
    let table = k.ok(&["get", short]).await;
    assert_eq!(column(&table, 1), ["NODE", "n1"]);
    assert!(!table.contains("INDEX"));
    assert_eq!(
        column(&k.ok(&["get", &full, "-o", "wide"]).await, 2),
        ["INDEX", "2"]
    );
    assert_eq!(column(&k.ok(&["get", category]).await, 0), ["NAME", "a"]);
    assert!(k.ok(&["describe", short, "a"]).await.contains("n1"));
    k.ok(&[
        "patch",
        short,
        "a",
        "--type=merge",
        "-p",
        r#"{"spec":{"index":3}}"#,
    ])
    .await;
    let (fine, refused) = k
        .run(&[
            "patch",
            short,
            "a",
            "--type=merge",
            "-p",
            r#"{"spec":{"index":-1}}"#,
        ])
        .await;
    assert!(!fine && refused.contains("spec.index"), "{refused}");
    k.ok(&["label", short, "a", "x=y"]).await;
    assert_eq!(
        k.ok(&[
            "get",
            short,
            "a",
            "-o",
            "jsonpath={.spec.index}{.metadata.labels.x}"
        ])
        .await,
        "3y"
    );
    k.ok(&["delete", short, "a"]).await;
    let (_, none) = k.run(&["get", short]).await;
    assert!(none.contains("No resources found"), "{none}");
}

#[tokio::test]
async fn nodes_are_tainted_and_cordoned() {
    let Some(k) = Kubectl::new("nodes_are_tainted_and_cordoned").await else {
        return;
    };
    let node = format!("node-{}", k.f.ns);
    let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}});
    k.f.client.post("/api/v1/nodes", &body).await.expect(201);
    k.ok(&["taint", "node", &node, "k=v:NoSchedule"]).await;
    k.ok(&["cordon", &node]).await;
    let path = format!("/api/v1/nodes/{node}");
    let got = k.f.client.get(&path).await.expect(200);
    let taints = got["spec"]["taints"].as_array().unwrap();
    assert!(
        taints.contains(&json!({"key": "k", "value": "v", "effect": "NoSchedule"})),
        "{got}"
    );
    assert!(k.ok(&["get", "nodes"]).await.contains("SchedulingDisabled"));
    k.ok(&["uncordon", &node]).await;
    k.ok(&["taint", "node", &node, "k-"]).await;
    assert!(k.ok(&["describe", "node", &node]).await.contains(&node));
    k.ok(&["delete", "node", &node]).await;
}

#[tokio::test]
async fn a_watch_prints_changes() {
    let Some(k) = Kubectl::new("a_watch_prints_changes").await else {
        return;
    };
    k.f.map("a", json!({"labels": {"mine": "1"}})).await;
    let mut child = k
        .command(&["get", "configmaps", "-l", "mine", "-w", "--no-headers"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || lines.next_line().await.unwrap().unwrap();
    assert!(next().await.starts_with("a "));
    k.f.map("b", json!({"labels": {"mine": "1"}})).await;
    assert!(next().await.starts_with("b "));
    let path = format!("{}/b", k.f.maps());
    k.f.client
        .patch(&path, crate::client::MERGE, &json!({"data": {"x": "y"}}))
        .await
        .expect(200);
    let line = next().await;
    assert_eq!(
        line.split_whitespace().take(2).collect::<Vec<_>>(),
        ["b", "2"]
    );
    child.kill().await.unwrap();
}
