//! Pods by themselves: addresses, reachability, probes, exec, the node's own network, a full node.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::client::who;
use crate::context::Context;
use crate::kubectl::{condition, elements, text};
use crate::wait::until;
use crate::workload::{self, PORT, pod, set};

/// Every address is one that the cloud has for the pod's node, and the PodEndpoint says the same.
pub fn addresses(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    let mut nics = BTreeSet::new();
    for node in ["node1", "node2"] {
        let machine = &context.cluster.node(node)?.machine;
        for pod in base.all.iter().filter(|p| p.node == node) {
            let nic = context
                .cluster
                .vpc
                .nics(machine)?
                .into_iter()
                .find(|nic| nic.secondary.contains(&pod.ip));
            let nic = nic.with_context(|| {
                format!("{} has {}, which no NIC of {node} has", pod.name, pod.ip)
            })?;
            nics.insert(nic.id.clone());
            until("its PodEndpoint", Duration::from_secs(20), || {
                let all = context.kubectl.items(&["get", "podendpoints"])?;
                let own = all.iter().find(|e| text(e, "/spec/podUid") == pod.uid);
                let own = own.with_context(|| format!("{} has no PodEndpoint", pod.name))?;
                let said = (
                    text(own, "/spec/node"),
                    text(own, "/spec/ipv4/ip"),
                    text(own, "/spec/ipv4/nic"),
                );
                ensure!(
                    said == (node, &*pod.ip.to_string(), &*nic.id),
                    "{}: its PodEndpoint says {said:?}",
                    pod.name
                );
                Ok(())
            })?;
        }
    }
    let distinct: BTreeSet<_> = base.all.iter().map(|p| p.ip).collect();
    ensure!(
        distinct.len() == base.all.len(),
        "two pods have one address: {:?}",
        base.all
    );
    ensure!(nics.len() >= 3, "only {nics:?} are used");
    Ok(format!("{} pods on {} NICs", base.all.len(), nics.len()))
}

/// Everybody reaches everybody, and is seen as who he is.
pub fn matrix(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    let mut sources = vec![(
        context.cluster.outside()?.netns.clone(),
        context.cluster.outside()?.address.into(),
    )];
    for pod in [&base.near, &base.second, &base.far] {
        sources.push((context.netns(pod)?, pod.ip));
    }
    let mut asked = 0;
    for (netns, own) in &sources {
        for to in [&base.near, &base.second, &base.far] {
            let answer = who(netns, to.web())?;
            ensure!(
                answer.pod == to.name,
                "{own} asked {} and {} answered",
                to.ip,
                answer.pod
            );
            ensure!(
                answer.client == *own,
                "{own} is seen by {} as {}",
                to.ip,
                answer.client
            );
            asked += 1;
        }
    }
    for node in ["node1", "node2"] {
        let node = context.cluster.node(node)?;
        for to in [&base.near, &base.second, &base.far] {
            let answer = who(&node.machine.netns, to.web())?;
            ensure!(
                answer.pod == to.name,
                "{} asked {} and {} answered",
                node.spec.name,
                to.ip,
                answer.pod
            );
            asked += 1;
        }
    }
    Ok(format!("{asked} ways, each seen as who it is"))
}

/// Probes come from the node.
pub fn probes(context: &mut Context) -> Result<String> {
    let with = |name: &str, probes: &[(&str, Value)]| {
        let mut spec = workload::spec(Some("node2"));
        if let Some(container) = spec.pointer_mut("/containers/0") {
            for (kind, probe) in probes {
                let mut probe = probe.clone();
                set(&mut probe, "periodSeconds", json!(1));
                set(&mut probe, "failureThreshold", json!(3));
                set(container, kind, probe);
            }
        }
        pod(name, "probes", spec)
    };
    let http = |path: &str| json!({"httpGet": {"path": path, "port": PORT}});
    let tcp = || json!({"tcpSocket": {"port": PORT}});
    let exec = || json!({"exec": {"command": ["/bin/test", "-f", "/www/index.html"]}});
    context.kubectl.apply(&[
        with(
            "sound",
            &[
                ("startupProbe", exec()),
                ("readinessProbe", http("/index.html")),
                ("livenessProbe", tcp()),
            ],
        ),
        with(
            "unready",
            &[
                ("readinessProbe", http("/nothing")),
                ("livenessProbe", exec()),
            ],
        ),
        with("sick", &[("livenessProbe", http("/nothing"))]),
    ])?;
    let kubectl = &context.kubectl;
    until("what the probes say", Duration::from_secs(60), || {
        let of = |name| kubectl.json(&["get", "pod", name]);
        let restarts = |pod: &Value| {
            pod.pointer("/status/containerStatuses/0/restartCount")
                .and_then(Value::as_u64)
        };
        let (sound, unready, sick) = (of("sound")?, of("unready")?, of("sick")?);
        ensure!(condition(&sound, "Ready") == "True", "sound is not Ready");
        ensure!(restarts(&sound) == Some(0), "sound was restarted");
        ensure!(
            text(&unready, "/status/phase") == "Running",
            "unready does not run"
        );
        ensure!(condition(&unready, "Ready") == "False", "unready is Ready");
        ensure!(restarts(&sick) > Some(0), "sick was not restarted");
        Ok(())
    })?;
    kubectl.clear("probes")?;
    Ok("HTTP, TCP, exec; one Ready, one never, one restarted".to_owned())
}

/// The API server reaches kubelets, and those the containers.
pub fn exec_and_logs(context: &mut Context) -> Result<String> {
    let base = context.base()?;
    for pod in [&base.second, &base.far] {
        let name = context
            .kubectl
            .run(&["exec", &pod.name, "--", "/bin/hostname"])?;
        ensure!(
            name.trim() == pod.name,
            "hostname in {}: {name:?}",
            pod.name
        );
        let shown = context.kubectl.run(&[
            "exec", &pod.name, "--", "/bin/ip", "-o", "addr", "show", "eth0",
        ])?;
        ensure!(
            shown.contains(&format!("{}/32", pod.ip)),
            "{} is not in {shown}",
            pod.ip
        );
    }
    let mut spec = workload::spec(Some("node1"));
    if let Some(container) = spec.pointer_mut("/containers/0") {
        set(
            container,
            "command",
            json!([
                "/bin/sh",
                "-c",
                format!("echo said once; exec httpd -f -p {PORT} -h /www")
            ]),
        );
    }
    context.kubectl.apply(&[pod("talker", "talker", spec)])?;
    workload::ready(&context.kubectl, "talker", 1)?;
    let log = context.kubectl.run(&["logs", "talker"])?;
    ensure!(log.trim() == "said once", "log: {log:?}");
    context.kubectl.clear("talker")?;
    Ok("exec in 2 pods, log of a third".to_owned())
}

/// A pod with the node's network is none of ours.
pub fn host_network(context: &mut Context) -> Result<String> {
    let port = 18081;
    let mut spec = workload::spec(Some("node1"));
    set(&mut spec, "hostNetwork", json!(true));
    if let Some(container) = spec.pointer_mut("/containers/0") {
        set(
            container,
            "command",
            json!(["/bin/httpd", "-f", "-p", port.to_string(), "-h", "/www"]),
        );
        set(
            container,
            "readinessProbe",
            json!({"tcpSocket": {"port": port}, "periodSeconds": 1}),
        );
    }
    context.kubectl.apply(&[pod("hosted", "hosted", spec)])?;
    let ready = workload::ready(&context.kubectl, "hosted", 1)?;
    let hosted = ready.first().context("no pod")?;
    let node = context.cluster.node("node1")?;
    ensure!(
        hosted.ip == node.machine.address,
        "{} is not the address of node1",
        hosted.ip
    );
    let link = |path: &str| std::fs::read_link(path).with_context(|| format!("read {path}"));
    let (own, nodes) = (link(&context.netns(hosted)?)?, link(&node.machine.netns)?);
    ensure!(
        own == nodes,
        "its network namespace is {own:?}, that of the node {nodes:?}"
    );
    let endpoints = context.kubectl.items(&["get", "podendpoints"])?;
    ensure!(
        !endpoints
            .iter()
            .any(|e| text(e, "/spec/podUid") == hosted.uid),
        "it has a PodEndpoint"
    );
    let outside = context.cluster.outside()?;
    let answer = who(&outside.netns, (hosted.ip, port).into())?;
    ensure!(
        answer.client == outside.address,
        "the client is seen as {}",
        answer.client
    );
    context.kubectl.clear("hosted")?;
    Ok("the node's address and namespace, no PodEndpoint".to_owned())
}

/// The scheduler is told how many pods a node has room for, and the pool has an address for each of those.
pub fn full_node(context: &mut Context) -> Result<String> {
    const MORE: usize = 20;
    let node = context.cluster.node("node3")?;
    let max = usize::try_from(node.spec.max_pods).context("max-pods")?;
    let on_node = [
        "get",
        "pods",
        "-A",
        "--field-selector",
        "spec.nodeName=node3",
    ];
    let here = context.kubectl.items(&on_node)?.len();
    let room = max
        .checked_sub(here)
        .context("node3 has more pods than it may")?;
    let mut spec = workload::spec(Some("node3"));
    // A probe a second for each of them would be most of the machine's work.
    if let Some(container) = spec.pointer_mut("/containers/0") {
        set(container, "readinessProbe", Value::Null);
    }
    context
        .kubectl
        .apply(&[workload::deployment("crowd", room + MORE, spec)])?;
    let kubectl = &context.kubectl;
    until("a full node", Duration::from_secs(120), || {
        let pods = kubectl.items(&["get", "pods", "-l", "app=crowd"])?;
        let ready = pods
            .iter()
            .filter(|p| condition(p, "Ready") == "True")
            .count();
        let too_many = |p: &&Value| {
            text(p, "/status/phase") == "Pending"
                && elements(p, "/status/conditions")
                    .any(|c| text(c, "/message").contains("Too many pods"))
        };
        let pending = pods.iter().filter(too_many).count();
        if (ready, pending) != (room, MORE) {
            bail!("{ready} of {room} are Ready, {pending} of {MORE} have no room");
        }
        Ok(())
    })?;
    let failed = sandbox_failures(context, "crowd-")?;
    ensure!(failed.is_empty(), "ADDs failed: {failed:?}");
    context.kubectl.clear("crowd")?;
    Ok(format!(
        "{room} Ready beside {here}, {MORE} Pending, no failed ADD"
    ))
}

/// Events that tell of sandboxes that could not be made, of pods whose names begin so.
pub fn sandbox_failures(context: &Context, prefix: &str) -> Result<Vec<String>> {
    let events = context.kubectl.items(&["get", "events"])?;
    let failed = events.iter().filter(|e| {
        text(e, "/reason") == "FailedCreatePodSandBox"
            && text(e, "/involvedObject/name").starts_with(prefix)
    });
    Ok(failed.map(|e| text(e, "/message").to_owned()).collect())
}
