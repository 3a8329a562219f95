//! After the decision: branches end, one after the other; operators and the sweeper help; restarts are survived.

use crate::ids::BranchId;
use crate::transaction::{Branch, Call, Phase, Transaction, id_of};
use crate::types::{Cause, Decision, Effect, Milestone, Outcome, Record, Refusal, Source, Timer, Verb};
use concord_seeded_bugs::seeded_bug;

impl Transaction {
    pub(crate) fn branch_ended(
        &mut self,
        index: usize,
        outcome: Outcome,
        source: Source,
        out: &mut Vec<Effect>,
    ) {
        let Some(decision) = self.decision() else { return };
        let heuristic = outcome != decision.into() && !seeded_bug!("heuristic-unnoticed");
        let branch = &mut self.branches[index];
        branch.state = outcome.into();
        branch.call = Call::Idle;
        branch.heuristic = heuristic;
        // Only an operator may close a branch that ended against the decision.
        branch.parked = heuristic && source != Source::Operator;
        if heuristic || source != Source::Participant {
            out.push(Effect::Append {
                record: Record::BranchEnded { branch: id_of(index), outcome, source, heuristic },
                forced: None,
            });
        }
        if self.branches[index].parked {
            out.push(Effect::Alarm(id_of(index)));
        }
        self.end_if_all_ended(out);
    }

    pub(crate) fn end_if_all_ended(&mut self, out: &mut Vec<Effect>) {
        if self.branches.iter().any(Branch::needs_phase_two) && !seeded_bug!("ends-before-last-ack") {
            return;
        }
        match self.phase {
            Phase::Committing => self.end(Outcome::Committed, out),
            Phase::RollingBack => self.end(Outcome::RolledBack, out),
            _ => {}
        }
    }

    pub(crate) fn end(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        self.append(Record::Ended(outcome), out);
        self.tell_end(outcome, out);
    }

    pub(crate) fn tell_end(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        let told = self.decision().is_some();
        let (phase, decision) = match outcome {
            Outcome::Committed => (Phase::Committed, Decision::Commit),
            Outcome::RolledBack => (Phase::RolledBack, Decision::Rollback),
        };
        self.phase = phase;
        if !told {
            out.push(Effect::Tell(Milestone::Decided(decision)));
        }
        out.push(Effect::Tell(Milestone::Completed));
    }

    // ---- sweeper and operators ----

    pub(crate) fn swept(
        &mut self,
        id: BranchId,
        outcome: Outcome,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let index = self.index(id)?;
        if self.phase == Phase::Delegated {
            self.delegate_swept(outcome, out);
        } else if self.decision().is_some() && !self.branches[index].state.has_ended() {
            self.branch_ended(index, outcome, Source::Sweeper, out);
        }
        Ok(())
    }

    pub(crate) fn retry_now(&mut self, out: &mut Vec<Effect>) {
        let decision = self.decision();
        if decision.is_some() && self.branches.iter().any(Branch::needs_phase_two) {
            out.push(Effect::Append { record: Record::Retried, forced: None });
        }
        for index in 0..self.branches.len() {
            let branch = &mut self.branches[index];
            // A branch that ended against the decision stays parked: calling it again cannot undo that.
            if branch.state.has_ended() {
                continue;
            }
            branch.parked = false;
            let kind = branch.kind;
            match (branch.call, decision) {
                (Call::Waiting(verb), _) => self.call_again(index, verb, out),
                (Call::Idle, Some(decision)) => self.call(index, Verb::phase_two(kind, decision), out),
                _ => {}
            }
        }
    }

    pub(crate) fn park(&mut self, out: &mut Vec<Effect>) -> Result<(), Refusal> {
        self.decision().ok_or(Refusal::NotDecided)?;
        for index in 0..self.branches.len() {
            // One that is parked already too: who wants it so, and why, goes on record.
            if !self.branches[index].state.has_ended() {
                self.park_branch(index, out);
            }
        }
        Ok(())
    }

    pub(crate) fn park_branch(&mut self, index: usize, out: &mut Vec<Effect>) {
        self.branches[index].parked = true;
        out.push(Effect::Append { record: Record::BranchParked(id_of(index)), forced: None });
    }

    pub(crate) fn resolve(
        &mut self,
        id: BranchId,
        outcome: Outcome,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let index = self.index(id)?;
        if self.phase == Phase::Delegated {
            self.declare_delegate(outcome, out);
            return Ok(());
        }
        self.decision().ok_or(Refusal::NotDecided)?;
        if !self.branches[index].needs_phase_two() {
            return Err(Refusal::BranchEnded);
        }
        self.branch_ended(index, outcome, Source::Operator, out);
        Ok(())
    }

    // ---- after a restart ----

    pub(crate) fn resume(&mut self, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Active if seeded_bug!("recovery-commits") => {
                self.phase = Phase::Committing;
                self.resume_phase_two(Decision::Commit, out);
            }
            // Nothing was decided, and whatever was told is on record.
            Phase::Active if self.options.stays_open => out.push(Effect::SetTimer(Timer::Deadline)),
            // Nothing was decided, and the epoch in which it could have been has ended (presumed abort).
            Phase::Active => self.decide_rollback(Cause::Restarted, out),
            // The participant may have committed: it knows, and makes sure that it will not do so later.
            Phase::Delegated => {
                self.fence(Cause::Restarted, out);
            }
            Phase::Committing => self.resume_phase_two(Decision::Commit, out),
            Phase::RollingBack => self.resume_phase_two(Decision::Rollback, out),
            _ => {}
        }
    }

    fn resume_phase_two(&mut self, decision: Decision, out: &mut Vec<Effect>) {
        self.call_all(decision, out);
        self.end_if_all_ended(out);
    }
}
