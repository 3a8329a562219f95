//! The live transactions, counted: what there is to see of them at one moment.

use std::sync::atomic::Ordering;
use std::time::Duration;

use concord_protocol::{BranchState, State};

use super::Engine;
use crate::metrics::Label as _;

/// Live transactions, by their states.
#[derive(Debug, Clone)]
pub struct Census {
    /// All states, those of no transaction too. What has ended is live until its end can be read from the store.
    pub states: Vec<InState>,
    /// No transaction begins any more.
    pub stopping: bool,
    /// How many transactions may be live.
    pub limit: usize,
    /// Transactions with a branch that waits for an operator.
    pub parked: usize,
    /// Of the others, those that nothing has been decided about.
    pub undecided: usize,
    /// Of the others, those that are decided, or that their only branch decides: whoever goes on with them delivers that.
    pub decided: usize,
    /// Transactions whose only branch was told to commit in one phase, and to roll back since, because their time has run out or
    /// the coordinator has started anew: only its participant knows how it has ended.
    pub outcome_unknown: usize,
    /// Branches that have voted yes and have not ended, as far as is known: they hold locks, or what they reserved.
    pub branches_in_doubt: usize,
}

/// Live transactions in one state.
#[derive(Debug, Clone, Copy)]
pub struct InState {
    /// Which state.
    pub state: State,
    /// How many.
    pub transactions: usize,
    /// The longest time since one of them began, or, once it is decided, since its decision; by the wall clock, because
    /// it may have been in another life of the coordinator. Zero if there is none.
    pub oldest: Duration,
}

impl Census {
    /// All of them.
    pub fn live(&self) -> usize {
        self.parked + self.undecided + self.decided
    }
}

impl Engine {
    /// Counts the live transactions. Looks at each: not for the hot path.
    pub fn census(&self) -> Census {
        let now = self.driver.clock.wall();
        let none = |state| InState { state, transactions: 0, oldest: Duration::ZERO };
        let stopping = self.stopping.load(Ordering::SeqCst);
        let limit = self.driver.settings.load().live_transactions_max;
        let mut census = Census {
            states: State::ALL.iter().copied().map(none).collect(),
            stopping,
            limit,
            parked: 0,
            outcome_unknown: 0,
            undecided: 0,
            decided: 0,
            branches_in_doubt: 0,
        };
        for live in self.driver.registry.newest_first() {
            let state = live.lock();
            let transaction = &state.transaction;
            let in_doubt = transaction.branches().filter(|(_, one)| one.state() == BranchState::Prepared);
            census.branches_in_doubt += in_doubt.count();
            census.outcome_unknown +=
                usize::from(transaction.is_delegated() && transaction.cause().is_some());
            let is_decided = transaction.decision().is_some() || transaction.is_delegated();
            *match (transaction.is_parked(), is_decided) {
                (true, _) => &mut census.parked,
                (false, false) => &mut census.undecided,
                (false, true) => &mut census.decided,
            } += 1;
            let since = state.decided_at.unwrap_or(live.header.begun_at);
            let age = Duration::from_millis(now.0.saturating_sub(since.0));
            for counted in census.states.iter_mut().filter(|counted| counted.state == transaction.state()) {
                counted.transactions += 1;
                counted.oldest = counted.oldest.max(age);
            }
        }
        census
    }
}
