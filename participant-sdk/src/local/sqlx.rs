//! Local transactions through sqlx.

use sqlx::mysql::{MySqlPool, MySqlRow, MySqlTransactionManager};
use sqlx::pool::PoolConnection;
use sqlx::query::Query;
use sqlx::{
    AssertSqlSafe, Column as _, Error, MySql, MySqlConnection, Row as _, Type, TypeInfo as _, ValueRef as _,
};

// Not exported by sqlx itself. Through it, sqlx knows that a transaction is open, and a `begin` of the handler is a
// savepoint, not the start of another transaction, which would commit ours.
use sqlx_core::transaction::TransactionManager as _;

use super::{LocalDatabase, LocalError, LocalTransaction, SqlValue, server_error};

impl LocalDatabase for MySqlPool {
    type Transaction = SqlxTransaction;

    async fn begin(&self) -> Result<SqlxTransaction, LocalError> {
        // Not `Pool::begin`: cancelled in the middle, that puts the connection back with the answer to come.
        let mut transaction = SqlxTransaction { conn: Some(self.acquire().await?) };
        MySqlTransactionManager::begin(transaction.live()?, None).await?;
        Ok(transaction)
    }
}

/// A local transaction on a connection of sqlx's pool.
#[derive(Debug)]
pub struct SqlxTransaction {
    // Some until it has ended.
    conn: Option<PoolConnection<MySql>>,
}

impl SqlxTransaction {
    fn live(&mut self) -> Result<&mut MySqlConnection, LocalError> {
        self.conn.as_deref_mut().ok_or_else(|| LocalError::Connection("it has been given back".into()))
    }

    /// Refuses when a nested transaction is open: to commit would end that one only.
    fn only_one(&mut self) -> Result<&mut MySqlConnection, LocalError> {
        let conn = self.live()?;
        match MySqlTransactionManager::get_transaction_depth(conn) {
            1 => Ok(conn),
            depth => Err(LocalError::Other(format!("the handler left the transaction at depth {depth}"))),
        }
    }
}

impl Drop for SqlxTransaction {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            // Not back to the pool: sqlx does not find out of the rest of an answer, should there be one.
            drop(conn.detach());
        }
    }
}

impl LocalTransaction for SqlxTransaction {
    type Connection = MySqlConnection;

    fn connection(&self) -> &MySqlConnection {
        match &self.conn {
            Some(conn) => conn,
            None => unreachable!("commit and rollback take the transaction with them"),
        }
    }

    fn connection_mut(&mut self) -> &mut MySqlConnection {
        match &mut self.conn {
            Some(conn) => conn,
            None => unreachable!("commit and rollback take the transaction with them"),
        }
    }

    async fn execute(&mut self, sql: &str, params: Vec<SqlValue>) -> Result<u64, LocalError> {
        let query = sqlx::query(AssertSqlSafe(sql));
        Ok(bind(query, params).execute(self.live()?).await?.rows_affected())
    }

    async fn query(&mut self, sql: &str, params: Vec<SqlValue>) -> Result<Vec<Vec<SqlValue>>, LocalError> {
        let query = sqlx::query(AssertSqlSafe(sql));
        let rows = bind(query, params).fetch_all(self.live()?).await?;
        rows.iter().map(values).collect()
    }

    async fn commit(mut self) -> Result<(), LocalError> {
        MySqlTransactionManager::commit(self.only_one()?).await?;
        // Back to the pool.
        drop(self.conn.take());
        Ok(())
    }

    async fn rollback(mut self) -> Result<(), LocalError> {
        MySqlTransactionManager::rollback(self.only_one()?).await?;
        drop(self.conn.take());
        Ok(())
    }
}

type Bound<'q> = Query<'q, MySql, sqlx::mysql::MySqlArguments>;

fn bind(query: Bound<'_>, params: Vec<SqlValue>) -> Bound<'_> {
    params.into_iter().fold(query, |query, value| match value {
        SqlValue::Null => query.bind(None::<String>),
        SqlValue::Int(value) => query.bind(value),
        SqlValue::UInt(value) => query.bind(value),
        SqlValue::Text(text) => query.bind(text),
        SqlValue::Bytes(bytes) => query.bind(bytes),
    })
}

fn values(row: &MySqlRow) -> Result<Vec<SqlValue>, LocalError> {
    (0..row.len()).map(|index| sql_value(row, index)).collect()
}

fn sql_value(row: &MySqlRow, index: usize) -> Result<SqlValue, LocalError> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(SqlValue::Null);
    }
    let info = raw.type_info().into_owned();
    // By what the types fit, not by their names: a string with a collation such as utf8mb4_bin has the name of a
    // binary one.
    let unsigned = <u64 as Type<MySql>>::compatible(&info);
    let (integer, text) = (<i64 as Type<MySql>>::compatible(&info), <str as Type<MySql>>::compatible(&info));
    Ok(match info.name() {
        "DECIMAL" | "JSON" | "SET" => SqlValue::Text(row.try_get_unchecked(index)?),
        "BIT" | "BINARY" | "VARBINARY" | "TINYBLOB" | "BLOB" | "MEDIUMBLOB" | "LONGBLOB" if !text => {
            SqlValue::Bytes(row.try_get_unchecked(index)?)
        }
        _ if text => SqlValue::Text(row.try_get_unchecked(index)?),
        _ if unsigned => SqlValue::UInt(row.try_get_unchecked(index)?),
        _ if integer => SqlValue::Int(row.try_get_unchecked(index)?),
        other => {
            let name = row.column(index).name();
            return Err(LocalError::Other(format!(
                "column {name} has the type {other}: CAST it in the query"
            )));
        }
    })
}

impl From<Error> for LocalError {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(error) => match error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
                Some(error) => {
                    let state = error.code().unwrap_or_default().to_owned();
                    server_error(error.number(), state, error.message().to_owned())
                }
                None => LocalError::Connection(error.to_string()),
            },
            Error::ColumnDecode { .. }
            | Error::Decode(_)
            | Error::Encode(_)
            | Error::ColumnIndexOutOfBounds { .. }
            | Error::ColumnNotFound(_) => LocalError::Other(error.to_string()),
            other => LocalError::Connection(other.to_string()),
        }
    }
}
