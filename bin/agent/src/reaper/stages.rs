//! Where each doomed key stands. Deleting links and clearing up what else names the addresses go on side by side, but no key
//! is in both: what clears a key ends its record, and an ADD of the same key may follow at once, whose link nobody may take
//! for the old one.
//!
//! ```text
//!   doom ─▶ waiting ─▶ (links deleted) ─▶ unlinked ─▶ clearing ─▶ gone
//!              ▲             │ left                      │ left
//!              └── resting ◀─┴───────────────────────────┘
//! ```

use std::collections::BTreeSet;

use tombolo_core::types::AttachmentKey;

#[derive(Debug, Default)]
pub struct Stages {
    waiting: BTreeSet<AttachmentKey>,
    unlinked: BTreeSet<AttachmentKey>,
    clearing: BTreeSet<AttachmentKey>,
    resting: BTreeSet<AttachmentKey>,
}

impl Stages {
    /// Keys whose kernel state is to go. One that is further on already waits until it is through.
    pub fn doom(&mut self, keys: impl IntoIterator<Item = AttachmentKey>) {
        self.waiting.extend(keys);
    }

    /// Takes the keys whose links are to be deleted now. Each comes back by [`Self::unlinked`] or [`Self::rest`].
    pub fn take_linked(&mut self) -> Vec<AttachmentKey> {
        let further =
            |key: &AttachmentKey| self.unlinked.contains(key) || self.clearing.contains(key);
        let waiting = std::mem::take(&mut self.waiting);
        let (stay, taken): (BTreeSet<_>, BTreeSet<_>) = waiting.into_iter().partition(further);
        self.waiting = stay;
        taken.into_iter().collect()
    }

    /// Their links are gone.
    pub fn unlinked(&mut self, keys: impl IntoIterator<Item = AttachmentKey>) {
        self.unlinked.extend(keys);
    }

    /// Begins to clear those whose links are gone; none while others are being cleared.
    pub fn begin_clearing(&mut self) -> Vec<AttachmentKey> {
        if self.clearing.is_empty() {
            self.clearing = std::mem::take(&mut self.unlinked);
            return self.clearing.iter().cloned().collect();
        }
        Vec::new()
    }

    /// What was being cleared is gone, but for these.
    pub fn cleared(&mut self, left: Vec<AttachmentKey>) {
        self.clearing.clear();
        self.rest(left);
    }

    /// What was being cleared has to be cleared again.
    pub fn cleared_nothing(&mut self) {
        self.resting.append(&mut self.clearing);
    }

    /// Something is left of these: they are to be looked at again after a pause.
    pub fn rest(&mut self, keys: impl IntoIterator<Item = AttachmentKey>) {
        self.resting.extend(keys);
    }

    /// Whether any rests.
    pub fn any_rests(&self) -> bool {
        !self.resting.is_empty()
    }

    /// The pause is over.
    pub fn wake(&mut self) {
        self.waiting.append(&mut self.resting);
    }

    /// Whether there is no key left.
    pub fn is_empty(&self) -> bool {
        let all = [&self.waiting, &self.unlinked, &self.clearing, &self.resting];
        all.into_iter().all(BTreeSet::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> AttachmentKey {
        AttachmentKey {
            network: "tombolo".to_owned(),
            container_id: format!("c{n}"),
            ifname: "eth0".to_owned(),
        }
    }

    #[test]
    fn links_of_the_next_are_deleted_while_others_are_cleared() {
        let mut stages = Stages::default();
        stages.doom([key(1)]);
        assert_eq!(stages.take_linked(), [key(1)]);
        stages.unlinked([key(1)]);
        assert_eq!(stages.begin_clearing(), [key(1)]);
        stages.doom([key(2)]);
        assert_eq!(stages.take_linked(), [key(2)]);
        stages.unlinked([key(2)]);
        assert_eq!(stages.begin_clearing(), [], "one batch at a time");
        stages.cleared(Vec::new());
        assert_eq!(stages.begin_clearing(), [key(2)]);
    }

    #[test]
    fn a_key_doomed_again_waits_until_it_is_through() {
        let mut stages = Stages::default();
        stages.doom([key(1)]);
        let taken = stages.take_linked();
        stages.unlinked(taken);
        stages.doom([key(1)]);
        assert_eq!(stages.take_linked(), [], "its link is gone already");
        stages.begin_clearing();
        stages.doom([key(1)]);
        assert_eq!(stages.take_linked(), [], "its record may go any moment");
        stages.cleared(Vec::new());
        assert_eq!(stages.take_linked(), [key(1)]);
    }

    #[test]
    fn what_is_left_rests_and_begins_again() {
        let mut stages = Stages::default();
        stages.doom([key(1), key(2), key(3)]);
        let taken = stages.take_linked();
        stages.rest(taken.into_iter().take(1));
        stages.unlinked([key(2), key(3)]);
        stages.begin_clearing();
        stages.cleared(vec![key(3)]);
        assert_eq!(stages.take_linked(), []);
        assert!(stages.any_rests());
        stages.wake();
        assert!(!stages.any_rests());
        assert_eq!(stages.take_linked(), [key(1), key(3)]);
        stages.unlinked([key(1), key(3)]);
        stages.begin_clearing();
        stages.cleared_nothing();
        stages.wake();
        assert_eq!(stages.take_linked(), [key(1), key(3)]);
        assert!(stages.is_empty(), "taken ones are the caller's");
    }
}
