//! The XA verbs (docs/xa.md, "States", and "After PREPARE, who can finish it?").

use concord_xa::Xid;

use super::rows::Transaction;
use super::server::{Branch, Doing, Server, SessionId, Stop};
use super::{Answer, Flavor, code};

/// How far a session's branch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Between START and END.
    Active,
    /// After END.
    Idle,
    /// MariaDB: after PREPARE, until the session disconnects.
    Prepared,
    /// A deadlock's victim: can only be rolled back.
    Doomed,
    /// A deadlock's victim that has been told so, by an answer of 1614. MySQL takes no XA ROLLBACK before that.
    RolledBack,
}

const DONE: Result<Answer, Stop> = Ok(Answer::Affected(0));

fn refused(code: u16) -> Result<Answer, Stop> {
    Err(Stop::Error(code))
}

impl Server {
    pub(super) fn xa_start(&mut self, id: SessionId, xid: Xid) -> Result<Answer, Stop> {
        match self.doing(id) {
            Doing::Branch(..) => return refused(code::RMFAIL),
            Doing::Local(_) => return refused(code::OUTSIDE),
            Doing::Nothing => {}
        }
        // In any state, whoever holds it: a probe for existence.
        if self.branches.contains_key(&xid) {
            return refused(code::DUPID);
        }
        let transaction = Some(self.rows.begin());
        self.branches.insert(xid, Branch { transaction, holder: Some(id), prepared: false });
        self.set_doing(id, Doing::Branch(xid, Stage::Active));
        DONE
    }

    pub(super) fn xa_end(&mut self, id: SessionId, xid: Xid) -> Result<Answer, Stop> {
        match self.doing(id) {
            Doing::Branch(own, Stage::Active) if own == xid => {
                self.set_doing(id, Doing::Branch(xid, Stage::Idle));
                DONE
            }
            Doing::Branch(_, Stage::Active) => refused(code::NOTA),
            Doing::Branch(own, Stage::Doomed | Stage::RolledBack)
                if own == xid && self.flavor == Flavor::MySql =>
            {
                refused(code::RBDEADLOCK)
            }
            Doing::Branch(_, Stage::Doomed | Stage::RolledBack) if self.flavor == Flavor::MySql => {
                refused(code::NOTA)
            }
            _ => refused(code::RMFAIL),
        }
    }

    pub(super) fn xa_prepare(&mut self, id: SessionId, xid: Xid) -> Result<Answer, Stop> {
        match self.doing(id) {
            Doing::Branch(own, Stage::Idle) if own == xid => {}
            Doing::Branch(_, Stage::Idle) => return refused(code::NOTA),
            _ => return refused(code::RMFAIL),
        }
        let detached = self.flavor == Flavor::MySql;
        if let Some(branch) = self.branches.get_mut(&xid) {
            branch.prepared = true;
            branch.holder = (!detached).then_some(id);
            // Of a branch that changed nothing, MySQL keeps the name only.
            if let Some(transaction) = branch.transaction.filter(|_| detached) {
                self.rows.unlock_unless_written(transaction);
            }
        }
        self.set_doing(id, if detached { Doing::Nothing } else { Doing::Branch(xid, Stage::Prepared) });
        // PREPARE syncs the log.
        self.rolled_back_in_memory.clear();
        DONE
    }

    pub(super) fn xa_commit(&mut self, id: SessionId, xid: Xid, one_phase: bool) -> Result<Answer, Stop> {
        match self.doing(id) {
            Doing::Branch(own, stage) if own == xid => match (stage, one_phase) {
                (Stage::Idle, true) | (Stage::Prepared, false) => {}
                (Stage::Doomed | Stage::RolledBack, _) => {
                    self.forget(id, xid, |_, _| ());
                    return refused(code::RBDEADLOCK);
                }
                (Stage::Prepared, true) => return refused(code::INVAL),
                _ => return refused(code::RMFAIL),
            },
            Doing::Branch(..) | Doing::Local(_) => return self.busy(),
            Doing::Nothing if one_phase && self.flavor == Flavor::MariaDb => return refused(code::INVAL),
            Doing::Nothing => self.detached(&xid)?,
        }
        self.forget(id, xid, |server, transaction| server.commit_transaction(transaction));
        DONE
    }

    pub(super) fn xa_rollback(&mut self, id: SessionId, xid: Xid) -> Result<Answer, Stop> {
        match self.doing(id) {
            Doing::Branch(own, stage) if own == xid => match stage {
                Stage::Active => return refused(code::RMFAIL),
                Stage::Doomed if self.flavor == Flavor::MySql => return refused(code::RMFAIL),
                Stage::Idle | Stage::Prepared | Stage::Doomed | Stage::RolledBack => {}
            },
            Doing::Branch(..) | Doing::Local(_) => return self.busy(),
            Doing::Nothing => self.detached(&xid)?,
        }
        let prepared = self.branches.get(&xid).is_some_and(|branch| branch.prepared);
        self.forget(id, xid, |server, transaction| {
            let undone = server.rows.roll_back(transaction);
            // The rollback of a prepared branch syncs nothing.
            if let Some(undone) = undone.filter(|undone| prepared && Transaction::has_written(undone)) {
                server.rolled_back_in_memory.push((xid, undone));
            }
        });
        DONE
    }

    /// The answer to a verb about another branch, from a session that is in the middle of something.
    fn busy(&self) -> Result<Answer, Stop> {
        refused(match self.flavor {
            Flavor::MariaDb => code::OUTSIDE,
            Flavor::MySql => code::RMFAIL,
        })
    }

    /// Whether a session that holds no branch may end this one.
    fn detached(&mut self, xid: &Xid) -> Result<(), Stop> {
        match self.branches.get(xid) {
            Some(Branch { prepared: true, holder: None, transaction }) => {
                if transaction.is_some() {
                    return Ok(());
                }
                self.branches.remove(xid);
                Err(Stop::Error(code::RBROLLBACK))
            }
            _ => Err(Stop::Error(code::NOTA)),
        }
    }

    /// Ends a branch, in whatever way `end` ends its transaction.
    fn forget(&mut self, id: SessionId, xid: Xid, end: impl FnOnce(&mut Self, u64)) {
        let branch = self.branches.remove(&xid);
        if let Some(transaction) = branch.and_then(|branch| branch.transaction) {
            end(self, transaction);
        }
        if matches!(self.doing(id), Doing::Branch(own, _) if own == xid) {
            self.set_doing(id, Doing::Nothing);
        }
    }

    /// The session that held it has gone.
    pub(super) fn let_go_of(&mut self, xid: Xid) {
        let Some(branch) = self.branches.get_mut(&xid) else { return };
        branch.holder = None;
        let transaction = branch.transaction;
        if branch.prepared {
            // Of a branch that changed nothing, MariaDB keeps the name only, and tells whoever wants to end it.
            let read =
                transaction.filter(|id| !self.rows.transaction(*id).is_some_and(Transaction::has_written));
            if let (Flavor::MariaDb, Some(transaction)) = (self.flavor, read) {
                branch.transaction = None;
                self.rows.roll_back(transaction);
            }
            return;
        }
        self.branches.remove(&xid);
        if let Some(transaction) = transaction {
            self.rows.roll_back(transaction);
        }
    }
}
