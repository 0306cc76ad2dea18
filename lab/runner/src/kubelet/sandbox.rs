//! A pod's sandbox: its namespace and what the plugins make in it. Calls block, so they run on threads for that.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use serde_json::{Map, Value, json};

use super::Context;
use super::state::{PodState, Sandbox};
use crate::cni::{Cancel, NetworkList, RunError, RuntimeConf};
use crate::netns::NamedNetns;

/// The interface that every pod has.
const IFNAME: &str = "eth0";

/// How making a sandbox went.
#[derive(Debug, PartialEq, Eq)]
pub enum Attached {
    /// These are the pod's addresses, IPv4 first. A container runtime has named the namespace itself.
    Ready {
        ips: Vec<String>,
        netns: Option<String>,
    },
    /// For the event and the condition.
    Failed(String),
    /// The caller's interruption came first; the plugin was killed if it ran.
    Interrupted,
}

impl Sandbox {
    /// A sandbox to be made, with names of its own.
    pub fn plan(host_network: bool) -> Result<Self> {
        let id = crate::ids::container_id().context("make a sandbox id")?;
        let uuid = crate::ids::uuid().context("make a namespace name")?;
        let netns = (!host_network).then(|| format!("cni-{uuid}"));
        Ok(Self {
            id,
            netns,
            ..Self::default()
        })
    }

    /// Its namespace; absent in the host's.
    pub fn namespace(&self, context: &Context) -> Option<NamedNetns> {
        self.netns
            .as_deref()
            .map(|name| NamedNetns::existing(&context.args.netns_dir, name))
    }

    /// Whether it can still hold containers.
    pub fn usable(&self, context: &Context) -> bool {
        self.attached
            && self
                .namespace(context)
                .is_none_or(|netns| netns.open().is_ok())
    }
}

/// Makes the namespace and runs ADD, or has the container runtime do so.
pub async fn attach(
    context: &Arc<Context>,
    object: &Pod,
    pod: &PodState,
    sandbox: &Sandbox,
    interrupted: impl Future<Output = ()>,
) -> Result<Attached> {
    let host_ips = || {
        context
            .args
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    if let Some(runtime) = &context.runtime {
        // Not interrupted, as with a kubelet: a sandbox that is under way cannot be found yet, and so not be taken down.
        return Ok(match runtime.run(object, pod, sandbox).await {
            Ok((None, _)) => Attached::Ready {
                ips: host_ips(),
                netns: None,
            },
            Ok((netns, ips)) => Attached::Ready { ips, netns },
            Err(error) => Attached::Failed(format!("Failed to create pod sandbox: {error:#}")),
        });
    }
    let Some(name) = sandbox.netns.clone() else {
        return Ok(Attached::Ready {
            ips: host_ips(),
            netns: None,
        });
    };
    let cancel = Cancel::new().context("make a cancel handle")?;
    let (shared, handle, rt) = (
        Arc::clone(context),
        cancel.clone(),
        runtime_conf(context, pod, sandbox),
    );
    let mut call = tokio::task::spawn_blocking(move || add(&shared, &name, rt, &handle));
    let mut was_interrupted = false;
    let outcome = tokio::select! {
        outcome = &mut call => outcome,
        () = interrupted => {
            was_interrupted = true;
            cancel.pull().context("cancel an ADD")?;
            call.await
        }
    };
    match outcome.context("the thread of an ADD died")? {
        // The answer came all the same, but nobody wants it any more.
        Ok(_) | Err(_) if was_interrupted => Ok(Attached::Interrupted),
        Ok(ips) => Ok(Attached::Ready {
            ips,
            netns: sandbox.netns.clone(),
        }),
        Err(message) => Ok(Attached::Failed(message)),
    }
}

fn add(
    context: &Context,
    name: &str,
    rt: RuntimeConf,
    cancel: &Cancel,
) -> Result<Vec<String>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("Failed to create pod sandbox: {error}");
    let list =
        NetworkList::load_first(&context.args.cni_conf_dir).map_err(|error| failed(&error))?;
    let list = list.ok_or_else(|| failed(&"no CNI configuration found"))?;
    NamedNetns::create(&context.args.netns_dir, name).map_err(|error| failed(&error))?;
    let id = rt.container_id.clone();
    let added = context
        .runner
        .add(&list, &rt, Some(cancel))
        .map_err(|error: RunError| {
            failed(&format!(
                "failed to setup network for sandbox {id:?}: {}",
                error.full()
            ))
        });
    let ips = addresses(&added?, IFNAME, &rt.netns);
    if ips.is_empty() {
        Err(failed(&"the result holds no address of the pod"))
    } else {
        Ok(ips)
    }
}

/// Runs DEL and removes the namespace; may be repeated until it succeeds.
pub async fn detach(context: &Arc<Context>, pod: &PodState, sandbox: &Sandbox) -> Result<()> {
    if let Some(runtime) = &context.runtime {
        return runtime.take_down(pod, sandbox).await;
    }
    let Some(netns) = sandbox.namespace(context) else {
        return Ok(());
    };
    let mut rt = runtime_conf(context, pod, sandbox);
    let context = Arc::clone(context);
    let call = tokio::task::spawn_blocking(move || {
        if !Path::new(&rt.netns).exists() {
            rt.netns.clear();
        }
        let list = NetworkList::load_first(&context.args.cni_conf_dir)
            .context("load the CNI configuration")?;
        let list = list.context("no CNI configuration found")?;
        if let Err(error) = context.runner.del(&list, &rt) {
            anyhow::bail!(
                "failed to destroy network for sandbox {:?}: {}",
                rt.container_id,
                error.full()
            );
        }
        netns.remove().context("remove the pod's namespace")
    });
    call.await.context("the thread of a DEL died")?
}

fn runtime_conf(context: &Context, pod: &PodState, sandbox: &Sandbox) -> RuntimeConf {
    let netns = sandbox
        .namespace(context)
        .map(|netns| netns.path().to_string_lossy().into_owned());
    RuntimeConf {
        container_id: sandbox.id.clone(),
        netns: netns.unwrap_or_default(),
        ifname: IFNAME.to_owned(),
        args: cni_args(pod, &sandbox.id),
        capabilities: capabilities(pod),
    }
}

fn capabilities(pod: &PodState) -> Map<String, Value> {
    let ports = pod.port_mappings.clone();
    let ports = (!ports.is_empty()).then(|| ("portMappings".to_owned(), Value::Array(ports)));
    ports.into_iter().collect()
}

/// Host ports of a pod's containers, spelled as containerd does.
pub fn port_mappings(pod: &Pod) -> Vec<Value> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let one = |port: &ContainerPort| {
        let host_port = port.host_port.filter(|host_port| *host_port > 0)?;
        Some(json!({
            "HostPort": host_port,
            "ContainerPort": port.container_port,
            "Protocol": port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
            "HostIP": port.host_ip.as_deref().unwrap_or_default(),
        }))
    };
    ports.filter_map(one).collect()
}

/// What containerd passes, in an order that differs from sandbox to sandbox, as it does there.
fn cni_args(pod: &PodState, id: &str) -> Vec<(String, String)> {
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut args = vec![
        pair("IgnoreUnknown", "1"),
        pair("K8S_POD_NAMESPACE", &pod.namespace),
        pair("K8S_POD_NAME", &pod.name),
        pair("K8S_POD_INFRA_CONTAINER_ID", id),
        pair("K8S_POD_UID", &pod.uid),
    ];
    let turn = id.bytes().map(usize::from).sum::<usize>() % args.len();
    args.rotate_left(turn);
    args
}

/// The addresses of the pod's interface in a result, without length: the first IPv4, then the first IPv6.
fn addresses(result: &Value, ifname: &str, netns: &str) -> Vec<String> {
    let interfaces = result["interfaces"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let ours = |ip: &&Value| match ip["interface"].as_u64() {
        // A result need not say whose an address is; then it is the container's.
        None => true,
        Some(index) => usize::try_from(index)
            .ok()
            .and_then(|index| interfaces.get(index))
            .is_some_and(|interface| interface["name"] == ifname && interface["sandbox"] == netns),
    };
    let ips = result["ips"].as_array().into_iter().flatten().filter(ours);
    let ips: Vec<_> = ips
        .filter_map(|ip| ip["address"].as_str()?.split('/').next())
        .collect();
    let first = |v6: bool| {
        ips.iter()
            .find(|ip| ip.contains(':') == v6)
            .map(|ip| (*ip).to_owned())
    };
    [first(false), first(true)].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports_are_passed_as_containerd_does() {
        let ports = json!([
            { "containerPort": 80 },
            { "containerPort": 80, "hostPort": 8080 },
            { "containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "10.0.0.1" },
        ]);
        let containers = json!([{ "name": "a" }, { "name": "b", "ports": ports }]);
        let pod = serde_json::from_value(json!({ "spec": { "containers": containers } })).unwrap();
        let mut state = PodState::new("u-1", "shop", "web");
        assert_eq!(capabilities(&state), Map::new());
        state.port_mappings = port_mappings(&pod);
        let wanted = json!([
            { "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" },
            { "HostPort": 53, "ContainerPort": 53, "Protocol": "udp", "HostIP": "10.0.0.1" },
        ]);
        assert_eq!(
            Value::from(capabilities(&state)),
            json!({ "portMappings": wanted })
        );
    }

    #[test]
    fn arguments_are_those_of_containerd_in_any_order() {
        let pod = PodState::new("u-1", "shop", "web");
        let mut orders = std::collections::BTreeSet::new();
        for id in ["a", "b", "c", "d", "e"] {
            let args = cni_args(&pod, id);
            orders.insert(args[0].0.clone());
            let mut sorted: Vec<_> = args
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            sorted.sort();
            let infra = format!("K8S_POD_INFRA_CONTAINER_ID={id}");
            let expected = [
                "IgnoreUnknown=1",
                &infra,
                "K8S_POD_NAME=web",
                "K8S_POD_NAMESPACE=shop",
                "K8S_POD_UID=u-1",
            ];
            assert_eq!(sorted, expected);
        }
        assert_eq!(orders.len(), 5);
    }

    #[test]
    fn takes_the_pods_own_addresses_ipv4_first() {
        let result = json!({
            "interfaces": [{ "name": "eth0", "sandbox": "" }, { "name": "eth0", "sandbox": "/n" }],
            "ips": [
                { "address": "192.0.2.1/24", "interface": 0 }, { "address": "fd00::1/128", "interface": 1 },
                { "address": "10.0.0.1/32", "interface": 1 }, { "address": "10.0.0.2/32", "interface": 1 },
            ],
        });
        assert_eq!(addresses(&result, "eth0", "/n"), ["10.0.0.1", "fd00::1"]);
        assert_eq!(
            addresses(
                &json!({ "ips": [{ "address": "fd00::2/64" }] }),
                "eth0",
                "/n"
            ),
            ["fd00::2"]
        );
        assert_eq!(addresses(&json!({}), "eth0", "/n"), Vec::<String>::new());
    }
}
