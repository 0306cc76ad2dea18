//! The admission webhook: a node's agent writes its own node's objects and nothing else (docs/adr/0012).
//!
//! ```text
//!   API server ── review, TLS ──▶ serve ──▶ rule (whose object? which pod asks?) ──▶ pods (on which node?) ──▶ verdict
//!   keep: Secret (made, renewed) ──▶ caBundle of the webhook's configuration ──▶ certificate served
//! ```
//! Every replica serves, whichever leads. It fails closed: without it, or where it cannot find out, nothing is written.

mod certificate;
mod keep;
mod pods;
mod review;
mod rule;
mod serve;

use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::WebhookConfig;
use crate::metrics::Metrics;
use pods::Pods;
use review::{Refusal, Request};
use rule::{Rule, Verdict};
use serve::Served;

/// What its tasks share.
#[derive(Debug)]
struct Webhook {
    rule: Rule,
    pods: Pods,
    served: Arc<Served>,
    metrics: Arc<Metrics>,
}

impl Webhook {
    async fn verdict(&self, request: &Request) -> Result<(), Refusal> {
        let (pod, node) = match self.rule.judge(request) {
            Verdict::Decided(decided) => return decided,
            Verdict::IfOn { pod, node } => (pod, node),
        };
        let own = self.pods.node(&pod).await?;
        if own == node {
            return Ok(());
        }
        Err(rule::forbidden(format!(
            "the agent of node {own} (pod {}) does not write what is node {node}'s",
            pod.name
        )))
    }
}

/// Runs until shutdown; `ready` says whether a certificate is served.
///
/// # Errors
/// The port cannot be had, or a task broke.
pub async fn run(
    config: WebhookConfig,
    client: Client,
    metrics: Arc<Metrics>,
    ready: watch::Sender<bool>,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("listen on {} for the webhook", config.listen))?;
    let webhook = Arc::new(Webhook {
        rule: Rule::new(&config.namespace, &config.agent),
        pods: Pods::new(client.clone(), &config.namespace),
        served: Arc::default(),
        metrics,
    });
    let mut tasks = JoinSet::new();
    let served = Arc::clone(&webhook.served);
    tasks.spawn(keep::run(config, client, served, ready));
    let server = serve::serve(listener, webhook, shutdown.clone());
    let mut stop = shutdown;
    tokio::select! {
        ended = server => ended.context("serve the webhook"),
        Some(ended) = tasks.join_next() => {
            anyhow::bail!("keeping the webhook's certificate ended: {ended:?}")
        }
        _ = stop.wait_for(|stop| *stop) => Ok(()),
    }
}
