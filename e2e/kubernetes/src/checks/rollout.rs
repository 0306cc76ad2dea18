//! Agents that are replaced while pods serve.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::client::{Traffic, none_failed};
use crate::context::Context;
use crate::install::{AGENT, Manifests, NAMESPACE, OPERATOR, await_nodes, rolled_out};
use crate::kubectl::{elements, text};
use crate::wait::{pass, until};
use crate::workload::{self, PORT, node_port};

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(25);
/// How long requests go on after the last agent was replaced.
const AFTER: Duration = Duration::from_secs(5);
/// Tag of the image of the previous commit in the nodes.
const PREVIOUS: &str = "previous";

/// Requests between pods, through a Service, and from outside by every NIC.
fn load(context: &mut Context) -> Result<Vec<Traffic>> {
    let base = context.base()?;
    for pod in [&base.near, &base.second, &base.far] {
        context
            .kubectl
            .run(&["label", "pod", &pod.name, "steady=yes", "--overwrite"])?;
    }
    let fields = serde_json::json!({"type": "NodePort", "selector": {"steady": "yes"}});
    context
        .kubectl
        .apply(&[workload::service("steady", &fields)])?;
    let pods = [base.near.clone(), base.second.clone(), base.far.clone()];
    let service = workload::endpoints(&context.kubectl, "steady", &pods)?;
    let (inner, port) = (workload::cluster_ip(&service)?, node_port(&service)?);
    let outside = context.cluster.outside()?.netns.clone();
    until("kube-proxy", Duration::from_secs(30), || {
        for address in [
            &context.nic_addresses("node1")?[..],
            &context.nic_addresses("node2")?,
        ]
        .concat()
        {
            crate::client::who(&outside, (address, port).into())?;
        }
        Ok(())
    })?;
    let mut traffic = vec![
        Traffic::start(&context.netns(&base.near)?, base.far.web(), PAUSE),
        Traffic::start(&context.netns(&base.second)?, base.far.web(), PAUSE),
        Traffic::start(&context.netns(&base.far)?, base.second.web(), PAUSE),
        Traffic::start(&context.netns(&base.far)?, inner, PAUSE),
        Traffic::start(
            &context.cluster.node("node1")?.machine.netns,
            (base.far.ip, PORT).into(),
            PAUSE,
        ),
    ];
    for address in context.nic_addresses("node1")? {
        traffic.push(Traffic::start(&outside, (address, port).into(), PAUSE));
    }
    Ok(traffic)
}

/// Every agent is replaced by another of the same build, and pods come and go meanwhile.
pub fn restart(context: &mut Context) -> Result<String> {
    let traffic = load(context)?;
    let clients = traffic.len();
    context.kubectl.run(&[
        "-n",
        NAMESPACE,
        "rollout",
        "restart",
        &format!("daemonset/{AGENT}"),
    ])?;
    let mut made = 0;
    for round in 0..3 {
        let app = format!("passing{round}");
        context.kubectl.apply(&[workload::deployment(
            &app,
            2,
            workload::spec(Some(["node1", "node2"][round % 2])),
        )])?;
        made += workload::ready(&context.kubectl, &app, 2)?.len();
        context.kubectl.clear(&app)?;
    }
    rolled_out(&context.kubectl, &format!("daemonset/{AGENT}"))?;
    pass(AFTER)?;
    let (requests, longest) = none_failed(traffic)?;
    context.kubectl.clear("steady")?;
    Ok(format!(
        "{requests} requests of {clients} clients, none failed, longest {} ms; {made} pods made meanwhile",
        longest.as_millis()
    ))
}

/// To the image of the previous commit, and back.
pub fn upgrade(context: &mut Context) -> Result<String> {
    let archive = context
        .previous
        .clone()
        .context("no image of the previous commit: --previous names it")?;
    for node in &context.cluster.nodes {
        node.import(&archive)?;
    }
    let manifests = Manifests::existing(&context.cluster);
    manifests.with_tag(PREVIOUS, PREVIOUS)?;
    let traffic = load(context)?;
    let clients = traffic.len();
    for overlay in [PREVIOUS, "lab"] {
        manifests.kubectl(&context.kubectl, "apply", overlay)?;
        for what in [
            format!("daemonset/{AGENT}"),
            format!("deployment/{OPERATOR}"),
        ] {
            rolled_out(&context.kubectl, &what)?;
        }
        let agents = context.kubectl.items(&[
            "-n",
            NAMESPACE,
            "get",
            "pods",
            "-l",
            &format!("app.kubernetes.io/name={AGENT}"),
        ])?;
        let old = agents.iter().flat_map(|p| elements(p, "/spec/containers"));
        let old = old
            .filter(|c| text(c, "/image").ends_with(&format!(":{PREVIOUS}")))
            .count();
        ensure!(
            (old == agents.len()) == (overlay == PREVIOUS),
            "{old} of {} agents are of the previous commit",
            agents.len()
        );
        await_nodes(&context.kubectl, context.cluster.nodes.len())?;
        let app = format!("under-{overlay}");
        context
            .kubectl
            .apply(&[workload::deployment(&app, 2, workload::spec(Some("node1")))])?;
        workload::ready(&context.kubectl, &app, 2)?;
        context.kubectl.clear(&app)?;
    }
    pass(AFTER)?;
    let (requests, longest) = none_failed(traffic)?;
    context.kubectl.clear("steady")?;
    Ok(format!(
        "{requests} requests of {clients} clients, none failed, longest {} ms",
        longest.as_millis()
    ))
}
