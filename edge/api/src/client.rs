//! A client of the Kubernetes API that notices a server which is gone, and reads no more of one answer than an answer can be.
//!
//! A watch that waits for events sends nothing, so that it would never find out that nobody is there any more: the kernel asks
//! the other side every few seconds, and a connection that does not answer ends after [`GIVE_UP`].
//!
//! A whole answer may have [`MAX_ANSWER`] bytes, and so may each event of a watch, which is a line: a watch itself goes on
//! for ever. What is longer ends with [`TooLong`], as an answer that broke off would.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{ClientBuilder, ConfigExt};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};
use tower_layer::Layer;
use tower_service::Service;

/// Longest answer, or event of a watch, in bytes. Lists are asked for in pages of 500 objects; etcd allows an object 1.5 MiB,
/// and ours have a few KiB.
pub const MAX_ANSWER: usize = 128 << 20;

/// An answer of the API server is longer than we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server's answer has more than {limit} bytes")]
pub struct TooLong {
    /// Longest answer in bytes.
    pub limit: usize,
}

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection on which nothing was said for so long is asked after.
const QUIET: Duration = Duration::from_secs(10);
/// Time between two questions, and how many may stay without answer.
const ASK: Duration = Duration::from_secs(5);
const ASK_TIMES: u32 = 3;
/// Silence, or data not acknowledged, after which a connection is given up: about [`QUIET`] and all questions.
const GIVE_UP: Duration = Duration::from_secs(25);

/// A client for this configuration.
///
/// # Errors
/// Where certificates or tokens that it names cannot be used.
pub fn client(mut config: kube::Config) -> Result<kube::Client, kube::Error> {
    if !needs_authorities(&config) {
        // None instead of the system's.
        config.root_cert.get_or_insert_default();
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(QUIET));
    connector.set_keepalive_interval(Some(ASK));
    connector.set_keepalive_retries(Some(ASK_TIMES));
    connector.set_tcp_user_timeout(Some(GIVE_UP));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .build::<_, kube::client::Body>(connector);
    let retries = config
        .default_retry
        .then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(Bounds { limit: MAX_ANSWER })
        .layer(config.base_uri_layer())
        .option_layer(retries)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// Whether a certificate will have to be verified. Where none will, the system's authorities are not even looked for: there
/// may be no such files, as in our image.
fn needs_authorities(config: &kube::Config) -> bool {
    config.cluster_url.scheme() != Some(&Scheme::HTTP) && !config.accept_invalid_certs
}

/// Puts [`Bounded`] around every answer.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    limit: usize,
}

impl<S> Layer<S> for Bounds {
    type Service = BoundedService<S>;

    fn layer(&self, inner: S) -> BoundedService<S> {
        BoundedService {
            inner,
            limit: self.limit,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct BoundedService<S> {
    inner: S,
    limit: usize,
}

impl<S, A, B> Service<Request<A>> for BoundedService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<Bounded<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let query = request.uri().query().unwrap_or_default();
        let lines = query
            .split('&')
            .any(|pair| matches!(pair, "watch=true" | "watch=1"));
        let limit = self.limit;
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Bounded::new(body, lines, limit))) })
    }
}

/// A body of which no more than a limit is read: in all, or of one line.
#[derive(Debug)]
struct Bounded<B> {
    body: B,
    lines: bool,
    limit: usize,
    read: usize,
}

impl<B> Bounded<B> {
    const fn new(body: B, lines: bool, limit: usize) -> Self {
        Self {
            body,
            lines,
            limit,
            read: 0,
        }
    }

    /// Counts; whether the limit is passed.
    fn count(&mut self, data: &[u8]) -> bool {
        let mut parts = data.split(|byte| self.lines && *byte == b'\n');
        self.read += parts.next().map_or(0, <[u8]>::len);
        let mut over = self.read > self.limit;
        for part in parts {
            self.read = part.len();
            over |= self.read > self.limit;
        }
        over
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(Into::into)?;
        let limit = self.limit;
        let over = frame.data_ref().is_some_and(|data| self.count(data));
        Poll::Ready(Some(if over {
            Err(TooLong { limit }.into())
        } else {
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
