//! A coordinator that coordinates nothing: for a TCC transaction it makes the same calls as Concord, with the same
//! messages, and appends as many bytes to a file, durably, at the same places. No state machine, no recovery, nobody
//! who could ask what became of a transaction: what is left is gRPC and the disk.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Result;
use clap::Args;
use concord_proto::store::{Begun, BranchSpec, Decided, record::Kind};
use concord_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use concord_proto::v1::operator_server::{Operator, OperatorServer};
use concord_proto::v1::participant_client::ParticipantClient;
use concord_proto::v1::{
    BeginRequest, BeginResponse, Branch, BranchContext, BranchKind, BranchOutcome, BranchRequest,
    BranchState, CommitRequest, CommitResponse, ConfirmRequest, DrainRequest, DrainResponse, ExecuteRequest,
    ExecuteResponse, GetRequest, GetResponse, GetStatusRequest, GetStatusResponse, InquireRequest,
    InquireResponse, ListInDoubtRequest, ListInDoubtResponse, ListParticipantsRequest,
    ListParticipantsResponse, ListRequest, ListResourcesRequest, ListResourcesResponse, ListResponse,
    ParkRequest, ParkResponse, RegisterBranchRequest, RegisterBranchResponse, ReportVoteRequest,
    ReportVoteResponse, ResolveRequest, ResolveResponse, RetryRequest, RetryResponse, RollbackRequest,
    RollbackResponse, Transaction, TransactionState, TryRequest, WatchRequest, WatchResponse, Work,
};
use concord_protocol::{Epoch, Gtid};
use concord_sandbox::parent_gone;
use futures_util::future::try_join;
use tokio_stream::Empty;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use super::append_log::{AppendLog, encoded};
use crate::load::{histogram, ms};
use crate::service::channel;

/// Concord's default, which the request leaves to it.
const TIMEOUT_MS: u32 = 30_000;

#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    #[arg(long)]
    listen: SocketAddr,
    /// Where to append
    #[arg(long)]
    file: PathBuf,
    /// The two that are called
    #[arg(long, num_args = 2)]
    participants: Vec<String>,
}

/// Serves until the process that started this one is gone.
pub(crate) async fn serve(args: EchoArgs) -> Result<()> {
    let log = Arc::new(AppendLog::create(&args.file)?);
    // As Concord does: one connection to each participant.
    let clients: Result<Vec<_>> =
        args.participants.iter().map(|url| Ok(ParticipantClient::new(channel(url)?))).collect();
    let participants =
        <[_; 2]>::try_from(clients?).ok().ok_or_else(|| anyhow::anyhow!("two participants"))?;
    let echo = Echo { participants, log: Arc::clone(&log), transactions: AtomicU64::new(1) };
    Server::builder()
        .tcp_nodelay(true)
        .add_service(CoordinatorServer::new(echo))
        .add_service(OperatorServer::new(Counter { log }))
        .serve_with_shutdown(args.listen, parent_gone())
        .await?;
    Ok(())
}

struct Echo {
    participants: [ParticipantClient<Channel>; 2],
    log: Arc<AppendLog>,
    transactions: AtomicU64,
}

type Answer<T> = Result<Response<T>, Status>;

/// Of one branch.
#[derive(Clone)]
struct Call {
    branch: Option<BranchContext>,
    work: Option<Work>,
}

impl Call {
    fn new(gtid: &str, number: u32, request: &BranchRequest) -> Call {
        let branch = BranchContext { gtid: gtid.to_owned(), branch_id: number, cluster_id: u64::MAX };
        let work = Work { action: request.action.clone(), payload: request.payload.clone() };
        Call { branch: Some(branch), work: Some(work) }
    }

    async fn reserve(self, mut participant: ParticipantClient<Channel>) -> Result<(), Status> {
        let request = TryRequest { branch: self.branch, work: self.work, remaining_ms: TIMEOUT_MS };
        match participant.r#try(request).await?.into_inner().reserved {
            true => Ok(()),
            false => Err(Status::internal("refused")),
        }
    }

    async fn confirm(self, mut participant: ParticipantClient<Channel>) -> Result<(), Status> {
        let request = ConfirmRequest { branch: self.branch, work: self.work };
        match participant.confirm(request).await?.into_inner().outcome() {
            BranchOutcome::Committed => Ok(()),
            other => Err(Status::internal(format!("{other:?}"))),
        }
    }
}

impl Echo {
    async fn append(&self, kind: Kind) -> Result<(), Status> {
        self.log.append(encoded(kind)).await.map_err(|error| Status::internal(error.to_string()))
    }
}

fn begun(branches: &[BranchRequest]) -> Kind {
    let spec = |(request, branch_id): (&BranchRequest, u32)| BranchSpec {
        branch_id,
        kind: request.kind,
        participant: request.participant.clone(),
        action: request.action.clone(),
        registration_key: String::new(),
        payload: request.payload.clone(),
    };
    let branches = branches.iter().zip(1..).map(spec).collect();
    Kind::Begun(Begun { timeout_ms: TIMEOUT_MS, branches, ..Begun::default() })
}

fn committed(gtid: String, branches: &[BranchRequest]) -> ExecuteResponse {
    let branch = |(request, branch_id): (&BranchRequest, u32)| Branch {
        branch_id,
        kind: BranchKind::Tcc.into(),
        participant: request.participant.clone(),
        action: request.action.clone(),
        state: BranchState::Committed.into(),
        ..Branch::default()
    };
    let replies = vec![Default::default(); branches.len()];
    let branches = branches.iter().zip(1..).map(branch).collect();
    let state = TransactionState::Committed.into();
    let transaction = Transaction { gtid, state, branches, timeout_ms: TIMEOUT_MS, ..Transaction::default() };
    ExecuteResponse { transaction: Some(transaction), replies }
}

fn unimplemented<T>() -> Answer<T> {
    Err(Status::unimplemented("an echo"))
}

#[tonic::async_trait]
impl Coordinator for Echo {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Answer<ExecuteResponse> {
        let branches = request.into_inner().branches;
        let [first, second] = branches.as_slice() else {
            return Err(Status::invalid_argument("two branches"));
        };
        // Only its length matters.
        let number = self.transactions.fetch_add(1, Ordering::Relaxed);
        let gtid = Gtid::compose(1_700_000_000_000, Epoch(1), number).to_string();
        let [one, other] = [Call::new(&gtid, 1, first), Call::new(&gtid, 2, second)];
        let [a, b] = &self.participants;
        self.append(begun(&branches)).await?;
        try_join(one.clone().reserve(a.clone()), other.clone().reserve(b.clone())).await?;
        let decided = Decided { commit: true, branches: vec![1, 2], reason: String::new() };
        self.append(Kind::Decided(decided)).await?;
        try_join(one.confirm(a.clone()), other.confirm(b.clone())).await?;
        Ok(Response::new(committed(gtid, &branches)))
    }

    type WatchStream = Empty<Result<WatchResponse, Status>>;

    async fn begin(&self, _: Request<BeginRequest>) -> Answer<BeginResponse> {
        unimplemented()
    }
    async fn register_branch(&self, _: Request<RegisterBranchRequest>) -> Answer<RegisterBranchResponse> {
        unimplemented()
    }
    async fn report_vote(&self, _: Request<ReportVoteRequest>) -> Answer<ReportVoteResponse> {
        unimplemented()
    }
    async fn commit(&self, _: Request<CommitRequest>) -> Answer<CommitResponse> {
        unimplemented()
    }
    async fn rollback(&self, _: Request<RollbackRequest>) -> Answer<RollbackResponse> {
        unimplemented()
    }
    async fn get(&self, _: Request<GetRequest>) -> Answer<GetResponse> {
        unimplemented()
    }
    async fn list(&self, _: Request<ListRequest>) -> Answer<ListResponse> {
        unimplemented()
    }
    async fn watch(&self, _: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        unimplemented()
    }
    async fn inquire(&self, _: Request<InquireRequest>) -> Answer<InquireResponse> {
        unimplemented()
    }
}

/// Tells how many syncs there were, as Concord does.
struct Counter {
    log: Arc<AppendLog>,
}

#[tonic::async_trait]
impl Operator for Counter {
    type DrainStream = Empty<Result<DrainResponse, Status>>;

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        Ok(Response::new(GetStatusResponse { log_syncs: self.log.syncs(), ..GetStatusResponse::default() }))
    }

    async fn retry(&self, _: Request<RetryRequest>) -> Answer<RetryResponse> {
        unimplemented()
    }
    async fn park(&self, _: Request<ParkRequest>) -> Answer<ParkResponse> {
        unimplemented()
    }
    async fn resolve(&self, _: Request<ResolveRequest>) -> Answer<ResolveResponse> {
        unimplemented()
    }
    async fn list_in_doubt(&self, _: Request<ListInDoubtRequest>) -> Answer<ListInDoubtResponse> {
        unimplemented()
    }
    async fn list_resources(&self, _: Request<ListResourcesRequest>) -> Answer<ListResourcesResponse> {
        unimplemented()
    }
    async fn list_participants(
        &self,
        _: Request<ListParticipantsRequest>,
    ) -> Answer<ListParticipantsResponse> {
        unimplemented()
    }
    async fn drain(&self, _: Request<DrainRequest>) -> Answer<Self::DrainStream> {
        unimplemented()
    }
}

/// What one unary call over loopback takes, there and back, in milliseconds: the median of many, one after the other,
/// to a participant that does nothing.
///
/// # Errors
/// When a call fails.
pub(crate) async fn rpc_ms(participant: &str) -> Result<f64> {
    const CALLS: usize = 2_000;
    let participant = ParticipantClient::new(channel(participant)?);
    let request = BranchRequest { action: "nothing".into(), ..BranchRequest::default() };
    let call = Call::new(&Gtid::compose(1_700_000_000_000, Epoch(1), 1).to_string(), 1, &request);
    let mut latency = histogram()?;
    for number in 0..CALLS {
        let start = Instant::now();
        call.clone().reserve(participant.clone()).await?;
        // The first ones connect and warm up.
        if number >= CALLS / 10 {
            latency.record(u64::try_from(start.elapsed().as_micros())?)?;
        }
    }
    Ok(ms(&latency, 0.5))
}
