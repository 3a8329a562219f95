//! The harness: real processes on real databases, clients and a nemesis; histories as Jepsen has them, and what checks
//! them.
//!
//! ```text
//!   workload ──▶ client ──▶ cluster (node: the processes; network: the links) ◀── nemesis
//!                  └───────────▶ recorder ──▶ history ◀─────────────────────────────┘
//!                                               └──▶ check, append ──▶ verdict ──▶ report
//! ```

pub mod append;
pub mod check;
mod client;
pub mod cluster;
pub mod history;
pub mod nemesis;
pub mod node;
mod recorder;
pub mod report;
pub mod run;
pub mod verdict;
pub mod workload;

/// Something that no correct system can do, and how it shows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Anomaly {
    /// Its name in the literature, such as `G1c`.
    pub name: &'static str,
    /// What was seen, for people: the operations, the keys, the cycle.
    pub explanation: String,
}
