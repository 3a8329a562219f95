//! Damage that SQLite does not notice.
//!
//! SQLite ends its log at the first frame that is torn, cut off or damaged, and says nothing: a torn end is what a
//! crash leaves, and was never acknowledged. A bit that flips in a frame, or a file that was cut, looks the same and
//! takes away what *was* acknowledged. And pages of the database file have no checksum: a bit flipped in the head of
//! one can hide rows. Two things make that known, before anything is changed:
//!
//! - The **seal**, a table of one row that is written with every commit. It counts the commits, and the records that
//!   live transactions have. When the store is opened, the records are counted again. Those of a transaction that has
//!   ended are counted in its row of `ended`, and again when it is read.
//! - The **watermark**, a file of its own. It says how many commits there were when the last one was acknowledged; the
//!   seal must count as many. It is written after the log was synced and before anybody is told, and is not synced
//!   itself: a power failure may leave an older one, which demands less. So there is no false alarm, and no price.
//!
//! Not noticed: the loss of what was acknowledged in the last seconds before a power failure by a disk that said that
//! it had it, and has neither the log's end nor the watermark; a hidden entry of a key; a transaction that has ended,
//! where its row is hidden and its entry of the index that says that there is one.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use concord_protocol::Gtid;
use rusqlite::{Connection, params};

/// The schema version with which the seal came.
pub(super) const SINCE: u32 = 2;
/// The schema version with which ended transactions have a table of their own.
const ENDED_SINCE: u32 = 3;

/// The records of live transactions.
const LIVE: &str = "SELECT gtid, crc FROM record";
/// The same, of a store from before there was a table for those that have ended.
const LISTED_LIVE: &str =
    "SELECT t.gtid, r.crc FROM txn t INDEXED BY txn_live JOIN record r ON r.gtid = t.gtid
     WHERE t.committed IS NULL";

/// How many records there are, and the sum of their checksums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) records: i64,
    pub(super) checksums: i64,
}

impl Sum {
    /// One more.
    pub(super) fn add(&mut self, crc: u32) {
        self.records += 1;
        self.checksums += i64::from(crc);
    }
}

/// What the store holds, as the writer keeps it: of each live transaction and of all of them.
#[derive(Debug, Default)]
pub(super) struct Seal {
    commits: i64,
    live: HashMap<[u8; 16], Sum>,
    all: Sum,
    /// The newest transaction that has records, live or ended.
    newest: Option<[u8; 16]>,
}

impl Seal {
    /// Reads the seal and everything live, of a store with this schema version.
    ///
    /// # Errors
    /// SQLite's; or, as the inner result, how they differ: the file is damaged.
    pub(super) fn load(connection: &Connection, version: u32) -> rusqlite::Result<Result<Self, Arc<str>>> {
        let (commits, records, checksums) =
            connection.query_row("SELECT commits, records, checksums FROM seal", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        let mut seal = Seal { commits, ..Seal::default() };
        let mut live = connection.prepare(if version < ENDED_SINCE { LISTED_LIVE } else { LIVE })?;
        let mut rows = live.query([])?;
        while let Some(row) = rows.next()? {
            seal.count(row.get(0)?, row.get(1)?);
        }
        let Sum { records: found, checksums: sum } = seal.all;
        if seal.all == (Sum { records, checksums }) {
            return Ok(Ok(seal));
        }
        Ok(Err(format!(
            "its live transactions have {found} records with the sum of checksums {sum:x}, and should have {records} \
             with {checksums:x}: the file is damaged, and the store is lost (docs/operations.md)"
        )
        .into()))
    }

    /// Whether a transaction has records and has not ended.
    pub(super) fn is_live(&self, gtid: Gtid) -> bool {
        self.live.contains_key(&gtid.to_bytes())
    }

    /// The records of a live transaction.
    pub(super) fn of(&self, gtid: Gtid) -> Sum {
        self.live.get(&gtid.to_bytes()).copied().unwrap_or_default()
    }

    /// Whether a transaction is newer than all that have records.
    pub(super) fn is_new(&self, gtid: Gtid) -> bool {
        self.newest < Some(gtid.to_bytes())
    }

    /// Learns which transaction is the newest.
    pub(super) fn find_newest(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let sql = "SELECT max(coalesce((SELECT max(gtid) FROM record), x''), coalesce((SELECT max(gtid) FROM ended), x''))";
        let newest: Vec<u8> = connection.query_row(sql, [], |row| row.get(0))?;
        self.newest = <[u8; 16]>::try_from(newest).ok();
        Ok(())
    }

    /// A live transaction has another record.
    pub(super) fn add(&mut self, gtid: Gtid, crc: u32) {
        self.see(gtid);
        self.count(gtid.to_bytes(), crc);
    }

    fn see(&mut self, gtid: Gtid) {
        self.newest = self.newest.max(Some(gtid.to_bytes()));
    }

    fn count(&mut self, gtid: [u8; 16], crc: u32) {
        self.live.entry(gtid).or_default().add(crc);
        self.all.add(crc);
    }

    /// A transaction has ended, if it was live.
    pub(super) fn end(&mut self, gtid: Gtid) {
        self.see(gtid);
        if let Some(sum) = self.live.remove(&gtid.to_bytes()) {
            self.all.records -= sum.records;
            self.all.checksums -= sum.checksums;
        }
    }

    /// Writes the seal into an SQL transaction that is about to be committed.
    pub(super) fn write(&mut self, transaction: &Connection) -> rusqlite::Result<()> {
        self.commits = self.commits.saturating_add(1);
        let Sum { records, checksums } = self.all;
        transaction
            .prepare_cached("UPDATE seal SET commits = ?1, records = ?2, checksums = ?3")?
            .execute(params![self.commits, records, checksums])
            .map(|_| ())
    }

    /// Commits since the store was created.
    pub(super) fn commits(&self) -> i64 {
        self.commits
    }
}

/// The file that says how many commits were acknowledged.
#[derive(Debug)]
pub(super) struct Watermark(File);

impl Watermark {
    /// What the file says; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub(super) fn read(path: &Path) -> io::Result<Option<i64>> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let commits = text.split(|byte| *byte == b' ').next().map(String::from_utf8_lossy);
        match commits.and_then(|commits| commits.parse().ok()) {
            Some(commits) if text == encode(commits).as_bytes() => Ok(Some(commits)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged")),
        }
    }

    /// Replaces the file. What it says is durable when its directory has been synced.
    pub(super) fn create(path: &Path, commits: i64) -> io::Result<Self> {
        let new = path.with_extension("new");
        let mut watermark = Watermark(OpenOptions::new().write(true).create(true).truncate(true).open(&new)?);
        watermark.set(commits)?;
        watermark.sync()?;
        std::fs::rename(new, path)?;
        Ok(watermark)
    }

    /// So many commits are acknowledged from now on. Not synced, and always as long: it needs no room.
    pub(super) fn set(&mut self, commits: i64) -> io::Result<()> {
        self.0.write_all_at(encode(commits).as_bytes(), 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn encode(commits: i64) -> String {
    let number = format!("{commits:020}");
    let crc = crc32fast::hash(number.as_bytes());
    format!("{number} {crc:08x}\n")
}
