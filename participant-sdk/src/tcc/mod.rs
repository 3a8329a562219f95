//! Try, Confirm and Cancel.

mod action;
mod barrier;
mod branch;
mod locks;
mod open;
mod rows;

use std::collections::HashMap;
use std::sync::Arc;

use concord_protocol::Gtid;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use self::barrier::{Barrier, no_action};
use self::locks::Locks;
use crate::horizon::Horizon;
use crate::local::{LocalDatabase, LocalError};
use crate::participant::{Job, Unsettled};

pub(crate) use self::action::{Handlers, words_of};
pub(crate) use self::barrier::{Finished, Tried};
pub(crate) use self::locks::Key;
pub(crate) use self::open::{OpenError, Pending, pending};
pub use action::TccHandler;
pub use branch::TccBranch;

/// Everything that the TCC part of a participant is made of.
pub(crate) struct Tcc {
    actions: HashMap<String, Arc<dyn Action>>,
    /// The databases of the actions, each once.
    homes: Vec<Arc<dyn Home>>,
    locks: Locks,
    horizon: Arc<Horizon>,
}

/// A registered action, whatever its database and its handlers' types.
pub(crate) trait Action: Send + Sync {
    fn attempt(&self, key: Key, job: Job) -> BoxFuture<'_, Result<Tried, Unsettled>>;
    fn confirm(&self, key: Key, job: Job) -> BoxFuture<'_, Result<Finished, Unsettled>>;
    fn cancel(&self, key: Key, job: Job) -> BoxFuture<'_, Result<Finished, Unsettled>>;
}

/// A database with a barrier table.
pub(crate) trait Home: Send + Sync {
    /// Records that a branch was refused, whose action is not known.
    fn refuse(&self, key: Key, reason: String) -> BoxFuture<'_, Result<Tried, Unsettled>>;
    /// Cancels a branch whose action is not known, unless it was tried.
    fn cancel(&self, key: Key, job: Job) -> BoxFuture<'_, Result<Finished, Unsettled>>;
    /// The newest gtid in the table.
    fn newest(&self) -> BoxFuture<'_, Result<Option<Gtid>, LocalError>>;
    /// The next few gtids in the table, in order, after one and before another.
    fn page(&self, after: Option<Gtid>, before: Gtid) -> BoxFuture<'_, Result<Vec<Gtid>, LocalError>>;
    /// Deletes the rows of transactions. Answers how many.
    fn forget(&self, gtids: Vec<Gtid>) -> BoxFuture<'_, Result<u64, LocalError>>;
}

struct Registered<D: LocalDatabase> {
    barrier: Barrier<D>,
    handlers: Handlers<D>,
}

impl<D: LocalDatabase> Action for Registered<D> {
    fn attempt(&self, key: Key, job: Job) -> BoxFuture<'_, Result<Tried, Unsettled>> {
        self.barrier.attempt(key, job, &self.handlers).boxed()
    }

    fn confirm(&self, key: Key, job: Job) -> BoxFuture<'_, Result<Finished, Unsettled>> {
        self.barrier.confirm(key, job, &self.handlers).boxed()
    }

    fn cancel(&self, key: Key, job: Job) -> BoxFuture<'_, Result<Finished, Unsettled>> {
        self.barrier.cancel(key, job, Some(&self.handlers.cancel)).boxed()
    }
}

impl<D: LocalDatabase> Home for Barrier<D> {
    fn refuse(&self, key: Key, reason: String) -> BoxFuture<'_, Result<Tried, Unsettled>> {
        self.refuse(key, reason).boxed()
    }

    fn cancel(&self, key: Key, job: Job) -> BoxFuture<'_, Result<Finished, Unsettled>> {
        self.cancel(key, job, None).boxed()
    }

    fn newest(&self) -> BoxFuture<'_, Result<Option<Gtid>, LocalError>> {
        self.newest().boxed()
    }

    fn page(&self, after: Option<Gtid>, before: Gtid) -> BoxFuture<'_, Result<Vec<Gtid>, LocalError>> {
        self.page(after, before).boxed()
    }

    fn forget(&self, gtids: Vec<Gtid>) -> BoxFuture<'_, Result<u64, LocalError>> {
        self.forget(gtids).boxed()
    }
}

impl Tcc {
    pub(crate) fn homes(&self) -> impl Iterator<Item = &dyn Home> {
        self.homes.iter().map(|home| &**home)
    }

    /// Whether there is a database in which TCC branches could be.
    pub(crate) fn is_possible(&self) -> bool {
        !self.homes.is_empty()
    }

    pub(crate) fn has(&self, action: &str) -> bool {
        self.actions.contains_key(action)
    }

    /// Tries a branch. Refused, it has done nothing and never will.
    pub(crate) async fn attempt(&self, key: Key, mut job: Job) -> Result<Tried, Unsettled> {
        if let Some(reason) = self.horizon.too_old(key.gtid) {
            return Ok(Tried::Refused { reason });
        }
        let arrived = Instant::now();
        let _held = self.locks.hold(key).await;
        job.remaining = job.remaining.saturating_sub(arrived.elapsed());
        match self.actions.get(&job.action) {
            Some(action) => action.attempt(key, job).await,
            None => self.refuse(key, no_action(&job.action).0).await,
        }
    }

    /// Confirms a branch that was tried.
    pub(crate) async fn confirm(&self, key: Key, job: Job) -> Result<Finished, Unsettled> {
        let _held = self.locks.hold(key).await;
        match self.actions.get(&job.action) {
            Some(action) => action.confirm(key, job).await,
            None => Err(no_action(&job.action)),
        }
    }

    /// Cancels a branch, whether or not it was tried.
    pub(crate) async fn cancel(&self, key: Key, job: Job) -> Result<Finished, Unsettled> {
        let _held = self.locks.hold(key).await;
        match self.actions.get(&job.action) {
            Some(action) => action.cancel(key, job).await,
            None => self.cancel_unknown(key, job).await,
        }
    }

    /// In every database: which one a later version of this service would look into is not known.
    async fn refuse(&self, key: Key, reason: String) -> Result<Tried, Unsettled> {
        for home in &self.homes {
            let tried = home.refuse(key, reason.clone()).await?;
            if matches!(tried, Tried::Reserved { .. }) {
                return Ok(tried);
            }
        }
        Ok(Tried::Refused { reason })
    }

    /// Without the action there was no Try, unless another version of this service has done it.
    async fn cancel_unknown(&self, key: Key, job: Job) -> Result<Finished, Unsettled> {
        for home in &self.homes {
            let finished = home.cancel(key, job.clone()).await?;
            if !matches!(finished, Finished::Cancelled { .. }) {
                return Ok(finished);
            }
        }
        Ok(Finished::Cancelled { reason: no_action(&job.action).0 })
    }
}
