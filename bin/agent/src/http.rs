//! HTTP for people and machines: /metrics, /healthz, /readyz, and /debug/state for the CLI and the lab's checker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tombolo_core::ipam::AddressState;

use crate::error::Error;
use crate::node::Node;
use crate::pool::Snapshot;

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// This node: everything.
    Node,
    /// Others too: not which pod has which address.
    Others,
}

/// Serves until the node is gone.
pub async fn serve(
    node: Arc<Node>,
    address: SocketAddr,
    audience: Audience,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let mut router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz));
    if audience == Audience::Node {
        router = router.route("/debug/state", get(state));
    }
    axum::serve(listener, router.with_state(node)).await
}

struct Failed(Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let body = json!({"reason": self.0.reason().word(), "message": self.0.chain()});
        (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
    }
}

async fn metrics(State(node): State<Arc<Node>>) -> Result<Response, Failed> {
    let snapshot = node.pool.snapshot().await?;
    let wired = node.wired.borrow().clone();
    let text = node
        .metrics
        .text(&snapshot, &wired)
        .map_err(|_| Error::Stopping)?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The process answers, and so does the task that everything else depends on.
async fn healthz(State(node): State<Arc<Node>>) -> Result<&'static str, Failed> {
    node.pool.snapshot().await?;
    Ok("ok\n")
}

async fn readyz(State(node): State<Arc<Node>>) -> Result<&'static str, Failed> {
    node.ready(Duration::ZERO).await?;
    Ok("ok\n")
}

async fn state(State(node): State<Arc<Node>>) -> Result<Json<Value>, Failed> {
    let snapshot = node.pool.snapshot().await?;
    let wired = node.wired.borrow().clone();
    let plan = node.plan.borrow().clone();
    Ok(Json(json!({
        "ready": wired.is_ready(),
        "generation": plan.map(|plan| plan.generation),
        "problems": wired.problems,
        "nics": wired.nics,
        "pool": pool(&snapshot),
        "attachments": node.all_records(),
        "orphans": node.orphans().into_values().collect::<Vec<_>>(),
    })))
}

fn pool(snapshot: &Snapshot) -> Value {
    let address = |(ip, (nic, state)): (&std::net::IpAddr, &(_, AddressState))| {
        let (word, key) = word(state);
        json!({"ip": ip, "nic": nic, "state": word, "key": key})
    };
    json!({
        "addresses": snapshot.addresses.iter().map(address).collect::<Vec<_>>(),
        "counts": snapshot.counts,
        "demand": snapshot.demand,
        "releasable": snapshot.releasable,
        "consents": snapshot.consents,
    })
}

/// A state's word, and its key or nothing.
pub fn word(state: &AddressState) -> (&'static str, String) {
    match state {
        AddressState::Free => ("free", String::new()),
        AddressState::Bound(key) => ("bound", key.to_string()),
        AddressState::Draining(key) => ("draining", key.to_string()),
        AddressState::Cooling { .. } => ("cooling", String::new()),
        AddressState::Yielded => ("yielded", String::new()),
    }
}
