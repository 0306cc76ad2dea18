//! The gate between those who wire pods (many at once) and who repairs the node (alone).

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Open for pods, closed for a repair. Counts who went through, so that a look at the node that nobody disturbed is known
/// to be one.
#[derive(Debug, Default)]
pub struct Gate {
    lock: RwLock<()>,
    passed: AtomicU64,
}

/// A moment when nobody was inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet(u64);

impl Gate {
    /// Goes through; inside until the guard is dropped.
    pub async fn read(&self) -> RwLockReadGuard<'_, ()> {
        let inside = self.lock.read().await;
        self.passed.fetch_add(1, Ordering::SeqCst);
        inside
    }

    /// Closes it once all have left; open again when the guard is dropped.
    pub async fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.lock.write().await
    }

    /// Now, if nobody is inside.
    pub fn quiet(&self) -> Option<Quiet> {
        let _nobody = self.lock.try_write().ok()?;
        Some(Quiet(self.passed.load(Ordering::SeqCst)))
    }

    /// Whether nobody went through since then. Ask with the gate closed.
    pub fn still(&self, since: Quiet) -> bool {
        self.passed.load(Ordering::SeqCst) == since.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_inside_or_went_through_is_no_quiet() {
        let gate = Gate::default();
        let before = gate.quiet().expect("nobody is inside");
        let inside = gate.read().await;
        assert_eq!(gate.quiet(), None);
        drop(inside);
        let closed = gate.write().await;
        assert!(!gate.still(before));
        drop(closed);
        let after = gate.quiet().expect("nobody is inside any more");
        let _closed = gate.write().await;
        assert!(gate.still(after));
    }
}
