//! The server: sessions, and what their statements do.

use std::collections::BTreeMap;

use concord_xa::Xid;

use super::rows::{Key, Mode, Row, Rows, Transaction, TransactionId};
use super::xa::Stage;
use super::{Answer, Flavor, Isolation, Note, Schema, Statement, barrier, code};

/// Numbers a session; given out again after a restart, as real servers do.
pub type SessionId = u32;

/// Why a statement did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The server refused it, with this code.
    Error(u16),
    /// It waits for a lock. If [`Server::is_deadlocked`] now, a session of the circle has to [`Server::fall_victim`];
    /// else put it again when [`Server::releases`] has grown, or call [`Server::stop_waiting`].
    Blocked,
}

/// A database server.
#[derive(Debug, Clone)]
pub struct Server {
    pub(super) flavor: Flavor,
    pub(super) rows: Rows,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) branches: BTreeMap<Xid, Branch>,
    /// Prepared branches that were rolled back, and are so on disk only with the next sync.
    pub(super) rolled_back_in_memory: Vec<(Xid, Transaction)>,
    killed: Vec<SessionId>,
    last_session: SessionId,
    now_ms: u64,
}

/// A branch that the server knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Branch {
    /// None: it was a deadlock's victim.
    pub(super) transaction: Option<TransactionId>,
    /// The session that it is attached to.
    pub(super) holder: Option<SessionId>,
    pub(super) prepared: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    pub(super) doing: Doing,
    /// The transaction of a statement that runs by itself, while it waits.
    statement: Option<TransactionId>,
    /// Rows that the last statement matched.
    matched: u64,
    at_work: bool,
}

/// What a session is in the middle of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Doing {
    #[default]
    Nothing,
    Local(TransactionId),
    Branch(Xid, Stage),
}

impl Server {
    /// A new server, with no rows.
    pub fn new(flavor: Flavor) -> Self {
        Server {
            flavor,
            rows: Rows::new(flavor),
            sessions: BTreeMap::new(),
            branches: BTreeMap::new(),
            rolled_back_in_memory: Vec::new(),
            killed: Vec::new(),
            last_session: 0,
            now_ms: 0,
        }
    }

    /// Creates an account.
    pub fn open_account(&mut self, schema: Schema, id: u32, balance: i64) {
        self.rows.insert_committed(Key::Account(schema, id), Row::Account { balance, frozen: 0 });
    }

    /// Sets the server's clock.
    pub fn set_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// A new session, in autocommit.
    pub fn connect(&mut self) -> SessionId {
        self.last_session += 1;
        self.sessions.insert(self.last_session, Session::default());
        self.last_session
    }

    /// The session's connection has gone. A prepared branch outlives it; anything else is rolled back.
    pub fn disconnect(&mut self, id: SessionId) {
        self.stop_waiting(id);
        let Some(session) = self.sessions.remove(&id) else { return };
        match session.doing {
            Doing::Nothing => {}
            Doing::Local(transaction) => drop(self.rows.roll_back(transaction)),
            Doing::Branch(xid, _) => self.let_go_of(xid),
        }
    }

    /// kill -9, and what a restart finds: committed rows and prepared branches. `comes_back`: whether a branch
    /// that was rolled back, but not yet on disk, is prepared again.
    pub fn crash(&mut self, mut comes_back: impl FnMut(&Xid) -> bool) {
        self.sessions.clear();
        self.last_session = 0;
        self.killed.clear();
        let mut transactions = self.rows.take_transactions();
        let branches = std::mem::take(&mut self.branches);
        let prepared = branches.into_iter().filter(|(_, branch)| branch.prepared);
        // A branch that changed nothing is not on disk.
        let kept = prepared.filter_map(|(xid, branch)| {
            let transaction = transactions.remove(&branch.transaction?)?;
            transaction.has_written().then_some((xid, transaction))
        });
        let undone = std::mem::take(&mut self.rolled_back_in_memory);
        let kept: Vec<_> = kept.chain(undone.into_iter().filter(|(xid, _)| comes_back(xid))).collect();
        for (xid, transaction) in kept {
            let transaction = Some(self.rows.restore(transaction));
            self.branches.insert(xid, Branch { transaction, holder: None, prepared: true });
        }
    }

    /// Runs a statement.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn execute(&mut self, id: SessionId, statement: &Statement) -> Result<Answer, Stop> {
        if !self.sessions.contains_key(&id) {
            return Err(Stop::Error(code::NO_SUCH_THREAD));
        }
        let result = self.run(id, statement);
        if result == Err(Stop::Blocked) {
            return result;
        }
        self.stop_waiting(id);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.matched = match &result {
                Ok(Answer::Affected(rows)) => *rows,
                // As ROW_COUNT() has it after an error, and after rows: -1.
                _ => u64::MAX,
            };
        }
        if let (Err(Stop::Error(code::RBDEADLOCK)), Doing::Branch(xid, Stage::Doomed)) =
            (&result, self.doing(id))
        {
            self.set_doing(id, Doing::Branch(xid, Stage::RolledBack));
        }
        result
    }

    fn run(&mut self, id: SessionId, statement: &Statement) -> Result<Answer, Stop> {
        match *statement {
            Statement::XaStart(xid) => self.xa_start(id, xid),
            Statement::XaEnd(xid) => self.xa_end(id, xid),
            Statement::XaPrepare(xid) => self.xa_prepare(id, xid),
            Statement::XaCommit(xid) => self.xa_commit(id, xid, false),
            Statement::XaCommitOnePhase(xid) => self.xa_commit(id, xid, true),
            Statement::XaRollback(xid) => self.xa_rollback(id, xid),
            Statement::XaRecover => Ok(Answer::Prepared(self.prepared())),
            Statement::Begin => self.begin(id),
            Statement::Commit => self.end_local(id, true),
            Statement::Rollback => self.end_local(id, false),
            Statement::Change { account: (schema, number), balance, frozen } => {
                let key = Key::Account(schema, number);
                self.write(id, |server, transaction| server.change(transaction, key, balance, frozen))
            }
            Statement::Read((schema, number)) => self.read(id, Key::Account(schema, number)),
            Statement::Note(note) => self.write(id, |server, transaction| server.note(transaction, note)),
            Statement::Guard(rows) => match self.matched(id) == rows {
                true => Ok(Answer::Affected(0)),
                false => Err(Stop::Error(code::GUARD)),
            },
            Statement::Marker(schema, gtid, branch, rows) => {
                let fits = rows.is_none_or(|rows| rows == self.matched(id));
                let row = Row::Barrier { state: barrier::MARKER, connection: id, created_ms: self.now_ms };
                let key = Key::Barrier(schema, gtid, branch);
                self.write(id, |server, transaction| match fits {
                    true => server.insert(transaction, key, row),
                    false => Err(Stop::Error(code::BAD_NULL)),
                })
            }
            Statement::Barrier { schema, gtid, branch, new, tried, touch } => {
                let key = Key::Barrier(schema, gtid, branch);
                let fresh = Row::Barrier { state: new, connection: 0, created_ms: self.now_ms };
                self.write(id, |server, transaction| server.upsert(transaction, key, fresh, tried, touch))
            }
            Statement::Look(schema, gtid, branch, isolation) => {
                self.look(id, Key::Barrier(schema, gtid, branch), isolation)
            }
            Statement::Confirm(schema, gtid, branch) => {
                let key = Key::Barrier(schema, gtid, branch);
                self.write(id, |server, transaction| server.confirm(transaction, key))
            }
            Statement::Kill(other) => match self.sessions.contains_key(&other) {
                true => {
                    self.killed.push(other);
                    Ok(Answer::Affected(0))
                }
                false => Err(Stop::Error(code::NO_SUCH_THREAD)),
            },
            Statement::Process(other) => {
                Ok(Answer::Process(self.sessions.get(&other).map(|session| session.at_work)))
            }
        }
    }

    /// The sessions that were to be killed since this was last asked. Whoever runs the server ends them.
    pub fn take_killed(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.killed)
    }

    /// Says whether a session is being served.
    pub fn set_at_work(&mut self, id: SessionId, at_work: bool) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.at_work = at_work;
        }
    }

    /// The session's statement has waited for long enough.
    pub fn stop_waiting(&mut self, id: SessionId) {
        if let Some(transaction) = self.transaction_of(id) {
            self.rows.stop_waiting(transaction);
        }
        if let Some(transaction) = self.sessions.get_mut(&id).and_then(|session| session.statement.take()) {
            self.rows.roll_back(transaction);
        }
    }

    /// Whether the session waits for one that waits, in the end, for it.
    pub fn is_deadlocked(&self, id: SessionId) -> bool {
        let statement = self.sessions.get(&id).and_then(|session| session.statement);
        statement.or_else(|| self.transaction_of(id)).is_some_and(|waiting| self.rows.is_deadlocked(waiting))
    }

    /// Makes a waiting session a deadlock's victim: its statement answers [`code::DEADLOCK`], and its whole
    /// transaction has rolled back.
    pub fn fall_victim(&mut self, id: SessionId) {
        self.stop_waiting(id);
        self.lose_transaction(id);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.matched = u64::MAX;
        }
    }

    /// Whether there is a branch of this name, in any state.
    pub fn knows(&self, xid: &Xid) -> bool {
        self.branches.contains_key(xid)
    }

    /// Whether the session is in the middle of nothing.
    pub fn is_idle(&self, id: SessionId) -> bool {
        self.doing(id) == Doing::Nothing
    }

    /// Whether the session is in the middle of a branch.
    pub fn is_in_branch(&self, id: SessionId) -> bool {
        matches!(self.doing(id), Doing::Branch(..))
    }

    /// What a read of every table shows.
    pub fn visible(&self, isolation: Isolation) -> BTreeMap<Key, Row> {
        self.rows.all(isolation)
    }

    /// What is committed.
    pub fn committed(&self) -> &BTreeMap<Key, Row> {
        self.rows.committed()
    }

    /// The committed ledger.
    pub fn notes(&self) -> &[Note] {
        &self.rows.notes
    }

    /// Every prepared branch, attached or not.
    pub fn prepared(&self) -> Vec<Xid> {
        self.branches.iter().filter(|(_, branch)| branch.prepared).map(|(xid, _)| *xid).collect()
    }

    /// Transactions that have not ended.
    pub fn open_transactions(&self) -> usize {
        self.rows.open_transactions()
    }

    /// Grows when somebody who waits for a lock may go on.
    pub fn releases(&self) -> u64 {
        self.rows.releases()
    }

    // ---- local transactions ----

    fn begin(&mut self, id: SessionId) -> Result<Answer, Stop> {
        match self.doing(id) {
            Doing::Branch(..) => Err(Stop::Error(code::RMFAIL)),
            // As both servers have it: BEGIN commits what is open.
            Doing::Local(open) => {
                self.commit_transaction(open);
                self.set_doing_local(id);
                Ok(Answer::Affected(0))
            }
            Doing::Nothing => {
                self.set_doing_local(id);
                Ok(Answer::Affected(0))
            }
        }
    }

    fn set_doing_local(&mut self, id: SessionId) {
        let transaction = self.rows.begin();
        self.set_doing(id, Doing::Local(transaction));
    }

    fn end_local(&mut self, id: SessionId, commit: bool) -> Result<Answer, Stop> {
        match self.doing(id) {
            Doing::Branch(..) => return Err(Stop::Error(code::RMFAIL)),
            Doing::Local(transaction) if commit => self.commit_transaction(transaction),
            Doing::Local(transaction) => drop(self.rows.roll_back(transaction)),
            Doing::Nothing => {}
        }
        self.set_doing(id, Doing::Nothing);
        Ok(Answer::Affected(0))
    }

    /// Commits, and with it everything before it is on disk.
    pub(super) fn commit_transaction(&mut self, transaction: TransactionId) {
        if self.rows.transaction(transaction).is_some_and(Transaction::has_written) {
            self.rolled_back_in_memory.clear();
        }
        self.rows.commit(transaction);
    }

    fn lose_transaction(&mut self, id: SessionId) {
        match self.doing(id) {
            Doing::Nothing => {}
            Doing::Local(transaction) => {
                self.rows.roll_back(transaction);
                self.set_doing(id, Doing::Nothing);
            }
            Doing::Branch(xid, _) => {
                if let Some(transaction) = self.branches.get_mut(&xid).and_then(|one| one.transaction.take())
                {
                    self.rows.roll_back(transaction);
                }
                self.set_doing(id, Doing::Branch(xid, Stage::Doomed));
            }
        }
    }

    // ---- statements ----

    /// Whether the session may use tables.
    fn may_work(&self, id: SessionId) -> Result<(), Stop> {
        match self.doing(id) {
            Doing::Branch(_, Stage::Doomed | Stage::RolledBack) if self.flavor == Flavor::MySql => {
                Err(Stop::Error(code::RBDEADLOCK))
            }
            Doing::Branch(_, Stage::Idle | Stage::Prepared | Stage::Doomed | Stage::RolledBack) => {
                Err(Stop::Error(code::RMFAIL))
            }
            _ => Ok(()),
        }
    }

    /// Runs a change in the session's transaction, or in one of its own.
    fn write(
        &mut self,
        id: SessionId,
        change: impl FnOnce(&mut Self, TransactionId) -> Result<Answer, Stop>,
    ) -> Result<Answer, Stop> {
        self.may_work(id)?;
        match self.doing(id) {
            Doing::Nothing => {
                let waiting = self.sessions.get_mut(&id).and_then(|session| session.statement.take());
                let transaction = waiting.unwrap_or_else(|| self.rows.begin());
                let result = change(self, transaction);
                match (&result, self.sessions.get_mut(&id)) {
                    (Ok(_), _) => self.commit_transaction(transaction),
                    (Err(Stop::Blocked), Some(session)) => session.statement = Some(transaction),
                    (Err(_), _) => drop(self.rows.roll_back(transaction)),
                }
                result
            }
            _ => match self.transaction_of(id) {
                Some(transaction) => change(self, transaction),
                None => Err(Stop::Error(code::RMFAIL)),
            },
        }
    }

    fn change(&mut self, by: TransactionId, key: Key, balance: i64, frozen: i64) -> Result<Answer, Stop> {
        self.update(by, key, |row| match row {
            Row::Account { balance: old, frozen: old_frozen } => {
                let (balance, frozen) = (old + balance, old_frozen + frozen);
                (balance >= 0 && frozen >= 0).then_some(Row::Account { balance, frozen })
            }
            Row::Barrier { .. } => None,
        })
    }

    fn note(&mut self, by: TransactionId, note: Note) -> Result<Answer, Stop> {
        self.rows.note(by, note);
        Ok(Answer::Affected(1))
    }

    fn insert(&mut self, by: TransactionId, key: Key, row: Row) -> Result<Answer, Stop> {
        // First as INSERT looks for a duplicate, then as it writes.
        if self.rows.look(Some(by), key, Isolation::Uncommitted).is_some() {
            self.rows.lock(by, key, Mode::Shared)?;
            if self.rows.see(Some(by), key).is_some() {
                return Err(Stop::Error(code::DUPLICATE));
            }
        }
        self.rows.lock(by, key, Mode::Exclusive)?;
        self.rows.change(by, key, Some(row));
        Ok(Answer::Affected(1))
    }

    fn upsert(
        &mut self,
        by: TransactionId,
        key: Key,
        fresh: Row,
        tried: Option<u8>,
        touch: bool,
    ) -> Result<Answer, Stop> {
        self.rows.lock(by, key, Mode::Exclusive)?;
        let Some(Row::Barrier { state, connection, created_ms }) = self.rows.see(Some(by), key) else {
            self.rows.change(by, key, Some(fresh));
            return Ok(Answer::Affected(1));
        };
        let changed = match tried {
            Some(tried) if state == barrier::TRIED => Row::Barrier { state: tried, connection, created_ms },
            _ if touch => Row::Barrier { state, connection: connection.wrapping_add(1), created_ms },
            // A row set to what it was counts as one that was matched.
            _ => return Ok(Answer::Affected(1)),
        };
        self.rows.change(by, key, Some(changed));
        Ok(Answer::Affected(2))
    }

    fn confirm(&mut self, by: TransactionId, key: Key) -> Result<Answer, Stop> {
        // Without a row there is nothing to lock.
        if self.rows.look(Some(by), key, Isolation::Uncommitted).is_none() {
            return Ok(Answer::Affected(0));
        }
        self.update(by, key, |row| match row {
            Row::Barrier { state: barrier::TRIED, connection, created_ms } => {
                Some(Row::Barrier { state: barrier::CONFIRMED, connection, created_ms })
            }
            _ => None,
        })
    }

    /// `UPDATE … WHERE`: changes a row if it is there and `change` wants to. A lock on one that it leaves alone is
    /// given back at READ COMMITTED, which local transactions run at, unless it had to be waited for; branches keep it.
    fn update(
        &mut self,
        by: TransactionId,
        key: Key,
        change: impl FnOnce(Row) -> Option<Row>,
    ) -> Result<Answer, Stop> {
        let keep = self.rows.holds(by, key);
        self.rows.lock(by, key, Mode::Exclusive)?;
        let row = self.rows.see(Some(by), key);
        if let Some(changed) = row.and_then(change) {
            // A row that is set to what it is counts as matched, and is not written.
            if row != Some(changed) {
                self.rows.change(by, key, Some(changed));
            }
            return Ok(Answer::Affected(1));
        }
        if !keep && !self.branches.values().any(|branch| branch.transaction == Some(by)) {
            self.rows.unlock(key);
        }
        Ok(Answer::Affected(0))
    }

    fn read(&self, id: SessionId, key: Key) -> Result<Answer, Stop> {
        self.may_work(id)?;
        Ok(Answer::Found(self.rows.see(self.transaction_of(id), key)))
    }

    fn look(&self, id: SessionId, key: Key, isolation: Isolation) -> Result<Answer, Stop> {
        self.may_work(id)?;
        Ok(Answer::Found(self.rows.look(self.transaction_of(id), key, isolation)))
    }

    // ---- small things ----

    pub(super) fn doing(&self, id: SessionId) -> Doing {
        self.sessions.get(&id).map(|session| session.doing).unwrap_or_default()
    }

    pub(super) fn set_doing(&mut self, id: SessionId, doing: Doing) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.doing = doing;
        }
    }

    fn matched(&self, id: SessionId) -> u64 {
        self.sessions.get(&id).map_or(u64::MAX, |session| session.matched)
    }

    fn transaction_of(&self, id: SessionId) -> Option<TransactionId> {
        match self.doing(id) {
            Doing::Nothing => None,
            Doing::Local(transaction) => Some(transaction),
            Doing::Branch(xid, _) => self.branches.get(&xid)?.transaction,
        }
    }
}
