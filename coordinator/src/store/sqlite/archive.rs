//! The store's file, read by another process than the coordinator's, or a backup of it.
//!
//! SQLite lets others read while the coordinator writes. A read holds up no commit; while it lasts the log only grows.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use concord_protocol::{ClusterId, Epoch, Gtid};
use rusqlite::{Connection, ErrorCode, params};

use super::directory::{self, Directory, length, wal_file};
use super::explain;
use super::reader::{self, gtid_of, read_error};
use super::schema;
use super::seal::Seal;
use crate::store::archive::{Range, Read};
use crate::store::{Facts, StoreError};

/// Faults that SQLite names at the most.
const FAULTS_MAX: u32 = 20;

/// An embedded store, open for reading.
#[derive(Debug)]
pub(in crate::store) struct SqliteArchive {
    connection: Connection,
    file: PathBuf,
    /// Of a store that nobody else may open meanwhile.
    directory: Option<Directory>,
}

impl SqliteArchive {
    /// The store in a data directory, whose coordinator may be running.
    pub(in crate::store) fn beside(path: &Path) -> Result<Self, StoreError> {
        directory::expect_store(path)?;
        Self::open(directory::store_file(path), false)
    }

    /// The same; as long as this lives no coordinator starts on it.
    pub(in crate::store) fn alone(path: &Path) -> Result<Self, StoreError> {
        let directory = Directory::take_existing(path)?;
        // A file that is too short would pass for a new store.
        schema::acknowledged(&directory)?;
        let file = directory.store_file();
        let connection = schema::open_to_read(&file)?;
        if let Err(refused) = schema::check_readable(&connection, &file, false) {
            // So would one without its log, for one of an older version.
            schema::check_whole(&connection, &directory)?;
            return Err(refused);
        }
        Ok(SqliteArchive { connection, file, directory: Some(directory) })
    }

    /// A backup.
    pub(in crate::store) fn backup(file: &Path) -> Result<Self, StoreError> {
        Self::open(file.to_path_buf(), true)
    }

    fn open(file: PathBuf, is_backup: bool) -> Result<Self, StoreError> {
        let connection = schema::open_to_read(&file)?;
        schema::check_readable(&connection, &file, is_backup)?;
        Ok(SqliteArchive { connection, file, directory: None })
    }

    pub(in crate::store) fn check_whole(&self) -> Result<(), StoreError> {
        match &self.directory {
            Some(directory) => schema::check_whole(&self.connection, directory),
            None => Ok(()),
        }
    }

    fn fact(&self, key: &str) -> Result<u64, StoreError> {
        schema::read_fact(&self.connection, key, &self.file)?.ok_or_else(|| StoreError::Open {
            path: self.file.clone(),
            reason: format!("its {key} is missing: the file is damaged").into(),
        })
    }

    pub(in crate::store) fn epoch(&self) -> Result<Epoch, StoreError> {
        Ok(Epoch(u32::try_from(self.fact("epoch")?).unwrap_or(u32::MAX)))
    }

    pub(in crate::store) fn facts(&self) -> Result<Facts, StoreError> {
        let count = |sql| {
            let count = self.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(read_error)?;
            Ok::<_, StoreError>(count.unsigned_abs())
        };
        let version = self.connection.pragma_query_value(None, "user_version", |row| row.get(0));
        Ok(Facts {
            cluster_id: ClusterId(self.fact("cluster_id")?),
            epoch: self.epoch()?,
            schema_version: version.map_err(read_error)?,
            live: count("SELECT count(DISTINCT gtid) FROM record")?,
            ended: count("SELECT count(*) FROM ended")?,
            bytes: length(&self.file) + length(&wal_file(&self.file)),
        })
    }

    /// What SQLite finds, what the seal says of what is live, and the watermark of what was acknowledged.
    pub(in crate::store) fn damage(&self) -> Vec<String> {
        let mut found = self.faults().unwrap_or_else(|error| vec![explain(&error)]);
        match Seal::load(&self.connection, u32::MAX) {
            Ok(Ok(seal)) => found.extend(self.unacknowledged(seal.commits())),
            Ok(Err(reason)) => found.push(reason.to_string()),
            Err(error) => found.push(explain(&error)),
        }
        found.extend(self.keys_of_nothing().unwrap_or_else(|error| vec![explain(&error)]));
        found
    }

    /// What SQLite finds wrong with its tables and indexes.
    fn faults(&self) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.connection.prepare(&format!("PRAGMA integrity_check({FAULTS_MAX})"))?;
        let faults = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut faults = faults.collect::<rusqlite::Result<Vec<_>>>()?;
        faults.retain(|fault| fault != "ok");
        Ok(faults)
    }

    /// What is wrong when there are so many commits.
    fn unacknowledged(&self, commits: i64) -> Option<String> {
        let directory = self.directory.as_ref()?;
        match schema::acknowledged(directory) {
            Ok(Some(acknowledged)) if acknowledged > commits => {
                Some(schema::missing(directory, acknowledged, commits).to_string())
            }
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    fn keys_of_nothing(&self) -> rusqlite::Result<Vec<String>> {
        let sql = "SELECT hex(gtid) FROM keyed AS k
                   WHERE NOT EXISTS (SELECT 1 FROM record AS r WHERE r.gtid = k.gtid)
                     AND NOT EXISTS (SELECT 1 FROM ended AS e WHERE e.gtid = k.gtid) LIMIT ?1";
        let mut statement = self.connection.prepare(sql)?;
        let found = statement.query_map([FAULTS_MAX], |row| {
            let gtid: String = row.get(0)?;
            Ok(format!("there is an idempotency key of a transaction that is not on record: {gtid}"))
        })?;
        found.collect()
    }

    /// At most `limit` transactions, the first of a range.
    pub(in crate::store) fn page(&self, range: Range, limit: usize) -> Result<Vec<Read>, StoreError> {
        // So that one that ends meanwhile is seen in one place.
        let snapshot = self.connection.unchecked_transaction().map_err(read_error)?;
        // By an index: where a row is hidden, this still names it.
        let sql = "SELECT gtid FROM (SELECT DISTINCT gtid FROM record WHERE gtid > ?1 AND gtid <= ?2 ORDER BY gtid LIMIT ?3)
                   UNION
                   SELECT gtid FROM (SELECT gtid FROM ended INDEXED BY ended_gtid
                                     WHERE gtid > ?1 AND gtid <= ?2 ORDER BY gtid LIMIT ?3)
                   ORDER BY gtid LIMIT ?3";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut statement = snapshot.prepare_cached(sql).map_err(read_error)?;
        let gtids = statement
            .query_map(params![range.after, range.until, limit], |row| row.get(0))
            .map_err(read_error)?;
        let mut page = Vec::new();
        for gtid in gtids {
            let gtid = gtid_of(gtid.map_err(read_error)?)?;
            match reader::get(&snapshot, gtid) {
                Ok(stored) => page.extend(stored.map(|stored| (gtid, Ok(stored)))),
                Err(error) => page.push((gtid, Err(error))),
            }
        }
        Ok(page)
    }

    pub(in crate::store) fn is_found_by(&self, key: &str, gtid: Gtid) -> Result<bool, StoreError> {
        self.connection
            .prepare_cached("SELECT 1 FROM keyed WHERE key = ?1 AND gtid = ?2")
            .and_then(|mut statement| statement.exists(params![key, gtid.to_bytes()]))
            .map_err(read_error)
    }

    /// Copies the store to a new file, which is there and durable as a whole or not at all.
    pub(in crate::store) fn back_up(&self, to: &Path) -> Result<(), StoreError> {
        let failed = |reason: String| StoreError::Backup { path: to.to_path_buf(), reason: reason.into() };
        if fs::symlink_metadata(to).is_ok() {
            return Err(failed("it is there already".into()));
        }
        let mut partial = to.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        create_private(&partial).map_err(|error| failed(format!("{}: {error}", partial.display())))?;
        let copied =
            self.copy(&partial).and_then(|()| finish(&partial, to).map_err(|error| error.to_string()));
        copied.map_err(|reason| {
            // In vain only if it is not there.
            let _ = fs::remove_file(&partial);
            failed(reason)
        })
    }

    fn copy(&self, to: &Path) -> Result<(), String> {
        let name = to.to_str().ok_or("its name is not UTF-8")?;
        self.connection.execute("VACUUM INTO ?1", [name]).map_err(|error| explain_copying(&error))?;
        schema::mark_as_backup(to).map_err(|error| explain_copying(&error))
    }
}

/// As [`explain`], for what is no coordinator and need not be started again.
fn explain_copying(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            format!("{error}: there is no room for it; make room, or put it on another disk")
        }
        _ => explain(error),
    }
}

/// Creates an empty file that only its owner may read: payloads are in it.
fn create_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(|_| ())
}

/// Makes a file durable, and then gives it its name.
fn finish(partial: &Path, name: &Path) -> io::Result<()> {
    fs::File::open(partial)?.sync_all()?;
    fs::rename(partial, name)?;
    let parent = name.parent().filter(|parent| !parent.as_os_str().is_empty());
    directory::sync(parent.unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_stops_a_backup_and_nothing_that_is_to_be_started_again() {
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let said = explain_copying(&rusqlite::Error::SqliteFailure(full, None));
        assert!(said.contains("make room, or put it on another disk") && !said.contains("start"), "{said}");
    }
}
