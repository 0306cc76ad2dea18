//! The operator's process: configuration, lease, shutdown.
#![forbid(unsafe_code)]

mod api;
mod clock;
mod cloud;
mod config;
mod controller;
mod events;
mod http;
mod inventory;
mod leader;
mod leaks;
mod metrics;
mod node;
mod objects;
mod profile;
mod readiness;
mod shared;
mod steps;
mod wakers;
mod webhook;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Parser;
use kube::Client;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use cloud::Cloud;
use config::{Args, Config};
use events::{Events, Subject};
use inventory::Inventory;
use leader::{Candidate, Leadership, Lost};
use metrics::{Metrics, ReasonLabels};
use objects::Objects;
use shared::Shared;
use tombolo_core::types::Reason;
use wakers::Wakers;

fn main() -> anyhow::Result<()> {
    let arguments = std::env::args_os().skip(1);
    if tombolo_failpoint::list_if_asked(arguments, &steps::TABLES) {
        return Ok(());
    }
    let args = Args::parse();
    tombolo_failpoint::arm(args.failpoint.clone(), &steps::TABLES)?;
    let filter: tracing_subscriber::EnvFilter = args
        .log
        .parse()
        .with_context(|| format!("--log {:?}", args.log))?;
    let config = args.validate()?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(run(config));
    // Nothing of what still runs is waited for, such as a thread that looks up a name: only the resolver bounds that.
    runtime.shutdown_background();
    ended
}

async fn run(config: Config) -> anyhow::Result<()> {
    let (stop, shutdown) = watch::channel(false);
    let metrics = Arc::new(Metrics::new());
    let ready = Arc::new(AtomicBool::new(false));
    let address = config.metrics_listen;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address} for metrics"))?;
    let (webhook_ready, webhook_serves) = watch::channel(false);
    let health = http::Health {
        ready: Arc::clone(&ready),
        webhook: config.webhook.as_ref().map(|_| webhook_serves),
    };
    let server = tokio::spawn(http::serve(
        listener,
        Arc::clone(&metrics),
        health,
        shutdown.clone(),
    ));
    // Before anything is waited for: the kernel drops what the first process of a container does not handle.
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let signals = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        stop.send_replace(true);
    });
    let client = connect(&config).await?;
    let guard = async {
        match config.webhook.clone() {
            Some(webhook) => {
                let (client, metrics) = (client.clone(), Arc::clone(&metrics));
                webhook::run(webhook, client, metrics, webhook_ready, shutdown.clone()).await
            }
            None => Ok(()),
        }
    };
    let lead = lead(&config, client.clone(), &metrics, &ready, shutdown.clone());
    // Both end at a shutdown; one that fails ends the other.
    let led = tokio::try_join!(guard, lead).map(drop);
    signals.abort();
    server.abort();
    led
}

/// Waits for the lease and does the work while it is held, again and again until shutdown.
async fn lead(
    config: &Config,
    client: Client,
    metrics: &Arc<Metrics>,
    ready: &Arc<AtomicBool>,
    shutdown: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut candidate = Candidate::new(client.clone(), config.lease.clone());
    let mut stopped = shutdown.clone();
    loop {
        let term = tokio::select! {
            term = candidate.acquire(|stands_by| ready.store(stands_by, Ordering::Relaxed)) => term,
            _ = stopped.wait_for(|stop| *stop) => return Ok(()),
        };
        tracing::info!(identity = %config.lease.identity, term = term.0, "leading");
        metrics.leader.set(1);
        let leadership = Arc::new(Leadership::new(term));
        let shared = share(config, &client, metrics, Arc::clone(&leadership));
        let work = controller::run(shared, client.clone(), Arc::clone(ready), shutdown.clone());
        let lost = tokio::select! {
            why = candidate.hold(term) => Some(why),
            later = leadership.outdone() => Some(Lost::Outdone(later)),
            () = work => None,
        };
        metrics.leader.set(0);
        ready.store(false, Ordering::Relaxed);
        match lost {
            // Everything was dropped with the future of the work.
            Some(Lost::Restored) => tell_restored(config, client.clone(), metrics),
            Some(why) => {
                tracing::warn!(?why, "the lease is lost");
                if let Lost::Outdone(later) = why {
                    candidate.outdo(later);
                }
            }
            None => {
                candidate.release().await;
                anyhow::ensure!(*shutdown.borrow(), "a part of the operator ended");
                return Ok(());
            }
        }
    }
}

/// All objects went back to an earlier state; the next round begins from what they and the cloud show now.
fn tell_restored(config: &Config, client: Client, metrics: &Metrics) {
    let reason = Reason::ApiRestored;
    let message =
        "the lease is older than it was: the API server was restored; reading everything anew";
    tracing::warn!(%reason, message, "problem");
    let labels = ReasonLabels {
        reason: reason.word(),
    };
    metrics.problems_begun.get_or_create(&labels).inc();
    Events::new(client, &config.lease.identity).warn(
        Subject::namespace(&config.lease.namespace),
        reason,
        message.to_owned(),
    );
}

fn share(
    config: &Config,
    client: &Client,
    metrics: &Arc<Metrics>,
    leadership: Arc<Leadership>,
) -> Arc<Shared> {
    let wakers = Arc::new(Wakers::default());
    let cloud = Arc::new(Cloud::new(&config.cloud_calls, Arc::clone(metrics)));
    let objects = Arc::new(Objects::default());
    let (of_cloud, of_metrics) = (Arc::clone(&cloud), Arc::clone(metrics));
    Arc::new(Shared {
        config: config.clone(),
        leadership,
        cloud,
        inventory: Arc::new(Inventory::new(
            of_cloud,
            config.inventory,
            of_metrics,
            Arc::clone(&wakers),
        )),
        writer: api::Writer::new(client.clone(), Arc::clone(&objects), Arc::clone(metrics)),
        events: Events::new(client.clone(), &config.lease.identity),
        objects,
        metrics: Arc::clone(metrics),
        wakers,
    })
}

async fn connect(config: &Config) -> anyhow::Result<Client> {
    let kube_config = match &config.api_server {
        Some(url) => kube::Config::new(url.clone()),
        None => kube::Config::infer()
            .await
            .context("find the Kubernetes API (kubeconfig or service account)")?,
    };
    tombolo_api::client(kube_config).context("make a client of the Kubernetes API")
}
