//! A token bucket: `burst` calls at once, `rate` calls a second in the long run.

use serde::{Deserialize, Serialize};
use tombolo_core::types::Millis;

/// A bucket and what is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// Tokens that flow in a second.
    pub rate: f64,
    /// Tokens that it holds at most.
    pub burst: u32,
    tokens: f64,
    filled: Millis,
}

impl Bucket {
    /// A full bucket; `None` for a rate that says "no throttling".
    #[must_use]
    pub fn new(now: Millis, rate: f64, burst: u32) -> Option<Self> {
        (rate > 0.0).then_some(Self {
            rate,
            burst,
            tokens: f64::from(burst),
            filled: now,
        })
    }

    /// Takes a token, if there is one.
    pub fn take(&mut self, now: Millis) -> bool {
        let elapsed = (now - self.filled).0;
        self.filled = now;
        // Milliseconds fit f64 exactly for any run that ends.
        #[expect(clippy::cast_precision_loss, reason = "a lab does not run for 2^53 ms")]
        let refill = elapsed as f64 / 1000.0 * self.rate;
        self.tokens = (self.tokens + refill).min(f64::from(self.burst));
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_refills_at_its_rate_and_holds_no_more_than_its_size() {
        let mut bucket = Bucket::new(Millis(0), 2.0, 3).unwrap();
        let mut served = |now| (0..10).filter(|_| bucket.take(Millis(now))).count();
        assert_eq!(served(0), 3);
        assert_eq!(served(1000), 2);
        assert_eq!(served(60_000), 3);
        assert_eq!(Bucket::new(Millis(0), 0.0, 3), None);
    }
}
