//! TCC with participants that do nothing: what the coordinator and its log alone are capable of.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::participant_server::{Participant, ParticipantServer};
use concord_proto::v1::{
    BranchKind, BranchOutcome, BranchRequest, CancelRequest, CancelResponse, CommitBranchRequest,
    CommitBranchResponse, ConfirmRequest, ConfirmResponse, ExecuteRequest, GetStatusRequest, PrepareRequest,
    PrepareResponse, RollbackBranchRequest, RollbackBranchResponse, TryRequest, TryResponse, WorkRequest,
    WorkResponse,
};
use concord_sandbox::{Address, Service, parent_gone};
use hdrhistogram::Histogram;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::stage::{channel, coordinator};
use crate::{Bound, Line, load};

const CONCURRENCY: usize = 64;

#[derive(Debug, Args)]
pub(crate) struct NoopArgs {
    #[arg(long)]
    listen: SocketAddr,
}

/// Agrees to everything.
struct Noop;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Participant for Noop {
    async fn r#try(&self, _: Request<TryRequest>) -> Answer<TryResponse> {
        Ok(Response::new(TryResponse { reserved: true, ..TryResponse::default() }))
    }

    async fn confirm(&self, _: Request<ConfirmRequest>) -> Answer<ConfirmResponse> {
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

pub(crate) async fn serve(args: NoopArgs) -> Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ParticipantServer<Noop>>().await;
    let server = Server::builder().tcp_nodelay(true).add_service(health_service);
    server.add_service(ParticipantServer::new(Noop)).serve_with_shutdown(args.listen, parent_gone()).await?;
    Ok(())
}

pub(crate) async fn measure(transactions: usize, rounds: usize) -> Result<Vec<Line>> {
    let directory = tempfile::Builder::new().prefix("concord-figures-").tempdir_in("/var/tmp")?;
    let coordinator = coordinator(directory.path()).await?;
    let mut participants = Vec::new();
    for name in ["noop-0", "noop-1"] {
        let address = Address::reserve()?;
        let arguments = ["noop".to_owned(), format!("--listen={address}")];
        let log = directory.path().join(format!("{name}.log"));
        let mut participant = Service::new(name, std::env::current_exe()?, arguments, address, log);
        participant.start().await?;
        participants.push(participant);
    }
    let branch = |participant: &Service| BranchRequest {
        kind: BranchKind::Tcc.into(),
        participant: participant.url(),
        action: "nothing".into(),
        payload: Vec::from(*b"{\"sku\":\"T00101\",\"quantity\":2}").into(),
    };
    let request =
        ExecuteRequest { branches: participants.iter().map(branch).collect(), ..ExecuteRequest::default() };
    let client = CoordinatorClient::new(channel(&coordinator.url())?);
    let status = || async {
        let mut operator = OperatorClient::new(channel(&coordinator.url())?);
        anyhow::Ok(operator.get_status(GetStatusRequest {}).await?.into_inner())
    };
    load::execute(&client, CONCURRENCY, vec![request.clone(); transactions / 2]).await?;
    let before = status().await?;
    let mut latency = Histogram::<u64>::new(3)?;
    let mut rates = Vec::new();
    for _ in 0..rounds {
        let run = load::execute(&client, CONCURRENCY, vec![request.clone(); transactions]).await?;
        latency.add(&run.latency)?;
        rates.push(run.per_second);
    }
    let syncs = (status().await?.log_syncs - before.log_syncs) as f64 / (rounds * transactions) as f64;
    let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let most = rates.iter().copied().fold(0.0, f64::max);
    let line = |figure: &str, value, unit, wanted, detail| Line {
        figure: figure.to_owned(),
        database: "-".into(),
        value,
        unit,
        wanted: Some(wanted),
        detail,
    };
    Ok(vec![
        line(
            "no-op TCC, two branches, 64 at a time",
            load::median(&rates),
            "tx/s",
            Bound::AtLeast(3_000.0),
            format!("rounds {least:.0} … {most:.0}"),
        ),
        line("log syncs per no-op TCC, 64 at a time", syncs, "syncs", Bound::AtMost(0.2), String::new()),
        line(
            "p99 latency of no-op TCC, 64 at a time",
            ms(0.99),
            "ms",
            Bound::AtMost(100.0),
            format!("p50 {:.1} ms", ms(0.5)),
        ),
    ])
}
