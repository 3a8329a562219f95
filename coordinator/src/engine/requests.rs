//! What initiators and participants ask for.

use std::sync::Arc;

use bytes::Bytes;
use concord_proto::TraceContext;
use concord_protocol::{BranchId, BranchState, Decision, Event, Gtid, Millis, Refusal, Vote};
use concord_seeded_bugs::seeded_bug;
use tokio::time::Instant;

use super::admission::FirstOrNew;
use super::live::{BranchExtra, Live, LiveState};
use super::snapshot::{BranchSpec, Grade, Kind, Snapshot};
use super::{Engine, EngineError, Found, invalid};
use crate::store::Durability;

/// When a call that ends a transaction answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// When the decision is durable.
    Decided,
    /// When every branch has ended.
    Completed,
}

/// How a transaction is begun.
#[derive(Debug, Clone, Default)]
pub struct BeginRequest {
    /// For people.
    pub name: String,
    /// Milliseconds; 0: the default.
    pub timeout_ms: u32,
    /// Empty: none. Each tenant has its own.
    pub idempotency_key: String,
    /// Whose transaction it is; empty: nobody's in particular. It has no `/`.
    pub tenant: String,
    /// What the transaction is a part of, if its initiator says so.
    pub trace: Option<TraceContext>,
}

/// A branch that the coordinator is to run.
#[derive(Debug, Clone)]
pub struct BranchRequest {
    /// Which protocol it follows.
    pub kind: Kind,
    /// Where the participant listens.
    pub participant: String,
    /// The handler's name.
    pub action: String,
    /// Its argument.
    pub payload: Bytes,
}

/// A participant joins.
#[derive(Debug, Clone)]
pub struct RegisterRequest {
    /// Which transaction.
    pub gtid: Gtid,
    /// Which protocol the branch follows.
    pub kind: Kind,
    /// Where the participant listens.
    pub participant: String,
    /// The handlers' name; TCC only.
    pub action: String,
    /// Their argument; TCC only.
    pub payload: Bytes,
    /// Chosen by the participant: a repeat answers with the same branch.
    pub registration_key: String,
}

/// How many milliseconds a transaction has left, and what was begun or joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted<T> {
    /// What was made.
    pub id: T,
    /// Milliseconds until an undecided transaction is rolled back.
    pub remaining_ms: u32,
}

impl Engine {
    /// Begins a transaction that its initiator drives.
    ///
    /// # Errors
    /// [`EngineError`]; nothing has begun then.
    pub async fn begin(&self, mut request: BeginRequest) -> Result<Admitted<Gtid>, EngineError> {
        let trace = request.trace.take();
        let header = self.header(request, Grade::EarlyVote, &[])?;
        let _held = self.driver.registry.hold_key(&header.idempotency_key).await;
        let (live, remaining_ms) = match self.first_or_new(&header).await? {
            FirstOrNew::First(first) => match self.driver.registry.get(first.gtid) {
                Some(live) => (Arc::clone(&live), self.remaining(live.deadline())),
                None => return Ok(Admitted { id: first.gtid, remaining_ms: 0 }),
            },
            FirstOrNew::New(gtid) => {
                let timeout_ms = header.timeout_ms;
                (self.admit(gtid, header, Vec::new(), trace)?, timeout_ms)
            }
        };
        tokio::select! {
            biased;
            () = live.when(|state| state.begun.then_some(())) => {}
            error = self.store_failed() => return Err(EngineError::Store(error)),
        }
        Ok(Admitted { id: live.gtid, remaining_ms })
    }

    /// Runs a whole transaction. It goes on if the caller stops waiting.
    ///
    /// # Errors
    /// [`EngineError`]; a refusal by a branch is an outcome, not an error.
    pub async fn execute(
        &self,
        mut request: BeginRequest,
        grade: Grade,
        branches: Vec<BranchRequest>,
        wait: Wait,
        until: Option<Instant>,
    ) -> Result<Snapshot, EngineError> {
        self.check_branches(&branches)?;
        let trace = request.trace.take();
        let header = self.header(request, grade, &branches)?;
        let has_key = !header.idempotency_key.is_empty();
        let held = self.driver.registry.hold_key(&header.idempotency_key).await;
        let live = match self.first_or_new(&header).await? {
            FirstOrNew::First(first) => match self.driver.registry.get(first.gtid) {
                Some(live) => live,
                None => return Ok(*first),
            },
            FirstOrNew::New(gtid) => self.admit(gtid, header, branches, trace)?,
        };
        drop(held);
        let outcome = self.outcome(&live, wait, until).await?;
        if has_key && !seeded_bug!("key-answered-off-the-record") {
            self.on_record(&outcome).await?;
        }
        Ok(outcome)
    }

    /// Waits until the store has the transaction, where its outcome was told before that. On a shared store the key of one that
    /// it does not have may be another's by now: this coordinator may have been taken over from, and not know.
    async fn on_record(&self, outcome: &Snapshot) -> Result<(), EngineError> {
        let store = &self.driver.store;
        let wrote = outcome.branches.iter().any(|branch| branch.state != BranchState::ReadOnly);
        let is_forced = outcome.decision() == Some(Decision::Commit) && wrote;
        if store.is_shared() && !is_forced {
            // With nothing, all that was appended before: its beginning at least. What of it is on record already, whoever takes
            // over finds, and its key stays.
            self.on_disk().await?;
        }
        Ok(())
    }

    /// Waits until all is on disk that has been appended before.
    ///
    /// # Errors
    /// [`EngineError::Store`] when it cannot be.
    pub async fn on_disk(&self) -> Result<(), EngineError> {
        Ok(self.driver.store.append(Vec::new(), Durability::Forced).await?)
    }

    /// Somebody calls about a transaction, as a part of this trace. It becomes the transaction's, if that belongs to none.
    pub fn adopt_trace(&self, gtid: Gtid, caller: Option<TraceContext>) {
        if caller.is_some()
            && let Some(live) = self.driver.registry.get(gtid)
        {
            self.driver.trace(&live, &mut live.lock(), caller);
        }
    }

    /// A participant joins. A TCC branch has joined when it is on disk.
    ///
    /// # Errors
    /// [`Refusal::NotActive`] once commit or rollback has begun.
    pub async fn register(&self, request: RegisterRequest) -> Result<Admitted<BranchId>, EngineError> {
        let gtid = request.gtid;
        self.check_participant(&request.participant)?;
        let live = self.live_or_why_not(gtid).await?;
        let joined = self.join(&live, request)?;
        let enlisted = live.when(|state| {
            let known = state.transaction.branch(joined.id)?;
            known.is_enlisted().then(|| state.transaction.decision())
        });
        let decision = tokio::select! {
            biased;
            decision = enlisted => decision,
            error = self.store_failed() => return Err(EngineError::Store(error)),
        };
        match decision {
            Some(Decision::Rollback) => {
                Err(EngineError::RolledBack { gtid, reason: live.lock().reason.clone() })
            }
            _ => Ok(joined),
        }
    }

    fn join(&self, live: &Arc<Live>, request: RegisterRequest) -> Result<Admitted<BranchId>, EngineError> {
        let RegisterRequest { gtid, kind, participant, action, payload, registration_key } = request;
        let mut spec = BranchSpec {
            kind,
            participant: participant.into(),
            action: action.into(),
            registration_key: registration_key.into(),
        };
        self.driver.registry.share_names(&mut spec);
        let mut state = live.lock();
        let remaining_ms = self.remaining(state.transaction.options().deadline);
        let same = |known: &BranchSpec| {
            known.registration_key == spec.registration_key && known.participant == spec.participant
        };
        if let Some(index) = state.specs.iter().position(same) {
            if state.specs[index] != spec || state.extras[index].payload != payload {
                let problem = "has been used in this transaction for another branch".into();
                return Err(invalid("registration_key", problem));
            }
            let id = BranchId(u32::try_from(index + 1).unwrap_or(u32::MAX));
            return Ok(Admitted { id, remaining_ms });
        }
        let limit = self.driver.settings.load().branches_max;
        if state.specs.len() >= limit {
            return Err(invalid("gtid", format!("the transaction has {limit} branches, which is the limit")));
        }
        let bytes: usize = state.extras.iter().map(|extra| extra.payload.len()).sum();
        self.check_payload("payload", bytes + payload.len())?;
        state.push(spec, BranchExtra { payload, ..BranchExtra::default() });
        if let Err(refusal) = self.driver.step_locked(live, &mut state, Event::Register(kind)) {
            state.specs.pop();
            state.extras.pop();
            return Err(EngineError::Refused { gtid, refusal });
        }
        let id = BranchId(u32::try_from(state.specs.len()).unwrap_or(u32::MAX));
        Ok(Admitted { id, remaining_ms })
    }

    /// A participant votes unasked.
    ///
    /// # Errors
    /// [`EngineError::RolledBack`] to a yes that came too late: the participant must roll back.
    pub async fn vote(
        &self,
        gtid: Gtid,
        branch: BranchId,
        vote: Vote,
        reason: String,
    ) -> Result<(), EngineError> {
        let live = self.live_or_why_not(gtid).await?;
        let mut state = live.lock();
        if let Some(extra) = state.extra(branch)
            && !reason.is_empty()
        {
            extra.last_error = reason.into();
        }
        self.driver
            .step_locked(&live, &mut state, Event::Voted { branch, vote })
            .map_err(|refusal| refused(gtid, refusal, &state.reason))
    }

    /// Commits.
    ///
    /// # Errors
    /// [`EngineError::RolledBack`] when that is its outcome.
    pub async fn commit(
        &self,
        gtid: Gtid,
        wait: Wait,
        until: Option<Instant>,
    ) -> Result<Snapshot, EngineError> {
        let snapshot = match self.find(gtid).await? {
            Found::Live(live) => {
                {
                    let mut state = live.lock();
                    let step = self.driver.step_locked(&live, &mut state, Event::Commit);
                    step.map_err(|refusal| refused(gtid, refusal, &state.reason))?;
                }
                self.outcome(&live, wait, until).await?
            }
            Found::Ended(snapshot) => *snapshot,
        };
        match snapshot.decision() {
            Some(Decision::Commit) => Ok(snapshot),
            _ => Err(EngineError::RolledBack { gtid, reason: snapshot.reason }),
        }
    }

    /// Rolls back.
    ///
    /// # Errors
    /// [`Refusal::AlreadyCommitted`] when that is its outcome.
    pub async fn rollback(
        &self,
        gtid: Gtid,
        reason: String,
        wait: Wait,
        until: Option<Instant>,
    ) -> Result<Snapshot, EngineError> {
        let snapshot = match self.find(gtid).await? {
            Found::Live(live) => {
                {
                    let mut state = live.lock();
                    state.request_reason = reason;
                    let step = self.driver.step_locked(&live, &mut state, Event::Rollback);
                    step.map_err(|refusal| EngineError::Refused { gtid, refusal })?;
                }
                self.outcome(&live, wait, until).await?
            }
            Found::Ended(snapshot) => *snapshot,
        };
        match snapshot.decision() {
            Some(Decision::Rollback) => Ok(snapshot),
            _ => Err(EngineError::Refused { gtid, refusal: Refusal::AlreadyCommitted }),
        }
    }

    /// Waits for an outcome. At `until` it settles for the decision.
    ///
    /// # Errors
    /// [`EngineError::StillUndecided`] when that has not been taken by then.
    async fn outcome(
        &self,
        live: &Arc<Live>,
        wait: Wait,
        until: Option<Instant>,
    ) -> Result<Snapshot, EngineError> {
        // A parked transaction will not complete by itself: "committed, still delivering" is the answer then.
        let enough = |state: &LiveState, late: bool| {
            if seeded_bug!("duplicate-answered-early") {
                return Some(());
            }
            let decided_will_do = late || wait == Wait::Decided || state.transaction.is_parked();
            (state.completed || decided_will_do && state.told.is_some()).then_some(())
        };
        tokio::select! {
            // What is known is told, also when the store fails at the same moment.
            biased;
            () = live.when(|state| enough(state, false)) => {}
            () = sleep_until(until) => {
                enough(&live.lock(), true).ok_or(EngineError::StillUndecided(live.gtid))?;
            }
            error = self.store_failed() => return Err(EngineError::Store(error)),
        }
        Ok(live.snapshot())
    }

    fn remaining(&self, deadline: Millis) -> u32 {
        u32::try_from(self.driver.until(deadline).as_millis()).unwrap_or(u32::MAX)
    }
}

fn refused(gtid: Gtid, refusal: Refusal, reason: &str) -> EngineError {
    match refusal {
        Refusal::AlreadyRolledBack => EngineError::RolledBack { gtid, reason: reason.to_owned() },
        refusal => EngineError::Refused { gtid, refusal },
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
