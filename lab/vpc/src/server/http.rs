//! HTTP: one task a connection. The unix socket serves cloud and lab calls, the address that instances reach only cloud calls.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tombolo_cloud_sim::wire::ApiError;

use super::Shared;
use super::dispatch::{self, error};
use crate::knobs::Fate;

const MAX_BODY: usize = 1 << 20;

/// The connection is to be cut instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("reply lost by knob")]
struct Lost;

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
) -> Result<Response<Full<Bytes>>, Lost> {
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
    Ok(match outcome {
        Ok(body) => success(body),
        Err(e) => refusal(&e),
    })
}

/// A cloud call, with what the knobs make of it.
async fn cloud(shared: &Shared, verb: &str, body: &[u8]) -> Result<Response<Full<Bytes>>, Lost> {
    if !dispatch::is_cloud_verb(verb) {
        return Ok(refusal(&error(
            "InvalidAction",
            format!("there is no call {verb:?}"),
        )));
    }
    let (fate, delay) = {
        let mut knobs = shared.knobs();
        let delay = knobs.state.delay.get(verb).copied();
        (knobs.fate(shared.now(), verb), delay)
    };
    let outcome = match &fate {
        Fate::Throttle => {
            shared.count(verb, |c| c.throttled += 1);
            return Ok(refusal(&error(
                "RequestLimitExceeded",
                "Request limit exceeded.",
            )));
        }
        Fate::Lose => {
            shared.count(verb, |c| c.lost += 1);
            return Err(Lost);
        }
        Fate::Fail(code) => Err(error(code, "refused by knob")),
        Fate::Serve { .. } => shared.cloud(verb, body).await,
    };
    if let Some(ms) = delay {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    if fate == (Fate::Serve { reply: false }) {
        shared.count(verb, |c| c.lost += 1);
        return Err(Lost);
    }
    shared.count(verb, |c| {
        if outcome.is_ok() {
            c.ok += 1
        } else {
            c.refused += 1
        }
    });
    Ok(match outcome {
        Ok(body) => success(body),
        Err(e) => refusal(&e),
    })
}

fn success(body: Vec<u8>) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, body)
}

fn refusal(error: &ApiError) -> Response<Full<Bytes>> {
    // As EC2: throttling and our own failures are 5xx, everything else is the caller's.
    let status = match error.code.as_str() {
        "RequestLimitExceeded" | "ServiceUnavailable" => StatusCode::SERVICE_UNAVAILABLE,
        "InternalError" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    // Two strings always encode.
    respond(status, serde_json::to_vec(error).unwrap_or_default())
}

fn respond(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        "content-type",
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response
}
