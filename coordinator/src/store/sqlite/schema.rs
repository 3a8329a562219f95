//! Opening the store's file: what it must be, its schema and migrations, and its two facts.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use concord_crash_points::crash_point;
use concord_proto::store::Records;
use concord_protocol::{ClusterId, Epoch};
use prost::Message as _;
use rusqlite::config::DbConfig;
use rusqlite::functions::{Aggregate, Context, FunctionFlags};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::directory::{Directory, length};
use super::explain;
use super::seal::{self, Seal, Watermark};
use crate::store::StoreError;
use crate::store::row::StoredRow;

/// Stands in the header of every store file, so that a foreign SQLite file is not taken for one: "Cncd".
const APPLICATION_ID: i32 = 0x436e_6364;
/// In its place in a backup: "Cncb". No coordinator starts on one (docs/decisions/011-a-backup-is-read.md).
const BACKUP_ID: i32 = 0x436e_6362;

/// Of a new store, in bytes. No store is shorter than one page.
const PAGE_SIZE: u32 = 4096;

/// How to get from each schema version to the next; the number of them is the version that this program knows.
/// Never change one that was released: add another.
pub(super) const MIGRATIONS: &[&str] =
    &[include_str!("schema/001.sql"), include_str!("schema/002.sql"), include_str!("schema/003.sql")];

/// How long to wait for another program (an operator's `sqlite3`, a backup) that has locked the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// A store file, opened and migrated, in the epoch that has begun with that.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) cluster_id: ClusterId,
    pub(super) epoch: Epoch,
    pub(super) seal: Seal,
    pub(super) watermark: Watermark,
}

/// Opens the store's file for writing, creates or migrates its schema, and raises the epoch. All that was found and
/// all that was done is durable when this returns, but for names in the directory.
pub(super) fn open(directory: &Directory, migrations: &[&str]) -> Result<Opened, StoreError> {
    let file = &directory.store_file();
    let failed = |error: rusqlite::Error| open_error(file, &error);
    let acknowledged = acknowledged(directory)?;
    let mut connection = Connection::open_with_flags(
        file,
        flags(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE),
    )
    .map_err(failed)?;
    keep_log_on_close(&connection).map_err(failed)?;
    let version = check(&connection, file, migrations)?;
    configure(&connection).map_err(failed)?;
    // Nothing of it may be changed before: what is left of a damaged log is evidence.
    let found = find(&connection, version, acknowledged, directory)?;
    // What the last process left in the log may never have been synced, or its sync may have failed: nobody may
    // act on it before it is safe. A sync alone would not do, because after a failed one the operating system
    // may hold the pages for clean; the checkpoint writes them anew, to the database file, and syncs that.
    empty_log(&connection, file)?;
    migrate(&mut connection, version, migrations).map_err(failed)?;
    let mut seal = match found {
        Some(seal) => seal,
        None => load(&connection, file, u32::MAX)?,
    };
    seal.find_newest(&connection).map_err(failed)?;
    let (cluster_id, epoch) = begin_epoch(&mut connection, &mut seal, file)?;
    let path = directory.watermark_file();
    let watermark = Watermark::create(&path, seal.commits()).map_err(|error| StoreError::Open {
        path,
        reason: format!("it cannot be written: {error}").into(),
    })?;
    Ok(Opened { connection, cluster_id, epoch, seal, watermark })
}

/// Moves all of the log to the database file.
fn empty_log(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let is_blocked: bool = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
        .map_err(|error| open_error(file, &error))?;
    if is_blocked {
        let reason = "another program has been reading it for 10 s, a backup perhaps: wait for it, or end it";
        return Err(StoreError::Open { path: file.to_path_buf(), reason: reason.into() });
    }
    Ok(())
}

/// What the watermark says. Where it says anything, there is a store.
pub(super) fn acknowledged(directory: &Directory) -> Result<Option<i64>, StoreError> {
    let (file, path) = (directory.store_file(), directory.watermark_file());
    let acknowledged = Watermark::read(&path).map_err(|error| StoreError::Open {
        reason: format!(
            "{error}; nothing is lost with it: delete it if {} is the right file",
            file.display()
        )
        .into(),
        path,
    })?;
    match acknowledged {
        // SQLite would take it for a new one, and delete its log.
        Some(acknowledged) if length(&file) < PAGE_SIZE.into() => Err(missing(directory, acknowledged, 0)),
        _ => Ok(acknowledged),
    }
}

/// The seal, if there is one already: all that was acknowledged is there, and all that is live.
fn find(
    connection: &Connection,
    version: u32,
    acknowledged: Option<i64>,
    directory: &Directory,
) -> Result<Option<Seal>, StoreError> {
    let file = directory.store_file();
    let seal = if version < seal::SINCE { None } else { Some(load(connection, &file, version)?) };
    let there = seal.as_ref().map_or(0, Seal::commits);
    match acknowledged {
        Some(acknowledged) if acknowledged > there => Err(missing(directory, acknowledged, there)),
        _ => Ok(seal),
    }
}

/// Refuses a store that a coordinator would refuse as a whole: one of another program or of a newer version, or one that
/// shows less than was acknowledged, or not all that is live. Changes nothing.
pub(super) fn check_whole(connection: &Connection, directory: &Directory) -> Result<(), StoreError> {
    let acknowledged = acknowledged(directory)?;
    let version = check(connection, &directory.store_file(), MIGRATIONS)?;
    find(connection, version, acknowledged, directory).map(drop)
}

pub(super) fn missing(directory: &Directory, acknowledged: i64, there: i64) -> StoreError {
    StoreError::Open {
        path: directory.store_file(),
        reason: format!(
            "{acknowledged} commits were acknowledged, and only {there} are there: it, or its log, the file ending in \
             -wal, is damaged or missing, or they are those of an older backup. If you can, put back both as they were. \
             If not, what was decided last is not known here any more, and the store is lost: docs/operations.md says \
             what to do then"
        )
        .into(),
    }
}

fn load(connection: &Connection, file: &Path, version: u32) -> Result<Seal, StoreError> {
    Seal::load(connection, version)
        .map_err(|error| open_error(file, &error))?
        .map_err(|reason| StoreError::Open { path: file.to_path_buf(), reason })
}

/// Opens the file for reading only.
pub(super) fn open_to_read(file: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(file, flags(OpenFlags::SQLITE_OPEN_READ_ONLY))
        .and_then(|connection| {
            keep_log_on_close(&connection)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.execute_batch("PRAGMA cell_size_check = ON; PRAGMA cache_size = -8192;")?;
            Ok(connection)
        })
        .map_err(|error| open_error(file, &error))?;
    Ok(connection)
}

/// Each connection stays with one thread at a time, so SQLite's own mutexes are not needed.
fn flags(mode: OpenFlags) -> OpenFlags {
    mode | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE
}

fn open_error(file: &Path, error: &rusqlite::Error) -> StoreError {
    StoreError::Open { path: file.to_path_buf(), reason: explain(error).into() }
}

/// The schema version of the file, 0 for a new one. Changes nothing.
fn check(connection: &Connection, file: &Path, migrations: &[&str]) -> Result<u32, StoreError> {
    let failed = |error: rusqlite::Error| open_error(file, &error);
    let refused = |reason: &str| StoreError::Open { path: file.to_path_buf(), reason: reason.into() };
    let application_id: i32 = pragma(connection, "application_id").map_err(failed)?;
    let version: u32 = pragma(connection, "user_version").map_err(failed)?;
    if application_id == APPLICATION_ID {
        let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
        return if version <= known {
            Ok(version)
        } else {
            Err(StoreError::NewerSchema { path: file.to_path_buf(), found: version, known })
        };
    }
    if application_id == BACKUP_ID {
        return Err(refused(
            "it is a backup, and has forgotten what was decided since it was made: no coordinator starts on it. Read it \
             with `concord store check` and `concord store export`",
        ));
    }
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    if application_id == 0 && version == 0 && tables == 0 {
        Ok(0)
    } else {
        Err(refused("it is an SQLite database of another program; give concord a --data-dir of its own"))
    }
}

/// Refuses a file that is not a store, or a backup of one, of the version that this program writes.
pub(super) fn check_readable(
    connection: &Connection,
    file: &Path,
    is_backup: bool,
) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| open_error(file, &error);
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    let version = match is_backup {
        true if pragma::<i32>(connection, "application_id").map_err(failed)? != BACKUP_ID => {
            let reason =
                "it is no backup made by `concord store backup`; of a store, name the data directory";
            return Err(StoreError::Open { path: file.to_path_buf(), reason: reason.into() });
        }
        true => pragma(connection, "user_version").map_err(failed)?,
        false => check(connection, file, MIGRATIONS)?,
    };
    match version.cmp(&known) {
        Ordering::Less => Err(StoreError::OlderSchema { path: file.to_path_buf(), found: version, known }),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(StoreError::NewerSchema { path: file.to_path_buf(), found: version, known }),
    }
}

/// Marks a copy of a store, which nobody has open, as a backup.
pub(super) fn mark_as_backup(file: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open_with_flags(file, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))?;
    // It is synced as a whole afterwards, and of no use before.
    connection.execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF;")?;
    connection.pragma_update(None, "application_id", BACKUP_ID)?;
    connection.close().map_err(|(_, error)| error)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "page_size", PAGE_SIZE)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA fullfsync = ON;
         PRAGMA checkpoint_fullfsync = ON;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 67108864;
         PRAGMA cache_size = -32768;
         PRAGMA cell_size_check = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF;",
    )
}

/// By default the last connection writes a checkpoint when it is closed. After a failed sync that would be a
/// second try, so checkpoints are only made on purpose.
fn keep_log_on_close(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(|_| ())
}

/// Opens the file for checkpoints beside a connection that writes.
pub(super) fn open_for_checkpoints(file: &Path) -> Result<Connection, StoreError> {
    Connection::open_with_flags(file, flags(OpenFlags::SQLITE_OPEN_READ_WRITE))
        .and_then(|connection| {
            keep_log_on_close(&connection)?;
            configure(&connection)?;
            Ok(connection)
        })
        .map_err(|error| open_error(file, &error))
}

/// How far a checkpoint goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Checkpoint {
    /// As far as it gets without waiting for readers.
    Passive,
    /// Waits for readers, and empties the log.
    Truncate,
}

/// Moves what the log holds to the database file, and syncs both.
pub(super) fn checkpoint(connection: &Connection, how: Checkpoint) -> rusqlite::Result<()> {
    let sql = match how {
        Checkpoint::Passive => "PRAGMA wal_checkpoint(PASSIVE)",
        Checkpoint::Truncate => "PRAGMA wal_checkpoint(TRUNCATE)",
    };
    // That readers stood in the way is no error: what is left goes with the next one.
    connection.query_row(sql, [], |_| Ok(()))
}

/// Brings the schema up to date, each version in a transaction of its own.
fn migrate(connection: &mut Connection, version: u32, migrations: &[&str]) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_aggregate_function("concord_rows", 5, flags, EndedRows)?;
    for (sql, version) in migrations.iter().zip(1u32..).skip(version as usize) {
        let step = connection.transaction()?;
        step.execute_batch(sql)?;
        step.pragma_update(None, "user_version", version)?;
        step.pragma_update(None, "application_id", APPLICATION_ID)?;
        step.commit()?;
    }
    Ok(())
}

/// For 003.sql: the records of an ended transaction, for its row.
struct EndedRows;

impl Aggregate<Records, Vec<u8>> for EndedRows {
    fn init(&self, _: &mut Context<'_>) -> rusqlite::Result<Records> {
        Ok(Records::default())
    }

    fn step(&self, context: &mut Context<'_>, records: &mut Records) -> rusqlite::Result<()> {
        // Null where all records are missing: that is for readers to find.
        let Some(epoch) = context.get(0)? else { return Ok(()) };
        let (seq, at, crc, body) = (context.get(1)?, context.get(2)?, context.get(3)?, context.get(4)?);
        records.rows.push(StoredRow { epoch, seq, at, crc, body }.into());
        Ok(())
    }

    fn finalize(&self, _: &mut Context<'_>, records: Option<Records>) -> rusqlite::Result<Vec<u8>> {
        Ok(records.unwrap_or_default().encode_to_vec())
    }
}

/// Reads the cluster id, or draws it for a new store, and raises the epoch.
fn begin_epoch(
    connection: &mut Connection,
    seal: &mut Seal,
    file: &Path,
) -> Result<(ClusterId, Epoch), StoreError> {
    let failed = |error: rusqlite::Error| open_error(file, &error);
    let refused = |reason: Arc<str>| StoreError::Open { path: file.to_path_buf(), reason };
    let transaction = connection.transaction().map_err(failed)?;
    let cluster_id = read_fact(&transaction, "cluster_id", file)?;
    let epoch = read_fact(&transaction, "epoch", file)?;
    let (cluster_id, epoch) = match (cluster_id, epoch) {
        (None, None) => (rand::random(), 0),
        (Some(cluster_id), Some(epoch)) => (cluster_id, epoch),
        _ => return Err(refused("its cluster id or its epoch is missing: the file is damaged".into())),
    };
    let epoch = u32::try_from(epoch)
        .ok()
        .and_then(|epoch| epoch.checked_add(1))
        .ok_or_else(|| refused(format!("its epoch {epoch} cannot be raised: the file is damaged").into()))?;
    for (key, value) in [("cluster_id", cluster_id), ("epoch", u64::from(epoch))] {
        transaction
            .execute(
                "INSERT OR REPLACE INTO meta (key, value, crc) VALUES (?1, ?2, ?3)",
                params![key, value.to_be_bytes(), fact_checksum(key, &value.to_be_bytes())],
            )
            .map_err(failed)?;
    }
    seal.write(&transaction).map_err(failed)?;
    crash_point!("coordinator/epoch/before");
    transaction.commit().map_err(failed)?;
    crash_point!("coordinator/epoch/raised");
    Ok((ClusterId(cluster_id), Epoch(epoch)))
}

pub(super) fn read_fact(connection: &Connection, key: &str, file: &Path) -> Result<Option<u64>, StoreError> {
    let row: Option<(Vec<u8>, u32)> = connection
        .query_row("SELECT value, crc FROM meta WHERE key = ?1", [key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
        .map_err(|error| open_error(file, &error))?;
    let Some((value, crc)) = row else { return Ok(None) };
    match <[u8; 8]>::try_from(value.as_slice()) {
        Ok(bytes) if fact_checksum(key, &bytes) == crc => Ok(Some(u64::from_be_bytes(bytes))),
        _ => Err(StoreError::Open {
            path: file.to_path_buf(),
            reason: format!("its {key} does not match its checksum: the file is damaged").into(),
        }),
    }
}

fn fact_checksum(key: &str, value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(value);
    hasher.finalize()
}

fn pragma<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}
