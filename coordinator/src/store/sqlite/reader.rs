//! Reads: on threads and connections of their own, so that a long listing delays no commit.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use concord_proto::store::{Record, Records, record::Kind};
use concord_protocol::Gtid;
use futures_util::future::BoxFuture;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::sync::oneshot;

use super::explain;
use super::seal::Sum;
use crate::store::row::StoredRow;
use crate::store::{Filter, StoreError, Stored, UnixMillis};

/// Reads that wait at most; more are refused.
const WAITING_MAX: usize = 1024;

type Read = Box<dyn FnOnce(&mut Connection) + Send>;

/// The reading threads.
#[derive(Debug)]
pub(super) struct Readers {
    /// Absent once closed.
    jobs: Mutex<Option<SyncSender<Read>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    /// One thread for each connection.
    pub(super) fn start(connections: Vec<Connection>) -> std::io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut threads = Vec::new();
        for connection in connections {
            let receiver = Arc::clone(&receiver);
            let thread = std::thread::Builder::new().name("concord-read".into());
            threads.push(thread.spawn(move || serve(&receiver, connection))?);
        }
        Ok(Readers { jobs: Mutex::new(Some(sender)), threads: Mutex::new(threads) })
    }

    /// Runs a read in a transaction of its own, so that it sees one state of the store.
    pub(super) fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (done, result) = oneshot::channel();
        let job: Read = Box::new(move |connection| {
            let _ = done.send(in_transaction(connection, read));
        });
        let sent = match &*self.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Err(StoreError::Closed),
            Some(jobs) => jobs.try_send(job).map_err(|error| match error {
                TrySendError::Full(_) => StoreError::Read("too many reads wait; try again later".into()),
                TrySendError::Disconnected(_) => StoreError::Read("the reading threads have ended".into()),
            }),
        };
        Box::pin(async move {
            sent?;
            result.await.unwrap_or_else(|_| Err(StoreError::Read("the reading thread ended".into())))
        })
    }

    /// Finishes the reads that wait, and ends.
    pub(super) fn close(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(jobs: &Mutex<Receiver<Read>>, mut connection: Connection) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(read) => read(&mut connection),
            Err(_) => return,
        }
    }
}

fn in_transaction<T>(
    connection: &mut Connection,
    read: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let transaction = connection.transaction().map_err(read_error)?;
    let value = read(&transaction)?;
    transaction.finish().map_err(read_error)?;
    Ok(value)
}

pub(super) fn read_error(error: rusqlite::Error) -> StoreError {
    StoreError::Read(explain(&error).into())
}

/// Every live transaction: the log holds nothing else. That nothing of it is missing has been seen when the store was
/// opened.
pub(super) fn load_live(connection: &Connection) -> Result<Vec<Stored>, StoreError> {
    let mut statement = connection
        .prepare_cached("SELECT gtid, epoch, seq, at_ms, crc, body FROM record ORDER BY gtid, epoch, seq")
        .map_err(read_error)?;
    let mut rows = statement.query([]).map_err(read_error)?;
    let mut live: Vec<Stored> = Vec::new();
    while let Some(row) = rows.next().map_err(read_error)? {
        let gtid = gtid_of(row.get(0).map_err(read_error)?)?;
        let record = StoredRow::read(row, 1).map_err(read_error)?.decode(gtid)?;
        if matches!(record.1.kind, Some(Kind::Ended(_))) {
            return Err(corrupt(gtid, ENDED_IN_THE_LOG));
        }
        match live.last_mut() {
            Some(last) if last.gtid == gtid => last.records.push(record),
            _ => live.push(Stored { gtid, records: vec![record] }),
        }
    }
    Ok(live)
}

const ENDED_IN_THE_LOG: &str = "it has ended, and is still in the log";

/// One transaction.
pub(super) fn get(connection: &Connection, gtid: Gtid) -> Result<Option<Stored>, StoreError> {
    let mut statement = connection.prepare_cached(StoredRow::OF_ONE).map_err(read_error)?;
    let rows = statement.query_map([gtid.to_bytes()], |row| StoredRow::read(row, 0)).map_err(read_error)?;
    let mut records = Vec::new();
    for row in rows {
        records.push(row.map_err(read_error)?.decode(gtid)?);
    }
    let ended = connection
        .prepare_cached("SELECT committed, records, checksums, rows FROM ended WHERE gtid = ?1")
        .and_then(|mut statement| statement.query_row([gtid.to_bytes()], Ended::read).optional())
        .map_err(read_error)?;
    match (records.is_empty(), ended) {
        (true, None) if is_listed(connection, gtid)? => Err(corrupt(gtid, "its records are missing")),
        (true, None) => Ok(None),
        (true, Some(ended)) => Ok(Some(Stored { gtid, records: ended.records(gtid)? })),
        (false, None) if outcome(&records).is_none() => Ok(Some(Stored { gtid, records })),
        (false, _) => Err(corrupt(gtid, ENDED_IN_THE_LOG)),
    }
}

/// Whether a transaction has ended, by a second witness.
fn is_listed(connection: &Connection, gtid: Gtid) -> Result<bool, StoreError> {
    connection
        .prepare_cached("SELECT committed FROM ended INDEXED BY ended_gtid WHERE gtid = ?1")
        .and_then(|mut statement| statement.exists([gtid.to_bytes()]))
        .map_err(read_error)
}

/// A row of the table `ended`.
struct Ended {
    committed: bool,
    /// Of its records before its end. None for those that ended before schema version 2.
    before_end: Option<Sum>,
    rows: Vec<u8>,
}

impl Ended {
    fn read(row: &Row<'_>) -> rusqlite::Result<Ended> {
        let sum = row.get::<_, Option<i64>>(1)?.zip(row.get(2)?);
        let before_end = sum.map(|(records, checksums)| Sum { records, checksums });
        Ok(Ended { committed: row.get(0)?, before_end, rows: row.get(3)? })
    }

    fn records(self, gtid: Gtid) -> Result<Vec<(UnixMillis, Record)>, StoreError> {
        let rows = Records::decode(self.rows.as_slice())
            .map_err(|error| corrupt(gtid, &format!("its records cannot be told apart: {error}")))?;
        let (mut records, mut before_end) = (Vec::with_capacity(rows.rows.len()), Sum::default());
        for row in rows.rows.into_iter().map(StoredRow::from) {
            records.push(row.decode(gtid)?);
            if outcome(&records).is_none() {
                before_end.add(row.checksum());
            }
        }
        if outcome(&records) != Some(self.committed) {
            return Err(corrupt(gtid, "it is listed with an outcome that its records do not have"));
        }
        if self.before_end.is_some_and(|sum| sum != before_end) {
            return Err(corrupt(gtid, "some of its records are missing"));
        }
        Ok(records)
    }
}

/// How a transaction ended; `None` while it is live.
fn outcome(records: &[(UnixMillis, Record)]) -> Option<bool> {
    records.iter().find_map(|(_, record)| match &record.kind {
        Some(Kind::Ended(ended)) => Some(ended.committed),
        _ => None,
    })
}

/// Ended transactions, newest first.
pub(super) fn list_ended(connection: &Connection, filter: &Filter) -> Result<Vec<Stored>, StoreError> {
    // Greater than every gtid, because it is longer.
    const LAST: [u8; 17] = [0xff; 17];
    let before = filter.before.map_or(LAST.to_vec(), |gtid| gtid.to_bytes().to_vec());
    let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(list_sql(filter)).map_err(read_error)?;
    let gtids = statement
        .query_map(params![before, limit, filter.committed, filter.name], |row| row.get(0))
        .map_err(read_error)?;
    let mut ended = Vec::new();
    for bytes in gtids {
        let gtid = gtid_of(bytes.map_err(read_error)?)?;
        ended.push(get(connection, gtid)?.ok_or_else(|| corrupt(gtid, "its records are missing"))?);
    }
    Ok(ended)
}

/// A listing reads an index backwards and stops at the limit. All filters but a very rare one find what they
/// look for at every entry, or nearly; for rolled back transactions, the rare ones, there is an index.
pub(super) fn list_sql(filter: &Filter) -> &'static str {
    match (filter.name.as_deref(), filter.committed) {
        (Some(name), _) if !name.is_empty() => {
            "SELECT gtid FROM ended INDEXED BY ended_name
             WHERE name <> '' AND name = ?4 AND gtid < ?1 AND (?3 IS NULL OR committed = ?3)
             ORDER BY gtid DESC LIMIT ?2"
        }
        (None, Some(false)) => {
            "SELECT gtid FROM ended INDEXED BY ended_rolled_back
             WHERE committed = 0 AND gtid < ?1 AND ?3 IS NOT NULL AND ?4 IS NULL
             ORDER BY gtid DESC LIMIT ?2"
        }
        _ => {
            "SELECT gtid FROM ended NOT INDEXED
             WHERE gtid < ?1 AND (?3 IS NULL OR committed = ?3) AND (?4 IS NULL OR name = ?4)
             ORDER BY gtid DESC LIMIT ?2"
        }
    }
}

/// The transaction with this key; the first one, should there be several.
pub(super) fn find_key(connection: &Connection, key: &str) -> Result<Option<Gtid>, StoreError> {
    let found: Option<Vec<u8>> = connection
        .prepare_cached("SELECT gtid FROM keyed WHERE key = ?1 ORDER BY gtid LIMIT 1")
        .and_then(|mut statement| statement.query_row([key], |row| row.get(0)).optional())
        .map_err(read_error)?;
    let Some(gtid) = found.map(gtid_of).transpose()? else { return Ok(None) };
    let has_key = |stored: &Stored| {
        stored.records.iter().any(
            |(_, record)| matches!(&record.kind, Some(Kind::Begun(begun)) if begun.idempotency_key == key),
        )
    };
    match get(connection, gtid)?.as_ref().is_some_and(has_key) {
        true => Ok(Some(gtid)),
        false => Err(corrupt(gtid, "it is listed with an idempotency key that its records do not have")),
    }
}

pub(super) fn gtid_of(bytes: Vec<u8>) -> Result<Gtid, StoreError> {
    let found = format!(
        "it holds {bytes:02x?} where a gtid should be: the file is damaged, and the store is lost (docs/operations.md)"
    );
    <[u8; 16]>::try_from(bytes)
        .ok()
        .and_then(|bytes| Gtid::from_bytes(bytes).ok())
        .ok_or_else(|| StoreError::Read(found.into()))
}

fn corrupt(gtid: Gtid, reason: &str) -> StoreError {
    StoreError::Corrupt { gtid, reason: reason.into() }
}
