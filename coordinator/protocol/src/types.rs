//! The vocabulary of the protocol: what comes in, what goes out, what is recorded.

use crate::ids::{BranchId, Millis};

/// How the transaction was asked for; fixed when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// Who runs the branches' work: the coordinator (`Execute`), or the initiator (`Begin` … `Commit`).
    pub coordinator_driven: bool,
    /// How phase one is done. Matters only when coordinator-driven.
    pub grade: Grade,
    /// Not coordinator-driven: while open it outlives its coordinator. Whoever goes on from its log leaves it open, so
    /// its beginning, every registration and a rollback are on disk before they are told.
    pub stays_open: bool,
    /// When an undecided transaction is rolled back.
    pub deadline: Millis,
    /// After how many failed phase-two calls a branch is parked. `None`: it is retried for ever.
    pub park_after_attempts: Option<u32>,
}

/// Which protocol a branch follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// X/Open XA: prepare, then commit or rollback. Its resource holds locks from the work on.
    Xa,
    /// Try, then confirm or cancel. What Try reserved nobody else gives back: so the branch is on disk before
    /// Try leaves.
    Tcc,
}

/// How phase one of a coordinator-driven transaction is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Grade {
    /// Work and prepare in one call.
    EarlyVote,
    /// Every branch works before any branch prepares: servers may drop read locks at PREPARE, so only this
    /// is globally serializable (with SERIALIZABLE branches).
    Strict,
}

/// How far a transaction has come, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Branches may register; nothing is decided.
    Active,
    /// Phase one.
    Preparing,
    /// Decided and durable: commit. Phase two.
    Committing,
    /// Every branch has committed.
    Committed,
    /// Decided: roll back. Phase two.
    RollingBack,
    /// Every branch has rolled back.
    RolledBack,
}

impl State {
    /// Whether nothing more will happen.
    pub fn is_terminal(self) -> bool {
        matches!(self, State::Committed | State::RolledBack)
    }
}

/// How far a branch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BranchState {
    /// Registered; its work may be under way.
    Active,
    /// Has done its work and not been asked to prepare ([`Grade::Strict`]).
    Worked,
    /// Voted yes.
    Prepared,
    /// Voted read-only: it has ended.
    ReadOnly,
    /// Voted no: it has rolled back by itself.
    Refused,
    /// Has committed.
    Committed,
    /// Has rolled back.
    RolledBack,
}

impl BranchState {
    /// Whether the branch needs nothing more.
    pub fn has_ended(self) -> bool {
        !matches!(self, BranchState::Active | BranchState::Worked | BranchState::Prepared)
    }
}

/// A branch's answer to phase one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vote {
    /// Can commit and can roll back, whatever happens to the participant's process.
    Yes,
    /// Has changed nothing and has ended.
    ReadOnly,
    /// Cannot commit; has rolled back.
    No,
}

/// The coordinator's decision. Once durable it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Every branch commits.
    Commit,
    /// Every branch rolls back.
    Rollback,
}

/// How a branch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Its effects are permanent.
    Committed,
    /// It has no effects.
    RolledBack,
}

impl From<Decision> for Outcome {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Commit => Outcome::Committed,
            Decision::Rollback => Outcome::RolledBack,
        }
    }
}

impl From<Outcome> for BranchState {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Committed => BranchState::Committed,
            Outcome::RolledBack => BranchState::RolledBack,
        }
    }
}

/// Who says how a branch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// The participant, in its reply.
    Participant,
    /// The coordinator's sweeper, which ended it on the resource itself.
    Sweeper,
    /// An operator, who ended it by hand.
    Operator,
}

/// Why a transaction was rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The initiator, or an operator, asked for it.
    Requested,
    /// The deadline passed before the decision.
    TimedOut,
    /// This branch voted no.
    Refused(BranchId),
    /// The coordinator restarted before the decision.
    Restarted,
}

/// What the coordinator asks of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Do the work, do not vote yet.
    Work,
    /// Do the work and vote.
    WorkAndPrepare,
    /// Vote.
    Prepare,
    /// Do the work and commit; never prepared.
    WorkAndCommit,
    /// Commit; never prepared.
    CommitOnePhase,
    /// Commit what was prepared.
    Commit,
    /// Roll back, whether or not the branch has arrived.
    Rollback,
    /// TCC: reserve, and vote.
    Try,
    /// TCC: use up what was reserved.
    Confirm,
    /// TCC: give back what was reserved, whether or not Try has arrived.
    Cancel,
}

impl Verb {
    /// Whether the participant is told what to do: it gets the action and its payload.
    pub fn takes_payload(self) -> bool {
        use Verb::{Cancel, Commit, CommitOnePhase, Confirm, Prepare, Rollback, Try, Work};
        match self {
            Work | Verb::WorkAndPrepare | Verb::WorkAndCommit | Try | Confirm | Cancel => true,
            Prepare | CommitOnePhase | Commit | Rollback => false,
        }
    }

    /// Whether it ends a branch as decided, or makes sure that it never takes effect.
    pub fn is_phase_two(self) -> bool {
        matches!(self, Verb::Commit | Verb::Rollback | Verb::Confirm | Verb::Cancel)
    }

    /// What is asked of a branch once the decision is taken.
    pub(crate) fn phase_two(kind: Kind, decision: Decision) -> Self {
        match (kind, decision) {
            (Kind::Xa, Decision::Commit) => Verb::Commit,
            (Kind::Xa, Decision::Rollback) => Verb::Rollback,
            (Kind::Tcc, Decision::Commit) => Verb::Confirm,
            (Kind::Tcc, Decision::Rollback) => Verb::Cancel,
        }
    }
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reply {
    /// To [`Verb::Work`]: done.
    Worked,
    /// To a verb that asks for a vote. A refused [`Verb::Work`] is a vote of no.
    Vote(Vote),
    /// To a verb that ends the branch.
    Ended(Outcome),
    /// To [`Verb::Confirm`] or [`Verb::Cancel`]: no, and asking again is of no use. Nothing has changed.
    Refused,
    /// No answer, or an answer that says nothing about the branch.
    Failed {
        /// Whether the call may have reached the participant.
        maybe_arrived: bool,
    },
}

/// A timer of the driver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Timer {
    /// At [`Options::deadline`].
    Deadline,
    /// After a while, longer with each attempt.
    Retry {
        /// Which branch to call again.
        branch: BranchId,
        /// Calls of this verb that have failed so far, from 1.
        attempts: u32,
    },
}

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A participant joins with a branch of this kind. The new branch is the last one.
    Register(Kind),
    /// The first step of a transaction that stays open.
    Begin,
    /// The first step of a coordinator-driven transaction.
    Execute,
    /// A branch reports its vote unasked.
    Voted {
        /// Which branch.
        branch: BranchId,
        /// Its vote.
        vote: Vote,
    },
    /// The initiator asks to commit.
    Commit,
    /// The initiator, or an operator, asks to roll back.
    Rollback,
    /// A forced record is durable.
    Logged(Forced),
    /// A call has ended, one way or the other.
    Reply {
        /// Which branch.
        branch: BranchId,
        /// What it had been asked.
        verb: Verb,
        /// What came of it.
        reply: Reply,
    },
    /// A timer has fired.
    TimerFired(Timer),
    /// The sweeper has ended a branch on its resource.
    Swept {
        /// Which branch.
        branch: BranchId,
        /// What became of it.
        outcome: Outcome,
    },
    /// An operator wants every unfinished branch called now.
    RetryNow,
    /// An operator wants unfinished branches left alone.
    Park,
    /// An operator says how a branch ended.
    Resolve {
        /// Which branch.
        branch: BranchId,
        /// How it ended.
        outcome: Outcome,
    },
    /// The first step after [`crate::Transaction::recover`].
    Resume,
}

/// A record that something waits for. Others may be appended meanwhile, so its acknowledgement says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forced {
    /// [`Record::Begun`], with TCC branches, or of a transaction that stays open.
    Begun,
    /// [`Record::Registered`] of a TCC branch, or in a transaction that stays open.
    Registered(BranchId),
    /// [`Record::Delegated`].
    Delegated,
    /// [`Record::Decided`], to commit, or in a transaction that stays open.
    Decided,
    /// [`Record::Ended`], of one that stays open in which nobody has written anything; and where an operator says how the only
    /// branch, which was to decide, has ended.
    Ended,
}

/// What callers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Milestone {
    /// The initiator can be told that the transaction has begun, where that was asked for with [`Event::Begin`].
    Begun,
    /// The participant can be told that its branch has joined: it may start its work.
    Joined(BranchId),
    /// The decision can be told: it will never change.
    Decided(Decision),
    /// Every branch has ended.
    Completed,
}

/// Something the driver must do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Append to the log.
    Append {
        /// What.
        record: Record,
        /// Step with [`Event::Logged`] of this once the record is durable.
        forced: Option<Forced>,
    },
    /// Call a branch.
    Call {
        /// Which one.
        branch: BranchId,
        /// What to ask.
        verb: Verb,
        /// Whether an earlier phase-one call may have arrived.
        repeated: bool,
    },
    /// Set a timer.
    SetTimer(Timer),
    /// Answer those who wait for this.
    Tell(Milestone),
    /// A branch has ended against the decision, or refuses to be confirmed or cancelled: people must know.
    Alarm(BranchId),
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// The transaction exists; with its branches when coordinator-driven.
    Begun,
    /// A participant joined.
    Registered {
        /// The new branch.
        branch: BranchId,
        /// Its protocol.
        kind: Kind,
    },
    /// The only branch is about to be asked to commit in one phase.
    Delegated(BranchId),
    /// The decision.
    Decided {
        /// What.
        decision: Decision,
        /// Whom to tell. The others have ended: telling a read-only branch to commit would look like a loss.
        branches: Vec<BranchId>,
        /// Why, for a rollback.
        cause: Option<Cause>,
    },
    /// A branch ended, said by someone else than its participant or against the decision.
    BranchEnded {
        /// Which branch.
        branch: BranchId,
        /// How.
        outcome: Outcome,
        /// Who says so.
        source: Source,
        /// Whether it differs from the decision.
        heuristic: bool,
    },
    /// A branch is left alone until an operator orders otherwise.
    BranchParked(BranchId),
    /// An operator had everything retried; nothing is parked.
    Retried,
    /// Every branch has ended.
    Ended(Outcome),
}

/// Why a step was refused. The transaction is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Only an active transaction takes branches.
    #[error("the transaction is no longer active")]
    NotActive,
    /// The decision to commit has been taken.
    #[error("the transaction has committed")]
    AlreadyCommitted,
    /// The decision to roll back has been taken.
    #[error("the transaction has rolled back")]
    AlreadyRolledBack,
    /// Nobody has joined.
    #[error("no branch has joined the transaction")]
    NoBranches,
    /// There is no such branch.
    #[error("the transaction has no such branch; Get shows those that have joined it, numbered from 1")]
    UnknownBranch,
    /// The branch has voted otherwise, or the coordinator asks it by itself.
    #[error("the vote contradicts the branch's state")]
    VoteConflict,
    /// Operators may park and resolve only what has been decided.
    #[error("the transaction is not decided yet")]
    NotDecided,
    /// The branch has ended; there is nothing to resolve.
    #[error("the branch has ended")]
    BranchEnded,
}
