//! The lease: of several operators one is active.
//!
//! ```text
//!            lease free, ours, or not renewed for its duration (as seen here)        renewal fails for too long
//!  Waiting ───────────────────────────────────────────────────────────────▶ Leading ───────────────────────────▶ Waiting
//! ```
//! Whether a foreign lease is still alive is judged by when *we* last saw it change, so clocks need not agree.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::config::LeaseConfig;

/// One candidate.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    config: LeaseConfig,
    /// The lease as last seen to change, and when.
    seen: Option<(String, Instant)>,
}

/// What one try came to.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Write this.
    Take { transitions: i32 },
    /// Somebody else has it, at least for so long.
    Wait(Duration),
}

impl Candidate {
    pub fn new(client: Client, config: LeaseConfig) -> Self {
        Self {
            api: Api::namespaced(client, &config.namespace),
            config,
            seen: None,
        }
    }

    /// Waits until the lease is ours.
    pub async fn acquire(&mut self) {
        loop {
            let pause = match self.attempt().await {
                Ok(None) => return,
                Ok(Some(wait)) => wait.min(self.config.renew),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "taking the lease failed"
                    );
                    self.config.renew
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Renews until that fails for so long that somebody else may take the lease; returns why it was lost.
    pub async fn hold(&mut self) -> &'static str {
        let mut renewed = Instant::now();
        // A margin for calls under way when the lease is lost.
        let patience = self.config.duration - self.config.duration / 4;
        loop {
            tokio::time::sleep(self.config.renew).await;
            let left = patience.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(None)) => renewed = Instant::now(),
                Ok(Ok(Some(_))) => return "somebody else took it",
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "renewing the lease failed"
                    );
                }
                Err(_) => return "it could not be renewed in time",
            }
            if renewed.elapsed() >= patience {
                return "it could not be renewed in time";
            }
        }
    }

    /// Gives the lease up, so that the next one need not wait.
    pub async fn release(&mut self) {
        let release = async {
            let Some(mut lease) = self.api.get_opt(&self.config.name).await? else {
                return Ok(());
            };
            let Some(spec) = lease.spec.as_mut() else {
                return Ok(());
            };
            if spec.holder_identity.as_deref() != Some(&self.config.identity) {
                return Ok(());
            }
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.api
                .replace(&self.config.name, &PostParams::default(), &lease)
                .await
                .map(drop)
        };
        match tokio::time::timeout(self.config.renew, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "giving up the lease failed"
            ),
            Err(_) => tracing::warn!("giving up the lease took too long"),
        }
    }

    /// Takes or renews. `None`: ours. `Some`: somebody else's, try again after that.
    async fn attempt(&mut self) -> kube::Result<Option<Duration>> {
        let name = self.config.name.clone();
        let Some(mut lease) = self.api.get_opt(&name).await? else {
            let metadata = ObjectMeta {
                name: Some(name),
                ..ObjectMeta::default()
            };
            let lease = Lease {
                metadata,
                spec: Some(self.spec(None, 0)),
            };
            self.api.create(&PostParams::default(), &lease).await?;
            return Ok(None);
        };
        let version = lease.resource_version().unwrap_or_default();
        let now = Instant::now();
        let changed = match &self.seen {
            Some((seen, at)) if *seen == version => *at,
            _ => {
                self.seen = Some((version, now));
                now
            }
        };
        let old = lease.spec.take().unwrap_or_default();
        match judge(&old, &self.config.identity, now - changed) {
            Verdict::Wait(wait) => Ok(Some(wait)),
            Verdict::Take { transitions } => {
                lease.spec = Some(self.spec(Some(&old), transitions));
                match self
                    .api
                    .replace(&self.config.name, &PostParams::default(), &lease)
                    .await
                {
                    Ok(_) => Ok(None),
                    // Somebody was faster.
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        Ok(Some(self.config.renew))
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn spec(&self, old: Option<&LeaseSpec>, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let ours = old.filter(|old| old.holder_identity.as_deref() == Some(&self.config.identity));
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(self.config.duration.as_secs()).ok(),
            acquire_time: ours
                .and_then(|old| old.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

/// Whether a lease that has not changed for `unchanged` may be taken.
fn judge(lease: &LeaseSpec, identity: &str, unchanged: Duration) -> Verdict {
    let transitions = lease.lease_transitions.unwrap_or(0);
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    if holder == identity {
        return Verdict::Take { transitions };
    }
    let seconds = lease
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or(0);
    let duration = Duration::from_secs(seconds);
    if holder.is_empty() || unchanged >= duration {
        return Verdict::Take {
            transitions: transitions.saturating_add(1),
        };
    }
    Verdict::Wait(duration - unchanged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_take_the_lease() {
        let lease = |holder: &str| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        };
        let seconds = Duration::from_secs;
        assert_eq!(
            judge(&lease("a"), "a", seconds(0)),
            Verdict::Take { transitions: 3 }
        );
        assert_eq!(
            judge(&lease(""), "a", seconds(0)),
            Verdict::Take { transitions: 4 }
        );
        assert_eq!(
            judge(&lease("b"), "a", seconds(4)),
            Verdict::Wait(seconds(11))
        );
        assert_eq!(
            judge(&lease("b"), "a", seconds(15)),
            Verdict::Take { transitions: 4 }
        );
        assert_eq!(
            judge(&LeaseSpec::default(), "a", seconds(0)),
            Verdict::Take { transitions: 1 }
        );
    }
}
