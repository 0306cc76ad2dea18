//! An agent that answers by script and keeps what it was asked.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tombolo_rpc::node_server::{Node, NodeServer};
use tombolo_rpc::{
    AddReply, AddRequest, Address, Attachment, CheckReply, CheckRequest, DelReply, DelRequest,
    Failure, GcReply, GcRequest, NetnsRef, Route, StatusReply, StatusRequest,
};
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

/// What the agent was asked, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    Add(AddRequest),
    Del(DelRequest),
    Check(CheckRequest),
    Gc(GcRequest),
    Status(StatusRequest),
}

/// How the agent answers.
#[derive(Clone, Debug)]
pub enum Script {
    Succeed,
    /// As `Succeed`, with another attachment.
    Made(Attachment),
    Fail(Failure),
    /// As `Fail`; STATUS says of pods that run that they suffer, too.
    FailAffected(Failure),
    Status(tonic::Code),
    Empty,
    Never,
}

#[derive(Debug)]
struct State {
    script: Script,
    asked: Mutex<Vec<Asked>>,
}

/// A running agent; its socket goes with it.
pub struct FakeAgent {
    state: Arc<State>,
    runtime: Option<Runtime>,
    directory: tempfile::TempDir,
}

impl FakeAgent {
    pub fn start(script: Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let agent = Self::start_later(script, directory);
        agent.listen();
        agent
    }

    /// An agent whose socket is not there yet.
    pub fn start_later(script: Script, directory: tempfile::TempDir) -> Self {
        let state = Arc::new(State {
            script,
            asked: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self {
            state,
            runtime: Some(runtime),
            directory,
        }
    }

    pub fn listen(&self) {
        let runtime = self.runtime.as_ref().unwrap();
        let _guard = runtime.enter();
        let listener = UnixListener::bind(self.socket()).unwrap();
        let service = NodeServer::new(Service(Arc::clone(&self.state)));
        let server = Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    }

    pub fn socket(&self) -> PathBuf {
        socket_in(self.directory.path())
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }
}

pub fn socket_in(directory: &Path) -> PathBuf {
    directory.join("agent.sock")
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What `Script::Succeed` says was made: IPv6 deliberately before IPv4.
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
    /// Does what the real agent does: the caller's descriptor, seen through /proc, is the file it says.
    fn note<R>(&self, request: &Request<R>, netns: Option<&NetnsRef>, asked: Asked) {
        if let Some(netns) = netns {
            let peer = request
                .extensions()
                .get::<UdsConnectInfo>()
                .unwrap()
                .peer_cred
                .unwrap();
            let path = format!("/proc/{}/fd/{}", peer.pid().unwrap(), netns.fd);
            let seen = File::open(path).unwrap().metadata().unwrap();
            assert_eq!(
                (seen.dev(), seen.ino()),
                (netns.dev, netns.ino),
                "the plugin holds the namespace open"
            );
        }
        self.0.asked.lock().unwrap().push(asked);
    }

    async fn answer<T>(
        &self,
        success: T,
        failure: impl Fn(Failure) -> T,
        empty: T,
    ) -> Result<Response<T>, Status> {
        match &self.0.script {
            Script::Succeed | Script::Made(_) => Ok(Response::new(success)),
            Script::Fail(reason) | Script::FailAffected(reason) => {
                Ok(Response::new(failure(reason.clone())))
            }
            Script::Status(code) => Err(Status::new(*code, "by script")),
            Script::Empty => Ok(Response::new(empty)),
            Script::Never => std::future::pending().await,
        }
    }
}

#[tonic::async_trait]
impl Node for Service {
    async fn add_network(
        &self,
        request: Request<AddRequest>,
    ) -> Result<Response<AddReply>, Status> {
        let body = request.get_ref().clone();
        self.note(&request, body.netns.as_ref(), Asked::Add(body.clone()));
        let made = match &self.0.script {
            Script::Made(made) => made.clone(),
            _ => attachment(),
        };
        self.answer(made.into(), Into::into, AddReply::default())
            .await
    }

    async fn del_network(
        &self,
        request: Request<DelRequest>,
    ) -> Result<Response<DelReply>, Status> {
        let body = request.get_ref().clone();
        self.note(&request, body.netns.as_ref(), Asked::Del(body.clone()));
        let failed = |failure| DelReply {
            failure: Some(failure),
        };
        self.answer(DelReply::default(), failed, DelReply::default())
            .await
    }

    async fn check_network(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckReply>, Status> {
        let body = request.get_ref().clone();
        self.note(&request, body.netns.as_ref(), Asked::Check(body.clone()));
        let failed = |failure| CheckReply {
            failure: Some(failure),
        };
        self.answer(CheckReply::default(), failed, CheckReply::default())
            .await
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusReply>, Status> {
        self.note(&request, None, Asked::Status(*request.get_ref()));
        let failed = |failure| StatusReply {
            failure: Some(failure),
            traffic_affected: matches!(self.0.script, Script::FailAffected(_)),
            ..StatusReply::default()
        };
        self.answer(StatusReply::default(), failed, StatusReply::default())
            .await
    }

    async fn garbage_collect(
        &self,
        request: Request<GcRequest>,
    ) -> Result<Response<GcReply>, Status> {
        self.note(&request, None, Asked::Gc(request.get_ref().clone()));
        let failed = |failure| GcReply {
            failure: Some(failure),
        };
        self.answer(GcReply::default(), failed, GcReply::default())
            .await
    }
}
