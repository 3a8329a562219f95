//! What can go wrong, and what to do about it.

use std::{io, path::PathBuf, time::Duration};

use crate::Product;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no server, or why it did not do what it was told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing in the search order gave a server. Install one, or point to one, as the message says.
    #[error("no {product} server found, and none could be fetched ({tried}). {}", install_hint(*.product))]
    NoServer {
        /// What was asked for.
        product: Product,
        /// What was tried and why it did not do, separated by semicolons.
        tried: String,
    },

    /// A place that the user named explicitly does not hold a usable server. Correct or unset the variable.
    #[error("{variable} = {value} cannot be used: {reason}")]
    BadSetting {
        /// The environment variable.
        variable: &'static str,
        /// Its value, without a password.
        value: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The server is not ours (`CONCORD_TEST_MYSQL_URL`), so it cannot be killed, frozen or restarted. Unset the
    /// variable to get a private server for this test.
    #[error(
        "{operation} is not possible: the server is the one named by CONCORD_TEST_MYSQL_URL, not a private one; \
         unset that variable to run this with a private server"
    )]
    Unsupported {
        /// The call that was refused.
        operation: &'static str,
    },

    /// A new data directory could not be made with this server program. The tail of its output says why.
    #[error("{program} could not make a data directory ({reason}); the end of its output:\n{log_tail}")]
    Initialise {
        /// The server program.
        program: PathBuf,
        /// Exit status, or what was missing.
        reason: String,
        /// The last lines that it wrote.
        log_tail: String,
    },

    /// The server ended, or gave no answer in time. The tail of its log says why.
    #[error(
        "the {product} server on port {port} is not ready after {waited:.1?}: {reason}; the end of its log:\n{log_tail}"
    )]
    NotReady {
        /// Which product.
        product: Product,
        /// Its loopback port.
        port: u16,
        /// How long we waited.
        waited: Duration,
        /// Its exit status, or the last answer to a connection attempt.
        reason: String,
        /// The last lines of its error log.
        log_tail: String,
    },

    /// The call needs a running server, and this one has been killed or stopped, or died. Call `restart` first.
    #[error("{operation} needs a running server, and this one is not running")]
    NotRunning {
        /// The call that was refused.
        operation: &'static str,
    },

    /// SIGTERM did not end the server in time, so it was killed.
    #[error("the server did not stop within {waited:.0?} and was killed; the end of its log:\n{log_tail}")]
    StopTimedOut {
        /// How long we waited.
        waited: Duration,
        /// The last lines of its error log.
        log_tail: String,
    },

    /// A statement to the server failed.
    #[error("the server refused a statement: {0}")]
    Database(#[from] mysql_async::Error),

    /// A statement to a PostgreSQL server failed.
    #[error("the server refused a statement: {}", with_cause(.0))]
    Postgres(#[from] tokio_postgres::Error),

    /// A system call failed; the message says on what.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, and to which file.
        what: String,
        /// The system's answer.
        source: io::Error,
    },

    /// The tokio runtime shut down in the middle of the call.
    #[error("the tokio runtime shut down in the middle of the call")]
    Cancelled,
}

/// Adds to an I/O error what was being done.
pub(crate) trait IoContext<T> {
    /// `what` is a phrase like "create /x/y".
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

/// The client's own text is only "db error"; what the server said is its cause.
fn with_cause(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn install_hint(product: Product) -> &'static str {
    match product {
        Product::MySql => {
            "Install MySQL 8.0.29 or newer (Debian: 'apt install mysql-server-core' from the suite sid; \
             Ubuntu: 'apt install mysql-server'; Fedora: 'dnf install mysql-server'; \
             macOS: 'brew install mysql'), or set CONCORD_MYSQLD to the path of a mysqld, \
             or CONCORD_TEST_MYSQL_URL to the URL of a running server"
        }
        Product::MariaDb => {
            "Install MariaDB 10.5 or newer (Debian, Ubuntu: 'apt install mariadb-server'; \
             Fedora: 'dnf install mariadb-server'; macOS: 'brew install mariadb'), \
             or set CONCORD_MARIADBD to the path of a mariadbd, \
             or CONCORD_TEST_MYSQL_URL to the URL of a running server"
        }
        Product::Postgres => {
            "Install PostgreSQL 13 or newer (Debian, Ubuntu: 'apt install postgresql'; \
             Fedora: 'dnf install postgresql-server'; macOS: 'brew install postgresql'), \
             or set CONCORD_SANDBOX_POSTGRES to the path of a postgres program, with its initdb beside it"
        }
    }
}
