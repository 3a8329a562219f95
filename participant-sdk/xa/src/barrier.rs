//! The barrier table: one row per branch, in the participant's own database.
//!
//! The marker row is written inside the branch, so it is there exactly if the branch committed: the evidence
//! for docs/xa.md rule 8. The tombstone takes the place of the marker of a branch that was rolled back, so
//! that the branch, should it still arrive, fails on the duplicate (rule 9).

use bytes::Bytes;
use mysql_async::{Row, from_row_opt};

use crate::{
    error::{XaError, code},
    session::{Outcome, Session},
    statement::push_bytes,
    xid::Xid,
};

/// The table's name.
pub const BARRIER_TABLE: &str = "concord_barrier";

/// What a handler may answer, at most.
pub const REPLY_MAX_BYTES: usize = 64 * 1024;

/// State of a row: the marker of an XA branch.
pub const STATE_MARKER: u8 = 1;
/// Rolled back, or cancelled, perhaps before it arrived. Of either kind of branch.
pub const STATE_TOMBSTONE: u8 = 2;
/// TCC: tried. `reply` is Try's.
pub const STATE_TRIED: u8 = 3;
/// TCC: confirmed. `reply` is Try's, `confirm_reply` is Confirm's.
pub const STATE_CONFIRMED: u8 = 4;
/// TCC: cancelled after Try.
pub const STATE_CANCELLED: u8 = 5;
/// TCC: refused by Try. `reply` is the reason.
pub const STATE_REFUSED: u8 = 6;

/// The barrier table's full name, quoted. With `database` written out, because a handler may change the default
/// database of its session.
pub fn table_name(database: Option<&str>) -> String {
    match database {
        Some(database) => format!("`{}`.`{BARRIER_TABLE}`", database.replace('`', "``")),
        None => format!("`{BARRIER_TABLE}`"),
    }
}

/// Creates the table if it is not there. Safe to repeat and to race. `table`: of [`table_name`].
pub fn create_sql(table: &str) -> String {
    // MEDIUMBLOB: a BLOB ends one byte short of 64 KiB. utf8mb4 only because a table needs some charset.
    format!(
        "CREATE TABLE IF NOT EXISTS {table} (
           gtid BINARY(16) NOT NULL,
           branch INT UNSIGNED NOT NULL,
           state TINYINT UNSIGNED NOT NULL
             COMMENT '1 XA marker, 2 rolled back; TCC: 3 tried, 4 confirmed, 5 cancelled, 6 refused',
           connection_id BIGINT UNSIGNED NOT NULL,
           reply MEDIUMBLOB NOT NULL,
           created_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
           confirm_reply MEDIUMBLOB NULL,
           PRIMARY KEY (gtid, branch)
         ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    )
}

/// Adds the column that a table has not which was created before there was TCC. XA does without it.
pub fn add_confirm_reply_sql(table: &str) -> String {
    format!("ALTER TABLE {table} ADD COLUMN confirm_reply MEDIUMBLOB NULL")
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) state: u8,
    pub(crate) connection_id: u64,
    pub(crate) reply: Bytes,
    /// Seconds since it was written, by the server's clock.
    pub(crate) age_s: f64,
}

/// What the table says of one branch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Evidence {
    /// A committed row: a marker (the branch committed) or a tombstone (it was rolled back).
    Committed(Entry),
    /// A row that is not committed: the branch is prepared or under way, or someone is writing a tombstone.
    Uncommitted(Entry),
    /// No row.
    Absent,
    /// This database has no barrier table, or it may not be read: nothing can be said.
    NoTable,
}

/// The table of one database.
#[derive(Debug, Clone)]
pub(crate) struct Barrier {
    pub(crate) table: String,
}

impl Barrier {
    pub(crate) fn new(database: Option<&str>) -> Self {
        Barrier { table: table_name(database) }
    }

    /// Writes the marker. With `rows`, only if the statement just before it matched so many; else error 1048,
    /// which ends the batch before PREPARE at no cost.
    pub(crate) fn push_marker(
        &self,
        text: &mut String,
        xid: &Xid,
        connection_id: u32,
        reply: &[u8],
        rows: Option<u64>,
    ) {
        let state = match rows {
            Some(rows) => format!("IF(ROW_COUNT() = {rows}, {STATE_MARKER}, NULL)"),
            None => STATE_MARKER.to_string(),
        };
        self.push_insert(text, xid, &state, connection_id, reply);
    }

    /// Leaves a tombstone unless there is a row, then reads the row. Waits for a row that is not committed.
    pub(crate) fn tombstone_sql(&self, xid: &Xid, connection_id: u32) -> String {
        let mut text = String::with_capacity(400);
        self.push_insert(&mut text, xid, &STATE_TOMBSTONE.to_string(), connection_id, &[]);
        // Never SELECT … FOR UPDATE on a missing row: its gap locks deadlock with each other.
        text.push_str(" ON DUPLICATE KEY UPDATE state = state; ");
        self.push_select(&mut text, xid);
        text
    }

    fn push_insert(&self, text: &mut String, xid: &Xid, state: &str, connection_id: u32, reply: &[u8]) {
        text.push_str("INSERT INTO ");
        text.push_str(&self.table);
        text.push_str(" (gtid, branch, state, connection_id, reply) VALUES (");
        push_bytes(text, &xid.gtid.to_bytes());
        text.push_str(&format!(", {}, {state}, {connection_id}, ", xid.branch));
        push_bytes(text, reply);
        text.push(')');
    }

    fn push_select(&self, text: &mut String, xid: &Xid) {
        text.push_str(
            "SELECT state, connection_id, reply, \
             CAST(UNIX_TIMESTAMP(NOW(3)) - UNIX_TIMESTAMP(created_at) AS DOUBLE) FROM ",
        );
        text.push_str(&self.table);
        text.push_str(" WHERE gtid = ");
        push_bytes(text, &xid.gtid.to_bytes());
        text.push_str(&format!(" AND branch = {}", xid.branch));
    }

    /// Reads what the table says. The uncommitted state first: a branch that commits in between is then seen
    /// as committed, never as absent.
    pub(crate) async fn look(
        &self,
        session: &mut Session,
        limit: std::time::Duration,
        xid: &Xid,
    ) -> Result<Evidence, XaError> {
        let mut sql = String::from("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED; ");
        self.push_select(&mut sql, xid);
        sql.push_str("; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; ");
        self.push_select(&mut sql, xid);
        let results = match session.run_within(limit, &sql).await {
            Ok(results) => results,
            Err(failure) => {
                return match failure.error.code() {
                    Some(code::NO_SUCH_TABLE | code::NO_DB | code::TABLE_ACCESS_DENIED) => {
                        Ok(Evidence::NoTable)
                    }
                    _ => Err(failure.error),
                };
            }
        };
        let mut entries = results.into_iter().map(entry);
        let (_, uncommitted, _) = (entries.next(), entries.next(), entries.next());
        let committed = entries.next().transpose()?.flatten();
        let uncommitted = uncommitted.transpose()?.flatten();
        Ok(match (committed, uncommitted) {
            (Some(entry), _) => Evidence::Committed(entry),
            (None, Some(entry)) => Evidence::Uncommitted(entry),
            (None, None) => Evidence::Absent,
        })
    }
}

/// The row that a SELECT of ours gave, if it gave one.
pub(crate) fn entry(outcome: Outcome) -> Result<Option<Entry>, XaError> {
    let Some(row): Option<Row> = outcome.rows.into_iter().next() else { return Ok(None) };
    // A row that cannot be read is not "no row": that would be taken for a rollback.
    let (state, connection_id, reply, age_s) = from_row_opt::<(u8, u64, Vec<u8>, f64)>(row)
        .map_err(|_| XaError::Statement(format!("a row of {BARRIER_TABLE} cannot be read")))?;
    Ok(Some(Entry { state, connection_id, reply: reply.into(), age_s }))
}
