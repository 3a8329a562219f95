//! Rebuilding a transaction from its log.

use crate::ids::BranchId;
use crate::transaction::{Branch, Phase, Transaction};
use crate::types::{BranchState, Decision, Kind, Options, Outcome, Record, Source};

/// A log that no run of the protocol can have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {index} ({record:?}) cannot stand where it does")]
pub struct BadLog {
    /// Its place, from 0.
    pub index: usize,
    /// What it says.
    pub record: Record,
}

impl Transaction {
    /// Rebuilds a transaction from its records, oldest first. Branches of these kinds came with `Begun`.
    /// [`crate::Event::Resume`] then says what is to be done.
    ///
    /// # Errors
    /// [`BadLog`] when the records contradict each other: the store is damaged, and guessing could commit a
    /// transaction that was rolled back.
    pub fn recover(
        options: Options,
        begun_with: impl IntoIterator<Item = Kind>,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Self, BadLog> {
        let mut transaction = Transaction::with_branches(options, begun_with);
        for (index, record) in records.into_iter().enumerate() {
            if transaction.replay(&record).is_none() {
                return Err(BadLog { index, record });
            }
        }
        // What the calls of the life before this one did is not known.
        for branch in &mut transaction.branches {
            (branch.maybe_arrived, branch.enlisted) = (true, true);
        }
        Ok(transaction)
    }

    fn replay(&mut self, record: &Record) -> Option<()> {
        if !self.begun {
            self.begun = true;
            return (*record == Record::Begun).then_some(());
        }
        match record {
            Record::Begun => return None,
            Record::Registered { branch: id, kind } => {
                let next = u32::try_from(self.branches.len()).ok()?.checked_add(1)?;
                if self.phase != Phase::Active || *id != BranchId(next) {
                    return None;
                }
                self.branches.push(Branch::new(*kind));
            }
            Record::Delegated(id) => {
                let delegable = matches!(self.branches.as_slice(), [only] if only.kind == Kind::Xa);
                if self.phase != Phase::Active || !delegable || *id != BranchId::FIRST {
                    return None;
                }
                self.phase = Phase::Delegated;
            }
            Record::Decided { decision, branches, cause } => {
                if self.phase != Phase::Active {
                    return None;
                }
                self.replay_decision(*decision, branches)?;
                self.cause = *cause;
            }
            Record::BranchEnded { branch, outcome, source, heuristic } => {
                let index = self.index(*branch).ok()?;
                if self.phase != Phase::Delegated && self.decision().is_none() {
                    return None;
                }
                let branch = &mut self.branches[index];
                branch.state = (*outcome).into();
                branch.heuristic = *heuristic;
                branch.parked = *heuristic && *source != Source::Operator;
            }
            Record::BranchParked(id) => {
                self.decision()?;
                let index = self.index(*id).ok()?;
                self.branches[index].parked = true;
            }
            Record::Retried => {
                for branch in self.branches.iter_mut().filter(|branch| !branch.state.has_ended()) {
                    branch.parked = false;
                }
            }
            Record::Ended(outcome) => self.replay_end(*outcome)?,
        }
        Some(())
    }

    fn replay_decision(&mut self, decision: Decision, branches: &[BranchId]) -> Option<()> {
        let (phase, told, others) = match decision {
            Decision::Commit => (Phase::Committing, BranchState::Prepared, BranchState::ReadOnly),
            Decision::Rollback => (Phase::RollingBack, BranchState::Active, BranchState::RolledBack),
        };
        if decision == Decision::Commit && branches.is_empty() {
            return None;
        }
        self.phase = phase;
        self.branches.iter_mut().for_each(|branch| branch.state = others);
        for id in branches {
            let index = self.index(*id).ok()?;
            self.branches[index].state = told;
        }
        Some(())
    }

    fn replay_end(&mut self, outcome: Outcome) -> Option<()> {
        let (phase, contradicts) = match outcome {
            Outcome::Committed => (Phase::Committed, Phase::RollingBack),
            Outcome::RolledBack => (Phase::RolledBack, Phase::Committing),
        };
        if self.phase == contradicts || matches!(self.phase, Phase::Committed | Phase::RolledBack) {
            return None;
        }
        // Committed without a decision, and not in one phase: nobody wrote anything.
        let only_read = self.phase == Phase::Active && outcome == Outcome::Committed;
        self.phase = phase;
        for branch in &mut self.branches {
            branch.parked = false;
            if !branch.state.has_ended() {
                branch.state = if only_read { BranchState::ReadOnly } else { outcome.into() };
            }
        }
        Some(())
    }
}
