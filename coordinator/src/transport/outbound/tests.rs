//! Calls to participants that answer, do not answer, or are not there.

mod addresses;

use std::net::SocketAddr;

use concord_proto::v1::participant_server::{Participant as Service, ParticipantServer};
use concord_proto::v1::{
    CancelRequest, CancelResponse, CommitBranchRequest, CommitBranchResponse, ConfirmRequest,
    ConfirmResponse, PrepareRequest, PrepareResponse, RollbackBranchRequest, RollbackBranchResponse,
    TryRequest, TryResponse, Vote as VoteMessage, WorkRequest, WorkResponse,
};
use concord_protocol::{BranchId, Epoch, Gtid, Verb, Vote};
use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response};

use super::*;

/// Answers by the action that it is asked for.
struct Stub;

#[tonic::async_trait]
impl Service for Stub {
    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        let work = request.into_inner().work.unwrap_or_default();
        let mut answer = PrepareResponse { reply: work.payload, ..Default::default() };
        match work.action.as_str() {
            "yes" => answer.set_vote(VoteMessage::Yes),
            "busy" => return Err(Status::unavailable("busy")),
            "unknown" => return Err(Status::not_found("no such action")),
            "garbage" => {}
            _ => std::future::pending().await,
        }
        Ok(Response::new(answer))
    }

    async fn work(&self, _: Request<WorkRequest>) -> Result<Response<WorkResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn commit(
        &self,
        _: Request<CommitBranchRequest>,
    ) -> Result<Response<CommitBranchResponse>, Status> {
        Ok(Response::new(CommitBranchResponse::default()))
    }

    async fn rollback(
        &self,
        _: Request<RollbackBranchRequest>,
    ) -> Result<Response<RollbackBranchResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn r#try(&self, _: Request<TryRequest>) -> Result<Response<TryResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn confirm(&self, _: Request<ConfirmRequest>) -> Result<Response<ConfirmResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

async fn stub() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(ParticipantServer::new(Stub));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    address
}

fn settings() -> OutboundSettings {
    OutboundSettings {
        allow: AllowList::parse(["http://127.0.0.1:*"]).unwrap(),
        call_timeout: Duration::from_millis(300),
        connect_timeout: Duration::from_millis(300),
        in_flight_max: 2,
        breaker: BreakerSettings { failures_before_open: 3, open_for: Duration::from_secs(60) },
        ..OutboundSettings::default()
    }
}

fn participants() -> GrpcParticipants {
    GrpcParticipants::new(ClusterId(1), settings(), &Metrics::default())
}

fn call(address: SocketAddr, verb: Verb, action: &str, repeated: bool) -> BranchCall {
    BranchCall {
        gtid: Gtid::compose(1, Epoch(1), 1),
        branch: BranchId(1),
        participant: format!("http://{address}").into(),
        verb,
        action: action.into(),
        payload: "payload".into(),
        repeated,
        remaining_ms: 1_000,
        trace: None,
    }
}

impl GrpcParticipants {
    /// Calls that failed in this way, so far.
    fn failed(&self, how: CallFailure) -> u64 {
        self.metrics.failed.at(how).get()
    }
}

#[tokio::test]
async fn an_answer_comes_back_with_its_payload() {
    let (participants, address) = (participants(), stub().await);
    let result = participants.call(call(address, Verb::WorkAndPrepare, "yes", false)).await;
    assert_eq!(result.reply, Reply::Vote(Vote::Yes));
    assert_eq!(result.payload, "payload");
}

#[tokio::test]
async fn a_participant_that_is_not_there_has_seen_nothing_and_is_soon_left_in_peace() {
    let participants = participants();
    // Bound and not listening: nobody else gets it, and connections are refused.
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    for _ in 0..3 {
        let result = participants.call(call(address, Verb::WorkAndPrepare, "yes", false)).await;
        assert_eq!(result.reply, Reply::Failed { maybe_arrived: false }, "{}", result.reason);
    }
    let result = participants.call(call(address, Verb::WorkAndPrepare, "yes", false)).await;
    assert!(result.reason.contains("breaker open"), "{}", result.reason);
    assert_eq!(participants.failed(CallFailure::Unreachable), 3);
    assert_eq!(participants.failed(CallFailure::BreakerOpen), 1);
    assert_eq!(participants.metrics.breaker_openings.get(), 1);
    assert_eq!(participants.count().breakers, [0, 1, 0]);
}

#[tokio::test]
async fn a_participant_that_is_busy_is_there_and_keeps_the_breaker_closed() {
    let (participants, address) = (participants(), stub().await);
    for _ in 0..10 {
        let result = participants.call(call(address, Verb::WorkAndPrepare, "busy", false)).await;
        assert_eq!(result.reply, Reply::Failed { maybe_arrived: true });
        assert_eq!(result.reason, "UNAVAILABLE: busy");
    }
    let result = participants.call(call(address, Verb::WorkAndPrepare, "yes", false)).await;
    assert_eq!(result.reply, Reply::Vote(Vote::Yes));
    assert_eq!(participants.failed(CallFailure::Error), 10);
    assert_eq!(participants.count().breakers, [1, 0, 0]);
}

#[tokio::test]
async fn a_participant_that_never_answers_may_have_been_reached_and_opens_the_breaker() {
    let (participants, address) = (participants(), stub().await);
    for _ in 0..3 {
        let result = participants.call(call(address, Verb::WorkAndPrepare, "hang", false)).await;
        assert_eq!(result.reply, Reply::Failed { maybe_arrived: true });
        assert!(result.reason.contains("no answer within 300 ms"), "{}", result.reason);
    }
    let result = participants.call(call(address, Verb::WorkAndPrepare, "yes", false)).await;
    assert_eq!(result.reply, Reply::Failed { maybe_arrived: false }, "{}", result.reason);
    assert_eq!(participants.failed(CallFailure::TimedOut), 3);
}

#[tokio::test]
async fn a_breaker_that_closes_says_that_its_participant_answers_again() {
    let breaker = BreakerSettings { failures_before_open: 1, open_for: Duration::ZERO };
    let settings = OutboundSettings { breaker, ..settings() };
    let participants = GrpcParticipants::new(ClusterId(1), settings, &Metrics::default());
    let address = stub().await;
    for (action, returned) in [("yes", false), ("hang", false), ("yes", true), ("yes", false)] {
        let call = call(address, Verb::WorkAndPrepare, action, false);
        let there = HashSet::from([Arc::clone(&call.participant)]);
        participants.call(call).await;
        assert_eq!(participants.returned().now_or_never(), returned.then_some(there), "{action}");
    }
}

#[tokio::test]
async fn a_participant_that_cannot_ever_do_it_has_refused_unless_an_earlier_call_may_have_arrived() {
    let (participants, address) = (participants(), stub().await);
    let result = participants.call(call(address, Verb::WorkAndPrepare, "unknown", false)).await;
    assert_eq!(result.reply, Reply::Vote(Vote::No));
    assert_eq!(participants.failed(CallFailure::Error), 0, "it has answered");
    let result = participants.call(call(address, Verb::WorkAndPrepare, "unknown", true)).await;
    assert_eq!(result.reply, Reply::Failed { maybe_arrived: true });
    // Phase two has no "cannot": it is asked again.
    let result = participants.call(call(address, Verb::Rollback, "", false)).await;
    assert_eq!(result.reply, Reply::Failed { maybe_arrived: true });
}

#[tokio::test]
async fn garbage_is_no_answer() {
    let (participants, address) = (participants(), stub().await);
    let result = participants.call(call(address, Verb::WorkAndPrepare, "garbage", false)).await;
    assert_eq!(result.reply, Reply::Failed { maybe_arrived: true });
    let result = participants.call(call(address, Verb::Commit, "", false)).await;
    assert_eq!(result.reply, Reply::Failed { maybe_arrived: true });
    assert!(result.reason.contains("holds no outcome"), "{}", result.reason);
}

#[tokio::test]
async fn a_turn_that_comes_after_the_transactions_time_is_not_taken() {
    let (participants, address) = (participants(), stub().await);
    let hang = || participants.call(call(address, Verb::WorkAndPrepare, "hang", false));
    let late = participants
        .call(BranchCall { remaining_ms: 100, ..call(address, Verb::WorkAndPrepare, "yes", false) });
    let counted = async { participants.count().calls };
    let (_, _, late, counted) = tokio::join!(hang(), hang(), late, counted);
    assert_eq!(counted, [2, 0], "one waits for its turn");
    assert_eq!(late.reply, Reply::Failed { maybe_arrived: false });
    assert!(late.reason.contains("before its turn"), "{}", late.reason);
    assert_eq!(participants.failed(CallFailure::TooLate), 1);
    assert_eq!(participants.count().calls, [0, 0]);
}
