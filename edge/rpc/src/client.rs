//! One HTTP/2 connection to the agent's unix socket, as the transport of the generated client.
//!
//! tonic's own channel (connection pool, balancer, reconnect, buffers) is not used: the plugin makes one call in its
//! life, and its size and start-up time are on the path of every pod start.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::codegen::Service;

use crate::node_client::NodeClient;

/// The agent's socket could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No connection: the agent is away (`NotFound`, `ConnectionRefused`) or may not be reached.
    #[error("connect to the agent's socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something listens but does not speak HTTP/2.
    #[error("greet the agent on {}", path.display())]
    Handshake {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: hyper::Error,
    },
}

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

/// Connects to the agent that listens on `path`, on the current tokio runtime.
///
/// # Errors
/// Where nothing listens there, or what listens does not speak HTTP/2.
pub async fn connect(path: &Path) -> Result<NodeClient<Transport>, ConnectError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| ConnectError::Connect {
            path: path.to_owned(),
            source,
        })?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Handshake {
            path: path.to_owned(),
            source,
        })?;
    // The connection's end shows in the calls made on it; there is nobody else to tell.
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    let authority = http::Uri::from_static("http://agent.tombolo");
    Ok(NodeClient::with_origin(Transport(sender), authority)
        .max_decoding_message_size(crate::MAX_MESSAGE))
}
