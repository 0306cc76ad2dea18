//! Exponential back-off without a clock and without randomness: both are handed in.

use serde::{Deserialize, Serialize};

use crate::types::Millis;

/// How the wait grows: `base`, doubled at each further failure, at most `max`, plus up to half of it as spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BackoffConfig {
    /// Wait after the first failure.
    pub base: Millis,
    /// Longest wait before spread.
    pub max: Millis,
}

/// The failures in a row of one action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Backoff {
    failures: u32,
    until: Millis,
}

impl Backoff {
    /// Notes a failure. `spread` (0..=1000) is the caller's random number; it lengthens the wait by up to a half, so that
    /// what failed together is not tried again together.
    pub fn fail(&mut self, now: Millis, config: &BackoffConfig, spread: u16) {
        let factor = 1_u64.checked_shl(self.failures.min(32)).unwrap_or(u64::MAX);
        let wait = config.base.0.saturating_mul(factor).min(config.max.0);
        let extra = (wait / 2).saturating_mul(u64::from(spread.min(1000))) / 1000;
        self.failures = self.failures.saturating_add(1);
        self.until = now + Millis(wait.saturating_add(extra));
    }

    /// Failures in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Lets time pass: the wait ends earlier by so much.
    pub(super) fn age(&mut self, by: Millis) {
        self.until = self.until - by;
    }

    /// When the action may be tried again.
    #[must_use]
    pub const fn until(&self) -> Millis {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_maximum() {
        let config = BackoffConfig {
            base: Millis(100),
            max: Millis(1000),
        };
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..6 {
            backoff.fail(Millis(5000), &config, 0);
            waits.push(backoff.until().0 - 5000);
        }
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.failures(), 6);
    }

    #[test]
    fn spread_adds_up_to_a_half_and_nothing_overflows() {
        let config = BackoffConfig {
            base: Millis(u64::MAX),
            max: Millis(1000),
        };
        let mut backoff = Backoff {
            failures: u32::MAX,
            until: Millis(0),
        };
        backoff.fail(Millis(0), &config, u16::MAX);
        assert_eq!(backoff.until(), Millis(1500));
        backoff.fail(Millis(0), &config, 500);
        assert_eq!(backoff.until(), Millis(1250));
    }
}
