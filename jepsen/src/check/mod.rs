//! The checkers: claims I1 to I8, and whether enough was tried. All of them look at the history alone, in which what
//! the databases held at the end is written down as well, so that a stored history can be checked again.
//!
//! | claim | violation | what was seen |
//! |---|---|---|
//! | I1 | `mixed-outcome` | some parts of an operation took effect and others did not, or in another transaction |
//! | I1 | `heuristic` | the coordinator counts branches that ended against the decision |
//! | I2 | `lost-commit` | a client was told of a commit, and not all of it took effect, or in another transaction |
//! | I3 | `ghost` | a client was told that it failed, and it took effect |
//! | I3 | `phantom` | something took effect that nobody has asked for, or otherwise than asked for |
//! | I4 | `repeated` | a part took effect twice |
//! | I4 | `not-once` | a branch was tried or ended twice, confirmed without Try, or shared by two parts |
//! | I5 | `cancel-without-try` | Cancel did something before Try, or without it |
//! | I6 | `hanging-try` | Try came after its end, or there was no end |
//! | I7 | `wrong-total` | money that was read, or is there at the end, is not what there was at the beginning |
//! | I7 | `overdrawn` | a balance, or what is held or promised, is below zero |
//! | I7 | `unbooked` | a balance is not what the journal says, or an account has gone |
//! | I7 | `stock` | goods are below zero, not what the journal says, or gone; or the SDK's own audit complains |
//! | I8 | `unended`, `parked`, `refused` | the coordinator has transactions, or branches, that have not ended well |
//! | I8 | `orphaned` | the store that coordinators share has transactions that have not ended |
//! | I8 | `silent` | a process has ended by itself |
//! | I8 | `late` | not everything had ended in [`DRAIN_MAX`](crate::run::DRAIN_MAX) |
//! | I8 | `in-doubt`, `open-branch` | a database has prepared XA branches, or TCC branches without an end |
//! | I8 | `pending-order`, `held`, `frozen` | orders, money or goods wait for the end of a transaction |
//!
//! What is wrong with reads of lists has the names of [`append`]; the lists at the end count as reads.

mod claims;
mod effects;
mod lists;
mod residue;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cluster::DatabaseAudit;
use crate::history::{self, Call, Operation, Process, Type};
use crate::verdict::{Claim, Verdict};
use crate::{Anomaly, append};

/// The operation that reads a whole database at the end.
pub const AUDIT: &str = "audit";
/// The operation that asks the coordinator at the end.
pub const STATUS: &str = "status";

/// What the coordinator says at the end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Transactions that have not ended.
    pub live: u64,
    /// Transactions that wait for an operator.
    pub parked: u64,
    /// Transactions that have not ended in the store that coordinators share, whether or not one of them knows.
    #[serde(default)]
    pub orphaned: u64,
    /// Branches that ended against the decision.
    pub heuristic: u64,
    /// Branches that refused phase two.
    pub refused: u64,
    /// Some of those that have not ended, for people.
    pub unended: Vec<String>,
    /// Processes and databases that did not answer in the end, and should have.
    pub silent: Vec<String>,
    /// How long it took until everything had ended, from the last fault's end, in milliseconds.
    pub drained_ms: u64,
}

/// What a history shows.
#[derive(Debug, Clone)]
pub struct Findings {
    /// I1 to I8.
    pub claims: Vec<Claim>,
    /// Anomalies of isolation.
    pub anomalies: Vec<Anomaly>,
    /// Why too little was tried.
    pub vacuous: Vec<String>,
}

impl Findings {
    /// All in all.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(&self.claims, &self.anomalies, &self.vacuous)
    }
}

/// So many operations of each outcome make a run worth while.
const OK_MIN: usize = 30;
const FAIL_MIN: usize = 3;

/// Checks a history: of any workload of ours, or of list-append transactions of anybody's.
///
/// # Errors
/// When it is not what the checkers understand.
pub fn check(history: &[Operation]) -> Result<Findings> {
    let calls = history::calls(history)
        .map_err(|index| anyhow::anyhow!("operation {index} does not fit the one before of its process"))?;
    let mut findings = Findings { claims: Vec::new(), anomalies: Vec::new(), vacuous: Vec::new() };
    let end = End::of(&calls)?;
    if calls.iter().any(|call| call.invoked.f == "txn") {
        findings.anomalies = match &end {
            Some(end) => lists::check(history, &calls, &end.audits)?,
            None => append::check(history)?.anomalies,
        };
    }
    match end {
        Some(end) => {
            let effects = effects::of(&calls, &end.audits)?;
            findings.claims = claims::all(&effects, &end, &calls)?;
            findings.vacuous = vacuous(history);
        }
        // Transactions on lists, of others perhaps, have shown something all the same, however few.
        None if calls.iter().all(|call| call.invoked.f == "txn") => {}
        None => {
            findings.vacuous.push("nobody has read what there is at the end: no claim was checked".into())
        }
    }
    Ok(findings)
}

/// What was read at the end.
#[derive(Debug)]
struct End {
    /// Of all databases, by their numbers.
    audits: Vec<DatabaseAudit>,
    status: Status,
}

impl End {
    /// None when nobody has tried to read anything, as in histories of others.
    fn of(calls: &[Call<'_>]) -> Result<Option<End>> {
        let (mut audits, mut statuses) = (Vec::new(), Vec::new());
        for call in calls.iter().filter(|call| [AUDIT, STATUS].contains(&call.invoked.f.as_str())) {
            let (index, f) = (call.invoked.index, &call.invoked.f);
            ensure!(call.outcome() == Type::Ok, "operation {index}: {f} has not been answered");
            let (said, value) = (call.said().index, call.said().value.clone());
            if f == AUDIT {
                audits.push(DatabaseAudit::deserialize(value).with_context(|| format!("operation {said}"))?);
            } else {
                statuses.push(Status::deserialize(value).with_context(|| format!("operation {said}"))?);
            }
        }
        if audits.is_empty() && statuses.is_empty() {
            return Ok(None);
        }
        ensure!(statuses.len() == 1, "the coordinator was asked {} times, not once", statuses.len());
        audits.sort_by_key(|audit| audit.database);
        let numbers: Vec<usize> = audits.iter().map(|audit| audit.database).collect();
        let each_once = !audits.is_empty() && numbers.iter().copied().eq(0..audits.len());
        ensure!(each_once, "there are audits of the databases {numbers:?}, not one of each");
        Ok(Some(End { audits, status: statuses.remove(0) }))
    }
}

/// Why a run did too little, if it did.
fn vacuous(history: &[Operation]) -> Vec<String> {
    let count = |kind| {
        let ended =
            history.iter().filter(|one| one.kind == kind && matches!(one.process, Process::Client(_)));
        ended.filter(|one| one.f != AUDIT && one.f != STATUS).count()
    };
    let (ok, fail) = (count(Type::Ok), count(Type::Fail));
    let mut reasons = Vec::new();
    if ok < OK_MIN {
        reasons.push(format!("only {ok} operations went well; {OK_MIN} are wanted"));
    }
    if fail < FAIL_MIN {
        reasons.push(format!("only {fail} operations failed; {FAIL_MIN} are wanted"));
    }
    reasons
}
