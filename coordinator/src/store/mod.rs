//! The store: what the coordinator must not forget.
//!
//! # Contract
//!
//! A store holds, per global transaction, an append-only list of [`Record`]s, and two facts about itself: its
//! [`ClusterId`] and its [`Epoch`].
//!
//! 1. **Order.** Entries become durable in the order in which [`Store::append`] was called. An entry is never
//!    on disk without every entry that was appended before it.
//! 2. **Forced.** When the future of a [`Durability::Forced`] append resolves to `Ok`, the entries, and all
//!    entries appended before them, survive any crash of the process, the operating system or the power.
//! 3. **Lazy.** The future of a [`Durability::Lazy`] append resolves to `Ok` once the entries can be read back
//!    through this store. A crash may lose them, but only as a suffix (rule 1).
//! 4. **All or nothing.** The entries of one append are durable together or not at all.
//! 5. **Group commit.** Appends that wait at the same moment share one sync. While it is told that many more
//!    forced appends are about to come ([`Store::expect`]), a store may hold one back for some of them, a few
//!    milliseconds at the most; told of none, it never waits for company.
//! 6. **Failure is final.** After an append has failed (disk full, failed sync), every later append fails with
//!    [`StoreError::Failed`] and nothing more is written: what a failed sync left on disk is unknown, and a
//!    second sync may claim success for data that is gone. The coordinator stops, and says why.
//! 7. **Cancelled futures.** Dropping the future of an append does not undo or delay it.
//! 8. **One owner.** A second coordinator that opens the same store is refused ([`StoreError::InUse`]). Where it is
//!    shared, the second one has transactions of its own; it is the one that is [taken over](Store::take_over) from whose
//!    appends fail from then on.
//! 9. **Epochs.** Opening raises the epoch durably before anything else can be done with the store.
//! 10. **Versions.** A store written by a newer schema is refused ([`StoreError::NewerSchema`]); an older one
//!     is migrated when it is opened.

mod archive;
mod counts;
mod memory;
mod queue;
mod recent;
mod row;
mod sql;
mod sqlite;

#[cfg(test)]
mod conformance;

use std::path::PathBuf;
use std::sync::Arc;

use concord_proto::store::Record;
use concord_protocol::{ClusterId, Epoch, Gtid};
use futures_util::future::BoxFuture;

pub use archive::{Archive, Facts, Place, Span};
pub use memory::MemoryStore;
pub use sql::{Examination, Member, SqlStore, examine};
pub use sqlite::SqliteStore;

/// Wall-clock time: milliseconds since the Unix epoch. For history and for time-outs across restarts only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The wall clock's time; zero if it stands before 1970.
    pub fn now() -> Self {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// One record of one transaction, as it is appended.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Whose record.
    pub gtid: Gtid,
    /// When it was made.
    pub at: UnixMillis,
    /// What happened.
    pub record: Record,
}

/// When an append counts as done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// On disk, synced.
    Forced,
    /// Written some time soon; lost by a crash before that.
    Lazy,
}

/// A transaction as the store knows it: its records, oldest first.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Whose records.
    pub gtid: Gtid,
    /// Oldest first, with the time of each.
    pub records: Vec<(UnixMillis, Record)>,
}

/// Which ended transactions to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only with this outcome (`true`: committed).
    pub committed: Option<bool>,
    /// Only begun with this name.
    pub name: Option<String>,
    /// Only those with a smaller gtid, that is, issued earlier.
    pub before: Option<Gtid>,
    /// At most this many.
    pub limit: usize,
}

/// Counts since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Commits that were synced: each is one sync of the log.
    pub syncs: u64,
    /// Records written.
    pub records: u64,
    /// Commits, synced or not.
    pub commits: u64,
}

/// Who answers for the transactions of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This coordinator: the epoch is its own, or it has taken it over, or no transaction of it can be live.
    Us,
    /// Another one.
    Other {
        /// Where others reach it.
        address: String,
    },
}

/// What a store knows of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reign {
    /// Who answers for its transactions.
    pub owner: Owner,
    /// Its coordinator can write nothing any more: what the store does not know of it will never be.
    pub is_over: bool,
}

/// Through transactions by their gtids, which is by when they were issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Newest first, of those issued before this one.
    Back(Option<Gtid>),
    /// Oldest first, of those issued after this one.
    Forth(Option<Gtid>),
}

impl Walk {
    /// The rest of it, after this one.
    pub fn after(self, last: Gtid) -> Self {
        match self {
            Walk::Back(_) => Walk::Back(Some(last)),
            Walk::Forth(_) => Walk::Forth(Some(last)),
        }
    }
}

/// What the coordinator must not forget. See the [module](self) for the contract.
///
/// A store that several coordinators share ([`SqlStore`]) has more to say; what it says of epochs, keys and members has
/// defaults for one that a single coordinator has for itself.
pub trait Store: Send + Sync + 'static {
    /// The identity drawn when the store was created.
    fn cluster_id(&self) -> ClusterId;

    /// The epoch that began when the store was opened.
    fn epoch(&self) -> Epoch;

    /// Appends entries, in order. The entries are queued when this returns; the future says when they count.
    fn append(
        &self,
        entries: Vec<Entry>,
        durability: Durability,
    ) -> BoxFuture<'static, Result<(), StoreError>>;

    /// Tells how many forced appends are likely to come soon: transactions that are only waiting for votes. A
    /// hint for rule 5; a store may ignore it.
    fn expect(&self, _forced_soon: usize) {}

    /// Every transaction without an `Ended` record, in the order of their gtids.
    fn load_live(&self) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>>;

    /// One transaction, live or ended.
    fn get(&self, gtid: Gtid) -> BoxFuture<'static, Result<Option<Stored>, StoreError>>;

    /// Ended transactions, newest gtid first.
    fn list_ended(&self, filter: Filter) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>>;

    /// The transaction that was begun with this idempotency key.
    fn find_key(&self, key: String) -> BoxFuture<'static, Result<Option<Gtid>, StoreError>>;

    /// Whose is this key? Answers with the transaction that has it; `gtid`, which is about to begin with it, if none has,
    /// or only `gone`, which never came to be. Other coordinators that ask from now on are told the same, whatever becomes
    /// of this one. Nobody else in this coordinator may ask for the same key meanwhile.
    fn claim_key(
        &self,
        key: String,
        gtid: Gtid,
        gone: Option<Gtid>,
    ) -> BoxFuture<'static, Result<Gtid, StoreError>> {
        let found = self.find_key(key);
        Box::pin(async move { Ok(found.await?.filter(|found| Some(*found) != gone).unwrap_or(gtid)) })
    }

    /// Whether other coordinators go on with what this one leaves behind.
    fn is_shared(&self) -> bool {
        false
    }

    /// What is known of an epoch.
    fn reign(&self, epoch: Epoch) -> BoxFuture<'static, Result<Reign, StoreError>> {
        let reign = Reign { owner: Owner::Us, is_over: epoch < self.epoch() };
        Box::pin(async move { Ok(reign) })
    }

    /// Takes over from coordinators whose lease has run out; answers with their live transactions, as
    /// [`Store::load_live`] does. Nobody calls it twice at a time. When it fails with [`StoreError::Failed`], this
    /// coordinator's own lease is lost.
    fn take_over(&self) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Live transactions of other coordinators: the first `limit` of this walk. Lazy records of theirs may be missing.
    fn list_live_elsewhere(
        &self,
        _walk: Walk,
        _limit: usize,
    ) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// The epochs of all coordinators that are alive, as far as their leases say.
    fn members(&self) -> BoxFuture<'static, Result<Vec<Epoch>, StoreError>> {
        let own = self.epoch();
        Box::pin(async move { Ok(vec![own]) })
    }

    /// Deletes at most `limit` transactions that ended before `before`; answers how many.
    fn purge(&self, before: UnixMillis, limit: usize) -> BoxFuture<'static, Result<usize, StoreError>>;

    /// Counts since the store was opened.
    fn counters(&self) -> Counters;

    /// Writes and syncs what is queued, and closes. Later appends fail with [`StoreError::Closed`].
    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>>;
}

/// Why the store did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// An append failed, now or earlier. The coordinator must stop; start it again once the cause is gone.
    #[error("the store failed and takes no more records: {0}")]
    Failed(Arc<str>),
    /// A read failed; the same read may succeed later.
    #[error("cannot read the store: {0}")]
    Read(Arc<str>),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// Another coordinator has the store open.
    #[error("{} is in use by another coordinator{}; stop that one, or give this one its own --data-dir", .path.display(), .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The directory that both want.
        path: PathBuf,
        /// The process that has it, where that is known.
        pid: Option<u32>,
    },
    /// The store was written by a newer version of Concord.
    #[error("{} has schema version {found}, and this version of concord knows only up to {known}: run the newer concord", .path.display())]
    NewerSchema {
        /// The store's file.
        path: PathBuf,
        /// What the store says.
        found: u32,
        /// The newest that this program knows.
        known: u32,
    },
    /// The store is of an older version of Concord, and was to be read only.
    #[error("{} has schema version {found}, and this version of concord reads {known}: start `concord serve` on it, which brings it up to date, or read it with the older concord", .path.display())]
    OlderSchema {
        /// The store's file.
        path: PathBuf,
        /// What the store says.
        found: u32,
        /// What this program reads.
        known: u32,
    },
    /// The store could not be opened.
    #[error("cannot open the store {}: {reason}", .path.display())]
    Open {
        /// The store's file or directory.
        path: PathBuf,
        /// Why not.
        reason: Arc<str>,
    },
    /// A backup could not be made; nothing of it is left.
    #[error("cannot make a backup as {}: {reason}", .path.display())]
    Backup {
        /// Where it was to be.
        path: PathBuf,
        /// Why not.
        reason: Arc<str>,
    },
    /// A stored record cannot be read: the file is damaged, or was changed by something else.
    #[error(
        "the store holds a record of {gtid} that cannot be read: {reason}; its file is damaged, and the store is lost (docs/operations.md)"
    )]
    Corrupt {
        /// Whose record.
        gtid: Gtid,
        /// What is wrong with it.
        reason: Arc<str>,
    },
}
