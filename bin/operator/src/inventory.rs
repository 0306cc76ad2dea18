//! The cloud as the whole operator sees it: one reading for the whole cluster at each resync, never one per node; our own
//! writes applied as they are answered; one poll for all NICs that are being attached or detached.
//!
//! Tasks: [`Inventory::keep_reading`] and [`Inventory::keep_polling`]. Both may be dropped at any await.

mod snapshot;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tombolo_cloud_sim::client::Error;
use tombolo_cloud_sim::wire::{
    DescribeInstanceTypes, DescribeInstances, DescribeNics, DescribeSubnets, DescribeVpc, NicInfo,
};
use tombolo_core::eni::Backoff;
use tombolo_core::types::{Family, Millis, Reason};

use crate::clock;
use crate::cloud::Cloud;
use crate::config::InventoryConfig;
use crate::metrics::{Metrics, OperationLabels, SubnetLabels};
use crate::wakers::Wakers;
pub use snapshot::{NicRecord, Reading, Snapshot, Trust};

#[cfg(test)]
pub use snapshot::tests as samples;

/// Readings that may fail in a row before the cloud is called unreachable.
const UNREACHABLE_AFTER: u32 = 2;

/// The inventory.
#[derive(Debug)]
pub struct Inventory {
    cloud: Arc<Cloud>,
    config: InventoryConfig,
    metrics: Arc<Metrics>,
    wakers: Arc<Wakers>,
    snapshot: RwLock<Snapshot>,
    health: Mutex<Health>,
    wanted: Notify,
    transition: Notify,
}

#[derive(Debug, Default)]
struct Health {
    failures: u32,
    problem: Option<(Reason, String)>,
    /// When everything was read first.
    first: Option<Millis>,
    settled: bool,
}

impl Inventory {
    pub fn new(
        cloud: Arc<Cloud>,
        config: InventoryConfig,
        metrics: Arc<Metrics>,
        wakers: Arc<Wakers>,
    ) -> Self {
        Self {
            cloud,
            config,
            metrics,
            wakers,
            snapshot: RwLock::default(),
            health: Mutex::default(),
            wanted: Notify::new(),
            transition: Notify::new(),
        }
    }

    /// Looks at the snapshot. The function must not block.
    pub fn read<R>(&self, look: impl FnOnce(&Snapshot) -> R) -> R {
        look(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Applies what a call of ours did. The function must not block.
    pub fn write<R>(&self, change: impl FnOnce(&mut Snapshot) -> R) -> R {
        let mut snapshot = self
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut snapshot);
        if snapshot.nics.values().any(NicRecord::in_transition) {
            self.transition.notify_one();
        }
        result
    }

    /// How readings are judged.
    pub const fn trust(&self) -> Trust {
        Trust {
            confirm_after: self.config.confirm_after,
            stale_grace: self.config.stale_grace,
        }
    }

    /// Whether the cloud was read at least once.
    pub fn swept(&self) -> bool {
        self.health().first.is_some()
    }

    /// Whether two whole readings far enough apart were taken in. Before that, what the cloud does not show may merely have
    /// been left out of the only reading, and there is no earlier one to compare it with.
    pub fn settled(&self) -> bool {
        self.health().settled
    }

    /// Why the cloud cannot be read, if so.
    pub fn unreachable(&self) -> Option<(Reason, String)> {
        self.health().problem.clone()
    }

    /// Asks for a reading soon.
    pub fn want_sweep(&self) {
        self.wanted.notify_one();
    }

    /// Reads these NICs now, for example after a write whose outcome is unknown.
    pub async fn refresh(&self, filter: &DescribeNics) -> Result<Vec<NicInfo>, Error> {
        let begun = self.read(Snapshot::writes);
        let nics = self.cloud.call(filter).await?;
        self.write(|snapshot| {
            snapshot.absorb_nics(nics.clone(), begun, clock::now(), self.trust())
        });
        Ok(nics)
    }

    /// Reads everything again and again: at each resync, when asked, and when something waits for confirmation.
    pub async fn keep_reading(&self) {
        let mut backoff = Backoff::default();
        loop {
            let begun = Instant::now();
            let result = self.sweep().await;
            let word = if result.is_ok() { "ok" } else { "failed" };
            self.metrics
                .sweeps
                .get_or_create(&OperationLabels {
                    operation: "sweep",
                    result: word,
                })
                .inc();
            self.note(result.as_ref().err());
            let pause = match &result {
                Ok(()) => {
                    backoff = Backoff::default();
                    let confirm = Duration::from_millis(self.config.confirm_after.0)
                        .max(self.config.sweep_gap);
                    let confirm = confirm + Duration::from_millis(1);
                    if !self.settled() || self.read(Snapshot::awaits_confirmation) {
                        confirm
                    } else {
                        self.config.resync
                    }
                }
                Err(error) => {
                    tracing::warn!(reason = %error.reason(), %error, "reading the cloud failed");
                    backoff.fail(clock::now(), &self.config.backoff, clock::spread());
                    clock::until(backoff.until())
                }
            };
            let next = begun + pause.min(self.config.resync.max(pause));
            if backoff.failures() > 0 {
                tokio::time::sleep_until(next).await;
            } else {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => {}
                    () = self.wanted.notified() => tokio::time::sleep_until(begun + self.config.sweep_gap).await,
                }
            }
        }
    }

    async fn sweep(&self) -> Result<(), Error> {
        let begun = self.read(Snapshot::writes);
        let (all_instances, all_subnets) =
            (DescribeInstances::default(), DescribeSubnets::default());
        let all_nics = DescribeNics::default();
        let (vpc, instances, subnets, nics) = tokio::try_join!(
            self.cloud.call(&DescribeVpc {}),
            self.cloud.call(&all_instances),
            self.cloud.call(&all_subnets),
            self.cloud.call(&all_nics),
        )?;
        let unknown = self.read(|snapshot| {
            instances
                .iter()
                .any(|instance| !snapshot.types.contains_key(&instance.instance_type))
        });
        if unknown {
            let types = self.cloud.call(&DescribeInstanceTypes::default()).await?;
            self.write(|snapshot| {
                snapshot
                    .types
                    .extend(types.into_iter().map(|kind| (kind.name.clone(), kind)));
            });
        }
        let reading = Reading {
            vpc,
            instances,
            subnets,
            nics,
        };
        self.write(|snapshot| snapshot.absorb(reading, begun, clock::now(), self.trust()));
        self.read(|snapshot| self.count(snapshot));
        Ok(())
    }

    fn count(&self, snapshot: &Snapshot) {
        for subnet in snapshot.subnets.values() {
            let label = |family| SubnetLabels {
                subnet: subnet.id.clone(),
                family,
            };
            self.metrics
                .subnet_free
                .get_or_create(&label("IPv4"))
                .set(subnet.available4.into());
            for family in Family::ALL {
                let nics = snapshot
                    .nics
                    .values()
                    .filter(|nic| nic.info.subnet == subnet.id);
                let held = nics
                    .flat_map(|nic| &nic.info.secondary)
                    .filter(|ip| Family::of(**ip) == family)
                    .count();
                let word = if family == Family::V4 { "IPv4" } else { "IPv6" };
                self.metrics
                    .subnet_held
                    .get_or_create(&label(word))
                    .set(i64::try_from(held).unwrap_or(i64::MAX));
            }
        }
    }

    fn note(&self, error: Option<&Error>) {
        {
            let mut health = self.health();
            let now = clock::now();
            match error {
                None => {
                    let first = health.first.unwrap_or(now);
                    if health.first.is_none() {
                        tracing::info!("the cloud was read");
                    }
                    *health = Health {
                        first: Some(first),
                        settled: now > first && now - first >= self.config.confirm_after,
                        ..Health::default()
                    };
                }
                Some(error) => {
                    health.failures = health.failures.saturating_add(1);
                    if health.failures >= UNREACHABLE_AFTER {
                        health.problem = Some((error.reason(), error.to_string()));
                    }
                }
            }
        }
        self.wakers.wake_all();
    }

    /// Looks at NICs that are being attached or detached, all in one call, until there are none.
    pub async fn keep_polling(&self) {
        loop {
            let ids: Vec<String> = self.read(|snapshot| {
                let moving = snapshot.nics.values().filter(|nic| nic.in_transition());
                moving.map(|nic| nic.info.id.clone()).collect()
            });
            if ids.is_empty() {
                self.transition.notified().await;
                continue;
            }
            tokio::time::sleep(self.config.attach_poll).await;
            let before = self.nodes_of(&ids);
            match self
                .refresh(&DescribeNics {
                    ids: ids.clone(),
                    ..DescribeNics::default()
                })
                .await
            {
                Ok(_) => {}
                // One is gone: only a whole reading tells which.
                Err(error) if error.is_not_found() => self.want_sweep(),
                Err(error) => tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "polling NICs failed"
                ),
            }
            let done = self.read(|snapshot| {
                let settled = |id: &&String| {
                    snapshot
                        .nics
                        .get(*id)
                        .is_none_or(|nic| !nic.in_transition())
                };
                ids.iter().filter(settled).cloned().collect::<Vec<_>>()
            });
            for (id, instance) in before {
                if done.contains(&id) {
                    self.wakers.wake_instance(&instance);
                }
            }
        }
    }

    fn nodes_of(&self, ids: &[String]) -> Vec<(String, String)> {
        self.read(|snapshot| {
            let pair =
                |id: &String| Some((id.clone(), snapshot.nics.get(id)?.instance()?.to_owned()));
            ids.iter().filter_map(pair).collect()
        })
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
