//! Knobs: how the cloud misbehaves. Pure; the server asks before and after each cloud call. Lab calls are never disturbed.
//!
//! | knob | in |
//! |---|---|
//! | one call: lost, refused, repeated, held, corrupted | [`faults`] |
//! | too many calls | [`bucket`] |
//! | what describe calls show: old, partial | [`lens`] |
//! | what becomes of an attachment, half of an assignment | the model, which carries them out |
//!
//! What changes behind the product's back is no knob but a lab call of its own ([`crate::admin`]).

pub mod bucket;
pub mod faults;
pub mod lens;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tombolo_core::types::Millis;

use bucket::Bucket;
use faults::{Corruption, Fault, Faults, Waiting};
use lens::{Lens, LensState, Omission};

use crate::model::View;

/// One setting. Where there is a `count`, 0 turns it off; `skip` calls pass before it begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Subcommand)]
#[serde(rename_all = "kebab-case", tag = "knob")]
pub enum Knob {
    /// Carry out calls of a verb and cut the connection instead of replying.
    LoseReply {
        /// The verb.
        verb: String,
        /// How many.
        count: u32,
        /// Calls that pass before.
        #[arg(long, default_value_t = 0)]
        #[serde(default)]
        skip: u32,
    },
    /// Cut the connection of calls of a verb without carrying them out.
    LoseRequest {
        /// The verb.
        verb: String,
        /// How many.
        count: u32,
        /// Calls that pass before.
        #[arg(long, default_value_t = 0)]
        #[serde(default)]
        skip: u32,
    },
    /// Carry out calls of a verb and keep their replies until `let-go`.
    HoldReply {
        /// The verb.
        verb: String,
        /// How many.
        count: u32,
        /// Calls that pass before.
        #[arg(long, default_value_t = 0)]
        #[serde(default)]
        skip: u32,
    },
    /// Send all replies that are held at this moment.
    LetGo,
    /// Answer calls of a verb with its last successful reply, without carrying them out. A first call has none to repeat
    /// and is carried out.
    RepeatReply {
        /// The verb.
        verb: String,
        /// How many.
        count: u32,
        /// Calls that pass before.
        #[arg(long, default_value_t = 0)]
        #[serde(default)]
        skip: u32,
    },
    /// Carry out calls of a verb twice; the first outcome is the reply.
    RepeatRequest {
        /// The verb.
        verb: String,
        /// How many.
        count: u32,
        /// Calls that pass before.
        #[arg(long, default_value_t = 0)]
        #[serde(default)]
        skip: u32,
    },
    /// Carry out calls of a verb and spoil their replies.
    CorruptReply {
        /// The verb.
        verb: String,
        /// In which way.
        how: Corruption,
        /// How many.
        count: u32,
        /// Calls that pass before.
        #[arg(long, default_value_t = 0)]
        #[serde(default)]
        skip: u32,
    },
    /// Refuse calls of a verb with an error code.
    Fail {
        /// The verb.
        verb: String,
        /// EC2's code.
        code: String,
        /// How many.
        count: u32,
        /// Calls that pass before.
        #[arg(long, default_value_t = 0)]
        #[serde(default)]
        skip: u32,
    },
    /// Hold every reply of a verb back for some time.
    Delay {
        /// The verb.
        verb: String,
        /// Milliseconds; 0 turns it off.
        ms: u64,
    },
    /// Token bucket over all cloud calls together.
    Throttle {
        /// Calls per second that refill the bucket; 0 turns throttling off.
        rate: f64,
        /// Size of the bucket.
        burst: u32,
    },
    /// Token bucket over the calls of one verb, besides the one over all.
    ThrottleVerb {
        /// The verb.
        verb: String,
        /// Calls per second that refill the bucket; 0 turns throttling off.
        rate: f64,
        /// Size of the bucket.
        burst: u32,
    },
    /// Time from attach call to link.
    AttachDelay {
        /// Milliseconds.
        ms: u64,
    },
    /// Time from detach call to the link's end.
    DetachDelay {
        /// Milliseconds.
        ms: u64,
    },
    /// Accept attach calls and end the attachment when its time has come, without a link.
    FailAttach {
        /// How many.
        count: u32,
    },
    /// Accept attach calls and leave the attachment in `attaching` until somebody detaches it.
    StickAttach {
        /// How many.
        count: u32,
    },
    /// Give only half of what an assign call asks for; the reply says which. Calls for one address are left alone.
    HalfAssign {
        /// How many calls.
        count: u32,
    },
    /// Let a describe call show the world as it was.
    Stale {
        /// DescribeInstances, DescribeSubnets or DescribeNics.
        verb: String,
        /// Age in milliseconds, but not older than this setting; 0 turns it off.
        ms: u64,
    },
    /// Leave some secondary addresses of every NIC out of DescribeNics.
    OmitAddresses {
        /// Every so many-th, the first among them: 2 is half of them, 1 all; 0 turns it off.
        one_in: u32,
        /// In so many replies.
        replies: u32,
    },
    /// Leave some NICs out of DescribeNics.
    OmitNics {
        /// Every so many-th, the first among them: 2 is half of them, 1 all; 0 turns it off.
        one_in: u32,
        /// In so many replies.
        replies: u32,
    },
    /// Leave one NIC, instance, subnet or secondary address out of describe calls.
    Hide {
        /// Its id, or the address.
        what: String,
        /// In so many replies that would have shown it; 0 turns it off.
        replies: u32,
    },
    /// Everything off, held replies let go; delays of attach and detach stay.
    Reset,
}

impl Knob {
    /// The verb that the knob is about.
    #[must_use]
    pub fn verb(&self) -> Option<&str> {
        match self {
            Self::LoseReply { verb, .. }
            | Self::LoseRequest { verb, .. }
            | Self::HoldReply { verb, .. }
            | Self::RepeatReply { verb, .. }
            | Self::RepeatRequest { verb, .. }
            | Self::CorruptReply { verb, .. }
            | Self::Fail { verb, .. }
            | Self::Delay { verb, .. }
            | Self::ThrottleVerb { verb, .. }
            | Self::Stale { verb, .. } => Some(verb),
            Self::LetGo
            | Self::Throttle { .. }
            | Self::AttachDelay { .. }
            | Self::DetachDelay { .. }
            | Self::FailAttach { .. }
            | Self::StickAttach { .. }
            | Self::HalfAssign { .. }
            | Self::OmitAddresses { .. }
            | Self::OmitNics { .. }
            | Self::Hide { .. }
            | Self::Reset => None,
        }
    }
}

/// All settings as they stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KnobState {
    /// Faults of single calls that are still to come.
    pub faults: Faults,
    /// Milliseconds, per verb.
    pub delay: BTreeMap<String, u64>,
    /// The bucket of all calls.
    pub throttle: Option<Bucket>,
    /// The buckets of single verbs.
    pub throttle_verb: BTreeMap<String, Bucket>,
    /// Milliseconds.
    pub attach_delay_ms: u64,
    /// Milliseconds.
    pub detach_delay_ms: u64,
    /// Attachments that are still to fail. The model counts them.
    pub fail_attach: u32,
    /// Attachments that are still to get stuck. The model counts them.
    pub stick_attach: u32,
    /// Assign calls that are still to give half. The model counts them.
    pub half_assign: u32,
    /// What describe calls show.
    pub lens: LensState,
}

/// What to do with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Carry it out and reply.
    Serve,
    /// This happens to it.
    Fault(Fault),
    /// Refuse with `RequestLimitExceeded`.
    Throttle,
}

/// Settings, and what they need to remember.
#[derive(Debug, Default)]
pub struct KnobBoard {
    /// The settings, those of [`Self::lens`] excepted.
    state: KnobState,
    /// What describe calls show.
    pub lens: Lens,
}

impl KnobBoard {
    /// Turns a knob. What the model applies is at most noted here. `present` is the world as it is.
    pub fn set(&mut self, now: Millis, knob: Knob, present: impl FnOnce() -> View) {
        let state = &mut self.state;
        let mut fault = |verb, fault, skip, count| {
            state.faults.set(Waiting {
                verb,
                fault,
                skip,
                count,
            });
        };
        let omission =
            |one_in, replies| (one_in > 0 && replies > 0).then_some(Omission { one_in, replies });
        match knob {
            Knob::LoseReply { verb, count, skip } => fault(verb, Fault::LoseReply, skip, count),
            Knob::LoseRequest { verb, count, skip } => fault(verb, Fault::LoseRequest, skip, count),
            Knob::HoldReply { verb, count, skip } => fault(verb, Fault::HoldReply, skip, count),
            Knob::RepeatReply { verb, count, skip } => fault(verb, Fault::RepeatReply, skip, count),
            Knob::RepeatRequest { verb, count, skip } => {
                fault(verb, Fault::RepeatRequest, skip, count);
            }
            Knob::CorruptReply {
                verb,
                how,
                count,
                skip,
            } => fault(verb, Fault::CorruptReply(how), skip, count),
            Knob::Fail {
                verb,
                code,
                count,
                skip,
            } => fault(verb, Fault::Fail(code), skip, count),
            Knob::Delay { verb, ms: 0 } => drop(state.delay.remove(&verb)),
            Knob::Delay { verb, ms } => drop(state.delay.insert(verb, ms)),
            Knob::Throttle { rate, burst } => state.throttle = Bucket::new(now, rate, burst),
            Knob::ThrottleVerb { verb, rate, burst } => match Bucket::new(now, rate, burst) {
                Some(bucket) => drop(state.throttle_verb.insert(verb, bucket)),
                None => drop(state.throttle_verb.remove(&verb)),
            },
            Knob::AttachDelay { ms } => state.attach_delay_ms = ms,
            Knob::DetachDelay { ms } => state.detach_delay_ms = ms,
            Knob::Stale { verb, ms } => self.lens.set_stale(now, &verb, ms, present()),
            Knob::OmitAddresses { one_in, replies } => {
                self.lens.state.omit_addresses = omission(one_in, replies);
            }
            Knob::OmitNics { one_in, replies } => {
                self.lens.state.omit_nics = omission(one_in, replies);
            }
            Knob::Hide { what, replies: 0 } => drop(self.lens.state.hidden.remove(&what)),
            Knob::Hide { what, replies } => drop(self.lens.state.hidden.insert(what, replies)),
            // Held replies live in the server; the model applies the others.
            Knob::LetGo
            | Knob::FailAttach { .. }
            | Knob::StickAttach { .. }
            | Knob::HalfAssign { .. } => {}
            Knob::Reset => {
                *state = KnobState {
                    attach_delay_ms: state.attach_delay_ms,
                    detach_delay_ms: state.detach_delay_ms,
                    ..KnobState::default()
                };
                self.lens = Lens::default();
            }
        }
    }

    /// Decides about a cloud call that arrives now. Throttling comes first, as in a real API.
    pub fn fate(&mut self, now: Millis, verb: &str) -> Fate {
        let own = self.state.throttle_verb.get_mut(verb);
        let allowed = own.is_none_or(|bucket| bucket.take(now))
            && self.state.throttle.as_mut().is_none_or(|b| b.take(now));
        if !allowed {
            return Fate::Throttle;
        }
        match self.state.faults.meet(verb) {
            Some(fault) => Fate::Fault(fault),
            None => Fate::Serve,
        }
    }

    /// How long every reply of a verb is held back, in milliseconds.
    #[must_use]
    pub fn delay(&self, verb: &str) -> Option<u64> {
        self.state.delay.get(verb).copied()
    }

    /// All settings.
    #[must_use]
    pub fn state(&self) -> KnobState {
        KnobState {
            lens: self.lens.state.clone(),
            ..self.state.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(board: &mut KnobBoard, knob: Knob) {
        board.set(Millis(0), knob, View::default);
    }

    #[test]
    fn a_bucket_for_all_calls_and_one_for_a_verb() {
        let mut board = KnobBoard::default();
        let throttle = |verb: &str, burst| Knob::ThrottleVerb {
            verb: verb.to_owned(),
            rate: 1.0,
            burst,
        };
        set(&mut board, throttle("A", 1));
        let served = |board: &mut KnobBoard, verb: &str| {
            (0..10)
                .filter(|_| board.fate(Millis(0), verb) != Fate::Throttle)
                .count()
        };
        assert_eq!((served(&mut board, "A"), served(&mut board, "B")), (1, 10));
        let all = |rate, burst| Knob::Throttle { rate, burst };
        set(&mut board, all(1.0, 3));
        assert_eq!((served(&mut board, "B"), served(&mut board, "C")), (3, 0));
        set(&mut board, all(0.0, 0));
        assert_eq!((served(&mut board, "A"), served(&mut board, "C")), (0, 10));
        set(&mut board, Knob::Reset);
        assert_eq!(served(&mut board, "A"), 10);
    }

    #[test]
    fn every_fault_has_a_knob_and_reset_ends_all_but_the_usual_delays() {
        let verb = || "V".to_owned();
        let (count, skip) = (1, 0);
        let how = Corruption::Garbage;
        let code = "InternalError".to_owned();
        let table = [
            (
                Knob::LoseReply {
                    verb: verb(),
                    count,
                    skip,
                },
                Fault::LoseReply,
            ),
            (
                Knob::LoseRequest {
                    verb: verb(),
                    count,
                    skip,
                },
                Fault::LoseRequest,
            ),
            (
                Knob::HoldReply {
                    verb: verb(),
                    count,
                    skip,
                },
                Fault::HoldReply,
            ),
            (
                Knob::RepeatReply {
                    verb: verb(),
                    count,
                    skip,
                },
                Fault::RepeatReply,
            ),
            (
                Knob::RepeatRequest {
                    verb: verb(),
                    count,
                    skip,
                },
                Fault::RepeatRequest,
            ),
            (
                Knob::CorruptReply {
                    verb: verb(),
                    how,
                    count,
                    skip,
                },
                Fault::CorruptReply(how),
            ),
            (
                Knob::Fail {
                    verb: verb(),
                    code: code.clone(),
                    count,
                    skip,
                },
                Fault::Fail(code),
            ),
        ];
        for (knob, fault) in table {
            let mut board = KnobBoard::default();
            set(&mut board, knob.clone());
            assert_eq!(board.fate(Millis(0), "W"), Fate::Serve, "{knob:?}");
            assert_eq!(board.fate(Millis(0), "V"), Fate::Fault(fault), "{knob:?}");
            assert_eq!(board.fate(Millis(0), "V"), Fate::Serve, "{knob:?}");
            set(&mut board, knob);
            set(&mut board, Knob::AttachDelay { ms: 7 });
            set(&mut board, Knob::Reset);
            assert_eq!(board.fate(Millis(0), "V"), Fate::Serve);
            assert_eq!(board.state().attach_delay_ms, 7);
        }
    }

    #[test]
    fn knobs_are_written_as_they_always_were() {
        let text = r#"{"knob":"lose-reply","verb":"CreateNic","count":2}"#;
        let knob: Knob = serde_json::from_str(text).unwrap();
        let wanted = Knob::LoseReply {
            verb: "CreateNic".to_owned(),
            count: 2,
            skip: 0,
        };
        assert_eq!(knob, wanted);
    }
}
