//! Client of the server's unix socket: every cloud call and every lab call, typed.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;
use tombolo_cloud_sim::wire::{ApiError, Verb};

use crate::admin::LabVerb;

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server refused.
    #[error("{verb}: {}: {}", error.code, error.message)]
    Refused {
        /// The call.
        verb: &'static str,
        /// What it said.
        error: ApiError,
    },
    /// No server on the socket.
    #[error("connect to the VPC's socket {path}")]
    Connect {
        /// The socket.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke before the whole reply was there. Whether the call was carried out is unknown.
    #[error("{verb}: no reply")]
    NoReply {
        /// The call.
        verb: &'static str,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The request cannot be written, or the reply not be read, as what it should be.
    #[error("{verb}: encode or decode")]
    Json {
        /// The call.
        verb: &'static str,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// The request is no HTTP.
    #[error("{verb}: build the request")]
    Http {
        /// The call.
        verb: &'static str,
        /// Why.
        #[source]
        source: hyper::http::Error,
    },
}

impl ClientError {
    /// EC2's code, if the server refused.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { error, .. } => Some(&error.code),
            _ => None,
        }
    }
}

/// Client of one lab's VPC. Cheap to clone; one connection a call.
#[derive(Clone, Debug)]
pub struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// Client of a socket. Nothing is connected yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes a cloud call, as the operator does.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn cloud<V: Verb>(&self, call: &V) -> Result<V::Reply, ClientError> {
        self.post("/v1/", V::NAME, call).await
    }

    /// Makes a lab call.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lab<V: LabVerb>(&self, call: &V) -> Result<V::Reply, ClientError> {
        self.post("/lab/v1/", V::NAME, call).await
    }

    async fn post<R: DeserializeOwned>(
        &self,
        prefix: &str,
        verb: &'static str,
        call: &impl Serialize,
    ) -> Result<R, ClientError> {
        let json = |source| ClientError::Json { verb, source };
        let no_reply = |source| ClientError::NoReply { verb, source };
        let body = serde_json::to_vec(call).map_err(json)?;
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|source| ClientError::Connect {
                    path: self.socket.display().to_string(),
                    source,
                })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(no_reply)?;
        let request = Request::post(format!("{prefix}{verb}"))
            .header("host", "vpc")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|source| ClientError::Http { verb, source })?;
        let exchange = async {
            let reply = sender.send_request(request).await.map_err(no_reply)?;
            let status = reply.status();
            let body = reply
                .into_body()
                .collect()
                .await
                .map_err(no_reply)?
                .to_bytes();
            Ok::<_, ClientError>((status, body))
        };
        let driven = async {
            // The exchange reports what went wrong; the connection only has to run meanwhile.
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        let (status, body) = tokio::select! {
            biased;
            done = exchange => done?,
            () = driven => unreachable!("pending never ends"),
        };
        if status.is_success() {
            serde_json::from_slice(&body).map_err(json)
        } else {
            let error = serde_json::from_slice(&body).map_err(json)?;
            Err(ClientError::Refused { verb, error })
        }
    }
}
