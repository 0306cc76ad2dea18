//! GC: detaches what stands of one network and is not in the runtime's list.
//!
//! ```text
//!   records of the network, ready, not listed,
//!   answered for before this GC began ─▶ each: an ADD of it under way? leave it
//!                                                      lock key ─▶ still the same record? ─▶ detach
//! ```
//! What an ADD is making, or was answered for after this GC began, is never touched: the list may be older than it, and the
//! next GC will tell. A runtime should do nothing else meanwhile; one that does loses no pod. When GC began the plugin says,
//! since it may have waited for us, who may have answered an ADD first. What is being removed already goes without us. A link
//! without a journal entry has no network that we could know, and stays.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use tombolo_core::types::AttachmentKey;
use tracing::{info, warn};

use crate::detach;
use crate::error::Error;
use crate::journal::{Phase, Record};
use crate::node::Node;

/// Keys at a time, as with the notes of the plugin.
const WIDTH: usize = 16;
/// Most failures that the answer tells of one by one.
const NAMED: usize = 20;

/// What the runtime asks for.
#[derive(Debug)]
pub struct Request {
    pub network: String,
    /// All of this network that it knows.
    pub valid: BTreeSet<AttachmentKey>,
    /// When this GC began, in nanoseconds since boot.
    pub begun: u64,
}

impl Request {
    /// Whether the runtime forgot it: not, if it may have come after the list.
    fn lacks(&self, record: &Record) -> bool {
        record.key.network == self.network
            && record.phase == Phase::Ready
            && record.answered <= self.begun
            && !self.valid.contains(&record.key)
    }
}

/// Detaches all that is not valid; goes on through failures and reports all of them. Returns how many there were.
pub async fn collect(node: &Arc<Node>, request: &Request) -> Result<usize, Error> {
    let mut stale = node.all_records();
    stale.retain(|record| request.lacks(record));
    let found = stale.len();
    let outcomes = futures::stream::iter(stale)
        .map(|record| async move {
            let key = record.key.clone();
            let failed = one(node, record).await.err();
            failed.map(|error| (key, error))
        })
        .buffer_unordered(WIDTH);
    let failures = outcomes.filter_map(std::future::ready).collect().await;
    told(&request.network, found, failures)
}

async fn one(node: &Arc<Node>, record: Record) -> Result<(), Error> {
    if node.keys.adding().contains(&record.key) {
        info!(key = %record.key, "not in the runtime's list, and being added: left alone");
        return Ok(());
    }
    let _guard = node.keys.lock(&record.key, None).await;
    match node.record(&record.key) {
        Some(now) if now == record => {
            info!(key = %record.key, pod = %record.pod, "not in the runtime's list: detached");
            detach::drain(node, now, None).await
        }
        // A DEL was faster, or made way for an ADD.
        _ => Ok(()),
    }
}

/// All failures in one.
fn told(
    network: &str,
    found: usize,
    mut failures: Vec<(AttachmentKey, Error)>,
) -> Result<usize, Error> {
    failures.sort_by(|one, other| one.0.cmp(&other.0));
    for (key, error) in &failures {
        warn!(%key, error = error.chain(), reason = %error.reason(), "GC");
    }
    let Some((_, first)) = failures.first() else {
        return Ok(found);
    };
    let named = failures.iter().take(NAMED);
    Err(Error::Collect {
        network: network.to_owned(),
        reason: first.reason(),
        found,
        causes: named
            .map(|(key, error)| format!("{key}: {}", error.chain()))
            .collect(),
        unnamed: failures.len().saturating_sub(NAMED),
    })
}

#[cfg(test)]
mod tests {
    use tombolo_core::types::{Millis, PodRef};

    use super::*;
    use crate::journal::NetnsRecord;

    fn record(network: &str, container: &str, phase: Phase, answered: u64) -> Record {
        Record {
            key: AttachmentKey::new(network, container, "eth0").unwrap(),
            pod: PodRef::default(),
            phase,
            netns: NetnsRecord {
                dev: 1,
                ino: 2,
                path: String::new(),
            },
            addresses: Vec::new(),
            host_ports: Vec::new(),
            mtu: 1500,
            host_ifindex: None,
            beside: BTreeSet::new(),
            since: Millis(0),
            answered,
        }
    }

    #[test]
    fn what_the_list_could_name_and_does_not_was_forgotten() {
        let request = Request {
            network: "net".to_owned(),
            valid: [record("net", "listed", Phase::Ready, 0).key].into(),
            begun: 1000,
        };
        for (network, container, phase, answered, lacks) in [
            ("net", "lost", Phase::Ready, 0, true),
            ("net", "lost", Phase::Ready, 1000, true),
            // While this GC was on its way.
            ("net", "lost", Phase::Ready, 1001, false),
            ("net", "listed", Phase::Ready, 0, false),
            ("other", "lost", Phase::Ready, 0, false),
            ("net", "lost", Phase::Adding, 0, false),
            ("net", "lost", Phase::Draining, 0, false),
        ] {
            let record = record(network, container, phase, answered);
            assert_eq!(request.lacks(&record), lacks, "{record:?}");
        }
    }

    #[test]
    fn all_failures_are_told_up_to_a_number() {
        assert!(matches!(told("net", 3, Vec::new()), Ok(3)));
        let failure = |n: usize| {
            let key = AttachmentKey::new("net", &format!("c{n:02}"), "eth0").unwrap();
            (key, Error::Stopping)
        };
        let error = told("net", 30, (0..22).map(failure).collect()).unwrap_err();
        assert!(error.is_retryable());
        let text = error.chain();
        assert!(
            text.starts_with("22 of 30 attachments of network \"net\" could not be detached"),
            "{text}"
        );
        assert!(text.contains("net/c00/eth0: ") && text.contains("net/c19/eth0: "));
        assert!(
            !text.contains("c20") && text.ends_with("and 2 more"),
            "{text}"
        );
    }
}
