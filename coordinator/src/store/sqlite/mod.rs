//! The store in one SQLite file, for a coordinator of its own.
//!
//! ```text
//!  append ──▶ queue ──▶ writer thread ──▶ concord.db-wal ──▶ concord.db
//!                       one SQL transaction     ▲       checkpoints:
//!                       for all that waits      │       a thread
//!                                               └── syncs: a thread
//!  get, list … ──▶ reader threads ──▶ read-only connections
//! ```
//!
//! The contract's rules and where they are kept: order, forced, lazy, all or nothing and group commit in
//! `queue`, `writer` and `syncer`; one owner in `directory`; epochs and versions in `schema`; checksums in `row`; what
//! SQLite does not notice in `seal`.
//!
//! The log (table `record`) holds what is live; a transaction that ends moves to a row of the table `ended`, with all its
//! records. What a checksum covers: records, and the store's two facts. The other columns of `ended` are compared with the
//! records when it is read. An entry that is missing from the table of keys can go unnoticed, or from a listing.

mod archive;
mod checkpoints;
mod directory;
#[cfg(test)]
mod faults;
mod reader;
mod schema;
mod seal;
mod syncer;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::Path;
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use concord_protocol::{ClusterId, Epoch, Gtid};
use futures_util::future::BoxFuture;
use rusqlite::ErrorCode;
use tokio::sync::oneshot;

pub(super) use self::archive::SqliteArchive;
use self::checkpoints::Checkpoints;
use self::directory::Directory;
use self::reader::Readers;
use self::syncer::{Disk, Syncer};
#[cfg(test)]
pub(super) use self::tests::SqliteSubject;
use self::writer::{Parts, Writer};
use super::counts::Counts;
use super::queue::{Append, Purge, Queue, answer};
use super::row::Row;
use super::{Counters, Durability, Entry, Filter, Store, StoreError, Stored, UnixMillis};
use crate::metrics::Metrics;

/// The embedded store: one SQLite file in a data directory.
///
/// Close it with [`Store::close`]. Dropping it does the same and blocks meanwhile, for about one sync.
#[derive(Debug)]
pub struct SqliteStore {
    cluster_id: ClusterId,
    epoch: Epoch,
    queue: Arc<Queue>,
    readers: Arc<Readers>,
    counts: Arc<Counts>,
    #[cfg(test)]
    faults: Arc<Faults>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What can be set, and is by tests.
#[derive(Debug, Clone, Copy)]
struct Options {
    /// How long lazy entries wait for a forced one to be written with.
    lazy_delay: Duration,
    /// How long a forced entry waits at most for others that are expected.
    company_delay: Duration,
    /// A checkpoint is made when the log has so many pages of 4 KiB.
    log_pages_max: u32,
    /// Connections for reading.
    readers: usize,
    migrations: &'static [&'static str],
}

impl Default for Options {
    fn default() -> Self {
        Options {
            lazy_delay: Duration::from_millis(50),
            company_delay: Duration::from_millis(5),
            log_pages_max: 8_000,
            readers: 2,
            migrations: schema::MIGRATIONS,
        }
    }
}

impl SqliteStore {
    /// Opens the store in a data directory, and creates both where there is none. Reads and writes the disk:
    /// not for an async task.
    ///
    /// # Errors
    /// [`StoreError::InUse`], [`StoreError::NewerSchema`], [`StoreError::Open`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_measured(directory, &Metrics::default())
    }

    /// As [`SqliteStore::open`], measuring here.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_measured(directory: &Path, metrics: &Metrics) -> Result<Self, StoreError> {
        Self::open_as(directory, Options::default(), metrics)
    }

    #[cfg(test)]
    fn open_with(directory: &Path, options: Options) -> Result<Self, StoreError> {
        Self::open_as(directory, options, &Metrics::default())
    }

    fn open_as(directory: &Path, options: Options, metrics: &Metrics) -> Result<Self, StoreError> {
        let directory = Directory::take(directory)?;
        let file = directory.store_file();
        let failed = |reason: String| StoreError::Open { path: file.clone(), reason: reason.into() };
        let opened = schema::open(&directory, options.migrations)?;
        directory.sync().map_err(|error| failed(format!("its directory cannot be synced: {error}")))?;

        let connections =
            (0..options.readers).map(|_| schema::open_to_read(&file)).collect::<Result<_, _>>()?;
        let readers = Arc::new(
            Readers::start(connections).map_err(|error| failed(format!("no thread for reading: {error}")))?,
        );
        let (queue, counts, faults) = (
            Arc::new(Queue::new(options.lazy_delay, options.company_delay)),
            Counts::new(metrics),
            Arc::<Faults>::default(),
        );
        #[cfg(test)]
        faults.synced(&file);
        let disk =
            Disk::new(&file, opened.watermark, Arc::clone(&queue), Arc::clone(&counts), faults.clone());
        let syncer = disk
            .and_then(Syncer::start)
            .map_err(|error| failed(format!("no thread for syncing: {error}")))?;
        let checkpoints = schema::open_for_checkpoints(&file)?;
        let checkpoints = Checkpoints::start(checkpoints, file.clone(), Arc::clone(&queue))
            .map_err(|error| failed(format!("no thread for checkpoints: {error}")))?;
        let writer = Writer::new(Parts {
            connection: opened.connection,
            epoch: opened.epoch,
            seal: opened.seal,
            directory,
            queue: Arc::clone(&queue),
            counts: Arc::clone(&counts),
            syncer,
            checkpoints,
            readers: Arc::clone(&readers),
            log_pages_max: options.log_pages_max,
        })
        .map_err(|error| failed(explain(&error)))?;
        let writer = std::thread::Builder::new()
            .name("concord-write".into())
            .spawn(move || writer.run())
            .map_err(|error| failed(format!("no thread for writing: {error}")))?;
        Ok(SqliteStore {
            cluster_id: opened.cluster_id,
            epoch: opened.epoch,
            queue,
            readers,
            counts,
            #[cfg(test)]
            faults,
            writer: Mutex::new(Some(writer)),
        })
    }
}

impl Store for SqliteStore {
    fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn append(
        &self,
        entries: Vec<Entry>,
        durability: Durability,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let (done, result) = oneshot::channel();
        let rows = entries.into_iter().map(Row::from).collect();
        self.queue.append(Append::new(rows, durability == Durability::Forced, done));
        answer(result)
    }

    fn expect(&self, forced_soon: usize) {
        self.queue.expect(forced_soon);
    }

    fn load_live(&self) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        self.readers.run(reader::load_live)
    }

    fn get(&self, gtid: Gtid) -> BoxFuture<'static, Result<Option<Stored>, StoreError>> {
        self.readers.run(move |connection| reader::get(connection, gtid))
    }

    fn list_ended(&self, filter: Filter) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        self.readers.run(move |connection| reader::list_ended(connection, &filter))
    }

    fn find_key(&self, key: String) -> BoxFuture<'static, Result<Option<Gtid>, StoreError>> {
        self.readers.run(move |connection| reader::find_key(connection, &key))
    }

    fn purge(&self, before: UnixMillis, limit: usize) -> BoxFuture<'static, Result<usize, StoreError>> {
        let (done, result) = oneshot::channel();
        self.queue.purge(Purge { before, limit, deleted: 0, done });
        answer(result)
    }

    fn counters(&self) -> Counters {
        (&*self.counts).into()
    }

    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        let (done, result) = oneshot::channel();
        self.queue.close(done);
        answer(result)
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        let (nobody, _) = oneshot::channel();
        self.queue.close(nobody);
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
    }
}

/// Faults that tests inject; in production there are none.
#[derive(Debug, Default)]
struct Faults {
    /// The next sync fails.
    #[cfg(test)]
    fail_sync: std::sync::atomic::AtomicBool,
    /// How long the log was when the last sync began: what a power failure leaves of it at least.
    #[cfg(test)]
    synced_length: AtomicU64,
}

#[cfg(not(test))]
impl Faults {
    fn sync(&self, _store: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        sync()
    }
}

#[cfg(test)]
impl Faults {
    fn sync(&self, store: &Path, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.fail_sync.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("a test has it fail"));
        }
        let length = log_length(store);
        sync()?;
        self.synced_length.store(length, Ordering::SeqCst);
        Ok(())
    }

    fn synced(&self, store: &Path) {
        self.synced_length.store(log_length(store), Ordering::SeqCst);
    }
}

#[cfg(test)]
fn log_length(store: &Path) -> u64 {
    directory::length(&directory::wal_file(store))
}

const CHECK_THE_DISK: &str =
    "the disk, or the file system, reports an error; check it before you start again";

/// What SQLite says, for an operator: what is wrong and what to do about it.
fn explain(error: &rusqlite::Error) -> String {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full; make room and start again",
        Some(ErrorCode::SystemIoFailure) => CHECK_THE_DISK,
        Some(ErrorCode::NotADatabase) => {
            "the file is not an SQLite database; or its header is damaged, and the store is lost (docs/operations.md)"
        }
        Some(ErrorCode::DatabaseCorrupt) => "the file is damaged, and the store is lost (docs/operations.md)",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program holds a lock on the file; end it and start again"
        }
        Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
            "the file or its directory cannot be opened for writing; check the owner and the permissions"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {advice}")
}
