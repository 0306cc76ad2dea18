//! A token bucket as a schedule: each call reserves the next moment at which it may start, so that nobody waits on a lock.
//! After throttling everything pauses, longer with each reply of that kind.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// The budget.
#[derive(Debug)]
pub struct Budget {
    /// Time that one call takes from the budget.
    interval: Duration,
    /// How far the schedule may lie behind: unused budget.
    credit: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the next call would start, had there never been idle time.
    next: Option<Instant>,
    paused_until: Option<Instant>,
    throttled: u32,
}

impl Budget {
    /// `rate` calls a second in the long run, `burst` at once.
    pub fn new(rate: f64, burst: u32) -> Self {
        let interval = Duration::from_secs_f64(1.0 / rate);
        Self {
            interval,
            credit: interval * burst.saturating_sub(1),
            state: Mutex::default(),
        }
    }

    /// Takes a place; returns when the call may start.
    pub fn reserve(&self, now: Instant) -> Instant {
        let mut state = self.lock();
        let earliest = now.checked_sub(self.credit).unwrap_or(now);
        let next = state.next.map_or(earliest, |next| next.max(earliest));
        state.next = Some(next + self.interval);
        next.max(now)
    }

    /// The end of a pause under way.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.lock().paused_until.filter(|until| *until > now)
    }

    /// The cloud said that we call too often.
    pub fn throttled(&self, now: Instant, spread: u16) {
        let mut state = self.lock();
        // Calls that were already under way when the pause began do not lengthen it.
        if state.paused_until.is_some_and(|until| until > now) {
            return;
        }
        let pause = PAUSE
            .saturating_mul(1 << state.throttled.min(10))
            .min(LONGEST_PAUSE);
        state.throttled = state.throttled.saturating_add(1);
        state.paused_until = Some(now + pause + pause * u32::from(spread) / 2000);
    }

    /// The cloud served a call.
    pub fn served(&self) {
        self.lock().throttled = 0;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let budget = Budget::new(10.0, 3);
        let now = Instant::now() + Duration::from_secs(1000);
        let waits = |now: Instant| (budget.reserve(now) - now).as_millis();
        let first: Vec<u128> = (0..6).map(|_| waits(now)).collect();
        assert_eq!(first, [0, 0, 0, 100, 200, 300]);
        // Idle time gives the burst back, no more.
        let later = now + Duration::from_secs(60);
        let again: Vec<u128> = (0..5).map(|_| waits(later)).collect();
        assert_eq!(again, [0, 0, 0, 100, 200]);
    }

    #[test]
    fn throttling_pauses_longer_each_time_until_a_call_is_served() {
        let budget = Budget::new(10.0, 3);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            budget.throttled(now, 0);
            budget.throttled(now, 1000);
            let until = budget.paused_until(now).expect("pause");
            pauses.push((until - now).as_millis());
            now = until;
            assert_eq!(budget.paused_until(now), None);
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 8000]);
        budget.served();
        budget.throttled(now, 1000);
        assert_eq!(
            budget.paused_until(now),
            Some(now + Duration::from_millis(750))
        );
    }
}
