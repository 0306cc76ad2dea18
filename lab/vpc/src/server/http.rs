//! HTTP: one task a connection. The unix socket serves cloud and lab calls, the address that instances reach only cloud calls.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tombolo_cloud_sim::wire::ApiError;

use super::Shared;
use super::dispatch::{self, error};
use crate::knobs::Fate;
use crate::knobs::faults::{Corruption, Fault};

const MAX_BODY: usize = 1 << 20;

/// The connection is to be cut instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("reply lost by knob")]
struct Lost;

/// A reply's body: all of what it announces, or a part before the connection is cut.
#[derive(Debug)]
struct Reply {
    whole: Bytes,
    sends: Option<Bytes>,
}

impl Reply {
    fn new(whole: Bytes) -> Self {
        Self {
            sends: (!whole.is_empty()).then(|| whole.clone()),
            whole,
        }
    }

    fn cut(whole: &Bytes) -> Self {
        Self {
            whole: whole.clone(),
            sends: Some(whole.slice(..whole.len() / 2)),
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Lost;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Lost>>> {
        let Some(part) = self.sends.take() else {
            return Poll::Ready(None);
        };
        if part.is_empty() {
            return Poll::Ready(Some(Err(Lost)));
        }
        if part.len() < self.whole.len() {
            // After this part comes the end of the connection.
            self.sends = Some(Bytes::new());
        }
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.sends.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.whole.len() as u64)
    }
}

/// Serves the unix socket until dropped.
pub async fn serve_unix(shared: Arc<Shared>, listener: UnixListener) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connection(&shared, stream, true),
            Err(error) => accept_failed(&error).await,
        }
    }
}

/// Serves the address that instances reach until dropped.
pub async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener) -> Infallible {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => connection(&shared, stream, false),
            Err(error) => accept_failed(&error).await,
        }
    }
}

/// Out of file descriptors, most likely: waiting is all that can be done.
async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "accept failed");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn connection(
    shared: &Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    lab: bool,
) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let service = service_fn(|request| answer(&shared, request, lab));
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "connection ended");
        }
    });
}

async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
    lab: bool,
) -> Result<Response<Reply>, Lost> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let body = match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(e) => {
            return Ok(refusal(&error(
                "InvalidParameterValue",
                format!("request body: {e}"),
            )));
        }
    };
    if method != Method::POST {
        return Ok(refusal(&error("InvalidAction", "calls are made with POST")));
    }
    if let Some(verb) = path.strip_prefix("/v1/") {
        return cloud(shared, verb, &body).await;
    }
    let outcome = match path.strip_prefix("/lab/v1/") {
        Some(verb) if lab => dispatch::lab(shared, verb, &body).await,
        _ => Err(error(
            "InvalidAction",
            format!("there is nothing at {path}"),
        )),
    };
    Ok(answer_of(outcome.map(Bytes::from)))
}

/// A cloud call, with what the knobs make of it.
async fn cloud(shared: &Shared, verb: &str, body: &[u8]) -> Result<Response<Reply>, Lost> {
    if !dispatch::is_cloud_verb(verb) {
        return Ok(refusal(&error(
            "InvalidAction",
            format!("there is no call {verb:?}"),
        )));
    }
    let (fate, delay) = {
        let mut knobs = shared.knobs();
        (knobs.fate(shared.now(), verb), knobs.delay(verb))
    };
    let fault = match fate {
        Fate::Serve => None,
        Fate::Fault(fault) => Some(fault),
        Fate::Throttle => {
            shared.count(verb, |c| c.throttled += 1);
            return Ok(refusal(&error(
                "RequestLimitExceeded",
                "Request limit exceeded.",
            )));
        }
    };
    let outcome = match &fault {
        Some(Fault::LoseRequest) => {
            shared.count(verb, |c| c.lost += 1);
            return Err(Lost);
        }
        Some(Fault::Fail(code)) => Err(error(code, "refused by knob")),
        Some(Fault::RepeatReply) => match shared.last_reply(verb) {
            Some(reply) => Ok(reply),
            None => shared.cloud(verb, body).await,
        },
        Some(Fault::RepeatRequest) => {
            let first = shared.cloud(verb, body).await;
            // Nobody hears of the second.
            drop(shared.cloud(verb, body).await);
            first
        }
        Some(Fault::LoseReply | Fault::HoldReply | Fault::CorruptReply(_)) | None => {
            shared.cloud(verb, body).await
        }
    };
    if let Some(ms) = delay {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    match fault {
        Some(Fault::LoseReply) => {
            shared.count(verb, |c| c.lost += 1);
            return Err(Lost);
        }
        Some(Fault::HoldReply) => shared.hold(verb).await,
        Some(Fault::CorruptReply(how)) => {
            shared.count(verb, |c| c.corrupted += 1);
            return Ok(spoil(how, answer_of(outcome)));
        }
        _ => {}
    }
    shared.count(verb, |c| {
        if outcome.is_ok() {
            c.ok += 1
        } else {
            c.refused += 1
        }
    });
    Ok(answer_of(outcome))
}

fn answer_of(outcome: Result<Bytes, ApiError>) -> Response<Reply> {
    match outcome {
        Ok(body) => success(body),
        Err(e) => refusal(&e),
    }
}

/// Makes a reply that nobody can read of one that is right.
fn spoil(how: Corruption, right: Response<Reply>) -> Response<Reply> {
    let (mut head, body) = right.into_parts();
    let whole = body.whole;
    let half = whole.slice(..whole.len() / 2);
    let body = match how {
        Corruption::Cut => Reply::cut(&whole),
        Corruption::Truncate => Reply::new(half),
        Corruption::Empty => Reply::new(Bytes::new()),
        Corruption::Garbage => Reply::new(Bytes::from_static(b"\x00\xff\x17{\"")),
        Corruption::Shape => Reply::new(Bytes::from_static(b"{\"unexpected\":[1,\"two\",null]}")),
        Corruption::Page => {
            head.status = StatusCode::BAD_GATEWAY;
            Reply::new(Bytes::from_static(
                b"<html><body>502 Bad Gateway</body></html>",
            ))
        }
    };
    Response::from_parts(head, body)
}

fn success(body: Bytes) -> Response<Reply> {
    respond(StatusCode::OK, body)
}

fn refusal(error: &ApiError) -> Response<Reply> {
    // As EC2: throttling and our own failures are 5xx, everything else is the caller's.
    let status = match error.code.as_str() {
        "RequestLimitExceeded" | "ServiceUnavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "InternalError" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    // Two strings always encode.
    respond(status, serde_json::to_vec(error).unwrap_or_default().into())
}

fn respond(status: StatusCode, body: Bytes) -> Response<Reply> {
    let mut response = Response::new(Reply::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        "content-type",
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response
}
