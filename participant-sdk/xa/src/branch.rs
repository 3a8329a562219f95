//! A branch under way: statements, then the vote.

use bytes::Bytes;
use concord_crash_points::crash_point;
use concord_seeded_bugs::seeded_bug;
use mysql_async::{Params, Row};

use crate::barrier::REPLY_MAX_BYTES;
use crate::database::Database;
use crate::error::{XaError, code};
use crate::prepared::PreparedBranch;
use crate::resolve::Resolution;
use crate::session::{Failure, Outcome, Session};
use crate::statement::{Statement, excerpt};
use crate::trip::{Part, Queued, Trip, WRITE_COUNTERS, counters, push_guard};
use crate::xid::Xid;

/// The answer to PREPARE.
#[derive(Debug)]
pub enum Vote {
    /// Prepared: survives everything until phase two.
    Yes(PreparedBranch),
    /// Changed nothing, and has ended (docs/xa.md rule 18).
    ReadOnly,
    /// Cannot commit, and has rolled back.
    No {
        /// Why. For people.
        reason: String,
    },
    /// The answer was lost. The branch may be prepared, or yet become so: ask [`Database::settle`].
    Unknown {
        /// What happened. For people.
        reason: String,
        /// The session that may still be at work on it.
        connection_id: u32,
    },
}

/// A branch under way, on a session of its own. Dropped, it is rolled back, by the loss of its connection.
#[derive(Debug)]
pub struct Branch {
    database: Database,
    session: Session,
    xid: Xid,
    name: String,
    started: bool,
    read_only: bool,
    watch_writes: bool,
    /// The write counters at the start, when only reads were seen since.
    counters: Option<u64>,
    only_reads: bool,
    reusable: bool,
    failed: Option<String>,
    queue: Vec<Queued>,
}

impl Branch {
    pub(crate) fn new(database: Database, session: Session, xid: Xid) -> Self {
        Branch {
            database,
            session,
            xid,
            name: xid.to_sql(),
            started: false,
            read_only: false,
            watch_writes: true,
            counters: None,
            only_reads: true,
            reusable: true,
            failed: None,
            queue: Vec::new(),
        }
    }

    /// The branch's name.
    pub fn xid(&self) -> &Xid {
        &self.xid
    }

    /// The server's number for the branch's session, for KILL.
    pub fn connection_id(&self) -> u32 {
        self.session.id()
    }

    /// Declares that the branch only reads. The server refuses writes (error 1792), and the vote is
    /// [`Vote::ReadOnly`] without further proof. Before the first statement only.
    pub fn set_read_only(&mut self) {
        self.read_only = !self.started;
    }

    /// Whether to find out by the server's counters that the branch wrote nothing (the default). It costs a
    /// statement at the start and one at the end of branches that begin with a plain SELECT; where such
    /// branches always write later, switch it off.
    pub fn watch_writes(&mut self, watch: bool) {
        self.watch_writes = watch;
    }

    /// Whether every statement so far was a plain SELECT, judging by its text.
    pub fn only_reads(&self) -> bool {
        self.only_reads
    }

    /// Runs a statement and answers how many rows it matched.
    ///
    /// # Errors
    /// Any. After one, the branch can only vote no.
    pub async fn exec(&mut self, sql: &str, params: impl Into<Params>) -> Result<u64, XaError> {
        let outcome = self.direct(sql, params.into(), false).await?;
        Ok(outcome.affected)
    }

    /// Runs a statement that must match exactly `rows` rows.
    ///
    /// # Errors
    /// [`XaError::RowCount`] when it matched more or fewer (docs/xa.md rule 6: an UPDATE that matched nothing
    /// would still prepare); any other. After one, the branch can only vote no.
    pub async fn exec_exactly(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
        rows: u64,
    ) -> Result<(), XaError> {
        let actual = self.exec(sql, params).await?;
        if actual == rows {
            return Ok(());
        }
        Err(self.fail(XaError::RowCount { statement: excerpt(sql), expected: rows, actual }))
    }

    /// Runs a query and answers its rows.
    ///
    /// # Errors
    /// Any. After one, the branch can only vote no.
    pub async fn query(&mut self, sql: &str, params: impl Into<Params>) -> Result<Vec<Row>, XaError> {
        Ok(self.direct(sql, params.into(), true).await?.rows)
    }

    /// Keeps a statement back, to be sent together with the next one, or with the vote: then the whole
    /// branch is one round trip. With `rows`, it must match so many rows, else the branch votes no.
    ///
    /// # Errors
    /// [`XaError::Statement`], [`XaError::Failed`].
    pub fn queue(&mut self, sql: &str, params: impl Into<Params>, rows: Option<u64>) -> Result<(), XaError> {
        self.push(sql, params.into(), rows, None)
    }

    /// As [`Branch::queue`]; `refusal` is the reason given when the number of rows is not met.
    ///
    /// # Errors
    /// [`XaError::Statement`], [`XaError::Failed`].
    pub fn queue_or_refuse(
        &mut self,
        sql: &str,
        params: impl Into<Params>,
        rows: u64,
        refusal: impl Into<String>,
    ) -> Result<(), XaError> {
        self.push(sql, params.into(), Some(rows), Some(refusal.into()))
    }

    fn push(
        &mut self,
        sql: &str,
        params: Params,
        rows: Option<u64>,
        refusal: Option<String>,
    ) -> Result<(), XaError> {
        let statement = self.accept(sql, params)?;
        if statement.many_results {
            return Err(self.fail(XaError::Statement("CALL cannot be queued: run it with exec".into())));
        }
        if self.read_only {
            return Err(self.fail(XaError::Statement("a read-only branch has nothing to queue".into())));
        }
        self.only_reads = false;
        self.queue.push(Queued { text: statement.text, rows, refusal });
        Ok(())
    }

    /// Asks the database to prepare, with everything queued, in one round trip: marker row, END, PREPARE.
    /// `reply` is kept in the marker row, for repeats.
    pub async fn prepare(mut self, reply: &[u8]) -> Vote {
        if let Err(reason) = self.ready(reply) {
            return self.refuse(reason).await;
        }
        if !self.started && self.queue.is_empty() {
            self.session.give_back();
            return Vote::ReadOnly;
        }
        if self.wrote_nothing().await {
            return self.leave().await;
        }
        let mut trip = self.ending(reply);
        trip.add(Part::Last, &format!("XA PREPARE {}", self.name));
        crash_point!("xa/prepare/before");
        let answer = self.session.run(&trip.text).await;
        crash_point!("xa/prepare/after");
        let failure = match answer {
            Ok(results) if results.len() == trip.parts.len() => return Vote::Yes(self.into_prepared()),
            Ok(done) => Failure { done, error: XaError::Connection("an answer of the wrong shape".into()) },
            Err(failure) => failure,
        };
        if !failure.error.connection_survives() {
            let reason = format!("the answer to PREPARE was lost: {}", failure.error);
            return Vote::Unknown { reason, connection_id: self.session.id() };
        }
        if seeded_bug!("failed-prepare-is-yes") {
            return Vote::Yes(self.into_prepared());
        }
        let reason = self.explain(&trip, &failure);
        self.refuse(reason).await
    }

    /// Commits in one phase, with everything queued: marker row, END, COMMIT ONE PHASE, on the owner session,
    /// never prepared (docs/xa.md rule 14). A branch that did not commit leaves a tombstone, so that a late
    /// duplicate cannot commit either.
    pub async fn commit_one_phase(mut self, reply: &[u8]) -> Resolution {
        let (database, xid, id) = (self.database.clone(), self.xid, self.session.id());
        let reason = match self.ready(reply) {
            Err(reason) => reason,
            Ok(()) => {
                let mut trip = self.ending(reply);
                trip.add(Part::Last, &format!("XA COMMIT {} ONE PHASE", self.name));
                crash_point!("xa/one-phase/before");
                let answer = self.session.run(&trip.text).await;
                crash_point!("xa/one-phase/after");
                match answer {
                    Ok(results) if results.len() == trip.parts.len() => {
                        self.finish_session();
                        return Resolution::Committed { reply: Bytes::copy_from_slice(reply) };
                    }
                    Ok(_) => "an answer of the wrong shape".to_string(),
                    Err(failure) if failure.error.connection_survives() => self.explain(&trip, &failure),
                    Err(failure) => {
                        drop(self);
                        database.end_session(id).await;
                        return database.fence(&xid, &failure.error.to_string()).await;
                    }
                }
            }
        };
        self.abort().await;
        database.fence(&xid, &reason).await
    }

    /// Rolls back: END (its error ignored), ROLLBACK, else the connection is closed (docs/xa.md rule 15).
    pub async fn abort(mut self) {
        if !self.started {
            // Nothing was sent, or XA START failed.
            if self.failed.is_none() {
                self.session.give_back();
            }
            return;
        }
        if self.session.was_cut() {
            // The server may still be at it, and would go on to the statements after it.
            let (database, id) = (self.database.clone(), self.session.id());
            drop(self);
            database.end_session(id).await;
            return;
        }
        let limit = self.database.0.options.control_timeout;
        let sql = format!("XA END {0}; XA ROLLBACK {0}", self.name);
        crash_point!("xa/abort/before");
        let answer = self.session.run_within(limit, &sql).await;
        crash_point!("xa/abort/after");
        match answer {
            Ok(_) => self.finish_session(),
            // A deadlock's victim refuses END and takes ROLLBACK. Not used again after an XA error (rule 11).
            Err(failure) if failure.error.connection_survives() => {
                let _ = self.session.run_within(limit, &format!("XA ROLLBACK {}", self.name)).await;
            }
            Err(_) => {}
        }
    }

    fn finish_session(self) {
        if self.reusable {
            self.session.give_back();
        }
    }

    fn into_prepared(self) -> PreparedBranch {
        let detached = self.database.0.server.detaches_on_prepare;
        let connection_id = self.session.id();
        let session = if detached {
            if self.reusable {
                self.session.give_back();
            }
            None
        } else {
            Some(self.session)
        };
        PreparedBranch::new(self.database, self.xid, session, self.reusable, connection_id)
    }

    async fn refuse(self, reason: String) -> Vote {
        self.abort().await;
        Vote::No { reason }
    }

    /// Ends a branch that changed nothing.
    async fn leave(mut self) -> Vote {
        let sql = format!("XA END {0}; XA ROLLBACK {0}", self.name);
        match self.session.run(&sql).await {
            Ok(_) => {
                self.finish_session();
                Vote::ReadOnly
            }
            Err(failure) => Vote::No { reason: failure.error.to_string() },
        }
    }

    fn ready(&self, reply: &[u8]) -> Result<(), String> {
        if let Some(reason) = &self.failed {
            return Err(reason.clone());
        }
        if reply.len() > REPLY_MAX_BYTES {
            return Err(format!("the reply has {} bytes; at most {REPLY_MAX_BYTES} are kept", reply.len()));
        }
        Ok(())
    }

    /// Proof from the server that nothing was written. Affected rows would not do: a SELECT may call a
    /// function that writes.
    async fn wrote_nothing(&mut self) -> bool {
        if self.read_only {
            return self.queue.is_empty();
        }
        let (true, Some(before)) = (self.only_reads, self.counters) else { return false };
        match self.session.run(WRITE_COUNTERS).await {
            Ok(results) => counters(&results) == Some(before),
            Err(_) => false,
        }
    }

    /// Everything up to and including XA END.
    fn ending(&mut self, reply: &[u8]) -> Trip {
        let mut trip = self.opening(false);
        let queue = std::mem::take(&mut self.queue);
        let last = queue.len().saturating_sub(1);
        let mut rows_of_last = None;
        for (index, queued) in queue.iter().enumerate() {
            trip.add(Part::Work(index), &queued.text);
            match queued.rows.filter(|_| !seeded_bug!("rows-not-counted")) {
                // The marker checks the last statement itself, which saves a guard.
                Some(rows) if index == last => rows_of_last = Some(rows),
                Some(rows) => {
                    trip.parts.push(Part::Guard(index));
                    push_guard(&mut trip.text, rows);
                }
                None => {}
            }
        }
        self.queue = queue;
        if !self.read_only && !seeded_bug!("no-marker-row") {
            trip.parts.push(Part::Marker);
            let id = self.session.id();
            self.database.0.barrier.push_marker(&mut trip.text, &self.xid, id, reply, rows_of_last);
            trip.text.push_str("; ");
        }
        trip.add(Part::End, &format!("XA END {}", self.name));
        trip
    }

    /// XA START if it has not been sent.
    fn opening(&mut self, count_writes: bool) -> Trip {
        let mut trip = Trip::default();
        if !self.started {
            if count_writes {
                trip.add(Part::Counters, WRITE_COUNTERS);
            }
            if self.read_only {
                trip.add(Part::ReadOnly, "SET TRANSACTION READ ONLY");
            }
            trip.add(Part::Start, &format!("XA START {}", self.name));
            // Until the server has said otherwise: abort() must not take a started branch for a fresh one.
            self.started = true;
        }
        trip
    }

    fn accept(&mut self, sql: &str, params: Params) -> Result<Statement, XaError> {
        if let Some(reason) = &self.failed {
            return Err(XaError::Failed(reason.clone()));
        }
        let statement = Statement::new(sql, params).map_err(|error| self.fail(error))?;
        self.reusable &= statement.leaves_session_clean;
        Ok(statement)
    }

    /// Runs one statement, with XA START and whatever is queued before it.
    async fn direct(&mut self, sql: &str, params: Params, query: bool) -> Result<Outcome, XaError> {
        let statement = self.accept(sql, params)?;
        let only_reads = self.only_reads && query && statement.plain_select;
        let mut trip = self.opening(only_reads && self.watch_writes && !self.read_only);
        self.only_reads = only_reads;
        let queue = std::mem::take(&mut self.queue);
        for (index, queued) in queue.iter().enumerate() {
            trip.add(Part::Work(index), &queued.text);
        }
        trip.add(Part::Direct, &statement.text);
        self.queue = queue;
        // Cancelled here, the branch may have run half of it: it must not go on as if nothing had happened.
        self.failed = Some("a statement was cut short".into());
        crash_point!("xa/work/before");
        let result = self.session.run(&trip.text).await;
        crash_point!("xa/work/after");
        self.failed = None;
        match result {
            Ok(results) => self.take_results(&trip, results),
            Err(failure) => {
                let reason = self.explain(&trip, &failure);
                self.failed = Some(reason);
                Err(failure.error)
            }
        }
    }

    fn take_results(&mut self, trip: &Trip, results: Vec<Outcome>) -> Result<Outcome, XaError> {
        if trip.parts.first() == Some(&Part::Counters) {
            self.counters = counters(&results);
        }
        let queue = std::mem::take(&mut self.queue);
        let first = trip.parts.len() - 1 - queue.len();
        for (queued, outcome) in queue.iter().zip(results.iter().skip(first)) {
            if queued.rows.is_some_and(|rows| rows != outcome.affected) {
                return Err(self.fail(queued.wrong_count(outcome.affected)));
            }
        }
        // A CALL gives several results; the last says how many rows it changed, the first has its rows.
        let mut own = results.into_iter().skip(trip.parts.len() - 1);
        let mut outcome = own.next().unwrap_or_default();
        if let Some(last) = own.last() {
            outcome.affected = last.affected;
        }
        Ok(outcome)
    }

    fn fail(&mut self, error: XaError) -> XaError {
        self.failed = Some(error.to_string());
        error
    }

    /// Why a round trip failed, in words for people; and what is known of the branch after it.
    fn explain(&mut self, trip: &Trip, failure: &Failure) -> String {
        let index = failure.done.len();
        let part = trip.parts.get(index).copied().unwrap_or(Part::Last);
        let start = trip.parts.iter().position(|part| *part == Part::Start);
        if start.is_some_and(|start| index <= start) {
            // The branch does not exist; the session is not used again after an XA error (rule 11).
            self.started = false;
            self.failed = Some(failure.error.to_string());
        }
        let affected = |at: usize| failure.done.get(at).map_or(0, |outcome| outcome.affected);
        let count = |queued: Option<&Queued>, at: usize| match queued {
            Some(queued) => queued.wrong_count(affected(at)).to_string(),
            None => failure.error.to_string(),
        };
        match (part, failure.error.code()) {
            (Part::Guard(at), Some(code::SUBQUERY_MANY_ROWS)) => count(self.queue.get(at), index - 1),
            (Part::Marker, Some(code::BAD_NULL)) => count(self.queue.last(), index.saturating_sub(1)),
            (Part::Marker, Some(code::DUP_ENTRY)) => {
                "this branch was rolled back before it arrived, or has run already".into()
            }
            (Part::Work(at), _) => match self.queue.get(at) {
                Some(queued) => format!("{}: {}", excerpt(&queued.text), failure.error),
                None => failure.error.to_string(),
            },
            (Part::Last, _) => format!("the database refused to end the branch: {}", failure.error),
            _ => failure.error.to_string(),
        }
    }
}
