//! The branch as a handler sees it.

use std::sync::{Arc, Mutex, PoisonError};

use concord_proto::TraceContext;
use concord_protocol::{BranchId, Gtid};
use concord_xa::{Branch, FromRow, Params, XaError, from_row_opt};

use crate::handler::HandlerError;

/// Where a branch returns to when its handler is done with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReturnTray(Arc<Mutex<Option<Branch>>>);

impl ReturnTray {
    pub(crate) fn take(&self) -> Option<Branch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A database session inside an XA branch. Statements run in it commit or roll back with the whole global
/// transaction.
///
/// Parameters are positional (`?`). After an error the branch can only vote no, whatever the handler does.
/// COMMIT, DDL and LOCK are refused by the database. The handler must be done with it when it returns.
#[derive(Debug)]
pub struct XaBranch {
    // Some until dropped.
    branch: Option<Branch>,
    tray: ReturnTray,
    trace: Option<TraceContext>,
}

impl XaBranch {
    pub(crate) fn new(branch: Branch, trace: Option<TraceContext>) -> (Self, ReturnTray) {
        let tray = ReturnTray::default();
        (XaBranch { branch: Some(branch), tray: tray.clone(), trace }, tray)
    }

    fn branch(&mut self) -> Result<&mut Branch, XaError> {
        self.branch.as_mut().ok_or_else(|| XaError::Failed("the branch has been given back".into()))
    }

    /// The global transaction that this branch is part of.
    pub fn gtid(&self) -> Option<Gtid> {
        self.branch.as_ref().map(|branch| branch.xid().gtid)
    }

    /// The branch's number in it.
    pub fn branch_id(&self) -> Option<BranchId> {
        self.branch.as_ref().map(|branch| branch.xid().branch)
    }

    /// Where the call belongs in a trace, if it does: for calls to other services.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// Runs a statement; answers how many rows it matched.
    ///
    /// # Errors
    /// What the database says.
    pub async fn exec(&mut self, sql: &str, params: impl Into<Params>) -> Result<u64, XaError> {
        self.branch()?.exec(sql, params).await
    }

    /// Runs a statement that must match exactly `rows` rows; anything else is a refusal.
    ///
    /// # Errors
    /// [`XaError::RowCount`]; what the database says.
    pub async fn update_exactly(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
        rows: u64,
    ) -> Result<(), XaError> {
        self.branch()?.exec_exactly(sql, params, rows).await
    }

    /// Keeps a statement back until the next one or the end of the handler. A branch made of queued
    /// statements alone takes one round trip, vote included. It must match exactly `rows` rows, else the
    /// branch is refused.
    ///
    /// # Errors
    /// When the text or the parameters cannot be used.
    pub fn queue(&mut self, sql: &str, params: impl Into<Params>, rows: u64) -> Result<(), XaError> {
        self.branch()?.queue(sql, params, Some(rows))
    }

    /// As [`XaBranch::queue`]; `refusal` is the reason for the initiator when the number of rows is not met,
    /// such as "insufficient funds".
    ///
    /// # Errors
    /// When the text or the parameters cannot be used.
    pub fn queue_or_refuse(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
        rows: u64,
        refusal: impl Into<String>,
    ) -> Result<(), XaError> {
        self.branch()?.queue_or_refuse(sql, params, rows, refusal)
    }

    /// As [`XaBranch::queue`], whatever number of rows it matches.
    ///
    /// # Errors
    /// When the text or the parameters cannot be used.
    pub fn queue_any(&mut self, sql: &str, params: impl Into<Params>) -> Result<(), XaError> {
        self.branch()?.queue(sql, params, None)
    }

    /// Runs a query; answers its rows, each as a tuple or another [`FromRow`].
    ///
    /// # Errors
    /// What the database says; rows that do not fit `T`.
    pub async fn query<T: FromRow>(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
    ) -> Result<Vec<T>, HandlerError> {
        let rows = self.branch()?.query(sql, params).await?;
        let read = |row| {
            from_row_opt(row).map_err(|_| HandlerError::failed("a row does not fit the type asked for"))
        };
        rows.into_iter().map(read).collect()
    }

    /// As [`XaBranch::query`], the first row alone.
    ///
    /// # Errors
    /// As [`XaBranch::query`].
    pub async fn query_first<T: FromRow>(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
    ) -> Result<Option<T>, HandlerError> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }
}

impl Drop for XaBranch {
    fn drop(&mut self) {
        *self.tray.0.lock().unwrap_or_else(PoisonError::into_inner) = self.branch.take();
    }
}
