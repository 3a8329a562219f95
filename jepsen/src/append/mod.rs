//! The checker of list-append histories, after Elle (Kingsbury and Alvaro, VLDB 2020): lists that grow show in which
//! order they grew, and with it how transactions depend on each other. A serializable history has no cycle of
//! dependencies; which cycle there is says which anomaly of Adya's it is (Adya, Liskov, O'Neil, ICDE 2000).
//!
//! | anomaly | what was seen |
//! |---|---|
//! | `internal` | a transaction that does not see what itself has read or appended |
//! | `duplicate` | a value that was appended once and is there twice |
//! | `phantom` | a value that nobody has appended |
//! | `G1a` | a value of a transaction that failed |
//! | `G1b` | a value that its transaction has appended to again, without what came after it |
//! | `incompatible-order` | two reads of a list of which neither is the beginning of the other |
//! | `lost-append` | a read that began after an append was acknowledged, and does not see it |
//! | `G0` | a cycle of writes |
//! | `G1c` | a cycle of writes and of reads of what was written |
//! | `G-single` | a cycle with one read of what is overwritten by the next (read skew, lost update) |
//! | `G2` | a cycle with several of them (write skew) |

mod cycles;
mod graph;
mod observed;
mod transaction;

use crate::Anomaly;
use crate::history::{Operation, Type};

pub use transaction::BadTransaction;
pub(crate) use transaction::{Step, steps};

/// What a history has in it, and what is wrong with it.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Transactions that were acknowledged.
    pub ok: usize,
    /// Transactions that failed.
    pub failed: usize,
    /// Transactions whose outcome nobody was told.
    pub unknown: usize,
    /// Lists.
    pub keys: usize,
    /// Dependencies between transactions.
    pub dependencies: usize,
    /// At most [`EACH`] of each name.
    pub anomalies: Vec<Anomaly>,
}

/// So many anomalies of one name are explained.
pub const EACH: usize = 8;

/// Checks a history whose operations `:txn` append to lists and read them. Other operations are left out.
///
/// # Errors
/// [`BadTransaction`] when an operation is not what this checker understands, or a value is appended to a list twice.
pub fn check(history: &[Operation]) -> Result<Verdict, BadTransaction> {
    let transactions = transaction::of_history(history)?;
    let observed = observed::observe(&transactions);
    let graph = graph::of(&transactions, &observed);
    let count = |outcome| transactions.iter().filter(|one| one.outcome == outcome).count();
    let mut verdict = Verdict {
        ok: count(Type::Ok),
        failed: count(Type::Fail),
        unknown: count(Type::Info),
        keys: observed.keys(),
        dependencies: graph.edge_count(),
        anomalies: Vec::new(),
    };
    for anomaly in observed.anomalies.into_iter().chain(cycles::find(&transactions, &graph)) {
        if verdict.anomalies.iter().filter(|one| one.name == anomaly.name).count() < EACH {
            verdict.anomalies.push(anomaly);
        }
    }
    Ok(verdict)
}
