//! Counts of requests by who, what and on what, so that a test can prove how many calls happened.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// What is counted apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// First word of the User-Agent; `-` without any.
    pub user_agent: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the method.
    pub verb: String,
    /// API group.
    pub group: String,
    /// Plural, with its subresource (`pods/status`); for other paths the path.
    pub resource: String,
}

/// The counts.
#[derive(Debug, Default)]
pub struct Counters(Mutex<BTreeMap<Call, u64>>);

impl Counters {
    /// Counts one request.
    pub fn count(&self, call: Call) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *all.entry(call).or_default() += 1;
    }

    /// Forgets all.
    pub fn reset(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// `{"total": n, "calls": [{"userAgent", "verb", "group", "resource", "count"}]}`.
    pub fn report(&self) -> Value {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let calls: Vec<Value> = all
            .iter()
            .map(|(call, count)| {
                json!({"userAgent": call.user_agent, "verb": call.verb, "group": call.group,
                    "resource": call.resource, "count": count})
            })
            .collect();
        json!({"total": all.values().sum::<u64>(), "calls": calls})
    }
}
