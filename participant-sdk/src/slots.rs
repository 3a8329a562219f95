//! What this process knows of its branches.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use concord_xa::{Branch, PreparedBranch, Xid};
use tokio::sync::Notify;

/// How long the end of a branch is remembered, for repeated calls; after that the database is asked.
const REMEMBER: Duration = Duration::from_secs(60);
/// How many ended branches are remembered at most.
const REMEMBERED_MAX: usize = 8_192;

/// How far a branch has come in this process.
#[derive(Debug, Default)]
pub(crate) enum State {
    /// Nothing is known of it here.
    #[default]
    New,
    /// Its work is done, its session open; it has not voted.
    Open { branch: Branch, reply: Bytes, expires: Instant },
    /// It voted yes.
    Prepared { branch: PreparedBranch, reply: Bytes, since: Instant },
    /// The answer to PREPARE was lost.
    Lost { connection_id: u32 },
    /// It has ended.
    Ended(End),
}

/// How a branch ended.
#[derive(Debug, Clone)]
pub(crate) enum End {
    ReadOnly { reply: Bytes },
    Refused { reason: String },
    Committed { reply: Bytes },
    RolledBack { reason: String },
}

/// One branch. Whoever holds the lock acts for it; everyone else waits and then sees what was done, which is
/// how concurrent duplicates share one result.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) state: tokio::sync::Mutex<State>,
    fenced: AtomicBool,
    fence: Notify,
}

impl Slot {
    /// Stops work under way, and keeps any from starting: the branch is being rolled back.
    pub(crate) fn raise_fence(&self) {
        self.fenced.store(true, Ordering::SeqCst);
        self.fence.notify_waiters();
    }

    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::SeqCst)
    }

    /// Returns once the fence is up.
    pub(crate) async fn fenced(&self) {
        let raised = self.fence.notified();
        tokio::pin!(raised);
        // Listening first, so that a fence raised in between is not missed.
        raised.as_mut().enable();
        if !self.is_fenced() {
            raised.await;
        }
    }
}

/// All branches of this process.
#[derive(Debug, Default)]
pub(crate) struct Slots(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<Xid, Arc<Slot>>,
    ended: VecDeque<(Instant, Xid)>,
}

impl Slots {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The branch's slot; a new one if there is none.
    pub(crate) fn get(&self, xid: &Xid) -> Arc<Slot> {
        Arc::clone(self.lock().slots.entry(*xid).or_default())
    }

    pub(crate) fn find(&self, xid: &Xid) -> Option<Arc<Slot>> {
        self.lock().slots.get(xid).cloned()
    }

    pub(crate) fn all(&self) -> Vec<(Xid, Arc<Slot>)> {
        self.lock().slots.iter().map(|(xid, slot)| (*xid, Arc::clone(slot))).collect()
    }

    /// Notes that a branch need not be remembered for ever: it has ended, or nothing is known of it. Forgets
    /// those that were noted long ago.
    pub(crate) fn may_forget(&self, xid: &Xid) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.ended.push_back((now, *xid));
        while let Some((since, xid)) = inner.ended.front().copied() {
            if now.duration_since(since) < REMEMBER && inner.ended.len() <= REMEMBERED_MAX {
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
