//! Operator and agent, killed before and after each write that others see: cloud calls and objects. The next start adopts
//! or removes what was half done, and makes nothing twice.
//!
//! Every test takes the points from the shipped program; one that is not reached fails it. Those of the agent that need no
//! API server are in its own tests.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tombolo_cloud_sim::wire::CreateNic;
use tombolo_lab::kubeapi::{Api, text};
use tombolo_lab::pods;
use tombolo_lab::state::Lab;
use tombolo_lab::topology::Topology;
use tombolo_lab::up;
use tombolo_lab_vpc::admin::TerminateInstance;

use crate::headless::{CLUSTER, GROUP, Headless, NODE, holder};
use crate::support::{bin_dir, probe, scenario};

/// Worlds beside each other: they mostly wait.
const WORLDS: usize = 6;

/// `point.before` and `point.after` of a program, of the operations that are wanted.
fn orders(program: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let output = Command::new(bin_dir().join(program))
        .arg("--failpoints")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let points = text.lines().filter(|point| wanted(point));
    points
        .flat_map(|point| ["before", "after"].map(|when| format!("{point}.{when}")))
        .collect()
}

#[test]
fn the_operator_killed_at_every_write_makes_nothing_twice_and_leaves_nothing() {
    let orders = orders("tombolo-operator", |_| true);
    assert!(orders.len() >= 40, "{orders:?}");
    let queue = Mutex::new(orders.into_iter());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORLDS {
            scope.spawn(|| {
                loop {
                    let Some(order) = queue.lock().unwrap().next() else {
                        return;
                    };
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    if let Err(error) = runtime.block_on(interrupted_life(&order)) {
                        failures.lock().unwrap().push(format!("{order}: {error:?}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

async fn interrupted_life(order: &str) -> Result<()> {
    let mut world = Headless::new().await?;
    world.order = Some(order.to_owned());
    let lived = life(&mut world).await;
    lived.with_context(|| format!("the operator says:\n{}", world.log()))?;
    ensure!(world.order.is_none(), "the failpoint was never reached");
    world.down().await
}

/// A node from its first to its last day, with all that an operator does for it.
async fn life(world: &mut Headless) -> Result<()> {
    world.start_operator()?;
    world.register().await?;
    world
        .settle("joined", async |world| world.agrees(1, 0, 0).await)
        .await?;
    told(world).await?;
    // Somebody meddles with what the Node says.
    let condition = json!({ "type": "NetworkUnavailable", "status": "True", "reason": "Meddled", "message": "" });
    let node = format!("/api/v1/nodes/{NODE}");
    let status = json!({ "status": { "conditions": [condition] } });
    world.api.merge(&format!("{node}/status"), &status).await?;
    let taints = json!([{ "key": "tombolo.dev/agent-not-ready", "effect": "NoSchedule" }]);
    world
        .api
        .merge(&node, &json!({ "spec": { "taints": taints } }))
        .await?;
    told(world).await?;

    world.demand(7, 7);
    world
        .settle("grown", async |world| world.agrees(3, 7, 7).await)
        .await?;
    let nics = world.nics().await?;
    let primary = nics.iter().find(|nic| nic.id == world.instance.primary_nic);
    let addresses = &primary.context("the primary NIC")?.secondary;
    let first = |v4: bool| addresses.iter().copied().find(|ip| ip.is_ipv4() == v4);
    world.bind(first(true).into_iter().chain(first(false)));

    // What others did to the objects is put right.
    let enis = world.api.list(&format!("{GROUP}/enis")).await?;
    let index = |eni: &Value| eni.pointer("/spec/deviceIndex").and_then(Value::as_u64);
    let second = enis.iter().find(|eni| index(eni) == Some(1));
    let path = format!(
        "{GROUP}/enis/{}",
        text(second.context("the second NIC")?, "/metadata/name")
    );
    world
        .api
        .merge(&path, &json!({ "spec": { "deviceIndex": 7 } }))
        .await?;
    let set = format!("{GROUP}/netresourcesets/{NODE}");
    world
        .api
        .merge(&set, &json!({ "metadata": { "finalizers": null } }))
        .await?;
    world
        .settle("index and finalizer are back", async |world| {
            let eni = world.api.get(&path).await?;
            let set = world.api.get(&set).await?;
            Ok(index(&eni) == Some(1) && set.pointer("/metadata/finalizers/0").is_some())
        })
        .await?;

    // More than there can be.
    world.demand(20, 20);
    world
        .settle("full, and told so", async |world| {
            let events = world.api.list("/apis/events.k8s.io/v1/events").await?;
            Ok(!events.is_empty() && world.agrees(3, 9, 9).await?)
        })
        .await?;
    world.demand(1, 2);
    world
        .settle("shrunk", async |world| world.agrees(1, 1, 2).await)
        .await?;

    let leak = CreateNic {
        subnet: "subnet-a".to_owned(),
        description: String::new(),
        client_token: None,
        ipv4_count: 0,
        ipv6_count: 0,
        security_groups: Vec::new(),
        tags: BTreeMap::from([
            ("tombolo.dev/cluster", CLUSTER),
            ("tombolo.dev/eni", "nobody-1"),
            ("tombolo.dev/node", "nobody"),
        ])
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect(),
    };
    world.cloud.cloud(&leak).await?;
    world
        .settle("the leak is gone", async |world| {
            Ok(world.nics().await?.len() == 1)
        })
        .await?;

    world.demand(5, 5);
    world
        .settle("grown again", async |world| world.agrees(2, 5, 5).await)
        .await?;
    last_day(world).await
}

/// The Node says that pods can be attached, and the webhook's certificate is made and trusted.
async fn told(world: &mut Headless) -> Result<()> {
    let secret = "/api/v1/namespaces/kube-system/secrets/tombolo-webhook";
    let configuration =
        "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/tombolo-webhook";
    world
        .settle("the Node is told, the webhook trusted", async |world| {
            let node = world.api.get(&format!("/api/v1/nodes/{NODE}")).await?;
            let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
            let serves = conditions.into_iter().flatten().any(|condition| {
                text(condition, "/type") == "NetworkUnavailable"
                    && text(condition, "/status") == "False"
                    && text(condition, "/reason") == "TomboloServes"
            });
            let taints = node.pointer("/spec/taints").and_then(Value::as_array);
            let authorities = text(&world.api.get(secret).await?, "/data/ca.crt");
            let trusted = world.api.get(configuration).await?;
            Ok(serves
                && taints.is_none_or(Vec::is_empty)
                && !authorities.is_empty()
                && text(&trusted, "/webhooks/0/clientConfig/caBundle") == authorities)
        })
        .await
}

async fn last_day(world: &mut Headless) -> Result<()> {
    let endpoint = json!({
        "apiVersion": "tombolo.dev/v1alpha1", "kind": "PodEndpoint",
        "metadata": { "name": "a", "labels": { "tombolo.dev/node": NODE } },
        "spec": {
            "node": NODE, "pod": "a", "podUid": "1", "network": "tombolo", "containerId": "c", "ifname": "eth0",
            "hostIfname": "tmb0", "state": "Ready",
        },
    });
    let endpoints = format!("{GROUP}/namespaces/default/podendpoints");
    world.api.create(&endpoints, &endpoint).await?;
    world.reclaiming = true;
    let terminate = TerminateInstance {
        instance: world.instance.id.clone(),
    };
    world.cloud.lab(&terminate).await?;
    world.api.delete(&format!("/api/v1/nodes/{NODE}")).await?;
    world
        .settle("nothing is left", async |world| {
            let mut left = world.nics().await?.len();
            for kind in ["enis", "netresourcesets", "podendpoints"] {
                left += world.api.list(&format!("{GROUP}/{kind}")).await?.len();
            }
            Ok(left == 0)
        })
        .await?;
    world.end_operator().await?;
    let holder = holder(world).await?;
    ensure!(
        holder.as_deref().is_none_or(str::is_empty),
        "the lease is held by {holder:?}"
    );
    Ok(())
}

#[test]
fn the_agent_killed_at_every_write_of_an_object_says_the_truth_afterwards() {
    scenario(
        Topology::with("objectpoints", 1, "t3.medium", 0),
        async |mut lab| {
            let orders = orders("tombolo-agent", |point| point.starts_with("object."));
            ensure!(orders.len() >= 10, "{orders:?}");
            let api = Api::new(&lab.api_url)?;
            let running = create(&api, "stays").await?;
            for order in orders {
                reach(&mut lab, &api, &order)
                    .await
                    .with_context(|| order.clone())?;
                restart(&mut lab, None)?;
                up::wait_ready(&lab, Duration::from_secs(20)).await?;
                pods::delete(&api, "comes").await?;
                wait_gone(&api, "comes").await?;
                up::wait_for("the agent answers", Duration::from_secs(20), async || {
                    Ok(tombolo_lab::check::settle(&lab, Duration::ZERO)
                        .await
                        .is_ok())
                })
                .await?;
                let violations = tombolo_lab::check::settle(&lab, Duration::from_secs(15)).await?;
                ensure!(
                    violations.is_empty(),
                    "{order}: {}",
                    crate::support::lines(&violations)
                );
            }
            let now = pods::running(&api).await?;
            ensure!(
                now["stays"].ips == running,
                "the pod that stayed has other addresses"
            );
            Ok(())
        },
    );
}

async fn create(api: &Api, name: &str) -> Result<Vec<std::net::IpAddr>> {
    pods::create(api, &pods::manifest(name, None, &probe(), &[])).await?;
    up::wait_for(name, Duration::from_secs(30), async || {
        Ok(pods::running(api).await?.contains_key(name))
    })
    .await?;
    Ok(pods::running(api).await?[name].ips.clone())
}

async fn wait_gone(api: &Api, name: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    up::wait_for("the pod's end", Duration::from_secs(30), async || {
        Ok(api.find(&path).await?.is_none())
    })
    .await
}

/// Ends the agent, where one runs, and starts another.
fn restart(lab: &mut Lab, order: Option<&str>) -> Result<()> {
    if let Some(agent) = &lab.nodes[0].agent {
        agent.kill()?;
    }
    let mut with = lab.clone();
    if let Some(order) = order {
        let arguments = ["--failpoint".to_owned(), order.to_owned()];
        with.topology.agent_args.extend(arguments);
    }
    lab.nodes[0].agent = Some(up::start_agent(&with, &lab.nodes[0])?);
    lab.save()
}

/// Brings everything about that makes the agent write objects, until it has died at its failpoint.
async fn reach(lab: &mut Lab, api: &Api, order: &str) -> Result<()> {
    let set = format!("{GROUP}/netresourcesets/node1");
    if let Some(agent) = &lab.nodes[0].agent {
        agent.kill()?;
    }
    // Somebody meddled with what the agent wrote, while it was away.
    let endpoints = api.list(&format!("{GROUP}/podendpoints")).await?;
    for endpoint in &endpoints {
        let path = format!(
            "{GROUP}/namespaces/{}/podendpoints/{}",
            text(endpoint, "/metadata/namespace"),
            text(endpoint, "/metadata/name")
        );
        let wrong = json!({ "spec": { "hostIfname": "wrong" } });
        api.merge(&path, &wrong).await?;
    }
    restart(lab, Some(order))?;
    let agent = lab.nodes[0].agent.clone().context("an agent was started")?;
    // A pod comes and goes.
    pods::create(api, &pods::manifest("comes", None, &probe(), &[])).await?;
    let attached = up::wait_for(
        "a pod, or the agent's end",
        Duration::from_secs(30),
        async || Ok(!agent.alive() || pods::running(api).await?.contains_key("comes")),
    );
    attached.await?;
    if order.starts_with("object.endpoint-delete") {
        up::wait_for("its PodEndpoint", Duration::from_secs(10), async || {
            let all = api.list(&format!("{GROUP}/podendpoints")).await?;
            Ok(all.iter().any(|pep| text(pep, "/spec/pod") == "comes"))
        })
        .await?;
        pods::delete(api, "comes").await?;
    }
    // A specification that cannot be read is told of.
    let cidrs = api.get(&set).await?["spec"]["vpcCidrs"].clone();
    let is_event = order.starts_with("object.event");
    if is_event {
        let bad = json!({ "spec": { "vpcCidrs": ["nonsense"] } });
        api.merge(&set, &bad).await?;
    }
    let died = up::wait_for("the failpoint", Duration::from_secs(20), async || {
        Ok(!agent.alive())
    });
    let died = died.await;
    if is_event {
        api.merge(&set, &json!({ "spec": { "vpcCidrs": cidrs } }))
            .await?;
    }
    died?;
    let log = std::fs::read_to_string(lab.log("agent-node1"))?;
    ensure!(
        log.contains(&format!("failpoint {order}@1=kill")),
        "the agent died of something else"
    );
    Ok(())
}
