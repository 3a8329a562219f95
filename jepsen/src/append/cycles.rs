//! Cycles of dependencies, each with the mildest name that fits.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Write as _;

use petgraph::algo::tarjan_scc;
use petgraph::graph::{EdgeIndex, EdgeReference, NodeIndex};
use petgraph::visit::EdgeRef as _;

use super::graph::{Graph, Kind};
use super::transaction::Transaction;
use crate::Anomaly;

/// Finds cycles: for each dependency in a knot the shortest way back, under the strictest name that it deserves.
pub(super) fn find(transactions: &[Transaction<'_>], graph: &Graph) -> Vec<Anomaly> {
    let mut anomalies = Vec::new();
    for knot in tarjan_scc(graph).into_iter().filter(|knot| knot.len() > 1) {
        let knot: HashSet<NodeIndex> = knot.into_iter().collect();
        let mut told = HashSet::new();
        let inside =
            |edge: &EdgeReference<'_, _>| knot.contains(&edge.source()) && knot.contains(&edge.target());
        for edge in graph.edge_references().filter(inside) {
            let Some((name, cycle)) = cycle_of(graph, &knot, edge) else { continue };
            let mut members: Vec<_> = cycle.clone();
            members.sort_unstable();
            if told.insert((name, members)) {
                anomalies.push(Anomaly { name, explanation: explain(transactions, graph, &cycle) });
            }
        }
    }
    anomalies
}

/// The shortest cycle through an edge, of the kinds that the edge's own kind allows.
fn cycle_of(
    graph: &Graph,
    knot: &HashSet<NodeIndex>,
    edge: EdgeReference<'_, super::graph::Dependency>,
) -> Option<(&'static str, Vec<EdgeIndex>)> {
    let tries: &[(&'static str, &[Kind])] = match edge.weight().kind {
        Kind::Write => &[("G0", &[Kind::Write])],
        Kind::WriteRead => &[("G1c", &[Kind::Write, Kind::WriteRead])],
        Kind::ReadWrite => &[
            ("G-single", &[Kind::Write, Kind::WriteRead]),
            ("G2", &[Kind::Write, Kind::WriteRead, Kind::ReadWrite]),
        ],
    };
    tries.iter().find_map(|(name, kinds)| {
        let back = way(graph, knot, edge.target(), edge.source(), kinds)?;
        Some((*name, std::iter::once(edge.id()).chain(back).collect()))
    })
}

/// The shortest way from one to another over edges of these kinds.
fn way(
    graph: &Graph,
    knot: &HashSet<NodeIndex>,
    from: NodeIndex,
    to: NodeIndex,
    kinds: &[Kind],
) -> Option<Vec<EdgeIndex>> {
    let mut came_by: HashMap<NodeIndex, EdgeIndex> = HashMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        if node == to {
            let mut way = Vec::new();
            let mut at = to;
            while at != from {
                let edge = came_by[&at];
                way.push(edge);
                at = graph.edge_endpoints(edge)?.0;
            }
            way.reverse();
            return Some(way);
        }
        for edge in graph.edges(node).filter(|edge| kinds.contains(&edge.weight().kind)) {
            let next = edge.target();
            if next != from && knot.contains(&next) && !came_by.contains_key(&next) {
                came_by.insert(next, edge.id());
                queue.push_back(next);
            }
        }
    }
    None
}

fn explain(transactions: &[Transaction<'_>], graph: &Graph, cycle: &[EdgeIndex]) -> String {
    let mut text = String::new();
    let ends = |edge: EdgeIndex| graph.edge_endpoints(edge).map(|(one, other)| (graph[one], graph[other]));
    for (one, _) in cycle.iter().filter_map(|edge| ends(*edge)) {
        let _ = writeln!(text, "{}", transactions[one].story());
    }
    for edge in cycle {
        if let (Some((one, other)), Some(dependency)) = (ends(*edge), graph.edge_weight(*edge)) {
            let (one, other) = (transactions[one].name(), transactions[other].name());
            let _ = writeln!(text, "{one} comes before {other}, because {other} {}", dependency.why);
        }
    }
    text.push_str("so none of them can have come first");
    text
}
