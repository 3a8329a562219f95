//! A transaction with a single XA branch is delegated: its participant commits it in one phase, and so decides.

use crate::ids::BranchId;
use crate::transaction::{Call, Phase, Transaction};
use crate::types::{Cause, Effect, Forced, Outcome, Record, Source, Verb};

impl Transaction {
    pub(crate) fn delegate(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Delegating;
        self.force(Record::Delegated(BranchId::FIRST), Forced::Delegated, out);
    }

    pub(crate) fn fence(&mut self, cause: Cause, out: &mut Vec<Effect>) {
        self.cause = Some(cause);
        if self.never_called(&self.branches[0]) {
            self.delegate_ended(Outcome::RolledBack, out);
        } else if self.branches[0].call != Call::Made(Verb::Rollback) {
            self.call(0, Verb::Rollback, out);
        }
    }

    pub(crate) fn delegate_ended(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        self.delegate_is(outcome);
        self.end(outcome, out);
    }

    /// The sweeper says how the single branch has ended, and with it the transaction: it has seen so in the database, where a
    /// restarted coordinator sees it again.
    pub(crate) fn delegate_swept(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        let record = delegate_ended_by(Source::Sweeper, outcome);
        out.push(Effect::Append { record, forced: None });
        self.delegate_ended(outcome, out);
    }

    /// An operator says so. Nothing else knows it: nobody hears of it before it is on disk.
    pub(crate) fn declare_delegate(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        self.delegate_is(outcome);
        self.phase = match outcome {
            Outcome::Committed => Phase::Deciding,
            Outcome::RolledBack => Phase::DecidingRollback,
        };
        self.append(delegate_ended_by(Source::Operator, outcome), out);
        self.force(Record::Ended(outcome), Forced::Ended, out);
    }

    fn delegate_is(&mut self, outcome: Outcome) {
        self.branches[0].state = outcome.into();
        self.branches[0].call = Call::Idle;
        self.cause = match outcome {
            Outcome::Committed => None,
            Outcome::RolledBack => self.cause.or(Some(Cause::Refused(BranchId::FIRST))),
        };
    }
}

fn delegate_ended_by(source: Source, outcome: Outcome) -> Record {
    Record::BranchEnded { branch: BranchId::FIRST, outcome, source, heuristic: false }
}
