//! The ready-made handlers in a participant, called as the coordinator calls them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use concord_participant::{MySql, Options, Participant, ParticipantServer};
use concord_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use concord_proto::v1::participant_client::ParticipantClient;
use concord_proto::v1::*;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server as TonicServer};
use tonic::{Request, Response, Status};

use crate::on_both;
use crate::support::*;

/// Says of transactions what the test wants, and nothing else.
#[derive(Clone, Default)]
struct Oracle(Arc<Mutex<HashMap<String, Outcome>>>);

fn unused<T>() -> std::result::Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl Coordinator for Oracle {
    type WatchStream = tokio_stream::Empty<std::result::Result<WatchResponse, Status>>;

    async fn inquire(&self, request: Request<InquireRequest>) -> Answer<InquireResponse> {
        let known = self.0.lock().unwrap();
        let of = |gtid: &String| known.get(gtid).copied().unwrap_or(Outcome::Undecided).into();
        let outcomes = request.into_inner().gtids.iter().map(of).collect();
        Ok(Response::new(InquireResponse { outcomes, cluster_id: 1, ended: Vec::new() }))
    }
    async fn begin(&self, _: Request<BeginRequest>) -> Answer<BeginResponse> {
        unused()
    }
    async fn register_branch(&self, _: Request<RegisterBranchRequest>) -> Answer<RegisterBranchResponse> {
        unused()
    }
    async fn report_vote(&self, _: Request<ReportVoteRequest>) -> Answer<ReportVoteResponse> {
        unused()
    }
    async fn commit(&self, _: Request<CommitRequest>) -> Answer<CommitResponse> {
        unused()
    }
    async fn rollback(&self, _: Request<RollbackRequest>) -> Answer<RollbackResponse> {
        unused()
    }
    async fn execute(&self, _: Request<ExecuteRequest>) -> Answer<ExecuteResponse> {
        unused()
    }
    async fn get(&self, _: Request<GetRequest>) -> Answer<GetResponse> {
        unused()
    }
    async fn list(&self, _: Request<ListRequest>) -> Answer<ListResponse> {
        unused()
    }
    async fn watch(&self, _: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        unused()
    }
}

struct World {
    shop: Shop<MySql>,
    oracle: Oracle,
    participant: Participant,
    client: ParticipantClient<Channel>,
}

async fn listener() -> (TcpListenerStream, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (TcpListenerStream::new(listener), url)
}

impl World {
    async fn new(flavor: Flavor) -> Self {
        let url = database(flavor).await;
        let mut shop = Shop::on(MySql::connect(&url, &Options::default()).unwrap(), "stock").await;
        shop.add("T1", 10).await.unwrap();
        shop.stock = shop.stock.hold(Duration::ZERO);
        let oracle = Oracle::default();
        let (incoming, coordinator) = listener().await;
        let service = CoordinatorServer::new(oracle.clone());
        tokio::spawn(TonicServer::builder().add_service(service).serve_with_incoming(incoming));
        let stock = &shop.stock;
        let server = ParticipantServer::builder()
            .database(&url)
            .coordinator(&coordinator)
            .address("http://stock.test:7101")
            .tcc("reserve", stock.try_handler(), stock.confirm_handler(), stock.cancel_handler())
            .build()
            .await
            .expect("a participant");
        let participant = server.participant();
        let (incoming, address) = listener().await;
        tokio::spawn(async move { server.router().await.unwrap().serve_with_incoming(incoming).await });
        let client = ParticipantClient::connect(address).await.unwrap();
        World { shop, oracle, participant, client }
    }

    async fn attempt(&self, gtid: Gtid, payload: &str) -> TryResponse {
        let request = TryRequest { branch: context(gtid), work: work(payload), remaining_ms: 30_000 };
        self.client.clone().r#try(request).await.unwrap().into_inner()
    }

    async fn confirm(&self, gtid: Gtid) -> ConfirmResponse {
        let request = ConfirmRequest { branch: context(gtid), work: work("") };
        self.client.clone().confirm(request).await.unwrap().into_inner()
    }

    async fn cancel(&self, gtid: Gtid) -> CancelResponse {
        let request = CancelRequest { branch: context(gtid), work: work("") };
        self.client.clone().cancel(request).await.unwrap().into_inner()
    }

    async fn expire(&self) -> Expired {
        self.shop.stock.expire_rolled_back(&self.shop.database, &self.participant).await.unwrap()
    }

    fn says(&self, gtid: Gtid, outcome: Outcome) {
        self.oracle.0.lock().unwrap().insert(gtid.to_string(), outcome);
    }
}

fn context(gtid: Gtid) -> Option<BranchContext> {
    Some(BranchContext { gtid: gtid.to_string(), branch_id: 1, cluster_id: 1 })
}

fn work(payload: &str) -> Option<Work> {
    Some(Work { action: "reserve".into(), payload: payload.to_owned().into() })
}

fn two_of_t1() -> String {
    let item = ReserveItem { sku: "T1".into(), quantity: 2 };
    serde_json::to_string(&ReserveItems { items: vec![item] }).unwrap()
}

on_both! {
    async fn handlers_do_once_what_they_are_called_for(flavor) {
        let world = World::new(flavor).await;
        let (bought, dropped, never) = (gtid(), gtid(), gtid());
        for order in [bought, dropped, bought] {
            assert!(world.attempt(order, &two_of_t1()).await.reserved);
        }
        assert_eq!(world.shop.figures("T1").await, (6, 4));
        for _ in 0..2 {
            assert_eq!(world.confirm(bought).await.outcome(), BranchOutcome::Committed);
            assert_eq!(world.cancel(dropped).await.outcome(), BranchOutcome::RolledBack);
            assert_eq!(world.cancel(never).await.outcome(), BranchOutcome::RolledBack);
        }
        assert!(!world.attempt(never, &two_of_t1()).await.reserved);
        assert_eq!(world.shop.figures("T1").await, (8, 0));
        world.shop.audit_is_clean().await;
    }

    async fn bad_payloads_are_refused_in_words(flavor) {
        let world = World::new(flavor).await;
        for (payload, wanted) in [
            (r#"{"items": [{"sku": "T1", "quantity": 0}]}"#, "the quantity of T1 is 0"),
            (r#"{"items": [{"sku": "T1", "quantity": -2}]}"#, "the quantity of T1 is -2"),
            (r#"{"items": [{"sku": "T1", "quantity": 9223372036854775807}]}"#, "which is not from 1 to"),
            (r#"{"items": [{"sku": "T1", "quantity": 9223372036854775808}]}"#, "not as expected"),
            (r#"{"items": [{"sku": "T1", "quantity": 1.5}]}"#, "not as expected"),
            (r#"{"items": [{"sku": "T1", "quantity": "1"}]}"#, "not as expected"),
            (r#"{"items": [{"sku": "T1"}]}"#, "not as expected"),
            (r#"{"items": [{"sku": "T1", "qty": 1}]}"#, "not as expected"),
            (r#"{"items": []}"#, "there are no items"),
            (r#"{"items": [{"sku": "T2", "quantity": 1}]}"#, "there is no SKU T2"),
            (r#"{"items": [{"sku": "T1", "quantity": 11}]}"#, "not enough of T1: 11 wanted, 10 available"),
            ("", "not as expected"),
        ] {
            let answer = world.attempt(gtid(), payload).await;
            assert!(!answer.reserved && answer.reason.contains(wanted), "{payload}: {answer:?}");
        }
        assert_eq!(world.shop.figures("T1").await, (10, 0));
    }

    /// A Confirm has no business "no", so its refusal waits for an operator.
    async fn confirm_of_what_has_expired_is_refused(flavor) {
        let world = World::new(flavor).await;
        let order = gtid();
        assert!(world.attempt(order, &two_of_t1()).await.reserved);
        world.shop.expire(order).await.unwrap();
        let answer = world.confirm(order).await;
        assert_eq!(answer.outcome(), BranchOutcome::Refused);
        assert!(answer.reason.contains("is expired, not pending"), "{answer:?}");
        assert_eq!(world.shop.figures("T1").await, (10, 0));
    }

    async fn what_was_rolled_back_expires_and_nothing_else(flavor) {
        let world = World::new(flavor).await;
        let [committed, undecided, lost, contradicted] = [gtid(), gtid(), gtid(), gtid()];
        for order in [committed, undecided, lost, contradicted] {
            assert!(world.attempt(order, &two_of_t1()).await.reserved);
        }
        world.says(committed, Outcome::Committed);
        world.says(lost, Outcome::RolledBack);
        world.says(contradicted, Outcome::RolledBack);
        let id = contradicted.to_string().replace('-', "");
        world.shop.sql(&format!("UPDATE concord_barrier SET state = 4 WHERE gtid = X'{id}'")).await.unwrap();
        assert_eq!(world.expire().await, Expired { expired: 1, left: 3 });
        assert_eq!(world.expire().await, Expired { expired: 0, left: 3 });
        assert_eq!(world.shop.figures("T1").await, (4, 6));
        assert_eq!(world.shop.history(lost).await[0].state, State::Expired);
        // Late calls find the barrier's row, and run no handler.
        assert_eq!(world.confirm(lost).await.outcome(), BranchOutcome::RolledBack);
        assert_eq!(world.cancel(lost).await.outcome(), BranchOutcome::RolledBack);
        assert!(world.attempt(lost, &two_of_t1()).await.reason.contains("cancelled"));
        assert_eq!(world.confirm(committed).await.outcome(), BranchOutcome::Committed);
        assert_eq!(world.shop.figures("T1").await, (4, 4));
        world.shop.audit_is_clean().await;
    }

    /// Its barrier's row has been purged: the transaction ended long ago.
    async fn what_the_barrier_has_forgotten_expires_too(flavor) {
        let world = World::new(flavor).await;
        let lost = gtid();
        assert!(world.attempt(lost, &two_of_t1()).await.reserved);
        world.shop.sql("DELETE FROM concord_barrier").await.unwrap();
        assert_eq!(world.expire().await, Expired { expired: 0, left: 1 });
        world.says(lost, Outcome::RolledBack);
        assert_eq!(world.expire().await, Expired { expired: 1, left: 0 });
        assert_eq!(world.shop.figures("T1").await, (10, 0));
    }
}
