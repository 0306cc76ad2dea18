//! The clock that plugin and agent share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the node booted (CLOCK_BOOTTIME, as in `GcRequest.begun`): the same in every process of one boot, so that
/// it says which of two things came first.
#[must_use]
pub fn since_boot() -> u64 {
    let since = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(since.tv_sec).unwrap_or_default();
    let nanos = u64::try_from(since.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}
