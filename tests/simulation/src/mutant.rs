//! Bugs on purpose, in the world around the engine: a simulation that finds none of them would prove nothing.

use clap::ValueEnum;

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
    /// The sweeper takes undecided for rolled back.
    SweeperGuesses,
}
