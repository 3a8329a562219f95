//! Which trace a call belongs to, and what log lines about a branch carry.

use concord_proto::TraceContext;
use concord_protocol::{BranchId, Gtid};
use tonic::Request;
use tracing::field::display;
use tracing::{Span, error_span};

/// The span in which something is done about a branch: its own log lines and those of its handlers carry the fields.
/// At the level of errors, so that every filter which lets a line through lets this through too.
pub(crate) fn span(
    verb: &'static str,
    (gtid, branch): (Gtid, BranchId),
    trace: Option<&TraceContext>,
) -> Span {
    let trace_id = trace.map(|trace| display(trace.trace_id()));
    error_span!("branch", %gtid, branch_id = %branch, trace_id, verb)
}

/// A request that carries it.
pub(crate) fn traced<T>(message: T, trace: Option<&TraceContext>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(trace) = trace {
        trace.add_to(request.metadata_mut());
    }
    request
}
