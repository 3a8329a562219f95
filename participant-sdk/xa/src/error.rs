//! What can go wrong between a branch and its database.

use mysql_async::Error as Driver;

use crate::server::{Fault, all};

/// Error codes that the rules in docs/xa.md name.
pub(crate) mod code {
    /// The XID is not known here, or another session holds it.
    pub(crate) const XAER_NOTA: u16 = 1397;
    /// No right to run XA RECOVER (MySQL), or a failure in the server.
    pub(crate) const XAER_RMERR: u16 = 1401;
    /// The branch was rolled back.
    pub(crate) const XA_RBROLLBACK: u16 = 1402;
    /// The XID is in use, in whatever state.
    pub(crate) const XAER_DUPID: u16 = 1440;
    /// The branch was rolled back because of a deadlock.
    pub(crate) const XA_RBDEADLOCK: u16 = 1614;
    /// The branch was rolled back because it took too long.
    pub(crate) const XA_RBTIMEOUT: u16 = 1613;
    /// A lock was not granted in time.
    pub(crate) const LOCK_WAIT_TIMEOUT: u16 = 1205;
    /// A deadlock.
    pub(crate) const LOCK_DEADLOCK: u16 = 1213;
    /// The row exists.
    pub(crate) const DUP_ENTRY: u16 = 1062;
    /// NULL for a column that takes none; our way to stop a batch.
    pub(crate) const BAD_NULL: u16 = 1048;
    /// A subquery gave two rows; our way to stop a batch.
    pub(crate) const SUBQUERY_MANY_ROWS: u16 = 1242;
    /// There is no such table.
    pub(crate) const NO_SUCH_TABLE: u16 = 1146;
    /// The connection has no default database.
    pub(crate) const NO_DB: u16 = 1046;
    /// Access to the table is denied.
    pub(crate) const TABLE_ACCESS_DENIED: u16 = 1142;
    /// There is no such session to KILL.
    pub(crate) const NO_SUCH_THREAD: u16 = 1094;
}

/// What went wrong, with what the reader should do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XaError {
    /// The database URL cannot be used; correct the configuration.
    #[error("the database URL cannot be used: {0}")]
    Url(String),
    /// The database did not answer, or closed the connection. Try again later.
    #[error("the connection to the database failed: {0}")]
    Connection(String),
    /// The server refused a statement.
    #[error("error {code} ({state}): {message}")]
    Server {
        /// The server's error number.
        code: u16,
        /// SQLSTATE.
        state: String,
        /// The server's words.
        message: String,
    },
    /// The database is not fit for XA, or is set up so that it may lose or tear transactions. Each fault says
    /// what to change.
    #[error("this database cannot take part in distributed transactions: {}", all(.0, "; "))]
    Unfit(Vec<Fault>),
    /// Every session for branches is in use. Raise `sessions_max`, or send less at a time.
    #[error("all {max} database sessions for branches are in use")]
    SessionsExhausted {
        /// How many there are.
        max: usize,
    },
    /// No answer within the time allowed. Whether the statement took effect is not known.
    #[error("the database did not answer within {ms} ms")]
    TimedOut {
        /// The time allowed, in milliseconds.
        ms: u64,
    },
    /// The statement's text or parameters cannot be used; a mistake in the program.
    #[error("{0}")]
    Statement(String),
    /// A statement touched another number of rows than the work needs: a refusal, not a failure.
    #[error("{statement:?} matched {actual} rows, not {expected}")]
    RowCount {
        /// The beginning of the statement.
        statement: String,
        /// Rows wanted.
        expected: u64,
        /// Rows matched.
        actual: u64,
    },
    /// A queued statement did not match the rows that it needs; in the words given with it.
    #[error("{0}")]
    Refused(String),
    /// An earlier statement of this branch failed, so nothing more is done in it (docs/xa.md rule 6).
    #[error("the branch has failed already: {0}")]
    Failed(String),
}

impl XaError {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            XaError::Connection(_) | XaError::SessionsExhausted { .. } | XaError::TimedOut { .. } => true,
            XaError::Server { code, .. } => {
                [code::LOCK_WAIT_TIMEOUT, code::LOCK_DEADLOCK, 1040, 1053, 1290, 1317, 1836].contains(code)
            }
            _ => false,
        }
    }

    /// The server's error number, when the server refused.
    pub fn code(&self) -> Option<u16> {
        match self {
            XaError::Server { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the connection can still be used: the server itself answered.
    pub(crate) fn connection_survives(&self) -> bool {
        !matches!(self, XaError::Connection(_) | XaError::TimedOut { .. })
    }
}

impl From<Driver> for XaError {
    fn from(error: Driver) -> Self {
        match error {
            Driver::Server(e) => XaError::Server { code: e.code, state: e.state, message: e.message },
            Driver::Url(e) => e.into(),
            other => XaError::Connection(other.to_string()),
        }
    }
}

impl From<mysql_async::UrlError> for XaError {
    fn from(error: mysql_async::UrlError) -> Self {
        XaError::Url(error.to_string())
    }
}
