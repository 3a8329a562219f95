//! A connection to a MySQL, MariaDB or PostgreSQL server, and what differs between them.
//!
//! Statements go as text, several in one round trip. Values are written into them by [`Dialect::bytes`] and as whole
//! numbers, which need no quotes: nothing that comes from outside is ever part of a statement as it came.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use either::Either;
use futures_util::TryStreamExt as _;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ColumnIndex, ConnectOptions as _, Connection as _, Database, Decode, Row, Type};

/// Which SQL is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Also MariaDB's.
    MySql,
    Postgres,
}

impl Dialect {
    /// Bytes, as they stand in a statement.
    pub(super) fn bytes(self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(2 * bytes.len() + 12);
        text.push_str(match self {
            Dialect::MySql => "X'",
            Dialect::Postgres => "'\\x",
        });
        for byte in bytes {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push_str(match self {
            Dialect::MySql => "'",
            Dialect::Postgres => "'::bytea",
        });
        text
    }

    /// Text, as it stands in a statement.
    pub(super) fn text(self, text: &str) -> String {
        match self {
            Dialect::MySql => format!("CONVERT({} USING utf8mb4)", self.bytes(text.as_bytes())),
            Dialect::Postgres => format!("convert_from({}, 'UTF8')", self.bytes(text.as_bytes())),
        }
    }

    /// A column of text, as bytes.
    pub(super) fn bytes_of(self, column: &str) -> String {
        match self {
            Dialect::MySql => format!("CAST({column} AS BINARY)"),
            Dialect::Postgres => format!("convert_to({column}, 'UTF8')"),
        }
    }

    /// Gives keys, in rows of a digest and a gtid, to those who come first.
    pub(super) fn insert_keys(self, rows: &str) -> String {
        let unless_there = match self {
            Dialect::MySql => "ON DUPLICATE KEY UPDATE gtid = concord_keyed.gtid",
            Dialect::Postgres => "ON CONFLICT DO NOTHING",
        };
        format!("INSERT INTO concord_keyed (digest, gtid) VALUES {rows} {unless_there}")
    }

    /// Updates a row, and fails with [`is_unmatched`] where there is none like it: what follows in the same text is then
    /// not run. So neither needs a round trip of its own.
    pub(super) fn update_one(self, table: &str, change: &str, condition: &str) -> String {
        match self {
            Dialect::MySql => {
                format!("UPDATE {table} SET {change} WHERE {condition}; SELECT EXP(710 * (ROW_COUNT() <> 1))")
            }
            Dialect::Postgres => format!(
                "WITH changed AS (UPDATE {table} SET {change} WHERE {condition} RETURNING 1) \
                 SELECT 1 / count(*) FROM changed"
            ),
        }
    }

    /// The database's clock, in milliseconds since the Unix epoch. Not that of the statement's transaction's start.
    pub(super) fn now(self) -> &'static str {
        match self {
            Dialect::MySql => "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
            Dialect::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
        }
    }
}

/// How to connect.
#[derive(Debug, Clone)]
pub(super) enum Address {
    MySql(Box<MySqlConnectOptions>),
    Postgres(Box<PgConnectOptions>),
}

impl Address {
    /// From a URL: `mysql://…`, `postgres://…`.
    pub(super) fn parse(url: &str) -> Result<Self, sqlx::Error> {
        // Statements are long and hold payloads: they are not for the log.
        match url.split_once(':') {
            Some(("mysql" | "mariadb", _)) => {
                let options = url.parse::<MySqlConnectOptions>()?.disable_statement_logging();
                Ok(Address::MySql(Box::new(options)))
            }
            Some(("postgres" | "postgresql", _)) => {
                let options = url.parse::<PgConnectOptions>()?.disable_statement_logging();
                Ok(Address::Postgres(Box::new(options)))
            }
            _ => Err(sqlx::Error::Configuration("it begins with neither mysql: nor postgres:".into())),
        }
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Address::MySql(_) => Dialect::MySql,
            Address::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Connects. Whoever is silent for `idle_max_s` seconds inside a transaction is disconnected by the server, and what
    /// it has not committed is rolled back: else a coordinator that is paused or cut off could hold its locks for hours.
    pub(super) async fn connect(&self, idle_max_s: u64) -> Result<Link, sqlx::Error> {
        let connection = match self {
            Address::MySql(options) => Connection::MySql(options.connect().await?),
            Address::Postgres(options) => Connection::Postgres(options.connect().await?),
        };
        let idle_max = Duration::from_secs(idle_max_s);
        let mut link = Link { connection, idle_max, used: Instant::now() };
        let settings = match self.dialect() {
            Dialect::MySql => format!(
                "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                 SET SESSION wait_timeout = {idle_max_s}, innodb_lock_wait_timeout = 5"
            ),
            Dialect::Postgres => format!(
                "SET idle_in_transaction_session_timeout = '{idle_max_s}s'; SET lock_timeout = '5s'; \
                 SET synchronous_commit = on"
            ),
        };
        link.execute(settings).await?;
        Ok(link)
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    connection: Connection,
    /// After so long the server may have closed it.
    idle_max: Duration,
    used: Instant,
}

#[derive(Debug)]
enum Connection {
    MySql(MySqlConnection),
    Postgres(PgConnection),
}

impl Link {
    pub(super) fn dialect(&self) -> Dialect {
        match self.connection {
            Connection::MySql(_) => Dialect::MySql,
            Connection::Postgres(_) => Dialect::Postgres,
        }
    }

    /// Whether it was used a moment ago, so that the server has not closed it for its silence.
    pub(super) fn is_fresh(&self) -> bool {
        self.used.elapsed() < self.idle_max / 2
    }

    /// Runs statements; answers how many rows each has changed.
    pub(super) async fn execute(&mut self, sql: String) -> Result<Vec<u64>, sqlx::Error> {
        macro_rules! on {
            ($connection:expr) => {{
                let mut changed = Vec::new();
                let mut results = sqlx::raw_sql(&sql).fetch_many($connection);
                while let Some(result) = results.try_next().await? {
                    if let Either::Left(done) = result {
                        changed.push(done.rows_affected());
                    }
                }
                Ok(changed)
            }};
        }
        let result = match &mut self.connection {
            Connection::MySql(connection) => on!(connection),
            Connection::Postgres(connection) => on!(connection),
        };
        self.used = Instant::now();
        result
    }

    /// Runs a query; answers what `read` makes of its rows.
    pub(super) async fn query<T>(
        &mut self,
        sql: String,
        mut read: impl FnMut(&Columns<'_>) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, sqlx::Error> {
        macro_rules! on {
            ($connection:expr, $kind:path) => {{
                let mut rows = sqlx::raw_sql(&sql).fetch($connection);
                let mut found = Vec::new();
                while let Some(row) = rows.try_next().await? {
                    found.push(read(&$kind(&row))?);
                }
                Ok(found)
            }};
        }
        let result = match &mut self.connection {
            Connection::MySql(connection) => on!(connection, Columns::MySql),
            Connection::Postgres(connection) => on!(connection, Columns::Postgres),
        };
        self.used = Instant::now();
        result
    }

    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        match self.connection {
            Connection::MySql(connection) => connection.close().await,
            Connection::Postgres(connection) => connection.close().await,
        }
    }
}

/// Whether it is what [`Dialect::update_one`] fails with: a number out of range, a division by zero.
pub(super) fn is_unmatched(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|state| state == "22003" || state == "22012")
        }
        _ => false,
    }
}

/// The columns of a row, by their places.
pub(super) enum Columns<'r> {
    MySql(&'r sqlx::mysql::MySqlRow),
    Postgres(&'r sqlx::postgres::PgRow),
}

impl Columns<'_> {
    pub(super) fn number(&self, place: usize) -> Result<i64, sqlx::Error> {
        match self {
            Columns::MySql(row) => get(*row, place),
            Columns::Postgres(row) => get(*row, place),
        }
    }

    pub(super) fn number_or_null(&self, place: usize) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Columns::MySql(row) => get(*row, place),
            Columns::Postgres(row) => get(*row, place),
        }
    }

    pub(super) fn text(&self, place: usize) -> Result<String, sqlx::Error> {
        match self {
            Columns::MySql(row) => get(*row, place),
            Columns::Postgres(row) => get(*row, place),
        }
    }

    pub(super) fn bytes(&self, place: usize) -> Result<Vec<u8>, sqlx::Error> {
        match self {
            Columns::MySql(row) => get(*row, place),
            Columns::Postgres(row) => get(*row, place),
        }
    }
}

fn get<'r, R: Row, T>(row: &'r R, place: usize) -> Result<T, sqlx::Error>
where
    usize: ColumnIndex<R>,
    T: Decode<'r, R::Database> + Type<R::Database>,
    R::Database: Database,
{
    row.try_get(place)
}
