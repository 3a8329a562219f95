//! A coordinator as the world sees it: what it knows of the transaction, and what it waits for.

use std::fmt;

use concord_protocol::{BranchState, Decision, Event, Record, State, Timer, Transaction, Verb};

use crate::configuration::DEADLINE;
use crate::log::Acknowledgement;
use crate::message::{Index, branch_id, index_of};

/// Which coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Who {
    /// The one that owns the transaction.
    Owner,
    /// One from which the owner has taken over, and which does not know.
    Late,
}

impl fmt::Display for Who {
    /// To go before what it does; nothing for the owner.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Who::Owner => "",
            Who::Late => "the late one: ",
        })
    }
}

/// One life of a coordinator.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Coordinator {
    /// None: unknown to a coordinator that has lost its log, so rolled back for ever (presumed abort).
    pub(crate) transaction: Option<Transaction>,
    pub(crate) timers: Vec<Timer>,
    /// Forced records whose acknowledgement is still to come, oldest first.
    pub(crate) waiting: Vec<Acknowledgement>,
    /// It has given up a call to work to this branch. The call may have arrived.
    pub(crate) given_up: [bool; 3],
    /// What it has logged says that the branch is left alone until an operator orders otherwise.
    pub(crate) parked: [bool; 3],
}

impl Coordinator {
    pub(crate) fn of(transaction: Transaction) -> Self {
        Coordinator { transaction: Some(transaction), ..Coordinator::default() }
    }

    pub(crate) fn decision(&self) -> Option<Decision> {
        self.transaction.as_ref().and_then(Transaction::decision)
    }

    pub(crate) fn note_what_is_parked(&mut self, record: &Record) {
        match record {
            Record::BranchParked(branch) => self.parked[usize::from(index_of(*branch))] = true,
            Record::Retried => self.parked = [false; 3],
            _ => {}
        }
    }

    /// Whether the core has counted a vote of "read-only".
    pub(crate) fn counts_as_reader(&self, index: Index) -> bool {
        let branch = self.transaction.as_ref().and_then(|transaction| transaction.branch(branch_id(index)));
        branch.is_some_and(|branch| branch.state() == BranchState::ReadOnly)
    }

    /// Whether it waits for an operator. Once it has ended it is history, and takes no orders.
    pub(crate) fn is_parked(&self) -> bool {
        self.transaction.as_ref().is_some_and(|one| one.is_parked() && !one.state().is_terminal())
    }

    /// Whether nothing comes of it any more when its log answers nothing: it has ended, or it waits for an answer that
    /// is not to come.
    pub(crate) fn is_spent(&self) -> bool {
        let Some(transaction) = &self.transaction else { return true };
        let is_in_the_logs_hands = transaction.state() == State::Preparing && !transaction.is_undecided();
        self.waiting.is_empty() && (transaction.state().is_terminal() || is_in_the_logs_hands)
    }

    /// Drops timers that can make no difference any more. Not taken on trust: what still has an effect stays.
    pub(crate) fn forget_timers(&mut self) {
        if self.decision().is_some() {
            let mut timers = std::mem::take(&mut self.timers);
            timers.retain(|timer| self.may_heed(Event::TimerFired(*timer)));
            self.timers = timers;
        }
    }

    /// Whether this reply may still have an effect.
    pub(crate) fn may_heed_reply(&self, verb: Verb, reply: Event) -> bool {
        let is_over = self.transaction.as_ref().is_some_and(|transaction| transaction.state().is_terminal());
        !is_over && verb.is_phase_two() || self.may_heed(reply)
    }

    /// Whether this event may still have an effect. Before the decision everything may.
    pub(crate) fn may_heed(&self, event: Event) -> bool {
        let Some(transaction) = &self.transaction else { return false };
        if transaction.decision().is_none() {
            return true;
        }
        let mut stepped = transaction.clone();
        stepped.step(event, DEADLINE).is_ok_and(|effects| !effects.is_empty()) || stepped != *transaction
    }
}
