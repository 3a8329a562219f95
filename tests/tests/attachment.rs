//! Participants that are called on a stream of their own, through the real coordinator.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use concord_participant::attach;
use concord_proto::v1::attachment_client::AttachmentClient;
use concord_proto::v1::participant_server::Participant;
use concord_proto::v1::*;
use concord_tests::{Coordinator, CoordinatorOptions, Programs, refusal, until};
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tonic::{Code, Request, Response, Status};

const PROGRAMS: Programs = concord_tests::programs!();
const SHOP: &str = "attached://shop";

type Answered<T> = Result<Response<T>, Status>;

/// Reserves and confirms everything, once its gate is open, and remembers what it was asked.
#[derive(Clone)]
struct Shop {
    open: watch::Receiver<bool>,
    asked: Arc<Mutex<Vec<&'static str>>>,
    gtids: Arc<Mutex<HashSet<String>>>,
}

impl Shop {
    fn new(open: watch::Receiver<bool>) -> Shop {
        Shop { open, asked: Arc::default(), gtids: Arc::default() }
    }

    async fn pass(&self, verb: &'static str, branch: Option<BranchContext>) {
        self.asked.lock().unwrap().push(verb);
        self.gtids.lock().unwrap().insert(branch.unwrap_or_default().gtid);
        self.open.clone().wait_for(|open| *open).await.unwrap();
    }

    fn asked(&self) -> Vec<&'static str> {
        self.asked.lock().unwrap().clone()
    }
}

#[tonic::async_trait]
impl Participant for Shop {
    async fn r#try(&self, request: Request<TryRequest>) -> Answered<TryResponse> {
        let request = request.into_inner();
        self.pass("try", request.branch).await;
        let reply = match request.work.unwrap().action.as_str() {
            "too-much" => vec![0; 300 << 10],
            _ => Vec::new(),
        };
        Ok(Response::new(TryResponse { reserved: true, reply: reply.into(), ..Default::default() }))
    }

    async fn confirm(&self, request: Request<ConfirmRequest>) -> Answered<ConfirmResponse> {
        self.pass("confirm", request.into_inner().branch).await;
        let outcome = BranchOutcome::Committed.into();
        Ok(Response::new(ConfirmResponse { outcome, ..Default::default() }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Answered<CancelResponse> {
        self.pass("cancel", request.into_inner().branch).await;
        let outcome = BranchOutcome::RolledBack.into();
        Ok(Response::new(CancelResponse { outcome, ..Default::default() }))
    }

    async fn work(&self, _: Request<WorkRequest>) -> Answered<WorkResponse> {
        Err(Status::unimplemented("TCC only"))
    }

    async fn prepare(&self, _: Request<PrepareRequest>) -> Answered<PrepareResponse> {
        Err(Status::unimplemented("TCC only"))
    }

    async fn commit(&self, _: Request<CommitBranchRequest>) -> Answered<CommitBranchResponse> {
        Err(Status::unimplemented("TCC only"))
    }

    async fn rollback(&self, _: Request<RollbackBranchRequest>) -> Answered<RollbackBranchResponse> {
        Err(Status::unimplemented("TCC only"))
    }
}

/// A shop that is attached, until it is told to leave, or dropped.
struct Attached {
    leave: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Attached {
    /// Under [`SHOP`]. It is not waited for: a call that comes earlier is tried again.
    fn start(shop: &Shop, coordinator: &Coordinator) -> Attached {
        let (leave, left) = oneshot::channel();
        let stop = async move {
            left.await.ok();
        };
        let task = tokio::spawn(attach(shop.clone(), coordinator.channel(), SHOP.to_owned(), stop));
        Attached { leave: Some(leave), task }
    }

    fn leave(&mut self) {
        self.leave.take().unwrap().send(()).unwrap();
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn order(action: &str, participants: &[&str]) -> ExecuteRequest {
    let branch = |participant: &&str| BranchRequest {
        kind: BranchKind::Tcc.into(),
        participant: (*participant).to_owned(),
        action: action.to_owned(),
        ..BranchRequest::default()
    };
    ExecuteRequest { branches: participants.iter().map(branch).collect(), ..ExecuteRequest::default() }
}

async fn coordinator(directory: &TempDir) -> Coordinator {
    Coordinator::start(PROGRAMS, directory.path(), CoordinatorOptions::new()).await.unwrap()
}

async fn executed(coordinator: &Coordinator, request: ExecuteRequest) -> TransactionState {
    let answer = coordinator.api().execute(request).await.unwrap().into_inner();
    answer.transaction.unwrap().state()
}

#[tokio::test]
async fn a_participant_without_a_port_takes_part() {
    let directory = TempDir::new().unwrap();
    let coordinator = coordinator(&directory).await;
    let shop = Shop::new(watch::channel(true).1);
    let _attached = Attached::start(&shop, &coordinator);
    let state = executed(&coordinator, order("order", &[SHOP, SHOP])).await;
    assert_eq!(state, TransactionState::Committed);
    assert_eq!(shop.asked(), ["try", "try", "confirm", "confirm"]);
}

#[tokio::test]
async fn calls_under_way_when_the_stream_breaks_are_repeated_on_the_next_one() {
    let directory = TempDir::new().unwrap();
    let coordinator = coordinator(&directory).await;
    let (gate, open) = watch::channel(false);
    let shop = Shop::new(open);
    let first = Attached::start(&shop, &coordinator);
    let mut api = coordinator.api();
    let running = tokio::spawn(async move { api.execute(order("order", &[SHOP])).await });
    until("a Try is under way", async || Ok((shop.asked() == ["try"]).then_some(()))).await.unwrap();
    drop(first);
    gate.send_replace(true);
    let _second = Attached::start(&shop, &coordinator);
    let state = running.await.unwrap().unwrap().into_inner().transaction.unwrap().state();
    assert_eq!(state, TransactionState::Committed);
    assert_eq!(shop.asked(), ["try", "try", "confirm"]);
}

#[tokio::test]
async fn who_leaves_answers_what_is_under_way_and_gets_nothing_new() {
    let directory = TempDir::new().unwrap();
    let coordinator = coordinator(&directory).await;
    let (gate, open) = watch::channel(false);
    let (leaver, other) = (Shop::new(open), Shop::new(watch::channel(true).1));
    let mut leaving = Attached::start(&leaver, &coordinator);
    let mut api = coordinator.api();
    let running = tokio::spawn(async move { api.execute(order("order", &[SHOP])).await });
    until("a Try is under way", async || Ok((leaver.asked() == ["try"]).then_some(()))).await.unwrap();
    leaving.leave();
    let _stays = Attached::start(&other, &coordinator);
    for _ in 0..20 {
        assert_eq!(executed(&coordinator, order("order", &[SHOP])).await, TransactionState::Committed);
    }
    let new = leaver.gtids.lock().unwrap().len();
    gate.send_replace(true);
    let state = running.await.unwrap().unwrap().into_inner().transaction.unwrap().state();
    assert_eq!(state, TransactionState::Committed);
    (&mut leaving.task).await.unwrap();
    // Its Try was not repeated: the answer has come on the stream that it was leaving.
    assert_eq!((leaver.asked(), new), (vec!["try"], 1));
    assert_eq!(other.asked().len(), 20 * 2 + 1);
}

#[tokio::test]
async fn two_of_one_address_share_the_work_and_finish_what_they_began() {
    let directory = TempDir::new().unwrap();
    let coordinator = coordinator(&directory).await;
    let shops = [Shop::new(watch::channel(true).1), Shop::new(watch::channel(true).1)];
    let _attached = shops.each_ref().map(|shop| Attached::start(shop, &coordinator));
    until("both are in use", async || {
        executed(&coordinator, order("order", &[SHOP])).await;
        Ok(shops.iter().all(|shop| !shop.asked().is_empty()).then_some(()))
    })
    .await
    .unwrap();
    let counts = || shops.each_ref().map(|shop| shop.asked().len());
    let before = counts();
    for _ in 0..50 {
        assert_eq!(executed(&coordinator, order("order", &[SHOP])).await, TransactionState::Committed);
    }
    let done: Vec<usize> = counts().iter().zip(before).map(|(after, before)| after - before).collect();
    assert_eq!(done.iter().sum::<usize>(), 100);
    // Each Confirm went where its Try had gone.
    assert!(done.iter().all(|count| *count > 0 && count % 2 == 0), "{done:?}");
}

#[tokio::test]
async fn an_answer_that_is_too_long_fails_its_call_and_not_the_stream() {
    let directory = TempDir::new().unwrap();
    let coordinator = coordinator(&directory).await;
    let shop = Shop::new(watch::channel(true).1);
    let _attached = Attached::start(&shop, &coordinator);
    assert_eq!(executed(&coordinator, order("order", &[SHOP])).await, TransactionState::Committed);
    let request = ExecuteRequest { timeout_ms: 1_000, ..order("too-much", &[SHOP]) };
    let answer = coordinator.api().execute(request).await.unwrap().into_inner();
    let transaction = answer.transaction.unwrap();
    assert_eq!(transaction.state(), TransactionState::RolledBack);
    let told = &transaction.branches[0].last_error;
    assert!(told.contains("over the limit of 262144"), "{told:?}");
    assert_eq!(executed(&coordinator, order("order", &[SHOP])).await, TransactionState::Committed);
}

#[tokio::test]
async fn nobody_attached_is_nobody_there() {
    let directory = TempDir::new().unwrap();
    let coordinator = coordinator(&directory).await;
    let request = ExecuteRequest { timeout_ms: 500, ..order("order", &[SHOP]) };
    let answer = coordinator.api().execute(request).await.unwrap().into_inner();
    let transaction = answer.transaction.unwrap();
    // No Try has left, so nobody has to be told.
    assert_eq!(transaction.state(), TransactionState::RolledBack);
    assert_eq!(transaction.branches[0].last_error, "not called: it is not attached");
}

#[tokio::test]
async fn who_may_not_be_called_may_not_attach() {
    let directory = TempDir::new().unwrap();
    let options = CoordinatorOptions::new().set("participants.allow", "attached://*.bank");
    let coordinator = Coordinator::start(PROGRAMS, directory.path(), options).await.unwrap();
    let try_as = async |participant: &str| {
        let first = AttachRequest { participant: participant.to_owned(), ..AttachRequest::default() };
        let mut client = AttachmentClient::new(coordinator.channel());
        client.attach(tokio_stream::once(first)).await.map(drop)
    };
    let not_allowed = (Code::PermissionDenied, "PARTICIPANT_NOT_ALLOWED".to_owned());
    assert_eq!(refusal(try_as(SHOP).await), not_allowed);
    let invalid = (Code::InvalidArgument, "INVALID_FIELD".to_owned());
    assert_eq!(refusal(try_as("").await), invalid);
    assert_eq!(refusal(try_as(&format!("attached://{}.bank", "a".repeat(300))).await), invalid);
    try_as("attached://one.bank").await.unwrap();
}

#[tokio::test]
async fn a_coordinator_that_comes_back_finds_its_participants() {
    let directory = TempDir::new().unwrap();
    let mut coordinator = coordinator(&directory).await;
    let shop = Shop::new(watch::channel(true).1);
    let _attached = Attached::start(&shop, &coordinator);
    assert_eq!(executed(&coordinator, order("order", &[SHOP])).await, TransactionState::Committed);
    coordinator.kill9().unwrap();
    coordinator.restart().await.unwrap();
    assert_eq!(executed(&coordinator, order("order", &[SHOP])).await, TransactionState::Committed);
    // Open streams do not keep it from stopping in good order.
    assert!(coordinator.stop().await.unwrap().success());
}
