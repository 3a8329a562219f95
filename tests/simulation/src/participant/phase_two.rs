//! Ending XA branches (as `participant-sdk/src/phase_two.rs`).

use std::sync::Arc;

use concord_xa::{Resolution, Xid};
use tokio::time::Instant;

use super::slots::{End, Slot, State};
use super::{Ending, Job, Process, Unsettled};
use crate::mutant::Mutant;
use crate::world::World;

impl Process {
    /// Commits a branch that voted yes. Only evidence makes it a success (docs/xa.md rule 8).
    pub(super) async fn commit(&self, world: &Arc<World>, xid: Xid) -> Result<Ending, Unsettled> {
        let slot = self.slots.get(&xid);
        let mut state = slot.state.lock().await;
        let resolution = match &mut *state {
            // A read-only one has nothing that could be committed or lost.
            State::Ended(End::Committed | End::ReadOnly) => return Ok(Ending::Committed),
            State::Open { .. } => return Err(Unsettled("the branch has not been prepared".into())),
            State::Prepared { branch, .. } => branch.commit(world).await,
            State::New if world.has(Mutant::CommitsWithoutAsking) => crate::resource::committed(),
            // Another life of this process prepared it, or none did: the database knows.
            State::New | State::Lost { .. } | State::Ended(_) => self.resource.commit(world, &xid).await,
        };
        self.conclude(world, &xid, &mut state, resolution)
    }

    /// Commits a branch that was never prepared; its answer is the outcome of the whole transaction.
    pub(super) async fn commit_one_phase(
        &self,
        world: &Arc<World>,
        xid: Xid,
        job: Option<Job>,
    ) -> Result<Ending, Unsettled> {
        let slot = self.slots.get(&xid);
        let mut state = slot.state.lock().await;
        if let State::New = &*state {
            // A repeat must not run again, not even to fail: an XID is never used twice (docs/xa.md rule 1).
            match self.resource.recorded(world, &xid).await {
                Err(error) => return Err(Unsettled(format!("{error:?}"))),
                Ok(Some(resolution)) => return self.conclude(world, &xid, &mut state, resolution),
                Ok(None) => {}
            }
            if let (Some(job), false) = (job, slot.is_fenced()) {
                self.run_job(world, &xid, &slot, &mut state, job).await;
            }
        }
        let resolution = match std::mem::take(&mut *state) {
            State::Open { branch, .. } if !slot.is_fenced() => branch.commit_one_phase(world).await,
            State::Prepared { mut branch, since } => {
                let resolution = branch.commit(world).await;
                *state = State::Prepared { branch, since };
                resolution
            }
            State::Ended(End::Committed | End::ReadOnly) => crate::resource::committed(),
            State::Open { branch, .. } => {
                branch.abort(world).await;
                self.resource.fence(world, &xid, "rolled back before it could commit").await
            }
            // A tombstone before the answer: a delayed duplicate of this call must not commit later.
            State::Ended(End::Refused(reason) | End::RolledBack(reason)) => {
                *state = State::Ended(End::Refused(reason.clone()));
                self.resource.fence(world, &xid, &reason).await
            }
            State::New | State::Lost { .. } => self.resource.fence(world, &xid, "its work was lost").await,
        };
        self.conclude(world, &xid, &mut state, resolution)
    }

    /// Rolls a branch back, arrived or not, and sees to it that it cannot arrive later (docs/xa.md rule 9).
    pub(super) async fn rollback(&self, world: &Arc<World>, xid: Xid) -> Result<Ending, Unsettled> {
        let slot = self.slots.get(&xid);
        // Before the lock: whoever holds it may be at work on the very branch.
        slot.raise_fence();
        let mut state = slot.state.lock().await;
        let resolution = match std::mem::take(&mut *state) {
            State::Ended(End::RolledBack(reason)) => {
                *state = State::Ended(End::RolledBack(reason));
                return Ok(Ending::RolledBack);
            }
            State::Open { branch, .. } => {
                branch.abort(world).await;
                self.resource.rollback(world, &xid).await
            }
            State::Prepared { branch, since } => {
                // Back in its place while it is at work: a cancelled call must leave it findable.
                *state = State::Prepared { branch, since };
                match &mut *state {
                    State::Prepared { branch, .. } => branch.rollback(world).await,
                    _ => Resolution::Undecided { reason: "the branch is not prepared".into() },
                }
            }
            // Also what only read gets its tombstone: a duplicate of its call, in the next life of this process,
            // may find something to write.
            other => {
                *state = other;
                self.resource.rollback(world, &xid).await
            }
        };
        self.conclude(world, &xid, &mut state, resolution)
    }

    fn conclude(
        &self,
        world: &World,
        xid: &Xid,
        state: &mut State,
        resolution: Resolution,
    ) -> Result<Ending, Unsettled> {
        world.say(|| format!("participant {}: {xid} resolved: {resolution:?}", self.number));
        match resolution {
            Resolution::Committed { .. } => {
                self.end(xid, state, End::Committed);
                Ok(Ending::Committed)
            }
            Resolution::RolledBack { reason } | Resolution::NoTrace { reason } => {
                self.end(xid, state, End::RolledBack(reason));
                Ok(Ending::RolledBack)
            }
            Resolution::Undecided { reason } => {
                self.slots.may_forget(xid);
                Err(Unsettled(reason))
            }
        }
    }

    /// Rolls back open branches whose transaction has timed out long ago.
    pub(super) async fn expire(&self, world: &Arc<World>) {
        let now = Instant::now();
        for (xid, slot) in self.slots.all() {
            let Ok(mut state) = slot.state.try_lock() else { continue };
            if matches!(&*state, State::Open { expires, .. } if *expires < now) {
                self.abort_open(world, &xid, &slot, &mut state).await;
            }
        }
    }

    async fn abort_open(&self, world: &Arc<World>, xid: &Xid, slot: &Slot, state: &mut State) {
        match std::mem::take(state) {
            State::Open { branch, .. } => {
                slot.raise_fence();
                branch.abort(world).await;
                self.end(xid, state, End::Refused("its transaction timed out".into()));
            }
            other => *state = other,
        }
    }
}
