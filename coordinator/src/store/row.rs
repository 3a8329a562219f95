//! Records as rows: encoding, checksum, and what the projection needs to know of each.

use concord_proto::store::{Record, RecordRow, Records, record::Kind};
use concord_protocol::Gtid;
use prost::Message as _;

use super::{Entry, StoreError, UnixMillis};

/// An entry, ready to be written. Made by the thread that appends, so that the only writer does less.
#[derive(Debug)]
pub(in crate::store) struct Row {
    pub(in crate::store) gtid: Gtid,
    pub(in crate::store) at: i64,
    pub(in crate::store) body: Vec<u8>,
    pub(in crate::store) mark: Mark,
}

/// What a record changes in the projection.
#[derive(Debug, Clone)]
pub(in crate::store) enum Mark {
    /// The transaction has this name (or none: empty) and this idempotency key.
    Begun { name: String, key: Option<String> },
    /// The transaction is live no more.
    Ended { committed: bool },
    /// Only that the transaction exists.
    Exists,
}

impl From<Entry> for Row {
    fn from(entry: Entry) -> Self {
        let (body, mark) = (entry.record.encode_to_vec(), Mark::of(&entry.record));
        Row { gtid: entry.gtid, at: to_sql(entry.at), body, mark }
    }
}

impl Mark {
    pub(in crate::store) fn of(record: &Record) -> Mark {
        match &record.kind {
            Some(Kind::Begun(begun)) => {
                let key = Some(&begun.idempotency_key).filter(|key| !key.is_empty());
                Mark::Begun { name: begun.name.clone(), key: key.cloned() }
            }
            Some(Kind::Ended(ended)) => Mark::Ended { committed: ended.committed },
            _ => Mark::Exists,
        }
    }
}

/// SQLite's integers are signed. A time beyond them is no time that a clock can show.
pub(in crate::store) fn to_sql(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// A row of the table `record`, without its gtid.
#[derive(Debug, Clone)]
pub(in crate::store) struct StoredRow {
    pub(in crate::store) epoch: i64,
    pub(in crate::store) seq: i64,
    pub(in crate::store) at: i64,
    pub(in crate::store) crc: i64,
    pub(in crate::store) body: Vec<u8>,
}

impl StoredRow {
    /// Those of one transaction that are in the log, oldest first.
    pub(in crate::store) const OF_ONE: &str =
        "SELECT epoch, seq, at_ms, crc, body FROM record WHERE gtid = ?1 ORDER BY epoch, seq";

    /// From a result with the columns `epoch`, `seq`, `at_ms`, `crc` and `body`, of which the first is at `first`.
    pub(in crate::store) fn read(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Self> {
        Ok(StoredRow {
            epoch: row.get(first)?,
            seq: row.get(first + 1)?,
            at: row.get(first + 2)?,
            crc: row.get(first + 3)?,
            body: row.get(first + 4)?,
        })
    }

    /// Its checksum. To be believed once the record has been read back.
    pub(in crate::store) fn checksum(&self) -> u32 {
        u32::try_from(self.crc).unwrap_or_default()
    }

    /// Reads the record back.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the row is not what was written.
    pub(in crate::store) fn decode(&self, gtid: Gtid) -> Result<(UnixMillis, Record), StoreError> {
        let corrupt = |reason: String| StoreError::Corrupt { gtid, reason: reason.into() };
        let crc = checksum(gtid, self.epoch, self.seq, self.at, &self.body);
        if i64::from(crc) != self.crc {
            return Err(corrupt(format!("its checksum is {:08x} and should be {crc:08x}", self.crc)));
        }
        let record = Record::decode(self.body.as_slice()).map_err(|error| corrupt(error.to_string()))?;
        Ok((UnixMillis(self.at.unsigned_abs()), record))
    }
}

/// As one of the rows of an ended transaction. What does not fit has been damaged, and stays so: its checksum tells.
impl From<StoredRow> for RecordRow {
    fn from(row: StoredRow) -> Self {
        RecordRow {
            epoch: u32::try_from(row.epoch).unwrap_or(u32::MAX),
            seq: u64::try_from(row.seq).unwrap_or(u64::MAX),
            at_ms: u64::try_from(row.at).unwrap_or(u64::MAX),
            crc: u32::try_from(row.crc).unwrap_or_default(),
            body: row.body.into(),
        }
    }
}

impl From<RecordRow> for StoredRow {
    fn from(row: RecordRow) -> Self {
        StoredRow {
            epoch: row.epoch.into(),
            seq: i64::try_from(row.seq).unwrap_or(i64::MAX),
            at: i64::try_from(row.at_ms).unwrap_or(i64::MAX),
            crc: row.crc.into(),
            body: row.body.into(),
        }
    }
}

/// Reads back all records of an ended transaction, from an encoded `concord.store.v1.Records`.
///
/// # Errors
/// [`StoreError::Corrupt`] when one is not what was written.
pub(in crate::store) fn decode_all(
    gtid: Gtid,
    encoded: &[u8],
) -> Result<Vec<(UnixMillis, Record)>, StoreError> {
    let rows = Records::decode(encoded).map_err(|error| StoreError::Corrupt {
        gtid,
        reason: format!("its records cannot be told apart: {error}").into(),
    })?;
    rows.rows.into_iter().map(|row| StoredRow::from(row).decode(gtid)).collect()
}

/// The checksum of a record's row, over everything that gives it its meaning and its place.
pub(in crate::store) fn checksum(gtid: Gtid, epoch: i64, seq: i64, at: i64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&gtid.to_bytes());
    hasher.update(&epoch.to_be_bytes());
    hasher.update(&seq.to_be_bytes());
    hasher.update(&at.to_be_bytes());
    hasher.update(body);
    hasher.finalize()
}
