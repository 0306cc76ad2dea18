//! Pods as the demo, the tests and the checker use them: made through the API, waited for, entered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::kubeapi::{Api, text};
use crate::state::{Lab, Node};

/// Where a pod runs and what it is called in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace/name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its addresses, IPv4 first.
    pub ips: Vec<IpAddr>,
}

/// A pod that runs the probe's server, as an object.
#[must_use]
pub fn manifest(
    name: &str,
    node: Option<&str>,
    probe: &std::path::Path,
    extra_args: &[String],
) -> Value {
    let mut args = vec!["probe".to_owned(), "serve".to_owned()];
    args.extend_from_slice(extra_args);
    let mut spec = json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{ "name": "probe", "image": "host", "command": [probe], "args": args }],
    });
    if let (Some(node), Some(map)) = (node, spec.as_object_mut()) {
        map.insert("nodeName".to_owned(), json!(node));
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": "probe" } },
        "spec": spec,
    })
}

/// Creates a pod.
pub async fn create(api: &Api, pod: &Value) -> Result<()> {
    api.create("/api/v1/namespaces/default/pods", pod)
        .await
        .map(|_| ())
}

/// Deletes a pod and waits until the object is gone.
pub async fn delete(api: &Api, name: &str) -> Result<()> {
    api.delete(&format!("/api/v1/namespaces/default/pods/{name}"))
        .await
}

/// All pods of the default namespace that run, by name.
pub async fn running(api: &Api) -> Result<BTreeMap<String, Pod>> {
    let mut pods = BTreeMap::new();
    for object in api.list("/api/v1/namespaces/default/pods").await? {
        if text(&object, "/status/phase") == "Running" {
            let pod = of(&object);
            pods.insert(text(&object, "/metadata/name"), pod);
        }
    }
    Ok(pods)
}

fn of(object: &Value) -> Pod {
    let ips = object
        .pointer("/status/podIPs")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    Pod {
        name: format!(
            "{}/{}",
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name")
        ),
        node: text(object, "/spec/nodeName"),
        ips: ips.filter_map(|v| text(v, "/ip").parse().ok()).collect(),
    }
}

/// Waits until this many pods run; `progress` is told the number.
pub async fn wait_running(
    api: &Api,
    wanted: usize,
    bound: Duration,
    mut progress: impl FnMut(usize),
) -> Result<BTreeMap<String, Pod>> {
    let begin = Instant::now();
    loop {
        let pods = running(api).await?;
        progress(pods.len());
        if pods.len() >= wanted {
            return Ok(pods);
        }
        if begin.elapsed() > bound {
            bail!(
                "{} of {wanted} pods run after {bound:?}: {}",
                pods.len(),
                pending(api).await?
            );
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Why pods do not run, for people.
async fn pending(api: &Api) -> Result<String> {
    let mut lines = Vec::new();
    for object in api.list("/api/v1/namespaces/default/pods").await? {
        let phase = text(&object, "/status/phase");
        if phase != "Running" {
            let conditions = object
                .pointer("/status/conditions")
                .cloned()
                .unwrap_or_default();
            lines.push(format!(
                "{} {phase} {conditions}",
                text(&object, "/metadata/name")
            ));
        }
    }
    Ok(lines.join("; "))
}

/// Waits until no pod is left in the default namespace.
pub async fn wait_none(api: &Api, bound: Duration, mut progress: impl FnMut(usize)) -> Result<()> {
    let begin = Instant::now();
    loop {
        let left = api.list("/api/v1/namespaces/default/pods").await?.len();
        progress(left);
        if left == 0 {
            return Ok(());
        }
        if begin.elapsed() > bound {
            bail!("{left} pods are left after {bound:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The network namespace of a pod's sandbox, as a path outside the node: the one that holds its address.
pub fn netns(lab: &Lab, pod: &Pod) -> Result<PathBuf> {
    let node = lab.node(&pod.node)?;
    let ip = pod
        .ips
        .first()
        .with_context(|| format!("pod {} has no address", pod.name))?;
    find_netns(node, *ip)?.with_context(|| {
        format!(
            "no namespace on {} holds {ip} of pod {}",
            node.name, pod.name
        )
    })
}

fn find_netns(node: &Node, ip: IpAddr) -> Result<Option<PathBuf>> {
    let dir = node.path("/run/netns");
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let Ok(links) =
            crate::check::gather::ip_json(&path.to_string_lossy(), &["address", "show"])
        else {
            continue;
        };
        let holds = links
            .iter()
            .flat_map(|l| {
                l.pointer("/addr_info")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
            })
            .any(|a| text(a, "/local").parse() == Ok(ip));
        if holds {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
