//! A participant that agrees to everything and does nothing, but perhaps to Confirms.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use concord_participant::attach;
use concord_proto::v1::participant_server::{Participant, ParticipantServer};
use concord_proto::v1::{
    BranchOutcome, CancelRequest, CancelResponse, CommitBranchRequest, CommitBranchResponse, ConfirmRequest,
    ConfirmResponse, PrepareRequest, PrepareResponse, RollbackBranchRequest, RollbackBranchResponse,
    TryRequest, TryResponse, WorkRequest, WorkResponse,
};
use concord_sandbox::parent_gone;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::channel;

#[derive(Debug, Args)]
pub(crate) struct NoopArgs {
    #[arg(long)]
    listen: SocketAddr,
    /// Is also called on a stream that it opens to this coordinator
    #[arg(long)]
    attach_to: Vec<String>,
    /// Confirms are turned away
    #[arg(long)]
    never_confirms: bool,
}

#[derive(Clone)]
struct Noop {
    never_confirms: bool,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Participant for Noop {
    async fn r#try(&self, _: Request<TryRequest>) -> Answer<TryResponse> {
        Ok(Response::new(TryResponse { reserved: true, ..TryResponse::default() }))
    }

    async fn confirm(&self, _: Request<ConfirmRequest>) -> Answer<ConfirmResponse> {
        if self.never_confirms {
            return Err(Status::unavailable("Confirms are held back"));
        }
        let outcome = BranchOutcome::Committed.into();
        Ok(Response::new(ConfirmResponse { outcome, ..ConfirmResponse::default() }))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Answer<CancelResponse> {
        let outcome = BranchOutcome::RolledBack.into();
        Ok(Response::new(CancelResponse { outcome, ..CancelResponse::default() }))
    }

    async fn work(&self, _: Request<WorkRequest>) -> Answer<WorkResponse> {
        Err(Status::unimplemented("TCC only"))
    }

    async fn prepare(&self, _: Request<PrepareRequest>) -> Answer<PrepareResponse> {
        Err(Status::unimplemented("TCC only"))
    }

    async fn commit(&self, _: Request<CommitBranchRequest>) -> Answer<CommitBranchResponse> {
        Err(Status::unimplemented("TCC only"))
    }

    async fn rollback(&self, _: Request<RollbackBranchRequest>) -> Answer<RollbackBranchResponse> {
        Err(Status::unimplemented("TCC only"))
    }
}

pub(super) async fn serve(args: NoopArgs) -> Result<()> {
    let noop = Noop { never_confirms: args.never_confirms };
    for coordinator in args.attach_to {
        let address = format!("http://{}", args.listen);
        tokio::spawn(attach(noop.clone(), channel(&coordinator)?, address, std::future::pending()));
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ParticipantServer<Noop>>().await;
    let server = Server::builder().tcp_nodelay(true).add_service(health_service);
    server.add_service(ParticipantServer::new(noop)).serve_with_shutdown(args.listen, parent_gone()).await?;
    Ok(())
}
