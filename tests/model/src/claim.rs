//! What must hold in every state.

use std::fmt;

/// A claim that a run has broken. The numbers are those of the claims that the project makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// I1: all branches of a global transaction end the same way.
    Agreement,
    /// I2: a commit that was told is never lost.
    Durability,
    /// I3: what was told to be rolled back is never visible afterwards.
    NoGhost,
    /// I4: Commit and Rollback take effect at most once, and never both.
    Once,
    /// I5, I6: a branch that arrives after its Rollback or Cancel takes no effect.
    Tombstone,
    /// I6: a branch whose vote of "read-only" was counted never commits, unless an operator forces it.
    Reader,
    /// I8: without further faults everything ends, and nothing stays reserved or prepared.
    Resolution,
    /// No commit leaves, and nobody is told, before the decision is on disk.
    DecisionFirst,
    /// A decision never changes.
    OneDecision,
    /// No Try leaves before its branch is on disk.
    BranchFirst,
    /// What was told to commit is never told to roll back, a refused Confirm included.
    NoChangeOfMind,
    /// The end is told when every branch has ended, and not before.
    LastEnd,
    /// A branch that is parked is left alone until an operator orders otherwise, also after a crash.
    LeftAlone,
    /// A call to work that may have arrived before says so: an XID is used once.
    RepeatSaysSo,
    /// No alarm without a participant that refuses.
    NoFalseAlarm,
    /// The core understands every log that it has written itself.
    OwnLog,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Claim::Agreement => "I1: one branch has committed, another cannot any more",
            Claim::Durability => "I2: a commit that was told is lost",
            Claim::NoGhost => "I3: a rollback was told, and there is a commit",
            Claim::Once => "I4: a branch was ended twice",
            Claim::Tombstone => "I5/I6: a branch came to life after its rollback",
            Claim::Reader => "I6: a branch has committed whose vote was counted as read-only",
            Claim::Resolution => "I8: without further faults it does not end, or something stays reserved",
            Claim::DecisionFirst => "a commit was told or sent before it was on disk",
            Claim::OneDecision => "a decision has changed",
            Claim::BranchFirst => "a branch may be tried that is not on disk",
            Claim::NoChangeOfMind => "a branch of a committed transaction was told to roll back",
            Claim::LastEnd => "the end was told before the last branch had ended",
            Claim::LeftAlone => "a parked branch was called, and nobody had ordered it",
            Claim::RepeatSaysSo => "a call to work may have arrived before, and does not say so",
            Claim::NoFalseAlarm => "an alarm although nobody refused",
            Claim::OwnLog => "the core does not understand its own log",
        })
    }
}
