//! The thread that syncs: while the disk is at it, the writer makes the next commit.
//!
//! The writer's commits are not synced (`synchronous=NORMAL`): they are written to the end of the log. A sync of the
//! log's file covers everything that was written to it before, whoever wrote it. Between a commit and the sync that is
//! to cover it there may be a checkpoint, after which SQLite writes the log from its start again. A checkpoint syncs the
//! log before it writes the database file, and that one before the log is written over ("Write-ahead logging" in
//! SQLite's documentation). So after the sync the commit is on disk, in the one file or in the other.
//!
//! One sync serves all commits that were made before it began. Whoever waits is told after it, and after the watermark
//! has been set.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use concord_crash_points::crash_point;
use concord_seeded_bugs::seeded_bug;
use tokio::sync::oneshot;

use super::Faults;
use super::directory::wal_file;
use super::seal::Watermark;
use super::writer::Failure;
use crate::store::counts::Counts;
use crate::store::queue::Queue;
use crate::store::{Counters, StoreError};

/// How somebody who waits is answered.
pub(super) type Done = oneshot::Sender<Result<(), StoreError>>;

/// Those who wait for a sync of so many commits, counted from the beginning of the store.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) dones: Vec<Done>,
    pub(super) commits: i64,
    /// Counted once they are synced: of these commits, and their records.
    pub(super) uncounted: Counters,
}

/// What it takes to sync.
#[derive(Debug)]
pub(super) struct Disk {
    log: File,
    store: PathBuf,
    watermark: Watermark,
    queue: Arc<Queue>,
    counts: Arc<Counts>,
    faults: Arc<Faults>,
}

impl Disk {
    /// Of the store in this file. Its log must exist.
    pub(super) fn new(
        store: &Path,
        watermark: Watermark,
        queue: Arc<Queue>,
        counts: Arc<Counts>,
        faults: Arc<Faults>,
    ) -> io::Result<Self> {
        let log = File::options().write(true).open(wal_file(store))?;
        Ok(Disk { log, store: store.to_path_buf(), watermark, queue, counts, faults })
    }

    /// Syncs, and answers those who wait. A sync that failed is not tried again: nothing is, after it.
    fn sync(&mut self, waiting: Waiting) {
        let result = match self.queue.failure() {
            Some(error) => Err(error),
            None => self.sync_log(&waiting).map_err(|error| self.queue.fail(error.of(&self.store))),
        };
        for done in waiting.dones {
            // Nobody waits any more: no matter, it is synced.
            let _ = done.send(result.clone());
        }
    }

    fn sync_log(&mut self, waiting: &Waiting) -> Result<(), Failure> {
        let start = Instant::now();
        if !seeded_bug!("ack-before-sync") {
            let log = &self.log;
            self.faults.sync(&self.store, || log.sync_data()).map_err(Failure::Sync)?;
        }
        crash_point!("coordinator/writer-committed", "forced");
        self.watermark.set(waiting.commits).map_err(Failure::Watermark)?;
        self.counts.measure_sync(start.elapsed());
        self.counts.add(Counters { syncs: 1, ..waiting.uncounted });
        Ok(())
    }

    /// After a checkpoint.
    fn sync_watermark(&self) -> Result<(), Failure> {
        self.watermark.sync().map_err(Failure::Watermark)
    }
}

/// Has the log synced, in the thread.
#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// In the thread.
struct Work(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Held while the disk syncs.
    disk: Mutex<Disk>,
}

#[derive(Debug, Default)]
struct State {
    /// For the next sync.
    waiting: Option<Waiting>,
    is_syncing: bool,
    is_closed: bool,
}

impl Syncer {
    /// Starts the thread.
    pub(super) fn start(disk: Disk) -> io::Result<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { state, changed, disk: Mutex::new(disk) });
        let thread = std::thread::Builder::new().name("concord-sync".into());
        let work = Work(Arc::clone(&shared));
        Ok(Syncer { shared, thread: Some(thread.spawn(move || work.run())?) })
    }

    /// Answers these once everything is synced that has been committed before.
    pub(super) fn sync(&self, waiting: Waiting) {
        let mut state = self.shared.state();
        if state.is_closed {
            // They see that nobody will answer.
            return;
        }
        let all = state.waiting.get_or_insert_default();
        all.dones.extend(waiting.dones);
        all.commits = waiting.commits;
        all.uncounted.commits += waiting.uncounted.commits;
        all.uncounted.records += waiting.uncounted.records;
        let wakes = !state.is_syncing;
        drop(state);
        if wakes {
            self.shared.changed.notify_all();
        }
    }

    /// The same, by the caller, who has nothing else to do. Only where the thread is idle.
    pub(super) fn sync_here(&self, waiting: Waiting) {
        self.shared.disk().sync(waiting);
    }

    /// Whether nobody waits. It stays so until the next call of [`Syncer::sync`].
    pub(super) fn is_idle(&self) -> bool {
        let state = self.shared.state();
        state.waiting.is_none() && !state.is_syncing
    }

    /// Syncs the watermark, after a checkpoint.
    pub(super) fn sync_watermark(&self) -> Result<(), Failure> {
        self.shared.disk().sync_watermark()
    }

    /// Answers everybody, and ends the thread.
    pub(super) fn end(&mut self) {
        self.shared.state().is_closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for somebody who waits; `None` when there will be nobody any more.
    fn take(&self) -> Option<Waiting> {
        let mut state = self.state();
        state.is_syncing = false;
        loop {
            if let Some(waiting) = state.waiting.take() {
                state.is_syncing = true;
                return Some(waiting);
            }
            if state.is_closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Work {
    fn run(self) {
        while let Some(waiting) = self.0.take() {
            self.0.disk().sync(waiting);
        }
    }
}

impl Drop for Work {
    /// Also when the thread panics: nobody must wait for ever.
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.is_closed = true;
        state.waiting = None;
        drop(state);
        if std::thread::panicking() {
            self.0.disk().queue.fail(StoreError::Failed("its syncing thread ended unexpectedly".into()));
        }
    }
}
