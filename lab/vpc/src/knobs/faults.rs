//! Faults of single calls: which call of which verb meets which one.
//!
//! Each fault lets the next `skip` calls of its verb pass and meets the `count` after them, so that "reply N" can be named.
//! One call meets one fault at most: the first in the order of [`Fault`]; the others wait for a later call.

use serde::{Deserialize, Serialize};

/// What happens to a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The connection is cut and nothing is carried out.
    LoseRequest,
    /// Refused with this code.
    Fail(String),
    /// Not carried out; answered with the reply that the last successful call of the verb got.
    RepeatReply,
    /// Carried out twice; the first outcome is the reply.
    RepeatRequest,
    /// Carried out; the connection is cut.
    LoseReply,
    /// Carried out; the reply waits until it is let go.
    HoldReply,
    /// Carried out; the reply cannot be read.
    CorruptReply(Corruption),
}

/// How a reply is spoilt.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Corruption {
    /// The connection is cut in the middle of the body.
    Cut,
    /// The second half of the body is missing, and its length says so.
    Truncate,
    /// No body.
    Empty,
    /// Bytes that are no JSON.
    Garbage,
    /// JSON of another shape.
    Shape,
    /// A proxy's page, with status 502.
    Page,
}

/// A fault that waits for its calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The verb.
    pub verb: String,
    /// The fault.
    pub fault: Fault,
    /// Calls that still pass.
    pub skip: u32,
    /// Calls that then meet it.
    pub count: u32,
}

/// All faults that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Faults(Vec<Waiting>);

impl Faults {
    /// Sets a fault in place of an earlier one of its kind; a `count` of 0 only takes that away.
    pub fn set(&mut self, new: Waiting) {
        let kind = std::mem::discriminant(&new.fault);
        self.0
            .retain(|w| w.verb != new.verb || std::mem::discriminant(&w.fault) != kind);
        if new.count > 0 {
            self.0.push(new);
            self.0.sort_by(|a, b| a.fault.cmp(&b.fault));
        }
    }

    /// What this call of a verb meets.
    pub fn meet(&mut self, verb: &str) -> Option<Fault> {
        let mut met = None;
        for waiting in self.0.iter_mut().filter(|w| w.verb == verb) {
            if waiting.skip > 0 {
                waiting.skip -= 1;
            } else if met.is_none() {
                waiting.count -= 1;
                met = Some(waiting.fault.clone());
            }
        }
        self.0.retain(|w| w.count > 0);
        met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(fault: Fault, skip: u32, count: u32) -> Waiting {
        Waiting {
            verb: "V".to_owned(),
            fault,
            skip,
            count,
        }
    }

    fn every_fault() -> Vec<Fault> {
        vec![
            Fault::LoseRequest,
            Fault::Fail("InternalError".to_owned()),
            Fault::RepeatReply,
            Fault::RepeatRequest,
            Fault::LoseReply,
            Fault::HoldReply,
            Fault::CorruptReply(Corruption::Cut),
        ]
    }

    #[test]
    fn each_meets_the_calls_that_it_names_and_then_runs_out() {
        for fault in every_fault() {
            for (skip, count) in [(0, 1), (2, 1), (1, 3)] {
                let mut faults = Faults::default();
                faults.set(waiting(fault.clone(), skip, count));
                let met: Vec<bool> = (0..8).map(|_| faults.meet("V").is_some()).collect();
                let wanted: Vec<bool> = (0..8).map(|i| (skip..skip + count).contains(&i)).collect();
                assert_eq!(met, wanted, "{fault:?}: skip {skip}, count {count}");
                assert_eq!(faults, Faults::default(), "nothing is left");
            }
        }
    }

    #[test]
    fn another_verb_meets_nothing_and_counts_for_nothing() {
        let mut faults = Faults::default();
        faults.set(waiting(Fault::LoseReply, 1, 1));
        assert_eq!(faults.meet("W"), None);
        assert_eq!(faults.meet("V"), None);
        assert_eq!(faults.meet("W"), None);
        assert_eq!(faults.meet("V"), Some(Fault::LoseReply));
    }

    #[test]
    fn of_several_each_call_meets_one_in_order() {
        let mut faults = Faults::default();
        for fault in every_fault().into_iter().rev() {
            faults.set(waiting(fault, 0, 1));
        }
        let met: Vec<Fault> = std::iter::from_fn(|| faults.meet("V")).collect();
        assert_eq!(met, every_fault());
    }

    #[test]
    fn a_second_setting_replaces_the_first_and_zero_takes_it_away() {
        let mut faults = Faults::default();
        faults.set(waiting(Fault::Fail("A".to_owned()), 0, 9));
        faults.set(waiting(Fault::Fail("B".to_owned()), 0, 1));
        faults.set(waiting(Fault::LoseReply, 0, 9));
        faults.set(waiting(Fault::LoseReply, 0, 0));
        assert_eq!(faults.meet("V"), Some(Fault::Fail("B".to_owned())));
        assert_eq!(faults.meet("V"), None);
    }
}
