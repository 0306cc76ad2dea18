//! One operation a key at a time, and a way for a later one to overtake an ADD that waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedMutexGuard, watch};
use tombolo_core::types::AttachmentKey;

/// Why an ADD should stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its caller went away.
    Vanished,
    /// A DEL of the same key came.
    Superseded,
}

/// Tells an ADD to stop. The first word holds.
#[derive(Debug)]
pub struct Cancel(watch::Sender<Option<Why>>);

impl Cancel {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(None)))
    }

    pub fn cancel(&self, why: Why) {
        self.0.send_if_modified(|word| {
            let first = word.is_none();
            if first {
                *word = Some(why);
            }
            first
        });
    }

    /// The word so far.
    pub fn why(&self) -> Option<Why> {
        *self.0.borrow()
    }

    /// Ends when cancelled. Safe to drop.
    pub async fn cancelled(&self) -> Why {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some(why) = *receiver.borrow_and_update() {
                return why;
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    lock: Arc<tokio::sync::Mutex<()>>,
    /// ADDs of this key, waiting for the lock or holding it.
    adds: Mutex<Vec<Arc<Cancel>>>,
}

/// The locks of all keys that are in use now.
#[derive(Debug, Default)]
pub struct Keys(Mutex<BTreeMap<AttachmentKey, Arc<Slot>>>);

/// Holds a key. Dropping it lets the next one in.
#[derive(Debug)]
pub struct KeyGuard<'a> {
    keys: &'a Keys,
    key: AttachmentKey,
    slot: Arc<Slot>,
    held: Option<OwnedMutexGuard<()>>,
    cancel: Option<Arc<Cancel>>,
}

impl Keys {
    /// Waits for the key. An ADD hands in what cancels it, so that [`Keys::supersede`] reaches it from now on.
    pub async fn lock(&self, key: &AttachmentKey, cancel: Option<&Arc<Cancel>>) -> KeyGuard<'_> {
        let slot = Arc::clone(locked(&self.0).entry(key.clone()).or_default());
        locked(&slot.adds).extend(cancel.cloned());
        // The guard exists before the lock is taken: dropped while it waits, it still cleans up.
        let mut guard = KeyGuard {
            keys: self,
            key: key.clone(),
            slot,
            held: None,
            cancel: cancel.cloned(),
        };
        guard.held = Some(Arc::clone(&guard.slot.lock).lock_owned().await);
        guard
    }

    /// The key, if nobody holds it.
    pub fn try_lock(&self, key: &AttachmentKey) -> Option<KeyGuard<'_>> {
        let slot = Arc::clone(locked(&self.0).entry(key.clone()).or_default());
        let held = Arc::clone(&slot.lock).try_lock_owned().ok();
        // Without the lock, too, the guard cleans up.
        let guard = KeyGuard {
            keys: self,
            key: key.clone(),
            slot,
            held,
            cancel: None,
        };
        guard.held.is_some().then_some(guard)
    }

    /// The keys of which an ADD waits for the lock or holds it.
    pub fn adding(&self) -> Vec<AttachmentKey> {
        let all = locked(&self.0);
        let adding = all
            .iter()
            .filter(|(_, slot)| !locked(&slot.adds).is_empty());
        adding.map(|(key, _)| key.clone()).collect()
    }

    /// Tells all ADDs of this key that came so far to stop.
    pub fn supersede(&self, key: &AttachmentKey) {
        let slot = locked(&self.0).get(key).cloned();
        for add in slot.iter().flat_map(|slot| locked(&slot.adds).clone()) {
            add.cancel(Why::Superseded);
        }
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        self.held = None;
        if let Some(cancel) = &self.cancel {
            locked(&self.slot.adds).retain(|other| !Arc::ptr_eq(other, cancel));
        }
        let mut all = locked(&self.keys.0);
        // The map's and ours: nobody else waits.
        if Arc::strong_count(&self.slot) == 2 {
            all.remove(&self.key);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AttachmentKey {
        AttachmentKey::new("net", "c1", "eth0").unwrap()
    }

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left() {
        let (keys, key) = (Keys::default(), key());
        let first = keys.lock(&key, None).await;
        {
            let mut second = Box::pin(keys.lock(&key, None));
            assert!(futures::poll!(second.as_mut()).is_pending());
            assert!(keys.try_lock(&key).is_none());
            drop(first);
            let _second = second.await;
        }
        assert!(locked(&keys.0).is_empty());
    }

    #[tokio::test]
    async fn waiting_add_is_overtaken() {
        let (keys, key) = (Keys::default(), key());
        let (holder, waiter) = (Cancel::new(), Cancel::new());
        let first = keys.lock(&key, Some(&holder)).await;
        let mut second = Box::pin(keys.lock(&key, Some(&waiter)));
        assert!(futures::poll!(second.as_mut()).is_pending());
        assert_eq!(keys.adding(), std::slice::from_ref(&key));
        keys.supersede(&key);
        assert_eq!(holder.cancelled().await, Why::Superseded);
        waiter.cancel(Why::Vanished);
        assert_eq!(waiter.why(), Some(Why::Superseded));
        drop(second);
        drop(first);
        assert_eq!(keys.adding(), []);
        assert!(locked(&keys.0).is_empty());
    }
}
