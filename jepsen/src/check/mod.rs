//! The checkers: claims I1 to I8, and whether enough was tried. All of them look at the history alone, in which what
//! the databases held at the end is written down as well, so that a stored history can be checked again.

mod claims;
mod effects;
mod residue;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::cluster::DatabaseAudit;
use crate::history::{Operation, Process, Type};
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
    let mut findings = Findings { claims: Vec::new(), anomalies: Vec::new(), vacuous: vacuous(history) };
    if history.iter().any(|operation| operation.f == "txn") {
        findings.anomalies = append::check(history)?.anomalies;
    }
    let ends = End::of(history)?;
    // Histories of others have no audits.
    if !ends.audits.is_empty() {
        let calls = crate::history::calls(history).map_err(|index| {
            anyhow::anyhow!("operation {index} does not fit the one before of its process")
        })?;
        let effects = effects::of(&calls, &ends.audits)?;
        findings.claims = claims::all(&effects, &ends, &calls)?;
    }
    Ok(findings)
}

/// What was read at the end.
#[derive(Debug, Default)]
struct End {
    audits: Vec<DatabaseAudit>,
    status: Status,
}

impl End {
    fn of(history: &[Operation]) -> Result<End> {
        let mut end = End::default();
        for operation in history.iter().filter(|one| one.kind == Type::Ok) {
            let wrong = || format!("operation {}", operation.index);
            match operation.f.as_str() {
                AUDIT => {
                    end.audits.push(Deserialize::deserialize(operation.value.clone()).with_context(wrong)?)
                }
                STATUS => {
                    end.status = Deserialize::deserialize(operation.value.clone()).with_context(wrong)?
                }
                _ => {}
            }
        }
        Ok(end)
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
