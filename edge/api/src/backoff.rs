//! The pause before a watch that failed is taken up again. A node's addresses come through its watch, so that one which waits
//! long after an outage makes pods wait; and thousands of agents must not all ask at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use kube::runtime::utils::Backoff;

const FIRST: Duration = Duration::from_millis(400);
/// Half as much again with the spread: twelve seconds.
const LONGEST: Duration = Duration::from_secs(8);

/// Doubles from 0.4 to 8 seconds, each between half and one and a half times as long.
#[derive(Clone, Debug)]
pub struct WatchBackoff {
    next: Duration,
}

impl Default for WatchBackoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        // Every `RandomState` has keys of its own.
        let random = RandomState::new().build_hasher().finish();
        let per_mille = u32::try_from(random % 1000).unwrap_or_default();
        Some(pause / 2 + pause * per_mille / 1000)
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_begins_anew() {
        let mut backoff = WatchBackoff::default();
        let pauses: Vec<Duration> = backoff.by_ref().take(50).collect();
        assert!(pauses[0] < FIRST * 3 / 2 && pauses[0] >= FIRST / 2);
        assert!(pauses.iter().all(|pause| *pause <= LONGEST * 3 / 2));
        let late = &pauses[10..];
        assert!(late.iter().all(|pause| *pause >= LONGEST / 2));
        assert!(late.iter().any(|pause| *pause != late[0]), "spread");
        backoff.reset();
        assert!(backoff.next().is_some_and(|pause| pause < FIRST * 3 / 2));
    }
}
