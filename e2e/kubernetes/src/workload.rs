//! Pods, Deployments and Services that the checks make, all in the namespace `default` and with the label `app`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::image::TEST_IMAGE;
use crate::kubectl::{Kubectl, condition, elements, text};
use crate::wait::until;

/// Port of the web server in every pod.
pub const PORT: u16 = 8080;

/// A pod that runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub node: String,
    pub ip: IpAddr,
}

impl Pod {
    /// Its web server.
    pub fn web(&self) -> SocketAddr {
        SocketAddr::new(self.ip, PORT)
    }
}

/// Spec of a pod with a web server, on this node if one is named.
pub fn spec(node: Option<&str>) -> Value {
    let mut spec = json!({
        "terminationGracePeriodSeconds": 1,
        "enableServiceLinks": false,
        "automountServiceAccountToken": false,
        "containers": [{
            "name": "web", "image": TEST_IMAGE, "imagePullPolicy": "Never",
            "command": ["/bin/httpd", "-f", "-p", PORT.to_string(), "-h", "/www"],
            "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
            // Without a share of the processor a busy machine keeps it waiting, and a request that fails for that says nothing of
            // the network.
            "resources": {"requests": {"cpu": "50m"}},
        }],
    });
    if let Some(node) = node {
        set(
            &mut spec,
            "nodeSelector",
            json!({"kubernetes.io/hostname": node}),
        );
    }
    spec
}

/// Sets a field of an object.
pub fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

/// A Pod.
pub fn pod(name: &str, app: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}}, "spec": spec})
}

/// A Deployment called after its label.
pub fn deployment(app: &str, replicas: usize, spec: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": app, "labels": {"app": app}},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": app}},
            "template": {"metadata": {"labels": {"app": app}}, "spec": spec},
        },
    })
}

/// A Service called after its label; `fields` are added to its spec.
pub fn service(app: &str, fields: &Value) -> Value {
    let mut spec = json!({"selector": {"app": app}, "ports": [{"port": 80, "targetPort": PORT}]});
    for (name, value) in fields.as_object().into_iter().flatten() {
        set(&mut spec, name, value.clone());
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app, "labels": {"app": app}}, "spec": spec})
}

/// Waits until exactly so many pods with this label are Ready.
pub fn ready(kubectl: &Kubectl, app: &str, count: usize) -> Result<Vec<Pod>> {
    until(
        &format!("{count} pods of {app} Ready"),
        Duration::from_secs(120),
        || {
            let items = kubectl.items(&["get", "pods", "-l", &format!("app={app}")])?;
            let ready = items.iter().filter(|p| condition(p, "Ready") == "True");
            let alive: Vec<_> = ready
                .filter(|p| p.pointer("/metadata/deletionTimestamp").is_none())
                .collect();
            if alive.len() != count || items.len() != count {
                let waiting = items
                    .iter()
                    .filter(|p| condition(p, "Ready") != "True")
                    .map(|p| {
                        let why: Vec<_> = elements(p, "/status/conditions")
                            .map(|c| text(c, "/message"))
                            .collect();
                        format!(
                            "{} on {:?}: {} {why:?}",
                            text(p, "/metadata/name"),
                            text(p, "/spec/nodeName"),
                            text(p, "/status/phase")
                        )
                    });
                bail!(
                    "{} of {} are Ready; not: {:?}",
                    alive.len(),
                    items.len(),
                    waiting.collect::<Vec<_>>()
                );
            }
            alive.into_iter().map(known).collect()
        },
    )
}

/// What we want to know of a pod.
fn known(pod: &Value) -> Result<Pod> {
    Ok(Pod {
        name: text(pod, "/metadata/name").to_owned(),
        uid: text(pod, "/metadata/uid").to_owned(),
        node: text(pod, "/spec/nodeName").to_owned(),
        ip: text(pod, "/status/podIP")
            .parse()
            .with_context(|| format!("address of {}", text(pod, "/metadata/name")))?,
    })
}

/// Waits until the Service of this name has endpoints with exactly these pods' addresses; returns its own address.
pub fn endpoints(kubectl: &Kubectl, app: &str, pods: &[Pod]) -> Result<Value> {
    let wanted: BTreeSet<String> = pods.iter().map(|p| p.ip.to_string()).collect();
    until("endpoints", Duration::from_secs(60), || {
        let endpoints = kubectl.json(&["get", "endpoints", app])?;
        let subsets = elements(&endpoints, "/subsets").flat_map(|s| elements(s, "/addresses"));
        let found: BTreeSet<String> = subsets.map(|a| text(a, "/ip").to_owned()).collect();
        if found != wanted {
            bail!("endpoints of {app}: {found:?}, wanted are {wanted:?}");
        }
        Ok(())
    })?;
    kubectl.json(&["get", "service", app])
}

/// A Service's own address and port.
pub fn cluster_ip(service: &Value) -> Result<SocketAddr> {
    let ip = text(service, "/spec/clusterIP")
        .parse()
        .context("clusterIP")?;
    Ok(SocketAddr::new(ip, 80))
}

/// The port of a Service on every node.
pub fn node_port(service: &Value) -> Result<u16> {
    let port = service
        .pointer("/spec/ports/0/nodePort")
        .and_then(Value::as_u64);
    u16::try_from(port.context("nodePort")?).context("nodePort")
}
