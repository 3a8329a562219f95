//! The lists as they are at the end: a read that comes after everything else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use clojure_reader::edn::Edn;

use super::claims::numbers;
use super::effects::appends;
use crate::Anomaly;
use crate::append::{self, Step};
use crate::cluster::DatabaseAudit;
use crate::history::{Call, Operation, Process, Type};

/// Looks for anomalies in what was read, meanwhile and at the end.
pub(super) fn check(
    history: &[Operation],
    calls: &[Call<'_>],
    audits: &[DatabaseAudit],
) -> Result<Vec<Anomaly>> {
    let mut lists: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for (list, elements) in audits.iter().flat_map(|audit| &audit.lists) {
        lists.entry(*list).or_default().extend(elements);
    }
    let mut anomalies = append::check(&with_reads(history, calls, &lists))?.anomalies;
    anomalies.extend(vanished(calls, &lists).take(append::EACH));
    Ok(anomalies)
}

/// The history, and then a read of each list.
fn with_reads(history: &[Operation], calls: &[Call<'_>], lists: &BTreeMap<i64, Vec<i64>>) -> Vec<Operation> {
    let transactions = calls.iter().filter(|call| call.invoked.f == "txn");
    let appended = transactions.flat_map(|call| appends(&call.invoked.value)).map(|(list, _)| list);
    let all: BTreeSet<i64> = appended.chain(lists.keys().copied()).collect();
    let mut history: Vec<Operation> = history.to_vec();
    let (index, time_ns) = history.last().map_or((0, 0), |last| (last.index + 1, last.time_ns));
    for (place, list) in (0..).zip(all) {
        let found = lists.get(&list).into_iter().flatten().copied().map(Edn::Int).collect();
        let read = Edn::Vector(vec![Edn::key("r"), Edn::Int(list), Edn::Vector(found)]);
        for (kind, second) in [(Type::Invoke, 0), (Type::Ok, 1)] {
            history.push(Operation {
                index: index + 2 * place + second,
                time_ns,
                process: READER,
                kind,
                f: "txn".to_owned(),
                value: Edn::Vector(vec![read.clone()]),
                error: None,
            });
        }
    }
    history
}

/// No client has this number.
const READER: Process = Process::Client(i64::MIN);

/// What was read and is not there at the end: lists only grow.
fn vanished(calls: &[Call<'_>], lists: &BTreeMap<i64, Vec<i64>>) -> impl Iterator<Item = Anomaly> {
    let done = calls.iter().filter(|call| call.invoked.f == "txn" && call.outcome() == Type::Ok);
    done.filter_map(|call| {
        let said = call.said();
        let lost = reads(&said.value).into_iter().find(|(list, read)| {
            let end = lists.get(list).map_or(&[][..], Vec::as_slice);
            read.len() > end.len()
        });
        let (list, read) = lost?;
        let explanation = format!(
            "operation {} has read {read:?} in list {list}, in which less is left at the end",
            said.index
        );
        Some(Anomaly { name: "lost-append", explanation })
    })
}

/// What a transaction that is `ok` has read in lists of numbers.
fn reads(value: &Edn<'static>) -> Vec<(i64, Vec<i64>)> {
    let steps = append::steps(value, true).unwrap_or_default();
    let read = |step| match step {
        Step::Read(Edn::Int(list), Some(found)) => Some((list, numbers(&found)?)),
        _ => None,
    };
    steps.into_iter().filter_map(read).collect()
}
