//! A participant without a database, in the test's own process: it does what it is told, or waits before that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use concord_proto::v1::participant_server::{Participant, ParticipantServer};
pub(super) use concord_proto::v1::*;
use concord_sandbox::Address;
pub(super) use concord_tests::{Coordinator, CoordinatorOptions, Programs, until};
pub(super) use tempfile::TempDir;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

pub(super) const PROGRAMS: Programs = concord_tests::programs!();

/// Answers every call as the coordinator hopes, as soon as the door for it is open.
#[derive(Clone)]
pub(super) struct Stub {
    address: Arc<Address>,
    votes: Arc<watch::Sender<bool>>,
    endings: Arc<watch::Sender<bool>>,
    prepares: Arc<AtomicU64>,
    commits: Arc<AtomicU64>,
}

impl Stub {
    /// Serves until the test's runtime ends.
    pub(super) async fn start() -> Stub {
        let address = Arc::new(Address::reserve().unwrap());
        let listener = tokio::net::TcpListener::bind(address.socket()).await.unwrap();
        let door = || Arc::new(watch::Sender::new(true));
        let (votes, endings) = (door(), door());
        let stub = Stub { address, votes, endings, prepares: Arc::default(), commits: Arc::default() };
        let server = tonic::transport::Server::builder().add_service(ParticipantServer::new(stub.clone()));
        tokio::spawn(server.serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)));
        stub
    }

    pub(super) fn url(&self) -> String {
        self.address.url()
    }

    /// Lets calls pass, or keeps them waiting.
    pub(super) fn open(&self, open: bool) {
        self.votes.send_replace(open);
        self.endings.send_replace(open);
    }

    /// Lets it vote, and no more.
    pub(super) fn let_votes_pass(&self) {
        self.votes.send_replace(true);
    }

    /// Waits until it was asked to prepare so often.
    pub(super) async fn asked(&self, prepares: u64) {
        let seen = async || Ok((self.prepares.load(Ordering::SeqCst) >= prepares).then_some(()));
        until("the stub is asked to prepare", seen).await.unwrap();
    }

    /// Waits until it was told to commit so often.
    pub(super) async fn told(&self, commits: u64) {
        let seen = async || Ok((self.commits.load(Ordering::SeqCst) >= commits).then_some(()));
        until("the stub is told to commit", seen).await.unwrap();
    }

    /// Two branches of it.
    pub(super) fn request(&self) -> ExecuteRequest {
        let branch = BranchRequest {
            kind: BranchKind::Xa.into(),
            participant: self.url(),
            action: "anything".into(),
            payload: Default::default(),
        };
        ExecuteRequest { branches: vec![branch.clone(), branch], ..ExecuteRequest::default() }
    }

    async fn pass(door: &watch::Sender<bool>) {
        // The sender is there as long as the reference.
        door.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

fn unused<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl Participant for Stub {
    async fn prepare(&self, _: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        self.prepares.fetch_add(1, Ordering::SeqCst);
        Self::pass(&self.votes).await;
        Ok(Response::new(PrepareResponse { vote: Vote::Yes.into(), ..Default::default() }))
    }

    async fn commit(
        &self,
        _: Request<CommitBranchRequest>,
    ) -> Result<Response<CommitBranchResponse>, Status> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        Self::pass(&self.endings).await;
        let outcome = BranchOutcome::Committed.into();
        Ok(Response::new(CommitBranchResponse { outcome, ..Default::default() }))
    }

    async fn rollback(
        &self,
        _: Request<RollbackBranchRequest>,
    ) -> Result<Response<RollbackBranchResponse>, Status> {
        Self::pass(&self.endings).await;
        let outcome = BranchOutcome::RolledBack.into();
        Ok(Response::new(RollbackBranchResponse { outcome, ..Default::default() }))
    }

    async fn work(&self, _: Request<WorkRequest>) -> Result<Response<WorkResponse>, Status> {
        unused()
    }

    async fn r#try(&self, _: Request<TryRequest>) -> Result<Response<TryResponse>, Status> {
        unused()
    }

    async fn confirm(&self, _: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        unused()
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        unused()
    }
}
