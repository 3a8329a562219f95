//! The claims, one after the other.

use std::collections::HashSet;

use anyhow::Result;
use clojure_reader::edn::Edn;

use super::effects::{Effects, Operation};
use super::{End, residue};
use crate::Anomaly;
use crate::cluster::JournalRow;
use crate::history::{Call, Type};
use crate::verdict::{CLAIMS, Claim};

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

    fn claim(mut self, (id, title, statement): (&'static str, &'static str, &'static str)) -> Claim {
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
    let judges = [
        agreement(operations, end),
        durability(operations),
        no_ghost(effects),
        exactly_once(effects),
        empty_cancel(effects, end),
        no_hanging(effects),
        residue::conservation(end, calls)?,
        residue::resolution(end),
    ];
    Ok(judges.into_iter().zip(CLAIMS).map(|(judge, words)| judge.claim(words)).collect())
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

/// The numbers that these are, if all of them are.
pub(super) fn numbers(values: &[Edn<'_>]) -> Option<Vec<i64>> {
    values.iter().map(|value| if let Edn::Int(number) = value { Some(*number) } else { None }).collect()
}
