//! The kinds of transactions in which processes die.

use std::fmt;

use concord_proto::v1::BranchKind;
use concord_tests::{CoordinatorOptions, Outcome, ParticipantOptions, WorldOptions};

/// The protocols of both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    Xa,
    Tcc,
    /// XA on the first side, TCC on the second.
    Mixed,
}

impl Kinds {
    pub(super) const ALL: [Kinds; 3] = [Kinds::Xa, Kinds::Tcc, Kinds::Mixed];

    pub(super) fn both(self) -> [BranchKind; 2] {
        match self {
            Kinds::Xa => [BranchKind::Xa; 2],
            Kinds::Tcc => [BranchKind::Tcc; 2],
            Kinds::Mixed => [BranchKind::Xa, BranchKind::Tcc],
        }
    }
}

/// What a transaction comes to if nobody dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Commit,
    Rollback,
}

impl End {
    pub(super) const BOTH: [End; 2] = [End::Commit, End::Rollback];

    fn outcome(self) -> Outcome {
        match self {
            End::Commit => Outcome::Committed,
            End::Rollback => Outcome::RolledBack,
        }
    }
}

/// A way to run a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scenario {
    /// `Execute`; a rollback because the first side refuses.
    Execute(Kinds, End),
    /// The same with grade STRICT: work first, then prepare.
    Strict(Kinds, End),
    /// `Begin`, the services join, `Commit` or `Rollback`.
    Driven(Kinds, End),
    /// One XA branch, committed in one phase; by `Execute`, or driven by its initiator.
    OnePhase { driven: bool, end: End },
    /// The rollback overtakes the work of the second side.
    Overtaken(Kinds),
    /// The coordinator has died, before or after the decision to commit, and dies again when it comes back.
    CoordinatorAgain(Kinds, End),
    /// The second participant has died after its vote, before it could tell, and dies again when it comes back.
    ParticipantAgain(Kinds, End),
    /// Calls do not get through to the second participant: its own recovery ends the branch.
    ParticipantSweeps(End),
    /// The same, and the coordinator's sweeper does.
    CoordinatorSweeps(End),
    /// The same, and an operator parks it; then has it retried, or resolves it.
    Operated { resolved: bool },
    /// Rows of the barrier table are purged.
    Purged,
}

impl Scenario {
    /// All of them, the long ones first.
    pub(super) fn all() -> Vec<Scenario> {
        let mut all = Vec::new();
        for end in End::BOTH {
            all.extend(Kinds::ALL.map(|kinds| Scenario::Execute(kinds, end)));
            all.extend(Kinds::ALL.map(|kinds| Scenario::Driven(kinds, end)));
            all.extend(Kinds::ALL.map(|kinds| Scenario::CoordinatorAgain(kinds, end)));
            all.extend(Kinds::ALL.map(|kinds| Scenario::ParticipantAgain(kinds, end)));
            all.extend([Kinds::Xa, Kinds::Mixed].map(|kinds| Scenario::Strict(kinds, end)));
            all.extend([false, true].map(|driven| Scenario::OnePhase { driven, end }));
            all.extend([Scenario::ParticipantSweeps(end), Scenario::CoordinatorSweeps(end)]);
        }
        all.extend(Kinds::ALL.map(Scenario::Overtaken));
        all.extend([false, true].map(|resolved| Scenario::Operated { resolved }));
        all.push(Scenario::Purged);
        all
    }

    pub(super) fn kinds(self) -> Kinds {
        match self {
            Scenario::Execute(kinds, _)
            | Scenario::Strict(kinds, _)
            | Scenario::Driven(kinds, _)
            | Scenario::CoordinatorAgain(kinds, _)
            | Scenario::ParticipantAgain(kinds, _)
            | Scenario::Overtaken(kinds) => kinds,
            Scenario::Purged => Kinds::Mixed,
            _ => Kinds::Xa,
        }
    }

    /// What its initiator is told if nobody dies at a point; `None`: nobody can tell.
    pub(super) fn outcome(self) -> Option<Outcome> {
        match self {
            Scenario::Execute(_, end)
            | Scenario::Strict(_, end)
            | Scenario::Driven(_, end)
            | Scenario::OnePhase { end, .. }
            | Scenario::ParticipantAgain(_, end)
            | Scenario::ParticipantSweeps(end)
            | Scenario::CoordinatorSweeps(end) => Some(end.outcome()),
            Scenario::Overtaken(_) => Some(Outcome::RolledBack),
            Scenario::Operated { .. } | Scenario::Purged => Some(Outcome::Committed),
            // Its coordinator has died.
            Scenario::CoordinatorAgain(..) => None,
        }
    }

    /// Whether locks may outlive the end of everything else: those of XA branches that have worked and not prepared,
    /// if their coordinator has died and has nothing of their transaction on disk. They are rolled back 5 s after its
    /// time-out: nothing asks for them before.
    pub(super) fn leaves_locks(self) -> bool {
        matches!(self, Scenario::Strict(Kinds::Xa, _))
    }

    /// Whether a session may be ended that does other work by now. The sweeper ends the session that holds a prepared
    /// branch (docs/xa.md rule 8); if the participant ends the branch at that very moment, and gives the session to the
    /// next, that one is lost, and its transaction rolled back.
    pub(super) fn ends_sessions(self) -> bool {
        matches!(self, Scenario::CoordinatorSweeps(_))
    }

    /// How long a transaction may last, in milliseconds: so long that no time-out plays a part; but see
    /// [`Scenario::leaves_locks`].
    pub(super) fn timeout_ms(self) -> u32 {
        if self.leaves_locks() { 5_000 } else { 60_000 }
    }

    /// Whether the point is armed when a process is started again, and not before the transaction begins.
    pub(super) fn arms_at_restart(self) -> bool {
        matches!(self, Scenario::CoordinatorAgain(..) | Scenario::ParticipantAgain(..))
    }

    /// How the world is told to behave.
    pub(super) fn options(self) -> WorldOptions {
        let mut participant = ParticipantOptions { recovery_safety_ms: 300, ..Default::default() };
        if let Scenario::CoordinatorSweeps(_) = self {
            participant.recovery_safety_ms = 60_000;
        }
        if let Scenario::Purged = self {
            participant.purge_ms = Some((50, PURGE_RETENTION_MS));
        }
        WorldOptions {
            coordinator: CoordinatorOptions::new(),
            participant,
            sweeper: matches!(self, Scenario::CoordinatorSweeps(_)),
            ..WorldOptions::default()
        }
    }

    /// Whether this scenario is about a point. The first of them are about all; the others leave out what is no
    /// different in them.
    pub(super) fn is_about(self, point: &str) -> bool {
        let any = |parts: &[&str]| parts.iter().any(|part| point.starts_with(part));
        // Reached at their own time, which in most scenarios is by chance.
        let asks = point.ends_with("/Inquire") || any(&["participant/inquire", "participant/sweep"]);
        if asks && !matches!(self, Scenario::ParticipantSweeps(_) | Scenario::Purged) {
            return false;
        }
        match self {
            Scenario::Execute(..) => true,
            Scenario::Strict(..) => any(&["coordinator/send", "coordinator/reply", "participant", "xa"]),
            Scenario::Driven(..) => !any(&["coordinator/writer"]),
            Scenario::OnePhase { .. } => true,
            Scenario::Overtaken(_) => any(&["participant", "xa", "tcc"]),
            Scenario::CoordinatorAgain(..) => any(&["coordinator"]),
            Scenario::ParticipantAgain(..) => any(&["participant", "xa", "tcc"]),
            Scenario::ParticipantSweeps(_) => asks || any(&["xa"]),
            Scenario::CoordinatorSweeps(_) => any(&["coordinator/sweeper", "coordinator/log", "xa"]),
            Scenario::Operated { .. } => any(&["coordinator/log", "coordinator/writer"]),
            Scenario::Purged => any(&["participant/purge", "participant/inquire"]),
        }
    }
}

/// How much older than the newest a row is that is purged.
pub(super) const PURGE_RETENTION_MS: u64 = 1_000;

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kinds::Xa => "XA",
            Kinds::Tcc => "TCC",
            Kinds::Mixed => "mixed",
        })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Commit => "commit",
            End::Rollback => "rollback",
        })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scenario::Execute(kinds, end) => write!(f, "{kinds} {end}"),
            Scenario::Strict(kinds, end) => write!(f, "strict {kinds} {end}"),
            Scenario::Driven(kinds, end) => write!(f, "initiator-driven {kinds} {end}"),
            Scenario::OnePhase { driven: false, end } => write!(f, "one-phase {end}"),
            Scenario::OnePhase { driven: true, end } => write!(f, "initiator-driven one-phase {end}"),
            Scenario::Overtaken(kinds) => write!(f, "rollback overtakes {kinds}"),
            Scenario::CoordinatorAgain(kinds, end) => write!(f, "coordinator again, {kinds} {end}"),
            Scenario::ParticipantAgain(kinds, end) => write!(f, "participant again, {kinds} {end}"),
            Scenario::ParticipantSweeps(end) => write!(f, "participant sweeps, {end}"),
            Scenario::CoordinatorSweeps(end) => write!(f, "coordinator sweeps, {end}"),
            Scenario::Operated { resolved: false } => write!(f, "parked and retried"),
            Scenario::Operated { resolved: true } => write!(f, "parked and resolved"),
            Scenario::Purged => write!(f, "purged"),
        }
    }
}
