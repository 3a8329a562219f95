//! What clients do: operations, drawn from a seed, and the global transactions that they are made of.

mod append;
mod bank;
mod stock;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use clojure_reader::edn::Edn;
use concord_proto::v1::{BranchKind, BranchRequest, ExecuteRequest, Grade};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

use crate::cluster::{Cluster, Opening};
use crate::node::participant::Entry;

pub use append::Mop;

/// Which operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Money moves between accounts in several databases, by XA; totals are read in one global transaction
    Bank,
    /// Orders and frozen stock, by TCC, with a hot SKU that is sold out again and again
    Stock,
    /// Lists that grow in several databases, every branch SERIALIZABLE: shows isolation
    Append,
    /// Money moves, each side of a transfer by XA or by TCC, on the same accounts
    Mixed,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 4] = [Workload::Bank, Workload::Stock, Workload::Append, Workload::Mixed];

    /// What the tables are to hold at the beginning.
    pub fn opening(self) -> Opening {
        match self {
            Workload::Bank | Workload::Mixed => Opening { accounts: 100, balance: 100, ..Opening::default() },
            Workload::Stock => Opening { skus: stock::SKUS, quantity: 40, buckets: 4, ..Opening::default() },
            Workload::Append => Opening { lists: append::LISTS_MADE, ..Opening::default() },
        }
    }

    /// Whether branches have to be SERIALIZABLE.
    pub fn is_serializable(self) -> bool {
        self == Workload::Append
    }

    /// Whether it has TCC branches, which nobody but their participant can end.
    pub fn needs_participants(self) -> bool {
        matches!(self, Workload::Stock | Workload::Mixed)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Bank => "bank",
            Workload::Stock => "stock",
            Workload::Append => "append",
            Workload::Mixed => "mixed",
        }
    }
}

/// What one client does, one operation after the other. The same seed draws the same operations.
#[derive(Debug)]
pub struct Generator {
    workload: Workload,
    databases: usize,
    random: StdRng,
    client: i64,
    drawn: i64,
}

/// Operations of one client are numbered apart from those of the others.
const NUMBERS: i64 = 10_000_000;

impl Generator {
    /// The generator of a client, from 0.
    pub fn new(workload: Workload, databases: usize, seed: u64, client: i64) -> Generator {
        let random =
            StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(client.unsigned_abs() + 1));
        Generator { workload, databases, random, client, drawn: 0 }
    }

    /// The next operation.
    pub fn draw(&mut self) -> Plan {
        self.drawn += 1;
        let number = self.client * NUMBERS + self.drawn;
        let (random, databases) = (&mut self.random, self.databases);
        let mut plan = match self.workload {
            Workload::Bank => bank::draw(random, databases, number, false),
            Workload::Mixed => bank::draw(random, databases, number, true),
            Workload::Stock => stock::draw(random, databases, number),
            Workload::Append => append::draw(random, databases, number, self.drawn),
        };
        plan.insists = self.random.random();
        plan.number = number;
        plan
    }
}

/// One operation, ready to be carried out.
#[derive(Debug)]
pub struct Plan {
    /// Unique in the run.
    pub number: i64,
    /// What it is called in the history.
    pub f: &'static str,
    /// As it stands in the history.
    pub value: Edn<'static>,
    branches: Vec<Branch>,
    grade: Grade,
    reading: Reading,
    /// Whether the client asks again, with the same idempotency key, while it does not know the outcome.
    pub insists: bool,
}

/// One branch of it.
#[derive(Debug)]
struct Branch {
    participant: usize,
    kind: BranchKind,
    action: &'static str,
    payload: Vec<u8>,
}

/// What is to be made of the handlers' replies.
#[derive(Debug)]
enum Reading {
    /// Nothing.
    Nothing,
    /// Sums of the databases.
    Sums,
    /// What the reads of these have found; for each branch, which they are.
    Lists(Vec<Mop>, Vec<Vec<usize>>),
}

/// A branch of an operation as it stands in the history: its participant, its action, account and amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Part(pub usize, pub String, pub u32, pub i64);

/// An operation that moves something, as it stands in the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Moves {
    /// Its number.
    pub id: i64,
    /// Its branches.
    pub parts: Vec<Part>,
}

impl Plan {
    /// An operation that moves something.
    fn moves(number: i64, f: &'static str, parts: Vec<Part>) -> Plan {
        let branches = parts.iter().enumerate().map(|(index, part)| {
            let Part(participant, action, account, amount) = part;
            let (action, kind) = action_of(action);
            let part = u32::try_from(index).unwrap_or(u32::MAX);
            let entry = Entry { operation: number, part, account: *account, amount: *amount };
            Branch { participant: *participant, kind, action, payload: json(&entry) }
        });
        let branches = branches.collect();
        let value = edn(&Moves { id: number, parts });
        Plan {
            number,
            f,
            value,
            branches,
            grade: Grade::EarlyVote,
            reading: Reading::Nothing,
            insists: false,
        }
    }

    /// The call that carries it out.
    pub fn request(&self, cluster: &Cluster) -> ExecuteRequest {
        let branches = self.branches.iter().map(|branch| BranchRequest {
            kind: branch.kind.into(),
            participant: cluster.participant_url(branch.participant).to_owned(),
            action: branch.action.to_owned(),
            payload: branch.payload.clone().into(),
        });
        ExecuteRequest {
            name: format!("{} {}", self.f, self.number),
            branches: branches.collect(),
            grade: self.grade.into(),
            idempotency_key: format!("operation {}", self.number),
            ..ExecuteRequest::default()
        }
    }

    /// What the history says of it once it has been done. None: it was done, and what it read is not known.
    ///
    /// # Errors
    /// When a reply is not what the handler sends.
    pub fn completed(&self, gtid: &str, replies: &[impl AsRef<[u8]>]) -> Result<Option<Edn<'static>>> {
        match &self.reading {
            Reading::Nothing => Ok(Some(with(self.value.clone(), "gtid", Edn::Str(gtid.to_owned().into())))),
            _ if replies.iter().any(|reply| reply.as_ref().is_empty()) => Ok(None),
            Reading::Sums => {
                let sums = replies.iter().map(|reply| parse::<i64>(reply.as_ref()));
                Ok(Some(edn(&sums.collect::<Result<Vec<i64>>>()?)))
            }
            Reading::Lists(mops, places) => append::completed(mops, places, replies).map(Some),
        }
    }
}

/// What a handler is called, and its kind.
fn action_of(name: &str) -> (&'static str, BranchKind) {
    const XA: [&str; 2] = ["debit", "credit"];
    const TCC: [&str; 5] = ["hold", "promise", "order", "reserve", "receive"];
    let find = |names: &[&'static str]| names.iter().copied().find(|one| *one == name);
    match (find(&XA), find(&TCC)) {
        (Some(name), _) => (name, BranchKind::Xa),
        (None, Some(name)) => (name, BranchKind::Tcc),
        (None, None) => unreachable!("no generator draws {name:?}"),
    }
}

/// Any value as EDN.
pub(crate) fn edn(value: &impl Serialize) -> Edn<'static> {
    let text = clojure_reader::to_string(value).unwrap_or_default();
    clojure_reader::edn::read_string(&text).map_or(Edn::Nil, Edn::into_owned)
}

fn with(mut map: Edn<'static>, key: &'static str, value: Edn<'static>) -> Edn<'static> {
    if let Edn::Map(entries) = &mut map {
        entries.insert(Edn::key(key), value);
    }
    map
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Numbers, strings and lists of them have a JSON form.
    serde_json::to_vec(value).unwrap_or_default()
}

fn parse<T: serde::de::DeserializeOwned>(reply: &[u8]) -> Result<T> {
    serde_json::from_slice(reply)
        .with_context(|| format!("a reply that makes no sense: {:?}", String::from_utf8_lossy(reply)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_operations() {
        for workload in Workload::ALL {
            let draw = |seed| {
                let mut generator = Generator::new(workload, 3, seed, 2);
                (0..50).map(|_| generator.draw().value.to_string()).collect::<Vec<_>>()
            };
            assert_eq!(draw(7), draw(7));
            assert_ne!(draw(7), draw(8));
        }
    }
}
