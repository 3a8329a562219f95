//! One lock per branch, in this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use concord_protocol::{BranchId, Gtid};
use tokio::sync::OwnedMutexGuard;

/// Which branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) gtid: Gtid,
    pub(crate) branch: BranchId,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} branch {}", self.gtid, self.branch)
    }
}

/// Calls about one branch come one after the other.
///
/// The row in the barrier table alone would do for correctness, and is what does between processes. But calls
/// that wait for a row hold a connection each; and when the transaction that they wait for is rolled back, InnoDB
/// turns their waiting locks into gap locks, on which two of them deadlock.
#[derive(Debug, Default)]
pub(crate) struct Locks(Arc<Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>>);

impl Locks {
    /// Waits until no other call is at work on the branch.
    pub(crate) async fn hold(&self, key: Key) -> Held {
        let lock = Arc::clone(locked(&self.0).entry(key).or_default());
        let map = Arc::clone(&self.0);
        // Made before the wait, so that a call that is cancelled in it leaves nothing behind.
        let mut held = Held { map, key, lock: Arc::clone(&lock), guard: None };
        held.guard = Some(lock.lock_owned().await);
        held
    }
}

/// The right to act for a branch, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    map: Arc<Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>>,
    key: Key,
    lock: Arc<tokio::sync::Mutex<()>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut map = locked(&self.map);
        self.guard = None;
        // The map's and this one: nobody else holds it or waits for it, and nobody can begin to meanwhile.
        if Arc::strong_count(&self.lock) == 2 {
            map.remove(&self.key);
        }
    }
}

fn locked(
    map: &Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
) -> MutexGuard<'_, HashMap<Key, Arc<tokio::sync::Mutex<()>>>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use concord_protocol::Epoch;
    use futures_util::FutureExt as _;

    #[tokio::test]
    async fn calls_about_one_branch_wait_for_each_other_and_leave_nothing_behind() {
        let locks = Locks::default();
        let key = |number| Key { gtid: Gtid::compose(1, Epoch(1), number), branch: BranchId(1) };
        let first = locks.hold(key(1)).await;
        assert!(locks.hold(key(2)).now_or_never().is_some(), "another branch does not wait");
        assert!(locks.hold(key(1)).now_or_never().is_none(), "the same one does; and gives up here");
        let mut second = Box::pin(locks.hold(key(1)));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        let second = second.await;
        assert_eq!(locked(&locks.0).len(), 1);
        drop(second);
        assert!(locked(&locks.0).is_empty());
    }
}
