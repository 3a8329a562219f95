//! The engine's view of participants: someone who can be called. The transport implements it over gRPC.

use std::sync::Arc;

use bytes::Bytes;
use concord_proto::TraceContext;
use concord_protocol::{BranchId, Gtid, Reply, Verb};
use futures_util::future::BoxFuture;

/// One call to one branch.
#[derive(Debug, Clone)]
pub struct BranchCall {
    /// Whose branch.
    pub gtid: Gtid,
    /// Which branch.
    pub branch: BranchId,
    /// Where the participant listens.
    pub participant: Arc<str>,
    /// What to ask.
    pub verb: Verb,
    /// The handler, for verbs that work.
    pub action: Arc<str>,
    /// Its argument, for verbs that work.
    pub payload: Bytes,
    /// Whether an earlier phase-one call may have arrived.
    pub repeated: bool,
    /// Milliseconds until the transaction times out.
    pub remaining_ms: u32,
    /// Where the call belongs in the trace of its transaction, if that has one.
    pub trace: Option<TraceContext>,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct CallResult {
    /// For the protocol.
    pub reply: Reply,
    /// Why it refused or failed; empty otherwise.
    pub reason: String,
    /// What the handler answered.
    pub payload: Bytes,
}

impl CallResult {
    /// A call that has no answer.
    pub fn failed(maybe_arrived: bool, reason: impl Into<String>) -> Self {
        CallResult { reply: Reply::Failed { maybe_arrived }, reason: reason.into(), payload: Bytes::new() }
    }
}

/// Who can be called.
pub trait Participants: Send + Sync + 'static {
    /// Makes the call, perhaps not at once, and answers within the call time-out after that whatever happens.
    fn call(&self, call: BranchCall) -> BoxFuture<'static, CallResult>;

    /// Whether a participant at this address may be called at all.
    fn permits(&self, participant: &str) -> bool;
}
