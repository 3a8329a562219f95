//! The gateway in front of a real engine, whose participants agree to all; and its OpenAPI document.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use concord_proto::v1::coordinator_server::CoordinatorServer;
use concord_proto::v1::operator_server::OperatorServer;
use concord_protocol::{Outcome, Reply, Verb, Vote};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::message::DESCRIPTORS;
use super::openapi::names_in_path;
use super::routes::ROUTES;
use super::{router, unknown};
use crate::engine::{Backoff, BranchCall, CallResult, Engine, Participants, Settings};
use crate::metrics::Metrics;
use crate::store::MemoryStore;
use crate::transport::{Guard, PageSizes, doors};

const BODY_BYTES_MAX: usize = 10_000;

/// Participants that agree to all but an action named "refuse".
struct Agreeing;

impl Participants for Agreeing {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, CallResult> {
        let reply = match call.verb {
            _ if &*call.action == "refuse" => Reply::Vote(Vote::No),
            Verb::Rollback | Verb::Cancel => Reply::Ended(Outcome::RolledBack),
            Verb::Work => Reply::Worked,
            Verb::WorkAndPrepare | Verb::Prepare | Verb::Try => Reply::Vote(Vote::Yes),
            _ => Reply::Ended(Outcome::Committed),
        };
        let reason = if reply == Reply::Vote(Vote::No) { "sold out" } else { "" };
        std::future::ready(CallResult { reply, reason: reason.into(), payload: call.payload }).boxed()
    }

    fn permits(&self, participant: &str) -> bool {
        participant.starts_with("http://127.0.0.1:")
    }
}

struct Gateway(axum::Router);

impl Gateway {
    async fn start() -> Gateway {
        let settings = Settings {
            live_transactions_max: 100,
            branches_max: 5,
            payload_bytes_max: 1_000,
            timeout_default: Duration::from_secs(30),
            timeout_max: Duration::from_secs(600),
            backoff: Backoff { first: Duration::from_millis(10), max: Duration::from_secs(1) },
            park_after_attempts: None,
            tenants: Default::default(),
        };
        let engine = Engine::start(Arc::new(MemoryStore::new()), Arc::new(Agreeing), settings).await.unwrap();
        let (coordinator, operator) = doors(Arc::new(engine), PageSizes { default: 50, max: 100 });
        let grpc =
            Routes::new(CoordinatorServer::new(coordinator)).add_service(OperatorServer::new(operator));
        let grpc = grpc.into_axum_router();
        let web = router(grpc.clone(), &Guard::new(None, &Metrics::default()), BODY_BYTES_MAX);
        Gateway(grpc.merge(web).fallback(unknown))
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, String, Vec<u8>) {
        let response = self.0.clone().oneshot(request).await.unwrap();
        let kind = response.headers().get(header::CONTENT_TYPE);
        let kind = kind.map_or("", |kind| kind.to_str().unwrap()).to_owned();
        let status = response.status();
        (status, kind, to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
    }

    async fn ask(&self, request: Request<Body>) -> (StatusCode, Value) {
        let (status, kind, body) = self.send(request).await;
        let expected = if status == StatusCode::OK { "application/json" } else { "application/problem+json" };
        assert_eq!(kind, expected, "{status}: {}", String::from_utf8_lossy(&body));
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(post(path, body.to_string())).await
    }

    async fn done(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }
}

fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    request.body(body.into()).unwrap()
}

fn branch(action: &str) -> Value {
    // "hello", in base64.
    json!({ "kind": "BRANCH_KIND_TCC", "participant": "http://127.0.0.1:7101", "action": action, "payload": "aGVsbG8=" })
}

#[tokio::test]
async fn a_transaction_is_executed_and_found_again() {
    let gateway = Gateway::start().await;
    let order = json!({ "name": "order 7", "branches": [branch("take"), branch("pay")] });
    let answer = gateway.done("/v1/execute", order).await;
    let transaction = &answer["transaction"];
    assert_eq!(transaction["state"], "TRANSACTION_STATE_COMMITTED");
    assert_eq!(transaction["branches"][1]["branchId"], 2);
    assert_eq!(answer["replies"], json!(["aGVsbG8=", "aGVsbG8="]), "bytes are in base64");
    let gtid = transaction["gtid"].as_str().unwrap();

    let (status, found) = gateway.get(&format!("/v1/transactions/{gtid}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(found["transaction"]["name"], "order 7");
    assert_eq!(found["transaction"]["parked"], false, "what is not set is told too");
    assert!(found["transaction"]["begunAt"].as_str().unwrap().ends_with('Z'));
    assert_eq!(found["transaction"]["history"][0]["kind"], "begun");

    for query in
        ["states=TRANSACTION_STATE_COMMITTED&states=TRANSACTION_STATE_ACTIVE&pageSize=10", "name=order%207"]
    {
        let (_, list) = gateway.get(&format!("/v1/transactions?{query}")).await;
        assert_eq!(list["transactions"][0]["gtid"], gtid, "{query}: {list}");
    }
    for query in
        ["parked_only=true", "kind=BRANCH_KIND_XA", "text=nowhere", "begun_before=2020-01-01T00:00:00Z"]
    {
        let (_, list) = gateway.get(&format!("/v1/transactions?{query}")).await;
        assert_eq!(list["transactions"], json!([]), "{query}");
    }
}

#[tokio::test]
async fn an_initiator_drives_a_transaction() {
    let gateway = Gateway::start().await;
    let begun = gateway.done("/v1/transactions", json!({ "name": "by hand", "timeoutMs": 5000 })).await;
    assert_eq!(begun["timeoutMs"], 5000);
    let path = format!("/v1/transactions/{}", begun["gtid"].as_str().unwrap());
    let joining =
        json!({ "kind": "BRANCH_KIND_XA", "participant": "http://127.0.0.1:7101", "registration_key": "a" });
    let joined = gateway.done(&format!("{path}/branches"), joining).await;
    assert_eq!(joined["branchId"], 1);
    assert!(joined["clusterId"].is_string(), "64 bits are a string: {joined}");
    gateway.done(&format!("{path}/branches/1/vote"), json!({ "vote": "VOTE_YES" })).await;
    // Without a body.
    let (status, committed) =
        gateway.ask(Request::post(format!("{path}/commit")).body(Body::empty()).unwrap()).await;
    assert_eq!(
        (status, &committed["transaction"]["state"]),
        (StatusCode::OK, &json!("TRANSACTION_STATE_COMMITTED"))
    );

    let (status, problem) = gateway.post(&format!("{path}/rollback"), json!({})).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(problem["reason"], "ALREADY_COMMITTED");
    assert_eq!(problem["type"], "urn:concord:problem:ALREADY_COMMITTED");
    assert_eq!(problem["code"], "FAILED_PRECONDITION");
    assert_eq!(problem["status"], 409);
}

#[tokio::test]
async fn a_refusal_is_an_outcome() {
    let gateway = Gateway::start().await;
    let answer = gateway.done("/v1/execute", json!({ "branches": [branch("refuse"), branch("pay")] })).await;
    assert_eq!(answer["transaction"]["state"], "TRANSACTION_STATE_ROLLED_BACK");
    assert!(answer["transaction"]["reason"].as_str().unwrap().contains("sold out"), "{answer}");
}

#[tokio::test]
async fn changes_are_told_line_by_line() {
    let gateway = Gateway::start().await;
    let begun = gateway.done("/v1/transactions", json!({})).await;
    let path = format!("/v1/transactions/{}", begun["gtid"].as_str().unwrap());
    let response =
        gateway.0.clone().oneshot(Request::get(format!("{path}/watch")).body(Body::empty()).unwrap());
    let response = response.await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/x-ndjson");
    let mut lines = response
        .into_body()
        .into_data_stream()
        .map(|line| serde_json::from_slice::<Value>(&line.unwrap()).unwrap());
    assert_eq!(lines.next().await.unwrap()["transaction"]["state"], "TRANSACTION_STATE_ACTIVE");
    gateway.done(&format!("{path}/rollback"), json!({ "reason": "enough" })).await;
    let rest: Vec<_> = lines.collect().await;
    assert_eq!(rest.last().unwrap()["transaction"]["state"], "TRANSACTION_STATE_ROLLED_BACK");
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let gateway = Gateway::start().await;
    let unknown = "/v1/transactions/01890000-0000-8000-8000-000000000001";
    let bad: [(Request<Body>, u16, &str); 20] = [
        (Request::get("/v1/nothing").body(Body::empty()).unwrap(), 404, "openapi.json"),
        (Request::delete(unknown).body(Body::empty()).unwrap(), 405, "DELETE"),
        (Request::get(unknown).body(Body::empty()).unwrap(), 404, "01890000"),
        (Request::get("/v1/transactions/x").body(Body::empty()).unwrap(), 400, "not a gtid"),
        (Request::get("/v1/transactions?colour=red").body(Body::empty()).unwrap(), 400, "colour"),
        (Request::get("/v1/transactions?page_size=many").body(Body::empty()).unwrap(), 400, "pageSize: "),
        (Request::get("/v1/transactions?page_size=1&pageSize=2").body(Body::empty()).unwrap(), 400, "twice"),
        (Request::get("/v1/transactions?states=DONE").body(Body::empty()).unwrap(), 400, "DONE"),
        (
            Request::get("/v1/transactions?begunAfter=1969-12-31T00:00:00Z").body(Body::empty()).unwrap(),
            400,
            "begun_after",
        ),
        (post("/v1/execute", "{\"branches\": 7}"), 400, "branches: "),
        (post("/v1/execute", "{\"branches\""), 400, "the body"),
        (post("/v1/execute", "[]"), 400, "the body"),
        (post("/v1/execute", "{\"branches\": [], \"branches\": []}"), 400, "\"branches\" is given twice"),
        (post("/v1/transactions", "{\"timeout_ms\": 1, \"timeoutMs\": 2}"), 400, "timeout_ms is given twice"),
        (
            post("/v1/transactions", "{\"colour\": 7}"),
            400,
            "\"colour\": there is no such member of BeginRequest",
        ),
        (post("/v1/execute", "{\"branches\": [{\"colour\": 7}]}"), 400, "member of BranchRequest"),
        (post("/v1/transactions", "{\"timeoutMs\": 99999999999}"), 400, "timeoutMs: is out of range"),
        (post(&format!("{unknown}/commit"), "{\"gtid\": \"other\"}"), 400, "in the path"),
        (post("/v1/execute", vec![b' '; BODY_BYTES_MAX + 1]), 413, "10000"),
        (Request::post("/v1/execute").body("{}".into()).unwrap(), 415, "application/json"),
    ];
    for (request, expected, told) in bad {
        let asked = format!("{} {}", request.method(), request.uri());
        let (status, problem) = gateway.ask(request).await;
        assert_eq!(status.as_u16(), expected, "{asked}: {problem}");
        assert_eq!(problem["status"], expected);
        assert!(problem["detail"].as_str().unwrap().contains(told), "{asked}: {problem}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let gateway = Gateway::start().await;
    let silent = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let (status, problem) = gateway.ask(post("/v1/execute", silent)).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "{problem}");
}

#[tokio::test]
async fn another_sites_page_gives_no_orders() {
    let gateway = Gateway::start().await;
    let order = |origin: &str| {
        let request = Request::post("/v1/transactions").header(header::ORIGIN, origin);
        request.header(header::HOST, "127.0.0.1:7600").body(Body::empty()).unwrap()
    };
    assert_eq!(gateway.send(order("https://shop.example")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(gateway.send(order("null")).await.0, StatusCode::FORBIDDEN);
    assert_eq!(gateway.send(order("http://127.0.0.1:7600")).await.0, StatusCode::OK);
    // As HTTP/2 has it: without the header Host.
    let order = |origin: &str| {
        let request = Request::post("https://concord.example:7600/v1/transactions");
        request.header(header::ORIGIN, origin).body(Body::empty()).unwrap()
    };
    assert_eq!(gateway.send(order("https://concord.example:7600")).await.0, StatusCode::OK);
    assert_eq!(gateway.send(order("https://shop.example")).await.0, StatusCode::FORBIDDEN);
}

#[test]
fn names_that_dns_has_a_say_in_are_not_this_machine() {
    for host in ["localhost", "LOCALHOST:7600", "127.0.0.1:7600", "[::1]:7600", "10.0.0.7"] {
        assert!(super::is_local(host), "{host}");
    }
    for host in ["shop.example", "localhost.shop.example:7600", "127.0.0.1.shop.example", "", "[::1", "a b"] {
        assert!(!super::is_local(host), "{host}");
    }
}

#[test]
fn every_method_has_a_route() {
    let routed: BTreeSet<_> = ROUTES.iter().map(|route| format!("{}.{}", route.service, route.rpc)).collect();
    let methods = ["Coordinator", "Operator", "Attachment"].map(|name| {
        let service = DESCRIPTORS.get_service_by_name(&format!("concord.v1.{name}")).unwrap();
        service.methods().map(move |method| (format!("{name}.{}", method.name()), method)).collect::<Vec<_>>()
    });
    let methods = methods.into_iter().flatten();
    let expected: BTreeSet<_> =
        methods.filter(|(_, method)| !method.is_client_streaming()).map(|(name, _)| name).collect();
    assert_eq!(routed, expected);
    for route in ROUTES {
        let input = super::message::rpc(route.service, route.rpc).input();
        for name in names_in_path(route.path) {
            assert!(input.get_field_by_name(name).is_some(), "{} has no {name}", input.full_name());
        }
    }
}

#[tokio::test]
async fn the_document_is_that_of_the_routes() {
    let gateway = Gateway::start().await;
    let (status, document) = gateway.get("/v1/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    let mut references = BTreeSet::new();
    let mut told = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            told += 1;
            assert_ne!(operation["description"], "", "{method} {path}");
            let path =
                path.replace("{gtid}", "01890000-0000-8000-8000-000000000001").replace("{branch_id}", "1");
            let method: Method = method.to_uppercase().parse().unwrap();
            let request = Request::builder()
                .method(method.clone())
                .uri(&path)
                .header(header::CONTENT_TYPE, "application/json");
            let (status, _, body) = gateway.send(request.body("{}".into()).unwrap()).await;
            let body = String::from_utf8_lossy(&body);
            // Either it is answered, or what is asked for is not there, or lacks something.
            assert!(!body.contains("openapi.json"), "{method} {path} is no route: {status} {body}");
            assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{method} {path}: {body}");
            assert_ne!(status, StatusCode::NOT_IMPLEMENTED, "{method} {path}: {body}");
        }
    }
    assert_eq!(told, ROUTES.len());
    collect_references(&document, &mut references);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in references {
        let name = name.strip_prefix("#/components/schemas/").unwrap();
        assert!(schemas.contains_key(name), "{name} is referred to");
    }
    assert!(schemas["Transaction"]["properties"]["gtid"]["description"].as_str().unwrap().contains("UUID"));
}

fn collect_references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                found.insert(reference.clone());
            }
            members.values().for_each(|member| collect_references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}
