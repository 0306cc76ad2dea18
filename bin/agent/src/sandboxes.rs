//! One attachment at a time looks at the routes of a pod and adds its own: two networks of one pod may be asked for at once,
//! and only one of them can have the pod's default route.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};

use tombolo_netlink::NetnsId;

/// Namespaces of pods in which somebody is at work.
#[derive(Debug, Default)]
pub struct Sandboxes {
    busy: Mutex<BTreeSet<NetnsId>>,
    left: Condvar,
}

/// Alone in a namespace, until dropped.
#[derive(Debug)]
pub struct Alone<'a> {
    sandboxes: &'a Sandboxes,
    id: NetnsId,
}

impl Sandboxes {
    /// Waits until nobody else is in it. Blocks, for as long as the kernel takes to configure a pod's end.
    pub fn enter(&self, id: NetnsId) -> Alone<'_> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while !busy.insert(id) {
            busy = self.left.wait(busy).unwrap_or_else(PoisonError::into_inner);
        }
        Alone {
            sandboxes: self,
            id,
        }
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let busy = self.sandboxes.busy.lock();
        busy.unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
        self.sandboxes.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_in_each_and_nothing_is_left() {
        let sandboxes = Sandboxes::default();
        let id = |ino| NetnsId { dev: 1, ino };
        let _other = sandboxes.enter(id(2));
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _alone = sandboxes.enter(id(1));
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                });
            }
        });
        assert_eq!(sandboxes.busy.lock().unwrap().len(), 1);
    }
}
