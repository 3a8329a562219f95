//! Ending a branch: commit, one-phase commit, rollback.

use concord_seeded_bugs::seeded_bug;
use concord_xa::{PreparedBranch, Resolution, Xid};

use crate::participant::{Ending, Job, Unsettled, Xa};
use crate::slots::{End, Slot, State};
use crate::trace::span;

impl Xa {
    /// Commits a branch that voted yes. Only evidence makes it a success (docs/xa.md rule 8).
    pub(crate) async fn commit(&self, xid: Xid) -> Result<Ending, Unsettled> {
        let slot = self.slots.get(&xid);
        let mut state = slot.state.lock().await;
        let resolution = match &mut *state {
            State::Ended(End::Committed { reply }) => return Ok(Ending::Committed { reply: reply.clone() }),
            // It has nothing that could be committed or lost.
            State::Ended(End::ReadOnly { reply }) => return Ok(Ending::Committed { reply: reply.clone() }),
            State::Open { .. } => return Err(Unsettled("the branch has not been prepared".into())),
            State::Prepared { branch, reply, .. } => {
                let reply = reply.clone();
                match branch.commit().await {
                    Resolution::Committed { .. } => Resolution::Committed { reply },
                    other => other,
                }
            }
            // Another life of this process prepared it, or none did: the database knows.
            State::New | State::Lost { .. } | State::Ended(_) => self.database.commit(&xid).await,
        };
        self.conclude(&xid, &mut state, resolution, "commit")
    }

    /// Commits a branch that was never prepared; its answer is the outcome of the whole transaction.
    pub(crate) async fn commit_one_phase(&self, xid: Xid, job: Option<Job>) -> Result<Ending, Unsettled> {
        let slot = self.slots.get(&xid);
        let mut state = slot.state.lock().await;
        if let State::New = &*state {
            // A repeat must not run again, not even to fail: an XID is never used twice (docs/xa.md rule 1).
            match self.database.recorded(&xid).await {
                Err(error) => return Err(Unsettled(error.to_string())),
                Ok(Some(resolution)) if !seeded_bug!("repeat-runs-again") => {
                    return self.conclude(&xid, &mut state, resolution, "one-phase commit");
                }
                Ok(_) => {}
            }
            if let (Some(job), false) = (job, slot.is_fenced()) {
                self.run_job(&xid, &slot, &mut state, job).await;
            }
        }
        let resolution = match std::mem::take(&mut *state) {
            State::Open { branch, reply, .. } if !slot.is_fenced() => branch.commit_one_phase(&reply).await,
            State::Prepared { mut branch, reply, since } => {
                let resolution = branch.commit().await;
                *state = State::Prepared { branch, reply, since };
                resolution
            }
            State::Ended(End::Committed { reply }) => Resolution::Committed { reply },
            State::Ended(End::ReadOnly { reply }) => Resolution::Committed { reply },
            State::Open { branch, .. } => {
                branch.abort().await;
                self.database.fence(&xid, "rolled back before it could commit").await
            }
            // A tombstone before the answer: a delayed duplicate of this call must not commit later.
            State::Ended(End::Refused { reason } | End::RolledBack { reason }) => {
                *state = State::Ended(End::Refused { reason: reason.clone() });
                self.database.fence(&xid, &reason).await
            }
            State::New | State::Lost { .. } => self.database.fence(&xid, "its work was lost").await,
        };
        self.conclude(&xid, &mut state, resolution, "one-phase commit")
    }

    /// Rolls a branch back, arrived or not, and sees to it that it cannot arrive later (docs/xa.md rule 9).
    pub(crate) async fn rollback(&self, xid: Xid) -> Result<Ending, Unsettled> {
        let slot = self.slots.get(&xid);
        // Before the lock: whoever holds it may be at work on the very branch.
        if !seeded_bug!("rollback-waits-for-work") {
            slot.raise_fence();
        }
        let mut state = slot.state.lock().await;
        let resolution = match std::mem::take(&mut *state) {
            State::Ended(End::RolledBack { reason }) => {
                *state = State::Ended(End::RolledBack { reason: reason.clone() });
                return Ok(Ending::RolledBack { reason });
            }
            State::Open { branch, .. } => {
                branch.abort().await;
                self.database.rollback(&xid).await
            }
            State::Prepared { branch, reply, since } => {
                // Back in its place while it is at work: a cancelled call must leave it findable.
                *state = State::Prepared { branch, reply, since };
                self.roll_back_prepared(&mut state).await
            }
            // Also what only read gets its tombstone: a duplicate of its call, in the next life of this process,
            // may find something to write.
            other => {
                *state = other;
                self.database.rollback(&xid).await
            }
        };
        self.conclude(&xid, &mut state, resolution, "rollback")
    }

    async fn roll_back_prepared(&self, state: &mut State) -> Resolution {
        match state {
            State::Prepared { branch, .. } => branch.rollback().await,
            _ => Resolution::Undecided { reason: "the branch is not prepared".into() },
        }
    }

    fn conclude(
        &self,
        xid: &Xid,
        state: &mut State,
        resolution: Resolution,
        call: &str,
    ) -> Result<Ending, Unsettled> {
        let was_prepared = matches!(state, State::Prepared { .. });
        match resolution {
            Resolution::Committed { reply } => {
                if call == "rollback" {
                    tracing::warn!("told to roll back a branch that has committed");
                }
                self.end(xid, state, End::Committed { reply: reply.clone() });
                Ok(Ending::Committed { reply })
            }
            Resolution::RolledBack { reason } | Resolution::NoTrace { reason } => {
                if call == "commit" {
                    tracing::error!(
                        reason,
                        was_prepared,
                        "HEURISTIC: told to commit a branch that was rolled back"
                    );
                }
                self.end(xid, state, End::RolledBack { reason: reason.clone() });
                Ok(Ending::RolledBack { reason })
            }
            Resolution::Undecided { reason } => {
                tracing::debug!(reason, call, "undecided");
                self.slots.may_forget(xid);
                Err(Unsettled(reason))
            }
        }
    }

    /// Rolls back open branches whose transaction has timed out long ago.
    pub(crate) async fn expire(&self) {
        let now = std::time::Instant::now();
        for (xid, slot) in self.slots.all() {
            let Ok(mut state) = slot.state.try_lock() else { continue };
            if matches!(&*state, State::Open { expires, .. } if *expires < now) {
                self.abort_open(&xid, &slot, &mut state, "its transaction timed out").await;
            }
        }
    }

    /// Rolls back what is open and closes what is held, so that others can go on: at shutdown.
    pub(crate) async fn release_all(&self) {
        for (xid, slot) in self.slots.all() {
            let mut state = slot.state.lock().await;
            self.abort_open(&xid, &slot, &mut state, "the participant is shutting down").await;
            if let State::Prepared { branch, .. } = &mut *state {
                // Its session closes with it; the branch stays prepared in the database.
                *branch = PreparedBranch::found(self.database.clone(), xid);
            }
        }
    }

    async fn abort_open(&self, xid: &Xid, slot: &Slot, state: &mut State, reason: &str) {
        match std::mem::take(state) {
            State::Open { branch, .. } => {
                slot.raise_fence();
                branch.abort().await;
                let span = span("abort", (xid.gtid, xid.branch), None);
                span.in_scope(|| tracing::warn!(reason, "branch rolled back"));
                self.end(xid, state, End::Refused { reason: reason.into() });
            }
            other => *state = other,
        }
    }
}
