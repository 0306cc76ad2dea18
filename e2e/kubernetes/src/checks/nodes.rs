//! What becomes of nodes: drained, their Node deleted, terminated, without an API server.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tombolo_cloud_sim::wire::DescribeNics;

use crate::client::{self, Traffic, none_failed, who};
use crate::cluster::pki::write;
use crate::context::Context;
use crate::install;
use crate::kubectl::{condition, text};
use crate::wait::{pass, until};
use crate::workload::{self, PORT, Pod};

/// Between two requests of one client under load.
const PAUSE: Duration = Duration::from_millis(50);

/// The agent's own view, over its port on the node.
fn agent(context: &Context, node: &str) -> Result<Value> {
    let netns = &context.cluster.node(node)?.machine.netns;
    client::json(
        netns,
        SocketAddr::from(([127, 0, 0, 1], 9810)),
        "/debug/state",
    )
}

/// Pods leave a node, and their addresses come back to its pool.
pub fn drain(context: &mut Context) -> Result<String> {
    const COUNT: usize = 4;
    let base = context.base()?;
    let mut spec = workload::spec(None);
    set_affinity(&mut spec);
    context
        .kubectl
        .apply(&[workload::deployment("moving", COUNT, spec)])?;
    let before = workload::ready(&context.kubectl, "moving", COUNT)?;
    let here = |pods: &[Pod]| pods.iter().filter(|p| p.node == "node2").count();
    let far = here(&base.all) + here(&before);
    context.forget_base();
    let drained = empty(context, COUNT);
    // Whatever became of it, pods may come back.
    context.kubectl.run(&["uncordon", "node2"])?;
    let elsewhere = drained?;
    workload::ready(&context.kubectl, "far", 2)?;
    context.kubectl.clear("moving")?;
    Ok(format!(
        "{far} pods left node2, {elsewhere} of {COUNT} run on other nodes now, no address was in use"
    ))
}

/// Drains the second node, and waits until its pool has all of its addresses back.
fn empty(context: &Context, count: usize) -> Result<usize> {
    let kubectl = &context.kubectl;
    kubectl.run(&[
        "drain",
        "node2",
        "--ignore-daemonsets",
        "--force",
        "--delete-emptydir-data",
        "--timeout=90s",
    ])?;
    let after = until(
        "the drained pods run elsewhere",
        Duration::from_secs(60),
        || {
            let pods = workload::ready(kubectl, "moving", count)?;
            ensure!(
                pods.iter().all(|p| p.node != "node2"),
                "some run on node2 still: {pods:?}"
            );
            Ok(pods)
        },
    )?;
    until(
        "addresses of node2 are free",
        Duration::from_secs(60),
        || {
            let state = agent(context, "node2")?;
            let all = state
                .pointer("/pool/addresses")
                .and_then(Value::as_array)
                .context("no addresses")?;
            let used: Vec<_> = all.iter().filter(|a| text(a, "/state") != "free").collect();
            ensure!(used.is_empty(), "not free: {used:?}");
            Ok(())
        },
    )?;
    Ok(after.len())
}

/// Spread over the two larger nodes.
fn set_affinity(spec: &mut Value) {
    let rule = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["node1", "node2"]}]});
    let terms = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [rule]}}});
    workload::set(spec, "affinity", terms);
    let spread = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "moving"}}}]);
    workload::set(spec, "topologySpreadConstraints", spread);
}

/// A Node is deleted, by mistake say, while its instance runs.
pub fn node_object(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    let machine = context.cluster.node("node2")?.machine.clone();
    let nics = |context: &Context| -> Result<BTreeSet<(String, BTreeSet<IpAddr>)>> {
        let nics = context.cluster.vpc.nics(&machine)?;
        Ok(nics
            .into_iter()
            .map(|n| (n.id, n.secondary.into_iter().collect()))
            .collect())
    };
    let uid = |context: &Context| -> Result<String> {
        let nrs = context.kubectl.json(&["get", "netresourcesets", "node2"])?;
        Ok(text(&nrs, "/metadata/uid").to_owned())
    };
    let (before, object) = (nics(context)?, uid(context)?);
    let outside = context.cluster.outside()?.netns.clone();
    let traffic = vec![
        Traffic::start(&outside, base.far.web(), PAUSE),
        Traffic::start(&context.netns(&base.second)?, base.far.web(), PAUSE),
    ];
    context.kubectl.run(&["delete", "node", "node2"])?;
    // Kubernetes removes the pods of a node that is no more after 40 seconds; until then it is all ours.
    pass(Duration::from_secs(20))?;
    ensure!(
        nics(context)? == before,
        "after the Node was deleted: {:?}, before: {before:?}",
        nics(context)?
    );
    ensure!(uid(context)? == object, "the NetResourceSet is another one");
    let (requests, longest) = none_failed(traffic)?;
    let (programs, dir) = (
        context.cluster.programs.clone(),
        context.cluster.dir.clone(),
    );
    let node = context
        .cluster
        .nodes
        .iter_mut()
        .find(|n| n.spec.name == "node2")
        .context("no node2")?;
    node.stop_kubelet()?;
    node.start_kubelet(&programs, &dir)?;
    install::await_nodes(&context.kubectl, 3)?;
    let after = nics(context)?;
    let ids = |all: &BTreeSet<(String, BTreeSet<IpAddr>)>| {
        all.iter().map(|n| n.0.clone()).collect::<BTreeSet<_>>()
    };
    ensure!(
        ids(&after) == ids(&before) && uid(context)? == object,
        "it did not adopt what it had: {after:?}, {before:?}"
    );
    context.forget_base();
    workload::ready(&context.kubectl, "far", 2)?;
    let far = context.base()?.far;
    who(&outside, far.web())?;
    Ok(format!(
        "{requests} requests over 20 s, none failed, longest {} ms; same NICs, adopted again",
        longest.as_millis()
    ))
}

/// The cloud takes an instance away for good.
pub fn terminated(context: &mut Context) -> Result<String> {
    let index = context
        .cluster
        .nodes
        .iter()
        .position(|n| n.spec.name == "node3")
        .context("no node3")?;
    let mut spec = workload::spec(Some("node3"));
    workload::set(&mut spec, "tolerations", json!([]));
    context
        .kubectl
        .apply(&[workload::deployment("doomed", 2, spec)])?;
    workload::ready(&context.kubectl, "doomed", 2)?;
    let node = context.cluster.nodes.remove(index);
    let machine = node.machine.clone();
    let nics = context.cluster.vpc.nics(&machine)?;
    context.cluster.vpc.terminate(&machine)?;
    node.kill()?;
    // What a cloud's controller does, of which there is none here.
    context
        .kubectl
        .run(&["delete", "node", "node3", "--wait=false"])?;
    context.kubectl.run(&[
        "delete",
        "pods",
        "-A",
        "--field-selector",
        "spec.nodeName=node3",
        "--force",
        "--grace-period=0",
    ])?;
    let (kubectl, vpc) = (&context.kubectl, &context.cluster.vpc);
    until("all of it is reclaimed", Duration::from_secs(120), || {
        let left = vpc.cloud(&DescribeNics::default())?;
        let left: Vec<_> = left
            .iter()
            .filter(|n| nics.iter().any(|had| had.id == n.id))
            .map(|n| &n.id)
            .collect();
        ensure!(left.is_empty(), "the cloud still has {left:?}");
        for (kind, field) in [
            ("netresourcesets", "/metadata/name"),
            ("enis", "/spec/node"),
            ("podendpoints", "/spec/node"),
        ] {
            let objects = kubectl.items(&["get", kind, "-A"])?;
            let theirs = objects.iter().filter(|o| text(o, field) == "node3").count();
            ensure!(theirs == 0, "{theirs} {kind} of node3 are left");
        }
        Ok(())
    })?;
    kubectl.clear("doomed")?;
    Ok(format!(
        "{} NICs in the cloud, NetResourceSet, Enis and PodEndpoints are gone",
        nics.len()
    ))
}

/// Nobody answers agents, operator and kubelets for two minutes.
pub fn api_away(context: &mut Context) -> Result<String> {
    const AWAY: Duration = Duration::from_secs(120);
    let base = context.base()?;
    let outside = context.cluster.outside()?.netns.clone();
    let traffic = vec![
        Traffic::start(&outside, base.second.web(), PAUSE),
        Traffic::start(&context.netns(&base.near)?, base.far.web(), PAUSE),
        Traffic::start(&context.netns(&base.far)?, base.second.web(), PAUSE),
    ];
    let dir = context.cluster.dir.clone();
    let programs = context.cluster.programs.clone();
    context
        .cluster
        .control
        .as_mut()
        .context("no control plane")?
        .stop_apiserver()?;
    pass(AWAY / 3)?;
    // A pod that the kubelet knows by itself: a file.
    let mut alone = workload::pod("alone", "alone", workload::spec(None));
    workload::set(
        &mut alone,
        "metadata",
        json!({"name": "alone", "namespace": "default", "labels": {"app": "alone"}}),
    );
    let file = context
        .cluster
        .node("node2")?
        .path("/etc/kubernetes/manifests/alone.yaml");
    write(&file, &alone.to_string())?;
    let address = |context: &Context| -> Result<IpAddr> {
        let state = agent(context, "node2")?;
        let records = state
            .pointer("/attachments")
            .and_then(Value::as_array)
            .context("no attachments")?;
        let own = records
            .iter()
            .find(|r| r.to_string().contains("alone-node2"))
            .context("not attached")?;
        first_address(own).with_context(|| format!("no address in {own}"))
    };
    let ip = until(
        "a new pod without API server",
        Duration::from_secs(60),
        || {
            let ip = address(context)?;
            who(&outside, (ip, PORT).into()).map(|_| ip)
        },
    )?;
    std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    until(
        "the pod is gone",
        Duration::from_secs(60),
        || match address(context) {
            Ok(ip) => bail!("it still has {ip}"),
            Err(_) => Ok(()),
        },
    )?;
    pass(AWAY / 3)?;
    context
        .cluster
        .control
        .as_mut()
        .context("no control plane")?
        .start_apiserver(&programs, &dir)?;
    context
        .cluster
        .control()?
        .await_apiserver(&context.kubectl)?;
    let (requests, longest) = none_failed(traffic)?;
    install::await_nodes(&context.kubectl, context.cluster.nodes.len())?;
    // Agents and operator are back at work: a pod is made, and known.
    context.kubectl.apply(&[workload::deployment(
        "later",
        1,
        workload::spec(Some("node1")),
    )])?;
    let later = workload::ready(&context.kubectl, "later", 1)?;
    let known = std::time::Instant::now();
    until("its PodEndpoint", Duration::from_secs(60), || {
        let all = context.kubectl.items(&["get", "podendpoints"])?;
        ensure!(
            all.iter()
                .any(|e| later.iter().any(|p| text(e, "/spec/podUid") == p.uid)),
            "none"
        );
        Ok(())
    })?;
    until(
        "the NetResourceSets are Ready",
        Duration::from_secs(60),
        || {
            let all = context.kubectl.items(&["get", "netresourcesets"])?;
            ensure!(
                all.iter().all(|n| condition(n, "Ready") == "True"),
                "not all are"
            );
            Ok(())
        },
    )?;
    let known = known.elapsed();
    context.kubectl.clear("later")?;
    Ok(format!(
        "{requests} requests, none failed, longest {} ms; {ip} given and taken back meanwhile; a PodEndpoint {:.1} s after its pod",
        longest.as_millis(),
        known.as_secs_f64()
    ))
}

/// The first text in a record that is an IPv4 address of the VPC.
fn first_address(record: &Value) -> Option<IpAddr> {
    match record {
        Value::String(text) => text
            .parse()
            .ok()
            .filter(|ip: &IpAddr| ip.is_ipv4() && ip.to_string().starts_with("10.")),
        Value::Array(all) => all.iter().find_map(first_address),
        Value::Object(all) => all.values().find_map(first_address),
        _ => None,
    }
}
