//! Orders of operators, and what the sweeper reports.

use std::sync::Arc;
use std::time::Duration;

use concord_protocol::{BranchId, Decision, Event, Gtid, Millis, Outcome, Refusal, State, Timer};

use super::live::Live;
use super::record;
use super::snapshot::BranchSpec;
use super::{Engine, EngineError, Kind, Snapshot};
use crate::metrics::Label as _;

/// Who gives an order, and why; kept in the history.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// Who.
    pub operator: String,
    /// Why.
    pub reason: String,
}

/// A branch whose participant does not answer.
#[derive(Debug, Clone)]
pub struct Stuck {
    /// Of which transaction.
    pub gtid: Gtid,
    /// Which branch.
    pub branch: BranchId,
    /// Who does not answer.
    pub participant: Arc<str>,
    /// What it has to be told. A rollback that finds the branch committed in one phase leaves it at that.
    pub decision: Decision,
}

impl Engine {
    /// Calls every unfinished branch now, parked ones included.
    ///
    /// # Errors
    /// [`EngineError::UnknownGtid`].
    pub async fn retry(&self, gtid: Gtid, order: Order) -> Result<Snapshot, EngineError> {
        self.order(gtid, order, &[Event::RetryNow]).await
    }

    /// Leaves unfinished branches alone until told otherwise.
    ///
    /// # Errors
    /// [`concord_protocol::Refusal::NotDecided`] before the decision.
    pub async fn park(&self, gtid: Gtid, order: Order) -> Result<Snapshot, EngineError> {
        self.order(gtid, order, &[Event::Park]).await
    }

    /// Takes an operator's word for how one branch, or every unfinished one, has ended.
    ///
    /// # Errors
    /// [`concord_protocol::Refusal::NotDecided`] before the decision, `BranchEnded` when there is nothing to
    /// resolve.
    pub async fn resolve(
        &self,
        gtid: Gtid,
        branch: Option<BranchId>,
        outcome: Outcome,
        order: Order,
    ) -> Result<Snapshot, EngineError> {
        let branches = match branch {
            Some(branch) => vec![branch],
            None => {
                let snapshot = self.live_or_why_not(gtid).await?.snapshot();
                let unfinished = snapshot.branches.iter().filter(|one| one.parked || !one.state.has_ended());
                let unfinished: Vec<_> = unfinished.map(|one| one.id).collect();
                if unfinished.is_empty() {
                    let refusal = match snapshot.state {
                        State::Active | State::Preparing => Refusal::NotDecided,
                        _ => Refusal::BranchEnded,
                    };
                    return Err(EngineError::Refused { gtid, refusal });
                }
                unfinished
            }
        };
        let events: Vec<Event> =
            branches.into_iter().map(|branch| Event::Resolve { branch, outcome }).collect();
        self.order(gtid, order, &events).await
    }

    async fn order(&self, gtid: Gtid, order: Order, events: &[Event]) -> Result<Snapshot, EngineError> {
        let live = self.live_or_why_not(gtid).await?;
        self.give(&live, &order, events)?;
        // Whoever is told that it was done relies on it: it is on disk by then, and so is what it has led to.
        self.on_disk().await?;
        tokio::select! {
            () = live.when(|state| (!state.transaction.awaits_log()).then_some(())) => {}
            error = self.store_failed() => return Err(EngineError::Store(error)),
        }
        let (Order { operator, reason }, trace_id) = (&order, live.lock().trace_id());
        let order: Vec<_> = events.iter().map(told).collect();
        tracing::info!(%gtid, trace_id, operator, reason, order = order.join("; "), "an operator's order");
        Ok(live.snapshot())
    }

    fn give(&self, live: &Arc<Live>, order: &Order, events: &[Event]) -> Result<(), EngineError> {
        let mut state = live.lock();
        state.operator = (order.operator.clone(), order.reason.clone());
        let done = events.iter().try_for_each(|event| self.driver.step_locked(live, &mut state, *event));
        state.operator = Default::default();
        done.map_err(|refusal| EngineError::Refused { gtid: live.gtid, refusal })?;
        if events.contains(&Event::Park) {
            state.note_parked(&record::parked_by(&order.operator, &order.reason));
        }
        Ok(())
    }

    /// Unended XA branches that were first asked to end at least `since` ago: their participants do not answer. That is
    /// phase two, and the fence of a one-phase commit whose answer was lost. Parked ones wait for an operator and are
    /// left out. What an earlier life of the process asked counts from the start of this one: a jump of the wall clock
    /// must not keep the sweeper away.
    pub fn stuck(&self, since: Duration) -> Vec<Stuck> {
        let now = self.driver.clock.now();
        let mut found = Vec::new();
        for live in self.driver.registry.newest_first() {
            let state = live.lock();
            let Some(asked_at) = state.ending_since else { continue };
            if now.minus(asked_at) < Millis::from(since) || state.completed {
                continue;
            }
            let decision = state.told.unwrap_or(Decision::Rollback);
            for ((branch, one), spec) in state.transaction.branches().zip(&state.specs) {
                if spec.kind == Kind::Xa && !one.state().has_ended() && !one.is_parked() {
                    let participant = Arc::clone(&spec.participant);
                    found.push(Stuck { gtid: live.gtid, branch, participant, decision });
                }
            }
        }
        found
    }

    /// Calls those branches at once that wait to be called again, at a participant that answers again. Looks at each live
    /// transaction.
    pub fn call_again(&self, participant: &str) {
        for live in self.driver.registry.newest_first() {
            let mut state = live.lock();
            let here = |(_, spec): &(_, &BranchSpec)| *spec.participant == *participant;
            let branches = state.transaction.branches().zip(&state.specs).filter(here);
            let timers: Vec<_> = branches
                .filter(|((_, branch), _)| branch.attempts() > 0)
                .map(|((branch, one), _)| Timer::Retry { branch, attempts: one.attempts() })
                .collect();
            for timer in timers {
                // As if its time had come. When it does, it finds another number of attempts.
                if let Err(refusal) = self.driver.step_locked(&live, &mut state, Event::TimerFired(timer)) {
                    tracing::error!(gtid = %live.gtid, ?timer, %refusal, "a call could not be repeated");
                }
            }
        }
    }

    /// The sweeper has ended a branch on its resource.
    pub fn swept(&self, gtid: Gtid, branch: BranchId, outcome: Outcome) {
        self.driver.swept(gtid, branch, outcome);
    }
}

/// An order, for the log.
fn told(event: &Event) -> String {
    match event {
        Event::RetryNow => "retry".to_owned(),
        Event::Park => "park".to_owned(),
        Event::Resolve { branch, outcome } => format!("resolve branch {branch} as {}", outcome.value()),
        other => format!("{other:?}"),
    }
}
