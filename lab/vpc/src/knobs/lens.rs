//! What describe calls show: the world as it is, as it was, or only a part of it. Calls that change something always meet
//! the world as it is.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use tombolo_core::types::Millis;

use crate::model::View;

/// Calls that are answered from a [`View`].
pub const SEEING: [&str; 3] = ["DescribeInstances", "DescribeSubnets", "DescribeNics"];
/// The one that shows NICs and their addresses.
const NICS: &str = "DescribeNics";

/// Leaves out a part, for some replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Omission {
    /// Every so many-th is left out, the first among them.
    pub one_in: u32,
    /// Replies that it still holds for.
    pub replies: u32,
}

impl Omission {
    fn keeps(self, index: usize) -> bool {
        !index.is_multiple_of(self.one_in as usize)
    }
}

/// How the view is distorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LensState {
    /// Milliseconds that replies are old, per verb.
    pub stale: BTreeMap<String, u64>,
    /// Secondary addresses left out of every NIC.
    pub omit_addresses: Option<Omission>,
    /// NICs left out.
    pub omit_nics: Option<Omission>,
    /// Ids and addresses that are shown in no reply, and for how many replies still.
    pub hidden: BTreeMap<String, u32>,
}

/// The distortion, and what it needs to remember.
#[derive(Debug, Default)]
pub struct Lens {
    /// The settings.
    pub state: LensState,
    /// Views since the lens was made stale, oldest first; each held until the next.
    past: VecDeque<(Millis, View)>,
}

impl Lens {
    /// Makes the replies of a verb this much older than they were; never older than this moment. 0 ends it.
    pub fn set_stale(&mut self, now: Millis, verb: &str, ms: u64, present: View) {
        if ms == 0 {
            self.state.stale.remove(verb);
        } else {
            self.state.stale.insert(verb.to_owned(), ms);
            self.remember(now, present);
        }
        if self.state.stale.is_empty() {
            self.past.clear();
        }
    }

    /// Whether the past is wanted.
    #[must_use]
    pub fn wants_past(&self) -> bool {
        !self.state.stale.is_empty()
    }

    /// Notes how the world looks from now on.
    pub fn remember(&mut self, now: Millis, view: View) {
        if self.past.back().is_some_and(|(_, last)| *last == view) {
            return;
        }
        self.past.push_back((now, view));
        let oldest = Millis(now.0.saturating_sub(self.reach()));
        // The second one was the present by then, so nobody looks at the first any more.
        while self.past.get(1).is_some_and(|(since, _)| *since <= oldest) {
            self.past.pop_front();
        }
    }

    /// What a call of this verb is shown; `None` where that is the world as it is.
    pub fn look(
        &mut self,
        now: Millis,
        verb: &str,
        present: impl FnOnce() -> View,
    ) -> Option<View> {
        if !SEEING.contains(&verb) {
            return None;
        }
        let old = self.state.stale.get(verb).and_then(|ms| self.at(now, *ms));
        let partial =
            verb == NICS && (self.state.omit_addresses.is_some() || self.state.omit_nics.is_some());
        if old.is_none() && !partial && self.state.hidden.is_empty() {
            return None;
        }
        let mut view = old.unwrap_or_else(present);
        if verb == NICS {
            self.omit(&mut view);
        }
        self.hide(verb, &mut view);
        Some(view)
    }

    fn reach(&self) -> u64 {
        self.state.stale.values().copied().max().unwrap_or(0)
    }

    fn at(&self, now: Millis, ms: u64) -> Option<View> {
        let then = Millis(now.0.saturating_sub(ms));
        let held = self.past.iter().rev().find(|(since, _)| *since <= then);
        held.or_else(|| self.past.front())
            .map(|(_, view)| view.clone())
    }

    fn omit(&mut self, view: &mut View) {
        if let Some(omission) = used(&mut self.state.omit_nics) {
            let mut index = 0..;
            view.nics
                .retain(|_| index.next().is_none_or(|i| omission.keeps(i)));
        }
        if let Some(omission) = used(&mut self.state.omit_addresses) {
            for nic in &mut view.nics {
                let mut index = 0..;
                nic.secondary
                    .retain(|_| index.next().is_none_or(|i| omission.keeps(i)));
            }
        }
    }

    fn hide(&mut self, verb: &str, view: &mut View) {
        let hidden = &mut self.state.hidden;
        let mut met: Vec<String> = Vec::new();
        let mut is_hidden = |what: &str| {
            let found = hidden.contains_key(what);
            if found {
                met.push(what.to_owned());
            }
            found
        };
        match verb {
            "DescribeInstances" => view.instances.retain(|i| !is_hidden(&i.id)),
            "DescribeSubnets" => view.subnets.retain(|s| !is_hidden(&s.id)),
            _ => {
                view.nics.retain(|n| !is_hidden(&n.id));
                for nic in &mut view.nics {
                    nic.secondary.retain(|a| !is_hidden(&a.to_string()));
                }
            }
        }
        for what in met {
            if let Some(replies) = hidden.get_mut(&what) {
                *replies -= 1;
            }
        }
        hidden.retain(|_, replies| *replies > 0);
    }
}

/// Takes one reply off what is left; the last one ends it.
fn used(slot: &mut Option<Omission>) -> Option<Omission> {
    let omission = (*slot)?;
    *slot = Some(Omission {
        replies: omission.replies - 1,
        ..omission
    })
    .filter(|o| o.replies > 0);
    Some(omission)
}

#[cfg(test)]
mod tests;
