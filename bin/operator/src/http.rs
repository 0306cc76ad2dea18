//! Metrics and health over HTTP: `/metrics`, `/healthz` (the process serves), `/readyz` (objects and cloud were read, or
//! another operator leads; and the webhook, where it is on, serves).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;

/// What `/readyz` goes by.
#[derive(Clone, Debug)]
pub struct Health {
    /// It leads and has read objects and cloud, or stands by.
    pub ready: Arc<AtomicBool>,
    /// Whether the webhook serves, which every replica does; `None`: it is off.
    pub webhook: Option<watch::Receiver<bool>>,
}

impl Health {
    /// What is missing.
    fn lacks(&self) -> Option<&'static str> {
        match &self.webhook {
            Some(webhook) if !*webhook.borrow() => Some("the webhook has no certificate yet\n"),
            _ if self.ready.load(Ordering::Relaxed) => None,
            _ => Some("objects or cloud not read yet, or no API server\n"),
        }
    }
}

#[derive(Clone, Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    health: Health,
}

/// Serves until shutdown.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Health,
    mut shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(scrape))
        .with_state(Shared { metrics, health });
    let stopped = async move {
        // An error means that the sender is gone, which is a shutdown too.
        drop(shutdown.wait_for(|stop| *stop).await);
    };
    axum::serve(listener, router)
        .with_graceful_shutdown(stopped)
        .await
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    match shared.health.lacks() {
        None => (
            StatusCode::OK,
            "ok
",
        ),
        Some(lack) => (StatusCode::SERVICE_UNAVAILABLE, lack),
    }
}

async fn scrape(State(shared): State<Shared>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shared.metrics.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Err(error) => {
            let plain = "text/plain";
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                [(header::CONTENT_TYPE, plain)],
                error.to_string(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_who_does_what_is_its_to_do() {
        for (webhook, known, ready) in [
            (None, false, false),
            (None, true, true),
            (Some(false), true, false),
            (Some(true), false, false),
            (Some(true), true, true),
        ] {
            let health = Health {
                ready: Arc::new(AtomicBool::new(known)),
                webhook: webhook.map(|serves| watch::channel(serves).1),
            };
            assert_eq!(health.lacks().is_none(), ready, "{webhook:?} {known}");
        }
    }
}
