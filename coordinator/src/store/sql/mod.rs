//! The store in a MySQL, MariaDB or PostgreSQL database, which several coordinators share.
//!
//! ```text
//!  append ──▶ queue ──▶ writer thread ──▶ one SQL transaction for all that waits, fenced by the own row
//!  get, list … ──▶ connections of their own
//!  lease ──▶ renewed by a task of its own
//! ```
//!
//! Each life of a coordinator has a row with its epoch and a lease, by the database's clock. Whoever finds a lease that has
//! run out, or an earlier life of its own, writes itself into that row as the successor: from then on the earlier one
//! commits nothing any more (`writer`), and its live transactions belong to the successor.

mod archive;
mod batch;
mod examination;
mod keys;
mod lease;
mod link;
mod members;
mod reader;
mod schema;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use concord_protocol::{ClusterId, Epoch, Gtid};
use futures_util::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub(super) use self::archive::SqlArchive;
use self::batch::Known;
pub use self::examination::{Examination, examine};
use self::lease::Lease;
use self::link::{Address, Dialect, Link};
use self::reader::Readers;
use self::schema::Version;
#[cfg(test)]
pub(super) use self::tests::{MariaDb, MySql, PostgreSql, SqlSubject};
use self::writer::{Trouble, Writer};
use super::counts::Counts;
use super::queue::{Append, Purge, Queue, answer};
use super::row::Row;
use super::{Counters, Durability, Entry, Filter, Owner, Reign, Store, StoreError, Stored, UnixMillis, Walk};
use crate::metrics::Metrics;

/// How long lazy entries wait for a forced one to be written with.
const LAZY_DELAY: Duration = Duration::from_millis(50);
/// How long a forced entry waits at most for others that are expected.
const COMPANY_DELAY: Duration = Duration::from_millis(5);

/// A coordinator, as the others know it.
#[derive(Debug, Clone)]
pub struct Member {
    /// Of its own, and the same after a restart: whoever opens the store with this name takes over from whoever had it.
    pub name: String,
    /// Where the others reach it: host and port.
    pub address: String,
    /// It may be silent for so long; then others take over. At least a second.
    pub lease: Duration,
}

impl Member {
    /// In seconds: how long the database waits for a coordinator that is silent within an SQL transaction, or between two.
    fn idle_max_s(&self) -> u64 {
        self.lease.as_secs().max(1)
    }
}

/// The store in a database server. Close it with [`Store::close`]; dropping it does the same and blocks meanwhile.
#[derive(Debug)]
pub struct SqlStore {
    cluster_id: ClusterId,
    epoch: Epoch,
    queue: Arc<Queue>,
    counts: Arc<Counts>,
    readers: Arc<Readers>,
    #[cfg(test)]
    faults: Arc<Faults>,
    lease: Arc<Lease>,
    /// With what records are marked.
    term: Arc<AtomicI64>,
    /// The epochs whose live transactions have been handed out: its own, and those that it has taken over.
    adopted: Arc<Mutex<HashSet<Epoch>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Of its own, so that its connections are served while all others are busy. `None` once dropped.
    runtime: Option<Runtime>,
}

impl SqlStore {
    /// Opens the store in the database at this URL, makes its tables where there are none, and takes over from earlier
    /// lives of this coordinator and from those whose leases have run out. Blocks: not for an async task.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`], [`StoreError::Open`].
    pub fn open(url: &str, member: Member) -> Result<Self, StoreError> {
        Self::open_measured(url, member, &Metrics::default())
    }

    /// As [`SqlStore::open`], measuring here.
    ///
    /// # Errors
    /// As [`SqlStore::open`].
    pub fn open_measured(url: &str, member: Member, metrics: &Metrics) -> Result<Self, StoreError> {
        Self::open_knowing(url, member, metrics, schema::versions)
    }

    /// As [`SqlStore::open`], by a program that knows these versions of the tables.
    fn open_knowing(
        url: &str,
        member: Member,
        metrics: &Metrics,
        versions: impl FnOnce(Dialect) -> &'static [Version],
    ) -> Result<Self, StoreError> {
        let place = shown(url);
        let failed = |problem: Problem| problem.open(&place);
        let address = Address::parse(url).map_err(Problem::Sql).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("concord-store")
            .enable_all()
            .build()
            .map_err(|error| failed(Problem::Refused(format!("no threads: {error}"))))?;
        let versions = versions(address.dialect());
        let mut opened = runtime.block_on(schema::open(&address, &member, versions)).map_err(failed)?;
        let owned = runtime.block_on(members::owned(&mut opened.link, opened.epoch)).map_err(failed)?;
        let term = runtime.block_on(members::term(&mut opened.link, opened.epoch)).map_err(failed)?;
        let term = Arc::new(AtomicI64::new(term));
        let queue = Arc::new(Queue::new(LAZY_DELAY, COMPANY_DELAY));
        let (counts, faults) = (Counts::new(metrics), Arc::<Faults>::default());
        let lease = Arc::new(Lease::new(opened.leased_at, member.lease));
        let idle_max_s = member.idle_max_s();
        let readers = Arc::new(Readers::new(address.clone(), idle_max_s));
        runtime.spawn(lease::keep(
            Arc::downgrade(&lease),
            Arc::clone(&queue),
            address.clone(),
            member,
            opened.epoch,
        ));
        let writer = Writer {
            runtime: runtime.handle().clone(),
            queue: Arc::clone(&queue),
            counts: Arc::clone(&counts),
            faults: Arc::clone(&faults),
            lease: Arc::clone(&lease),
            address,
            idle_max_s,
            link: Some(opened.link),
            epoch: opened.epoch,
            term: Arc::clone(&term),
            known: Known::new(opened.epoch),
            seq: 0,
            commits: 0,
            trouble: Trouble::default(),
        };
        let writer = std::thread::Builder::new()
            .name("concord-write".into())
            .spawn(move || writer.run())
            .map_err(|error| failed(Problem::Refused(format!("no thread for writing: {error}"))))?;
        Ok(SqlStore {
            cluster_id: opened.cluster_id,
            epoch: opened.epoch,
            queue,
            counts,
            readers,
            #[cfg(test)]
            faults,
            lease,
            term,
            adopted: Arc::new(Mutex::new(owned.into_iter().collect())),
            writer: Mutex::new(Some(writer)),
            runtime: Some(runtime),
        })
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl for<'l> Fn(&'l mut Link) -> BoxFuture<'l, Result<T, Problem>> + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        if matches!(self.queue.over(), Some(StoreError::Closed)) {
            return Box::pin(async { Err(StoreError::Closed) });
        }
        let readers = Arc::clone(&self.readers);
        // In a task of its own: a connection whose query was given up half way is of no use any more.
        let lease = Arc::clone(&self.lease);
        let read = async move { lease.while_held(readers.run(read)).await };
        let task = self.runtime.as_ref().map(|runtime| runtime.spawn(read));
        Box::pin(async move {
            match task {
                Some(task) => match task.await {
                    Ok(result) => result.map_err(Problem::read),
                    Err(_) => Err(StoreError::Read("the reading task ended".into())),
                },
                None => Err(StoreError::Closed),
            }
        })
    }
}

impl Store for SqlStore {
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
        let epoch = self.epoch;
        self.read(move |link| {
            Box::pin(async move {
                let owned = members::owned(link, epoch).await?;
                reader::load_live(link, &owned).await
            })
        })
    }

    fn get(&self, gtid: Gtid) -> BoxFuture<'static, Result<Option<Stored>, StoreError>> {
        self.read(move |link| Box::pin(reader::get(link, gtid)))
    }

    fn list_ended(&self, filter: Filter) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        let filter = Arc::new(filter);
        self.read(move |link| {
            let filter = Arc::clone(&filter);
            Box::pin(async move { reader::list_ended(link, &filter).await })
        })
    }

    fn find_key(&self, key: String) -> BoxFuture<'static, Result<Option<Gtid>, StoreError>> {
        let key = Arc::new(key);
        self.read(move |link| {
            let key = Arc::clone(&key);
            Box::pin(async move { keys::find(link, &key).await })
        })
    }

    fn claim_key(
        &self,
        key: String,
        gtid: Gtid,
        gone: Option<Gtid>,
    ) -> BoxFuture<'static, Result<Gtid, StoreError>> {
        let key = Arc::new(key);
        self.read(move |link| {
            let key = Arc::clone(&key);
            Box::pin(async move { keys::claim(link, &key, gtid, gone).await })
        })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn reign(&self, epoch: Epoch) -> BoxFuture<'static, Result<Reign, StoreError>> {
        let own = self.epoch;
        if self.adopted.lock().unwrap_or_else(PoisonError::into_inner).contains(&epoch) {
            return Box::pin(async move { Ok(Reign { owner: Owner::Us, is_over: epoch != own }) });
        }
        self.read(move |link| Box::pin(members::reign(link, epoch, own)))
    }

    fn take_over(&self) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        if let Some(error) = self.queue.failure() {
            return Box::pin(async { Err(error) });
        }
        let own = self.epoch;
        let (adopted, term) = (Arc::clone(&self.adopted), Arc::clone(&self.term));
        self.read(move |link| {
            let (adopted, term) = (Arc::clone(&adopted), Arc::clone(&term));
            Box::pin(async move {
                members::take_over(link, own, None).await?;
                // Also those that were taken over by a try whose answer was lost.
                let mut new = members::owned(link, own).await?;
                let lock = || adopted.lock().unwrap_or_else(PoisonError::into_inner);
                new.retain(|epoch| !lock().contains(epoch));
                if new.is_empty() {
                    return Ok(Vec::new());
                }
                term.store(members::term(link, own).await?, Ordering::SeqCst);
                let live = reader::load_live(link, &new).await?;
                lock().extend(new);
                Ok(live)
            })
        })
    }

    fn list_live_elsewhere(
        &self,
        walk: Walk,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        let adopted: Vec<_> =
            self.adopted.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let adopted = Arc::new(adopted);
        self.read(move |link| {
            let adopted = Arc::clone(&adopted);
            Box::pin(async move { reader::list_live_elsewhere(link, &adopted, walk, limit).await })
        })
    }

    fn members(&self) -> BoxFuture<'static, Result<Vec<Epoch>, StoreError>> {
        self.read(move |link| Box::pin(members::alive(link)))
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

impl Drop for SqlStore {
    fn drop(&mut self) {
        let (nobody, _) = oneshot::channel();
        self.queue.close(nobody);
        if let Some(writer) = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = writer.join();
        }
        if let Some(runtime) = self.runtime.take() {
            // Not waiting: this may be an async task.
            runtime.shutdown_background();
        }
    }
}

/// Faults that tests inject; in production there are none.
#[derive(Debug, Default)]
struct Faults {
    /// The next commit fails, and is not to be tried again.
    #[cfg(test)]
    fail_commit: std::sync::atomic::AtomicBool,
}

impl Faults {
    #[cfg(not(test))]
    fn commit(&self) -> Result<(), Problem> {
        Ok(())
    }

    #[cfg(test)]
    fn commit(&self) -> Result<(), Problem> {
        match self.fail_commit.swap(false, Ordering::SeqCst) {
            true => Err(Problem::Refused("a test has it fail".into())),
            false => Ok(()),
        }
    }
}

/// SHA-256.
fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The URL without what nobody else may see.
fn shown(url: &str) -> PathBuf {
    match url::Url::parse(url) {
        Ok(mut url) => {
            // It has a host, or it is no address of a database: then what is shown does not matter.
            let _ = url.set_password(None);
            // Where there may be another one, and nothing that tells one place from another.
            url.set_query(None);
            PathBuf::from(url.to_string())
        }
        Err(_) => PathBuf::from("(no URL)"),
    }
}

/// What can be wrong with the store.
#[derive(Debug, thiserror::Error)]
enum Problem {
    /// It may be over soon.
    #[error("{0}")]
    Sql(#[from] sqlx::Error),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Stored(#[from] StoreError),
    #[error(
        "another coordinator (epoch {0}) has taken over from this one: its lease had run out, or another one has been started \
         under its name (cluster.name)"
    )]
    Fenced(i64),
    #[error("its database does not answer")]
    Silent,
    #[error("schema version {found} is newer than {known}")]
    NewerSchema { found: i64, known: i64 },
    #[error("schema version {found} is older than {known}")]
    OlderSchema { found: i64, known: i64 },
}

impl Problem {
    /// Whether it may be over when it is tried again: of what the database says itself, only these.
    fn may_pass(&self) -> bool {
        /// Lock wait time-out, deadlock, shutdown in progress, connection killed, query interrupted.
        const MYSQL: [u16; 7] = [1205, 1213, 1053, 1927, 1317, 3169, 4031];
        /// Serialization failure, deadlock, lock not available, administrator's command, crash, starting up, idle too
        /// long.
        const POSTGRES: [&str; 7] = ["40001", "40P01", "55P03", "57P01", "57P02", "57P03", "25P03"];
        match self {
            Problem::Sql(sqlx::Error::Database(error)) => {
                match error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
                    Some(error) => MYSQL.contains(&error.number()),
                    None => error.code().is_some_and(|code| POSTGRES.contains(&code.as_ref())),
                }
            }
            Problem::Sql(sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_)) => true,
            _ => false,
        }
    }

    fn open(self, place: &std::path::Path) -> StoreError {
        let path = place.to_path_buf();
        let version = |version: i64| u32::try_from(version).unwrap_or(u32::MAX);
        match self {
            Problem::Stored(error) => error,
            Problem::NewerSchema { found, known } => {
                StoreError::NewerSchema { path, found: version(found), known: version(known) }
            }
            Problem::OlderSchema { found, known } => {
                StoreError::OlderSchema { path, found: version(found), known: version(known) }
            }
            problem => StoreError::Open { path, reason: problem.to_string().into() },
        }
    }

    fn read(self) -> StoreError {
        match self {
            Problem::Stored(error) => error,
            problem => StoreError::Read(problem.to_string().into()),
        }
    }

    fn failed(self) -> StoreError {
        match self {
            Problem::Stored(error) => error,
            problem @ (Problem::Sql(_) | Problem::Silent) => {
                StoreError::Failed(format!("{problem}, and the lease has run out").into())
            }
            problem => StoreError::Failed(problem.to_string().into()),
        }
    }
}
