//! The barrier: one row per branch, written in the same local transaction as the work.
//!
//! ```text
//!            Try                      Confirm
//!  no row ─────────▶ tried ─────────────────────▶ confirmed
//!    │  │              │         Cancel
//!    │  │              └────────────────────────▶ cancelled
//!    │  │ Try, refused
//!    │  └─────────────────────────────────────▶ refused
//!    │ Cancel
//!    └────────────────────────────────────────▶ tombstone
//! ```
//!
//! Every other call finds the row, changes nothing and answers with what is recorded. So each handler takes effect
//! at most once, Confirm and Cancel never both, and a Try that comes after its Cancel not at all (Pat Helland,
//! "Life beyond Distributed Transactions", 2007: activities that remember the messages they have seen).
//!
//! Try and Cancel begin with one `INSERT … ON DUPLICATE KEY UPDATE`, which takes the row's exclusive lock whether
//! the row is there or not, and nothing else. Not so `SELECT … FOR UPDATE` on a row that is not there: under
//! REPEATABLE READ it locks the gap, two of them lock the same gap, and neither can insert. Nor `INSERT IGNORE`,
//! whose shared lock must be raised later, by two at the same time.
//!
//! Confirm begins with an `UPDATE`, which locks such a gap too where there is no row, but never inserts into one: it
//! may keep others waiting for a moment, and waits for none of them.

use bytes::Bytes;
use concord_crash_points::crash_point;
use concord_seeded_bugs::seeded_bug;
use concord_xa::barrier;
use tokio::time::{Instant, timeout};

use super::action::{CONTROL_TIME, Handler, Handlers, Phase, Ran, roll_back, run};
use super::locks::Key;
use crate::local::{LocalDatabase, LocalError, LocalTransaction, SqlValue};
use crate::participant::{Job, Unsettled};

/// What Try came to, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tried {
    Reserved { reply: Bytes },
    Refused { reason: String },
}

/// What Confirm or Cancel came to, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finished {
    Confirmed { reply: Bytes },
    Cancelled { reason: String },
    Refused { reason: String },
}

/// The statements, with the table's name in them.
#[derive(Debug, Clone)]
struct Statements {
    attempt: String,
    confirm: String,
    cancel: String,
    refuse: String,
    read: String,
    set_reply: String,
    set_confirm_reply: String,
}

impl Statements {
    fn new(table: &str) -> Self {
        use barrier::{STATE_CANCELLED, STATE_CONFIRMED, STATE_REFUSED, STATE_TOMBSTONE, STATE_TRIED};
        let insert = |state: u8, reply: &str, update: &str| {
            format!(
                "INSERT INTO {table} (gtid, branch, state, connection_id, reply) \
                 VALUES (?, ?, {state}, 0, {reply}) ON DUPLICATE KEY UPDATE {update}"
            )
        };
        // One row affected: it is new. Two: it was there. So with and without CLIENT_FOUND_ROWS, because the
        // update always changes it; it is rolled back.
        let touch = "connection_id = connection_id + 1";
        let the_row = "WHERE gtid = ? AND branch = ?";
        Statements {
            attempt: insert(STATE_TRIED, "''", touch),
            confirm: format!(
                "UPDATE {table} SET state = {STATE_CONFIRMED} {the_row} AND state = {STATE_TRIED}"
            ),
            cancel: insert(
                STATE_TOMBSTONE,
                "''",
                &format!("state = IF(state = {STATE_TRIED}, {STATE_CANCELLED}, state)"),
            ),
            refuse: insert(STATE_REFUSED, "?", touch),
            read: format!("SELECT state, reply, confirm_reply FROM {table} {the_row}"),
            set_reply: format!("UPDATE {table} SET reply = ? {the_row}"),
            set_confirm_reply: format!("UPDATE {table} SET confirm_reply = ? {the_row}"),
        }
    }
}

/// Rows affected by `INSERT … ON DUPLICATE KEY UPDATE` when the row is new. Also, with CLIENT_FOUND_ROWS, when it was
/// there and has not changed.
const INSERTED: u64 = 1;
/// Rows affected by it when the row was there and has changed.
const CHANGED: u64 = 2;

/// The barrier of one database.
#[derive(Debug, Clone)]
pub(crate) struct Barrier<D: LocalDatabase> {
    pub(super) database: D,
    /// The table's full name, quoted.
    pub(super) table: String,
    statements: Statements,
}

/// One row of the table.
struct Row {
    state: u8,
    reply: Bytes,
    confirm_reply: Bytes,
}

impl<D: LocalDatabase> Barrier<D> {
    pub(crate) fn new(database: D, table: String) -> Self {
        let statements = Statements::new(&table);
        Barrier { database, table, statements }
    }

    /// Runs Try, once.
    pub(crate) async fn attempt(
        &self,
        key: Key,
        job: Job,
        handlers: &Handlers<D>,
    ) -> Result<Tried, Unsettled> {
        let deadline = Instant::now() + job.remaining;
        crash_point!("tcc/try/before");
        let begun = self.database.begin_with(&self.statements.attempt, the_row(key));
        let begun = tokio::time::timeout_at(deadline, begun).await;
        let (mut transaction, affected) = begun.map_err(|_| no_answer())??;
        if affected != INSERTED && !seeded_bug!("no-barrier-row") {
            let row = self.read_own(&mut transaction, key).await?;
            roll_back::<D>(transaction).await;
            return recorded_try(row);
        }
        crash_point!("tcc/try/row");
        match run(&handlers.attempt, transaction, (key, Phase::Try), (job.payload, job.trace), deadline).await
        {
            Ran::Done(transaction, reply) => {
                crash_point!("tcc/try/done");
                self.commit(transaction, key, &self.statements.set_reply, &reply).await?;
                crash_point!("tcc/try/committed");
                Ok(Tried::Reserved { reply })
            }
            Ran::Refused(reason) => self.refuse(key, reason).await,
            Ran::Panicked(reason) => {
                tracing::error!(reason, "Try refused");
                self.refuse(key, reason).await
            }
            Ran::Failed(reason) => {
                tracing::warn!(reason, "Try failed");
                Err(Unsettled(reason))
            }
        }
    }

    /// Records that Try was refused, before anybody is told: a refused branch gets no Cancel, so nothing but this
    /// row keeps a duplicate out that comes later.
    pub(crate) async fn refuse(&self, key: Key, reason: String) -> Result<Tried, Unsettled> {
        let reason = crate::service::cut(reason);
        if seeded_bug!("refusal-not-recorded") {
            return Ok(Tried::Refused { reason });
        }
        let mut params = the_row(key);
        params.push(SqlValue::from(reason.as_bytes()));
        crash_point!("tcc/refuse/before");
        let (mut transaction, affected) = self.begin_with(&self.statements.refuse, params).await?;
        if affected == INSERTED {
            crash_point!("tcc/refuse/row");
            within(transaction.commit()).await?;
            crash_point!("tcc/refuse/committed");
            return Ok(Tried::Refused { reason });
        }
        // Another process was quicker, with another result perhaps.
        let row = self.read_own(&mut transaction, key).await?;
        roll_back::<D>(transaction).await;
        recorded_try(row)
    }

    /// Runs Confirm, once; only after Try.
    pub(crate) async fn confirm(
        &self,
        key: Key,
        job: Job,
        handlers: &Handlers<D>,
    ) -> Result<Finished, Unsettled> {
        let deadline = Instant::now() + job.remaining;
        crash_point!("tcc/confirm/before");
        let (mut transaction, confirmed) = self.begin_with(&self.statements.confirm, the_row(key)).await?;
        if confirmed == 0 && !seeded_bug!("confirm-blind") && !seeded_bug!("no-barrier-row") {
            let row = self.read(&mut transaction, key).await?;
            roll_back::<D>(transaction).await;
            if seeded_bug!("confirm-without-try") {
                return Ok(Finished::Confirmed { reply: Bytes::new() });
            }
            let no_try = Finished::Refused { reason: "no Try is on record".into() };
            return row.map_or(Ok(no_try), recorded_end);
        }
        crash_point!("tcc/confirm/row");
        match run(&handlers.confirm, transaction, (key, Phase::Confirm), (job.payload, job.trace), deadline)
            .await
        {
            Ran::Done(transaction, reply) => {
                crash_point!("tcc/confirm/done");
                self.commit(transaction, key, &self.statements.set_confirm_reply, &reply).await?;
                crash_point!("tcc/confirm/committed");
                Ok(Finished::Confirmed { reply })
            }
            other => stuck(Phase::Confirm, other),
        }
    }

    /// Runs Cancel, once; or sees to it that a Try that comes later is refused.
    ///
    /// Without a handler (the action is not known): only if none is needed.
    pub(crate) async fn cancel(
        &self,
        key: Key,
        job: Job,
        handler: Option<&Handler<D>>,
    ) -> Result<Finished, Unsettled> {
        let deadline = Instant::now() + job.remaining;
        crash_point!("tcc/cancel/before");
        let (mut transaction, affected) = self.begin_with(&self.statements.cancel, the_row(key)).await?;
        if affected != CHANGED && !seeded_bug!("no-barrier-row") {
            let row = self.read_own(&mut transaction, key).await?;
            if row.state == barrier::STATE_TOMBSTONE && !seeded_bug!("empty-cancel-forgotten") {
                // Perhaps a new one.
                crash_point!("tcc/tombstone/row");
                within(transaction.commit()).await?;
                crash_point!("tcc/tombstone/committed");
            } else {
                roll_back::<D>(transaction).await;
            }
            return recorded_end(row);
        }
        let Some(handler) = handler else {
            roll_back::<D>(transaction).await;
            return Err(no_action(&job.action));
        };
        crash_point!("tcc/cancel/row");
        match run(handler, transaction, (key, Phase::Cancel), (job.payload, job.trace), deadline).await {
            Ran::Done(transaction, _) => {
                crash_point!("tcc/cancel/done");
                within(transaction.commit()).await?;
                crash_point!("tcc/cancel/committed");
                Ok(Finished::Cancelled { reason: String::new() })
            }
            other => stuck(Phase::Cancel, other),
        }
    }

    async fn begin_with(&self, sql: &str, params: Vec<SqlValue>) -> Result<(D::Transaction, u64), Unsettled> {
        within(self.database.begin_with(sql, params)).await
    }

    /// Commits, with the handler's reply. None to record costs no statement.
    async fn commit(
        &self,
        transaction: D::Transaction,
        key: Key,
        set_reply: &str,
        reply: &Bytes,
    ) -> Result<(), Unsettled> {
        if reply.is_empty() {
            return within(transaction.commit()).await;
        }
        let mut params = vec![SqlValue::from(reply.clone())];
        params.extend(the_row(key));
        within(transaction.commit_with(set_reply, params)).await
    }

    /// Reads a row that this transaction has locked, and that is therefore there.
    async fn read_own(&self, transaction: &mut D::Transaction, key: Key) -> Result<Row, Unsettled> {
        let row = self.read(transaction, key).await?;
        row.ok_or_else(|| Unsettled(format!("the row of {} has gone", barrier::BARRIER_TABLE)))
    }

    async fn read(&self, transaction: &mut D::Transaction, key: Key) -> Result<Option<Row>, Unsettled> {
        let rows = within(transaction.query(&self.statements.read, the_row(key))).await?;
        let Some(values) = rows.into_iter().next() else { return Ok(None) };
        let row = row(values);
        row.map(Some).ok_or_else(|| Unsettled(format!("a row of {} cannot be read", barrier::BARRIER_TABLE)))
    }
}

fn the_row(key: Key) -> Vec<SqlValue> {
    vec![key.gtid.to_bytes().into(), key.branch.0.into()]
}

fn row(values: Vec<SqlValue>) -> Option<Row> {
    let mut values = values.into_iter();
    let state = u8::try_from(values.next()?.as_u64()?).ok()?;
    let mut bytes = || match values.next()? {
        SqlValue::Null => Some(Bytes::new()),
        SqlValue::Bytes(bytes) => Some(bytes.into()),
        _ => None,
    };
    Some(Row { state, reply: bytes()?, confirm_reply: bytes()? })
}

fn recorded_try(row: Row) -> Result<Tried, Unsettled> {
    use barrier::{STATE_CANCELLED, STATE_CONFIRMED, STATE_REFUSED, STATE_TOMBSTONE, STATE_TRIED};
    let refused = |reason: &str| Ok(Tried::Refused { reason: reason.to_owned() });
    match row.state {
        STATE_TRIED | STATE_CONFIRMED => Ok(Tried::Reserved { reply: row.reply }),
        STATE_CANCELLED => refused("the branch has been cancelled"),
        STATE_TOMBSTONE => refused("the branch was cancelled before it arrived"),
        STATE_REFUSED => refused(&String::from_utf8_lossy(&row.reply)),
        other => Err(unexpected(other)),
    }
}

fn recorded_end(row: Row) -> Result<Finished, Unsettled> {
    use barrier::{STATE_CANCELLED, STATE_CONFIRMED, STATE_REFUSED, STATE_TOMBSTONE};
    let cancelled = |reason: &str| Ok(Finished::Cancelled { reason: reason.to_owned() });
    match row.state {
        STATE_CONFIRMED => Ok(Finished::Confirmed { reply: row.confirm_reply }),
        STATE_CANCELLED => cancelled("cancelled before"),
        STATE_TOMBSTONE => cancelled("cancelled before it arrived"),
        STATE_REFUSED => cancelled(&format!("refused by Try: {}", String::from_utf8_lossy(&row.reply))),
        other => Err(unexpected(other)),
    }
}

fn unexpected(state: u8) -> Unsettled {
    Unsettled(match state {
        barrier::STATE_MARKER => "this branch is an XA branch: it has no Try, Confirm or Cancel".into(),
        // Under READ COMMITTED it may have come between Confirm's UPDATE and the look at the row.
        barrier::STATE_TRIED => "the branch has been tried only now".into(),
        other => format!("the branch's row has a state that this version does not know: {other}"),
    })
}

pub(crate) fn no_action(action: &str) -> Unsettled {
    Unsettled(format!("this participant has no TCC action {action:?}"))
}

/// Confirm and Cancel have no business "no": what they refuse waits for an operator, what fails is tried again.
fn stuck<D: LocalDatabase>(phase: Phase, ran: Ran<D>) -> Result<Finished, Unsettled> {
    match ran {
        Ran::Refused(reason) => {
            tracing::error!(reason, "{phase:?} refused");
            Ok(Finished::Refused { reason })
        }
        Ran::Panicked(reason) | Ran::Failed(reason) => {
            tracing::warn!(reason, "{phase:?} failed");
            Err(Unsettled(reason))
        }
        Ran::Done(..) => Err(Unsettled("the handler's work was not committed".into())),
    }
}

/// Waits for the database, but not for ever. What is given up is dropped, with its connection.
async fn within<T>(answer: impl Future<Output = Result<T, LocalError>>) -> Result<T, Unsettled> {
    match timeout(CONTROL_TIME, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(no_answer()),
    }
}

fn no_answer() -> Unsettled {
    Unsettled("the database did not answer in time".into())
}

impl From<LocalError> for Unsettled {
    fn from(error: LocalError) -> Self {
        Unsettled(match error.code() {
            Some(1146) => format!(
                "the table {} is missing: it is created when the participant starts ({error})",
                barrier::BARRIER_TABLE
            ),
            _ => error.to_string(),
        })
    }
}
