//! Transactions on lists, in Elle's form: `[[:append 5 17] [:r 5 nil]]`.

use anyhow::{Result, ensure};
use clojure_reader::edn::Edn;
use concord_proto::v1::{BranchKind, Grade};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::{Branch, Plan, Reading, json, parse};
use crate::node::participant::{AppendReply, Deed};

/// Lists that are in use at a time.
const LISTS: i64 = 24;
/// Lists that are there from the beginning: enough for half an hour.
pub(super) const LISTS_MADE: u32 = 20_000;
/// After so many of a client's operations it turns to other lists, so that none grows for ever.
const TURN: i64 = 40;

/// What one step of a transaction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mop {
    /// Puts a value at the end of a list.
    Append(i64, i64),
    /// Reads a list.
    Read(i64),
}

impl Mop {
    fn list(self) -> i64 {
        match self {
            Mop::Append(list, _) | Mop::Read(list) => list,
        }
    }

    fn edn(self, found: Option<&[i64]>) -> Edn<'static> {
        let found = found.map_or(Edn::Nil, |list| Edn::Vector(list.iter().copied().map(Edn::Int).collect()));
        Edn::Vector(match self {
            Mop::Append(list, value) => vec![Edn::key("append"), Edn::Int(list), Edn::Int(value)],
            Mop::Read(list) => vec![Edn::key("r"), Edn::Int(list), found],
        })
    }
}

/// The database in which a list is.
pub(crate) fn database_of(list: i64, databases: usize) -> usize {
    usize::try_from(list).unwrap_or(0) % databases
}

pub(super) fn draw(random: &mut StdRng, databases: usize, number: i64, drawn: i64) -> Plan {
    let first = drawn / TURN * LISTS;
    let count = random.random_range(1..=4);
    let mops: Vec<Mop> = (0..count)
        .map(|step| {
            let list = first + random.random_range(0..LISTS);
            // Unique in the run, and so in the list.
            if random.random() { Mop::Append(list, number * 10 + step) } else { Mop::Read(list) }
        })
        .collect();
    plan(mops, databases)
}

/// Each database does its share of the steps, in their order: steps on different lists do not see each other.
fn plan(mops: Vec<Mop>, databases: usize) -> Plan {
    let (mut branches, mut places) = (Vec::new(), Vec::new());
    for participant in 0..databases {
        let share = |(_, mop): &(usize, &Mop)| database_of(mop.list(), databases) == participant;
        let share: Vec<(usize, &Mop)> = mops.iter().enumerate().filter(share).collect();
        if share.is_empty() {
            continue;
        }
        let deeds: Vec<Deed> = share.iter().map(|(_, mop)| deed(**mop)).collect();
        branches.push(Branch { participant, kind: BranchKind::Xa, action: "lists", payload: json(&deeds) });
        let reads = share.iter().filter(|(_, mop)| matches!(mop, Mop::Read(_)));
        places.push(reads.map(|(place, _)| *place).collect());
    }
    Plan {
        number: 0,
        f: "txn",
        value: Edn::Vector(mops.iter().map(|mop| mop.edn(None)).collect()),
        branches,
        grade: Grade::Strict,
        reading: Reading::Lists(mops, places),
        insists: false,
    }
}

fn deed(mop: Mop) -> Deed {
    match mop {
        Mop::Append(list, value) => Deed::Append(list, value),
        Mop::Read(list) => Deed::Read(list),
    }
}

/// The transaction with what its reads have found.
pub(super) fn completed(
    mops: &[Mop],
    places: &[Vec<usize>],
    replies: &[impl AsRef<[u8]>],
) -> Result<Edn<'static>> {
    let mut found: Vec<Option<Vec<i64>>> = vec![None; mops.len()];
    ensure!(places.len() == replies.len(), "{} replies to {} branches", replies.len(), places.len());
    for (places, reply) in places.iter().zip(replies) {
        let reads: AppendReply = parse(reply.as_ref())?;
        ensure!(reads.len() == places.len(), "{} reads where {} were asked for", reads.len(), places.len());
        for (place, read) in places.iter().zip(reads) {
            found[*place] = Some(read);
        }
    }
    Ok(Edn::Vector(mops.iter().zip(&found).map(|(mop, found)| mop.edn(found.as_deref())).collect()))
}
