//! A typed client of the simulated VPC API, over TCP or a unix socket.
//!
//! One call is one `POST`; there are no retries here, because only the caller knows whether a call may be repeated and
//! shares the budget of calls. Dropping a call's future abandons the reply; the cloud may still do what was asked.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tombolo_core::types::Reason;

use crate::wire::{ApiError, Verb};

/// Bytes that are kept of each text of a refusal: they go into logs, Events and conditions.
const MAX_TEXT: usize = 2048;

/// Where the API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `http://<host>[:<port>]`, without a path.
    Tcp(Uri),
    /// `unix:<absolute path>`.
    Unix(PathBuf),
}

/// The text is not an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "endpoint {value:?} {problem}; `http://<host>[:<port>]` or `unix:<absolute path>` is wanted"
)]
pub struct InvalidEndpoint {
    /// What was given.
    pub value: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = |problem| InvalidEndpoint {
            value: text.to_owned(),
            problem,
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(invalid("has a relative path"))
            };
        }
        let uri: Uri = text.parse().map_err(|_| invalid("is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(invalid("does not begin with http://"));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(invalid("has no host"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid("has a path or a query"));
        }
        Ok(Self::Tcp(uri))
    }
}

/// Bounds of every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Longest time a call may take, connection included.
    pub timeout: Duration,
    /// Longest reply in bytes.
    pub max_reply: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            max_reply: 64 << 20,
        }
    }
}

/// How a call failed. Only [`Error::Api`] says that the cloud refused; after any other the outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request could not be built.
    #[error("{verb}: build the request")]
    Request {
        /// The call.
        verb: &'static str,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// No connection, or it broke.
    #[error("{verb}: talk to the cloud")]
    Transport {
        /// The call.
        verb: &'static str,
        /// Why.
        #[source]
        source: TransportError,
    },
    /// No reply within the bound.
    #[error("{verb}: no reply within {} ms", timeout.as_millis())]
    Timeout {
        /// The call.
        verb: &'static str,
        /// The bound.
        timeout: Duration,
    },
    /// The cloud refused.
    #[error("{verb}: {}: {}", error.code, error.message)]
    Api {
        /// The call.
        verb: &'static str,
        /// HTTP status.
        status: StatusCode,
        /// Its code and words.
        error: ApiError,
    },
    /// A reply came that is not what the call returns.
    #[error("{verb}: decode the reply (HTTP {status})")]
    Decode {
        /// The call.
        verb: &'static str,
        /// HTTP status.
        status: StatusCode,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The reply is longer than allowed.
    #[error("{verb}: the reply is longer than {limit} bytes")]
    TooLong {
        /// The call.
        verb: &'static str,
        /// Longest reply in bytes.
        limit: usize,
    },
}

/// Why a request could not be built.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The body.
    #[error("encode the body")]
    Encode(#[from] serde_json::Error),
    /// The head.
    #[error("build the head")]
    Head(#[from] http::Error),
}

/// Why there was no reply.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// Over TCP.
    #[error("send the request")]
    Tcp(#[from] hyper_util::client::legacy::Error),
    /// Connecting to the socket.
    #[error("connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// HTTP over the socket, or the reply's body.
    #[error("exchange HTTP messages")]
    Http(#[from] hyper::Error),
    /// Reading the reply's body.
    #[error("read the reply")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The typed reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Api { error, .. } => reason_of_code(&error.code),
            _ => Reason::CloudError,
        }
    }

    /// The cloud's code, where it refused.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Api { error, .. } => Some(&error.code),
            _ => None,
        }
    }

    /// Whether the cloud says that what the call names does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code().is_some_and(|code| code.ends_with(".NotFound"))
    }

    /// Whether the call may have been carried out although it failed here.
    #[must_use]
    pub const fn outcome_unknown(&self) -> bool {
        !matches!(self, Self::Api { .. } | Self::Request { .. })
    }

    /// A short word for metrics: `refused`, `throttled`, `timeout`, `transport`, `decode`, `request`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Request { .. } => "request",
            Self::Transport { .. } => "transport",
            Self::Timeout { .. } => "timeout",
            Self::Api { .. } if self.reason() == Reason::CloudThrottled => "throttled",
            Self::Api { .. } => "refused",
            Self::Decode { .. } | Self::TooLong { .. } => "decode",
        }
    }
}

/// The reason behind one of the cloud's codes.
#[must_use]
pub fn reason_of_code(code: &str) -> Reason {
    match code {
        "InsufficientFreeAddressesInSubnet" | "InsufficientCidrBlocks" => Reason::SubnetFull,
        "AttachmentLimitExceeded" => Reason::NicLimit,
        "PrivateIpAddressLimitExceeded" | "Ipv6AddressLimitExceeded" => Reason::AddressLimit,
        "RequestLimitExceeded" | "Throttling" | "ThrottlingException" => Reason::CloudThrottled,
        "InvalidInstanceType" => Reason::UnknownInstanceType,
        _ => Reason::CloudError,
    }
}

/// The client. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    config: ClientConfig,
    pool: Pool<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client; connects with the first call.
    #[must_use]
    pub fn new(endpoint: Endpoint, config: ClientConfig) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new()).build(connector);
        Self {
            endpoint,
            config,
            pool,
        }
    }

    /// Makes one call.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn call<V: Verb>(&self, call: &V) -> Result<V::Reply, Error> {
        let verb = V::NAME;
        let request = self
            .request(call)
            .map_err(|source| Error::Request { verb, source })?;
        let exchange = async {
            let response = self
                .send(request)
                .await
                .map_err(|source| Error::Transport { verb, source })?;
            self.read::<V>(response).await
        };
        match tokio::time::timeout(self.config.timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout {
                verb,
                timeout: self.config.timeout,
            }),
        }
    }

    fn request<V: Verb>(&self, call: &V) -> Result<Request<Full<Bytes>>, RequestError> {
        let body = serde_json::to_vec(call)?;
        let path = format!("/v1/{}", V::NAME);
        let builder = Request::builder()
            .method(Method::POST)
            .header(header::CONTENT_TYPE, "application/json");
        let builder = match &self.endpoint {
            Endpoint::Tcp(base) => {
                let mut parts = base.clone().into_parts();
                parts.path_and_query = Some(path.parse().map_err(http::Error::from)?);
                builder.uri(Uri::from_parts(parts).map_err(http::Error::from)?)
            }
            Endpoint::Unix(_) => builder.uri(path).header(header::HOST, "cloud"),
        };
        Ok(builder.body(Full::new(Bytes::from(body)))?)
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TransportError> {
        match &self.endpoint {
            Endpoint::Tcp(_) => Ok(self.pool.request(request).await?),
            Endpoint::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await;
                let stream = stream.map_err(|source| TransportError::Connect {
                    path: path.clone(),
                    source,
                })?;
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
                // Ends with the exchange; what breaks it is seen by the request.
                tokio::spawn(async move { drop(connection.await) });
                Ok(sender.send_request(request).await?)
            }
        }
    }

    async fn read<V: Verb>(&self, response: Response<Incoming>) -> Result<V::Reply, Error> {
        let verb = V::NAME;
        let status = response.status();
        let limit = self.config.max_reply;
        let body = match Limited::new(response.into_body(), limit).collect().await {
            Ok(body) => body.to_bytes(),
            Err(source) if source.is::<LengthLimitError>() => {
                return Err(Error::TooLong { verb, limit });
            }
            Err(source) => {
                return Err(Error::Transport {
                    verb,
                    source: TransportError::Body(source),
                });
            }
        };
        decode::<V>(status, &body)
    }
}

/// What a whole reply says.
fn decode<V: Verb>(status: StatusCode, body: &[u8]) -> Result<V::Reply, Error> {
    let verb = V::NAME;
    let failed = |source| Error::Decode {
        verb,
        status,
        source,
    };
    if status.is_success() {
        serde_json::from_slice(body).map_err(failed)
    } else {
        let mut error: ApiError = serde_json::from_slice(body).map_err(failed)?;
        for text in [&mut error.code, &mut error.message] {
            text.truncate(text.floor_char_boundary(MAX_TEXT));
        }
        Err(Error::Api {
            verb,
            status,
            error,
        })
    }
}

#[cfg(test)]
mod fuzz;
