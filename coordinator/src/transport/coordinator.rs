//! The `Coordinator` service: what applications and participants call.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use concord_crash_points::crash_point;
use concord_proto::TraceContext;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::coordinator_server::Coordinator;
use concord_proto::v1::{self, BranchKind, TransactionState};
use concord_protocol::{BranchId, Gtid, Vote};
use futures_util::{Stream, StreamExt as _};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::convert::{self, gtid, invalid, required, status, text, transaction};
use super::guard::{caller, check_name, check_tenant, operator, tenant};
use super::peers::Peers;
use crate::engine::{
    BeginRequest, BranchRequest, Engine, EngineError, Grade, Kind, RegisterRequest, TransactionFilter, Wait,
};

/// Limits of strings, in bytes, as the .proto comments give them.
pub(crate) mod bytes_max {
    pub(crate) const NAME: usize = 128;
    pub(crate) const KEY: usize = 128;
    pub(crate) const ACTION: usize = 128;
    pub(crate) const PARTICIPANT: usize = 256;
    pub(crate) const REGISTRATION_KEY: usize = 64;
    pub(crate) const REASON: usize = 1024;
    pub(crate) const OPERATOR: usize = 128;
}

/// Gtids in one Inquire.
const INQUIRE_MAX: usize = 1_000;

/// How many transactions a List answers with.
#[derive(Debug, Clone, Copy)]
pub struct PageSizes {
    /// When the caller does not say.
    pub default: u32,
    /// At the most.
    pub max: u32,
}

pub(crate) struct CoordinatorService {
    pub(crate) engine: Arc<Engine>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) pages: PageSizes,
}

/// Has a call answered by the coordinator that has the transaction, if that is another one.
macro_rules! pass_on {
    ($self:ident, $gtid:expr, $request:ident, $client:ident.$method:ident) => {{
        let call = |channel, request| async move {
            $client::new(channel).max_decoding_message_size(usize::MAX).$method(request).await
        };
        if let Some(answer) = $self.peers.pass_on(&$self.engine, $gtid, &$request, call).await? {
            return Ok(answer);
        }
    }};
}

/// The gtid that a call is about, which its caller may see, and which this coordinator can tell about. Every method about one
/// transaction begins with this.
macro_rules! own {
    ($self:ident, $request:ident, $client:ident.$method:ident) => {{
        let gtid = gtid(&$request.get_ref().gtid)?;
        pass_on!($self, gtid, $request, $client.$method);
        check_tenant(&$self.engine, $request.extensions(), gtid).await?;
        gtid
    }};
}
pub(super) use {own, pass_on};

#[tonic::async_trait]
impl Coordinator for CoordinatorService {
    async fn begin(&self, request: Request<v1::BeginRequest>) -> Result<Response<v1::BeginResponse>, Status> {
        crash_point!("coordinator/received/Begin");
        let v1::BeginRequest { name, timeout_ms, idempotency_key } = request.get_ref().clone();
        let begun = match self.engine.begin(begin(name, timeout_ms, idempotency_key, &request)?).await {
            Err(error @ EngineError::Elsewhere(gtid)) => {
                pass_on!(self, gtid, request, CoordinatorClient.begin);
                return Err(status(error));
            }
            begun => begun.map_err(status)?,
        };
        crash_point!("coordinator/answer/Begin");
        Ok(Response::new(v1::BeginResponse { gtid: begun.id.to_string(), timeout_ms: begun.remaining_ms }))
    }

    async fn register_branch(
        &self,
        request: Request<v1::RegisterBranchRequest>,
    ) -> Result<Response<v1::RegisterBranchResponse>, Status> {
        crash_point!("coordinator/received/RegisterBranch");
        check_name(caller(request.extensions()), &request.get_ref().participant)?;
        let gtid = own!(self, request, CoordinatorClient.register_branch);
        let trace = TraceContext::of(request.metadata());
        let request = request.into_inner();
        let kind = kind("kind", request.kind())?;
        let (action, payload) = match kind {
            Kind::Tcc => (required("action", request.action, bytes_max::ACTION)?, request.payload),
            Kind::Xa if request.action.is_empty() && request.payload.is_empty() => Default::default(),
            Kind::Xa => return Err(invalid("action", "and payload are for TCC branches only")),
        };
        let joined = RegisterRequest {
            gtid,
            kind,
            action,
            payload,
            participant: required("participant", request.participant, bytes_max::PARTICIPANT)?,
            registration_key: required(
                "registration_key",
                request.registration_key,
                bytes_max::REGISTRATION_KEY,
            )?,
        };
        self.engine.adopt_trace(gtid, trace);
        let branch = self.engine.register(joined).await.map_err(status)?;
        crash_point!("coordinator/answer/RegisterBranch");
        Ok(Response::new(v1::RegisterBranchResponse {
            branch_id: branch.id.0,
            cluster_id: self.engine.cluster_id().0,
            remaining_ms: branch.remaining_ms,
        }))
    }

    async fn report_vote(
        &self,
        request: Request<v1::ReportVoteRequest>,
    ) -> Result<Response<v1::ReportVoteResponse>, Status> {
        crash_point!("coordinator/received/ReportVote");
        let gtid = own!(self, request, CoordinatorClient.report_vote);
        let branch = BranchId(request.get_ref().branch_id);
        if let Some(caller) = caller(request.extensions())
            && let Some(participant) = self.engine.participant_of(gtid, branch)
        {
            check_name(Some(caller), &participant)?;
        }
        let trace = TraceContext::of(request.metadata());
        let request = request.into_inner();
        let vote = match request.vote() {
            v1::Vote::Yes => Vote::Yes,
            v1::Vote::ReadOnly => Vote::ReadOnly,
            v1::Vote::No => Vote::No,
            v1::Vote::Unspecified => return Err(invalid("vote", "must be YES, READ_ONLY or NO")),
        };
        let reason = text("reason", request.reason, bytes_max::REASON)?;
        self.engine.adopt_trace(gtid, trace);
        self.engine.vote(gtid, branch, vote, reason).await.map_err(status)?;
        crash_point!("coordinator/answer/ReportVote");
        Ok(Response::new(v1::ReportVoteResponse {}))
    }

    async fn commit(
        &self,
        request: Request<v1::CommitRequest>,
    ) -> Result<Response<v1::CommitResponse>, Status> {
        crash_point!("coordinator/received/Commit");
        let gtid = own!(self, request, CoordinatorClient.commit);
        let (until, trace) = (settle_by(request.metadata()), TraceContext::of(request.metadata()));
        let request = request.into_inner();
        let wait = wait(request.wait());
        self.engine.adopt_trace(gtid, trace);
        let snapshot = self.engine.commit(gtid, wait, until).await.map_err(status)?;
        crash_point!("coordinator/answer/Commit");
        Ok(Response::new(v1::CommitResponse { transaction: Some(transaction(snapshot, Vec::new())) }))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::RollbackResponse>, Status> {
        crash_point!("coordinator/received/Rollback");
        let gtid = own!(self, request, CoordinatorClient.rollback);
        let who = match caller(request.extensions()) {
            Some(caller) if caller.may_initiate() && request.get_ref().operator.is_empty() => String::new(),
            _ => operator(&request, &request.get_ref().operator)?,
        };
        let (until, trace) = (settle_by(request.metadata()), TraceContext::of(request.metadata()));
        let request = request.into_inner();
        let wait = wait(request.wait());
        let reason = text("reason", request.reason, bytes_max::REASON)?;
        let reason = match (who.as_str(), reason.as_str()) {
            ("", _) => reason,
            (who, "") => format!("asked for by {who}"),
            (who, reason) => format!("{reason} (asked for by {who})"),
        };
        self.engine.adopt_trace(gtid, trace);
        let snapshot = self.engine.rollback(gtid, reason.clone(), wait, until).await.map_err(status)?;
        if !who.is_empty() {
            // Of a rollback that nobody has ordered nothing need be on disk.
            self.engine.on_disk().await.map_err(status)?;
            tracing::info!(%gtid, operator = who, reason, "an operator's order: roll back");
        }
        crash_point!("coordinator/answer/Rollback");
        Ok(Response::new(v1::RollbackResponse { transaction: Some(transaction(snapshot, Vec::new())) }))
    }

    async fn execute(
        &self,
        request: Request<v1::ExecuteRequest>,
    ) -> Result<Response<v1::ExecuteResponse>, Status> {
        crash_point!("coordinator/received/Execute");
        let until = settle_by(request.metadata());
        let v1::ExecuteRequest { name, timeout_ms, idempotency_key, branches, .. } =
            request.get_ref().clone();
        let caller = caller(request.extensions());
        branches.iter().try_for_each(|branch| check_name(caller, &branch.participant))?;
        let (wait, grade) = (wait(request.get_ref().wait()), grade(request.get_ref().grade()));
        let begin = begin(name, timeout_ms, idempotency_key, &request)?;
        let branches: Result<Vec<_>, Status> = branches.into_iter().map(branch_request).collect();
        let snapshot = match self.engine.execute(begin, grade, branches?, wait, until).await {
            Err(error @ EngineError::Elsewhere(gtid)) => {
                pass_on!(self, gtid, request, CoordinatorClient.execute);
                return Err(status(error));
            }
            snapshot => snapshot.map_err(status)?,
        };
        let replies = snapshot.branches.iter().map(|branch| branch.reply.clone()).collect();
        crash_point!("coordinator/answer/Execute");
        Ok(Response::new(v1::ExecuteResponse {
            transaction: Some(transaction(snapshot, Vec::new())),
            replies,
        }))
    }

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let gtid = own!(self, request, CoordinatorClient.get);
        let (snapshot, history) = self.engine.get(gtid).await.map_err(status)?;
        Ok(Response::new(v1::GetResponse { transaction: Some(transaction(snapshot, history)) }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<v1::ListResponse>, Status> {
        let own = tenant(request.extensions());
        let request = request.into_inner();
        if !own.is_empty() && !request.tenant.is_empty() && request.tenant != own {
            return Err(invalid("tenant", format!("the token is of {own:?}")));
        }
        let tenant = if own.is_empty() { request.tenant.clone() } else { own };
        let filter =
            TransactionFilter { tenant: (!tenant.is_empty()).then_some(tenant), ..self.filter(request)? };
        let page = self.engine.list(&filter).await.map_err(status)?;
        Ok(Response::new(v1::ListResponse {
            transactions: page.transactions.into_iter().map(|one| transaction(one, Vec::new())).collect(),
            next_page_token: page.next.map(|gtid| gtid.to_string()).unwrap_or_default(),
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let gtid = gtid(&request.get_ref().gtid)?;
        let call = |channel, request| async move { CoordinatorClient::new(channel).watch(request).await };
        if let Some(answer) = self.peers.pass_on(&self.engine, gtid, &request, call).await? {
            return Ok(answer.map(|changes| Box::pin(changes) as Self::WatchStream));
        }
        check_tenant(&self.engine, request.extensions(), gtid).await?;
        let changes = self.engine.watch(gtid).await.map_err(status)?;
        let answers =
            changes.map(|one| Ok(v1::WatchResponse { transaction: Some(transaction(one, Vec::new())) }));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn inquire(
        &self,
        request: Request<v1::InquireRequest>,
    ) -> Result<Response<v1::InquireResponse>, Status> {
        crash_point!("coordinator/received/Inquire");
        let v1::InquireRequest { gtids, branch_ids } = request.into_inner();
        if branch_ids.len() > gtids.len() {
            return Err(invalid("branch_ids", "are more than the gtids"));
        }
        if gtids.len() > INQUIRE_MAX {
            let problem = format!("{} are over the limit of {INQUIRE_MAX}", gtids.len());
            return Err(invalid("gtids", problem));
        }
        let mut answer = v1::InquireResponse { cluster_id: self.engine.cluster_id().0, ..Default::default() };
        for (text, branch) in gtids.iter().zip(branch_ids.into_iter().chain(std::iter::repeat(0))) {
            let branch = (branch > 0).then_some(BranchId(branch));
            let standing = self.engine.inquire_branch(gtid(text)?, branch).await.map_err(status)?;
            answer.outcomes.push(convert::verdict(standing.verdict).into());
            answer.ended.push(standing.ended);
        }
        crash_point!("coordinator/answer/Inquire");
        Ok(Response::new(answer))
    }
}

impl CoordinatorService {
    fn filter(&self, request: v1::ListRequest) -> Result<TransactionFilter, Status> {
        let limit = match request.page_size {
            0 => self.pages.default,
            size if size > self.pages.max => {
                return Err(invalid("page_size", format!("{size} is over the limit of {}", self.pages.max)));
            }
            size => size,
        };
        let state = |number: &i32| {
            TransactionState::try_from(*number)
                .ok()
                .and_then(convert::state_from_wire)
                .ok_or_else(|| invalid("states", format!("there is no state {number}")))
        };
        let after: Option<Gtid> = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| invalid("page_token", "not one that List has given"))?),
        };
        let kind = match request.kind() {
            BranchKind::Unspecified if request.kind != 0 => {
                return Err(invalid("kind", format!("there is no kind {}", request.kind)));
            }
            BranchKind::Unspecified => None,
            kind => Some(self::kind("kind", kind)?),
        };
        let given = |text: String| (!text.is_empty()).then_some(text);
        let time = |field, at: Option<_>| at.map(|at| convert::unix_millis(field, at)).transpose();
        Ok(TransactionFilter {
            states: request.states.iter().map(state).collect::<Result<_, _>>()?,
            parked_only: request.parked_only,
            name: given(request.name),
            kind,
            participant: given(request.participant),
            text: given(text("text", request.text, bytes_max::NAME)?.to_lowercase()),
            tenant: None,
            begun_after: time("begun_after", request.begun_after)?,
            begun_before: time("begun_before", request.begun_before)?,
            oldest_first: request.oldest_first,
            after,
            limit: limit as usize,
        })
    }
}

fn begin<T>(
    name: String,
    timeout_ms: u32,
    idempotency_key: String,
    request: &Request<T>,
) -> Result<BeginRequest, Status> {
    let tenant = tenant(request.extensions());
    // The store keeps it with the tenant's name in front.
    let key_bytes_max = match tenant.len() {
        0 => bytes_max::KEY,
        tenant => bytes_max::KEY - tenant - 1,
    };
    Ok(BeginRequest {
        name: text("name", name, bytes_max::NAME)?,
        timeout_ms,
        idempotency_key: text("idempotency_key", idempotency_key, key_bytes_max)?,
        tenant,
        trace: TraceContext::of(request.metadata()),
    })
}

fn branch_request(branch: v1::BranchRequest) -> Result<BranchRequest, Status> {
    Ok(BranchRequest {
        kind: kind("branches.kind", branch.kind())?,
        participant: required("branches.participant", branch.participant, bytes_max::PARTICIPANT)?,
        action: required("branches.action", branch.action, bytes_max::ACTION)?,
        payload: branch.payload,
    })
}

fn kind(field: &'static str, kind: BranchKind) -> Result<Kind, Status> {
    match kind {
        BranchKind::Xa => Ok(Kind::Xa),
        BranchKind::Tcc => Ok(Kind::Tcc),
        BranchKind::Unspecified => Err(invalid(field, "must be XA or TCC")),
    }
}

fn wait(wait: v1::Wait) -> Wait {
    match wait {
        v1::Wait::Decided => Wait::Decided,
        v1::Wait::Unspecified | v1::Wait::Completed => Wait::Completed,
    }
}

fn grade(grade: v1::Grade) -> Grade {
    match grade {
        v1::Grade::Strict => Grade::Strict,
        v1::Grade::Unspecified | v1::Grade::EarlyVote => Grade::EarlyVote,
    }
}

/// When to settle for the decision: a little before the caller's deadline, so that the answer still arrives.
fn settle_by(metadata: &MetadataMap) -> Option<Instant> {
    let timeout = grpc_timeout(metadata.get("grpc-timeout")?.to_str().ok()?)?;
    let margin = (timeout / 10).min(Duration::from_millis(100));
    Some(Instant::now() + timeout - margin)
}

/// The `grpc-timeout` header: up to eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grpc_timeouts() {
        assert_eq!(grpc_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(grpc_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for text in ["", "m", "1", "1x", "-1m", "123456789m", "1é"] {
            assert_eq!(grpc_timeout(text), None, "{text}");
        }
    }
}
