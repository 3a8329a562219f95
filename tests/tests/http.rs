//! An initiator and services that speak nothing but HTTP and JSON, against a real coordinator.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use concord_sandbox::Address;
use concord_tests::{Coordinator, CoordinatorOptions, Programs, until};
use serde_json::{Value, json};
use tempfile::TempDir;

const PROGRAMS: Programs = concord_tests::programs!();

#[tokio::test(flavor = "multi_thread")]
async fn what_is_reserved_is_used_up_or_given_back() {
    let world = World::start().await;
    let (done, answer) = world.execute("order-1", &["take", "pay"]).await;
    assert_eq!((done, &answer["state"]), (200, &json!("TRANSACTION_STATE_COMMITTED")), "{answer}");
    let gtid = answer["gtid"].as_str().unwrap();
    assert_eq!(world.shop.calls(gtid), ["pay/confirm", "pay/try", "take/confirm", "take/try"]);

    // The same order again is the same transaction.
    let (_, again) = world.execute("order-1", &["take", "pay"]).await;
    assert_eq!(again["gtid"], gtid);
    assert_eq!(world.shop.calls(gtid).len(), 4);

    let (done, answer) = world.execute("order-2", &["take", "refuse"]).await;
    assert_eq!((done, &answer["state"]), (200, &json!("TRANSACTION_STATE_ROLLED_BACK")), "{answer}");
    assert!(answer["reason"].as_str().unwrap().contains("sold out"), "{answer}");
    let calls = world.shop.calls(answer["gtid"].as_str().unwrap());
    assert_eq!(calls, ["refuse/try", "take/cancel", "take/try"], "who refused is not cancelled");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_decided_arrives_whoever_dies_meanwhile() {
    let mut world = World::start().await;
    world.shop.answer_confirms(StatusCode::TOO_EARLY);
    let order = json!({ "wait": "WAIT_DECIDED", "branches": [world.branch("take"), world.branch("pay")] });
    let (_, answer) = world.post("/v1/execute", order).await;
    let gtid = answer["transaction"]["gtid"].as_str().unwrap().to_owned();
    assert_eq!(answer["transaction"]["state"], "TRANSACTION_STATE_COMMITTING", "{answer}");
    until("it is told to confirm", async || {
        Ok(world.shop.calls(&gtid).contains(&"take/confirm".into()).then_some(()))
    })
    .await
    .unwrap();
    world.coordinator.kill9().unwrap();
    world.shop.answer_confirms(StatusCode::SERVICE_UNAVAILABLE);
    world.coordinator.restart().await.unwrap();
    let branch = |answer: &Value| answer["transaction"]["branches"][0].clone();
    until("its error is seen", async || {
        let (_, answer) = world.get(&format!("/v1/transactions/{gtid}")).await;
        Ok(branch(&answer)["lastError"].as_str().unwrap().contains("HTTP 503").then_some(()))
    })
    .await
    .unwrap();
    world.shop.answer_confirms(StatusCode::OK);
    until("it has committed", async || {
        let (_, answer) = world.get(&format!("/v1/transactions/{gtid}")).await;
        Ok((answer["transaction"]["state"] == "TRANSACTION_STATE_COMMITTED").then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_on_the_list_is_not_called() {
    let world = World::start().await;
    for address in ["http://127.0.0.1:1/elsewhere", &format!("{}/other", world.shop.address.url())] {
        let branch = json!({ "kind": "BRANCH_KIND_TCC", "participant": address, "action": "take" });
        let (status, problem) = world.post("/v1/execute", json!({ "branches": [branch] })).await;
        assert_eq!((status, &problem["reason"]), (403, &json!("PARTICIPANT_NOT_ALLOWED")), "{problem}");
    }
}

/// A coordinator, and a service that it may call by POST.
struct World {
    coordinator: Coordinator,
    shop: Shop,
    client: reqwest::Client,
    _directory: TempDir,
}

impl World {
    async fn start() -> World {
        let directory = TempDir::new().unwrap();
        let shop = Shop::start().await;
        let allow = format!("{}/api/*", shop.address.url());
        let options = CoordinatorOptions::new().set("participants.allow", allow);
        let coordinator = Coordinator::start(PROGRAMS, directory.path(), options).await.unwrap();
        World { coordinator, shop, client: reqwest::Client::new(), _directory: directory }
    }

    fn branch(&self, action: &str) -> Value {
        let participant = format!("{}/api/shop", self.shop.address.url());
        json!({ "kind": "BRANCH_KIND_TCC", "participant": participant, "action": action, "payload": "e30=" })
    }

    async fn execute(&self, key: &str, actions: &[&str]) -> (u16, Value) {
        let branches: Vec<_> = actions.iter().map(|action| self.branch(action)).collect();
        let (status, answer) =
            self.post("/v1/execute", json!({ "idempotencyKey": key, "branches": branches })).await;
        (status, answer["transaction"].clone())
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.coordinator.url())).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.client.get(format!("{}{path}", self.coordinator.url())).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }
}

/// A service that reserves, and tells what it was asked.
#[derive(Clone)]
struct Shop {
    address: Arc<Address>,
    calls: Arc<Mutex<BTreeMap<String, Vec<String>>>>,
    confirms: Arc<Mutex<StatusCode>>,
}

impl Shop {
    /// Serves until the test's runtime ends.
    async fn start() -> Shop {
        let address = Arc::new(Address::reserve().unwrap());
        let listener = tokio::net::TcpListener::bind(address.socket()).await.unwrap();
        let shop = Shop { address, calls: Arc::default(), confirms: Arc::default() };
        let router = Router::new()
            .route("/api/shop/{action}/{verb}", axum::routing::post(answer))
            .with_state(shop.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        shop
    }

    fn answer_confirms(&self, status: StatusCode) {
        *self.confirms.lock().unwrap() = status;
    }

    /// What it was asked about a transaction, in the order of the alphabet.
    fn calls(&self, gtid: &str) -> Vec<String> {
        let mut calls = self.calls.lock().unwrap().get(gtid).cloned().unwrap_or_default();
        calls.sort();
        calls
    }
}

async fn answer(
    State(shop): State<Shop>,
    Path((action, verb)): Path<(String, String)>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, &'static str) {
    assert_eq!(body, "{}");
    let gtid = headers["concord-gtid"].to_str().unwrap().to_owned();
    shop.calls.lock().unwrap().entry(gtid).or_default().push(format!("{action}/{verb}"));
    match (action.as_str(), verb.as_str()) {
        ("refuse", _) => (StatusCode::CONFLICT, r#"{"reason": "sold out"}"#),
        (_, "confirm") => (*shop.confirms.lock().unwrap(), ""),
        _ => (StatusCode::OK, ""),
    }
}
