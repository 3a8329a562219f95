//! The `Operator` service: what people who run the coordinator call.

use std::sync::Arc;
use std::time::Duration;

use concord_proto::v1;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::operator_server::Operator;
use concord_protocol::BranchId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert::{self, gtid, invalid, required, status, text, timestamp, transaction};
use super::coordinator::{bytes_max, own, pass_on};
use super::guard::{check_tenant, operator};
use super::outbound::GrpcParticipants;
use super::peers::Peers;
use crate::ending::Ending;
use crate::engine::{Engine, Order, Verdict};
use crate::resource::{InDoubtView, ResourceView, Resources};
use crate::store::UnixMillis;

/// How often a drain tells how far it has come.
const DRAIN_PROGRESS: Duration = Duration::from_millis(200);

pub(crate) struct OperatorService {
    pub(crate) engine: Arc<Engine>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) participants: Arc<GrpcParticipants>,
    pub(crate) ending: Arc<Ending>,
    pub(crate) started_at: UnixMillis,
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn retry(&self, request: Request<v1::RetryRequest>) -> Result<Response<v1::RetryResponse>, Status> {
        let gtid = own!(self, request, OperatorClient.retry);
        let who = operator(&request, &request.get_ref().operator)?;
        let order = order(who, String::new())?;
        let snapshot = self.engine.retry(gtid, order).await.map_err(status)?;
        Ok(Response::new(v1::RetryResponse { transaction: Some(transaction(snapshot, Vec::new())) }))
    }

    async fn park(&self, request: Request<v1::ParkRequest>) -> Result<Response<v1::ParkResponse>, Status> {
        let gtid = own!(self, request, OperatorClient.park);
        let who = operator(&request, &request.get_ref().operator)?;
        let order = order(who, request.into_inner().reason)?;
        let snapshot = self.engine.park(gtid, order).await.map_err(status)?;
        Ok(Response::new(v1::ParkResponse { transaction: Some(transaction(snapshot, Vec::new())) }))
    }

    async fn resolve(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveResponse>, Status> {
        let gtid = own!(self, request, OperatorClient.resolve);
        let who = operator(&request, &request.get_ref().operator)?;
        let request = request.into_inner();
        let outcome = convert::outcome_from_wire(request.outcome())
            .ok_or_else(|| invalid("outcome", "must be COMMITTED or ROLLED_BACK"))?;
        let branch = (request.branch_id != 0).then_some(BranchId(request.branch_id));
        let reason = required("reason", request.reason, bytes_max::REASON)?;
        let order = order(who, reason)?;
        let snapshot = self.engine.resolve(gtid, branch, outcome, order).await.map_err(status)?;
        Ok(Response::new(v1::ResolveResponse { transaction: Some(transaction(snapshot, Vec::new())) }))
    }

    async fn list_in_doubt(
        &self,
        request: Request<v1::ListInDoubtRequest>,
    ) -> Result<Response<v1::ListInDoubtResponse>, Status> {
        let name = request.into_inner().resource;
        let name = (!name.is_empty()).then_some(name);
        if let Some(name) = name.as_ref().filter(|name| !self.resources.contains(name)) {
            return Err(invalid("resource", format!("{name:?} is not configured ([[resource]])")));
        }
        let found = self.resources.in_doubt(&self.engine, name.as_deref()).await;
        let (branches, unreachable) = found.map_err(status)?;
        let names = self.resources.list().into_iter().map(|resource| resource.name);
        let asked = names.filter(|one| {
            name.as_ref().is_none_or(|name| name == one)
                && unreachable.iter().all(|(silent, _)| silent != one)
        });
        let asked = asked.collect();
        let unreachable = unreachable
            .into_iter()
            .map(|(resource, error)| v1::UnreachableResource { resource, error: error.to_string() });
        Ok(Response::new(v1::ListInDoubtResponse {
            branches: branches.into_iter().map(in_doubt).collect(),
            unreachable: unreachable.collect(),
            asked,
            branches_in_doubt: self.engine.census().branches_in_doubt as u64,
        }))
    }

    async fn list_resources(
        &self,
        _: Request<v1::ListResourcesRequest>,
    ) -> Result<Response<v1::ListResourcesResponse>, Status> {
        let resources = self.resources.list().into_iter().map(resource).collect();
        Ok(Response::new(v1::ListResourcesResponse { resources }))
    }

    async fn list_participants(
        &self,
        _: Request<v1::ListParticipantsRequest>,
    ) -> Result<Response<v1::ListParticipantsResponse>, Status> {
        Ok(Response::new(v1::ListParticipantsResponse { participants: self.participants.list() }))
    }

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let counts = self.engine.statistics();
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_id: self.engine.cluster_id().0,
            epoch: self.engine.epoch().0,
            started_at: Some(timestamp(self.started_at)),
            live_transactions: counts.live as u64,
            draining: counts.stopping,
            parked_transactions: counts.parked as u64,
            in_doubt_branches: counts.branches_in_doubt as u64,
            oldest_begun_at: counts.oldest_begun_at.map(timestamp),
            begun: counts.begun,
            committed: counts.committed,
            rolled_back: counts.rolled_back,
            heuristic_branches: counts.heuristic,
            refused_branches: counts.refused,
            log_syncs: counts.log.syncs,
            log_records: counts.log.records,
            calls: counts.calls,
            calls_failed: counts.calls_failed,
        }))
    }

    type DrainStream = ReceiverStream<Result<v1::DrainResponse, Status>>;

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        let who = operator(&request, &request.get_ref().operator)?;
        let Order { operator, reason: _ } = order(who, String::new())?;
        let grace_ms = request.get_ref().grace_ms;
        tracing::info!(operator, grace_ms, "told to drain");
        self.engine.stop_beginning();
        self.ending.order(grace_ms.map(|ms| Duration::from_millis(ms.into())));
        let (tell, told) = mpsc::channel(1);
        tokio::spawn(tell_progress(Arc::clone(&self.engine), Arc::clone(&self.ending), tell));
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

/// Tells how a drain goes on, until it has ended or nobody listens any more.
async fn tell_progress(
    engine: Arc<Engine>,
    ending: Arc<Ending>,
    tell: mpsc::Sender<Result<v1::DrainResponse, Status>>,
) {
    let progress = |stopping| {
        let census = engine.census();
        v1::DrainResponse {
            live_transactions: census.live() as u64,
            stopping,
            is_shared: engine.is_shared(),
            undecided_transactions: census.undecided as u64,
            decided_transactions: census.decided as u64,
            parked_transactions: census.parked as u64,
        }
    };
    let mut ticks = tokio::time::interval(DRAIN_PROGRESS);
    let over = ending.over(&engine);
    tokio::pin!(over);
    loop {
        let stopping = tokio::select! {
            () = &mut over => true,
            _ = ticks.tick() => false,
        };
        if tell.send(Ok(progress(stopping))).await.is_err() || stopping {
            return;
        }
    }
}

fn order(operator: String, reason: String) -> Result<Order, Status> {
    if operator.trim().is_empty() {
        return Err(invalid("operator", "is empty, and no token says who gives the order"));
    }
    Ok(Order { operator, reason: text("reason", reason, bytes_max::REASON)? })
}

fn in_doubt(found: InDoubtView) -> v1::InDoubtBranch {
    let InDoubtView { resource, xid, ours, first_seen_at } = found;
    let (gtid, branch_id, verdict) = match ours {
        Some((gtid, branch, verdict)) => {
            let verdict = match verdict {
                Verdict::Undecided => "undecided",
                Verdict::Committed => "commit",
                Verdict::RolledBack => "roll back",
            };
            (gtid.to_string(), branch.0, verdict.to_owned())
        }
        None => Default::default(),
    };
    v1::InDoubtBranch {
        resource,
        xid: xid.to_string(),
        ours: ours.is_some(),
        gtid,
        branch_id,
        verdict,
        first_seen_at: first_seen_at.map(timestamp),
    }
}

fn resource(view: ResourceView) -> v1::Resource {
    v1::Resource {
        reachable: view.is_reachable(),
        name: view.name,
        address: view.address,
        server: view.server,
        error: view.error.unwrap_or_default(),
        in_doubt_ours: count(view.in_doubt_ours),
        in_doubt_foreign: count(view.in_doubt_foreign),
        swept_at: view.swept_at.map(timestamp),
        committed_by_sweeper: view.committed,
        rolled_back_by_sweeper: view.rolled_back,
        participants: view.participants,
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
