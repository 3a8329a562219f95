//! TCC branches behind the barrier (as `participant-sdk/src/tcc/barrier.rs`): one row per branch, written in the
//! same local transaction as the work.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use concord_xa::Xid;

use super::{Job, Process, Unsettled};
use crate::database::{Answer, DbError, Deed, Isolation, Row, Session, Statement, barrier, code};
use crate::mutant::Mutant;
use crate::resource::CONTROL_TIME;
use crate::world::World;

/// What Try came to, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tried {
    Reserved,
    Refused(String),
}

/// What Confirm or Cancel came to, now or earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finished {
    Confirmed,
    Cancelled,
    Refused(String),
}

/// Rows affected when the row is new.
const INSERTED: u64 = 1;
/// Rows affected when the row was there and has changed.
const CHANGED: u64 = 2;

/// One lock per branch in the process: calls about one branch come one after the other.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<BTreeMap<Xid, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    async fn hold(&self, xid: Xid) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(xid).or_default())
        };
        lock.lock_owned().await
    }
}

/// A local transaction under way, and how many rows its first statement affected. Dropped, it rolls back.
struct Local {
    session: Session,
    affected: u64,
}

impl From<DbError> for Unsettled {
    fn from(error: DbError) -> Self {
        Unsettled(format!("{error:?}"))
    }
}

impl Process {
    /// Runs Try, once.
    pub(super) async fn attempt(&self, world: &Arc<World>, xid: Xid, job: Job) -> Result<Tried, Unsettled> {
        let _held = self.locks.hold(xid).await;
        let plain = world.has(Mutant::NoBarrierRow);
        let row = self.barrier_row(&xid, barrier::TRIED, None, true);
        let attempt = async {
            let mut local = self.begin_with(world, &xid, (!plain).then_some(row)).await?;
            if local.affected != INSERTED && !plain {
                return recorded_try(self.read_and_roll_back(world, local, &xid).await?);
            }
            let Some((account, delta)) = world.branch_plan(&job).and_then(|plan| plan.moves.first().copied())
            else {
                return Ok(Tried::Refused("no such work".into()));
            };
            // What comes in is not there before Confirm; what goes out is frozen.
            let out = delta.min(0);
            match self.apply(world, &mut local, (&xid, &job), Deed::Try, account, (out, -out)).await {
                Ok(()) => {
                    self.commit_local(world, local).await?;
                    Ok(Tried::Reserved)
                }
                Err(DbError::Server(code::GUARD)) => {
                    self.roll_back_local(world, local).await;
                    self.refuse(world, &xid, "insufficient funds").await
                }
                Err(error) => Err(error.into()),
            }
        };
        match tokio::time::timeout(job.remaining, attempt).await {
            Ok(result) => result,
            Err(_) => Err(Unsettled("the time was up".into())),
        }
    }

    /// Records that Try was refused, before anybody is told: a refused branch gets no Cancel.
    async fn refuse(&self, world: &Arc<World>, xid: &Xid, reason: &str) -> Result<Tried, Unsettled> {
        if world.has(Mutant::RefusalNotRecorded) {
            return Ok(Tried::Refused(reason.into()));
        }
        let row = self.barrier_row(xid, barrier::REFUSED, None, true);
        let local = self.begin_with(world, xid, Some(row)).await?;
        if local.affected == INSERTED {
            self.commit_local(world, local).await?;
            return Ok(Tried::Refused(reason.into()));
        }
        recorded_try(self.read_and_roll_back(world, local, xid).await?)
    }

    /// Runs Confirm, once; only after Try.
    pub(super) async fn confirm(
        &self,
        world: &Arc<World>,
        xid: Xid,
        job: Job,
    ) -> Result<Finished, Unsettled> {
        let _held = self.locks.hold(xid).await;
        let blind = world.has(Mutant::ConfirmBlind);
        let row = Statement::Confirm(self.resource.schema, xid.gtid, xid.branch.0);
        let mut local = self.begin_with(world, &xid, Some(row)).await?;
        if local.affected == 0 && !blind {
            let state = self.read(world, &mut local, &xid).await?;
            self.roll_back_local(world, local).await;
            return state.map_or(Ok(Finished::Refused("no Try is on record".into())), recorded_end);
        }
        let Some(plan) = world.branch_plan(&job) else { return Err(Unsettled("no such work".into())) };
        if plan.stubborn && !world.is_healed() {
            self.roll_back_local(world, local).await;
            return Ok(Finished::Refused("the warehouse has burnt down".into()));
        }
        let Some((account, delta)) = plan.moves.first().copied() else {
            return Err(Unsettled("nothing to confirm".into()));
        };
        let change = (delta.max(0), delta.min(0));
        self.apply(world, &mut local, (&xid, &job), Deed::Confirm, account, change).await?;
        self.commit_local(world, local).await?;
        Ok(Finished::Confirmed)
    }

    /// Runs Cancel, once; or sees to it that a Try that comes later is refused.
    pub(super) async fn cancel(&self, world: &Arc<World>, xid: Xid, job: Job) -> Result<Finished, Unsettled> {
        let _held = self.locks.hold(xid).await;
        let row = self.barrier_row(&xid, barrier::TOMBSTONE, Some(barrier::CANCELLED), false);
        let mut local = self.begin_with(world, &xid, Some(row)).await?;
        let state = match local.affected {
            CHANGED => barrier::CANCELLED,
            _ => self.read_own(world, &mut local, &xid).await?,
        };
        let blind = world.has(Mutant::CancelBlind) && state != barrier::TOMBSTONE;
        if local.affected != CHANGED && !blind {
            if state == barrier::TOMBSTONE && !world.has(Mutant::EmptyCancelForgotten) {
                self.commit_local(world, local).await?;
            } else {
                self.roll_back_local(world, local).await;
            }
            return recorded_end(state);
        }
        let Some(plan) = world.branch_plan(&job) else { return Err(Unsettled("no such work".into())) };
        if plan.stubborn && !world.is_healed() {
            self.roll_back_local(world, local).await;
            return Ok(Finished::Refused("the warehouse has burnt down".into()));
        }
        let Some((account, delta)) = plan.moves.first().copied() else {
            return Err(Unsettled("nothing to cancel".into()));
        };
        let out = delta.min(0);
        self.apply(world, &mut local, (&xid, &job), Deed::Cancel, account, (-out, out)).await?;
        self.commit_local(world, local).await?;
        Ok(Finished::Cancelled)
    }

    fn barrier_row(&self, xid: &Xid, new: u8, tried: Option<u8>, touch: bool) -> Statement {
        let (schema, gtid, branch) = (self.resource.schema, xid.gtid, xid.branch.0);
        Statement::Barrier { schema, gtid, branch, new, tried, touch }
    }

    /// Begins a local transaction with the barrier's statement.
    async fn begin_with(
        &self,
        world: &Arc<World>,
        xid: &Xid,
        first: Option<Statement>,
    ) -> Result<Local, DbError> {
        let mut session = self.resource.session(world, world.about(xid.gtid)).await?;
        let batch = std::iter::once(Statement::Begin).chain(first).collect();
        let answers =
            session.run_within(world, CONTROL_TIME, batch).await.map_err(|failure| failure.error)?;
        Ok(Local { session, affected: answers.get(1).map_or(0, Answer::affected) })
    }

    async fn read(&self, world: &World, local: &mut Local, xid: &Xid) -> Result<Option<u8>, Unsettled> {
        let look = Statement::Look(self.resource.schema, xid.gtid, xid.branch.0, Isolation::Committed);
        let answers = local.session.run_within(world, CONTROL_TIME, vec![look]).await;
        match answers.map_err(|failure| failure.error)?.first() {
            Some(Answer::Found(Some(Row::Barrier { state, .. }))) => Ok(Some(*state)),
            Some(Answer::Found(None)) => Ok(None),
            _ => Err(Unsettled("the barrier row cannot be read".into())),
        }
    }

    /// Reads a row that this transaction has locked, and that is therefore there.
    async fn read_own(&self, world: &World, local: &mut Local, xid: &Xid) -> Result<u8, Unsettled> {
        self.read(world, local, xid).await?.ok_or_else(|| Unsettled("the barrier row has gone".into()))
    }

    async fn read_and_roll_back(&self, world: &World, mut local: Local, xid: &Xid) -> Result<u8, Unsettled> {
        let state = self.read_own(world, &mut local, xid).await?;
        self.roll_back_local(world, local).await;
        Ok(state)
    }

    /// Rolls back, or else closes the connection, which comes to the same.
    async fn roll_back_local(&self, world: &World, mut local: Local) {
        let _ = local.session.run_within(world, CONTROL_TIME, vec![Statement::Rollback]).await;
    }

    /// The handlers' work: changes an account and notes it in the ledger.
    async fn apply(
        &self,
        world: &World,
        local: &mut Local,
        (xid, job): (&Xid, &Job),
        deed: Deed,
        account: u32,
        (balance, frozen): (i64, i64),
    ) -> Result<(), DbError> {
        let account = (self.resource.schema, account);
        let batch = vec![
            Statement::Change { account, balance, frozen },
            Statement::Guard(1),
            Statement::Note(job.note(*xid, deed, account, (balance, frozen))),
        ];
        let done = local.session.run_within(world, CONTROL_TIME, batch).await;
        done.map(|_| ()).map_err(|failure| failure.error)
    }

    async fn commit_local(&self, world: &World, mut local: Local) -> Result<(), DbError> {
        let done = local.session.run_within(world, CONTROL_TIME, vec![Statement::Commit]).await;
        done.map(|_| ()).map_err(|failure| failure.error)
    }
}

fn recorded_try(state: u8) -> Result<Tried, Unsettled> {
    match state {
        barrier::TRIED | barrier::CONFIRMED => Ok(Tried::Reserved),
        barrier::CANCELLED | barrier::TOMBSTONE => Ok(Tried::Refused("cancelled before".into())),
        barrier::REFUSED => Ok(Tried::Refused("refused before".into())),
        other => Err(Unsettled(format!("a row in state {other}"))),
    }
}

fn recorded_end(state: u8) -> Result<Finished, Unsettled> {
    match state {
        barrier::CONFIRMED => Ok(Finished::Confirmed),
        barrier::CANCELLED | barrier::TOMBSTONE | barrier::REFUSED => Ok(Finished::Cancelled),
        other => Err(Unsettled(format!("a row in state {other}"))),
    }
}
