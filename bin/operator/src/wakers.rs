//! Who to wake when something about a node changes. A wake-up is never lost: it is kept until the node's task looks, or,
//! where there is no task, until one is begun.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The nodes' tasks.
#[derive(Debug, Default)]
pub struct Wakers {
    inner: Mutex<Inner>,
    queued: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    tasks: HashMap<String, Task>,
    /// Nodes that want a task.
    queue: BTreeSet<String>,
}

#[derive(Debug)]
struct Task {
    notify: Arc<Notify>,
    instance: Option<String>,
}

impl Wakers {
    /// A node's task begins. `None`: it has one.
    pub fn add(&self, node: &str) -> Option<Arc<Notify>> {
        let mut inner = self.lock();
        if let Some(task) = inner.tasks.get(node) {
            task.notify.notify_one();
            return None;
        }
        let notify = Arc::new(Notify::new());
        inner.tasks.insert(
            node.to_owned(),
            Task {
                notify: Arc::clone(&notify),
                instance: None,
            },
        );
        Some(notify)
    }

    /// A node's task ended.
    pub fn remove(&self, node: &str) {
        self.lock().tasks.remove(node);
    }

    /// A node's instance became known.
    pub fn set_instance(&self, node: &str, instance: &str) {
        if let Some(task) = self.lock().tasks.get_mut(node)
            && task.instance.as_deref() != Some(instance)
        {
            task.instance = Some(instance.to_owned());
        }
    }

    /// Wakes a node's task, or asks for one.
    pub fn wake(&self, node: &str) {
        let mut inner = self.lock();
        match inner.tasks.get(node) {
            Some(task) => task.notify.notify_one(),
            None => {
                inner.queue.insert(node.to_owned());
                self.queued.notify_one();
            }
        }
    }

    /// Wakes the task of the node that is this instance.
    pub fn wake_instance(&self, instance: &str) {
        for task in self
            .lock()
            .tasks
            .values()
            .filter(|task| task.instance.as_deref() == Some(instance))
        {
            task.notify.notify_one();
        }
    }

    /// Wakes all, the one included that begins tasks.
    pub fn wake_all(&self) {
        for task in self.lock().tasks.values() {
            task.notify.notify_one();
        }
        self.queued.notify_one();
    }

    /// Nodes that want a task.
    pub fn take_queue(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.lock().queue)
    }

    /// Waits until a node wants a task, or something common changed.
    pub async fn queued(&self) {
        self.queued.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_wake_up_is_kept_until_somebody_looks() {
        let wakers = Wakers::default();
        wakers.wake("a");
        wakers.wake("a");
        assert_eq!(wakers.queued().now_or_never(), Some(()));
        assert_eq!(wakers.take_queue(), BTreeSet::from(["a".to_owned()]));
        let notify = wakers.add("a").expect("new");
        assert!(wakers.add("a").is_none());
        assert_eq!(
            notify.notified().now_or_never(),
            Some(()),
            "the second add woke it"
        );
        wakers.set_instance("a", "i-1");
        wakers.wake_instance("i-2");
        assert_eq!(notify.notified().now_or_never(), None);
        wakers.wake_instance("i-1");
        assert_eq!(notify.notified().now_or_never(), Some(()));
        wakers.remove("a");
        wakers.wake("a");
        assert_eq!(wakers.take_queue().len(), 1);
    }
}
