//! Local transactions through mysql_async.

use std::time::Duration;

use concord_xa::{Isolation, Options, XaError};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use mysql_async::consts::ColumnType;
use mysql_async::prelude::{AsQuery, Queryable, StatementLike};
use mysql_async::{
    BinaryProtocol, Column, Conn, DriverError, Error, Opts, OptsBuilder, Params, Pool, PoolConstraints,
    PoolOpts, QueryResult, Row, Statement, TextProtocol, Value,
};

use super::{LocalDatabase, LocalError, LocalTransaction, SqlValue, server_error};

/// The SDK's own pool: of the database that [`crate::Builder::database`] names.
#[derive(Debug, Clone)]
pub struct MySql {
    pool: Pool,
    wait: Duration,
}

/// Connections idle for longer than this are closed.
const KEEP: Duration = Duration::from_secs(300);
/// Prepared statements kept by each connection.
const STATEMENTS: usize = 64;

impl MySql {
    /// A pool set up as the options say. Nothing is sent yet.
    ///
    /// Transactions are READ COMMITTED unless the options say otherwise. The barrier does not need it, but handlers
    /// that update rows by a condition do better with it: under REPEATABLE READ, the servers' default, an UPDATE
    /// keeps the locks of rows that it did not match, and locks the gap where it found none. Measured with 64 branches
    /// at a time, each adding to a row or inserting it: 620 of 640 ended in a deadlock, and none when READ COMMITTED.
    ///
    /// # Errors
    /// [`XaError::Url`].
    pub fn connect(url: &str, options: &Options) -> Result<Self, XaError> {
        let isolation = options.isolation.or(Some(Isolation::ReadCommitted));
        let setup = concord_xa::branch_setup(&Options { isolation, ..options.clone() });
        let bounds = PoolConstraints::new(0, options.sessions_max.max(1)).unwrap_or_default();
        let pool = PoolOpts::default()
            .with_constraints(bounds)
            .with_inactive_connection_ttl(KEEP)
            // It would cost a round trip and every prepared statement; handlers leave their session as it was.
            .with_reset_connection(false);
        // As for XA branches: affected rows are rows matched, and no hopping to the server's socket.
        let opts = OptsBuilder::from_opts(Opts::from_url(url)?)
            .client_found_rows(true)
            .prefer_socket(false)
            .stmt_cache_size(STATEMENTS)
            .init(vec![setup])
            .pool_opts(pool);
        // Both together, because the driver's pool does not tell waiting from connecting.
        Ok(MySql { pool: Pool::new(opts), wait: options.session_wait + options.connect_timeout })
    }

    /// The driver's pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    async fn connection(&self) -> Result<Conn, LocalError> {
        match tokio::time::timeout(self.wait, self.pool.get_conn()).await {
            Ok(conn) => Ok(conn?),
            Err(_) => Err(LocalError::Connection("no connection came free in time".into())),
        }
    }
}

impl LocalDatabase for MySql {
    type Transaction = MySqlTransaction;

    async fn begin(&self) -> Result<MySqlTransaction, LocalError> {
        MySqlTransaction::begin(self.connection().await?).await
    }

    async fn begin_with(
        &self,
        sql: &str,
        params: Vec<SqlValue>,
    ) -> Result<(MySqlTransaction, u64), LocalError> {
        MySqlTransaction::begin_with(self.connection().await?, sql, params).await
    }
}

impl LocalDatabase for Pool {
    type Transaction = MySqlTransaction;

    async fn begin(&self) -> Result<MySqlTransaction, LocalError> {
        MySqlTransaction::begin(self.get_conn().await?).await
    }

    async fn begin_with(
        &self,
        sql: &str,
        params: Vec<SqlValue>,
    ) -> Result<(MySqlTransaction, u64), LocalError> {
        MySqlTransaction::begin_with(self.get_conn().await?, sql, params).await
    }
}

/// A local transaction on a connection of mysql_async. Use the driver's `Queryable` methods on it.
///
/// It is not a `Conn`, whose `start_transaction` would end this transaction: in MySQL a transaction that begins
/// commits the one before it.
#[derive(Debug)]
pub struct MySqlTransaction {
    // Some until it has ended.
    conn: Option<Conn>,
}

impl MySqlTransaction {
    async fn begin(mut conn: Conn) -> Result<Self, LocalError> {
        // Only now is there something that must not go back to the pool.
        let begun = conn.query_drop("START TRANSACTION").await;
        let transaction = MySqlTransaction { conn: Some(conn) };
        begun?;
        Ok(transaction)
    }

    async fn begin_with(conn: Conn, sql: &str, params: Vec<SqlValue>) -> Result<(Self, u64), LocalError> {
        let text = inline(sql, params)?;
        let mut transaction = MySqlTransaction { conn: Some(conn) };
        match transaction.run_two(&format!("START TRANSACTION; {text}")).await {
            Ok(affected) => Ok((transaction, affected)),
            Err(error) => {
                let error = LocalError::from(error);
                if !error.is_connection_lost() {
                    let _ = transaction.rollback().await;
                }
                Err(error)
            }
        }
    }

    /// Runs two statements, and answers how many rows the second affected.
    async fn run_two(&mut self, sql: &str) -> Result<u64, Error> {
        let mut results = self.live()?.query_iter(sql).await?;
        results.for_each(drop).await?;
        let affected = results.affected_rows();
        results.drop_result().await?;
        Ok(affected)
    }

    /// The connection. One on which an answer was not waited for is broken: the next answer on it would be
    /// that one. The driver itself does not look.
    fn live(&mut self) -> Result<&mut Conn, Error> {
        match &mut self.conn {
            Some(conn) if !conn.is_disconnected() => Ok(conn),
            _ => Err(DriverError::ConnectionClosed.into()),
        }
    }

    async fn end(mut self, sql: &str) -> Result<(), LocalError> {
        self.live()?.query_drop(sql).await?;
        // Back to the pool.
        drop(self.conn.take());
        Ok(())
    }
}

impl Drop for MySqlTransaction {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            // The first poll marks it as closed, so that it does not go back to the pool, and sends the farewell.
            let _ = conn.disconnect().now_or_never();
        }
    }
}

impl LocalTransaction for MySqlTransaction {
    type Connection = Self;

    fn connection(&self) -> &Self {
        self
    }

    fn connection_mut(&mut self) -> &mut Self {
        self
    }

    async fn execute(&mut self, sql: &str, params: Vec<SqlValue>) -> Result<u64, LocalError> {
        let result = self.exec_iter(sql, positional(params)).await?;
        let affected = result.affected_rows();
        result.drop_result().await?;
        Ok(affected)
    }

    async fn query(&mut self, sql: &str, params: Vec<SqlValue>) -> Result<Vec<Vec<SqlValue>>, LocalError> {
        let rows: Vec<Row> = self.exec(sql, positional(params)).await?;
        rows.into_iter().map(values).collect()
    }

    async fn commit(self) -> Result<(), LocalError> {
        self.end("COMMIT").await
    }

    async fn commit_with(self, sql: &str, params: Vec<SqlValue>) -> Result<(), LocalError> {
        let text = inline(sql, params)?;
        // The server stops at the first error, and does not get to the COMMIT.
        self.end(&format!("{text}; COMMIT")).await
    }

    async fn rollback(self) -> Result<(), LocalError> {
        self.end("ROLLBACK").await
    }
}

impl Queryable for MySqlTransaction {
    fn ping(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move { self.live()?.ping().await }.boxed()
    }

    fn query_iter<'a, Q>(
        &'a mut self,
        query: Q,
    ) -> BoxFuture<'a, Result<QueryResult<'a, 'static, TextProtocol>, Error>>
    where
        Q: AsQuery + 'a,
    {
        async move { self.live()?.query_iter(query).await }.boxed()
    }

    fn prep<'a, Q>(&'a mut self, query: Q) -> BoxFuture<'a, Result<Statement, Error>>
    where
        Q: AsQuery + 'a,
    {
        async move { self.live()?.prep(query).await }.boxed()
    }

    fn close(&mut self, stmt: Statement) -> BoxFuture<'_, Result<(), Error>> {
        async move { self.live()?.close(stmt).await }.boxed()
    }

    fn exec_iter<'a: 's, 's, Q, P>(
        &'a mut self,
        stmt: Q,
        params: P,
    ) -> BoxFuture<'s, Result<QueryResult<'a, 'static, BinaryProtocol>, Error>>
    where
        Q: StatementLike + 's,
        P: Into<Params>,
    {
        let params = params.into();
        async move { self.live()?.exec_iter(stmt, params).await }.boxed()
    }

    fn exec_batch<'a: 'b, 'b, S, P, I>(
        &'a mut self,
        stmt: S,
        params_iter: I,
    ) -> BoxFuture<'b, Result<(), Error>>
    where
        S: StatementLike + 'b,
        I: IntoIterator<Item = P> + Send + 'b,
        I::IntoIter: Send,
        P: Into<Params> + Send,
    {
        async move { self.live()?.exec_batch(stmt, params_iter).await }.boxed()
    }
}

/// Statements that share a round trip are text, with the parameters written into them.
fn inline(sql: &str, params: Vec<SqlValue>) -> Result<String, LocalError> {
    concord_xa::inline(sql, positional(params)).map_err(|error| LocalError::Other(error.to_string()))
}

fn positional(params: Vec<SqlValue>) -> Params {
    if params.is_empty() {
        return Params::Empty;
    }
    Params::Positional(params.into_iter().map(Value::from).collect())
}

impl From<SqlValue> for Value {
    fn from(value: SqlValue) -> Self {
        match value {
            SqlValue::Null => Value::NULL,
            SqlValue::Int(value) => Value::Int(value),
            SqlValue::UInt(value) => Value::UInt(value),
            SqlValue::Text(text) => Value::Bytes(text.into_bytes()),
            SqlValue::Bytes(bytes) => Value::Bytes(bytes),
        }
    }
}

fn values(row: Row) -> Result<Vec<SqlValue>, LocalError> {
    let columns = row.columns();
    row.unwrap().into_iter().zip(columns.iter()).map(|(value, column)| sql_value(value, column)).collect()
}

fn sql_value(value: Value, column: &Column) -> Result<SqlValue, LocalError> {
    match value {
        Value::NULL => Ok(SqlValue::Null),
        Value::Int(value) => Ok(SqlValue::Int(value)),
        Value::UInt(value) => Ok(SqlValue::UInt(value)),
        Value::Bytes(bytes) if is_text(column) => match String::from_utf8(bytes) {
            Ok(text) => Ok(SqlValue::Text(text)),
            Err(error) => Ok(SqlValue::Bytes(error.into_bytes())),
        },
        Value::Bytes(bytes) => Ok(SqlValue::Bytes(bytes)),
        Value::Float(_) | Value::Double(_) | Value::Date(..) | Value::Time(..) => {
            let (name, kind) = (column.name_str(), column.column_type());
            Err(LocalError::Other(format!("column {name} has the type {kind:?}: CAST it in the query")))
        }
    }
}

/// Strings and binary strings have the same types and differ in the character set: 63 is `binary`. Numbers and
/// JSON bear it too.
fn is_text(column: &Column) -> bool {
    const BINARY: u16 = 63;
    let textual = [ColumnType::MYSQL_TYPE_NEWDECIMAL, ColumnType::MYSQL_TYPE_JSON];
    column.character_set() != BINARY || textual.contains(&column.column_type())
}

impl From<Error> for LocalError {
    fn from(error: Error) -> Self {
        match error {
            Error::Server(error) => server_error(error.code, error.state, error.message),
            Error::Driver(error @ (DriverError::StmtParamsMismatch { .. } | DriverError::MixedParams)) => {
                LocalError::Other(error.to_string())
            }
            other => LocalError::Connection(other.to_string()),
        }
    }
}
