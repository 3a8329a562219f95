//! What reads show: in which order each list grew; and whatever is wrong already there.

use std::collections::{BTreeMap, HashSet};

use clojure_reader::edn::Edn;

use super::transaction::{Key, Step, Transaction, Value};
use crate::Anomaly;
use crate::history::Type;

/// A transaction, by its place among them.
pub(super) type Place = usize;

/// A read of what others have appended: what its own transaction has added is not in it.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) reader: Place,
    /// So many values of the list's order.
    pub(super) length: usize,
}

/// One list.
#[derive(Debug, Default)]
pub(super) struct List {
    /// The longest that was read.
    pub(super) order: Vec<Value>,
    /// Who appended each value of it.
    pub(super) writers: Vec<Option<Place>>,
    pub(super) reads: Vec<Read>,
}

/// What a history's reads show.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) lists: BTreeMap<Key, List>,
    pub(super) anomalies: Vec<Anomaly>,
}

impl Observed {
    pub(super) fn keys(&self) -> usize {
        self.lists.len()
    }

    fn report(&mut self, name: &'static str, explanation: String) {
        self.anomalies.push(Anomaly { name, explanation });
    }
}

/// A read, with what its transaction did to the list before it.
struct Look<'a> {
    reader: Place,
    key: &'a Key,
    list: &'a [Value],
    /// What the transaction has itself appended before.
    own: Vec<&'a Value>,
}

pub(super) fn observe(transactions: &[Transaction<'_>]) -> Observed {
    let mut observed = Observed::default();
    let writers: BTreeMap<(&Key, &Value), Place> = transactions
        .iter()
        .enumerate()
        .flat_map(|(place, one)| one.appends().map(move |appended| (appended, place)))
        .collect();
    let mut looks = Vec::new();
    for (place, transaction) in transactions.iter().enumerate() {
        for key in transaction.steps.iter().map(Step::key) {
            observed.lists.entry(key.clone()).or_default();
        }
        if transaction.outcome == Type::Ok {
            internal(place, transaction, &mut looks, &mut observed);
        }
    }
    for look in &looks {
        let list = observed.lists.entry(look.key.clone()).or_default();
        if look.list.len() > list.order.len() {
            list.order = look.list.to_vec();
        }
    }
    for look in &looks {
        values(look, transactions, &writers, &mut observed);
    }
    for (key, list) in &mut observed.lists {
        list.writers = list.order.iter().map(|value| writers.get(&(key, value)).copied()).collect();
    }
    lost(transactions, &looks, &mut observed);
    observed
}

/// Notes the reads of a transaction, and that it sees what it has itself read and appended.
fn internal<'a>(
    place: Place,
    transaction: &'a Transaction<'_>,
    looks: &mut Vec<Look<'a>>,
    observed: &mut Observed,
) {
    let mut known: BTreeMap<&Key, Vec<&Value>> = BTreeMap::new();
    let mut own: BTreeMap<&Key, Vec<&Value>> = BTreeMap::new();
    for step in &transaction.steps {
        match step {
            Step::Append(key, value) => {
                own.entry(key).or_default().push(value);
                if let Some(list) = known.get_mut(key) {
                    list.push(value);
                }
            }
            Step::Read(key, Some(list)) => {
                let own = own.get(key).cloned().unwrap_or_default();
                let found: Vec<&Value> = list.iter().collect();
                let expected = known.insert(key, found.clone());
                if expected.as_ref().is_some_and(|expected| *expected != found) || !found.ends_with(&own) {
                    let story = transaction.story();
                    observed.report(
                        "internal",
                        format!("{story} does not see in {key} what it has itself read or appended"),
                    );
                    continue;
                }
                looks.push(Look { reader: place, key, list, own });
            }
            Step::Read(_, None) => {}
        }
    }
}

/// Looks at the values of one read, and files the read.
fn values(
    look: &Look<'_>,
    transactions: &[Transaction<'_>],
    writers: &BTreeMap<(&Key, &Value), Place>,
    observed: &mut Observed,
) {
    let Look { reader, key, list, own } = look;
    let story = transactions[*reader].story();
    let mut seen = HashSet::new();
    for value in *list {
        if !seen.insert(value.to_string()) {
            observed.report("duplicate", format!("{story} finds {value} in {key} twice"));
        }
        match writers.get(&(*key, value)) {
            None => {
                observed.report("phantom", format!("{story} finds {value} in {key}, which nobody appended"))
            }
            Some(&writer) if transactions[writer].outcome == Type::Fail => {
                let writer = transactions[writer].story();
                observed.report("G1a", format!("{story} finds {value} in {key}, of {writer}, which failed"));
            }
            Some(_) => {}
        }
    }
    let external = &list[..list.len() - own.len()];
    if let Some(last) = external.last()
        && let Some(&writer) = writers.get(&(*key, last))
        && let Some((_, newest)) = transactions[writer].appends().filter(|(one, _)| one == key).last()
        && newest != last
    {
        let writer = transactions[writer].story();
        observed.report("G1b", format!("{story} finds {key} in the middle of {writer}: it ends with {last}"));
    }
    let Some(known) = observed.lists.get_mut(*key) else { return };
    if known.order.starts_with(list) {
        known.reads.push(Read { reader: *reader, length: external.len() });
    } else {
        let order = Edn::Vector(known.order.clone());
        observed.report("incompatible-order", format!("{story} reads {key} otherwise than {order}"));
    }
}

/// What was acknowledged before a read began is in it: nobody has to be told twice.
fn lost(transactions: &[Transaction<'_>], looks: &[Look<'_>], observed: &mut Observed) {
    // For each list, appends by the time of their acknowledgement.
    let mut acknowledged: BTreeMap<&Key, Vec<(i64, &Value, Place)>> = BTreeMap::new();
    for (place, transaction) in transactions.iter().enumerate() {
        if let (Type::Ok, Some(completed)) = (transaction.outcome, transaction.call.completed) {
            for (key, value) in transaction.appends() {
                acknowledged.entry(key).or_default().push((completed.index, value, place));
            }
        }
    }
    let mut reported = HashSet::new();
    for look in looks {
        let begun = transactions[look.reader].call.invoked.index;
        let before = acknowledged.get(look.key).into_iter().flatten().filter(|(told, ..)| *told < begun);
        let there: HashSet<&Value> = look.list.iter().collect();
        for (_, value, writer) in before.filter(|(_, value, _)| !there.contains(value)) {
            if reported.insert((look.key, *value)) {
                let (reader, writer) = (transactions[look.reader].story(), transactions[*writer].story());
                let key = look.key;
                observed.report(
                    "lost-append",
                    format!(
                        "{reader} began after {writer} was acknowledged, and does not find {value} in {key}"
                    ),
                );
            }
        }
    }
}

impl Step {
    fn key(&self) -> &Key {
        match self {
            Step::Append(key, _) | Step::Read(key, _) => key,
        }
    }
}
