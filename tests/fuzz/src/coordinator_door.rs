//! Requests at the coordinator's door, and what an engine makes of them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bolero::{TypeGenerator, check};
use bytes::Bytes;
use concord_coordinator::engine::{BranchCall, CallResult, Engine, Participants};
use concord_coordinator::store::MemoryStore;
use concord_coordinator::transport::{PageSizes, doors};
use concord_proto::status::reason;
use concord_proto::v1::{self, coordinator_server::Coordinator, operator_server::Operator};
use concord_protocol::{Outcome, Reply, Verb, Vote};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use prost::Message;
use prost_types::Timestamp;
use tonic::{Code, Request, Status};

use crate::damage::Damage;
use crate::gtids::GtidText;
use crate::records::{runtime, settings};

/// One request, and what happens to it on its way.
#[derive(Debug, Clone, TypeGenerator)]
struct Call {
    method: Method,
    damage: Damage,
}

#[derive(Debug, Clone, TypeGenerator)]
enum Method {
    Begin {
        name: Text,
        timeout_ms: u32,
        key: Option<Text>,
    },
    RegisterBranch {
        gtid: Id,
        kind: u8,
        participant: Address,
        key: Text,
        action: Text,
        payload: Vec<u8>,
    },
    ReportVote {
        gtid: Id,
        branch: u8,
        vote: u8,
        reason: Text,
    },
    Commit {
        gtid: Id,
        wait: u8,
    },
    Rollback {
        gtid: Id,
        wait: u8,
        reason: Text,
    },
    Execute {
        name: Text,
        grade: u8,
        wait: u8,
        timeout_ms: u16,
        key: Option<Text>,
        branches: Vec<Branch>,
    },
    Get {
        gtid: Id,
    },
    List {
        states: Vec<u8>,
        parked_only: bool,
        name: Text,
        page_size: u8,
        token: Option<Id>,
        kind: u8,
        text: Option<Text>,
        begun: [Option<i64>; 2],
    },
    Watch {
        gtid: Id,
    },
    Inquire {
        gtids: Vec<Id>,
        branches: Vec<u8>,
    },
    Retry {
        gtid: Id,
        operator: Text,
    },
    Park {
        gtid: Id,
        operator: Text,
        reason: Text,
    },
    Resolve {
        gtid: Id,
        branch: u8,
        outcome: u8,
        operator: Text,
        reason: Text,
    },
    ListInDoubt {
        resource: Text,
    },
    GetStatus,
    /// Time passes, in seconds.
    Wait(u8),
}

#[derive(Debug, Clone, TypeGenerator)]
struct Branch {
    kind: u8,
    participant: Address,
    action: Text,
    payload: Vec<u8>,
}

/// Short most often; or anything, or about as long as is allowed.
#[derive(Debug, Clone, TypeGenerator)]
struct Text {
    kind: u8,
    length: u16,
    any: String,
}

impl Text {
    fn text(&self) -> String {
        match self.kind % 24 {
            0 => String::new(),
            1 => self.any.clone(),
            2 => "x".repeat(usize::from(self.length) % 1_100),
            number => format!("text {}", number % 4),
        }
    }
}

/// A transaction that was begun here, most often.
#[derive(Debug, Clone, TypeGenerator)]
struct Id {
    number: u8,
    other: GtidText,
}

#[derive(Debug, Clone, TypeGenerator)]
struct Address(Text);

impl Address {
    fn text(&self) -> String {
        match self.0.text() {
            text if text.starts_with("text") => format!("http://127.0.0.1:{}", 7_100 + self.0.length % 3),
            text => text,
        }
    }
}

/// XA and TCC, most often.
fn kind_of(number: u8) -> i32 {
    match number % 16 {
        0 => i32::from(number) / 16,
        number => i32::from(number % 2) + 1,
    }
}

/// Participants whose answer hangs on the payload. In phase two they do as they are told, some time.
struct Fickle;

impl Participants for Fickle {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, CallResult> {
        let whim = call.payload.first().copied().unwrap_or_default() % 8;
        let reply = match (call.verb, whim) {
            (Verb::Rollback | Verb::Cancel, _) => Reply::Ended(Outcome::RolledBack),
            (Verb::Confirm, 1) => Reply::Refused,
            (Verb::Commit | Verb::Confirm, _) => Reply::Ended(Outcome::Committed),
            (_, 2) => Reply::Failed { maybe_arrived: true },
            (_, 3) => Reply::Failed { maybe_arrived: false },
            (Verb::Work | Verb::WorkAndPrepare | Verb::Prepare | Verb::Try, 4) => Reply::Vote(Vote::No),
            (Verb::WorkAndPrepare | Verb::Prepare, 5) => Reply::Vote(Vote::ReadOnly),
            (Verb::WorkAndCommit | Verb::CommitOnePhase, 4) => Reply::Ended(Outcome::RolledBack),
            // An answer to another question.
            (_, 6) => Reply::Worked,
            (Verb::Work, _) => Reply::Worked,
            (Verb::WorkAndPrepare | Verb::Prepare | Verb::Try, _) => Reply::Vote(Vote::Yes),
            (Verb::WorkAndCommit | Verb::CommitOnePhase, _) => Reply::Ended(Outcome::Committed),
        };
        std::future::ready(CallResult { reply, reason: "a whim".into(), payload: call.payload }).boxed()
    }

    fn permits(&self, participant: &str) -> bool {
        participant.starts_with("http://127.0.0.1:")
    }
}

/// An idempotency key. There are few, so that they are used again.
fn text_of(key: &Option<Text>) -> String {
    key.as_ref().map(Text::text).unwrap_or_default()
}

struct World<C, O> {
    engine: Arc<Engine>,
    coordinator: C,
    operator: O,
    begun: Vec<String>,
}

impl<C: Coordinator, O: Operator> World<C, O> {
    fn id(&self, id: &Id) -> String {
        match usize::from(id.number) {
            number if number % 16 > 0 && !self.begun.is_empty() => {
                self.begun[number % self.begun.len()].clone()
            }
            _ => id.other.text(),
        }
    }

    async fn call(&mut self, call: &Call) {
        let Call { method, damage } = call;
        match method {
            Method::Begin { name, timeout_ms, key } => {
                let (name, idempotency_key) = (name.text(), text_of(key));
                let request =
                    v1::BeginRequest { name, timeout_ms: timeout_ms % 100_000_000, idempotency_key };
                let Some(request) = damaged(request, damage) else { return };
                let asked = request.clone();
                if let Some(answer) = judge(self.coordinator.begin(Request::new(request)).await) {
                    assert!(asked.name.len() <= 128 && asked.idempotency_key.len() <= 128);
                    assert!(asked.timeout_ms <= 86_400_000);
                    self.begun.push(answer.gtid);
                }
            }
            Method::RegisterBranch { gtid, kind, participant, key, action, payload } => {
                let request = v1::RegisterBranchRequest {
                    gtid: self.id(gtid),
                    kind: kind_of(*kind),
                    participant: participant.text(),
                    registration_key: key.text(),
                    action: if kind_of(*kind) == 1 { String::new() } else { action.text() },
                    payload: if kind_of(*kind) == 1 { Bytes::new() } else { payload.clone().into() },
                };
                let Some(request) = damaged(request, damage) else { return };
                let asked = request.clone();
                if let Some(answer) = judge(self.coordinator.register_branch(Request::new(request)).await) {
                    assert!((1..=64).contains(&asked.registration_key.len()) && asked.action.len() <= 128);
                    assert!(asked.payload.len() <= settings().payload_bytes_max);
                    assert!(Fickle.permits(&asked.participant));
                    assert!((1..=5).contains(&answer.branch_id));
                }
            }
            Method::ReportVote { gtid, branch, vote, reason } => {
                let request = v1::ReportVoteRequest {
                    gtid: self.id(gtid),
                    branch_id: u32::from(branch % 4),
                    vote: i32::from(vote % 5),
                    reason: reason.text(),
                };
                let Some(request) = damaged(request, damage) else { return };
                let known = (1..=3).contains(&request.vote) && request.reason.len() <= 1_024;
                let answer = judge(self.coordinator.report_vote(Request::new(request)).await);
                assert!(answer.is_none() || known);
            }
            Method::Commit { gtid, wait } => {
                let request = v1::CommitRequest { gtid: self.id(gtid), wait: i32::from(wait % 3) };
                let Some(request) = damaged(request, damage) else { return };
                if let Some(answer) = judge(self.coordinator.commit(Request::new(request)).await) {
                    let state = answer.transaction.unwrap().state();
                    assert!(matches!(
                        state,
                        v1::TransactionState::Committing | v1::TransactionState::Committed
                    ));
                }
            }
            Method::Rollback { gtid, wait, reason } => {
                let (gtid, reason) = (self.id(gtid), reason.text());
                let request =
                    v1::RollbackRequest { gtid, wait: i32::from(wait % 3), operator: reason.clone(), reason };
                let Some(request) = damaged(request, damage) else { return };
                if let Some(answer) = judge(self.coordinator.rollback(Request::new(request)).await) {
                    let state = answer.transaction.unwrap().state();
                    assert!(matches!(
                        state,
                        v1::TransactionState::RollingBack | v1::TransactionState::RolledBack
                    ));
                }
            }
            Method::Execute { name, grade, wait, timeout_ms, key, branches } => {
                let branch = |one: &Branch| v1::BranchRequest {
                    kind: kind_of(one.kind),
                    participant: one.participant.text(),
                    action: one.action.text(),
                    payload: one.payload.clone().into(),
                };
                let request = v1::ExecuteRequest {
                    name: name.text(),
                    branches: branches.iter().take(6).map(branch).collect(),
                    grade: i32::from(grade % 4),
                    wait: i32::from(wait % 3),
                    timeout_ms: (*timeout_ms).into(),
                    idempotency_key: text_of(key),
                };
                let Some(request) = damaged(request, damage) else { return };
                self.execute(request).await;
            }
            _ => self.ask(method, damage).await,
        }
    }

    async fn execute(&mut self, request: v1::ExecuteRequest) {
        let asked = request.clone();
        let Some(answer) = judge(self.coordinator.execute(Request::new(request)).await) else { return };
        assert!((1..=5).contains(&asked.branches.len()));
        assert!(asked.name.len() <= 128 && asked.idempotency_key.len() <= 128);
        assert_eq!(answer.replies.len(), asked.branches.len());
        let payloads: usize = asked.branches.iter().map(|branch| branch.payload.len()).sum();
        assert!(payloads <= settings().payload_bytes_max);
        for branch in &asked.branches {
            assert!((1..=128).contains(&branch.action.len()) && Fickle.permits(&branch.participant));
        }
        let transaction = answer.transaction.unwrap();
        assert!(transaction.state() as i32 >= v1::TransactionState::Committing as i32, "{transaction:?}");
        self.begun.push(transaction.gtid);
    }

    /// What changes nothing, and operators' orders.
    async fn ask(&mut self, method: &Method, damage: &Damage) {
        match method {
            Method::Get { gtid } => {
                let Some(request) = damaged(v1::GetRequest { gtid: self.id(gtid) }, damage) else { return };
                let asked = request.gtid.to_ascii_lowercase();
                if let Some(answer) = judge(self.coordinator.get(Request::new(request)).await) {
                    assert_eq!(answer.transaction.unwrap().gtid, asked);
                }
            }
            Method::List { states, parked_only, name, page_size, token, kind, text, begun } => {
                let request = v1::ListRequest {
                    states: states.iter().take(3).map(|state| i32::from(state % 8)).collect(),
                    parked_only: *parked_only,
                    name: name.text(),
                    page_size: u32::from(page_size % 16),
                    page_token: token.as_ref().map(|token| self.id(token)).unwrap_or_default(),
                    kind: i32::from(kind % 4),
                    oldest_first: kind & 4 != 0,
                    participant: String::new(),
                    tenant: String::new(),
                    text: text.as_ref().map(Text::text).unwrap_or_default(),
                    begun_after: begun[0].map(|seconds| Timestamp { seconds, nanos: 0 }),
                    begun_before: begun[1].map(|seconds| Timestamp { seconds, nanos: -1 }),
                };
                let Some(request) = damaged(request, damage) else { return };
                if let Some(answer) = judge(self.coordinator.list(Request::new(request)).await) {
                    assert!(answer.transactions.len() <= PAGES.max as usize);
                }
            }
            Method::Watch { gtid } => {
                let Some(request) = damaged(v1::WatchRequest { gtid: self.id(gtid) }, damage) else { return };
                if let Some(stream) = judge(self.coordinator.watch(Request::new(request)).await) {
                    // Begins with how it stands.
                    assert!(pin!(stream).next().await.is_some_and(|first| first.is_ok()));
                }
            }
            Method::Inquire { gtids, branches } => {
                let gtids: Vec<String> = gtids.iter().map(|id| self.id(id)).collect();
                let branch_ids = branches.iter().map(|id| u32::from(id % 6)).collect();
                let Some(request) = damaged(v1::InquireRequest { gtids, branch_ids }, damage) else { return };
                let asked = request.gtids.len();
                if let Some(answer) = judge(self.coordinator.inquire(Request::new(request)).await) {
                    assert_eq!((answer.outcomes.len(), answer.ended.len()), (asked, asked));
                    assert_eq!(answer.cluster_id, self.engine.cluster_id().0);
                }
            }
            Method::Retry { gtid, operator } => {
                let request = v1::RetryRequest { gtid: self.id(gtid), operator: operator.text() };
                let Some(request) = damaged(request, damage) else { return };
                judge(self.operator.retry(Request::new(request)).await);
            }
            Method::Park { gtid, operator, reason } => {
                let (operator, reason) = (operator.text(), reason.text());
                let request = v1::ParkRequest { gtid: self.id(gtid), operator, reason };
                let Some(request) = damaged(request, damage) else { return };
                judge(self.operator.park(Request::new(request)).await);
            }
            Method::Resolve { gtid, branch, outcome, operator, reason } => {
                let request = v1::ResolveRequest {
                    gtid: self.id(gtid),
                    branch_id: u32::from(branch % 4),
                    outcome: i32::from(outcome % 8),
                    operator: operator.text(),
                    reason: reason.text(),
                };
                let Some(request) = damaged(request, damage) else { return };
                let explained = (1..=1_024).contains(&request.reason.len());
                let answer = judge(self.operator.resolve(Request::new(request)).await);
                assert!(answer.is_none() || explained);
            }
            Method::ListInDoubt { resource } => {
                let request = v1::ListInDoubtRequest { resource: resource.text() };
                let Some(request) = damaged(request, damage) else { return };
                judge(self.operator.list_in_doubt(Request::new(request)).await);
            }
            Method::Wait(seconds) => tokio::time::sleep(Duration::from_secs((*seconds).into())).await,
            _ => {
                let status =
                    judge(self.operator.get_status(Request::new(v1::GetStatusRequest {})).await).unwrap();
                assert!(status.committed + status.rolled_back <= status.begun, "{status:?}");
            }
        }
    }
}

/// The message as it arrives; none: it is no message any more.
fn damaged<M: Message + Default>(message: M, damage: &Damage) -> Option<M> {
    M::decode(damage.apply(message.encode_to_vec()).as_slice()).ok()
}

/// An error is one that callers are promised, with its reason, and not endless.
fn judge<T>(answer: Result<tonic::Response<T>, Status>) -> Option<T> {
    let status = match answer {
        Ok(answer) => return Some(answer.into_inner()),
        Err(status) => status,
    };
    let reason = reason(&status).unwrap_or_else(|| panic!("no reason: {status}"));
    let codes: &[Code] = match reason.as_str() {
        "INVALID_FIELD" => &[Code::InvalidArgument],
        "UNKNOWN_GTID" | "UNKNOWN_BRANCH" => &[Code::NotFound],
        "ROLLED_BACK" => &[Code::Aborted],
        "TRANSACTION_NOT_ACTIVE"
        | "ALREADY_COMMITTED"
        | "NO_BRANCHES"
        | "VOTE_CONFLICT"
        | "NOT_DECIDED"
        | "BRANCH_ENDED" => &[Code::FailedPrecondition],
        "IDEMPOTENCY_KEY_REUSED" => &[Code::AlreadyExists],
        "PARTICIPANT_NOT_ALLOWED" => &[Code::PermissionDenied],
        "TOO_MANY_LIVE_TRANSACTIONS" => &[Code::ResourceExhausted],
        _ => &[],
    };
    assert!(codes.contains(&status.code()), "{reason}: {status}");
    assert!(status.message().len() < 2_000, "{} bytes: {reason}", status.message().len());
    None
}

const PAGES: PageSizes = PageSizes { default: 3, max: 10 };

/// Every request is answered, or refused with a reason; what is over a limit never passes; and whatever was asked for,
/// in the end every transaction has ended or waits for an operator.
#[test]
fn requests_are_answered_or_refused() {
    check!().with_type::<Vec<Call>>().for_each(|calls| runtime().block_on(serve(calls)));
}

async fn serve(calls: &[Call]) {
    let engine = Engine::start(Arc::new(MemoryStore::new()), Arc::new(Fickle), settings()).await.unwrap();
    let engine = Arc::new(engine);
    let (coordinator, operator) = doors(Arc::clone(&engine), PAGES);
    let mut world = World { engine, coordinator, operator, begun: Vec::new() };
    // Something to talk about.
    for _ in 0..2 {
        let begun = world.coordinator.begin(Request::new(v1::BeginRequest::default())).await.unwrap();
        world.begun.push(begun.into_inner().gtid);
    }
    // One of them is full.
    for number in 0..settings().branches_max {
        let request = v1::RegisterBranchRequest {
            gtid: world.begun[0].clone(),
            kind: v1::BranchKind::Xa.into(),
            participant: "http://127.0.0.1:7100".into(),
            registration_key: format!("key {number}"),
            ..Default::default()
        };
        world.coordinator.register_branch(Request::new(request)).await.unwrap();
    }
    for call in calls {
        world.call(call).await;
    }
    // The longest time-out there is, and more.
    tokio::time::sleep(Duration::from_secs(2 * 86_400)).await;
    let counts = world.engine.statistics();
    assert_eq!(counts.live, counts.parked, "{counts:?}");
}

/// The bytes of a payload reach the participant as they came.
#[test]
fn replies_are_what_handlers_answered() {
    check!().with_type::<Vec<u8>>().for_each(|payload| {
        runtime().block_on(async {
            let engine =
                Engine::start(Arc::new(MemoryStore::new()), Arc::new(Fickle), settings()).await.unwrap();
            let (coordinator, _) = doors(Arc::new(engine), PAGES);
            // The first byte is the whim to say yes.
            let payload = [&[0], payload.as_slice()].concat();
            let branch = v1::BranchRequest {
                kind: v1::BranchKind::Tcc.into(),
                participant: "http://127.0.0.1:7100".into(),
                action: "work".into(),
                payload: payload.clone().into(),
            };
            let request = v1::ExecuteRequest { branches: vec![branch], ..Default::default() };
            match judge(coordinator.execute(Request::new(request)).await) {
                Some(answer) => assert_eq!(answer.replies, [Bytes::from(payload)]),
                None => assert!(payload.len() > settings().payload_bytes_max),
            }
        });
    });
}
