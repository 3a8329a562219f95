//! Who depends on whom.

use petgraph::graph::{DiGraph, NodeIndex};

use super::observed::{List, Observed, Place};
use super::transaction::{Key, Transaction};
use crate::history::Type;

/// Why one transaction comes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The other appended next.
    Write,
    /// The other has read what it appended.
    WriteRead,
    /// The other appended what it has not seen yet.
    ReadWrite,
}

/// A dependency, and what it is about.
#[derive(Debug, Clone)]
pub(super) struct Dependency {
    pub(super) kind: Kind,
    pub(super) why: String,
}

/// Transactions by their places; an edge goes from the earlier to the later.
pub(super) type Graph = DiGraph<Place, Dependency>;

pub(super) fn of(transactions: &[Transaction<'_>], observed: &Observed) -> Graph {
    let mut graph = Graph::new();
    for place in 0..transactions.len() {
        graph.add_node(place);
    }
    for (key, list) in &observed.lists {
        writes(&mut graph, key, list, transactions);
        reads(&mut graph, key, list, transactions);
    }
    graph
}

fn writes(graph: &mut Graph, key: &Key, list: &List, transactions: &[Transaction<'_>]) {
    for (at, pair) in list.writers.windows(2).enumerate() {
        if let [Some(earlier), Some(later)] = *pair {
            let (one, other) = (&list.order[at], &list.order[at + 1]);
            let why = format!("appended {other} to {key} right after {one}");
            add(graph, transactions, earlier, later, Kind::Write, why);
        }
    }
}

fn reads(graph: &mut Graph, key: &Key, list: &List, transactions: &[Transaction<'_>]) {
    for read in &list.reads {
        if let Some(last) = read.length.checked_sub(1)
            && let Some(writer) = list.writers[last]
        {
            let why = format!("read {} of {key}", list.order[last]);
            add(graph, transactions, writer, read.reader, Kind::WriteRead, why);
        }
        if let Some(Some(writer)) = list.writers.get(read.length) {
            let why = format!("appended {} to {key}, which had not been seen there", list.order[read.length]);
            add(graph, transactions, read.reader, *writer, Kind::ReadWrite, why);
        }
    }
}

fn add(
    graph: &mut Graph,
    transactions: &[Transaction<'_>],
    earlier: Place,
    later: Place,
    kind: Kind,
    why: String,
) {
    // A value of a failed transaction is an anomaly of its own.
    let failed = |place: Place| transactions[place].outcome == Type::Fail;
    if earlier != later && !failed(earlier) && !failed(later) {
        graph.add_edge(NodeIndex::new(earlier), NodeIndex::new(later), Dependency { kind, why });
    }
}
