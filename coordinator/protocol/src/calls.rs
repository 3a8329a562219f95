//! Calls to branches, and what comes of them.

use crate::ids::BranchId;
use crate::transaction::{Call, Phase, Transaction, id_of};
use crate::types::{BranchState, Cause, Decision, Effect, Refusal, Reply, Source, Timer, Verb, Vote};
use concord_seeded_bugs::seeded_bug;

impl Transaction {
    pub(crate) fn replied(
        &mut self,
        id: BranchId,
        verb: Verb,
        reply: Reply,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let index = self.index(id)?;
        if self.phase == Phase::Delegated
            && let Reply::Ended(outcome) = reply
        {
            // Both the one-phase commit and the fence may be under way; whichever answers tells the truth.
            self.delegate_ended(outcome, out);
            return Ok(());
        }
        let branch = &mut self.branches[index];
        if branch.call != Call::Made(verb) {
            // Too late: the branch is being asked something else by now, or nothing.
            return Ok(());
        }
        match reply {
            Reply::Failed { maybe_arrived } => self.call_failed(index, verb, maybe_arrived, out),
            Reply::Worked if verb == Verb::Work && self.phase == Phase::Working => {
                branch.state = BranchState::Worked;
                branch.call = Call::Idle;
                branch.attempts = 0;
                self.prepare_if_all_worked(out);
            }
            Reply::Vote(vote) => match (verb, vote) {
                (Verb::Work, Vote::No) | (Verb::Prepare | Verb::WorkAndPrepare | Verb::Try, _) => {
                    self.count_vote(index, vote, out);
                }
                _ => self.call_failed(index, verb, true, out),
            },
            Reply::Ended(outcome) if verb.is_phase_two() => {
                self.branch_ended(index, outcome, Source::Participant, out);
            }
            Reply::Refused if verb == Verb::Confirm && seeded_bug!("confirm-refusal-cancels") => {
                self.decide_rollback(Cause::Refused(id), out);
            }
            Reply::Refused if matches!(verb, Verb::Confirm | Verb::Cancel) => {
                branch.call = Call::Idle;
                self.park_branch(index, out);
                out.push(Effect::Alarm(id));
            }
            // No answer to what was asked is as good as no answer.
            Reply::Worked | Reply::Ended(_) | Reply::Refused => self.call_failed(index, verb, true, out),
        }
        Ok(())
    }

    fn call_failed(&mut self, index: usize, verb: Verb, maybe_arrived: bool, out: &mut Vec<Effect>) {
        let decided = self.decision().is_some();
        let branch = &mut self.branches[index];
        branch.maybe_arrived |= maybe_arrived;
        branch.attempts = branch.attempts.saturating_add(1);
        branch.call = Call::Waiting(verb);
        let attempts = branch.attempts;
        if decided && self.options.park_after_attempts.is_some_and(|limit| attempts >= limit) {
            self.park_branch(index, out);
        } else {
            out.push(Effect::SetTimer(Timer::Retry { branch: id_of(index), attempts }));
        }
    }

    pub(crate) fn retry(
        &mut self,
        id: BranchId,
        attempts: u32,
        out: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let index = self.index(id)?;
        let branch = &self.branches[index];
        // A timer of an earlier verb, or of a branch that was retried by hand meanwhile, has the wrong count.
        if let Call::Waiting(verb) = branch.call
            && branch.attempts == attempts
            && !branch.parked
        {
            self.call_again(index, verb, out);
        }
        Ok(())
    }

    /// Asks a branch something new.
    pub(crate) fn call(&mut self, index: usize, verb: Verb, out: &mut Vec<Effect>) {
        self.branches[index].give_up_call();
        self.branches[index].attempts = 0;
        self.call_again(index, verb, out);
    }

    pub(crate) fn call_again(&mut self, index: usize, verb: Verb, out: &mut Vec<Effect>) {
        let branch = &mut self.branches[index];
        branch.call = Call::Made(verb);
        out.push(Effect::Call { branch: id_of(index), verb, repeated: branch.maybe_arrived });
    }

    /// Phase two: calls every branch that has not ended and is not parked.
    pub(crate) fn call_all(&mut self, decision: Decision, out: &mut Vec<Effect>) {
        for index in 0..self.branches.len() {
            let branch = &self.branches[index];
            let called_too = branch.state == BranchState::ReadOnly && seeded_bug!("read-only-gets-commit");
            if (!branch.state.has_ended() || called_too) && !branch.parked {
                self.call(index, Verb::phase_two(branch.kind, decision), out);
            }
        }
    }
}
