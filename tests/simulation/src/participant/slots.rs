//! What a participant's process knows of its branches (as `participant-sdk/src/slots.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use concord_xa::Xid;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::branch::{Branch, Prepared};
use crate::database::SessionId;

/// How far a branch has come in this process.
#[derive(Debug, Default)]
pub(super) enum State {
    /// Nothing is known of it here.
    #[default]
    New,
    /// Its work is done, its session open; it has not voted.
    Open { branch: Branch, expires: Instant },
    /// It voted yes.
    Prepared { branch: Prepared, since: Instant },
    /// The answer to PREPARE was lost.
    Lost { connection: SessionId },
    /// It has ended.
    Ended(End),
}

/// How a branch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    ReadOnly,
    Refused(String),
    Committed,
    RolledBack(String),
}

/// One branch. Whoever holds the lock acts for it; everyone else waits and then sees what was done.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: tokio::sync::Mutex<State>,
    fenced: AtomicBool,
    fence: Notify,
}

impl Slot {
    /// Stops work under way, and keeps any from starting: the branch is being rolled back.
    pub(super) fn raise_fence(&self) {
        self.fenced.store(true, Ordering::Relaxed);
        self.fence.notify_waiters();
    }

    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Relaxed)
    }

    /// Returns once the fence is up.
    pub(super) async fn fenced(&self) {
        let raised = self.fence.notified();
        tokio::pin!(raised);
        raised.as_mut().enable();
        if !self.is_fenced() {
            raised.await;
        }
    }
}

/// All branches of a process.
#[derive(Debug)]
pub(super) struct Slots {
    remember: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    slots: BTreeMap<Xid, Arc<Slot>>,
    ended: VecDeque<(Instant, Xid)>,
}

impl Slots {
    pub(super) fn new(remember: Duration) -> Self {
        Slots { remember, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, xid: &Xid) -> Arc<Slot> {
        Arc::clone(self.lock().slots.entry(*xid).or_default())
    }

    pub(super) fn find(&self, xid: &Xid) -> Option<Arc<Slot>> {
        self.lock().slots.get(xid).cloned()
    }

    pub(super) fn all(&self) -> Vec<(Xid, Arc<Slot>)> {
        self.lock().slots.iter().map(|(xid, slot)| (*xid, Arc::clone(slot))).collect()
    }

    /// Notes that a branch need not be remembered for ever. Forgets those that were noted long ago.
    pub(super) fn may_forget(&self, xid: &Xid) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.ended.push_back((now, *xid));
        while let Some((since, xid)) = inner.ended.front().copied() {
            if now.duration_since(since) < self.remember {
                break;
            }
            inner.ended.pop_front();
            let idle = inner.slots.get(&xid).is_some_and(|slot| {
                slot.state.try_lock().is_ok_and(|state| matches!(*state, State::Ended(_) | State::New))
            });
            if idle {
                inner.slots.remove(&xid);
            }
        }
    }
}
