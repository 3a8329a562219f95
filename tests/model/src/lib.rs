//! The protocol core under a model checker: the very crate that runs in production, one coordinator around it or
//! two, up to three participants as the SDK's contract has them, and a network and a log that do their worst.
//! Every order of events within the bounds of a [`Configuration`] is explored.
//!
//! ```text
//!   initiator ──Commit, Rollback──▶ Transaction ◀──replies── network ◀──▶ participants
//!                                    │      ▲                (lost, late,     (crash)
//!                                  Append  Logged             repeated,
//!                                    ▼      │                 in any order)
//!                                   log: synced │ lost in a crash, from any record on
//! ```
//!
//! # Two coordinators
//!
//! On a shared store another coordinator may take over while the first goes on, because it was paused or cut off and
//! does not know. The first is *late* from then on: its timers fire, its calls arrive and are answered, clients and
//! participants ask it for things, and what it tells counts as if the owner had told it. The store refuses what it
//! appends. Of what it appended before and the owner has found, it may hear at any later time that it is durable. It
//! ends at any moment.
//!
//! # What is checked
//!
//! In every state: [`Claim`]. From every state: that without further faults everything ends, and ends well
//! (`resolution`). A property of the kind "eventually" of the checker's own would be fooled by cycles and by states
//! that it reaches on two ways.
//!
//! # What keeps it small
//!
//! - States that differ only in which of two like branches is which are one state (`digest`).
//! - What cannot matter any more is dropped: late answers to phase one, stale timers, calls to a branch that has
//!   ended, and the log's records once no crash is left that could lose them.
//! - A lost reply is not a fault of its own: it is a call that the coordinator gives up and that arrives all the
//!   same.
//! - A late coordinator that can do nothing any more is taken for one that has ended.
//! - Faults are counted, and each configuration has so many of each kind ([`Faults`]).
//!
//! # What it leaves out
//!
//! More than one late coordinator at a time, the sessions and locks of a real database, the engine's own code
//! (idempotency keys, listing, payloads). States are told apart by 64-bit hashes.

mod action;
mod check;
mod claim;
mod configuration;
mod coordinator;
mod digest;
mod extent;
mod hunt;
mod log;
mod message;
mod mutant;
mod participant;
mod resolution;
mod trace;
mod world;

pub use check::{Report, check};
pub use claim::Claim;
pub use configuration::{Configuration, Faults, Mode};
pub use extent::{Extent, configurations};
pub use hunt::hunt;
pub use mutant::Mutant;
pub use trace::Trace;
