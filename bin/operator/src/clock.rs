//! Time and random numbers: the only places where they come from.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tombolo_core::types::Millis;

/// Milliseconds since the Unix epoch.
pub fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A random number, good enough to spread retries (every `RandomState` has keys of its own).
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A random number of 0..=1000.
pub fn spread() -> u16 {
    u16::try_from(random() % 1001).unwrap_or(0)
}

/// The time from now to a moment; zero if it has passed.
pub fn until(moment: Millis) -> Duration {
    Duration::from_millis((moment - now()).0)
}
