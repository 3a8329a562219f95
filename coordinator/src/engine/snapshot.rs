//! A transaction as it is shown to callers and operators.

use std::sync::Arc;

use bytes::Bytes;
use concord_protocol::{BranchId, BranchState, Gtid, State};

use crate::store::UnixMillis;

/// How phase one is asked for; shown and recorded, decided in the protocol.
pub use concord_protocol::{Grade, Kind};

/// What the initiator said when it began.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// For people.
    pub name: String,
    /// Milliseconds until an undecided transaction is rolled back.
    pub timeout_ms: u32,
    /// How phase one is done.
    pub grade: Grade,
    /// It outlives its coordinator while it is open.
    pub stays_open: bool,
    /// Empty: none.
    pub idempotency_key: String,
    /// SHA-256 of the request; empty without a key.
    pub content_hash: Vec<u8>,
    /// When it began.
    pub begun_at: UnixMillis,
    /// Whose it is; empty: nobody's in particular.
    pub tenant: String,
}

/// What identifies a branch to its participant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchSpec {
    /// Which protocol it follows.
    pub kind: Kind,
    /// Where the participant listens.
    pub participant: Arc<str>,
    /// The handler's name; empty for an XA branch that the participant registered by itself.
    pub action: Arc<str>,
    /// Chosen by the participant when it registered by itself; else empty.
    pub registration_key: Box<str>,
}

/// A transaction at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Which.
    pub gtid: Gtid,
    /// What the initiator said.
    pub header: Header,
    /// How far it has come.
    pub state: State,
    /// Whether a branch waits for an operator.
    pub parked: bool,
    /// Whether a branch ended against the decision.
    pub heuristic: bool,
    /// Why it was rolled back or parked.
    pub reason: String,
    /// In the order of their ids.
    pub branches: Vec<BranchSnapshot>,
    /// When the decision became durable.
    pub decided_at: Option<UnixMillis>,
    /// When the last branch ended.
    pub ended_at: Option<UnixMillis>,
}

/// A branch at one moment.
#[derive(Debug, Clone)]
pub struct BranchSnapshot {
    /// Which.
    pub id: BranchId,
    /// Who.
    pub spec: BranchSpec,
    /// How far it has come.
    pub state: BranchState,
    /// Whether it waits for an operator.
    pub parked: bool,
    /// Calls to it that have failed, in this life of the coordinator; once it has ended, in the life in which it did.
    pub attempts: u32,
    /// When it is called next, where that is planned.
    pub next_attempt_at: Option<UnixMillis>,
    /// What the last call that was not as hoped said.
    pub last_error: String,
    /// What its handler answered.
    pub reply: Bytes,
}
