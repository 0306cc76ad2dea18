//! What is wrong with a node at present: told once when it begins (Event, metric, log), kept as conditions, ended once.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use tombolo_core::types::Reason;

use crate::events::{Events, Subject};
use crate::metrics::{Metrics, ReasonLabels};

/// Condition types that are ours, and the reasons that make each false, the nearest cause first: at the limit of NICs, one
/// that does not come is what is missing.
const CONDITIONS: [(&str, &[Reason]); 3] = [
    ("SubnetsAvailable", &[Reason::SubnetFull]),
    (
        "NicsAvailable",
        &[
            Reason::AttachTimeout,
            Reason::NicLimit,
            Reason::AddressLimit,
            Reason::UnknownInstanceType,
        ],
    ),
    (
        "CloudReachable",
        &[Reason::CloudError, Reason::CloudThrottled],
    ),
];

/// Who says that a problem is there. It is over when nobody says so any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The planner: calls that fail, limits that are met.
    Planner,
    /// The readings of the whole cloud.
    Readings,
    /// The worker's own look at node and objects.
    Worker,
}

/// What each says of a problem.
type Active = BTreeMap<Reason, BTreeMap<Source, String>>;

/// The problems of a node.
#[derive(Debug)]
pub struct Problems {
    node: String,
    active: Active,
    events: Events,
    metrics: Arc<Metrics>,
}

impl Problems {
    pub fn new(node: &str, events: Events, metrics: Arc<Metrics>) -> Self {
        Self {
            node: node.to_owned(),
            active: Active::new(),
            events,
            metrics,
        }
    }

    /// A problem is there; only its beginning is told.
    pub fn begin(&mut self, source: Source, reason: Reason, message: String) {
        if !say(&mut self.active, source, reason, &message) {
            return;
        }
        tracing::warn!(node = %self.node, %reason, %message, "problem");
        self.metrics
            .problems
            .get_or_create(&ReasonLabels {
                reason: reason.word(),
            })
            .inc();
        self.metrics
            .problems_begun
            .get_or_create(&ReasonLabels {
                reason: reason.word(),
            })
            .inc();
        self.events.warn(Subject::node(&self.node), reason, message);
    }

    /// A problem is over, if it was there and nobody else says that it is.
    pub fn end(&mut self, source: Source, reason: Reason) {
        if unsay(&mut self.active, source, reason) {
            tracing::info!(node = %self.node, %reason, "problem over");
            self.metrics
                .problems
                .get_or_create(&ReasonLabels {
                    reason: reason.word(),
                })
                .dec();
        }
    }

    /// Begins or ends.
    pub fn set(&mut self, source: Source, reason: Reason, message: Option<String>) {
        match message {
            Some(message) => self.begin(source, reason, message),
            None => self.end(source, reason),
        }
    }

    /// The list of conditions with ours brought up to date; `None` where nothing changed.
    pub fn conditions(&self, present: &[Condition]) -> Option<Vec<Condition>> {
        conditions(&self.active, present, &Time(Timestamp::now()))
    }
}

impl Drop for Problems {
    fn drop(&mut self) {
        for reason in self.active.keys() {
            self.metrics
                .problems
                .get_or_create(&ReasonLabels {
                    reason: reason.word(),
                })
                .dec();
        }
    }
}

/// Whether that is news.
fn say(active: &mut Active, source: Source, reason: Reason, message: &str) -> bool {
    let said = active.entry(reason).or_default();
    let news = said.is_empty();
    said.entry(source).or_insert_with(|| message.to_owned());
    news
}

/// Whether it is over.
fn unsay(active: &mut Active, source: Source, reason: Reason) -> bool {
    let Some(said) = active.get_mut(&reason) else {
        return false;
    };
    said.remove(&source);
    let over = said.is_empty();
    if over {
        active.remove(&reason);
    }
    over
}

fn conditions(active: &Active, present: &[Condition], now: &Time) -> Option<Vec<Condition>> {
    let mut all = present.to_vec();
    for (kind, reasons) in CONDITIONS {
        let problem = reasons
            .iter()
            .find_map(|reason| Some((reason, active.get(reason)?.values().next()?)));
        let (status, reason, message) = match problem {
            Some((reason, message)) => ("False", reason.word(), message.as_str()),
            // Debian's Kubernetes 1.20 takes an empty text for null, and refuses it.
            None => ("True", "Available", "nothing is lacking"),
        };
        match all.iter_mut().find(|condition| condition.type_ == kind) {
            Some(old) => {
                if old.status != status {
                    old.last_transition_time = now.clone();
                }
                old.status = status.to_owned();
                old.reason = reason.to_owned();
                old.message = message.to_owned();
            }
            None => all.push(Condition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: reason.to_owned(),
                message: message.to_owned(),
                last_transition_time: now.clone(),
                observed_generation: None,
            }),
        }
    }
    if all == present { None } else { Some(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn ours_change_others_stay() {
        let ready = Condition {
            type_: "Ready".to_owned(),
            status: "True".to_owned(),
            reason: "Wired".to_owned(),
            message: String::new(),
            last_transition_time: at(1),
            observed_generation: None,
        };
        let none = Active::new();
        let first = conditions(&none, std::slice::from_ref(&ready), &at(5)).unwrap();
        assert_eq!(first.len(), 4);
        assert_eq!(first[0], ready);
        assert!(
            first[1..]
                .iter()
                .all(|condition| condition.status == "True")
        );
        assert_eq!(conditions(&none, &first, &at(6)), None, "nothing changed");
        let said = BTreeMap::from([(Source::Planner, "s1 0".to_owned())]);
        let full = Active::from([(Reason::SubnetFull, said)]);
        let second = conditions(&full, &first, &at(7)).unwrap();
        let subnets = second
            .iter()
            .find(|condition| condition.type_ == "SubnetsAvailable")
            .unwrap();
        assert_eq!(
            (
                subnets.status.as_str(),
                subnets.reason.as_str(),
                subnets.message.as_str()
            ),
            ("False", "SubnetFull", "s1 0")
        );
        assert_eq!(subnets.last_transition_time, at(7));
        let nics = second
            .iter()
            .find(|condition| condition.type_ == "NicsAvailable")
            .unwrap();
        assert_eq!(nics.last_transition_time, at(5));
    }

    #[test]
    fn a_problem_lasts_as_long_as_anybody_says_so() {
        let mut active = Active::new();
        let mut said = |source| say(&mut active, source, Reason::CloudError, "no reply");
        let begun = [Source::Planner, Source::Readings, Source::Planner].map(&mut said);
        assert_eq!(begun, [true, false, false], "told once");
        let mut over = |source| {
            let over = unsay(&mut active, source, Reason::CloudError);
            (
                over,
                conditions(&active, &[], &at(1)).unwrap()[2].status.clone(),
            )
        };
        let told = [
            Source::Worker,
            Source::Readings,
            Source::Planner,
            Source::Planner,
        ];
        let told = told.map(&mut over);
        let told = told
            .each_ref()
            .map(|(over, status)| (*over, status.as_str()));
        let lasts = (false, "False");
        assert_eq!(told, [lasts, lasts, (true, "True"), (false, "True")]);
    }
}
