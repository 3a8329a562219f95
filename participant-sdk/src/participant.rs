//! What a participant does with a branch, whoever asks for it.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use concord_proto::TraceContext;
use concord_xa::{Database, PreparedBranch, Resolution, Trace, Vote, Xid};
use futures_util::FutureExt as _;

pub(crate) use crate::door::Job;
use crate::handler::{Action, HandlerError, Reply};
use crate::horizon::Horizon;
use crate::link::Link;
use crate::slots::{End, Slot, Slots, State};
use crate::tcc::words_of;
use crate::xa_branch::XaBranch;

/// Kept open for this long past the transaction's own time-out, a branch that was never asked for its vote is
/// rolled back: its coordinator has given up or is gone.
const GRACE: Duration = Duration::from_secs(5);

/// Everything that the XA part of a participant is made of.
pub(crate) struct Xa {
    pub(crate) database: Database,
    pub(crate) link: Arc<Link>,
    pub(crate) actions: HashMap<String, Arc<Action>>,
    pub(crate) slots: Slots,
    pub(crate) horizon: Arc<Horizon>,
}

/// The outcome is not known; the caller repeats the call.
#[derive(Debug, Clone)]
pub(crate) struct Unsettled(pub(crate) String);

/// What a branch says when asked for its vote.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Yes { reply: Bytes },
    ReadOnly { reply: Bytes },
    No { reason: String },
}

/// How a branch ended.
#[derive(Debug, Clone)]
pub(crate) enum Ending {
    Committed { reply: Bytes },
    RolledBack { reason: String },
}

impl Xa {
    /// Runs a branch's statements and keeps it open (grade STRICT). `Ok`: done, with the reply.
    pub(crate) async fn work(&self, xid: Xid, job: Job, repeated: bool) -> Result<Answer, Unsettled> {
        let slot = self.slots.get(&xid);
        let mut state = slot.state.lock().await;
        if matches!(*state, State::New) && !slot.is_fenced() {
            if repeated {
                // An earlier call may have started it, and an XID is never used twice (docs/xa.md rule 1).
                return self.look_for_trace(&xid, &mut state, None).await;
            }
            self.run_job(&xid, &slot, &mut state, job).await;
        }
        match &*state {
            State::Open { reply, .. } => Ok(Answer::Yes { reply: reply.clone() }),
            _ => self.standing(&xid, &slot, &mut state).await,
        }
    }

    /// Asks a branch for its vote, after its work if that comes along.
    pub(crate) async fn prepare(
        &self,
        xid: Xid,
        job: Option<Job>,
        repeated: bool,
    ) -> Result<Answer, Unsettled> {
        let slot = self.slots.get(&xid);
        let mut state = slot.state.lock().await;
        match (&*state, job) {
            (State::New, _) if slot.is_fenced() => {}
            (State::New, Some(job)) if !repeated => self.run_job(&xid, &slot, &mut state, job).await,
            // The work was done by an earlier life of this process, or by an earlier call (docs/xa.md rule 7).
            (State::New, _) => return self.look_for_trace(&xid, &mut state, None).await,
            _ => {}
        }
        self.vote(&xid, &slot, &mut state).await;
        self.standing(&xid, &slot, &mut state).await
    }

    /// PREPAREs an open branch; once, whatever comes of it.
    pub(crate) async fn vote(&self, xid: &Xid, slot: &Slot, state: &mut State) {
        let (branch, reply) = match std::mem::take(state) {
            State::Open { branch, reply, .. } => (branch, reply),
            other => return *state = other,
        };
        if slot.is_fenced() {
            branch.abort().await;
            return self.end(xid, state, End::RolledBack { reason: "rolled back before its vote".into() });
        }
        match branch.prepare(&reply).await {
            Vote::Yes(branch) => *state = State::Prepared { branch, reply, since: Instant::now() },
            Vote::ReadOnly => self.end(xid, state, End::ReadOnly { reply }),
            Vote::No { reason } => self.end(xid, state, End::Refused { reason }),
            Vote::Unknown { reason, connection_id } => {
                tracing::warn!(reason, "looking for what became of PREPARE");
                *state = State::Lost { connection_id };
            }
        }
    }

    /// What a branch that is past its work has to say.
    pub(crate) async fn standing(
        &self,
        xid: &Xid,
        slot: &Slot,
        state: &mut State,
    ) -> Result<Answer, Unsettled> {
        match state {
            State::Prepared { reply, .. } => Ok(Answer::Yes { reply: reply.clone() }),
            State::Ended(End::ReadOnly { reply }) => Ok(Answer::ReadOnly { reply: reply.clone() }),
            State::Ended(End::Committed { reply }) => Ok(Answer::Yes { reply: reply.clone() }),
            State::Ended(End::Refused { reason } | End::RolledBack { reason }) => {
                Ok(Answer::No { reason: reason.clone() })
            }
            State::Lost { connection_id } => {
                let connection_id = *connection_id;
                self.look_for_trace(xid, state, Some(connection_id)).await
            }
            State::New if slot.is_fenced() => {
                Ok(Answer::No { reason: "rolled back before it arrived".into() })
            }
            State::New | State::Open { .. } => Err(Unsettled("the branch is not ready".into())),
        }
    }

    /// Finds out from the database how a branch stands. A branch without a trace is fenced before it is
    /// refused: what is late must not prepare any more.
    async fn look_for_trace(
        &self,
        xid: &Xid,
        state: &mut State,
        connection_id: Option<u32>,
    ) -> Result<Answer, Unsettled> {
        let reason = "an earlier call was lost, with its work";
        self.slots.may_forget(xid);
        let resolution = match self.database.settle(xid, connection_id).await {
            Trace::Prepared { reply } => {
                let branch = PreparedBranch::found(self.database.clone(), *xid);
                *state = State::Prepared { branch, reply: reply.clone(), since: Instant::now() };
                return Ok(Answer::Yes { reply });
            }
            Trace::Ended(resolution) => resolution,
            Trace::None => self.database.fence(xid, reason).await,
            Trace::Unknown { reason } => return Err(Unsettled(reason)),
        };
        match resolution {
            Resolution::Committed { reply } => {
                self.end(xid, state, End::Committed { reply: reply.clone() });
                Ok(Answer::Yes { reply })
            }
            Resolution::RolledBack { reason } | Resolution::NoTrace { reason } => {
                self.end(xid, state, End::Refused { reason: reason.clone() });
                Ok(Answer::No { reason })
            }
            Resolution::Undecided { reason } => Err(Unsettled(reason)),
        }
    }

    /// Runs a registered handler. Afterwards the branch is open, or ended.
    pub(crate) async fn run_job(&self, xid: &Xid, slot: &Slot, state: &mut State, job: Job) {
        let Some(action) = self.actions.get(&job.action) else {
            let reason = format!("this participant has no action {:?}", job.action);
            return self.end(xid, state, End::Refused { reason });
        };
        let kind = Kind {
            read_only: action.read_only,
            watch: action.seems_read_only.load(Ordering::Relaxed),
            trace: job.trace,
        };
        let work = |branch| async { (action.run)(branch, job.payload).await.map(|reply| ((), reply)) };
        let done = self.run_in_branch(xid, slot, state, kind, job.remaining, work).await;
        if let (Ok(()), State::Open { branch, .. }) = (done, &*state) {
            action.seems_read_only.store(branch.only_reads(), Ordering::Relaxed);
        }
    }

    /// Runs `work` in a new branch. `Ok`: the branch is open; else it has ended.
    ///
    /// Cancelled at any point, the branch is lost with its session, and the database rolls it back.
    pub(crate) async fn run_in_branch<T, F, Fut>(
        &self,
        xid: &Xid,
        slot: &Slot,
        state: &mut State,
        kind: Kind,
        remaining: Duration,
        work: F,
    ) -> Result<T, HandlerError>
    where
        F: FnOnce(XaBranch) -> Fut,
        Fut: Future<Output = Result<(T, Reply), HandlerError>>,
    {
        if let Some(reason) = self.horizon.too_old(xid.gtid) {
            return Err(self.refuse(xid, state, HandlerError::refused(reason)));
        }
        let mut branch = match self.database.begin(xid.cluster, xid.gtid, xid.branch).await {
            Ok(branch) => branch,
            Err(error) => return Err(self.refuse(xid, state, error.into())),
        };
        if kind.read_only {
            branch.set_read_only();
        }
        branch.watch_writes(kind.watch);
        let connection_id = branch.connection_id();
        let (handle, tray) = XaBranch::new(branch, kind.trace);
        // The handler is called inside the future: a panic before its first await is caught as well.
        let work = AssertUnwindSafe(async move { work(handle).await }).catch_unwind();
        let outcome = tokio::select! {
            biased;
            () = slot.fenced() => Err(HandlerError::refused("rolled back while it was at work")),
            outcome = tokio::time::timeout(remaining, work) => match outcome {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(panic)) => Err(HandlerError::failed(format!("the handler panicked: {}", words_of(&*panic)))),
                Err(_) => Err(HandlerError::failed("the transaction timed out while the handler was at work")),
            },
        };
        let Some(branch) = tray.take() else {
            self.database.end_session(connection_id).await;
            return Err(self.refuse(xid, state, HandlerError::failed("the handler kept its branch")));
        };
        match outcome {
            Ok((value, Reply(reply))) => {
                let expires = Instant::now() + remaining + GRACE;
                *state = State::Open { branch, reply, expires };
                Ok(value)
            }
            Err(error) => {
                branch.abort().await;
                Err(self.refuse(xid, state, error))
            }
        }
    }

    fn refuse(&self, xid: &Xid, state: &mut State, error: HandlerError) -> HandlerError {
        let reason = error.reason();
        if error.is_refusal() {
            tracing::debug!(reason, "branch refused");
        } else {
            tracing::warn!(reason, "branch failed");
        }
        self.end(xid, state, End::Refused { reason });
        error
    }

    pub(crate) fn end(&self, xid: &Xid, state: &mut State, end: End) {
        *state = State::Ended(end);
        self.slots.may_forget(xid);
    }
}

/// How a branch is to be run.
#[derive(Debug)]
pub(crate) struct Kind {
    /// The server refuses writes.
    pub(crate) read_only: bool,
    /// Find out whether it wrote anything.
    pub(crate) watch: bool,
    /// Where its work belongs in a trace.
    pub(crate) trace: Option<TraceContext>,
}
