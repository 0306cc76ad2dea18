//! The client of the Container Runtime Interface: one HTTP/2 connection to the runtime's unix socket.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, bail};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::codegen::Service;

pub use crate::generated::*;

use image_service_client::ImageServiceClient;
use runtime_service_client::RuntimeServiceClient;

/// Longest reply in bytes: lists of a hundred pods, and output of commands.
const MAX_REPLY: usize = 16 << 20;

/// One connection; clones share it. It does not reconnect.
#[derive(Clone, Debug)]
pub struct Transport(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// A runtime. Errors hold the operation, whom it was for, and the runtime's own words.
#[derive(Clone, Debug)]
pub struct Cri(
    RuntimeServiceClient<Transport>,
    ImageServiceClient<Transport>,
);

/// What a command in a container said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cri {
    /// Connects to the runtime that listens on `socket`.
    ///
    /// # Errors
    /// Where nothing listens there, or what listens does not speak HTTP/2.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.with_context(|| format!("connect to {}", socket.display()))?;
        let io = TokioIo::new(stream);
        let greeted = http2::handshake(TokioExecutor::new(), io).await;
        let (sender, connection) =
            greeted.with_context(|| format!("greet the runtime on {}", socket.display()))?;
        // The connection's end shows in the calls made on it; there is nobody else to tell.
        tokio::spawn(async move {
            let _ended = connection.await;
        });
        let authority = http::Uri::from_static("http://localhost");
        let transport = Transport(sender);
        let client = RuntimeServiceClient::with_origin(transport.clone(), authority.clone());
        let client = client.max_decoding_message_size(MAX_REPLY);
        Ok(Self(
            client,
            ImageServiceClient::with_origin(transport, authority),
        ))
    }

    /// Name and version of the runtime.
    ///
    /// # Errors
    /// As all calls: what the runtime refused, or that it does not answer.
    pub async fn version(&self) -> Result<(String, String)> {
        let version = "v1".to_owned();
        let reply = self.0.clone().version(VersionRequest { version }).await;
        let reply = reply.map_err(told("Version", ""))?.into_inner();
        Ok((reply.runtime_name, reply.runtime_version))
    }

    /// Names of the images that it has.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn images(&self) -> Result<Vec<String>> {
        let reply = self.1.clone().list_images(ListImagesRequest {}).await;
        let reply = reply.map_err(told("ListImages", ""))?.into_inner();
        Ok(reply.images.into_iter().flat_map(|i| i.repo_tags).collect())
    }

    /// The condition of this type, and everything that the runtime tells people.
    ///
    /// # Errors
    /// As [`Cri::version`], and where there is no such condition.
    pub async fn condition(
        &self,
        kind: &str,
    ) -> Result<(RuntimeCondition, HashMap<String, String>)> {
        let reply = self.0.clone().status(StatusRequest { verbose: true }).await;
        let reply = reply.map_err(told("Status", ""))?.into_inner();
        let conditions = reply.status.unwrap_or_default().conditions;
        let found = conditions.into_iter().find(|c| c.r#type == kind);
        let found = found.with_context(|| format!("Status has no condition {kind}"))?;
        Ok((found, reply.info))
    }

    /// Starts a sandbox: namespaces and network. Its id.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn run_sandbox(&self, config: &PodSandboxConfig) -> Result<String> {
        let name = config.metadata.as_ref().map(|m| m.name.clone());
        let config = Some(config.clone());
        let runtime_handler = String::new();
        let request = RunPodSandboxRequest {
            config,
            runtime_handler,
        };
        let reply = self.0.clone().run_pod_sandbox(request).await;
        let reply = reply.map_err(told("RunPodSandbox", &name.unwrap_or_default()))?;
        Ok(reply.into_inner().pod_sandbox_id)
    }

    /// Ends a sandbox with its containers and takes its network away. May be repeated.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let pod_sandbox_id = id.to_owned();
        let request = StopPodSandboxRequest { pod_sandbox_id };
        let reply = self.0.clone().stop_pod_sandbox(request).await;
        reply.map(drop).map_err(told("StopPodSandbox", id))
    }

    /// Forgets a sandbox; it is stopped first where that was not done. May be repeated.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let pod_sandbox_id = id.to_owned();
        let request = RemovePodSandboxRequest { pod_sandbox_id };
        let reply = self.0.clone().remove_pod_sandbox(request).await;
        reply.map(drop).map_err(told("RemovePodSandbox", id))
    }

    /// What the runtime says of a sandbox, with what it tells people.
    ///
    /// # Errors
    /// As [`Cri::version`]; also where there is no such sandbox.
    pub async fn sandbox(&self, id: &str) -> Result<(PodSandboxStatus, HashMap<String, String>)> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: true,
        };
        let reply = self.0.clone().pod_sandbox_status(request).await;
        let reply = reply.map_err(told("PodSandboxStatus", id))?.into_inner();
        let status = reply.status.context("PodSandboxStatus without status")?;
        Ok((status, reply.info))
    }

    /// All sandboxes.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn sandboxes(&self) -> Result<Vec<PodSandbox>> {
        let mut client = self.0.clone();
        let reply = client.list_pod_sandbox(ListPodSandboxRequest {}).await;
        let reply = reply.map_err(told("ListPodSandbox", ""))?;
        Ok(reply.into_inner().items)
    }

    /// Makes a container in a sandbox; it does not run yet. Its id.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn create_container(
        &self,
        sandbox: &str,
        of: &PodSandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(of.clone()),
        };
        let reply = self.0.clone().create_container(request).await;
        let reply = reply.map_err(told("CreateContainer", sandbox))?;
        Ok(reply.into_inner().container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let container_id = id.to_owned();
        let request = StartContainerRequest { container_id };
        let reply = self.0.clone().start_container(request).await;
        reply.map(drop).map_err(told("StartContainer", id))
    }

    /// Asks a container to end, and kills it after so many seconds.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn stop_container(&self, id: &str, seconds: i64) -> Result<()> {
        let request = StopContainerRequest {
            container_id: id.to_owned(),
            timeout: seconds,
        };
        let reply = self.0.clone().stop_container(request).await;
        reply.map(drop).map_err(told("StopContainer", id))
    }

    /// Forgets a container.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let container_id = id.to_owned();
        let request = RemoveContainerRequest { container_id };
        let reply = self.0.clone().remove_container(request).await;
        reply.map(drop).map_err(told("RemoveContainer", id))
    }

    /// What the runtime says of a container; `None` where it knows none of this id.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn container(&self, id: &str) -> Result<Option<ContainerStatus>> {
        let container_id = id.to_owned();
        let request = ContainerStatusRequest {
            container_id,
            verbose: false,
        };
        match self.0.clone().container_status(request).await {
            Ok(reply) => Ok(reply.into_inner().status),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(told("ContainerStatus", id)(status)),
        }
    }

    /// Number of a running container's first process.
    ///
    /// # Errors
    /// As [`Cri::version`], and where it does not run.
    pub async fn pid(&self, id: &str) -> Result<i32> {
        let request = ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let reply = self.0.clone().container_status(request).await;
        let reply = reply.map_err(told("ContainerStatus", id))?.into_inner();
        let info = reply
            .info
            .get("info")
            .context("ContainerStatus without info")?;
        let info: serde_json::Value = serde_json::from_str(info).context("decode info")?;
        let pid = info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        pid.filter(|pid| *pid > 0)
            .with_context(|| format!("container {id} does not run"))
    }

    /// All containers.
    ///
    /// # Errors
    /// As [`Cri::version`].
    pub async fn containers(&self) -> Result<Vec<Container>> {
        let mut client = self.0.clone();
        let reply = client.list_containers(ListContainersRequest {}).await;
        let reply = reply.map_err(told("ListContainers", ""))?;
        Ok(reply.into_inner().containers)
    }

    /// Runs a command in a container until it ends.
    ///
    /// # Errors
    /// As [`Cri::version`]; a command that fails is none.
    pub async fn exec(&self, id: &str, command: &[&str]) -> Result<Output> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.iter().map(|word| (*word).to_owned()).collect(),
            timeout: 0,
        };
        let reply = self.0.clone().exec_sync(request).await;
        let reply = reply.map_err(told("ExecSync", id))?.into_inner();
        Ok(Output {
            code: reply.exit_code,
            stdout: String::from_utf8_lossy(&reply.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&reply.stderr).into_owned(),
        })
    }
}

impl PodSandboxNetworkStatus {
    /// The addresses in the runtime's order.
    ///
    /// # Errors
    /// Where the runtime shows something else.
    pub fn addresses(&self) -> Result<Vec<IpAddr>> {
        let others = self.additional_ips.iter().map(|other| other.ip.as_str());
        let mut found = Vec::new();
        for text in std::iter::once(self.ip.as_str()).chain(others) {
            match text.parse() {
                Ok(ip) => found.push(ip),
                Err(_) if text.is_empty() => {}
                Err(_) => bail!("the runtime shows {text:?} as an address"),
            }
        }
        Ok(found)
    }
}

fn told(operation: &'static str, subject: &str) -> impl FnOnce(tonic::Status) -> anyhow::Error {
    move |status| {
        let (code, words) = (status.code(), status.message());
        anyhow::anyhow!("{operation} {subject}: {code:?}: {words}")
    }
}
