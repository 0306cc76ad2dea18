//! The gRPC server on a unix socket that only root may use. Requests become typed here; nothing behind this file sees the
//! wire format of a request.
//!
//! A caller that goes away drops its handler: [`CancelOnDrop`] tells the ADD, which undoes itself in its own task.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::umask;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::UnixListenerStream;
use tombolo_core::types::{AttachmentKey, PodRef};
use tombolo_netlink::{Netns, NetnsId};
use tombolo_rpc as rpc;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, info, info_span, warn};

use crate::attach;
use crate::error::Error;
use crate::keys::{Cancel, Why};
use crate::node::Node;
use crate::{availability, check, detach, gc, host_ports, steps};

/// How long an ADD waits where the caller does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of each part of a pod's name, as Kubernetes has them; of a path, as the kernel has them; of an address with its
/// length. They bound what the journal keeps of an attachment.
const MAX_POD: usize = 253;
const MAX_PATH: usize = 4096;
const MAX_ADDRESS: usize = 64;
/// Most addresses that CHECK compares.
const MAX_ADDRESSES: usize = 64;

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct SocketError {
    operation: &'static str,
    path: std::path::PathBuf,
    #[source]
    source: std::io::Error,
}

/// Makes the socket (0600 from its first moment: no mode is changed by a path that could lead elsewhere by then). One
/// that an earlier agent left is replaced.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |operation| {
        move |source| SocketError {
            operation,
            path: path.to_owned(),
            source,
        }
    };
    match steps::START_OLD_SOCKET.around(|| std::fs::remove_file(path)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("remove old socket")(error));
        }
        _ => {}
    }
    // For the whole process, and only for a moment: whatever else it makes meanwhile is a file, which needs no more.
    let usual = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
    let listener = steps::START_SOCKET.around(|| UnixListener::bind(path));
    umask(usual);
    listener.map_err(failed("bind socket"))
}

/// How long requests have to end at a stop. Nobody else can answer meanwhile, and one that waits for what may take long is
/// asked again by its plugin, of the agent that follows.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Serves until `stop`, then lets running requests end, but for those that wait too long.
pub async fn serve(
    node: Arc<Node>,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let incoming = UnixListenerStream::new(listener)
        .filter(|stream| !matches!(stream, Ok(stream) if !is_root(stream)));
    let (stopped, mut late) = watch::channel(false);
    let stop = async move {
        stop.await;
        stopped.send_replace(true);
    };
    let late = async move {
        // An error means that the server has ended.
        drop(late.wait_for(|stopped| *stopped).await);
        tokio::time::sleep(LAST_REQUESTS).await;
    };
    let server = tonic::transport::Server::builder()
        .add_service(rpc::server(Service { node }))
        .serve_with_incoming_shutdown(incoming, stop);
    tokio::select! {
        ended = server => ended,
        () = late => {
            info!("requests that still wait are left to the next agent");
            Ok(())
        }
    }
}

/// The mode of the socket says the same; this holds where somebody changed it.
fn is_root(stream: &UnixStream) -> bool {
    let uid = stream.peer_cred().map(|peer| peer.uid());
    if !matches!(uid, Ok(0)) {
        warn!(?uid, "refused a caller that is not root");
    }
    matches!(uid, Ok(0))
}

#[derive(Debug)]
struct Service {
    node: Arc<Node>,
}

/// Tells an ADD that its caller went away.
struct CancelOnDrop(Arc<Cancel>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel(Why::Vanished);
    }
}

impl Service {
    async fn add(&self, request: Request<rpc::AddRequest>) -> Result<rpc::Attachment, Error> {
        let pid = peer_pid(&request)?;
        let request = request.into_inner();
        let key = key(request.key)?;
        let (netns, path) =
            netns(pid, request.netns)?.ok_or(Error::MissingField { field: "netns" })?;
        let pod = pod(request.pod)?;
        let host_ports = host_ports::of_request(&request.host_ports)?;
        let timeout = match request.timeout_ms {
            0 => DEFAULT_TIMEOUT,
            millis => Duration::from_millis(u64::from(millis)),
        };
        let span = info_span!("add", %pod, %key);
        let request = attach::Request {
            key,
            pod,
            netns: Arc::new(netns),
            path,
            host_ports,
            deadline: Instant::now() + timeout,
        };
        let cancel = Cancel::new();
        let (reply, answer) = oneshot::channel();
        let node = Arc::clone(&self.node);
        let guard = CancelOnDrop(Arc::clone(&cancel));
        tokio::spawn(
            async move { attach::attach(&node, request, &cancel, reply).await }.instrument(span),
        );
        let answer = answer.await.map_err(|_| Error::Stopping)?;
        drop(guard);
        answer
    }

    async fn del(&self, request: Request<rpc::DelRequest>) -> Result<(), Error> {
        let pid = peer_pid(&request)?;
        let request = request.into_inner();
        let key = key(request.key)?;
        // A namespace that cannot be had is as good as none.
        let netns = netns(pid, request.netns)
            .ok()
            .flatten()
            .map(|(netns, _)| Arc::new(netns));
        let span = info_span!("del", %key);
        let node = Arc::clone(&self.node);
        // In a task of its own: once begun, it ends, whoever waits.
        tokio::spawn(async move { detach::detach(&node, &key, netns).await }.instrument(span))
            .await?
    }

    async fn check(&self, request: Request<rpc::CheckRequest>) -> Result<(), Error> {
        let pid = peer_pid(&request)?;
        let request = request.into_inner();
        let key = key(request.key)?;
        let (netns, _) =
            netns(pid, request.netns)?.ok_or(Error::MissingField { field: "netns" })?;
        addresses_fit(&request.addresses)?;
        let span = info_span!("check", %key);
        check::check(&self.node, &key, Arc::new(netns), &request.addresses)
            .instrument(span)
            .await
    }

    async fn gc(&self, request: Request<rpc::GcRequest>) -> Result<(), Error> {
        let request = valid(request.into_inner(), rpc::since_boot())?;
        let (network, valid) = (&request.network, request.valid.len());
        let span = info_span!("gc", network, valid);
        let node = Arc::clone(&self.node);
        let collect = async move { gc::collect(&node, &request).await };
        // In a task of its own, as DEL.
        let found = tokio::spawn(collect.instrument(span)).await??;
        if found > 0 {
            info!(found, "attachments that the runtime does not know are gone");
        }
        Ok(())
    }

    /// Counts and logs an operation.
    fn done<T>(&self, operation: &'static str, started: Instant, result: &Result<T, Error>) {
        let elapsed = started.elapsed();
        self.node
            .metrics
            .operation(operation, result.as_ref().err().map(Error::reason), elapsed);
        match result {
            Ok(_) => info!(operation, micros = elapsed.as_micros(), "done"),
            Err(error) => {
                warn!(operation, reason = %error.reason(), error = error.chain(), "failed")
            }
        }
    }
}

#[tonic::async_trait]
impl rpc::node_server::Node for Service {
    async fn add_network(
        &self,
        request: Request<rpc::AddRequest>,
    ) -> Result<Response<rpc::AddReply>, Status> {
        let started = Instant::now();
        if let Some(failure) = rpc::Failure::unless_answered(request.get_ref().protocol) {
            return Ok(Response::new(failure.into()));
        }
        let result = self.add(request).await;
        self.done("add", started, &result);
        Ok(Response::new(match result {
            Ok(attachment) => attachment.into(),
            Err(error) => error.to_failure().into(),
        }))
    }

    async fn del_network(
        &self,
        request: Request<rpc::DelRequest>,
    ) -> Result<Response<rpc::DelReply>, Status> {
        let started = Instant::now();
        if let Some(failure) = rpc::Failure::unless_answered(request.get_ref().protocol) {
            return Ok(Response::new(rpc::DelReply {
                failure: Some(failure),
            }));
        }
        let result = self.del(request).await;
        self.done("del", started, &result);
        Ok(Response::new(rpc::DelReply {
            failure: result.err().map(|error| error.to_failure()),
        }))
    }

    async fn check_network(
        &self,
        request: Request<rpc::CheckRequest>,
    ) -> Result<Response<rpc::CheckReply>, Status> {
        let started = Instant::now();
        if let Some(failure) = rpc::Failure::unless_answered(request.get_ref().protocol) {
            return Ok(Response::new(rpc::CheckReply {
                failure: Some(failure),
            }));
        }
        let result = self.check(request).await;
        self.done("check", started, &result);
        Ok(Response::new(rpc::CheckReply {
            failure: result.err().map(|error| error.to_failure()),
        }))
    }

    async fn status(
        &self,
        request: Request<rpc::StatusRequest>,
    ) -> Result<Response<rpc::StatusReply>, Status> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        if let Some(failure) = rpc::Failure::unless_answered(request.get_ref().protocol) {
            return Ok(Response::new(rpc::StatusReply {
                failure: Some(failure),
                version,
                traffic_affected: false,
            }));
        }
        let unavailable = availability::status(&self.node).await.err();
        if let Some(found) = &unavailable {
            let (error, reason) = (found.error.chain(), found.error.reason());
            info!(error, %reason, found.traffic_affected, "the runtime is told that no pod can be added");
        }
        Ok(Response::new(rpc::StatusReply {
            traffic_affected: unavailable.as_ref().is_some_and(|u| u.traffic_affected),
            failure: unavailable.map(|found| found.error.to_failure()),
            version,
        }))
    }

    async fn garbage_collect(
        &self,
        request: Request<rpc::GcRequest>,
    ) -> Result<Response<rpc::GcReply>, Status> {
        let started = Instant::now();
        if let Some(failure) = rpc::Failure::unless_answered(request.get_ref().protocol) {
            return Ok(Response::new(rpc::GcReply {
                failure: Some(failure),
            }));
        }
        let result = self.gc(request).await;
        self.done("gc", started, &result);
        Ok(Response::new(rpc::GcReply {
            failure: result.err().map(|error| error.to_failure()),
        }))
    }
}

fn key(key: Option<rpc::Key>) -> Result<AttachmentKey, Error> {
    let key = key.ok_or(Error::MissingField { field: "key" })?;
    Ok(AttachmentKey::new(
        &key.network,
        &key.container_id,
        &key.ifname,
    )?)
}

fn pod(pod: Option<rpc::Pod>) -> Result<PodRef, Error> {
    let rpc::Pod {
        namespace,
        name,
        uid,
    } = pod.unwrap_or_default();
    fits("pod.namespace", &namespace, MAX_POD)?;
    fits("pod.name", &name, MAX_POD)?;
    fits("pod.uid", &uid, MAX_POD)?;
    Ok(PodRef {
        namespace,
        name,
        uid,
    })
}

/// A GC that is read `now`, in nanoseconds since boot.
fn valid(request: rpc::GcRequest, now: u64) -> Result<gc::Request, Error> {
    let network = request.network;
    AttachmentKey::check_network(&network)?;
    if request.valid.len() > rpc::MAX_VALID {
        let (field, limit, unit) = ("valid", rpc::MAX_VALID, "entries");
        return Err(Error::TooLong { field, limit, unit });
    }
    let valid = request
        .valid
        .iter()
        .map(|valid| AttachmentKey::new(&network, &valid.container_id, &valid.ifname))
        .collect::<Result<_, _>>()?;
    let begun = match request.begun {
        0 => now,
        begun => begun.min(now),
    };
    Ok(gc::Request {
        network,
        valid,
        begun,
    })
}

fn addresses_fit(addresses: &[String]) -> Result<(), Error> {
    if addresses.len() > MAX_ADDRESSES {
        let (field, limit, unit) = ("addresses", MAX_ADDRESSES, "entries");
        return Err(Error::TooLong { field, limit, unit });
    }
    addresses
        .iter()
        .try_for_each(|address| fits("addresses", address, MAX_ADDRESS))
}

fn fits(field: &'static str, text: &str, limit: usize) -> Result<(), Error> {
    let unit = "bytes";
    if text.len() > limit {
        Err(Error::TooLong { field, limit, unit })
    } else {
        Ok(())
    }
}

fn peer_pid<T>(request: &Request<T>) -> Result<u32, Error> {
    let info = request.extensions().get::<UdsConnectInfo>();
    let pid = info
        .and_then(|info| info.peer_cred)
        .and_then(|peer| peer.pid());
    pid.and_then(|pid| u32::try_from(pid).ok())
        .ok_or(Error::MissingField {
            field: "peer process",
        })
}

/// The namespace that the caller holds open, verified to be the one that it saw.
fn netns(pid: u32, netns: Option<rpc::NetnsRef>) -> Result<Option<(Netns, String)>, Error> {
    let Some(netns) = netns else { return Ok(None) };
    fits("netns.path", &netns.path, MAX_PATH)?;
    let fd = u32::try_from(netns.fd).map_err(|_| Error::MissingField { field: "netns.fd" })?;
    let expected = NetnsId {
        dev: netns.dev,
        ino: netns.ino,
    };
    match Netns::of_process_fd(pid, fd, expected) {
        Ok(found) => Ok(Some((found, netns.path))),
        Err(source) => Err(Error::Netns {
            path: netns.path,
            source,
        }),
    }
}

#[cfg(test)]
mod fuzz;
