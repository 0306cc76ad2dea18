//! The one place from which the cloud is called: a shared budget of calls, metrics, and a common pause when the cloud
//! throttles. No lock is held while a call is under way.

mod budget;

use std::sync::Arc;

use tokio::time::Instant;
use tombolo_cloud_sim::client::{Client, Error};
use tombolo_cloud_sim::wire::Verb;
use tombolo_core::types::Reason;

use crate::clock;
use crate::config::CloudConfig;
use crate::metrics::{CallLabels, Metrics, VerbLabels};
use crate::steps;
pub use budget::Budget;

/// The cloud.
#[derive(Debug)]
pub struct Cloud {
    client: Client,
    budget: Budget,
    metrics: Arc<Metrics>,
}

impl Cloud {
    pub fn new(config: &CloudConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            client: Client::new(config.endpoint.clone(), config.client),
            budget: Budget::new(config.rate, config.burst),
            metrics,
        }
    }

    /// Waits for its turn and calls. Not repeated on failure: the caller decides.
    pub async fn call<V: Verb>(&self, call: &V) -> Result<V::Reply, Error> {
        let asked = Instant::now();
        // A place in the queue is taken at once; a pause that begins meanwhile is waited for as well.
        let mut turn = self.budget.reserve(asked);
        loop {
            tokio::time::sleep_until(turn).await;
            match self.budget.paused_until(Instant::now()) {
                Some(until) => turn = until,
                None => break,
            }
        }
        let begun = Instant::now();
        self.metrics
            .cloud_waits
            .inc_by((begun - asked).as_secs_f64());
        let call = self.client.call(call);
        let result = match steps::cloud::<V>() {
            Some(point) => point.during(call).await,
            None => call.await,
        };
        let verb = V::NAME;
        self.metrics
            .cloud_seconds
            .get_or_create(&VerbLabels { verb })
            .observe(begun.elapsed().as_secs_f64());
        let word = match &result {
            Ok(_) => "ok",
            Err(error) => error.word(),
        };
        self.metrics
            .cloud_calls
            .get_or_create(&CallLabels { verb, result: word })
            .inc();
        match &result {
            Err(error) if error.reason() == Reason::CloudThrottled => {
                self.budget.throttled(Instant::now(), clock::spread());
            }
            Ok(_) => self.budget.served(),
            Err(_) => {}
        }
        result
    }
}
