//! One form for planners that behave alike, so that a search over all states (`model/`) knows a state that it has seen.

use super::Planner;
use crate::types::Millis;

impl Planner {
    /// Forgets what has no effect from `now` on, and the last observation: an observation must be the next input, or the
    /// end of a call. Two planners that then behave alike, apart from what they reported, become equal.
    pub fn canonicalise(&mut self, now: Millis) {
        self.expire(now);
        self.observation = None;
        self.underway.retain(|_, call| !call.finished);
        self.reported.clear();
    }

    /// Lets time pass: everything remembered is earlier by so much.
    pub fn age(&mut self, by: Millis) {
        for (backoff, _) in self.backoffs.values_mut() {
            backoff.age(by);
        }
        for hold in self.subnet_holds.values_mut() {
            hold.until = hold.until - by;
        }
        for until in self.holds6.values_mut() {
            *until = *until - by;
        }
        let limits = self.full.values_mut().chain(&mut self.nic_limit);
        let times = limits
            .map(|(until, _)| until)
            .chain(self.refused.values_mut())
            .chain(self.idle.values_mut())
            .chain(self.attaching.values_mut())
            .chain(self.doomed.values_mut().flatten());
        for time in times {
            *time = *time - by;
        }
    }
}
