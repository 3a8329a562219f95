//! What every call to the participant brings along, checked. Public for fuzzing only.

use std::time::Duration;

use bytes::Bytes;
use concord_proto::TraceContext;
use concord_proto::status::with_reason;
use concord_proto::v1::{BranchContext, Work};
use concord_protocol::{BranchId, ClusterId};
use concord_xa::Xid;
use tonic::{Code, Status};

/// The name of an action, at most.
const ACTION_MAX_BYTES: usize = 128;
/// The time allowed for work when the caller does not say.
const WORK_TIME: Duration = Duration::from_secs(30);

/// The work of a coordinator-driven branch.
#[derive(Debug, Clone)]
pub struct Job {
    /// The handler's name, from 1 to 128 bytes.
    pub action: String,
    /// Its argument.
    pub payload: Bytes,
    /// How long it may take.
    pub remaining: Duration,
    /// Where the call belongs in a trace, if it does.
    pub trace: Option<TraceContext>,
}

/// The branch that a call is about. `known`: the cluster of this participant's coordinator, once it has told.
///
/// # Errors
/// INVALID_ARGUMENT; FAILED_PRECONDITION / WRONG_CLUSTER for another coordinator's.
pub fn xid(context: Option<BranchContext>, known: Option<ClusterId>) -> Result<Xid, Status> {
    let context = context.ok_or_else(|| invalid("branch", "is missing"))?;
    let gtid = context.gtid.parse().map_err(|error| invalid("branch.gtid", &format!("is {error}")))?;
    if context.branch_id == 0 {
        return Err(invalid("branch.branch_id", "starts at 1"));
    }
    let cluster = ClusterId(context.cluster_id);
    if known.is_some_and(|known| known != cluster) {
        let message = format!("this participant belongs to another coordinator than cluster {cluster}");
        return Err(with_reason(Code::FailedPrecondition, "WRONG_CLUSTER", message));
    }
    Ok(Xid { cluster, gtid, branch: BranchId(context.branch_id) })
}

/// The work that a call brings, if it brings any. `remaining_ms`: what is left of the transaction's time; 0 when the
/// caller does not say.
///
/// # Errors
/// INVALID_ARGUMENT.
pub fn job(work: Option<Work>, remaining_ms: u32, payload_max_bytes: usize) -> Result<Option<Job>, Status> {
    let Some(work) = work else { return Ok(None) };
    if work.action.is_empty() || work.action.len() > ACTION_MAX_BYTES {
        return Err(invalid("work.action", "must have from 1 to 128 bytes"));
    }
    if work.payload.len() > payload_max_bytes {
        return Err(invalid("work.payload", &format!("is larger than {payload_max_bytes} bytes")));
    }
    let remaining = match remaining_ms {
        0 => WORK_TIME,
        ms => Duration::from_millis(ms.into()),
    };
    Ok(Some(Job { action: work.action, payload: work.payload, remaining, trace: None }))
}

pub(crate) fn invalid(field: &str, what: &str) -> Status {
    with_reason(Code::InvalidArgument, "INVALID_ARGUMENT", format!("{field} {what}"))
}
