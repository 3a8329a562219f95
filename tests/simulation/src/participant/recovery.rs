//! Ending the branches that were left prepared in the participant's own schema (as
//! `participant-sdk/src/recovery.rs`).

use std::sync::Arc;
use std::time::Duration;

use concord_coordinator::engine::Verdict;
use concord_xa::{Holding, Xid};

use super::Process;
use super::slots::State;
use crate::mutant::Mutant;
use crate::transport::Route;
use crate::world::{CLUSTER, World};

impl Process {
    /// Sweeps now and at intervals, until the process dies.
    pub(super) async fn recover_for_ever(&self, world: &Arc<World>) {
        let plan = world.scenario.participant;
        loop {
            self.expire(world).await;
            self.sweep(world, Duration::from_millis(plan.safety_ms)).await;
            world.pause(plan.recover_ms).await;
        }
    }

    /// Ends what is listed as prepared, as the coordinator says; leaves alone what is in doubt or young.
    async fn sweep(&self, world: &Arc<World>, safety: Duration) {
        let about = 1_000_000 + u64::from(self.number);
        let Ok(listed) = self.resource.recover(world, about).await else { return };
        let mut ours = listed;
        if !world.has(Mutant::ForeignToo) {
            ours.retain(|xid| xid.cluster == CLUSTER);
        }
        ours.retain(|xid| !self.in_flight(xid, safety));
        let of_branch = !world.has(Mutant::AsksForTheTransaction);
        for xid in ours {
            let asked = self.ask(world, about, 70, Route::Anyone, move |engine| async move {
                engine.inquire_branch(xid.gtid, of_branch.then_some(xid.branch)).await
            });
            let Ok(Ok(standing)) = asked.await else { return };
            self.carry_out(world, xid, standing.verdict, safety).await;
        }
    }

    async fn carry_out(&self, world: &Arc<World>, xid: Xid, verdict: Verdict, safety: Duration) {
        // The server also lists branches of its other schemas.
        match self.resource.holding(world, &xid).await {
            Ok(Holding::Here(age)) if age >= safety => {}
            _ => return,
        }
        let verdict = match verdict {
            Verdict::Undecided if world.has(Mutant::RecoveryGuesses) => Verdict::RolledBack,
            verdict => verdict,
        };
        let done = match verdict {
            Verdict::Committed => self.commit(world, xid).await,
            Verdict::RolledBack => self.rollback(world, xid).await,
            // Any doubt wins.
            Verdict::Undecided => return,
        };
        world.say(|| format!("participant {}: recovery of {xid}: {verdict:?} -> {done:?}", self.number));
    }

    /// Whether someone in this process is busy with the branch, or has prepared it just now.
    fn in_flight(&self, xid: &Xid, safety: Duration) -> bool {
        let Some(slot) = self.slots.find(xid) else { return false };
        slot.state.try_lock().map_or(true, |state| match &*state {
            State::Prepared { since, .. } => since.elapsed() < safety,
            State::Open { .. } => true,
            State::New | State::Lost { .. } | State::Ended(_) => false,
        })
    }
}
