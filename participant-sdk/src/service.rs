//! The `Participant` gRPC service: checks what comes in, and passes it on.

use std::sync::Arc;

use bytes::Bytes;
use concord_crash_points::crash_point;
use concord_proto::TraceContext;
use concord_proto::status::with_reason;
use concord_proto::v1::participant_server::Participant as Service;
use concord_proto::v1::{
    BranchContext, BranchOutcome, CancelRequest, CancelResponse, CommitBranchRequest, CommitBranchResponse,
    ConfirmRequest, ConfirmResponse, PrepareRequest, PrepareResponse, RollbackBranchRequest,
    RollbackBranchResponse, TryRequest, TryResponse, Vote, Work, WorkRequest, WorkResponse,
};
use concord_xa::Xid;
use tonic::{Code, Request, Response, Status};
use tracing::{Instrument as _, Span};

use crate::door::{self, Job};
use crate::link::Link;
use crate::participant::{Answer, Ending, Unsettled, Xa};
use crate::tcc::{Finished, Key, Tcc, Tried};
use crate::trace::span;

/// Reasons for people are cut to this many bytes.
const REASON_MAX_BYTES: usize = 1_024;

/// The service that the coordinator calls. Cheap to clone.
#[derive(Clone)]
pub struct ParticipantService {
    pub(crate) xa: Option<Arc<Xa>>,
    pub(crate) tcc: Arc<Tcc>,
    pub(crate) link: Arc<Link>,
    pub(crate) payload_max_bytes: usize,
}

impl ParticipantService {
    fn xa(&self) -> Result<Arc<Xa>, Status> {
        let xa = self.xa.as_ref().map(Arc::clone);
        xa.ok_or_else(|| with_reason(Code::Unimplemented, "XA_NOT_SUPPORTED", NO_XA))
    }

    /// For a TCC call.
    fn tcc(&self, context: Option<BranchContext>) -> Result<(Arc<Tcc>, Key), Status> {
        if !self.tcc.is_possible() {
            let message = "this participant has no TCC branches: it was built without tcc() and tcc_on()";
            return Err(with_reason(Code::Unimplemented, "TCC_NOT_SUPPORTED", message));
        }
        let Xid { gtid, branch, .. } = self.xid(context)?;
        Ok((Arc::clone(&self.tcc), Key { gtid, branch }))
    }

    fn xid(&self, context: Option<BranchContext>) -> Result<Xid, Status> {
        door::xid(context, self.link.cluster())
    }

    /// Of a call that must bring work.
    fn required_job(
        &self,
        work: Option<Work>,
        remaining_ms: u32,
        trace: &Option<TraceContext>,
    ) -> Result<Job, Status> {
        self.job(work, remaining_ms, trace)?.ok_or_else(|| door::invalid("work", "is missing"))
    }

    fn job(
        &self,
        work: Option<Work>,
        remaining_ms: u32,
        trace: &Option<TraceContext>,
    ) -> Result<Option<Job>, Status> {
        let job = door::job(work, remaining_ms, self.payload_max_bytes)?;
        Ok(job.map(|job| Job { trace: trace.clone(), ..job }))
    }

    /// Runs a call to its end even if the caller goes away: a branch is not cut off half-way because a
    /// network was slow, and a repeated call finds the result.
    async fn to_the_end<T: Send + 'static>(
        &self,
        span: Span,
        call: impl Future<Output = Result<T, Unsettled>> + Send + 'static,
    ) -> Result<T, Status> {
        match tokio::spawn(call.instrument(span)).await {
            Ok(result) => result.map_err(unsettled),
            Err(error) => Err(with_reason(Code::Internal, "PARTICIPANT_FAILED", error.to_string())),
        }
    }
}

fn unsettled(Unsettled(reason): Unsettled) -> Status {
    with_reason(Code::Unavailable, "OUTCOME_UNKNOWN", reason)
}

/// Why a call for an XA branch is turned away.
pub(crate) const NO_XA: &str = "this participant has no XA branches: it was built without database()";

pub(crate) fn cut(mut reason: String) -> String {
    if reason.len() > REASON_MAX_BYTES {
        let end = (0..=REASON_MAX_BYTES).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason.truncate(end);
    }
    reason
}

#[tonic::async_trait]
impl Service for ParticipantService {
    async fn work(&self, request: Request<WorkRequest>) -> Result<Response<WorkResponse>, Status> {
        crash_point!("participant/received/Work");
        let trace = TraceContext::of(request.metadata());
        let request = request.into_inner();
        let xid = self.xid(request.branch)?;
        let job = self.required_job(request.work, request.remaining_ms, &trace)?;
        let core = self.xa()?;
        let repeated = request.repeated_call;
        let span = span("work", (xid.gtid, xid.branch), trace.as_ref());
        let answer = self.to_the_end(span, async move { core.work(xid, job, repeated).await }).await?;
        crash_point!("participant/answer/Work");
        Ok(Response::new(match answer {
            Answer::Yes { reply } | Answer::ReadOnly { reply } => {
                WorkResponse { done: true, reason: String::new(), reply }
            }
            Answer::No { reason } => {
                WorkResponse { done: false, reason: cut(reason), reply: Default::default() }
            }
        }))
    }

    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        crash_point!("participant/received/Prepare");
        let trace = TraceContext::of(request.metadata());
        let request = request.into_inner();
        let xid = self.xid(request.branch)?;
        let job = self.job(request.work, request.remaining_ms, &trace)?;
        let core = self.xa()?;
        let repeated = request.repeated_call;
        let span = span("prepare", (xid.gtid, xid.branch), trace.as_ref());
        let answer = self.to_the_end(span, async move { core.prepare(xid, job, repeated).await }).await?;
        let (vote, reason, reply) = match answer {
            Answer::Yes { reply } => (Vote::Yes, String::new(), reply),
            Answer::ReadOnly { reply } => (Vote::ReadOnly, String::new(), reply),
            Answer::No { reason } => (Vote::No, cut(reason), Default::default()),
        };
        crash_point!("participant/answer/Prepare");
        Ok(Response::new(PrepareResponse { vote: vote.into(), reason, reply }))
    }

    async fn commit(
        &self,
        request: Request<CommitBranchRequest>,
    ) -> Result<Response<CommitBranchResponse>, Status> {
        crash_point!("participant/received/Commit");
        let trace = TraceContext::of(request.metadata());
        let request = request.into_inner();
        let xid = self.xid(request.branch)?;
        let core = self.xa()?;
        let span = span("commit", (xid.gtid, xid.branch), trace.as_ref());
        let ending = if request.one_phase {
            let job = self.job(request.work, request.remaining_ms, &trace)?;
            self.to_the_end(span, async move { core.commit_one_phase(xid, job).await }).await?
        } else {
            core.commit(xid).instrument(span).await.map_err(unsettled)?
        };
        let (outcome, reason, reply) = match ending {
            // Of a two-phase branch the coordinator has had the reply with the vote.
            Ending::Committed { reply } if request.one_phase => {
                (BranchOutcome::Committed, String::new(), reply)
            }
            Ending::Committed { .. } => (BranchOutcome::Committed, String::new(), Default::default()),
            Ending::RolledBack { reason } => (BranchOutcome::RolledBack, cut(reason), Default::default()),
        };
        crash_point!("participant/answer/Commit");
        Ok(Response::new(CommitBranchResponse { outcome: outcome.into(), reason, reply }))
    }

    async fn rollback(
        &self,
        request: Request<RollbackBranchRequest>,
    ) -> Result<Response<RollbackBranchResponse>, Status> {
        crash_point!("participant/received/Rollback");
        let trace = TraceContext::of(request.metadata());
        let xid = self.xid(request.into_inner().branch)?;
        let span = span("rollback", (xid.gtid, xid.branch), trace.as_ref());
        let (outcome, reply) = match self.xa()?.rollback(xid).instrument(span).await.map_err(unsettled)? {
            Ending::Committed { reply } => (BranchOutcome::Committed, reply),
            Ending::RolledBack { .. } => (BranchOutcome::RolledBack, Default::default()),
        };
        crash_point!("participant/answer/Rollback");
        Ok(Response::new(RollbackBranchResponse { outcome: outcome.into(), reply }))
    }

    async fn r#try(&self, request: Request<TryRequest>) -> Result<Response<TryResponse>, Status> {
        crash_point!("participant/received/Try");
        let trace = TraceContext::of(request.metadata());
        let request = request.into_inner();
        let (tcc, key) = self.tcc(request.branch)?;
        let job = self.required_job(request.work, request.remaining_ms, &trace)?;
        let span = span("try", (key.gtid, key.branch), trace.as_ref());
        let tried = self.to_the_end(span, async move { tcc.attempt(key, job).await }).await?;
        crash_point!("participant/answer/Try");
        Ok(Response::new(match tried {
            Tried::Reserved { reply } => TryResponse { reserved: true, reason: String::new(), reply },
            Tried::Refused { reason } => {
                TryResponse { reserved: false, reason: cut(reason), reply: Default::default() }
            }
        }))
    }

    async fn confirm(&self, request: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        crash_point!("participant/received/Confirm");
        let trace = TraceContext::of(request.metadata());
        let request = request.into_inner();
        let (tcc, key) = self.tcc(request.branch)?;
        let job = self.required_job(request.work, 0, &trace)?;
        let span = span("confirm", (key.gtid, key.branch), trace.as_ref());
        let finished = self.to_the_end(span, async move { tcc.confirm(key, job).await }).await?;
        let (outcome, reason, reply) = parts(finished);
        crash_point!("participant/answer/Confirm");
        Ok(Response::new(ConfirmResponse { outcome: outcome.into(), reason, reply }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        crash_point!("participant/received/Cancel");
        let trace = TraceContext::of(request.metadata());
        let request = request.into_inner();
        let (tcc, key) = self.tcc(request.branch)?;
        let job = self.required_job(request.work, 0, &trace)?;
        let span = span("cancel", (key.gtid, key.branch), trace.as_ref());
        let finished = self.to_the_end(span, async move { tcc.cancel(key, job).await }).await?;
        let (outcome, reason, _) = parts(finished);
        crash_point!("participant/answer/Cancel");
        Ok(Response::new(CancelResponse { outcome: outcome.into(), reason }))
    }
}

fn parts(finished: Finished) -> (BranchOutcome, String, Bytes) {
    match finished {
        Finished::Confirmed { reply } => (BranchOutcome::Committed, String::new(), reply),
        Finished::Cancelled { reason } => (BranchOutcome::RolledBack, cut(reason), Bytes::new()),
        Finished::Refused { reason } => (BranchOutcome::Refused, cut(reason), Bytes::new()),
    }
}
