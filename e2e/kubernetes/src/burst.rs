//! 110 pods at once on one node: with Tombolo, and on the same kind of node with Debian's `bridge`, one cluster after the other.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::cluster::node::{Spec, TAINT};
use crate::cluster::pki::write;
use crate::cluster::{Cluster, Programs};
use crate::context::Context;
use crate::install::{AGENT, await_nodes, by_the_manual, rolled_out};
use crate::kubectl::{condition, text};
use crate::wait::until;
use crate::workload;

/// The only node: an instance type with addresses for more pods than a kubelet takes by default.
const NODE: Spec = Spec {
    name: "burst",
    instance_type: "m5.4xlarge",
    max_pods: 120,
};
/// Pods at once.
const PODS: usize = 110;

/// What Debian's packages bring, with addresses of the node's own.
const BRIDGE: &str = r#"{"cniVersion": "1.0.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.250.0.0/23"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}"#;

/// Times of one burst, from the creation of the Deployment.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Until half of the pods were Ready, and until all were.
    pub half: Duration,
    pub all: Duration,
    /// Until all pods that were deleted at once were gone.
    pub gone: Duration,
}

/// Brings a cluster up with Tombolo, measures, takes it down.
pub fn tombolo(dir: &Path, programs: &Programs, deploy: &Path, image: &Path) -> Result<Times> {
    with_cluster(dir, programs, |cluster| {
        let context = Context::new(cluster, deploy.to_owned(), image.to_owned(), None)?;
        let measured = by_the_manual(&context).and_then(|()| {
            await_nodes(&context.kubectl, 1)?;
            rolled_out(&context.kubectl, &format!("daemonset/{AGENT}"))?;
            measure(&context.cluster)
        });
        Ok((context.cluster, measured))
    })
}

/// The same with Debian's plugins.
pub fn bridge(dir: &Path, programs: &Programs) -> Result<Times> {
    with_cluster(dir, programs, |cluster| {
        let measured = prepare_bridge(&cluster).and_then(|()| measure(&cluster));
        Ok((cluster, measured))
    })
}

fn prepare_bridge(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(NODE.name)?;
    for plugin in ["bridge", "host-local", "portmap"] {
        std::fs::copy(
            Path::new("/usr/lib/cni").join(plugin),
            node.path("/opt/cni/bin").join(plugin),
        )
        .with_context(|| format!("copy {plugin}"))?;
    }
    write(&node.path("/etc/cni/net.d/10-bridge.conflist"), BRIDGE)?;
    let kubectl = cluster.kubectl()?;
    kubectl.run(&["taint", "node", NODE.name, &format!("{TAINT}-")])?;
    await_nodes(&kubectl, 1)
}

fn with_cluster(
    dir: &Path,
    programs: &Programs,
    work: impl FnOnce(Cluster) -> Result<(Cluster, Result<Times>)>,
) -> Result<Times> {
    let cluster = Cluster::start(dir, programs.clone(), &[NODE], |text| println!("== {text}"))?;
    let (mut cluster, measured) = work(cluster)?;
    if measured.is_err() {
        println!("{}", cluster.tails());
    }
    crate::wait::ignore_interrupt();
    cluster.down()?;
    measured
}

/// Makes the pods, waits, deletes them, waits.
fn measure(cluster: &Cluster) -> Result<Times> {
    let kubectl = cluster.kubectl()?;
    // What only the first pod of a node pays for.
    kubectl.apply(&[workload::deployment("first", 2, quiet())])?;
    workload::ready(&kubectl, "first", 2)?;
    kubectl.clear("first")?;
    let begin = Instant::now();
    kubectl.apply(&[workload::deployment("burst", PODS, quiet())])?;
    let mut half = None;
    let all = until("all pods Ready", Duration::from_secs(400), || {
        let pods = kubectl.items(&["get", "pods", "-l", "app=burst"])?;
        let ready = pods
            .iter()
            .filter(|p| condition(p, "Ready") == "True")
            .count();
        if ready * 2 >= PODS {
            half.get_or_insert(begin.elapsed());
        }
        if ready < PODS {
            bail!("{ready} of {PODS} pods are Ready");
        }
        Ok(begin.elapsed())
    })?;
    let events = kubectl.items(&["get", "events"])?;
    let failed: Vec<_> = events
        .iter()
        .filter(|e| text(e, "/reason") == "FailedCreatePodSandBox")
        .collect();
    if let Some(first) = failed.first() {
        bail!(
            "{} sandboxes failed at first, one with {}",
            failed.len(),
            text(first, "/message")
        );
    }
    let begin = Instant::now();
    kubectl.run(&["delete", "deployment", "burst", "--wait=false"])?;
    let gone = until("all pods gone", Duration::from_secs(400), || {
        let left = kubectl.items(&["get", "pods", "-l", "app=burst"])?.len();
        if left > 0 {
            bail!("{left} pods are left");
        }
        Ok(begin.elapsed())
    })?;
    Ok(Times {
        half: half.unwrap_or(all),
        all,
        gone,
    })
}

/// A pod that does nothing, and that nobody asks.
fn quiet() -> Value {
    let mut spec = workload::spec(None);
    if let Some(container) = spec.pointer_mut("/containers/0") {
        workload::set(container, "readinessProbe", Value::Null);
        // As many as a kubelet takes ask for more of it than a node has.
        workload::set(container, "resources", Value::Null);
        workload::set(container, "command", json!(["/bin/sleep", "2147483647"]));
    }
    spec
}

/// Both beside each other.
pub fn table(tombolo: Times, bridge: Times) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        &format!("{PODS} pods at once, seconds"),
        "tombolo",
        "bridge",
        "ratio",
    ]);
    for (what, ours, theirs) in [
        ("half of them Ready", tombolo.half, bridge.half),
        ("all of them Ready", tombolo.all, bridge.all),
        ("all of them gone", tombolo.gone, bridge.gone),
    ] {
        let (ours, theirs) = (ours.as_secs_f64(), theirs.as_secs_f64());
        table.add_row([
            what.to_owned(),
            format!("{ours:.1}"),
            format!("{theirs:.1}"),
            format!("{:.2}", ours / theirs),
        ]);
    }
    table.to_string()
}
