//! One queue of due times for all transactions: a stuck transaction costs an entry here, and no task.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use concord_protocol::{BranchId, Gtid, Millis, Timer};
use tokio::sync::Notify;

use super::clock::Clock;

/// An entry: when, whose, and which timer. Ordered by time.
pub(crate) type Due = (Millis, Gtid, TimerKey);

/// A [`Timer`] that can be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKey {
    Deadline,
    Retry(BranchId, u32),
}

impl From<TimerKey> for Timer {
    fn from(key: TimerKey) -> Self {
        match key {
            TimerKey::Deadline => Timer::Deadline,
            TimerKey::Retry(branch, attempts) => Timer::Retry { branch, attempts },
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: Mutex<BTreeSet<Due>>,
    /// Woken when a new entry is earlier than all others.
    earlier: Notify,
}

impl Timers {
    pub(crate) fn set(&self, due: Due) {
        let mut queue = self.lock();
        let first = queue.first().is_none_or(|first| due < *first);
        queue.insert(due);
        drop(queue);
        if first {
            self.earlier.notify_one();
        }
    }

    pub(crate) fn cancel(&self, due: &Due) {
        self.lock().remove(due);
    }

    /// Waits for the next entry that is due, and takes everything that is due by then.
    pub(crate) async fn next_due(&self, clock: &Clock) -> Vec<Due> {
        loop {
            let first = self.lock().first().map(|(at, ..)| *at);
            let now = clock.now();
            match first {
                Some(at) if at <= now => return self.take_until(now),
                Some(at) => {
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(clock.instant(at)) => {}
                        () = self.earlier.notified() => {}
                    }
                }
                None => self.earlier.notified().await,
            }
        }
    }

    fn take_until(&self, now: Millis) -> Vec<Due> {
        let mut queue = self.lock();
        let mut due = Vec::new();
        while let Some(first) = queue.first()
            && first.0 <= now
        {
            due.extend(queue.pop_first());
        }
        due
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Due>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::clock::Machine;
    use concord_protocol::Epoch;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn takes_what_is_due_in_order_and_wakes_for_an_earlier_entry() {
        let (timers, clock) = (Timers::default(), Clock::start(Arc::new(Machine)));
        let gtid = Gtid::compose(1, Epoch(1), 1);
        let now = clock.now();
        timers.set((now.plus(Millis(60_000)), gtid, TimerKey::Deadline));
        let early = (now, gtid, TimerKey::Retry(BranchId(1), 1));
        let (due, ()) = tokio::join!(timers.next_due(&clock), async { timers.set(early) });
        assert_eq!(due, [early]);
        timers.cancel(&(now.plus(Millis(60_000)), gtid, TimerKey::Deadline));
        assert!(timers.lock().is_empty());
    }
}
