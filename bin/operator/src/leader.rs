//! The lease: of several operators one is active.
//!
//! ```text
//!            lease free, ours, or not renewed for its duration (as seen here)        renewal fails for too long
//!  Waiting ───────────────────────────────────────────────────────────────▶ Leading ───────────────────────────▶ Waiting
//! ```
//! Whether a foreign lease is still alive is judged by when *we* last saw it change, so clocks need not agree.
//!
//! The lease is also where a restored API server shows: it is written every few seconds, so a version of it that is older
//! than one seen before means that all objects went back. Watches do not tell (they wait for a version that comes much
//! later), and what is remembered of objects is newer than the truth; so the leader lets everything go and begins anew.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::time::Instant;

use crate::config::LeaseConfig;
use crate::steps;

/// One candidate.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    config: LeaseConfig,
    /// The lease as last seen to change, and when.
    seen: Option<(String, Instant)>,
    /// The newest version of the lease that was ever seen.
    newest: Newest,
}

/// Why leading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Somebody else leads.
    Taken,
    /// It could not be renewed for so long that somebody else may lead.
    Unrenewed,
    /// The API server went back to an earlier state.
    Restored,
}

/// What one try came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    /// It is ours.
    Ours,
    /// Somebody else's, at least for so long.
    Wait(Duration),
    /// The API server went back to an earlier state.
    Restored,
}

/// The newest version of an object. Versions are numbers that grow; one that is no number says nothing.
#[derive(Debug, Default)]
struct Newest(Option<u64>);

impl Newest {
    /// Notes a version; true where it is older than one seen before, which then counts no longer.
    fn went_back(&mut self, version: Option<&str>) -> bool {
        let Some(now) = version.and_then(|version| version.parse::<u64>().ok()) else {
            return false;
        };
        let before = self.0.replace(now);
        before.is_some_and(|before| now < before)
    }
}

/// What may be done with a lease.
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
            newest: Newest::default(),
        }
    }

    /// Waits until the lease is ours.
    pub async fn acquire(&mut self) {
        loop {
            let pause = match self.attempt().await {
                Ok(Tried::Ours) => return,
                Ok(Tried::Wait(wait)) => wait.min(self.config.renew),
                // Nothing is remembered yet.
                Ok(Tried::Restored) => continue,
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
    pub async fn hold(&mut self) -> Lost {
        let mut renewed = Instant::now();
        // A margin for calls under way when the lease is lost.
        let patience = self.config.duration - self.config.duration / 4;
        loop {
            tokio::time::sleep(self.config.renew).await;
            let left = patience.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt()).await {
                Ok(Ok(Tried::Ours)) => renewed = Instant::now(),
                Ok(Ok(Tried::Wait(_))) => return Lost::Taken,
                Ok(Ok(Tried::Restored)) => return Lost::Restored,
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "renewing the lease failed"
                    );
                }
                Err(_) => return Lost::Unrenewed,
            }
            if renewed.elapsed() >= patience {
                return Lost::Unrenewed;
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
            let params = PostParams::default();
            let write = self.api.replace(&self.config.name, &params, &lease);
            steps::LEASE_RELEASE.during(write).await.map(drop)
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

    /// Takes or renews.
    async fn attempt(&mut self) -> kube::Result<Tried> {
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
            let params = PostParams::default();
            let create = self.api.create(&params, &lease);
            let made = steps::LEASE_CREATE.during(create).await?;
            return Ok(self.note(&made).unwrap_or(Tried::Ours));
        };
        if let Some(restored) = self.note(&lease) {
            return Ok(restored);
        }
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
            Verdict::Wait(wait) => Ok(Tried::Wait(wait)),
            Verdict::Take { transitions } => {
                lease.spec = Some(self.spec(Some(&old), transitions));
                let params = PostParams::default();
                let write = self.api.replace(&self.config.name, &params, &lease);
                match steps::LEASE_WRITE.during(write).await {
                    Ok(written) => Ok(self.note(&written).unwrap_or(Tried::Ours)),
                    // Somebody was faster.
                    Err(kube::Error::Api(status)) if status.code == 409 => {
                        Ok(Tried::Wait(self.config.renew))
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    fn note(&mut self, lease: &Lease) -> Option<Tried> {
        let version = lease.metadata.resource_version.as_deref();
        self.newest.went_back(version).then_some(Tried::Restored)
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
    fn a_version_that_went_back_is_told_once() {
        let mut newest = Newest::default();
        let mut went_back = |version| newest.went_back(Some(version));
        assert!(!went_back("100"));
        assert!(!went_back("100"), "read again");
        assert!(!went_back("1000"), "compared as numbers");
        assert!(!went_back("x"));
        assert!(went_back("999"));
        assert!(!went_back("1000"), "it goes on from there");
        assert!(!newest.went_back(None));
    }

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
