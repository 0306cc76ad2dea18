//! The lease: of several operators one is active.
//!
//! ```text
//!            lease free, ours, or not renewed for its duration (as seen here)        renewal fails for too long
//!  Waiting ───────────────────────────────────────────────────────────────▶ Leading ───────────────────────────▶ Waiting
//! ```
//! Whether a foreign lease is still alive is judged by when *we* last saw it change, so clocks need not agree.
//!
//! Each time that the lease is taken its count of transitions grows, also where the one who takes it had it before. That
//! count is the leadership's term. It is in every NetResourceSet that the leader writes, so that an operator which does not
//! know yet that it leads no more finds out ([`Leadership`], docs/adr/0010). A lease that was removed begins to count anew;
//! who then finds a later term in an object takes the lease again, with a term above that one.
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
use tokio::sync::watch;
use tokio::time::Instant;
use tombolo_core::eni::Term;

use crate::config::LeaseConfig;
use crate::steps;

/// Longest time to give up the lease: a process that ends has little, and the lease runs out anyway.
const GIVE_UP: Duration = Duration::from_secs(2);

/// One candidate.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    config: LeaseConfig,
    /// The lease as last seen to change, and when.
    seen: Option<(String, Instant)>,
    /// The newest version of the lease that was ever seen.
    newest: Newest,
    /// The latest term that was ours or that an object carries: the next is above it.
    above: Term,
}

/// One leadership, for all that act under it.
#[derive(Debug)]
pub struct Leadership {
    pub term: Term,
    /// A term found in an object that ends this leadership.
    found: watch::Sender<Option<Term>>,
}

impl Leadership {
    pub fn new(term: Term) -> Self {
        Self {
            term,
            found: watch::Sender::new(None),
        }
    }

    /// Takes note of the term that an object carries; whether it is a later one, so that nothing may be done.
    pub fn is_over(&self, signed: Term) -> bool {
        let is_over = self.term.is_over(signed);
        if is_over {
            self.end(signed);
        }
        is_over
    }

    /// Whether this leadership is the latest that any object carries, before it wrote any. Another lease may have counted
    /// before this one did.
    pub fn begins_after(&self, signed: impl Iterator<Item = Term>) -> bool {
        let latest = signed.max().filter(|latest| *latest >= self.term);
        if let Some(latest) = latest {
            self.end(latest);
        }
        latest.is_none()
    }

    fn end(&self, found: Term) {
        self.found.send_if_modified(|latest| {
            let later = latest.is_none_or(|latest| latest < found);
            if later {
                *latest = Some(found);
            }
            later
        });
    }

    /// Waits until an object was seen that ends this leadership; returns its term.
    pub async fn outdone(&self) -> Term {
        let mut found = self.found.subscribe();
        loop {
            let latest = *found.borrow_and_update();
            if let Some(latest) = latest {
                return latest;
            }
            if found.changed().await.is_err() {
                // Cannot be: the sender is ours.
                return std::future::pending().await;
            }
        }
    }
}

/// Why leading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Somebody else leads.
    Taken,
    /// It could not be renewed for so long that somebody else may lead.
    Unrenewed,
    /// Somebody removed it.
    Removed,
    /// The API server went back to an earlier state.
    Restored,
    /// An object carries this term, which is no earlier one.
    Outdone(Term),
}

/// What one try came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    /// It is ours, under this term.
    Ours(Term),
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
    Take(Term),
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
            above: Term::default(),
        }
    }

    /// The next term is to be above this one.
    pub fn outdo(&mut self, later: Term) {
        self.above = self.above.max(later);
    }

    /// Waits until the lease is ours, under a term that nobody had before. `stands_by`: whether somebody else has it, as the
    /// API server just said.
    pub async fn acquire(&mut self, stands_by: impl Fn(bool)) -> Term {
        loop {
            let tried = self.attempt(None).await;
            stands_by(matches!(tried, Ok(Tried::Wait(_))));
            let pause = match tried {
                Ok(Tried::Ours(term)) => {
                    self.outdo(term);
                    return term;
                }
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
    pub async fn hold(&mut self, term: Term) -> Lost {
        let mut renewed = Instant::now();
        // A margin for calls under way when the lease is lost.
        let patience = self.config.duration - self.config.duration / 4;
        loop {
            tokio::time::sleep(self.config.renew).await;
            let left = patience.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.attempt(Some(term))).await {
                Ok(Ok(Tried::Ours(now))) if now == term => renewed = Instant::now(),
                Ok(Ok(Tried::Ours(_))) => return Lost::Removed,
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
        match tokio::time::timeout(self.config.renew.min(GIVE_UP), release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "giving up the lease failed"
            ),
            Err(_) => tracing::warn!("giving up the lease took too long"),
        }
    }

    /// Takes, or renews under the term that is held.
    async fn attempt(&mut self, held: Option<Term>) -> kube::Result<Tried> {
        let name = self.config.name.clone();
        let Some(mut lease) = self.api.get_opt(&name).await? else {
            let metadata = ObjectMeta {
                name: Some(name),
                ..ObjectMeta::default()
            };
            // It may have been removed while it was held: that leadership is over as well.
            let term = Term(self.above.0.saturating_add(1));
            let lease = Lease {
                metadata,
                spec: Some(self.spec(None, term)),
            };
            let params = PostParams::default();
            let create = self.api.create(&params, &lease);
            let made = steps::LEASE_CREATE.during(create).await?;
            return Ok(self.note(&made).unwrap_or(Tried::Ours(term)));
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
        match judge(&old, &self.config.identity, held, self.above, now - changed) {
            Verdict::Wait(wait) => Ok(Tried::Wait(wait)),
            Verdict::Take(term) => {
                lease.spec = Some(self.spec(Some(&old), term));
                let params = PostParams::default();
                let write = self.api.replace(&self.config.name, &params, &lease);
                match steps::LEASE_WRITE.during(write).await {
                    Ok(written) => Ok(self.note(&written).unwrap_or(Tried::Ours(term))),
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

    fn spec(&self, old: Option<&LeaseSpec>, term: Term) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same = old.filter(|old| term_of(old) == term);
        LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(self.config.duration.as_secs()).ok(),
            acquire_time: same
                .and_then(|old| old.acquire_time.clone())
                .or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: i32::try_from(term.0).ok(),
            ..LeaseSpec::default()
        }
    }
}

fn term_of(lease: &LeaseSpec) -> Term {
    Term(lease.lease_transitions.unwrap_or(0).into())
}

/// Whether a lease that has not changed for `unchanged` may be taken, or renewed under the term that is `held`. A term that
/// is taken is `above` that one, too.
fn judge(
    lease: &LeaseSpec,
    identity: &str,
    held: Option<Term>,
    above: Term,
    unchanged: Duration,
) -> Verdict {
    let holder = lease.holder_identity.as_deref().unwrap_or_default();
    let term = term_of(lease);
    match held {
        Some(held) if holder == identity && held == term => return Verdict::Take(held),
        // Somebody took it, be it under the same name, and may be at work: it is not taken back without waiting.
        Some(_) => return Verdict::Wait(Duration::ZERO),
        None => {}
    }
    let seconds = lease
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .unwrap_or(0);
    let duration = Duration::from_secs(seconds);
    if holder.is_empty() || holder == identity || unchanged >= duration {
        return Verdict::Take(Term(term.max(above).0.saturating_add(1)));
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
        let (take, wait) = (
            |term| Verdict::Take(Term(term)),
            |s| Verdict::Wait(Duration::from_secs(s)),
        );
        for (holder, unchanged, verdict) in [
            ("", 0, take(4)),
            ("b", 4, wait(11)),
            ("b", 15, take(4)),
            // The same name: an earlier process of ours, whose writes may still be on their way.
            ("a", 0, take(4)),
        ] {
            let unchanged = Duration::from_secs(unchanged);
            let judged = judge(&lease(holder), "a", None, Term(0), unchanged);
            assert_eq!(judged, verdict, "{holder:?} {unchanged:?}");
        }
        let nobodys = LeaseSpec::default();
        assert_eq!(judge(&nobodys, "a", None, Term(0), Duration::ZERO), take(1));
        assert_eq!(
            judge(&nobodys, "a", None, Term(9), Duration::ZERO),
            take(10)
        );
        assert_eq!(
            judge(&lease("b"), "a", None, Term(2), Duration::MAX),
            take(4)
        );
    }

    #[test]
    fn what_is_held_is_renewed_under_the_same_term_or_not_at_all() {
        let lease = |holder: &str, transitions| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        let held = |lease| judge(&lease, "a", Some(Term(3)), Term(0), Duration::MAX);
        assert_eq!(held(lease("a", 3)), Verdict::Take(Term(3)));
        let lost = Verdict::Wait(Duration::ZERO);
        assert_eq!(held(lease("a", 4)), lost, "another of the same name");
        assert_eq!(held(lease("b", 4)), lost);
        assert_eq!(held(lease("", 3)), lost);
        assert_eq!(held(LeaseSpec::default()), lost, "removed");
    }

    #[tokio::test]
    async fn a_later_term_in_an_object_ends_a_leadership() {
        let leadership = Leadership::new(Term(3));
        assert!(!leadership.is_over(Term(2)) && !leadership.is_over(Term(3)));
        let told = async { assert!(leadership.is_over(Term(5)) && leadership.is_over(Term(4))) };
        let (later, ()) = futures::future::join(leadership.outdone(), told).await;
        assert_eq!(later, Term(5));
    }

    #[tokio::test]
    async fn a_leadership_that_wrote_nothing_yet_finds_earlier_terms_only() {
        let leadership = Leadership::new(Term(3));
        assert!(leadership.begins_after([Term(0), Term(2)].into_iter()));
        assert!(leadership.begins_after(std::iter::empty()));
        assert!(!leadership.begins_after([Term(3), Term(1)].into_iter()));
        assert_eq!(leadership.outdone().await, Term(3));
    }
}
