//! An agent that answers by script, over the real contract, and counts what it was asked.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tombolo_rpc::node_server::Node;
use tombolo_rpc::{
    AddReply, AddRequest, Address, Attachment, CheckReply, CheckRequest, DelReply, DelRequest,
    Failure, GcReply, GcRequest, Route, StatusReply, StatusRequest,
};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// How it answers.
#[derive(Clone, Debug, Default)]
pub enum Script {
    /// All is well.
    #[default]
    Succeed,
    /// With this failure.
    Refuse(Failure),
    /// Never.
    Silence,
}

#[derive(Debug, Default)]
struct State {
    script: Mutex<Script>,
    asked: Mutex<Vec<Asked>>,
}

/// What it was asked.
#[derive(Clone, Debug)]
pub enum Asked {
    /// AddNetwork.
    Add(Box<AddRequest>),
    /// DelNetwork.
    Del,
    /// CheckNetwork.
    Check,
    /// Status.
    Status,
    /// GarbageCollect.
    Gc,
}

/// A running agent.
#[derive(Debug)]
pub struct FakeAgent {
    state: Arc<State>,
    runtime: Option<Runtime>,
    socket: PathBuf,
}

impl FakeAgent {
    /// Listens at `socket`.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn start(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start a runtime")?;
        let state = Arc::new(State::default());
        let guard = runtime.enter();
        let listener = UnixListener::bind(socket).context("listen as an agent")?;
        let service = tombolo_rpc::server(Service(Arc::clone(&state)));
        let server = Server::builder().add_service(service);
        drop(runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener))));
        drop(guard);
        Ok(Self {
            state,
            runtime: Some(runtime),
            socket: socket.to_owned(),
        })
    }

    /// From now on it answers so.
    pub fn answer(&self, script: Script) {
        *lock(&self.state.script) = script;
    }

    /// What it was asked since this was asked last.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut lock(&self.state.asked))
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        drop(std::fs::remove_file(&self.socket));
    }
}

/// A case that panicked leaves what it had written.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What it says that it made: IPv6 before IPv4, to see what the plugin makes of it.
#[must_use]
pub fn attachment() -> Attachment {
    let address = |cidr: &str, gateway: &str| Address {
        cidr: cidr.into(),
        gateway: gateway.into(),
    };
    let route = |dst: &str, gateway: &str| Route {
        dst: dst.into(),
        gateway: gateway.into(),
        table: 0,
    };
    Attachment {
        host_ifname: "tmb0123456789ab".into(),
        host_mac: "02:00:00:00:00:01".into(),
        pod_mac: "02:00:00:00:00:00".into(),
        mtu: 9001,
        addresses: vec![
            address("fd00::7/128", "fe80::1"),
            address("10.0.1.7/32", "169.254.1.1"),
        ],
        routes: vec![
            route("169.254.1.1/32", ""),
            route("0.0.0.0/0", "169.254.1.1"),
            route("::/0", "fe80::1"),
        ],
    }
}

struct Service(Arc<State>);

impl Service {
    async fn answer<T>(
        &self,
        asked: Asked,
        success: T,
        failure: impl FnOnce(Failure) -> T,
    ) -> Result<Response<T>, Status> {
        lock(&self.0.asked).push(asked);
        let script = lock(&self.0.script).clone();
        match script {
            Script::Succeed => Ok(Response::new(success)),
            Script::Refuse(reason) => Ok(Response::new(failure(reason))),
            Script::Silence => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl Node for Service {
    async fn add_network(
        &self,
        request: Request<AddRequest>,
    ) -> Result<Response<AddReply>, Status> {
        let asked = Asked::Add(Box::new(request.into_inner()));
        self.answer(asked, attachment().into(), Into::into).await
    }

    async fn del_network(&self, _: Request<DelRequest>) -> Result<Response<DelReply>, Status> {
        let failed = |failure| DelReply {
            failure: Some(failure),
        };
        self.answer(Asked::Del, DelReply::default(), failed).await
    }

    async fn check_network(
        &self,
        _: Request<CheckRequest>,
    ) -> Result<Response<CheckReply>, Status> {
        let failed = |failure| CheckReply {
            failure: Some(failure),
        };
        self.answer(Asked::Check, CheckReply::default(), failed)
            .await
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let failed = |failure| StatusReply {
            failure: Some(failure),
            ..StatusReply::default()
        };
        self.answer(Asked::Status, StatusReply::default(), failed)
            .await
    }

    async fn garbage_collect(&self, _: Request<GcRequest>) -> Result<Response<GcReply>, Status> {
        let failed = |failure| GcReply {
            failure: Some(failure),
        };
        self.answer(Asked::Gc, GcReply::default(), failed).await
    }
}
