//! Stores that are only read: by the people who run a coordinator, beside it or without it.
//!
//! No epoch begins, nothing is taken over, and no record is written. All of it blocks: not for an async task.

use std::path::{Path, PathBuf};

use concord_protocol::{ClusterId, Epoch, Gtid};

use super::sql::SqlArchive;
use super::sqlite::SqliteArchive;
use super::{StoreError, Stored, UnixMillis};

/// Transactions read at a time: each may have payloads of some MiB.
const PAGE: usize = 64;

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The data directory of an embedded store.
    Directory(PathBuf),
    /// A backup of one.
    Backup(PathBuf),
    /// The URL of a shared one, with its password.
    Database(String),
}

/// What a store says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Its identity.
    pub cluster_id: ClusterId,
    /// The last one that began.
    pub epoch: Epoch,
    /// Version of its schema.
    pub schema_version: u32,
    /// Transactions in the log.
    pub live: u64,
    /// Transactions in the history.
    pub ended: u64,
    /// What it takes up; of a database as that estimates it.
    pub bytes: u64,
}

/// The transactions issued in a span of time, by the coordinators' clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Not those issued earlier.
    pub from: UnixMillis,
    /// Not those issued later.
    pub until: UnixMillis,
}

impl Span {
    /// All that there are.
    pub const ALL: Span = Span { from: UnixMillis(0), until: UnixMillis(u64::MAX) };
}

/// Gtids above the first of these and up to the second, as bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) after: [u8; 16],
    pub(super) until: [u8; 16],
}

impl From<Span> for Range {
    fn from(span: Span) -> Self {
        // 48 bits of a gtid are its time.
        const MS_MAX: u64 = (1 << 48) - 1;
        let last = |ms: u64| Gtid::compose(ms, Epoch(u32::MAX), Gtid::SEQUENCE_MAX).to_bytes();
        let after = span.from.0.min(MS_MAX).checked_sub(1).map_or([0; 16], last);
        Range { after, until: last(span.until.0.min(MS_MAX)) }
    }
}

/// A transaction as it was read; or why it cannot be.
pub(super) type Read = (Gtid, Result<Stored, StoreError>);

/// A store, open for reading.
#[derive(Debug)]
pub struct Archive(Kind);

#[derive(Debug)]
enum Kind {
    Embedded(SqliteArchive),
    Shared(Box<SqlArchive>),
}

impl Archive {
    /// Opens a store beside its coordinator, which may be running.
    ///
    /// # Errors
    /// [`StoreError::OlderSchema`], [`StoreError::NewerSchema`], [`StoreError::Open`].
    pub fn open(place: &Place) -> Result<Self, StoreError> {
        Ok(Archive(match place {
            Place::Directory(path) => Kind::Embedded(SqliteArchive::beside(path)?),
            Place::Backup(file) => Kind::Embedded(SqliteArchive::backup(file)?),
            Place::Database(url) => Kind::Shared(Box::new(SqlArchive::open(url)?)),
        }))
    }

    /// The same; while this lives, no coordinator starts on an embedded store.
    ///
    /// # Errors
    /// As [`Archive::open`], and [`StoreError::InUse`] when a coordinator is running on it.
    pub fn open_alone(place: &Place) -> Result<Self, StoreError> {
        match place {
            Place::Directory(path) => Ok(Archive(Kind::Embedded(SqliteArchive::alone(path)?))),
            Place::Backup(_) | Place::Database(_) => Archive::open(place),
        }
    }

    /// Refuses an embedded store, open alone, on which no coordinator would start because something is missing: what was
    /// acknowledged, or what is live. [`Archive::damage`] says the same of it, and more, and takes longer.
    ///
    /// # Errors
    /// [`StoreError::Open`]: what a coordinator would say.
    pub fn check_whole(&self) -> Result<(), StoreError> {
        match &self.0 {
            Kind::Embedded(archive) => archive.check_whole(),
            Kind::Shared(_) => Ok(()),
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// [`StoreError::Open`] and [`StoreError::Read`]: it is damaged, or cannot be reached.
    pub fn facts(&mut self) -> Result<Facts, StoreError> {
        match &mut self.0 {
            Kind::Embedded(archive) => archive.facts(),
            Kind::Shared(archive) => archive.facts(),
        }
    }

    /// The last epoch that began, by now.
    ///
    /// # Errors
    /// As [`Archive::facts`].
    pub fn epoch(&mut self) -> Result<Epoch, StoreError> {
        match &mut self.0 {
            Kind::Embedded(archive) => archive.epoch(),
            Kind::Shared(archive) => archive.epoch(),
        }
    }

    /// What is wrong with it as a whole, without a look at each transaction. Empty: nothing.
    ///
    /// # Errors
    /// [`StoreError::Read`]: it cannot be reached.
    pub fn damage(&mut self) -> Result<Vec<String>, StoreError> {
        match &mut self.0 {
            Kind::Embedded(archive) => Ok(archive.damage()),
            Kind::Shared(archive) => archive.damage(),
        }
    }

    /// Shows every transaction of the span, in the order of their gtids, each as it is on record when its turn comes: once,
    /// also when it ends meanwhile. One that cannot be read stops nothing.
    ///
    /// # Errors
    /// What `each` answers; [`StoreError::Read`].
    pub fn walk<E: From<StoreError>>(
        &mut self,
        span: Span,
        mut each: impl FnMut(&mut Self, Gtid, Result<Stored, StoreError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut range = Range::from(span);
        loop {
            let page = match &mut self.0 {
                Kind::Embedded(archive) => archive.page(range, PAGE)?,
                Kind::Shared(archive) => archive.page(range, PAGE)?,
            };
            let Some((last, _)) = page.last() else { return Ok(()) };
            range.after = last.to_bytes();
            for (gtid, stored) in page {
                each(self, gtid, stored)?;
            }
        }
    }

    /// Whether a transaction that is on record with this key would be found by it.
    ///
    /// # Errors
    /// [`StoreError::Read`].
    pub fn is_found_by(&mut self, key: &str, gtid: Gtid) -> Result<bool, StoreError> {
        match &mut self.0 {
            Kind::Embedded(archive) => archive.is_found_by(key, gtid),
            Kind::Shared(archive) => archive.is_found_by(key, gtid),
        }
    }

    /// Copies an embedded store, as it is at one moment, to a file that must not be there yet. No coordinator starts on the
    /// copy (docs/decisions/011-a-backup-is-read.md).
    ///
    /// # Errors
    /// [`StoreError::Backup`]; it is also the answer of a shared store, for whose backups its database has tools.
    pub fn back_up(&self, to: &Path) -> Result<(), StoreError> {
        match &self.0 {
            Kind::Embedded(archive) => archive.back_up(to),
            Kind::Shared(_) => Err(StoreError::Backup {
                path: to.to_path_buf(),
                reason: "a store in a database is backed up with the database's own tools".into(),
            }),
        }
    }
}
