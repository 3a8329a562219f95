//! Phase one of XA branches (as `participant-sdk/src/participant.rs`).

use std::sync::Arc;
use std::time::Duration;

use concord_xa::{Resolution, Trace, Xid};
use tokio::time::Instant;

use super::branch::{Branch, Prepared, Vote};
use super::slots::{End, Slot, State};
use super::{Job, Process, Unsettled};
use crate::database::{Row, SessionId};
use crate::world::World;

/// Kept open for this long past the transaction's own time-out, a branch that was never asked for its vote is
/// rolled back.
const GRACE: Duration = Duration::from_secs(5);

/// What a branch says when asked for its vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    ReadOnly,
    No(String),
}

impl Process {
    /// Runs a branch's statements and keeps it open (grade STRICT).
    pub(super) async fn work(
        &self,
        world: &Arc<World>,
        xid: Xid,
        job: Job,
        repeated: bool,
    ) -> Result<Answer, Unsettled> {
        let slot = self.slots.get(&xid);
        let mut state = slot.state.lock().await;
        if matches!(*state, State::New) && !slot.is_fenced() {
            if repeated {
                // An earlier call may have started it, and an XID is never used twice (docs/xa.md rule 1).
                return self.look_for_trace(world, &xid, &mut state, None).await;
            }
            self.run_job(world, &xid, &slot, &mut state, job).await;
        }
        match &*state {
            State::Open { .. } => Ok(Answer::Yes),
            _ => self.standing(world, &xid, &slot, &mut state).await,
        }
    }

    /// Asks a branch for its vote, after its work if that comes along.
    pub(super) async fn prepare(
        &self,
        world: &Arc<World>,
        xid: Xid,
        job: Option<Job>,
        repeated: bool,
    ) -> Result<Answer, Unsettled> {
        let slot = self.slots.get(&xid);
        let mut state = slot.state.lock().await;
        match (&*state, job) {
            (State::New, _) if slot.is_fenced() => {}
            (State::New, Some(job)) if !repeated => {
                self.run_job(world, &xid, &slot, &mut state, job).await;
            }
            // The work was done by an earlier life of this process, or by an earlier call (docs/xa.md rule 7).
            (State::New, _) => return self.look_for_trace(world, &xid, &mut state, None).await,
            _ => {}
        }
        self.vote(world, &xid, &slot, &mut state).await;
        self.standing(world, &xid, &slot, &mut state).await
    }

    /// PREPAREs an open branch; once, whatever comes of it.
    pub(super) async fn vote(&self, world: &Arc<World>, xid: &Xid, slot: &Slot, state: &mut State) {
        let branch = match std::mem::take(state) {
            State::Open { branch, .. } => branch,
            other => return *state = other,
        };
        if slot.is_fenced() {
            branch.abort(world).await;
            return self.end(xid, state, End::RolledBack("rolled back before its vote".into()));
        }
        match branch.prepare(world).await {
            Vote::Yes(branch) => *state = State::Prepared { branch, since: Instant::now() },
            Vote::ReadOnly => self.end(xid, state, End::ReadOnly),
            Vote::No(reason) => self.end(xid, state, End::Refused(reason)),
            Vote::Unknown(connection) => *state = State::Lost { connection },
        }
    }

    /// What a branch that is past its work has to say.
    pub(super) async fn standing(
        &self,
        world: &Arc<World>,
        xid: &Xid,
        slot: &Slot,
        state: &mut State,
    ) -> Result<Answer, Unsettled> {
        match state {
            State::Prepared { .. } | State::Ended(End::Committed) => Ok(Answer::Yes),
            State::Ended(End::ReadOnly) => Ok(Answer::ReadOnly),
            State::Ended(End::Refused(reason) | End::RolledBack(reason)) => Ok(Answer::No(reason.clone())),
            State::Lost { connection } => {
                let connection = *connection;
                self.look_for_trace(world, xid, state, Some(connection)).await
            }
            State::New if slot.is_fenced() => Ok(Answer::No("rolled back before it arrived".into())),
            State::New | State::Open { .. } => Err(Unsettled("the branch is not ready".into())),
        }
    }

    /// Finds out from the database how a branch stands. A branch without a trace is fenced before it is refused.
    async fn look_for_trace(
        &self,
        world: &Arc<World>,
        xid: &Xid,
        state: &mut State,
        connection: Option<SessionId>,
    ) -> Result<Answer, Unsettled> {
        let reason = "an earlier call was lost, with its work";
        self.slots.may_forget(xid);
        let resolution = match self.resource.settle(world, xid, connection).await {
            Trace::Prepared { .. } => {
                let branch = Prepared::found(self.resource.clone(), *xid);
                *state = State::Prepared { branch, since: Instant::now() };
                return Ok(Answer::Yes);
            }
            Trace::Ended(resolution) => resolution,
            Trace::None => self.resource.fence(world, xid, reason).await,
            Trace::Unknown { reason } => return Err(Unsettled(reason)),
        };
        match resolution {
            Resolution::Committed { .. } => {
                self.end(xid, state, End::Committed);
                Ok(Answer::Yes)
            }
            Resolution::RolledBack { reason } | Resolution::NoTrace { reason } => {
                self.end(xid, state, End::Refused(reason.clone()));
                Ok(Answer::No(reason))
            }
            Resolution::Undecided { reason } => Err(Unsettled(reason)),
        }
    }

    /// Does a branch's work. Afterwards it is open, or ended.
    pub(super) async fn run_job(
        &self,
        world: &Arc<World>,
        xid: &Xid,
        slot: &Slot,
        state: &mut State,
        job: Job,
    ) {
        let session = match self.resource.session(world, world.about(xid.gtid)).await {
            Ok(session) => session,
            Err(error) => return self.end(xid, state, End::Refused(format!("{error:?}"))),
        };
        let mut branch = Branch::new(self.resource.clone(), session, *xid);
        let connection = branch.connection();
        let outcome = tokio::select! {
            biased;
            () = slot.fenced() => Err("rolled back while it was at work".to_owned()),
            outcome = tokio::time::timeout(job.remaining, self.do_work(world, &mut branch, &job)) => {
                outcome.unwrap_or_else(|_| Err("the transaction timed out".to_owned()))
            }
        };
        world.say(|| {
            format!("participant {}: {xid} worked in session {connection}: {outcome:?}", self.number)
        });
        match outcome {
            Ok(()) => *state = State::Open { branch, expires: Instant::now() + job.remaining + GRACE },
            Err(reason) => {
                branch.abort(world).await;
                self.end(xid, state, End::Refused(reason));
            }
        }
    }

    /// The handler: moves money, in one round trip of its own or together with the vote.
    async fn do_work(&self, world: &Arc<World>, branch: &mut Branch, job: &Job) -> Result<(), String> {
        let schema = self.resource.schema;
        let Some(plan) = world.branch_plan(job) else { return Err("no such work".into()) };
        for (account, balance) in &plan.moves {
            branch.queue_move(world, job, (schema, *account), *balance);
        }
        if plan.moves.is_empty() {
            let found = branch.read(world, (schema, 0)).await?;
            if plan.fickle && matches!(found, Some(Row::Account { balance, .. }) if balance % 2 != 0) {
                branch.queue_move(world, job, (schema, 0), 0);
            }
        }
        let at_once = job.transaction.is_multiple_of(2);
        if at_once { branch.flush(world).await.map(|_| ()) } else { Ok(()) }
    }

    pub(super) fn end(&self, xid: &Xid, state: &mut State, end: End) {
        *state = State::Ended(end);
        self.slots.may_forget(xid);
    }
}
