//! The harness's parts: histories as Jepsen has them, and what checks them.

pub mod append;
pub mod history;
pub mod report;
pub mod verdict;

/// Something that no correct system can do, and how it shows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Anomaly {
    /// Its name in the literature, such as `G1c`.
    pub name: &'static str,
    /// What was seen, for people: the operations, the keys, the cycle.
    pub explanation: String,
}
