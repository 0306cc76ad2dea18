//! What only the lab's server has: a short history, faults, counters, manifests, the scheduler, sockets in other namespaces.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tombolo_lab_apiserver::{Args, InNamespace, Server};

use crate::client::{Client, MERGE};
use crate::fixture::{Fixture, names, open_schema, pod, version};

#[tokio::test]
async fn a_version_older_than_the_history_is_expired() {
    let f = Fixture::local(Args {
        history: 4,
        ..Args::default()
    })
    .await;
    let made = f.map("a", json!({})).await;
    let first = f
        .client
        .get(&format!("{}?limit=1", f.maps()))
        .await
        .expect(200);
    for i in 0..3 {
        f.map(&format!("b{i}"), json!({})).await;
    }
    // Still reached.
    let mut watch = f
        .client
        .watch(&format!("{}?resourceVersion={}", f.maps(), version(&made)))
        .await;
    assert_eq!(watch.brief().await, "ADDED b0");
    let page = f
        .client
        .get(&format!("{}?limit=1", f.maps()))
        .await
        .expect(200);
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    for i in 0..6 {
        f.map(&format!("c{i}"), json!({})).await;
    }
    let mut watch = f
        .client
        .watch(&format!("{}?resourceVersion={}", f.maps(), version(&made)))
        .await;
    let (kind, status) = watch.event().await;
    assert_eq!(kind, "ERROR");
    assert_eq!(
        (&status["code"], &status["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert!(watch.next().await.is_none());
    f.client
        .get(&format!("{}?limit=1&continue={token}", f.maps()))
        .await
        .fails(410, "Expired");
    let exact = format!(
        "{}?resourceVersion={}&resourceVersionMatch=Exact",
        f.maps(),
        version(&first)
    );
    f.client.get(&exact).await.fails(410, "Expired");
    // A version that this server has not made is as good as one it forgot.
    let mut watch = f
        .client
        .watch(&format!("{}?resourceVersion=9999999999999999", f.maps()))
        .await;
    assert_eq!(watch.event().await.0, "ERROR");
    let future = f
        .client
        .get(&format!("{}?resourceVersion=9999999999999999", f.maps()))
        .await;
    future.fails(504, "Timeout");
}

#[tokio::test]
async fn a_watch_of_a_quiet_kind_does_not_expire() {
    let f = Fixture::local(Args {
        history: 4,
        ..Args::default()
    })
    .await;
    let quiet = f.core("secrets");
    let list = f.client.get(&quiet).await.expect(200);
    for i in 0..20 {
        f.map(&format!("a{i}"), json!({})).await;
    }
    let mut watch = f
        .client
        .watch(&format!("{quiet}?resourceVersion={}", version(&list)))
        .await;
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    f.client.post(&quiet, &secret).await.expect(201);
    assert_eq!(watch.brief().await, "ADDED s");
}

#[tokio::test]
async fn bookmarks_come_at_their_interval() {
    let f = Fixture::local(Args {
        bookmark_seconds: 1,
        ..Args::default()
    })
    .await;
    let list = f.client.get(&f.maps()).await.expect(200);
    let query = format!(
        "{}?allowWatchBookmarks=true&resourceVersion={}",
        f.maps(),
        version(&list)
    );
    let mut watch = f.client.watch(&query).await;
    let pods = f.core("pods");
    f.client.post(&pods, &pod("p", json!({}))).await.expect(201);
    let (kind, object) = watch.event().await;
    assert_eq!(kind, "BOOKMARK");
    // It tells of versions that other kinds made.
    let number = |o: &Value| version(o).parse::<u64>().unwrap();
    assert!(number(&object) > number(&list));
}

#[tokio::test]
async fn calls_are_counted() {
    let f = Fixture::local(Args::default()).await;
    f.client.delete("/lab/v1/calls", None).await.expect(200);
    f.map("a", json!({})).await;
    f.client.get(&f.maps()).await.expect(200);
    f.client.get(&format!("{}/a", f.maps())).await.expect(200);
    f.client.get(&format!("{}/b", f.maps())).await.expect(404);
    f.client
        .post(&f.core("pods"), &pod("p", json!({})))
        .await
        .expect(201);
    let patch = json!({"status": {"phase": "Running"}});
    f.client
        .patch(&format!("{}/p/status", f.core("pods")), MERGE, &patch)
        .await
        .expect(200);
    let report = f.client.get("/lab/v1/calls").await.expect(200);
    let count = |verb: &str, resource: &str| {
        let calls = report["calls"].as_array().unwrap();
        let found = calls
            .iter()
            .find(|c| c["verb"] == verb && c["resource"] == resource);
        found.map_or(0, |c| {
            assert_eq!(c["userAgent"], "suite/1");
            c["count"].as_u64().unwrap()
        })
    };
    assert_eq!(count("create", "configmaps"), 1);
    assert_eq!(count("list", "configmaps"), 1);
    assert_eq!(count("get", "configmaps"), 2);
    assert_eq!(count("patch", "pods/status"), 1);
    assert_eq!(report["total"], 6);
}

#[tokio::test]
async fn a_pause_makes_it_unavailable() {
    let f = Fixture::local(Args::default()).await;
    let mut watch = f
        .client
        .watch(&format!("{}?labelSelector=none", f.maps()))
        .await;
    f.client
        .post("/lab/v1/pause?seconds=3600", &json!({}))
        .await
        .expect(200);
    assert!(watch.next().await.is_none(), "watches end");
    let refused = f.client.get(&f.maps()).await;
    assert_eq!(refused.headers["retry-after"], "1");
    refused.fails(503, "ServiceUnavailable");
    assert_eq!(f.client.get("/readyz").await.code, 503);
    f.client
        .post("/lab/v1/pause?seconds=0", &json!({}))
        .await
        .expect(200);
    f.client.get(&f.maps()).await.expect(200);
    f.client
        .post("/lab/v1/pause", &json!({}))
        .await
        .fails(400, "BadRequest");
}

#[tokio::test]
async fn manifests_are_loaded_definitions_first() {
    let dir = tempfile::tempdir().unwrap();
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boxes.x.io"},
        "spec": {
            "group": "x.io", "scope": "Cluster", "names": {"plural": "boxes", "kind": "Box"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": open_schema()}}],
        },
    });
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "a.yaml",
        "apiVersion: x.io/v1\nkind: Box\nmetadata: {name: one}\n---\n---\napiVersion: x.io/v1\nkind: Box\nmetadata: {name: two}\n",
    );
    write("b.json", &definition.to_string());
    write("ignored.txt", "not yaml: [");
    let args = Args {
        load: vec![dir.path().to_owned()],
        ..Args::default()
    };
    let f = Fixture::local(args.clone()).await;
    let list = f.client.get("/apis/x.io/v1/boxes").await.expect(200);
    assert_eq!(names(&list), ["one", "two"]);
    write(
        "c.yaml",
        "apiVersion: y.io/v1\nkind: Unknown\nmetadata: {name: x}\n",
    );
    let error = format!("{:#}", Server::start(&args).unwrap_err());
    assert!(
        error.contains("c.yaml") && error.contains("Unknown"),
        "{error}"
    );
}

#[tokio::test]
async fn pods_are_bound_to_nodes() {
    let f = Fixture::local(Args {
        scheduler: true,
        ..Args::default()
    })
    .await;
    let pods = f.core("pods");
    let mut watch = f.client.watch(&pods).await;
    f.client.post(&pods, &pod("p", json!({}))).await.expect(201);
    let unscheduled = loop {
        let (_, object) = watch.event().await;
        if object["status"]["conditions"].is_array() {
            break object;
        }
    };
    assert_eq!(
        unscheduled["status"]["conditions"][0]["message"],
        "0/0 nodes are available."
    );
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"pods": "1"}},
    });
    f.client.post("/api/v1/nodes", &node).await.expect(201);
    let bound = watch.until("MODIFIED", "p").await;
    assert_eq!(bound["spec"]["nodeName"], "n");
    f.client.post(&pods, &pod("q", json!({}))).await.expect(201);
    let full = watch.until("MODIFIED", "q").await;
    assert_eq!(
        full["status"]["conditions"][0]["message"],
        "0/1 nodes are available: 1 Too many pods."
    );
    // Room again.
    let now = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
    f.client
        .delete(&format!("{pods}/p"), Some(&now))
        .await
        .expect(200);
    let bound = watch.until("MODIFIED", "q").await;
    assert_eq!(bound["spec"]["nodeName"], "n");
}

#[tokio::test]
async fn bindings_by_hand() {
    let f = Fixture::local(Args::default()).await;
    let pods = f.core("pods");
    f.client.post(&pods, &pod("p", json!({}))).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    let path = format!("{pods}/p/binding");
    f.client.post(&path, &binding).await.expect(201);
    let bound = f.client.get(&format!("{pods}/p")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n");
    f.client.post(&path, &binding).await.fails(409, "Conflict");
}

#[tokio::test]
async fn it_stops_with_watches_open() {
    let server = Server::start(&Args::default()).unwrap();
    let client = Client::new(&server.url());
    let mut watch = client.watch("/api/v1/pods").await;
    server.stop().await;
    assert!(watch.next().await.is_none());
}

/// A network namespace that goes with the test.
struct Netns(String);

impl Netns {
    /// `None` where this process may not make one.
    fn new() -> Option<Self> {
        let name = format!("tst-apiserver-{}", std::process::id());
        let run = |args: &[&str]| Command::new("ip").args(args).output();
        let made = run(&["netns", "add", &name]).is_ok_and(|o| o.status.success());
        if !made {
            assert!(
                std::env::var("CI").is_err(),
                "cannot make a network namespace"
            );
            return None;
        }
        let netns = Self(name);
        let up = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", netns.0))
            .args(["ip", "link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        Some(netns)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[tokio::test]
async fn it_listens_in_another_namespace() {
    let Some(netns) = Netns::new() else {
        println!("SKIP it_listens_in_another_namespace: needs root and ip");
        return;
    };
    let path = Path::new("/run/netns").join(&netns.0);
    let place = |addr: &str| InNamespace {
        netns: path.clone(),
        addr: addr.parse().unwrap(),
    };
    let server = Server::start(&Args {
        listen_in: vec![place("127.0.0.1:0"), place("[::1]:0")],
        ..Args::default()
    })
    .unwrap();
    let [here, v4, v6]: [SocketAddr; 3] = server.addrs().try_into().unwrap();
    for (inside, addr) in [(false, here), (true, v4), (true, v6)] {
        // From here with this process's client, from there with a thread that goes there.
        let netns = inside.then(|| path.clone());
        assert_eq!(
            connects(addr, netns).await,
            Ok(()),
            "{addr} inside: {inside}"
        );
    }
    assert!(connects(v4, None).await.is_err(), "only inside");
    server.stop().await;
}

/// Whether something answers HTTP at an address, seen from this or another namespace.
async fn connects(addr: SocketAddr, netns: Option<std::path::PathBuf>) -> Result<(), String> {
    use std::io::{Read, Write};
    let look = move || {
        if let Some(netns) = netns {
            let file = std::fs::File::open(netns).unwrap();
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)
                .unwrap();
        }
        let wait = Duration::from_secs(10);
        let mut stream =
            std::net::TcpStream::connect_timeout(&addr, wait).map_err(|e| e.to_string())?;
        stream.set_read_timeout(Some(wait)).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .map_err(|e| e.to_string())?;
        answer.contains("200 OK").then_some(()).ok_or(answer)
    };
    // A thread of its own, because it changes its namespace.
    let thread = std::thread::spawn(look);
    tokio::task::spawn_blocking(|| thread.join().unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_restore_brings_back_objects_uids_and_versions() {
    let f = Fixture::local(Args::default()).await;
    f.client
        .post("/lab/v1/restore", &json!({}))
        .await
        .fails(400, "BadRequest");
    let kept = f.map("kept", json!({})).await;
    let lost = f.map("lost", json!({})).await;
    f.client
        .post("/lab/v1/backup", &json!({}))
        .await
        .expect(200);
    let path = format!("{}/kept", f.maps());
    let change = json!({"data": {"a": "2"}});
    f.client.patch(&path, MERGE, &change).await.expect(200);
    f.client
        .delete(&format!("{}/lost", f.maps()), None)
        .await
        .expect(200);
    let later = f.map("later", json!({})).await;
    let mut watch = f
        .client
        .watch(&format!("{}?resourceVersion={}", f.maps(), version(&later)))
        .await;
    f.client
        .post("/lab/v1/restore", &json!({}))
        .await
        .expect(200);
    assert!(watch.next().await.is_none(), "running watches end");
    assert_eq!(f.client.get(&path).await.expect(200), kept);
    let back = f.client.get(&format!("{}/lost", f.maps())).await;
    assert_eq!(back.expect(200), lost);
    f.client
        .get(&format!("{}/later", f.maps()))
        .await
        .fails(404, "NotFound");
    // Versions are given again, and one from before the restore is not known.
    let again = f.map("again", json!({})).await;
    let number = |o: &Value| version(o).parse::<u64>().unwrap();
    assert!(number(&again) <= number(&later));
    let mut watch = f
        .client
        .watch(&format!("{}?resourceVersion={}", f.maps(), version(&later)))
        .await;
    let (kind, _) = watch.event().await;
    assert_eq!(kind, "ERROR");
}
