//! A participant without a database, in the test's own process, that agrees to whatever it is asked.

use concord_proto::v1::participant_server::Participant;
use concord_proto::v1::*;
use tonic::{Request, Response, Status};

/// Votes yes, and ends its branches as it is told.
#[derive(Debug, Clone, Copy)]
pub struct Agreeable;

#[tonic::async_trait]
impl Participant for Agreeable {
    async fn work(&self, _: Request<WorkRequest>) -> Result<Response<WorkResponse>, Status> {
        Ok(Response::new(WorkResponse { done: true, ..Default::default() }))
    }

    async fn prepare(&self, _: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        Ok(Response::new(PrepareResponse { vote: Vote::Yes.into(), ..Default::default() }))
    }

    async fn commit(
        &self,
        _: Request<CommitBranchRequest>,
    ) -> Result<Response<CommitBranchResponse>, Status> {
        let outcome = BranchOutcome::Committed.into();
        Ok(Response::new(CommitBranchResponse { outcome, ..Default::default() }))
    }

    async fn rollback(
        &self,
        _: Request<RollbackBranchRequest>,
    ) -> Result<Response<RollbackBranchResponse>, Status> {
        let outcome = BranchOutcome::RolledBack.into();
        Ok(Response::new(RollbackBranchResponse { outcome, ..Default::default() }))
    }

    async fn r#try(&self, _: Request<TryRequest>) -> Result<Response<TryResponse>, Status> {
        Ok(Response::new(TryResponse { reserved: true, ..Default::default() }))
    }

    async fn confirm(&self, _: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        let outcome = BranchOutcome::Committed.into();
        Ok(Response::new(ConfirmResponse { outcome, ..Default::default() }))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let outcome = BranchOutcome::RolledBack.into();
        Ok(Response::new(CancelResponse { outcome, ..Default::default() }))
    }
}
