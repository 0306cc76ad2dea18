//! Counters and times, in Prometheus' text format. Gauges of the pool are filled in when somebody asks.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tombolo_core::types::Reason;

use crate::node::Wired;
use crate::pool::Snapshot;

/// Seconds: from a tenth of a millisecond to the longest wait.
const BUCKETS: [f64; 14] = [
    0.0001, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.015, 0.03, 0.1, 0.3, 1.0, 5.0, 30.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    operation: &'static str,
    /// `ok`, or the reason's word.
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Addresses {
    family: String,
    state: &'static str,
}

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    operations: Family<Outcome, Counter>,
    seconds: Family<Operation, Histogram>,
    repairs: Family<Kind, Counter>,
    resync_seconds: Histogram,
    addresses: Family<Addresses, Gauge>,
    nics: Gauge,
    ready: Gauge,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tombolo_agent");
        let metrics = Self {
            operations: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            repairs: Family::default(),
            resync_seconds: Histogram::new(BUCKETS),
            addresses: Family::default(),
            nics: Gauge::default(),
            ready: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register(
            "operations",
            "Operations by outcome",
            metrics.operations.clone(),
        );
        registry.register(
            "operation_seconds",
            "Time of an operation",
            metrics.seconds.clone(),
        );
        registry.register(
            "repairs",
            "Changes to kernel state by the comparison",
            metrics.repairs.clone(),
        );
        registry.register(
            "resync_seconds",
            "Time of a comparison",
            metrics.resync_seconds.clone(),
        );
        registry.register(
            "addresses",
            "Addresses of the node by state",
            metrics.addresses.clone(),
        );
        registry.register("nics", "NICs in use", metrics.nics.clone());
        registry.register("ready", "Whether pods can be served", metrics.ready.clone());
        Self {
            registry,
            ..metrics
        }
    }

    /// An operation ended.
    pub fn operation(&self, operation: &'static str, failed: Option<Reason>, elapsed: Duration) {
        let reason = failed.map_or("ok", Reason::word);
        self.operations
            .get_or_create(&Outcome { operation, reason })
            .inc();
        self.seconds
            .get_or_create(&Operation { operation })
            .observe(elapsed.as_secs_f64());
    }

    /// Something failed in the background.
    pub fn failed(&self, operation: &'static str, reason: Reason) {
        self.operations
            .get_or_create(&Outcome {
                operation,
                reason: reason.word(),
            })
            .inc();
    }

    /// The comparison changed something.
    pub fn repaired(&self, kind: &'static str) {
        self.repairs.get_or_create(&Kind { kind }).inc();
    }

    pub fn resynced(&self, elapsed: Duration) {
        self.resync_seconds.observe(elapsed.as_secs_f64());
    }

    /// All of it as text.
    pub fn text(&self, pool: &Snapshot, wired: &Wired) -> Result<String, std::fmt::Error> {
        for (family, counts) in &pool.counts {
            let states = [
                ("free", counts.free),
                ("bound", counts.bound),
                ("draining", counts.draining),
                ("cooling", counts.cooling),
                ("yielded", counts.yielded),
            ];
            for (state, count) in states {
                let labels = Addresses {
                    family: family.to_string(),
                    state,
                };
                self.addresses.get_or_create(&labels).set(i64::from(count));
            }
        }
        self.nics
            .set(i64::try_from(wired.nics.len()).unwrap_or(i64::MAX));
        self.ready.set(i64::from(wired.is_ready()));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
