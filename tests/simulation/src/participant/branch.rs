//! A branch under way (as `participant-sdk/xa/src/branch.rs` and `prepared.rs`).

use std::sync::Arc;

use concord_xa::{Resolution, Xid};

use super::Job;
use crate::database::{Answer, DbError, Deed, Failure, Row, Session, SessionId, Statement, code};
use crate::mutant::Mutant;
use crate::resource::{CONTROL_TIME, Resource, Verdict, classify, committed, rolled_back};
use crate::world::World;

/// The answer to PREPARE.
#[derive(Debug)]
pub(super) enum Vote {
    Yes(Prepared),
    ReadOnly,
    No(String),
    /// The answer was lost: ask [`Resource::settle`].
    Unknown(SessionId),
}

/// A branch, on a session of its own. Dropped, it is rolled back, by the loss of its connection.
#[derive(Debug)]
pub(super) struct Branch {
    resource: Resource,
    session: Session,
    xid: Xid,
    started: bool,
    wrote: bool,
    failed: Option<String>,
    /// Statements kept back, to be sent with the vote.
    queue: Vec<Statement>,
}

impl Branch {
    pub(super) fn new(resource: Resource, session: Session, xid: Xid) -> Self {
        Branch { resource, session, xid, started: false, wrote: false, failed: None, queue: Vec::new() }
    }

    pub(super) fn connection(&self) -> SessionId {
        self.session.id()
    }

    /// Keeps back the statements that change an account and note it in the ledger.
    pub(super) fn queue_move(&mut self, world: &World, job: &Job, account: (u8, u32), balance: i64) {
        self.wrote = true;
        self.queue.push(Statement::Change { account, balance, frozen: 0 });
        if !world.has(Mutant::RowsNotCounted) {
            self.queue.push(Statement::Guard(1));
        }
        self.queue.push(Statement::Note(job.note(self.xid, Deed::Work, account, (balance, 0))));
    }

    /// Reads an account, with what was kept back. After an error the branch can only vote no.
    pub(super) async fn read(&mut self, world: &World, account: (u8, u32)) -> Result<Option<Row>, String> {
        self.queue.push(Statement::Read(account));
        match self.flush(world).await?.pop() {
            Some(Answer::Found(row)) => Ok(row),
            _ => Ok(None),
        }
    }

    /// Sends what was kept back. After an error the branch can only vote no.
    pub(super) async fn flush(&mut self, world: &World) -> Result<Vec<Answer>, String> {
        let mut trip = self.opening();
        trip.append(&mut self.queue);
        let first = trip.first().copied();
        // Cut short here, it may have run half of it.
        self.failed = Some("a statement was cut short".into());
        let result = self.session.run(world, trip).await;
        self.failed = None;
        result.map_err(|failure| {
            let reason = self.explain(world, first, &failure);
            self.failed = Some(reason.clone());
            reason
        })
    }

    /// XA START if it has not been sent.
    fn opening(&mut self) -> Vec<Statement> {
        if std::mem::replace(&mut self.started, true) {
            return Vec::new();
        }
        vec![Statement::XaStart(self.xid)]
    }

    /// Everything up to and including XA END.
    fn ending(&mut self, world: &World) -> Vec<Statement> {
        let mut trip = self.opening();
        trip.append(&mut self.queue);
        if !world.has(Mutant::NoMarker) {
            trip.push(Statement::Marker(self.resource.schema, self.xid.gtid, self.xid.branch.0, None));
        }
        trip.push(Statement::XaEnd(self.xid));
        trip
    }

    /// Asks the database to prepare, in one round trip: what was kept back, marker row, END, PREPARE.
    pub(super) async fn prepare(mut self, world: &Arc<World>) -> Vote {
        if let Some(reason) = self.failed.take() {
            return self.refuse(world, reason).await;
        }
        if !self.wrote || world.has(Mutant::WritersCalledReadOnly) {
            return self.leave(world).await;
        }
        if world.has(Mutant::VotesBeforePrepare) {
            let (resource, xid) = (self.resource.clone(), self.xid);
            return Vote::Yes(Prepared { resource, xid, session: None, unprepared: Some(Box::new(self)) });
        }
        let mut trip = self.ending(world);
        trip.push(Statement::XaPrepare(self.xid));
        let first = trip.first().copied();
        match self.session.run(world, trip).await {
            Ok(_) => Vote::Yes(self.into_prepared()),
            Err(Failure { error: DbError::Server(_), .. }) if world.has(Mutant::AnyPrepareIsYes) => {
                Vote::Yes(self.into_prepared())
            }
            Err(failure @ Failure { error: DbError::Server(_), .. }) => {
                let reason = self.explain(world, first, &failure);
                self.refuse(world, reason).await
            }
            Err(_) => Vote::Unknown(self.session.id()),
        }
    }

    /// Commits in one phase. A branch that did not commit leaves a tombstone.
    pub(super) async fn commit_one_phase(mut self, world: &Arc<World>) -> Resolution {
        let (resource, xid, id) = (self.resource.clone(), self.xid, self.session.id());
        let reason = match self.failed.take() {
            Some(reason) => reason,
            None => {
                let mut trip = self.ending(world);
                trip.push(Statement::XaCommitOnePhase(xid));
                let first = trip.first().copied();
                match self.session.run(world, trip).await {
                    Ok(_) => return committed(),
                    Err(failure @ Failure { error: DbError::Server(_), .. }) => {
                        self.explain(world, first, &failure)
                    }
                    Err(_) => {
                        drop(self);
                        resource.end_session(world, id).await;
                        return resource.fence(world, &xid, "its connection was lost").await;
                    }
                }
            }
        };
        self.abort(world).await;
        resource.fence(world, &xid, &reason).await
    }

    /// Rolls back: END (its error ignored), ROLLBACK, else the connection is closed (docs/xa.md rule 15).
    pub(super) async fn abort(mut self, world: &Arc<World>) {
        if !self.started {
            return;
        }
        if self.session.was_cut() {
            // The server may still be at it, and would go on to the statements after it.
            let (resource, id) = (self.resource.clone(), self.session.id());
            drop(self);
            resource.end_session(world, id).await;
            return;
        }
        let both = vec![Statement::XaEnd(self.xid), Statement::XaRollback(self.xid)];
        if let Err(Failure { error: DbError::Server(_), .. }) =
            self.session.run_within(world, CONTROL_TIME, both).await
        {
            let rollback = vec![Statement::XaRollback(self.xid)];
            let _ = self.session.run_within(world, CONTROL_TIME, rollback).await;
        }
    }

    fn into_prepared(self) -> Prepared {
        let session = (!self.resource.host.detaches_on_prepare()).then_some(self.session);
        Prepared { resource: self.resource, xid: self.xid, session, unprepared: None }
    }

    async fn refuse(self, world: &Arc<World>, reason: String) -> Vote {
        self.abort(world).await;
        Vote::No(reason)
    }

    /// Ends a branch that changed nothing.
    async fn leave(mut self, world: &Arc<World>) -> Vote {
        let mut trip = self.opening();
        trip.append(&mut self.queue);
        trip.extend([Statement::XaEnd(self.xid), Statement::XaRollback(self.xid)]);
        match self.session.run(world, trip).await {
            Ok(_) => Vote::ReadOnly,
            Err(failure) => Vote::No(format!("{:?}", failure.error)),
        }
    }

    fn explain(&mut self, world: &World, first: Option<Statement>, failure: &Failure) -> String {
        let never_started = failure.done.is_empty() && first == Some(Statement::XaStart(self.xid));
        if never_started && !world.has(Mutant::AbortsWhatItDidNotStart) {
            // There is a branch of this name, and it is not this one: nothing may be rolled back.
            self.started = false;
        }
        match failure.error {
            DbError::Server(code::GUARD | code::BAD_NULL) => "insufficient funds".into(),
            DbError::Server(code::DUPLICATE) => "rolled back before it arrived, or has run already".into(),
            error => format!("{error:?}"),
        }
    }
}

/// A branch that voted yes. Where the server does not detach it at PREPARE, its session is kept here.
#[derive(Debug)]
pub(super) struct Prepared {
    resource: Resource,
    xid: Xid,
    session: Option<Session>,
    /// With [`Mutant::VotesBeforePrepare`] only.
    unprepared: Option<Box<Branch>>,
}

impl Prepared {
    /// A prepared branch that was found, not made: nothing is held.
    pub(super) fn found(resource: Resource, xid: Xid) -> Self {
        Prepared { resource, xid, session: None, unprepared: None }
    }

    pub(super) async fn commit(&mut self, world: &Arc<World>) -> Resolution {
        if let Some(branch) = self.unprepared.take() {
            return branch.commit_one_phase(world).await;
        }
        if let Some(session) = self.session.take()
            && let Some(resolution) = self.finish(world, session, Statement::XaCommit(self.xid)).await
        {
            return resolution;
        }
        self.resource.commit(world, &self.xid).await
    }

    /// Rolls back, and leaves a tombstone.
    pub(super) async fn rollback(&mut self, world: &Arc<World>) -> Resolution {
        self.unprepared = None;
        if let Some(session) = self.session.take() {
            // Whatever it says: what follows asks for the evidence.
            let _ = self.finish(world, session, Statement::XaRollback(self.xid)).await;
        }
        self.resource.rollback(world, &self.xid).await
    }

    /// Runs a verb on the owner session. None: it went away, or does not know the branch.
    async fn finish(&mut self, world: &World, mut session: Session, verb: Statement) -> Option<Resolution> {
        let error = match session.run_within(world, CONTROL_TIME, vec![verb]).await {
            Ok(_) => return Some(committed()),
            Err(failure) => failure.error,
        };
        match classify(error) {
            Verdict::Unknown => None,
            Verdict::RolledBack => Some(rolled_back("by the database")),
            Verdict::Undecided => {
                self.session = Some(session);
                Some(Resolution::Undecided { reason: format!("{error:?}") })
            }
        }
    }
}
