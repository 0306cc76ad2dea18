//! Services by kube-proxy, and ports of nodes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::client::{Who, who};
use crate::cluster::node::ProxyMode;
use crate::command::output;
use crate::context::Context;
use crate::kubectl::{condition, elements, text};
use crate::wait::until;
use crate::workload::{self, Pod, cluster_ip, node_port, pod, service, set};

/// Requests that must be enough to hear of every backend: of three, one is missed by all with a probability of 1 in 100,000.
const ENOUGH: usize = 30;

/// A Service for these pods, which are told by a label of its name; ready when kube-proxy has it.
fn serve(context: &Context, name: &str, fields: &Value, backends: &[&Pod]) -> Result<Value> {
    let mut fields = fields.clone();
    set(&mut fields, "selector", json!({(name): "yes"}));
    for pod in backends {
        context.kubectl.run(&[
            "label",
            "pod",
            &pod.name,
            &format!("{name}=yes"),
            "--overwrite",
        ])?;
    }
    context.kubectl.apply(&[service(name, &fields)])?;
    let pods: Vec<Pod> = backends.iter().map(|p| (*p).clone()).collect();
    let service = workload::endpoints(&context.kubectl, name, &pods)?;
    let to = cluster_ip(&service)?;
    for node in ["node1", "node2"] {
        let netns = &context.cluster.node(node)?.machine.netns;
        until("kube-proxy", Duration::from_secs(30), || who(netns, to))?;
    }
    Ok(service)
}

/// Asks until every backend answered; returns who the clients were seen as.
fn every_backend(netns: &str, to: SocketAddr, backends: &[&Pod]) -> Result<Vec<Who>> {
    let wanted: BTreeSet<&str> = backends.iter().map(|p| p.name.as_str()).collect();
    let mut answers: Vec<Who> = Vec::new();
    for _ in 0..ENOUGH {
        answers.push(who(netns, to)?);
        let heard: BTreeSet<&str> = answers.iter().map(|a| a.pod.as_str()).collect();
        if heard == wanted {
            return Ok(answers);
        }
    }
    bail!("{to} from {netns}: not every one of {wanted:?} answered {ENOUGH} requests")
}

/// From pods of each NIC, and from nodes.
pub fn cluster_ip_answers(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    let backends = [&base.near, &base.second, &base.far];
    let service = serve(context, "inner", &json!({}), &backends)?;
    let to = cluster_ip(&service)?;
    let mut asked = 0;
    for client in backends {
        for answer in every_backend(&context.netns(client)?, to, &backends)? {
            asked += 1;
            // One that asks itself is translated, or its answer would not pass kube-proxy.
            if answer.pod != client.name {
                ensure!(
                    answer.client == client.ip,
                    "{} is seen as {}",
                    client.name,
                    answer.client
                );
            }
        }
    }
    for node in ["node1", "node2", "node3"] {
        asked += every_backend(&context.cluster.node(node)?.machine.netns, to, &backends)?.len();
    }
    context.kubectl.clear("inner")?;
    Ok(format!(
        "{asked} requests from 3 pods and 3 nodes, 3 backends each, sources kept"
    ))
}

/// From a VM to every NIC of every node, whichever NIC the backend has.
pub fn node_port_answers(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    let backends = [&base.near, &base.second, &base.far];
    let service = serve(context, "outer", &json!({"type": "NodePort"}), &backends)?;
    let port = node_port(&service)?;
    let outside = context.cluster.outside()?.netns.clone();
    let mut ways = 0;
    for node in ["node1", "node2"] {
        for address in context.nic_addresses(node)? {
            every_backend(&outside, (address, port).into(), &backends)
                .with_context(|| format!("NIC {address} of {node}"))?;
            ways += backends.len();
        }
    }
    context.kubectl.clear("outer")?;
    Ok(format!("{ways} ways: NICs of 2 nodes x 3 backends"))
}

/// A node with backends keeps the source, on each NIC; one without refuses or drops.
pub fn local(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    let backends = [&base.near, &base.second];
    let fields = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    let service = serve(context, "local", &fields, &backends)?;
    let port = node_port(&service)?;
    let outside = context.cluster.outside()?.clone();
    let mut asked = 0;
    for address in context.nic_addresses("node1")? {
        for answer in every_backend(&outside.netns, (address, port).into(), &backends)? {
            ensure!(
                answer.client == outside.address,
                "by {address} the client is seen as {}",
                answer.client
            );
            asked += 1;
        }
    }
    let address = context.cluster.node("node2")?.machine.address;
    ensure!(
        who(&outside.netns, (address, port).into()).is_err(),
        "node2 has no backend and answers"
    );
    context.kubectl.clear("local")?;
    Ok(format!(
        "{asked} requests by every NIC of node1, source kept; node2 does not answer"
    ))
}

/// T12: the only backend of a Service is its client.
pub fn hairpin(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    for pod in [&base.near, &base.second] {
        let service = serve(context, "self", &json!({}), &[pod])?;
        let answer = who(&context.netns(pod)?, cluster_ip(&service)?)?;
        ensure!(
            answer.pod == pod.name,
            "{} answers instead of {}",
            answer.pod,
            pod.name
        );
        context.kubectl.run(&["label", "pod", &pod.name, "self-"])?;
        context.kubectl.clear("self")?;
    }
    Ok("a pod of each NIC".to_owned())
}

/// A client keeps its backend.
pub fn affinity(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    let backends = [&base.near, &base.second, &base.far];
    let service = serve(
        context,
        "sticky",
        &json!({"sessionAffinity": "ClientIP"}),
        &backends,
    )?;
    let to = cluster_ip(&service)?;
    for client in backends {
        let netns = context.netns(client)?;
        let first = who(&netns, to)?.pod;
        for _ in 0..10 {
            let next = who(&netns, to)?.pod;
            ensure!(
                next == first,
                "{} is sent to {first}, then to {next}",
                client.name
            );
        }
    }
    context.kubectl.clear("sticky")?;
    Ok("3 clients, 11 requests each, one backend each".to_owned())
}

/// All of this by other rules of kube-proxy.
pub fn nftables(context: &mut Context) -> Result<String> {
    use_proxy(context, ProxyMode::Nftables)?;
    let checks = [
        cluster_ip_answers,
        node_port_answers,
        local,
        hairpin,
        affinity,
    ];
    let said: Result<Vec<String>> = checks.into_iter().map(|check| check(context)).collect();
    let tables = output(
        context
            .cluster
            .node("node1")?
            .enter("nft")
            .args(["list", "tables"]),
    )?;
    use_proxy(context, ProxyMode::Iptables)?;
    ensure!(
        tables.contains("kube-proxy"),
        "kube-proxy has no table: {tables}"
    );
    Ok(said?.join("; "))
}

fn use_proxy(context: &mut Context, mode: ProxyMode) -> Result<()> {
    let (dir, programs) = (
        context.cluster.dir.clone(),
        context.cluster.programs.clone(),
    );
    for node in &mut context.cluster.nodes {
        node.use_proxy(&programs, &dir, mode)?;
    }
    Ok(())
}

/// A port of the node, for a pod of each NIC.
pub fn host_port(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    let with = |name: &str, node: &str, port: u16| {
        let mut spec = workload::spec(Some(node));
        if let Some(container) = spec.pointer_mut("/containers/0") {
            set(
                container,
                "ports",
                json!([{"containerPort": workload::PORT, "hostPort": port}]),
            );
        }
        pod(name, "ported", spec)
    };
    let port = 18080;
    context.kubectl.apply(&[
        with("ported-far", "node2", port),
        with("ported", "node1", port),
    ])?;
    let pods = workload::ready(&context.kubectl, "ported", 2)?;
    let mut ways = 0;
    let outside = context.cluster.outside()?.clone();
    for to in &pods {
        let mut clients = vec![(outside.netns.clone(), Some(outside.address.into()))];
        for client in [&base.near, &base.second, &base.far] {
            clients.push((context.netns(client)?, Some(client.ip)));
        }
        clients.push((context.cluster.node("node1")?.machine.netns.clone(), None));
        clients.push((context.cluster.node("node2")?.machine.netns.clone(), None));
        // The pod itself, through its own port.
        clients.push((context.netns(to)?, None));
        for address in context.nic_addresses(&to.node)? {
            for (netns, seen) in &clients {
                let answer = who(netns, (address, port).into())?;
                ensure!(
                    answer.pod == to.name,
                    "{} answers instead of {}",
                    answer.pod,
                    to.name
                );
                if let Some(seen) = seen {
                    ensure!(
                        answer.client == *seen,
                        "{seen} is seen as {} by {address}",
                        answer.client
                    );
                }
                ways += 1;
            }
        }
    }
    context
        .kubectl
        .apply(&[with("ported-too", "node1", port)])?;
    until("the second pod waits", Duration::from_secs(30), || {
        let pod = context.kubectl.json(&["get", "pod", "ported-too"])?;
        ensure!(
            condition(&pod, "PodScheduled") == "False",
            "it was scheduled"
        );
        let why = elements(&pod, "/status/conditions")
            .map(|c| text(c, "/message"))
            .collect::<String>();
        ensure!(why.contains("free ports"), "{why}");
        Ok(())
    })?;
    context.kubectl.clear("ported")?;
    until("the port is closed", Duration::from_secs(20), || {
        let address = context.cluster.node("node1")?.machine.address;
        ensure!(
            who(&outside.netns, (address, port).into()).is_err(),
            "it still answers"
        );
        Ok(())
    })?;
    Ok(format!(
        "{ways} ways: pods of 2 nodes by every NIC, from outside, pods, nodes and itself"
    ))
}
