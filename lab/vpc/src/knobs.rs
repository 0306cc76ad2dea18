//! Knobs: how the cloud misbehaves. Pure; the server asks before and after each cloud call. Lab calls are never disturbed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tombolo_core::types::Millis;

/// One setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Subcommand)]
#[serde(rename_all = "kebab-case", tag = "knob")]
pub enum Knob {
    /// Carry out the next `count` calls of a verb and cut the connection instead of replying.
    LoseReply {
        /// The verb.
        verb: String,
        /// How many; 0 turns it off.
        count: u32,
    },
    /// Cut the connection of the next `count` calls of a verb without carrying them out.
    LoseRequest {
        /// The verb.
        verb: String,
        /// How many; 0 turns it off.
        count: u32,
    },
    /// Refuse the next `count` calls of a verb with an error code.
    Fail {
        /// The verb.
        verb: String,
        /// EC2's code.
        code: String,
        /// How many; 0 turns it off.
        count: u32,
    },
    /// Hold every reply of a verb back.
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
    /// Everything off; delays of attach and detach stay.
    Reset,
}

impl Knob {
    /// The verb that the knob is about.
    #[must_use]
    pub fn verb(&self) -> Option<&str> {
        match self {
            Self::LoseReply { verb, .. }
            | Self::LoseRequest { verb, .. }
            | Self::Fail { verb, .. }
            | Self::Delay { verb, .. } => Some(verb),
            Self::Throttle { .. }
            | Self::AttachDelay { .. }
            | Self::DetachDelay { .. }
            | Self::Reset => None,
        }
    }
}

/// All settings as they stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KnobState {
    /// Replies still to lose, per verb.
    pub lose_reply: BTreeMap<String, u32>,
    /// Requests still to lose, per verb.
    pub lose_request: BTreeMap<String, u32>,
    /// Refusals still to give, per verb: code and count.
    pub fail: BTreeMap<String, (String, u32)>,
    /// Milliseconds, per verb.
    pub delay: BTreeMap<String, u64>,
    /// Calls per second and size of the bucket.
    pub throttle: Option<(f64, u32)>,
    /// Milliseconds.
    pub attach_delay_ms: u64,
    /// Milliseconds.
    pub detach_delay_ms: u64,
}

/// What to do with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Carry it out.
    Serve {
        /// Reply, or cut the connection.
        reply: bool,
    },
    /// Cut the connection now.
    Lose,
    /// Refuse with this code.
    Fail(String),
    /// Refuse with `RequestLimitExceeded`.
    Throttle,
}

/// Settings and the bucket.
#[derive(Debug, Default)]
pub struct KnobBoard {
    /// The settings.
    pub state: KnobState,
    tokens: f64,
    filled: Millis,
}

impl KnobBoard {
    /// Turns a knob. Attach and detach delays are only noted here; the model applies them.
    pub fn set(&mut self, now: Millis, knob: Knob) {
        let state = &mut self.state;
        match knob {
            Knob::LoseReply { verb, count } => put(&mut state.lose_reply, verb, count),
            Knob::LoseRequest { verb, count } => put(&mut state.lose_request, verb, count),
            Knob::Fail { verb, count: 0, .. } => drop(state.fail.remove(&verb)),
            Knob::Fail { verb, code, count } => drop(state.fail.insert(verb, (code, count))),
            Knob::Delay { verb, ms: 0 } => drop(state.delay.remove(&verb)),
            Knob::Delay { verb, ms } => drop(state.delay.insert(verb, ms)),
            Knob::Throttle { rate, burst } => {
                state.throttle = (rate > 0.0).then_some((rate, burst));
                self.tokens = f64::from(burst);
                self.filled = now;
            }
            Knob::AttachDelay { ms } => state.attach_delay_ms = ms,
            Knob::DetachDelay { ms } => state.detach_delay_ms = ms,
            Knob::Reset => {
                *state = KnobState {
                    attach_delay_ms: state.attach_delay_ms,
                    detach_delay_ms: state.detach_delay_ms,
                    ..KnobState::default()
                };
            }
        }
    }

    /// Decides about a cloud call that arrives now. Throttling comes first, as in a real API.
    pub fn fate(&mut self, now: Millis, verb: &str) -> Fate {
        if !self.take_token(now) {
            return Fate::Throttle;
        }
        if take(&mut self.state.lose_request, verb) {
            return Fate::Lose;
        }
        if let Some((code, count)) = self.state.fail.get_mut(verb) {
            let code = code.clone();
            *count -= 1;
            if *count == 0 {
                self.state.fail.remove(verb);
            }
            return Fate::Fail(code);
        }
        Fate::Serve {
            reply: !take(&mut self.state.lose_reply, verb),
        }
    }

    fn take_token(&mut self, now: Millis) -> bool {
        let Some((rate, burst)) = self.state.throttle else {
            return true;
        };
        let elapsed = (now - self.filled).0;
        self.filled = now;
        // Milliseconds fit f64 exactly for any run that ends.
        #[expect(clippy::cast_precision_loss, reason = "a lab does not run for 2^53 ms")]
        let refill = elapsed as f64 / 1000.0 * rate;
        self.tokens = (self.tokens + refill).min(f64::from(burst));
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

fn put(map: &mut BTreeMap<String, u32>, verb: String, count: u32) {
    if count == 0 {
        map.remove(&verb);
    } else {
        map.insert(verb, count);
    }
}

fn take(map: &mut BTreeMap<String, u32>, verb: &str) -> bool {
    let Some(count) = map.get_mut(verb) else {
        return false;
    };
    *count -= 1;
    if *count == 0 {
        map.remove(verb);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_refills_at_its_rate_and_holds_no_more_than_its_size() {
        let mut board = KnobBoard::default();
        board.set(
            Millis(0),
            Knob::Throttle {
                rate: 2.0,
                burst: 3,
            },
        );
        let served = |board: &mut KnobBoard, now| {
            std::iter::repeat_with(|| board.fate(Millis(now), "X"))
                .take(10)
                .filter(|f| *f != Fate::Throttle)
                .count()
        };
        assert_eq!(served(&mut board, 0), 3);
        assert_eq!(served(&mut board, 1000), 2);
        assert_eq!(served(&mut board, 60_000), 3);
        board.set(
            Millis(60_000),
            Knob::Throttle {
                rate: 0.0,
                burst: 0,
            },
        );
        assert_eq!(served(&mut board, 60_000), 10);
    }

    #[test]
    fn counted_knobs_run_out_and_touch_their_verb_only() {
        let mut board = KnobBoard::default();
        let now = Millis(0);
        board.set(
            now,
            Knob::LoseReply {
                verb: "A".into(),
                count: 1,
            },
        );
        board.set(
            now,
            Knob::LoseRequest {
                verb: "B".into(),
                count: 1,
            },
        );
        board.set(
            now,
            Knob::Fail {
                verb: "C".into(),
                code: "InternalError".into(),
                count: 1,
            },
        );
        let normal = Fate::Serve { reply: true };
        assert_eq!(board.fate(now, "D"), normal);
        assert_eq!(board.fate(now, "A"), Fate::Serve { reply: false });
        assert_eq!(board.fate(now, "A"), normal);
        assert_eq!(board.fate(now, "B"), Fate::Lose);
        assert_eq!(board.fate(now, "B"), normal);
        assert_eq!(board.fate(now, "C"), Fate::Fail("InternalError".into()));
        assert_eq!(board.fate(now, "C"), normal);
    }
}
