//! The Node object: registration, signs of life, and whether the network is ready.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::cri::Runtime;
use super::{Context, KubeletArgs};
use crate::cni::NetworkList;

/// How often the network's readiness is looked at.
const LOOK: Duration = Duration::from_millis(250);
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Creates the Node, or takes over the one that is there: its taints and labels are then left as they are.
pub async fn register(context: &Context) -> Result<()> {
    let args = &context.args;
    let api: Api<Node> = Api::all(context.api.clone());
    let node: Node = serde_json::from_value(object(args)).context("build the Node object")?;
    match api.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let there = api
                .get(&args.node)
                .await
                .with_context(|| format!("read Node {}", args.node))?;
            let had = there.spec.and_then(|spec| spec.provider_id);
            match (&had, &args.provider_id) {
                (Some(had), Some(ours)) if had != ours => {
                    bail!(
                        "Node {} has providerID {had:?}, this is {ours:?}",
                        args.node
                    )
                }
                (None, Some(ours)) => {
                    let patch = Patch::Merge(json!({ "spec": { "providerID": ours } }));
                    let patched = api.patch(&args.node, &PatchParams::default(), &patch).await;
                    patched.with_context(|| format!("set providerID of Node {}", args.node))?;
                }
                _ => {}
            }
        }
        Err(error) => return Err(error).with_context(|| format!("create Node {}", args.node)),
    }
    let status = Patch::Merge(json!({ "status": fixed_status(args) }));
    let patched = api
        .patch_status(&args.node, &PatchParams::default(), &status)
        .await;
    patched.with_context(|| format!("write status of Node {}", args.node))?;
    tracing::info!(node = args.node, "registered");
    Ok(())
}

/// Keeps the Ready condition and the lease fresh; never returns.
pub async fn heartbeat(context: &Context) {
    let every = Duration::from_secs(context.args.heartbeat_seconds);
    let mut lease_made = false;
    let mut last: Option<(Readiness, Instant)> = None;
    let mut since = Timestamp::now();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let ready = readiness(&context.args, context.runtime.as_ref()).await;
        let changed = last
            .as_ref()
            .is_none_or(|(before, _)| before.is_ready() != ready.is_ready());
        let due = last
            .as_ref()
            .is_none_or(|(before, at)| *before != ready || at.elapsed() >= every);
        if !due {
            continue;
        }
        if changed {
            since = Timestamp::now();
            tracing::info!(node = context.args.node, ready = ?ready, "network readiness");
        }
        match beat(context, &ready, since, &mut lease_made).await {
            Ok(()) => last = Some((ready, Instant::now())),
            Err(error) => tracing::warn!(node = context.args.node, "heartbeat: {error:#}"),
        }
    }
}

async fn beat(
    context: &Context,
    ready: &Readiness,
    since: Timestamp,
    lease_made: &mut bool,
) -> Result<()> {
    let name = &context.args.node;
    let api: Api<Node> = Api::all(context.api.clone());
    // Strategic: the conditions that the agent keeps stay.
    let conditions =
        Patch::Strategic(json!({ "status": { "conditions": conditions(ready, since) } }));
    let node = api
        .patch_status(name, &PatchParams::default(), &conditions)
        .await
        .context("write conditions")?;

    let leases: Api<Lease> = Api::namespaced(context.api.clone(), LEASE_NAMESPACE);
    let renewed = MicroTime(Timestamp::now());
    if *lease_made {
        let patch = Patch::Merge(json!({ "spec": { "renewTime": renewed } }));
        leases
            .patch(name, &PatchParams::default(), &patch)
            .await
            .context("renew lease")?;
        return Ok(());
    }
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.clone(),
        uid: node.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.clone()),
            lease_duration_seconds: Some(40),
            renew_time: Some(renewed),
            ..LeaseSpec::default()
        }),
    };
    match leases.create(&PostParams::default(), &lease).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error).context("create lease"),
    }
    *lease_made = true;
    Ok(())
}

/// Whether pods can get a network.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Readiness {
    Ready,
    NoConfiguration,
    BadConfiguration(String),
    NoAgent(String),
}

impl Readiness {
    fn is_ready(&self) -> bool {
        *self == Self::Ready
    }

    fn message(&self) -> String {
        let prefix = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:";
        match self {
            Self::Ready => "kubelet is posting ready status".to_owned(),
            Self::NoConfiguration => format!("{prefix}no CNI configuration found"),
            Self::BadConfiguration(error) => format!("{prefix}{error}"),
            Self::NoAgent(error) => format!("{prefix}the agent does not listen: {error}"),
        }
    }
}

async fn readiness(args: &KubeletArgs, runtime: Option<&Runtime>) -> Readiness {
    if let Some(runtime) = runtime {
        match runtime.network_problem().await {
            Ok(None) => {}
            Ok(Some(problem)) => return Readiness::BadConfiguration(problem),
            Err(error) => return Readiness::BadConfiguration(format!("{error:#}")),
        }
    }
    match NetworkList::load_first(&args.cni_conf_dir) {
        Ok(None) => Readiness::NoConfiguration,
        Err(error) => Readiness::BadConfiguration(error.to_string()),
        Ok(Some(_)) => match UnixStream::connect(&args.agent_socket).await {
            Ok(_) => Readiness::Ready,
            Err(error) => Readiness::NoAgent(format!("{}: {error}", args.agent_socket.display())),
        },
    }
}

fn conditions(ready: &Readiness, since: Timestamp) -> Value {
    let (now, since) = (Time(Timestamp::now()), Time(since));
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": since,
        })
    };
    let reason = if ready.is_ready() {
        "KubeletReady"
    } else {
        "KubeletNotReady"
    };
    json!([
        condition(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available"
        ),
        condition(
            "DiskPressure",
            false,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure"
        ),
        condition(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available"
        ),
        condition("Ready", ready.is_ready(), reason, &ready.message()),
    ])
}

fn object(args: &KubeletArgs) -> Value {
    let mut spec = json!({});
    if let Some(id) = &args.provider_id {
        spec["providerID"] = json!(id);
    }
    if !args.startup_taint.is_empty() {
        spec["taints"] = json!([{ "key": args.startup_taint, "effect": "NoSchedule" }]);
    }
    let labels = json!({
        "kubernetes.io/hostname": args.node, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
    });
    json!({ "metadata": { "name": args.node, "labels": labels }, "spec": spec })
}

fn fixed_status(args: &KubeletArgs) -> Value {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let resources =
        json!({ "cpu": cpus.to_string(), "memory": memory(), "pods": args.max_pods.to_string() });
    let internal = |ip: IpAddr| json!({ "type": "InternalIP", "address": ip });
    let mut addresses: Vec<_> = args.addresses().into_iter().map(internal).collect();
    addresses.push(json!({ "type": "Hostname", "address": args.node }));
    json!({
        "addresses": addresses, "capacity": resources, "allocatable": resources,
        "daemonEndpoints": { "kubeletEndpoint": { "Port": 0 } },
        "nodeInfo": {
            "machineID": args.node, "systemUUID": args.node, "bootID": args.node, "kernelVersion": kernel(),
            "osImage": "lab", "containerRuntimeVersion": "processes://0", "kubeletVersion": "v1.33.0-stand-in",
            "kubeProxyVersion": "", "operatingSystem": "linux", "architecture": "amd64",
        },
    })
}

/// For people only: what cannot be read is shown as unknown.
fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
    release.map_or_else(
        |_unreadable| "unknown".to_owned(),
        |text| text.trim().to_owned(),
    )
}

/// The machine's memory as a quantity; 1Gi where it cannot be read (nothing here schedules by memory).
fn memory() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next());
    kib.map_or_else(|| "1Gi".to_owned(), |kib| format!("{kib}Ki"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: KubeletArgs,
    }

    fn args(words: &[&str]) -> KubeletArgs {
        let base = [
            "kubelet",
            "--node",
            "n1",
            "--api",
            "http://127.0.0.1:1",
            "--node-ip",
            "fd00::1",
            "--node-ip",
            "10.0.0.1",
        ];
        Cli::try_parse_from(base.iter().chain(words)).unwrap().args
    }

    #[test]
    fn registers_with_identity_addresses_and_taint() {
        let args = args(&["--provider-id", "sim:///z/i-1", "--max-pods", "7"]);
        let node: Node = serde_json::from_value(object(&args)).unwrap();
        let spec = node.spec.unwrap();
        assert_eq!(spec.provider_id.as_deref(), Some("sim:///z/i-1"));
        let taint = &spec.taints.unwrap()[0];
        assert_eq!(
            (taint.key.as_str(), taint.effect.as_str()),
            ("tombolo.dev/agent-not-ready", "NoSchedule")
        );
        let status: k8s_openapi::api::core::v1::NodeStatus =
            serde_json::from_value(fixed_status(&args)).unwrap();
        assert_eq!(status.allocatable.unwrap()["pods"].0, "7");
        let addresses: Vec<_> = status
            .addresses
            .unwrap()
            .into_iter()
            .map(|a| a.address)
            .collect();
        assert_eq!(addresses, ["10.0.0.1", "fd00::1", "n1"]);
    }

    #[tokio::test]
    async fn is_ready_with_a_configuration_and_an_agent() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let conf = dir.path().join("net.d");
        let words = [
            "--agent-socket",
            socket.to_str().unwrap(),
            "--cni-conf-dir",
            conf.to_str().unwrap(),
        ];
        let args = args(&words);
        assert_eq!(readiness(&args, None).await, Readiness::NoConfiguration);
        std::fs::create_dir(&conf).unwrap();
        std::fs::write(conf.join("10-a.conflist"), "{").unwrap();
        assert!(matches!(
            readiness(&args, None).await,
            Readiness::BadConfiguration(_)
        ));
        std::fs::write(conf.join("10-a.conflist"), r#"{"name":"a","type":"b"}"#).unwrap();
        assert!(matches!(
            readiness(&args, None).await,
            Readiness::NoAgent(_)
        ));
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(readiness(&args, None).await, Readiness::Ready);
        drop(listener);
        assert!(
            !readiness(&args, None).await.is_ready(),
            "a socket that nobody listens on is no agent"
        );
    }
}
