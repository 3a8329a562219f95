//! Bugs in what surrounds the protocol core, to show that the checks can fail. Each must be found.

use clap::ValueEnum;

/// A bug of the log, the driver, the network's contract, a participant or recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mutant {
    /// The log acknowledges a forced record that is not on disk.
    AckBeforeSync,
    /// A crash loses records that were synced.
    LosesSynced,
    /// The driver tells the initiator of a commit when it queues the decision.
    TellsBeforeDurable,
    /// The driver does not tell the core that a call has failed.
    LosesFailures,
    /// The driver forgets its retry timers.
    ForgetsTimers,
    /// Asked about a transaction that is unknown, the coordinator says that it has committed.
    PresumesCommit,
    /// Asked about a transaction that is undecided, the coordinator says that it has been rolled back.
    GuessesWhenAsked,
    /// Asked about a branch that only read, the coordinator says how the transaction has ended.
    AnswersForAll,
    /// A participant leaves no tombstone for a branch that has not arrived.
    NoTombstone,
    /// A participant does not record that it refused a Try.
    ForgetsRefusal,
    /// A participant does its commit again when asked again.
    CommitsTwice,
    /// A participant's yes does not survive its crash.
    VolatileVote,
    /// As before; and it answers "committed" for a branch that it does not know.
    UnknownIsCommitted,
    /// A participant cancels what it refuses to confirm.
    RefusalCancels,
    /// Whoever was taken over goes on writing, and hears that it is durable.
    NoFence,
    /// Whoever takes over reads the log first and fences then: meanwhile the other has written more.
    ReadsBeforeItFences,
    /// Whoever takes over goes on with a term that is not beyond the other's: its records stand before those.
    KeepsItsTerm,
    /// The driver takes the refusal of a fenced append for its acknowledgement.
    RefusalIsAck,
}
