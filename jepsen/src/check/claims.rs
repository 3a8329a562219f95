//! The claims, one after the other.

use std::collections::HashSet;

use anyhow::Result;
use clojure_reader::edn::Edn;

use super::effects::{Effects, Operation};
use super::{End, residue};
use crate::Anomaly;
use crate::cluster::JournalRow;
use crate::history::{Call, Type};
use crate::verdict::Claim;

/// So many violations of one name are explained, of each claim.
const EACH: usize = 8;

/// Collects what is wrong with one claim.
#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) checked: u64,
    violations: Vec<Anomaly>,
    more: usize,
}

impl Judge {
    /// One more thing was looked at; `wrong` says what is wrong with it.
    pub(super) fn look(&mut self, name: &'static str, wrong: Option<String>) {
        self.checked += 1;
        let Some(explanation) = wrong else { return };
        if self.violations.iter().filter(|one| one.name == name).count() < EACH {
            self.violations.push(Anomaly { name, explanation });
        } else {
            self.more += 1;
        }
    }

    fn claim(mut self, id: &'static str, title: &'static str, statement: &'static str) -> Claim {
        if self.more > 0 {
            let explanation = format!("{} more, which are not told", self.more);
            self.violations.push(Anomaly { name: "more", explanation });
        }
        Claim { id, title, statement, checked: self.checked, violations: self.violations }
    }
}

/// All claims.
pub(super) fn all(effects: &Effects, end: &End, calls: &[Call<'_>]) -> Result<Vec<Claim>> {
    let operations = &effects.operations;
    Ok(vec![
        agreement(operations, end).claim(
            "I1",
            "Agreement",
            "All branches of a global transaction end the same way, except where an operator forced an outcome.",
        ),
        durability(operations).claim("I2", "Durability", "A commit that was acknowledged is never lost."),
        no_ghost(effects).claim(
            "I3",
            "No ghost",
            "The effects of a transaction reported failed or rolled back are never visible after it ends.",
        ),
        exactly_once(effects).claim(
            "I4",
            "Exactly once",
            "Confirm and Cancel (Commit and Rollback) take effect at most once each, never both, and exactly one does.",
        ),
        empty_cancel(effects, end).claim(
            "I5",
            "Empty cancel",
            "Cancel of a Try that never arrived changes nothing and is remembered.",
        ),
        no_hanging(effects).claim(
            "I6",
            "No hanging",
            "A Try or XA branch that arrives after its Cancel or Rollback takes no effect and leaves nothing behind.",
        ),
        residue::conservation(end, calls)?.claim(
            "I7",
            "Conservation",
            "Money and stock are conserved; nothing is below zero, nothing is oversold.",
        ),
        residue::resolution(end).claim(
            "I8",
            "Resolution",
            "After the faults stop, everything ends in bounded time and nothing is left behind.",
        ),
    ])
}

fn agreement(operations: &[Operation], end: &End) -> Judge {
    let mut judge = Judge::default();
    for operation in operations.iter().filter(|one| one.parts.len() > 1 && one.any()) {
        // Half of it in one transaction and half in another is no agreement either.
        let first = &operation.parts[0].gtids;
        let mixed = operation.parts.iter().any(|part| part.times == 0 || part.gtids != *first);
        judge.look("mixed-outcome", mixed.then(|| operation.story()));
    }
    let heuristic = end.status.heuristic;
    judge.look(
        "heuristic",
        (heuristic > 0).then(|| format!("{heuristic} branches ended against the decision")),
    );
    judge
}

fn durability(operations: &[Operation]) -> Judge {
    let mut judge = Judge::default();
    for operation in operations.iter().filter(|one| one.outcome == Type::Ok && !one.parts.is_empty()) {
        let other =
            |gtids: &HashSet<String>| operation.gtid.as_ref().is_some_and(|told| !gtids.contains(told));
        let lost = operation.parts.iter().any(|part| part.times == 0 || other(&part.gtids));
        judge.look("lost-commit", lost.then(|| operation.story()));
    }
    judge
}

fn no_ghost(effects: &Effects) -> Judge {
    let mut judge = Judge::default();
    let failed = |one: &&Operation| one.outcome == Type::Fail && !one.parts.is_empty();
    for operation in effects.operations.iter().filter(failed) {
        judge.look("ghost", operation.any().then(|| operation.story()));
    }
    for stranger in &effects.strangers {
        judge.look("phantom", Some(format!("nobody asked for it: {stranger}")));
    }
    judge
}

fn exactly_once(effects: &Effects) -> Judge {
    let mut judge = Judge::default();
    for operation in effects.operations.iter().filter(|one| one.any()) {
        let repeated = operation.parts.iter().any(|part| part.times > 1);
        judge.look("repeated", repeated.then(|| operation.story()));
    }
    for (branch, rows) in &effects.branches {
        let count = |step| rows.iter().filter(|row| row.4 == step).count();
        let (tries, confirms, cancels) = (count("try"), count("confirm"), count("cancel"));
        // One branch is one part of one operation.
        let shared = rows.iter().any(|row| (row.2, row.3) != (rows[0].2, rows[0].3));
        let twice = tries > 1 || confirms + cancels > 1 || count("work") > 1;
        let wrong = twice || shared || (confirms > 0 && tries == 0);
        judge.look("not-once", wrong.then(|| story(branch, rows)));
    }
    judge
}

fn empty_cancel(effects: &Effects, end: &End) -> Judge {
    let mut judge = Judge::default();
    for (branch, rows) in &effects.branches {
        // What comes after it is another matter.
        let first = rows.iter().find(|row| row.4 == "cancel" || row.4 == "try");
        if first.is_some_and(|row| row.4 == "cancel") {
            judge.look("cancel-without-try", Some(story(branch, rows)));
        }
    }
    judge.checked += end.audits.iter().map(|audit| audit.tombstones).sum::<u64>();
    judge
}

fn no_hanging(effects: &Effects) -> Judge {
    let mut judge = Judge::default();
    for (branch, rows) in &effects.branches {
        let at = |step| rows.iter().rposition(|row| row.4 == step);
        let Some(tried) = at("try") else { continue };
        let wrong = match at("cancel").max(at("confirm")) {
            None => Some("was never ended"),
            Some(ended) if ended < tried => Some("was tried after its end"),
            Some(_) => None,
        };
        judge.look("hanging-try", wrong.map(|wrong| format!("a branch {wrong}\n{}", story(branch, rows))));
    }
    judge
}

fn story((database, gtid, branch): &(usize, String, u32), rows: &[JournalRow]) -> String {
    let steps = rows.iter().map(|(_, _, operation, part, step, account, amount)| {
        format!("\n{step} of operation {operation}, part {part}: account {account}, {amount:+}")
    });
    format!("database {database}, {gtid} branch {branch}, in this order:{}", steps.collect::<String>())
}

/// The numbers in a vector.
pub(super) fn numbers(value: &Edn<'_>) -> Option<Vec<i64>> {
    let Edn::Vector(values) = value else { return None };
    values.iter().map(|value| if let Edn::Int(number) = value { Some(*number) } else { None }).collect()
}
