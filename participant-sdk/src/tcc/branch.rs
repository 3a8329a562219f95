//! The branch as a handler sees it.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use concord_proto::TraceContext;
use concord_protocol::{BranchId, Gtid};

use crate::local::{LocalDatabase, LocalError, LocalTransaction, SqlValue};

/// Where a branch's transaction returns to when its handler is done with it.
pub(crate) struct ReturnTray<D: LocalDatabase>(Arc<Mutex<Option<D::Transaction>>>);

impl<D: LocalDatabase> ReturnTray<D> {
    pub(crate) fn take(&self) -> Option<D::Transaction> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A local transaction of the participant's database, inside a TCC branch. What a handler does in it is
/// committed together with the barrier's row, or not at all.
///
/// It stands for the driver's own connection: mysql_async's `Queryable` methods work on it, and with sqlx
/// `sqlx::query(…).execute(&mut *tcc)`. The handler must not end the transaction: no COMMIT, no ROLLBACK, no
/// DDL (which commits). It must be done with it when it returns.
pub struct TccBranch<D: LocalDatabase> {
    // Some until dropped.
    transaction: Option<D::Transaction>,
    tray: Arc<Mutex<Option<D::Transaction>>>,
    gtid: Gtid,
    branch_id: BranchId,
    deadline: Option<Instant>,
    trace: Option<TraceContext>,
}

impl<D: LocalDatabase> TccBranch<D> {
    pub(crate) fn new(
        transaction: D::Transaction,
        gtid: Gtid,
        branch_id: BranchId,
        deadline: Option<Instant>,
        trace: Option<TraceContext>,
    ) -> (Self, ReturnTray<D>) {
        let tray = Arc::default();
        let own = Arc::clone(&tray);
        let branch =
            TccBranch { transaction: Some(transaction), tray: own, gtid, branch_id, deadline, trace };
        (branch, ReturnTray(tray))
    }

    /// The global transaction that this branch is part of.
    pub fn gtid(&self) -> Gtid {
        self.gtid
    }

    /// The branch's number in it.
    pub fn branch_id(&self) -> BranchId {
        self.branch_id
    }

    /// In Try: how long it may still take before the global transaction times out. In Confirm and Cancel,
    /// which have no deadline: zero.
    pub fn remaining(&self) -> Duration {
        self.deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Where the call belongs in a trace, if it does: for calls to other services.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// The local transaction.
    pub fn transaction(&mut self) -> &mut D::Transaction {
        match &mut self.transaction {
            Some(transaction) => transaction,
            None => unreachable!("the transaction is there until the branch is dropped"),
        }
    }

    /// Runs a statement. Parameters are positional (`?`). Answers how many rows it affected, as the driver
    /// counts them.
    ///
    /// # Errors
    /// What the database says.
    pub async fn execute(&mut self, sql: &str, params: Vec<SqlValue>) -> Result<u64, LocalError> {
        self.transaction().execute(sql, params).await
    }

    /// Runs a query; answers its rows.
    ///
    /// # Errors
    /// What the database says; a column that [`SqlValue`] cannot hold.
    pub async fn query(
        &mut self,
        sql: &str,
        params: Vec<SqlValue>,
    ) -> Result<Vec<Vec<SqlValue>>, LocalError> {
        self.transaction().query(sql, params).await
    }
}

impl<D: LocalDatabase> Deref for TccBranch<D> {
    type Target = <D::Transaction as LocalTransaction>::Connection;

    fn deref(&self) -> &Self::Target {
        match &self.transaction {
            Some(transaction) => transaction.connection(),
            None => unreachable!("the transaction is there until the branch is dropped"),
        }
    }
}

impl<D: LocalDatabase> DerefMut for TccBranch<D> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.transaction().connection_mut()
    }
}

impl<D: LocalDatabase> fmt::Debug for TccBranch<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TccBranch").field("gtid", &self.gtid).field("branch_id", &self.branch_id).finish()
    }
}

impl<D: LocalDatabase> Drop for TccBranch<D> {
    fn drop(&mut self) {
        *self.tray.lock().unwrap_or_else(PoisonError::into_inner) = self.transaction.take();
    }
}
