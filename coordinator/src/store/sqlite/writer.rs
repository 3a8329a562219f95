//! The only thread that writes. What makes its commits durable:
//!
//! - A commit is made with `synchronous=NORMAL`: it is written to the log's file and not synced. Frames of the log count,
//!   at recovery, up to the first one that is missing or damaged, so only a suffix can be lost (see "Write-ahead
//!   logging" and `PRAGMA synchronous` in SQLite's documentation).
//! - If it holds a forced append, the log is synced after it, and only then anybody is told: see `syncer`.
//! - Checkpoints sync the log before they touch the database file. SQLite's automatic checkpoints are switched
//!   off, because they swallow errors: a failed sync would go unnoticed. They are made by `checkpoints` and here instead.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use concord_crash_points::crash_point;
use concord_proto::store::Record;
use concord_protocol::Epoch;
use prost::Message as _;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, TransactionBehavior, params};

use super::checkpoints::Checkpoints;
use super::directory::Directory;
use super::reader::Readers;
use super::schema::{self, Checkpoint};
use super::seal::{Seal, Sum};
use super::syncer::{Done, Syncer, Waiting};
use super::{CHECK_THE_DISK, explain};
use crate::store::counts::Counts;
use crate::store::queue::{Append, Purge, Queue, Work};
use crate::store::recent::{self, Recent, Rows};
use crate::store::row::{Mark, Row, StoredRow, checksum, to_sql};
use crate::store::{Counters, StoreError};

/// One step of a purge deletes at most this many transactions; appends go between two steps.
const PURGE_STEP: usize = 64;

pub(super) struct Writer {
    /// Absent once closed.
    connection: Option<Connection>,
    queue: Arc<Queue>,
    counts: Arc<Counts>,
    readers: Arc<Readers>,
    syncer: Syncer,
    checkpoints: Checkpoints,
    /// Released when the writer ends.
    _directory: Directory,
    file: PathBuf,
    epoch: Epoch,
    seal: Seal,
    recent: Recent,
    /// Of the next record.
    seq: i64,
    /// There are commits that nobody has had synced.
    unsynced: bool,
    log: Log,
}

/// How long the write-ahead log is, in pages, and when to make a checkpoint.
struct Log {
    /// Set by SQLite after each commit.
    pages: Arc<AtomicU32>,
    pages_max: u32,
    checkpoint_at: u32,
}

impl Log {
    /// Whether checkpoints do not keep up.
    fn is_too_long(&self) -> bool {
        self.pages.load(Ordering::Relaxed) >= self.pages_max.saturating_mul(3)
    }

    /// Whether it is time for a checkpoint. When readers keep SQLite from starting the log anew, the next one
    /// is not due with the next commit, but when there is something to be moved again.
    fn is_long(&mut self) -> bool {
        let pages = self.pages.load(Ordering::Relaxed);
        if pages < self.pages_max {
            self.checkpoint_at = self.pages_max;
        }
        let due = pages >= self.checkpoint_at;
        if due {
            self.checkpoint_at = pages.saturating_add(self.pages_max / 4 + 1);
        }
        due
    }
}

/// What a writer is made of.
pub(super) struct Parts {
    pub(super) connection: Connection,
    pub(super) epoch: Epoch,
    pub(super) seal: Seal,
    pub(super) directory: Directory,
    pub(super) queue: Arc<Queue>,
    pub(super) counts: Arc<Counts>,
    pub(super) syncer: Syncer,
    pub(super) checkpoints: Checkpoints,
    pub(super) readers: Arc<Readers>,
    pub(super) log_pages_max: u32,
}

impl Writer {
    pub(super) fn new(mut parts: Parts) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicU32::new(0));
        let told = Arc::clone(&pages);
        parts.connection.pragma_update(None, "synchronous", "NORMAL")?;
        parts.connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
            told.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Writer {
            connection: Some(parts.connection),
            queue: parts.queue,
            counts: parts.counts,
            readers: parts.readers,
            syncer: parts.syncer,
            checkpoints: parts.checkpoints,
            file: parts.directory.store_file(),
            _directory: parts.directory,
            epoch: parts.epoch,
            seal: parts.seal,
            recent: Recent::default(),
            seq: 0,
            unsynced: false,
            log: Log { pages, pages_max: parts.log_pages_max, checkpoint_at: parts.log_pages_max },
        })
    }

    /// Works until the store is closed.
    pub(super) fn run(mut self) {
        loop {
            match self.queue.take() {
                Work::Commit(batch) => self.commit(batch),
                Work::Purge(purge) => self.purge(purge),
                Work::Close(done) => {
                    let result = self.close();
                    // The lock goes before the answer, so that the store can be opened again at once.
                    drop(self);
                    let _ = done.send(result);
                    return;
                }
            }
            if self.queue.failure().is_none() {
                self.shorten_log();
            }
        }
    }

    /// Commits a batch. Those who wait for it are answered, at once or when it is synced.
    fn commit(&mut self, batch: Vec<Append>) {
        let written = match self.queue.failure() {
            Some(error) => Err(error),
            None => self.write(&batch).map_err(|error| self.fail(&error)),
        };
        let dones = batch.into_iter().map(|append| append.done);
        let result = match written {
            Ok((uncounted, true)) => return self.sync(dones.collect(), uncounted),
            Ok((uncounted, false)) => {
                self.counts.add(uncounted);
                Ok(())
            }
            Err(error) => Err(error),
        };
        for done in dones {
            // Nobody waits any more: no matter, it is written.
            let _ = done.send(result.clone());
        }
    }

    /// Answers what has been written, and whether somebody waits for a sync.
    fn write(&mut self, batch: &[Append]) -> Result<(Counters, bool), Failure> {
        let forced = batch.iter().any(|append| append.forced);
        let rows: usize = batch.iter().map(|append| append.rows.len()).sum();
        if rows > 0 {
            self.write_rows(batch, forced)?;
            self.counts.measure_batch(rows);
            self.unsynced = true;
        }
        let written = Counters { records: rows as u64, commits: u64::from(rows > 0), syncs: 0 };
        // Without rows, somebody waits for what was appended before.
        Ok((written, forced && (self.unsynced || !self.syncer.is_idle())))
    }

    /// Has everything synced that is committed. While others wait to be committed, the thread for it does it.
    fn sync(&mut self, dones: Vec<Done>, uncounted: Counters) {
        let waiting = Waiting { dones, commits: self.seal.commits(), uncounted };
        self.unsynced = false;
        if self.queue.is_empty() && self.syncer.is_idle() {
            self.syncer.sync_here(waiting);
        } else {
            self.syncer.sync(waiting);
        }
    }

    fn write_rows(&mut self, batch: &[Append], forced: bool) -> Result<(), Failure> {
        let epoch = i64::from(self.epoch.0);
        let mut seq = self.seq;
        let connection = self.connection.as_mut().ok_or(Failure::Gone)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut statements = Statements::prepare(&transaction, &mut self.seal, &mut self.recent)?;
            for row in batch.iter().flat_map(|append| &append.rows) {
                statements.write(row, epoch, seq)?;
                seq += 1;
            }
        }
        self.seal.write(&transaction)?;
        crash_point!("coordinator/writer-before", if forced { "forced" } else { "lazy" });
        transaction.commit()?;
        if !forced {
            crash_point!("coordinator/writer-committed", "lazy");
        }
        self.seq = seq;
        Ok(())
    }

    /// Has a checkpoint made when the log has become long, and finishes it: what has been committed meanwhile is little.
    fn shorten_log(&mut self) {
        if self.log.is_too_long() {
            self.checkpoints.wait();
        }
        if self.checkpoints.take_made() {
            let result = self
                .connection()
                .and_then(|connection| Ok(schema::checkpoint(connection, Checkpoint::Passive)?))
                .and_then(|()| self.syncer.sync_watermark());
            if let Err(error) = result {
                self.fail(&error);
            }
        } else if self.log.is_long() {
            self.checkpoints.order();
        }
    }

    /// Deletes one step's worth, and queues the rest behind what waits.
    fn purge(&mut self, mut purge: Purge) {
        let step = (purge.limit - purge.deleted).min(PURGE_STEP);
        let deleted = match self.queue.failure() {
            Some(error) => Err(error),
            None => self.purge_step(to_sql(purge.before), step).map_err(|error| self.fail(&error)),
        };
        match deleted {
            Err(error) => drop(purge.done.send(Err(error))),
            Ok(deleted) => {
                purge.deleted += deleted;
                if deleted < step || purge.deleted == purge.limit || self.queue.over().is_some() {
                    let _ = purge.done.send(Ok(purge.deleted));
                } else {
                    self.queue.purge(purge);
                }
            }
        }
    }

    fn purge_step(&mut self, before: i64, step: usize) -> Result<usize, Failure> {
        if step == 0 {
            return Ok(0);
        }
        let transaction = self.connection()?.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let gtids: Vec<Vec<u8>> = transaction
            .prepare_cached(
                "SELECT gtid FROM ended INDEXED BY ended_at WHERE ended_at < ?1 ORDER BY ended_at, gtid LIMIT ?2",
            )?
            .query_map(params![before, step as i64], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        {
            let mut ended = transaction.prepare_cached("DELETE FROM ended WHERE gtid = ?1")?;
            let mut keyed = transaction.prepare_cached(FORGET_KEY)?;
            for gtid in &gtids {
                ended.execute([gtid])?;
                keyed.execute([gtid])?;
            }
        }
        transaction.commit()?;
        if !gtids.is_empty() {
            self.counts.add(Counters { commits: 1, ..Counters::default() });
            self.unsynced = true;
        }
        Ok(gtids.len())
    }

    /// Syncs what was written lazily, and moves everything to the database file.
    fn close(&mut self) -> Result<(), StoreError> {
        self.readers.close();
        if self.unsynced {
            self.sync(Vec::new(), Counters::default());
        }
        self.syncer.end();
        self.checkpoints.end();
        if let Some(error) = self.queue.failure() {
            // Without a checkpoint: see `schema::keep_log_on_close`.
            self.connection = None;
            return Err(error);
        }
        let Some(connection) = self.connection.take() else { return Ok(()) };
        let result = schema::checkpoint(&connection, Checkpoint::Truncate)
            .map_err(Failure::Sql)
            .and_then(|()| self.syncer.sync_watermark())
            .and_then(|()| connection.close().map_err(|(_, error)| Failure::Sql(error)));
        result.map_err(|error| self.fail(&error))
    }

    fn connection(&mut self) -> Result<&mut Connection, Failure> {
        self.connection.as_mut().ok_or(Failure::Gone)
    }

    /// The end: what is on disk is unknown from here on, and nothing may be written to it any more.
    fn fail(&mut self, error: &Failure) -> StoreError {
        let error = self.queue.fail(error.of(&self.file));
        // Without a checkpoint: see `schema::keep_log_on_close`.
        self.connection = None;
        error
    }
}

impl Drop for Writer {
    /// Also when the thread panics: nobody must wait for ever.
    fn drop(&mut self) {
        if self.queue.over().is_none() {
            self.queue.fail(StoreError::Failed("its writer ended unexpectedly".into()));
        }
    }
}

/// Why something could not be written.
#[derive(Debug)]
pub(super) enum Failure {
    Sql(rusqlite::Error),
    Sync(std::io::Error),
    Watermark(std::io::Error),
    Gone,
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Failure::Sql(error)
    }
}

impl Failure {
    /// What those are told who use the store in this file.
    pub(super) fn of(&self, file: &Path) -> StoreError {
        let file = file.display();
        let reason = match self {
            Failure::Sql(error) => format!("cannot write {file}: {}", explain(error)),
            Failure::Sync(error) => format!("cannot sync the log of {file}: {error}: {CHECK_THE_DISK}"),
            Failure::Watermark(error) => format!("cannot write how much of {file} is acknowledged: {error}"),
            Failure::Gone => format!("{file} has failed before"),
        };
        StoreError::Failed(reason.into())
    }
}

const FORGET_KEY: &str = "DELETE FROM keyed WHERE gtid = ?1";

/// The statements of the hot path, and what the writer knows without asking.
struct Statements<'c> {
    connection: &'c Connection,
    seal: &'c mut Seal,
    recent: &'c mut Recent,
    insert: CachedStatement<'c>,
    keyed: CachedStatement<'c>,
    remove: CachedStatement<'c>,
    ended: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    fn prepare(
        connection: &'c Connection,
        seal: &'c mut Seal,
        recent: &'c mut Recent,
    ) -> rusqlite::Result<Self> {
        Ok(Statements {
            connection,
            seal,
            recent,
            insert: connection.prepare_cached(
                "INSERT INTO record (gtid, epoch, seq, at_ms, crc, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?,
            keyed: connection.prepare_cached("INSERT INTO keyed (key, gtid) VALUES (?1, ?2)")?,
            remove: connection.prepare_cached("DELETE FROM record WHERE gtid = ?1")?,
            ended: connection.prepare_cached(
                "INSERT INTO ended (gtid, committed, ended_at, name, records, checksums, rows)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?,
        })
    }

    /// Writes a record where it belongs: to the log; or, when its transaction ends or has ended, to the row of that.
    fn write(&mut self, row: &Row, epoch: i64, seq: i64) -> rusqlite::Result<()> {
        let gtid = row.gtid.to_bytes();
        let crc = checksum(row.gtid, epoch, seq, row.at, &row.body);
        let stored = StoredRow { epoch, seq, at: row.at, crc: crc.into(), body: row.body.clone() };
        let is_first = !self.seal.is_live(row.gtid);
        if is_first && !self.seal.is_new(row.gtid) && self.write_late(row, &stored)? {
            return Ok(());
        }
        if let Mark::Begun { key, .. } = &row.mark {
            self.write_key(&gtid, key.as_deref(), is_first)?;
        }
        if let Mark::Ended { committed } = row.mark {
            return self.end(row, committed, stored, is_first);
        }
        self.insert.execute(params![gtid, epoch, seq, row.at, crc, row.body])?;
        self.seal.add(row.gtid, crc);
        self.recent.add(gtid, stored, &row.mark, is_first);
        Ok(())
    }

    /// Moves the records of a transaction that ends with this one; which is its only one if `is_first`.
    fn end(&mut self, row: &Row, committed: bool, last: StoredRow, is_first: bool) -> rusqlite::Result<()> {
        let gtid = row.gtid.to_bytes();
        let mut rows = match self.recent.take(gtid) {
            Some(rows) => rows,
            None => self.read_back(gtid)?,
        };
        rows.push(last, &row.mark);
        if !is_first {
            self.remove.execute([gtid])?;
        }
        let Sum { records, checksums } = self.seal.of(row.gtid);
        let Rows { name, encoded } = rows;
        self.ended.execute(params![gtid, committed, row.at, name, records, checksums, encoded])?;
        self.seal.end(row.gtid);
        Ok(())
    }

    /// What the log holds of a transaction. What cannot be understood of it is kept as it is.
    fn read_back(&self, gtid: [u8; 16]) -> rusqlite::Result<Rows> {
        let mut select = self.connection.prepare_cached(StoredRow::OF_ONE)?;
        let mut rows = Rows::default();
        for row in select.query_map([gtid], |row| StoredRow::read(row, 0))? {
            let row = row?;
            let mark = Record::decode(row.body.as_slice()).map_or(Mark::Exists, |record| Mark::of(&record));
            rows.push(row, &mark);
        }
        Ok(rows)
    }

    /// Adds a record to a transaction, if that has ended.
    fn write_late(&mut self, row: &Row, stored: &StoredRow) -> rusqlite::Result<bool> {
        let gtid = row.gtid.to_bytes();
        let found: Option<Vec<u8>> = self
            .connection
            .prepare_cached("SELECT rows FROM ended WHERE gtid = ?1")?
            .query_row([gtid], |row| row.get(0))
            .optional()?;
        let Some(mut rows) = found else { return Ok(false) };
        rows.extend(recent::encode(stored.clone()));
        self.connection
            .prepare_cached("UPDATE ended SET rows = ?2 WHERE gtid = ?1")?
            .execute(params![gtid, rows])?;
        if let Mark::Begun { name, key } = &row.mark {
            self.connection
                .prepare_cached("UPDATE ended SET name = ?2 WHERE gtid = ?1")?
                .execute(params![gtid, name])?;
            self.write_key(&gtid, key.as_deref(), false)?;
        }
        Ok(true)
    }

    /// A transaction begins with this key, if with any; again, unless it `is_first`.
    fn write_key(&mut self, gtid: &[u8; 16], key: Option<&str>, is_first: bool) -> rusqlite::Result<()> {
        if !is_first {
            self.connection.prepare_cached(FORGET_KEY)?.execute([gtid])?;
        }
        if let Some(key) = key {
            self.keyed.execute(params![key, gtid])?;
        }
        Ok(())
    }
}
