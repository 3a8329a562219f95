//! What waits for the writer.
//!
//! The queue is not bounded here, because an append must not block its caller and must not be refused: the
//! engine bounds it, by the number of transactions that it has in flight.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::row::Row;
use super::{StoreError, UnixMillis};

/// One commit takes at most this much; a larger single append is committed alone. A bound keeps the latency of
/// those that come next, and SQLite's page cache, within limits.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// See [`BATCH_BYTES_MAX`].
const BATCH_ROWS_MAX: usize = 8192;
/// Lazy entries are written early when so many wait.
const LAZY_ROWS_MAX: usize = 1024;
/// Lazy entries are written early when they take so much memory.
const LAZY_BYTES_MAX: usize = 1 << 20;
/// Where fewer forced appends than this are expected, a sync is cheaper than the wait to share it.
const EXPECTED_MIN: usize = 16;

/// Entries to be written together.
#[derive(Debug)]
pub(in crate::store) struct Append {
    pub(in crate::store) rows: Vec<Row>,
    pub(in crate::store) forced: bool,
    pub(in crate::store) done: oneshot::Sender<Result<(), StoreError>>,
    queued_at: Instant,
    bytes: usize,
}

impl Append {
    pub(in crate::store) fn new(
        rows: Vec<Row>,
        forced: bool,
        done: oneshot::Sender<Result<(), StoreError>>,
    ) -> Self {
        let bytes = rows.iter().map(|row| row.body.len() + size_of::<Row>()).sum();
        Append { rows, forced, done, queued_at: Instant::now(), bytes }
    }
}

/// Ended transactions to be deleted.
#[derive(Debug)]
pub(in crate::store) struct Purge {
    pub(in crate::store) before: UnixMillis,
    pub(in crate::store) limit: usize,
    /// Deleted already.
    pub(in crate::store) deleted: usize,
    pub(in crate::store) done: oneshot::Sender<Result<usize, StoreError>>,
}

/// What the writer does next.
#[derive(Debug)]
pub(in crate::store) enum Work {
    /// Commit these in one SQL transaction.
    Commit(Vec<Append>),
    /// Delete one step's worth.
    Purge(Purge),
    /// End.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

#[derive(Debug)]
enum Job {
    Append(Append),
    Purge(Purge),
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// What the writer will answer.
pub(in crate::store) fn answer<T: Send + 'static>(
    result: oneshot::Receiver<Result<T, StoreError>>,
) -> BoxFuture<'static, Result<T, StoreError>> {
    Box::pin(async move {
        result.await.unwrap_or_else(|_| Err(StoreError::Failed("its writer ended unexpectedly".into())))
    })
}

/// The queue between those who append and the writer: first in, first out.
#[derive(Debug)]
pub(in crate::store) struct Queue {
    state: Mutex<State>,
    arrived: Condvar,
    lazy_delay: Duration,
    company_delay: Duration,
    /// Forced appends that are likely to come soon.
    expected: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    rows: usize,
    bytes: usize,
    /// Forced appends.
    forced: usize,
    /// When the first of them came.
    forced_since: Option<Instant>,
    /// Other jobs, none of which waits for anything.
    others: usize,
    /// Why nothing more is taken.
    over: Option<StoreError>,
    /// Tests stop the writer here, to let a queue build up.
    held: bool,
    /// The writer waits for work, or has ended.
    idle: bool,
}

impl Queue {
    /// Lazy entries wait so long for a forced one to be written with, and that at most so long for others that are
    /// expected.
    pub(in crate::store) fn new(lazy_delay: Duration, company_delay: Duration) -> Self {
        Queue {
            state: Mutex::default(),
            arrived: Condvar::new(),
            lazy_delay,
            company_delay,
            expected: AtomicUsize::new(0),
        }
    }

    /// Tells how many forced appends are likely to come soon.
    pub(in crate::store) fn expect(&self, forced_soon: usize) {
        self.expected.store(forced_soon, Ordering::Relaxed);
    }

    fn expected(&self) -> usize {
        self.expected.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues entries.
    pub(in crate::store) fn append(&self, append: Append) {
        let mut state = self.lock();
        if let Some(error) = &state.over {
            let _ = append.done.send(Err(error.clone()));
            return;
        }
        state.rows += append.rows.len();
        state.bytes += append.bytes;
        let first = state.jobs.is_empty();
        let mut wake = first || state.has_enough();
        if append.forced {
            state.forced += 1;
            // The first one sets the writer's clock; the one that completes the company ends its wait.
            wake |= state.forced == 1 || state.has_company(self.expected());
            state.forced_since.get_or_insert(append.queued_at);
        }
        state.jobs.push_back(Job::Append(append));
        drop(state);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// Queues a purge.
    pub(in crate::store) fn purge(&self, purge: Purge) {
        let mut state = self.lock();
        if let Some(error) = &state.over {
            let _ = purge.done.send(Err(error.clone()));
            return;
        }
        state.others += 1;
        state.jobs.push_back(Job::Purge(purge));
        drop(state);
        self.arrived.notify_one();
    }

    /// Lets the writer finish what is queued, and end. Whatever comes later is refused.
    pub(in crate::store) fn close(&self, done: oneshot::Sender<Result<(), StoreError>>) {
        let mut state = self.lock();
        match &state.over {
            Some(StoreError::Closed) => {
                let _ = done.send(Ok(()));
                return;
            }
            Some(error) => {
                let _ = done.send(Err(error.clone()));
                let (nobody, _) = oneshot::channel();
                state.jobs.push_back(Job::Close(nobody));
            }
            None => {
                state.over = Some(StoreError::Closed);
                state.jobs.push_back(Job::Close(done));
            }
        }
        state.others += 1;
        state.held = false;
        drop(state);
        self.arrived.notify_one();
    }

    /// Refuses everything that waits, and everything that will come. Answers with what: the first failure.
    pub(in crate::store) fn fail(&self, error: StoreError) -> StoreError {
        let mut state = self.lock();
        let error = match &state.over {
            Some(before @ StoreError::Failed(_)) => before.clone(),
            _ => error,
        };
        state.over = Some(error.clone());
        let jobs = std::mem::take(&mut state.jobs);
        (state.rows, state.bytes, state.forced, state.others) = (0, 0, 0, 0);
        state.forced_since = None;
        for job in jobs {
            match job {
                Job::Append(append) => drop(append.done.send(Err(error.clone()))),
                Job::Purge(purge) => drop(purge.done.send(Err(error.clone()))),
                Job::Close(done) => {
                    let _ = done.send(Err(error.clone()));
                    let (nobody, _) = oneshot::channel();
                    state.jobs.push_back(Job::Close(nobody));
                    state.others += 1;
                }
            }
        }
        error
    }

    /// What has failed, if anything has.
    pub(in crate::store) fn failure(&self) -> Option<StoreError> {
        self.over().filter(|error| !matches!(error, StoreError::Closed))
    }

    /// Whether nothing waits for the writer.
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.lock().jobs.is_empty()
    }

    /// Why nothing more is taken, if so.
    pub(in crate::store) fn over(&self) -> Option<StoreError> {
        self.lock().over.clone()
    }

    /// Waits until there is something to do. Forced appends are taken with everything that is queued before and
    /// behind them, at once unless many more are expected; lazy ones alone wait for company, a little.
    pub(in crate::store) fn take(&self) -> Work {
        let mut state = self.lock();
        loop {
            let wait = state.wait(self);
            state.idle = !matches!(wait, Wait::No);
            state = match wait {
                Wait::No => return state.take(),
                Wait::For(span) => {
                    self.arrived.wait_timeout(state, span).unwrap_or_else(PoisonError::into_inner).0
                }
                Wait::Ever => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Stops the writer before its next commit. When this returns, it does nothing.
    #[cfg(test)]
    pub(in crate::store) fn hold(&self) {
        self.lock().held = true;
        self.arrived.notify_one();
        while !self.lock().idle {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets it go on.
    #[cfg(test)]
    pub(in crate::store) fn release(&self) {
        self.lock().held = false;
        self.arrived.notify_one();
    }
}

enum Wait {
    No,
    For(Duration),
    Ever,
}

impl State {
    fn has_enough(&self) -> bool {
        self.rows >= LAZY_ROWS_MAX || self.bytes >= LAZY_BYTES_MAX
    }

    /// Whether those that wait are a quarter of all that could share the sync. Each then waits for a quarter of
    /// phase one at the most, and where there are few, nobody waits at all.
    fn has_company(&self, expected: usize) -> bool {
        expected < EXPECTED_MIN || self.forced.saturating_mul(3) >= expected
    }

    fn wait(&self, queue: &Queue) -> Wait {
        let rest = |delay: Duration, since: Instant| match delay.checked_sub(since.elapsed()) {
            Some(span) if !span.is_zero() => Wait::For(span),
            _ => Wait::No,
        };
        if self.held {
            return Wait::Ever;
        }
        match (self.jobs.front(), self.forced_since) {
            (None, _) => Wait::Ever,
            (Some(_), _) if self.others > 0 || self.has_enough() => Wait::No,
            (Some(_), Some(_)) if self.has_company(queue.expected()) => Wait::No,
            (Some(_), Some(since)) => rest(queue.company_delay, since),
            (Some(Job::Append(first)), None) => rest(queue.lazy_delay, first.queued_at),
            (Some(_), None) => Wait::No,
        }
    }

    /// The first job, and if it is an append, as many more as follow it and fit.
    fn take(&mut self) -> Work {
        let mut batch = Vec::new();
        let (mut rows, mut bytes) = (0, 0);
        loop {
            match self.jobs.pop_front() {
                Some(Job::Append(append)) => {
                    let fits =
                        rows + append.rows.len() <= BATCH_ROWS_MAX && bytes + append.bytes <= BATCH_BYTES_MAX;
                    if !batch.is_empty() && !fits {
                        self.jobs.push_front(Job::Append(append));
                        break;
                    }
                    rows += append.rows.len();
                    bytes += append.bytes;
                    self.forced -= usize::from(append.forced);
                    batch.push(append);
                }
                Some(job) if !batch.is_empty() => {
                    self.jobs.push_front(job);
                    break;
                }
                Some(Job::Purge(purge)) => {
                    self.others -= 1;
                    return Work::Purge(purge);
                }
                Some(Job::Close(done)) => {
                    self.others -= 1;
                    self.idle = true;
                    return Work::Close(done);
                }
                None => break,
            }
        }
        self.rows -= rows;
        self.bytes -= bytes;
        if self.forced == 0 {
            self.forced_since = None;
        }
        Work::Commit(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(company_delay: Duration) -> Queue {
        let never = Duration::from_secs(3_600);
        Queue::new(never, company_delay)
    }

    fn append(queue: &Queue) {
        queue.append(Append::new(Vec::new(), true, oneshot::channel().0));
    }

    fn taken(queue: &Queue) -> usize {
        match queue.take() {
            Work::Commit(batch) => batch.len(),
            other => panic!("not a commit: {other:?}"),
        }
    }

    /// None of these may wait for the clock: it would never let them go.
    #[test]
    fn a_forced_append_waits_for_a_quarter_of_those_that_are_expected() {
        let queue = queue(Duration::from_secs(3_600));
        append(&queue);
        assert_eq!(taken(&queue), 1, "nobody else is expected");
        queue.expect(EXPECTED_MIN - 1);
        append(&queue);
        assert_eq!(taken(&queue), 1, "not worth it");
        let quarter = EXPECTED_MIN.div_ceil(3);
        queue.expect(EXPECTED_MIN);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| taken(&queue));
            (0..quarter).for_each(|_| append(&queue));
            assert_eq!(writer.join().unwrap(), quarter);
        });
        append(&queue);
        queue.purge(Purge { before: UnixMillis(0), limit: 1, deleted: 0, done: oneshot::channel().0 });
        assert_eq!(taken(&queue), 1, "others are behind it and do not wait");
    }

    #[test]
    fn company_that_does_not_come_is_not_waited_for_long() {
        let queue = queue(Duration::from_millis(1));
        queue.expect(1_000_000);
        append(&queue);
        assert_eq!(taken(&queue), 1);
    }
}
