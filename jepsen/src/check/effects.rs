//! What operations were to do, what they were told, and what they did.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context as _, Result, ensure};
use clojure_reader::edn::Edn;
use serde::Deserialize as _;

use crate::append::{self, Step};
use crate::cluster::{DatabaseAudit, JournalRow};
use crate::history::{Call, Type};
use crate::workload::{Moves, Part};

/// Every operation that was to change something, and every branch that did.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) operations: Vec<Operation>,
    /// By database, gtid and branch.
    pub(super) branches: BTreeMap<(usize, String, u32), Vec<JournalRow>>,
    /// Effects that nobody asked for.
    pub(super) strangers: Vec<String>,
}

/// One operation.
#[derive(Debug)]
pub(super) struct Operation {
    /// As people find it in the history.
    pub(super) name: String,
    pub(super) outcome: Type,
    /// The transaction that a client was told has committed, if it was told which.
    pub(super) gtid: Option<String>,
    pub(super) parts: Vec<Effect>,
}

/// One part of what an operation was to do.
#[derive(Debug)]
pub(super) struct Effect {
    pub(super) what: String,
    /// As it was asked for; not for appends, which leave no journal.
    asked: Option<Part>,
    /// How often it took effect, and in which transactions if that is known.
    pub(super) times: usize,
    pub(super) gtids: HashSet<String>,
}

impl Operation {
    /// Whether any part of it took effect.
    pub(super) fn any(&self) -> bool {
        self.parts.iter().any(|part| part.times > 0)
    }

    /// Which parts took effect and which did not, for people.
    pub(super) fn story(&self) -> String {
        let told = match self.outcome {
            Type::Ok => "was told: committed",
            Type::Fail => "was told: rolled back",
            Type::Info | Type::Invoke => "was told nothing",
        };
        let parts = self.parts.iter().map(|part| {
            let gtids = part.gtids.iter().cloned().collect::<Vec<_>>().join(", ");
            let times = match part.times {
                0 => "did not take effect".to_owned(),
                1 => "took effect".to_owned(),
                times => format!("took effect {times} times"),
            };
            if gtids.is_empty() {
                format!("\n{}: {times}", part.what)
            } else {
                format!("\n{}: {times} ({gtids})", part.what)
            }
        });
        format!("{} {told}{}", self.name, parts.collect::<String>())
    }
}

/// Reads the operations of a history, and what the audits say of them.
pub(super) fn of(calls: &[Call<'_>], audits: &[DatabaseAudit]) -> Result<Effects> {
    let mut effects = Effects::default();
    let mut by_number = HashMap::new();
    let lists = Appended::of(audits);
    let mut asked_for = HashSet::new();
    for call in calls {
        let value = &call.invoked.value;
        match call.invoked.f.as_str() {
            "transfer" | "purchase" | "receive" => {
                let moves = Moves::deserialize(value.clone())
                    .with_context(|| format!("operation {}", call.invoked.index))?;
                let number = moves.id;
                let double = by_number.insert(number, effects.operations.len()).is_some();
                ensure!(!double, "there are two operations {number}");
                for Part(participant, ..) in &moves.parts {
                    let audited = *participant < audits.len();
                    ensure!(
                        audited,
                        "operation {number} is of participant {participant}, which has no audit"
                    );
                }
                let parts = moves.parts.into_iter().map(|part| Effect {
                    what: describe(&part),
                    asked: Some(part),
                    times: 0,
                    gtids: HashSet::new(),
                });
                effects.operations.push(Operation {
                    name: format!("{} {number}", call.invoked.f),
                    outcome: call.outcome(),
                    gtid: gtid(&call.said().value),
                    parts: parts.collect(),
                });
            }
            "txn" => {
                let appends = appends(value);
                asked_for.extend(appends.iter().copied());
                let parts = appends.iter().map(|(list, element)| Effect {
                    what: format!("append of {element} to list {list}"),
                    asked: None,
                    times: lists.times(*list, *element),
                    gtids: HashSet::new(),
                });
                effects.operations.push(Operation {
                    name: format!("operation {} ({value})", call.invoked.index),
                    outcome: call.outcome(),
                    gtid: None,
                    parts: parts.collect(),
                });
            }
            _ => {}
        }
    }
    effects.strangers.extend(lists.strangers(&asked_for));
    for audit in audits {
        for row in &audit.journal {
            effects.add(audit.database, row, &by_number);
        }
    }
    Ok(effects)
}

impl Effects {
    fn add(&mut self, database: usize, row: &JournalRow, by_number: &HashMap<i64, usize>) {
        let (gtid, branch, operation, part, step, ..) = row;
        self.branches.entry((database, gtid.clone(), *branch)).or_default().push(row.clone());
        let found = by_number.get(operation).and_then(|index| self.operations.get_mut(*index));
        let found = found.and_then(|one| one.parts.get_mut(*part as usize));
        if !found.as_ref().is_some_and(|effect| effect.is_as_asked_for(database, row)) {
            self.strangers.push(format!("database {database}: {row:?}"));
        }
        if let Some(effect) = found
            && (step == "work" || step == "confirm")
        {
            effect.times += 1;
            effect.gtids.insert(gtid.clone());
        }
    }
}

impl Effect {
    /// Whether a step is one that it has, in its place, and with its amount.
    fn is_as_asked_for(&self, database: usize, row: &JournalRow) -> bool {
        let Some(Part(participant, action, account, amount)) = &self.asked else { return false };
        let (_, _, _, _, step, at, change) = row;
        let expected = match (action.as_str(), step.as_str()) {
            ("debit", "work") | ("hold" | "reserve", "confirm") => -amount,
            ("credit", "work") | ("promise" | "receive" | "order", "confirm") => *amount,
            ("hold" | "promise" | "reserve" | "receive" | "order", "try" | "cancel") => 0,
            _ => return false,
        };
        (database, *at, *change) == (*participant, *account, expected)
    }
}

fn describe(part: &Part) -> String {
    let Part(participant, action, account, amount) = part;
    format!("{action} of {amount}, account {account}, at participant-{participant}")
}

/// The transaction that an operation's end names.
fn gtid(value: &Edn<'_>) -> Option<String> {
    let Some(Edn::Str(gtid)) = value.get(&Edn::key("gtid")) else { return None };
    Some(gtid.to_string())
}

/// The appends of a transaction on lists of numbers.
pub(super) fn appends(value: &Edn<'static>) -> Vec<(i64, i64)> {
    let steps = append::steps(value, false).unwrap_or_default();
    let append = |step| match step {
        Step::Append(Edn::Int(list), Edn::Int(element)) => Some((list, element)),
        _ => None,
    };
    steps.into_iter().filter_map(append).collect()
}

/// How often each element is in a list at the end.
struct Appended(HashMap<(i64, i64), usize>);

impl Appended {
    fn of(audits: &[DatabaseAudit]) -> Self {
        let mut times = HashMap::new();
        for (list, elements) in audits.iter().flat_map(|audit| &audit.lists) {
            for element in elements {
                *times.entry((*list, *element)).or_default() += 1;
            }
        }
        Appended(times)
    }

    fn times(&self, list: i64, element: i64) -> usize {
        self.0.get(&(list, element)).copied().unwrap_or(0)
    }

    fn strangers(&self, asked_for: &HashSet<(i64, i64)>) -> Vec<String> {
        let strangers = self.0.keys().filter(|append| !asked_for.contains(append));
        strangers.map(|(list, element)| format!("list {list} has {element}")).collect()
    }
}
