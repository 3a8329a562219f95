//! Bugs on purpose, in the world around the engine: a simulation that finds none of them would prove nothing.

use clap::ValueEnum;

use crate::scenario::Scenario;
use crate::{Options, Outcome, run};

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mutant {
    /// The store acknowledges forced appends before it has synced them.
    AcknowledgesBeforeSync,
    /// The store loses an append between two others.
    LosesTheMiddle,
    /// XA branches write no marker row.
    NoMarker,
    /// XAER_NOTA to a commit counts as success.
    NotaIsSuccess,
    /// A rollback leaves no tombstone.
    NoTombstone,
    /// A branch whose call was lost is refused without making sure that it cannot arrive.
    NoFence,
    /// A commit of a branch that the process knows nothing of is answered without asking the database.
    CommitsWithoutAsking,
    /// A branch votes yes without PREPARE, and prepares when it is told to commit.
    VotesBeforePrepare,
    /// A branch that wrote votes read-only.
    WritersCalledReadOnly,
    /// A branch whose XA START failed, because there is one of its name, is rolled back.
    AbortsWhatItDidNotStart,
    /// A PREPARE that failed counts as a yes.
    AnyPrepareIsYes,
    /// Nobody looks at how many rows a statement matched.
    RowsNotCounted,
    /// A participant's recovery rolls back what is undecided.
    RecoveryGuesses,
    /// A participant's recovery asks how the transaction ended, not how its branch did.
    AsksForTheTransaction,
    /// Recovery also ends branches of other coordinators.
    ForeignToo,
    /// Try writes no barrier row.
    NoBarrierRow,
    /// A refused Try is not recorded.
    RefusalNotRecorded,
    /// Confirm does not look whether it has been done.
    ConfirmBlind,
    /// Cancel does not look whether the branch was confirmed.
    CancelBlind,
    /// A Cancel that comes before its Try is not recorded.
    EmptyCancelForgotten,
    /// A shared store does not look whether whoever writes has been taken over from.
    NoFenceInTheStore,
    /// The same; and a coordinator judges by its wall clock how long its lease lasts.
    LeaseByWallClock,
    /// Whoever takes over marks its records with its old term.
    TermNotRaised,
    /// A shared store gives an idempotency key to everyone who asks.
    KeyNotClaimed,
}

/// A run that found a bug.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its seed.
    pub seed: u64,
    /// How many runs it took.
    pub runs: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// Looks for a bug, in this thread: first where it is known to be found, then with seeds from 0, `seeds` in all.
/// None: it was not found.
pub fn hunt(mutant: Mutant, seeds: u64) -> Option<Found> {
    let options = Options { mutant: Some(mutant), ..Options::default() };
    let candidates = std::iter::once(mutant.known_seed()).chain(0..);
    candidates.zip(1..=seeds).find_map(|(seed, runs)| {
        let outcome = run(&Scenario::new(seed), options);
        (!outcome.violations.is_empty()).then_some(Found { seed, runs, outcome })
    })
}

impl Mutant {
    /// A seed that finds it, as long as scenarios are made as they are: `simulate --mutants` says where it is found
    /// now.
    fn known_seed(self) -> u64 {
        match self {
            Mutant::NoBarrierRow | Mutant::CancelBlind => 0,
            Mutant::LosesTheMiddle | Mutant::WritersCalledReadOnly => 2,
            Mutant::NoMarker | Mutant::ForeignToo | Mutant::KeyNotClaimed => 3,
            Mutant::AcknowledgesBeforeSync | Mutant::EmptyCancelForgotten => 4,
            Mutant::AnyPrepareIsYes => 5,
            Mutant::ConfirmBlind => 8,
            Mutant::TermNotRaised => 9,
            Mutant::VotesBeforePrepare => 16,
            Mutant::NoFence => 25,
            Mutant::NoTombstone => 53,
            Mutant::RowsNotCounted => 59,
            Mutant::RecoveryGuesses => 64,
            Mutant::NoFenceInTheStore | Mutant::LeaseByWallClock => 85,
            Mutant::CommitsWithoutAsking => 247,
            Mutant::RefusalNotRecorded => 282,
            Mutant::NotaIsSuccess => 402,
            Mutant::AsksForTheTransaction => 1_871,
            Mutant::AbortsWhatItDidNotStart => 1_549,
        }
    }
}
