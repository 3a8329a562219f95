//! The faults of a history: from `:start-kill` to `:stop-kill`, paired by the `:id` of their values.

use std::collections::HashMap;

use clojure_reader::edn::Edn;

use super::seconds;
use crate::history::{Operation, Process};

/// A fault, from its beginning to its end.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fault {
    /// `kill`, of `:start-kill`.
    pub kind: String,
    /// At whom; empty when the history does not say.
    pub target: String,
    /// What else the history says of it; empty when nothing.
    pub details: String,
    /// When it began.
    pub start_s: f64,
    /// When it ended, or the history did.
    pub end_s: f64,
    /// Whether the history ended before it.
    pub open: bool,
}

/// The faults in the order of their beginnings. One without an end lasts until the history ends. Lines of the nemesis
/// that neither start nor stop anything are left out.
pub(super) fn of(history: &[Operation], end_ns: i64) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    let mut open = HashMap::new();
    for operation in history.iter().filter(|operation| operation.process == Process::Nemesis) {
        let id = field(&operation.value, "id");
        if let Some(kind) = operation.f.strip_prefix("start-") {
            open.insert((kind, id), faults.len());
            faults.push(begun(kind, operation, end_ns));
        } else if let Some(kind) = operation.f.strip_prefix("stop-")
            && let Some(place) = open.remove(&(kind, id))
        {
            let fault: &mut Fault = &mut faults[place];
            fault.end_s = seconds(operation.time_ns);
            fault.open = false;
        }
    }
    faults
}

/// The kinds of faults, sorted.
pub(super) fn kinds(faults: &[Fault]) -> Vec<&str> {
    let mut kinds: Vec<&str> = faults.iter().map(|fault| fault.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

fn begun(kind: &str, operation: &Operation, end_ns: i64) -> Fault {
    Fault {
        kind: kind.to_owned(),
        target: field(&operation.value, "target").map(plain).unwrap_or_default(),
        details: details(&operation.value),
        start_s: seconds(operation.time_ns),
        end_s: seconds(end_ns),
        open: true,
    }
}

fn field<'a>(value: &'a Edn<'static>, key: &'static str) -> Option<&'a Edn<'static>> {
    value.get(&Edn::key(key))
}

/// A string without its quotes, a keyword without its colon, anything else as EDN.
fn plain(edn: &Edn<'_>) -> String {
    match edn {
        Edn::Str(text) | Edn::Key(text) => text.clone().into_owned(),
        other => other.to_string(),
    }
}

/// The value without `:id` and `:target`; its `:detail` is for people, and needs no name.
fn details(value: &Edn<'static>) -> String {
    let Edn::Map(map) = value else {
        return if *value == Edn::Nil { String::new() } else { value.to_string() };
    };
    let detail = field(value, "detail").map(plain);
    let known = ["id", "target", "detail"].map(Edn::key);
    let rest = map.iter().filter(|(key, _)| !known.contains(key));
    let rest = rest.map(|(key, value)| format!("{key} {value}"));
    detail.into_iter().chain(rest).collect::<Vec<_>>().join(", ")
}
