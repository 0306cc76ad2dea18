//! Prometheus metrics of the operator; each component gets the whole set and touches its own.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CallLabels {
    pub verb: &'static str,
    pub result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerbLabels {
    pub verb: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ActionLabels {
    pub action: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SubnetLabels {
    pub subnet: String,
    pub family: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabels {
    pub kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OperationLabels {
    pub operation: &'static str,
    pub result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReviewLabels {
    pub verdict: &'static str,
}

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    pub registry: Registry,
    pub cloud_calls: Family<CallLabels, Counter>,
    pub cloud_seconds: Family<VerbLabels, Histogram>,
    pub cloud_waits: Counter<f64, AtomicU64>,
    pub sweeps: Family<OperationLabels, Counter>,
    pub actions: Family<ActionLabels, Counter>,
    pub problems: Family<ReasonLabels, Gauge>,
    pub problems_begun: Family<ReasonLabels, Counter>,
    pub subnet_free: Family<SubnetLabels, Gauge>,
    pub subnet_held: Family<SubnetLabels, Gauge>,
    pub undecodable: Family<KindLabels, Gauge>,
    pub api_writes: Family<OperationLabels, Counter>,
    pub nodes: Gauge,
    pub leader: Gauge,
    pub leaks: Counter,
    pub reviews: Family<ReviewLabels, Counter>,
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tombolo_operator");
        let mut metrics = Self {
            registry: Registry::default(),
            cloud_calls: Family::default(),
            cloud_seconds: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.002, 2.0, 14))
            }),
            cloud_waits: Counter::default(),
            sweeps: Family::default(),
            actions: Family::default(),
            problems: Family::default(),
            problems_begun: Family::default(),
            subnet_free: Family::default(),
            subnet_held: Family::default(),
            undecodable: Family::default(),
            api_writes: Family::default(),
            nodes: Gauge::default(),
            leader: Gauge::default(),
            leaks: Counter::default(),
            reviews: Family::default(),
        };
        let m = &metrics;
        registry.register(
            "cloud_calls",
            "Calls to the cloud, by verb and result",
            m.cloud_calls.clone(),
        );
        registry.register(
            "cloud_call_seconds",
            "Duration of calls to the cloud",
            m.cloud_seconds.clone(),
        );
        registry.register(
            "cloud_budget_wait_seconds",
            "Time calls waited for the budget",
            m.cloud_waits.clone(),
        );
        registry.register("sweeps", "Whole readings of the cloud", m.sweeps.clone());
        registry.register(
            "planner_actions",
            "Actions that the planner asked for",
            m.actions.clone(),
        );
        registry.register(
            "problems",
            "Nodes with a problem at present, by reason",
            m.problems.clone(),
        );
        registry.register(
            "problems_begun",
            "Problems that began, by reason",
            m.problems_begun.clone(),
        );
        registry.register(
            "subnet_free_addresses",
            "Free addresses of a subnet",
            m.subnet_free.clone(),
        );
        registry.register(
            "subnet_held_addresses",
            "Pod addresses held in a subnet",
            m.subnet_held.clone(),
        );
        registry.register(
            "undecodable_objects",
            "Objects that cannot be decoded",
            m.undecodable.clone(),
        );
        registry.register(
            "api_writes",
            "Writes to the Kubernetes API",
            m.api_writes.clone(),
        );
        registry.register("nodes", "Nodes looked after", m.nodes.clone());
        registry.register(
            "leader",
            "Whether this process holds the lease",
            m.leader.clone(),
        );
        registry.register(
            "leaked_nics_deleted",
            "NICs of this cluster without an object, deleted",
            m.leaks.clone(),
        );
        registry.register(
            "webhook_reviews",
            "Requests that the admission webhook judged, by verdict",
            m.reviews.clone(),
        );
        metrics.registry = registry;
        metrics
    }

    /// Counts one write to the Kubernetes API.
    pub fn api_write(&self, operation: &'static str, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.api_writes
            .get_or_create(&OperationLabels { operation, result })
            .inc();
    }
}
