//! The one place that reads the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use tombolo_core::types::Millis;

/// Milliseconds since the Unix epoch: survives a restart, unlike a monotonic clock. Core tolerates jumps.
pub fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Nanoseconds since the node booted, as the plugin counts them too: for what came first of two things of one boot.
pub fn since_boot() -> u64 {
    let since = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(since.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(since.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
