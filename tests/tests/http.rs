//! An initiator and services that speak nothing but HTTP and JSON, against a real coordinator.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::{Json, Router};
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
    let gtid = world.decided().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn somebody_is_told_of_what_is_stuck_once() {
    let mut world = World::start().await;
    // An order that waits for an operator.
    world.shop.answer_confirms(StatusCode::CONFLICT);
    let parked = world.decided().await;
    world.alert_of(&parked, true).await;
    // One that takes too long, and then waits too.
    world.shop.answer_confirms(StatusCode::SERVICE_UNAVAILABLE);
    let late = world.decided().await;
    world.shop.refuse_alerts(true);
    until("an alert is refused twice", async || Ok((world.shop.refused_alerts() > 1).then_some(())))
        .await
        .unwrap();
    let complaints = world.coordinator.process().log().matches("an alert could not be told").count();
    assert_eq!(complaints, 1, "for the same reason");
    world.shop.refuse_alerts(false);
    let alert = world.alert_of(&late, false).await;
    assert!(alert["reason"].as_str().unwrap().contains("HTTP 503"), "{alert}");
    assert!(alert["ageMs"].as_u64().unwrap() >= 1_000, "{alert}");
    world.shop.answer_confirms(StatusCode::CONFLICT);
    world.alert_of(&late, true).await;
    assert_eq!(world.shop.alerts_of(&parked).len(), 1, "it has been told");
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
        let options = CoordinatorOptions::new()
            .set("participants.allow", allow)
            .set("alert.url", format!("{}/alerts?key=secret", shop.address.url()))
            .set("alert.older_than_ms", 1_000);
        let coordinator = Coordinator::start(PROGRAMS, directory.path(), options).await.unwrap();
        World { coordinator, shop, client: reqwest::Client::new(), _directory: directory }
    }

    fn branch(&self, action: &str) -> Value {
        let participant = format!("{}/api/shop", self.shop.address.url());
        json!({ "kind": "BRANCH_KIND_TCC", "participant": participant, "action": action, "payload": "e30=" })
    }

    /// A transaction that is to commit; its gtid.
    async fn decided(&self) -> String {
        let order = json!({ "wait": "WAIT_DECIDED", "branches": [self.branch("take"), self.branch("pay")] });
        let (_, answer) = self.post("/v1/execute", order).await;
        assert_eq!(answer["transaction"]["state"], "TRANSACTION_STATE_COMMITTING", "{answer}");
        answer["transaction"]["gtid"].as_str().unwrap().to_owned()
    }

    /// Waits for an alert of this transaction.
    async fn alert_of(&self, gtid: &str, parked: bool) -> Value {
        until("an alert", async || {
            Ok(self.shop.alerts_of(gtid).into_iter().find(|alert| alert["parked"] == parked))
        })
        .await
        .unwrap()
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
    alerts: Arc<Mutex<Alerts>>,
}

/// What was told to it.
#[derive(Default)]
struct Alerts {
    transactions: Vec<Value>,
    refuses: bool,
    refused: usize,
}

impl Shop {
    /// Serves until the test's runtime ends.
    async fn start() -> Shop {
        let address = Arc::new(Address::reserve().unwrap());
        let listener = tokio::net::TcpListener::bind(address.socket()).await.unwrap();
        let (calls, confirms, alerts) = Default::default();
        let shop = Shop { address, calls, confirms, alerts };
        let router = Router::new()
            .route("/api/shop/{action}/{verb}", axum::routing::post(answer))
            .route("/alerts", axum::routing::post(alert))
            .with_state(shop.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        shop
    }

    fn answer_confirms(&self, status: StatusCode) {
        *self.confirms.lock().unwrap() = status;
    }

    fn refuse_alerts(&self, refuses: bool) {
        self.alerts.lock().unwrap().refuses = refuses;
    }

    fn refused_alerts(&self) -> usize {
        self.alerts.lock().unwrap().refused
    }

    fn alerts_of(&self, gtid: &str) -> Vec<Value> {
        let alerts = self.alerts.lock().unwrap();
        alerts.transactions.iter().filter(|one| one["gtid"] == gtid).cloned().collect()
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

async fn alert(State(shop): State<Shop>, uri: Uri, Json(message): Json<Value>) -> StatusCode {
    assert_eq!(uri.query(), Some("key=secret"));
    let mut alerts = shop.alerts.lock().unwrap();
    if alerts.refuses {
        alerts.refused += 1;
        return StatusCode::INTERNAL_SERVER_ERROR;
    }
    assert!(message["text"].as_str().unwrap().starts_with("Concord: "), "{message}");
    alerts.transactions.extend(message["transactions"].as_array().unwrap().iter().cloned());
    StatusCode::OK
}
