//! Transactions that append to lists and read them.

use std::collections::HashMap;

use clojure_reader::edn::Edn;

use crate::history::{self, Call, Operation, Type};

pub(crate) type Key = Edn<'static>;
pub(crate) type Value = Edn<'static>;

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Append(Key, Value),
    /// What was found; none when nobody was told.
    Read(Key, Option<Vec<Value>>),
}

/// A transaction with whatever is known of it.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    pub(super) call: Call<'a>,
    pub(super) outcome: Type,
    pub(super) steps: Vec<Step>,
}

/// A history that is not one of list-append.
#[derive(Debug, thiserror::Error)]
pub enum BadTransaction {
    /// A client has begun twice without an end, or ended without a beginning.
    #[error("the operation {0} has no partner")]
    Unpaired(i64),
    /// Its value is not a list of `[:append key value]` and `[:r key list]`.
    #[error("the operation {index} cannot be understood: {value}")]
    Value {
        /// Which.
        index: i64,
        /// What it says.
        value: String,
    },
    /// It cannot be said who appended this.
    #[error("the operations {first} and {second} both append {value} to {key}")]
    AppendedTwice {
        /// One of them.
        first: i64,
        /// The other.
        second: i64,
        /// To which list.
        key: String,
        /// What.
        value: String,
    },
}

pub(super) fn of_history(history: &[Operation]) -> Result<Vec<Transaction<'_>>, BadTransaction> {
    let calls = history::calls(history).map_err(BadTransaction::Unpaired)?;
    let calls = calls.into_iter().filter(|call| call.invoked.f == "txn");
    let transactions = calls.map(transaction).collect::<Result<Vec<_>, _>>()?;
    let mut writers: HashMap<(String, String), i64> = HashMap::new();
    for transaction in &transactions {
        let second = transaction.call.invoked.index;
        for (key, value) in transaction.appends() {
            let (key, value) = (key.to_string(), value.to_string());
            if let Some(first) = writers.insert((key.clone(), value.clone()), second) {
                return Err(BadTransaction::AppendedTwice { first, second, key, value });
            }
        }
    }
    Ok(transactions)
}

fn transaction(call: Call<'_>) -> Result<Transaction<'_>, BadTransaction> {
    let (outcome, said) = (call.outcome(), call.said());
    let steps = steps(&said.value, outcome == Type::Ok);
    let steps =
        steps.ok_or_else(|| BadTransaction::Value { index: said.index, value: said.value.to_string() })?;
    Ok(Transaction { call, outcome, steps })
}

/// The steps of a transaction in Elle's form: `[[:append 5 17] [:r 5 [3 17]]]`. Only one that is `ok` says what it read.
pub(crate) fn steps(value: &Edn<'static>, is_ok: bool) -> Option<Vec<Step>> {
    let Edn::Vector(steps) = value else { return None };
    steps
        .iter()
        .map(|step| {
            let Edn::Vector(parts) = step else { return None };
            match parts.as_slice() {
                [Edn::Key(verb), key, value] if verb == "append" => {
                    Some(Step::Append(key.clone(), value.clone()))
                }
                [Edn::Key(verb), key, _] if verb == "r" && !is_ok => Some(Step::Read(key.clone(), None)),
                // A list that nobody has appended to yet.
                [Edn::Key(verb), key, Edn::Nil] if verb == "r" => {
                    Some(Step::Read(key.clone(), Some(Vec::new())))
                }
                [Edn::Key(verb), key, Edn::Vector(list)] if verb == "r" => {
                    Some(Step::Read(key.clone(), Some(list.clone())))
                }
                _ => None,
            }
        })
        .collect()
}

impl Transaction<'_> {
    pub(super) fn appends(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Append(key, value) => Some((key, value)),
            Step::Read(..) => None,
        })
    }

    /// As it is named in explanations: by its place in the history.
    pub(super) fn name(&self) -> String {
        format!("T{}", self.call.invoked.index)
    }

    /// With what it did.
    pub(super) fn story(&self) -> String {
        format!("{} ({}) {}", self.name(), self.outcome, self.call.said().value)
    }
}
