//! Pods in a real container runtime, as the kubelet has them: sandboxes and containers by the Container Runtime Interface.
//!
//! A sandbox is known to the runtime by the pod's uid and a number of attempts that is kept before the call is made, so that
//! one whose making was cut short is found again.
//!
//! There are no images of users here. An image called `localhost/…` is the runtime's; any other stands for the machine's own
//! programs, which the container sees read-only.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::Value;
use tombolo_lab_runtime::cri::{
    self, ContainerConfig, ContainerMetadata, ContainerState, Cri, ImageSpec, KeyValue,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};
use tombolo_lab_runtime::images;

use super::KubeletArgs;
use super::command::Launch;
use super::state::{PodState, Sandbox};

/// Directories of the machine that containers do not see: what the runtime makes, and what is the node's.
const HIDDEN: [&str; 9] = [
    "boot",
    "dev",
    "etc",
    "lost+found",
    "proc",
    "run",
    "sys",
    "tmp",
    "var",
];
/// How long the runtime may take to note that a process has ended.
const NOTED: Duration = Duration::from_secs(20);

/// The runtime of this node.
#[derive(Clone, Debug)]
pub struct Runtime {
    cri: Cri,
    cgroup_parent: String,
    logs: PathBuf,
}

/// A container as the runtime started it.
#[derive(Debug)]
pub struct Started {
    pub id: String,
    pub pid: i32,
}

impl Runtime {
    /// The runtime that the arguments name, if they do.
    pub async fn connect(args: &KubeletArgs) -> Result<Option<Self>> {
        let Some(socket) = &args.runtime_endpoint else {
            return Ok(None);
        };
        let cri = Cri::connect(socket).await?;
        let (name, version) = cri.version().await?;
        tracing::info!(name, version, "pods run in containers");
        Ok(Some(Self {
            cri,
            cgroup_parent: args.cgroup_parent.clone(),
            logs: args.state_dir.join("logs"),
        }))
    }

    /// Why the runtime has no network for pods; `None` where it has.
    pub async fn network_problem(&self) -> Result<Option<String>> {
        let (condition, _) = self.cri.condition("NetworkReady").await?;
        Ok((!condition.status).then_some(condition.message))
    }

    /// Makes a sandbox: the name of its namespace, and its addresses, IPv4 first.
    pub async fn run(
        &self,
        pod: &Pod,
        state: &PodState,
        sandbox: &Sandbox,
    ) -> Result<(Option<String>, Vec<String>)> {
        let config = self.sandbox_config(pod, state, sandbox);
        let id = self.cri.run_sandbox(&config).await?;
        if sandbox.netns.is_none() {
            return Ok((None, Vec::new()));
        }
        let (status, info) = self.cri.sandbox(&id).await?;
        let mut addresses = status.network.unwrap_or_default().addresses()?;
        addresses.sort_by_key(|address| address.is_ipv6());
        let info = info.get("info").context("PodSandboxStatus without info")?;
        let info: Value = serde_json::from_str(info).context("decode a sandbox's info")?;
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array();
        let network = namespaces
            .into_iter()
            .flatten()
            .find(|namespace| namespace["type"] == "network");
        let path = network.and_then(|namespace| namespace["path"].as_str());
        let name = path.and_then(|path| path.rsplit('/').next());
        let name = name.with_context(|| format!("sandbox {id} shows no network namespace"))?;
        let addresses = addresses.iter().map(ToString::to_string).collect();
        Ok((Some(name.to_owned()), addresses))
    }

    /// Takes down every sandbox of this attempt; may be repeated.
    pub async fn take_down(&self, state: &PodState, sandbox: &Sandbox) -> Result<()> {
        while let Some(id) = self.find(state, sandbox).await? {
            self.cri.stop_sandbox(&id).await?;
            self.cri.remove_sandbox(&id).await?;
        }
        Ok(())
    }

    async fn find(&self, state: &PodState, sandbox: &Sandbox) -> Result<Option<String>> {
        let all = self.cri.sandboxes().await?;
        let ours = |metadata: &PodSandboxMetadata| {
            metadata.uid == state.uid && metadata.attempt == sandbox.attempt
        };
        let found = all
            .into_iter()
            .find(|s| s.metadata.as_ref().is_some_and(ours));
        Ok(found.map(|sandbox| sandbox.id))
    }

    /// Makes a container and starts it. One that does not start is removed again.
    pub async fn start(
        &self,
        pod: &Pod,
        state: &PodState,
        sandbox: &Sandbox,
        container: &Container,
        attempt: i32,
        launch: &Launch,
    ) -> Result<Started> {
        let Some(home) = self.find(state, sandbox).await? else {
            bail!("the sandbox of pod {} is gone", state.name);
        };
        let of = self.sandbox_config(pod, state, sandbox);
        let config = container_config(state, container, attempt, launch)?;
        let id = self.cri.create_container(&home, &of, &config).await?;
        let started = async {
            self.cri.start_container(&id).await?;
            let pid = self.cri.pid(&id).await?;
            Ok(Started {
                id: id.clone(),
                pid,
            })
        };
        match started.await {
            Ok(started) => Ok(started),
            Err(error) => {
                let error: anyhow::Error = error;
                match self.cri.remove_container(&id).await {
                    Ok(()) => Err(error),
                    Err(removal) => Err(error.context(format!("{removal:#}"))),
                }
            }
        }
    }

    /// The exit code of a container whose process has ended; `None` where nobody knows it.
    pub async fn exit_code(&self, id: &str) -> Result<Option<i32>> {
        let begin = tokio::time::Instant::now();
        loop {
            let Some(status) = self.cri.container(id).await? else {
                return Ok(None);
            };
            if status.state() == ContainerState::ContainerExited {
                return Ok(Some(status.exit_code));
            }
            if begin.elapsed() > NOTED {
                bail!("the process of container {id} has ended, and the runtime says otherwise");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Forgets a container; may be repeated.
    pub async fn remove(&self, id: &str) -> Result<()> {
        self.cri.remove_container(id).await
    }

    fn sandbox_config(&self, pod: &Pod, state: &PodState, sandbox: &Sandbox) -> PodSandboxConfig {
        let map = |map: &Option<std::collections::BTreeMap<String, String>>| {
            map.clone().unwrap_or_default().into_iter().collect()
        };
        let network = match sandbox.netns {
            Some(_) => NamespaceMode::Pod,
            None => NamespaceMode::Node,
        };
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let ports = containers.flat_map(|container| container.ports.iter().flatten());
        let port_mappings = ports.filter_map(|port| {
            Some(PortMapping {
                protocol: protocol(port.protocol.as_deref()).into(),
                container_port: port.container_port,
                host_port: port.host_port?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        });
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: state.name.clone(),
                uid: state.uid.clone(),
                namespace: state.namespace.clone(),
                attempt: sandbox.attempt,
            }),
            // The node's name where the namespace is the node's.
            hostname: match sandbox.netns {
                Some(_) => state.name.clone(),
                None => String::new(),
            },
            log_directory: self.logs.to_string_lossy().into_owned(),
            port_mappings: port_mappings.collect(),
            labels: map(&pod.metadata.labels),
            annotations: map(&pod.metadata.annotations),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.clone(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption {
                        network: network.into(),
                        ..NamespaceOption::default()
                    }),
                }),
            }),
            ..PodSandboxConfig::default()
        }
    }
}

fn protocol(word: Option<&str>) -> Protocol {
    match word {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn container_config(
    state: &PodState,
    container: &Container,
    attempt: i32,
    launch: &Launch,
) -> Result<ContainerConfig> {
    let asked = container.image.as_deref().unwrap_or_default();
    let (image, mounts) = if asked.starts_with("localhost/") {
        (asked, Vec::new())
    } else {
        (images::NAME, host_programs(&launch.program)?)
    };
    let env = launch.env.iter().map(|(key, value)| KeyValue {
        key: key.clone(),
        value: value.clone().into_bytes(),
    });
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: container.name.clone(),
            attempt: u32::try_from(attempt).context("number of restarts")?,
        }),
        image: Some(ImageSpec {
            image: image.to_owned(),
        }),
        command: vec![launch.program.clone()],
        args: launch.args.clone(),
        working_dir: launch.working_dir.clone().unwrap_or_default(),
        envs: env.collect(),
        mounts,
        log_path: format!("{}_{}_{}.log", state.namespace, state.name, container.name),
        ..ContainerConfig::default()
    })
}

/// The machine's directories, where it has them, and that of the `program` itself.
fn host_programs(program: &str) -> Result<Vec<cri::Mount>> {
    let mut mounts = Vec::new();
    let first = program
        .strip_prefix('/')
        .and_then(|path| path.split('/').next());
    if first.is_some_and(|first| HIDDEN.contains(&first))
        && let Some((home, _)) = program.rsplit_once('/')
    {
        mounts.push(cri::Mount {
            container_path: home.to_owned(),
            host_path: home.to_owned(),
            readonly: true,
        });
    }
    for entry in std::fs::read_dir("/").context("read /")? {
        let entry = entry.context("read /")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if HIDDEN.contains(&name.as_str()) || !entry.path().is_dir() {
            continue;
        }
        let path = format!("/{name}");
        mounts.push(cri::Mount {
            container_path: path.clone(),
            host_path: path,
            readonly: true,
        });
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::serde_json::{from_value, json};

    use super::*;

    #[test]
    fn images_of_users_are_the_machines_programs() {
        let state = PodState::new("u", "shop", "web");
        let launch = Launch {
            program: "/tmp/build/true".into(),
            args: vec!["x".into()],
            env: [("A".to_owned(), "b".to_owned())].into(),
            working_dir: None,
        };
        let of = |image: &str| {
            let container = from_value(json!({ "name": "c", "image": image })).unwrap();
            container_config(&state, &container, 3, &launch).unwrap()
        };
        let host = of("registry.example/x:1");
        let paths: Vec<_> = host.mounts.iter().map(|m| m.host_path.as_str()).collect();
        assert!(
            paths.contains(&"/usr") && paths.contains(&"/tmp/build") && !paths.contains(&"/run"),
            "{paths:?}"
        );
        assert!(host.mounts.iter().all(|mount| mount.readonly));
        assert_eq!(host.log_path, "shop_web_c.log");
        assert_eq!(host.metadata.unwrap().attempt, 3);
        let own = of(images::NAME);
        assert_eq!(
            (own.mounts.len(), own.image.unwrap().image.as_str()),
            (0, images::NAME)
        );
    }
}
