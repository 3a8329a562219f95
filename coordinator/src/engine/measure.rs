//! What is measured of a transaction on its way. What a restart has interrupted is left out: nobody knows how long it
//! took.

use concord_protocol::{BranchId, BranchState, Cause, Decision, Kind, Options, Outcome, Reply, Verb};
use tokio::time::Instant;

use super::driver::Driver;
use super::live::LiveState;
use crate::metrics::{Mode, Protocol, Reason};

/// Who drives it.
pub(super) fn mode(options: &Options) -> Mode {
    if options.coordinator_driven { Mode::Executed } else { Mode::Open }
}

impl LiveState {
    fn protocol(&self) -> Protocol {
        let has = |wanted| self.transaction.branches().any(|(_, branch)| branch.kind() == wanted);
        match (has(Kind::Xa), has(Kind::Tcc)) {
            (true, false) => Protocol::Xa,
            (false, true) => Protocol::Tcc,
            (true, true) => Protocol::Mixed,
            (false, false) => Protocol::NoBranches,
        }
    }

    /// Why it is rolled back.
    fn reason(&self) -> Option<Reason> {
        Some(match self.transaction.cause()? {
            Cause::Requested => Reason::Asked,
            Cause::Refused(_) => Reason::Refused,
            Cause::Restarted => Reason::Restarted,
            Cause::TimedOut if self.misses_somebody() => Reason::Unreachable,
            Cause::TimedOut => Reason::TimedOut,
        })
    }

    /// Whether calls to a branch have failed, and it has not voted.
    fn misses_somebody(&self) -> bool {
        let voted = |state| matches!(state, BranchState::Prepared | BranchState::ReadOnly);
        let mut branches = self.transaction.branches().zip(&self.extras);
        branches.any(|((_, branch), extra)| !voted(branch.state()) && !extra.last_error.is_empty())
    }
}

impl Driver {
    /// The decision may be told from now on.
    pub(super) fn measure_decision(&self, state: &mut LiveState, decision: Decision) {
        let (metrics, now) = (&self.metrics.engine, Instant::now());
        if let Some(begun) = state.begun_since {
            let labels = (state.protocol(), mode(state.transaction.options()));
            metrics.begin_to_decision.at(labels).observe((now - begun).as_secs_f64());
        }
        if decision == Decision::Rollback
            && let Some(reason) = state.reason()
        {
            metrics.rollbacks.at(reason).inc();
        }
        state.phase_since = Some(now);
    }

    /// Every branch has ended.
    pub(super) fn measure_end(&self, state: &LiveState) {
        let Some(decision) = state.told else { return };
        let (metrics, labels) = (&self.metrics.engine, (state.protocol(), Outcome::from(decision)));
        metrics.ended.at(labels).inc();
        if let Some(decided) = state.phase_since {
            metrics.decision_to_end.at(labels).observe(decided.elapsed().as_secs_f64());
        }
    }

    /// A participant has answered. The state is that before the answer counts.
    pub(super) fn measure_answer(&self, state: &LiveState, branch: BranchId, verb: Verb, reply: Reply) {
        let known = state.transaction.branch(branch);
        let (Some(branch), Some(since)) = (known, state.phase_since) else { return };
        let phase = match (reply, state.told) {
            (Reply::Vote(_), None) => {
                self.metrics.engine.phase_one.at((branch.kind(), mode(state.transaction.options())))
            }
            (Reply::Ended(_), Some(decision)) if verb.is_phase_two() => {
                self.metrics.engine.phase_two.at((branch.kind(), decision.into()))
            }
            _ => return,
        };
        phase.observe(since.elapsed().as_secs_f64());
    }
}
