//! What is explored.

use std::fmt;

use clap::ValueEnum;
use concord_protocol::{Grade, Kind, Millis, Options};

use crate::mutant::Mutant;

/// Who drives the transaction, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// `Begin`, branches that join, `Commit` or `Rollback`.
    Initiator,
    /// The same, on a shared store: while open it outlives its coordinator.
    StaysOpen,
    /// `Execute`; work and vote in one call.
    EarlyVote,
    /// `Execute`; all branches work before any votes.
    Strict,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Initiator => "initiator",
            Mode::StaysOpen => "stays open",
            Mode::EarlyVote => "early vote",
            Mode::Strict => "strict",
        })
    }
}

/// How many faults of each kind may happen in one run, at any point of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// Crashes of the coordinator: all that is volatile is lost, and of the log any unsynced suffix.
    pub crashes: u8,
    /// Take-overs by another coordinator, while the one before it goes on without knowing; not more than one of those at a
    /// time.
    pub take_overs: u8,
    /// Crashes of a participant.
    pub participant_crashes: u8,
    /// Calls without an answer: they never left, or were given up and may still arrive.
    pub lost: u8,
    /// Messages that arrive twice.
    pub duplicated: u8,
    /// Confirms and Cancels that a handler refuses.
    pub refusals: u8,
    /// Branches that recovery or the sweeper ends before the coordinator's own call does. At the end, when all
    /// else is quiet, they end what is left without counting.
    pub sweeps: u8,
    /// Orders of an operator: to leave a transaction alone, or to end a branch by hand, one way or the other. That
    /// everything is retried, and that a forced outcome is acknowledged, does not count.
    pub orders: u8,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Faults { crashes, take_overs, participant_crashes, lost, duplicated, refusals, sweeps, orders } =
            self;
        let parts = [
            (crashes, "crash"),
            (take_overs, "take-over"),
            (participant_crashes, "participant crash"),
            (lost, "lost"),
            (duplicated, "dup"),
            (refusals, "refusal"),
            (sweeps, "sweep"),
            (orders, "order"),
        ];
        let mut first = true;
        for (count, name) in parts.into_iter().filter(|(count, _)| **count > 0) {
            let comma = if first { "" } else { ", " };
            write!(f, "{comma}{count} {name}")?;
            first = false;
        }
        if first {
            write!(f, "none")?;
        }
        Ok(())
    }
}

/// One world to explore.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The participants' protocols, in the order in which they join. At most three.
    pub kinds: Vec<Kind>,
    /// Who drives.
    pub mode: Mode,
    /// What may go wrong.
    pub faults: Faults,
    /// As in [`Options::park_after_attempts`].
    pub park_after_attempts: Option<u32>,
    /// A bug in what surrounds the core.
    pub mutant: Option<Mutant>,
}

/// The transaction's deadline; the world's clock stands at zero before it and here after it.
pub(crate) const DEADLINE: Millis = Millis(1);

impl Configuration {
    /// Without faults.
    pub fn new(kinds: &[Kind], mode: Mode) -> Self {
        Configuration {
            kinds: kinds.to_vec(),
            mode,
            faults: Faults::default(),
            park_after_attempts: None,
            mutant: None,
        }
    }

    /// With these faults.
    pub fn with(self, faults: Faults) -> Self {
        Configuration { faults, ..self }
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            coordinator_driven: self.is_driven(),
            stays_open: self.mode == Mode::StaysOpen,
            grade: if self.mode == Mode::Strict { Grade::Strict } else { Grade::EarlyVote },
            deadline: DEADLINE,
            park_after_attempts: self.park_after_attempts,
        }
    }

    pub(crate) fn is_driven(&self) -> bool {
        !matches!(self.mode, Mode::Initiator | Mode::StaysOpen)
    }

    /// The kinds in short: `XA XA TCC`.
    pub fn kinds_text(&self) -> String {
        let names = self.kinds.iter().map(|kind| match kind {
            Kind::Xa => "XA",
            Kind::Tcc => "TCC",
        });
        names.collect::<Vec<_>>().join(" ")
    }
}
