//! The participant's own database, behind any driver: what the barrier and the reservations are written
//! against, so that a service keeps the driver it has.

mod mysql;
#[cfg(feature = "sqlx")]
mod sqlx;
mod value;

use std::future::Future;

pub use mysql::{MySql, MySqlTransaction};
#[cfg(feature = "sqlx")]
pub use sqlx::SqlxTransaction;
pub use value::SqlValue;

/// A pool of the participant's own database. Cheap to clone; clones share the connections.
///
/// Implemented for `mysql_async::Pool`, for [`MySql`] (the SDK's own pool), and with the feature `sqlx` for
/// `sqlx::MySqlPool`.
pub trait LocalDatabase: Clone + Send + Sync + 'static {
    /// A local transaction of this database.
    type Transaction: LocalTransaction;

    /// Begins a local transaction.
    ///
    /// # Errors
    /// When no connection can be had.
    fn begin(&self) -> impl Future<Output = Result<Self::Transaction, LocalError>> + Send;

    /// Begins a local transaction with its first statement, in one round trip where the driver can. Answers
    /// also how many rows that statement affected, as [`LocalTransaction::execute`] does.
    ///
    /// # Errors
    /// When no connection can be had, or the statement fails: then there is no transaction.
    fn begin_with(
        &self,
        sql: &str,
        params: Vec<SqlValue>,
    ) -> impl Future<Output = Result<(Self::Transaction, u64), LocalError>> + Send {
        async move {
            let mut transaction = self.begin().await?;
            match transaction.execute(sql, params).await {
                Ok(affected) => Ok((transaction, affected)),
                Err(error) => {
                    // The connection may be as good as ever; if not, it is closed.
                    let _ = transaction.rollback().await;
                    Err(error)
                }
            }
        }
    }
}

/// A local transaction under way.
///
/// Dropped, it is rolled back by closing its connection: wherever that happens, nobody can find a connection in
/// the pool that has an open transaction or the rest of an answer on it.
pub trait LocalTransaction: Sized + Send + 'static {
    /// The driver's own connection, or what stands for it.
    type Connection: Send;

    /// The driver's own connection, to be used as its documentation says; but not to end the transaction.
    fn connection(&self) -> &Self::Connection;

    /// As [`LocalTransaction::connection`], for statements.
    fn connection_mut(&mut self) -> &mut Self::Connection;

    /// Runs a statement, prepared and cached. Parameters are positional (`?`). Answers how many rows it
    /// affected, as the driver counts them: rows matched, or only rows changed.
    ///
    /// # Errors
    /// What the database says.
    fn execute(
        &mut self,
        sql: &str,
        params: Vec<SqlValue>,
    ) -> impl Future<Output = Result<u64, LocalError>> + Send;

    /// Runs a query, prepared and cached; answers its rows.
    ///
    /// # Errors
    /// What the database says; [`LocalError::Other`] for a column that [`SqlValue`] cannot hold.
    fn query(
        &mut self,
        sql: &str,
        params: Vec<SqlValue>,
    ) -> impl Future<Output = Result<Vec<Vec<SqlValue>>, LocalError>> + Send;

    /// Commits.
    ///
    /// # Errors
    /// With [`LocalError::Server`] nothing was committed; with any other error that is not known.
    fn commit(self) -> impl Future<Output = Result<(), LocalError>> + Send;

    /// Commits after a last statement, in one round trip where the driver can.
    ///
    /// # Errors
    /// As [`LocalTransaction::commit`].
    fn commit_with(
        mut self,
        sql: &str,
        params: Vec<SqlValue>,
    ) -> impl Future<Output = Result<(), LocalError>> + Send {
        async move {
            self.execute(sql, params).await?;
            self.commit().await
        }
    }

    /// Rolls back.
    ///
    /// # Errors
    /// When the connection is lost: then the database rolls back by itself.
    fn rollback(self) -> impl Future<Output = Result<(), LocalError>> + Send;
}

/// What the participant's database, or its driver, said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocalError {
    /// The server refused the statement.
    #[error("error {code} ({state}): {message}")]
    Server {
        /// The server's error number, such as 1062 for a duplicate key.
        code: u16,
        /// SQLSTATE.
        state: String,
        /// The server's words.
        message: String,
    },
    /// There is no connection, or it was lost. Try again later.
    #[error("the connection to the database failed: {0}")]
    Connection(String),
    /// A mistake in the program: a value that cannot be read, another number of parameters than question marks.
    #[error("{0}")]
    Other(String),
}

impl LocalError {
    /// The server's error number, when the server refused: 1062 duplicate key, 1146 no such table, 1205 lock
    /// wait time-out, 1213 deadlock, 3819 (MySQL) or 4025 (MariaDB) a CHECK constraint.
    pub fn code(&self) -> Option<u16> {
        match self {
            LocalError::Server { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the connection is lost, so that it is not known whether the statement took effect.
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, LocalError::Connection(_))
    }
}

/// The server's error numbers that stand for a lost connection: too many connections, shutting down, killed.
fn server_error(code: u16, state: String, message: String) -> LocalError {
    match code {
        1040 | 1053 | 1077 | 1079 | 3169 => LocalError::Connection(message),
        _ => LocalError::Server { code, state, message },
    }
}
