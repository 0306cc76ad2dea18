//! The one place that reads the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use tombolo_core::types::Millis;

/// Milliseconds since the Unix epoch: survives a restart, unlike a monotonic clock. Core tolerates jumps.
pub fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
