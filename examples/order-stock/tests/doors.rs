//! What the order service's doors say to bad input: against the real thing, with three databases.
#![allow(clippy::unwrap_used, reason = "these are tests, their helper functions included")]

mod running;

/// Generated from `proto/orderstock/v1/orders.proto`.
#[allow(unreachable_pub, unused_qualifications)]
mod v1 {
    tonic::include_proto!("orderstock.v1");
}

use concord_proto::v1::GetStatusRequest;
use concord_proto::v1::operator_client::OperatorClient;
use concord_sandbox::until;
use reqwest::{Client, Method, StatusCode};
use running::Running;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::Endpoint;
use v1::orders_client::OrdersClient;
use v1::{GetRequest, PlaceRequest};

/// A shop that is open: the demo after its last step.
struct Shop {
    demo: Running,
    http: Client,
    _dir: TempDir,
}

impl Shop {
    fn open() -> Shop {
        let dir = TempDir::new().unwrap();
        let arguments = ["--db", "mariadb", "--orders", "10", "--keep"];
        let demo = Running::until(dir.path(), &arguments, running::KEPT);
        Shop { demo, http: Client::new(), _dir: dir }
    }

    fn door(&self) -> String {
        self.demo.url("order")
    }

    /// As `curl -d` does it.
    async fn post(&self, body: impl Into<String>) -> (StatusCode, Value) {
        self.post_with(&[], body).await
    }

    async fn post_with(&self, headers: &[(&str, &str)], body: impl Into<String>) -> (StatusCode, Value) {
        let mut request = self.http.post(format!("{}/orders", self.door())).body(body.into());
        request = request.header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    async fn ask(&self, method: Method, path: &str) -> (StatusCode, Value) {
        let response = self.http.request(method, format!("{}{path}", self.door())).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// Figures of every SKU, every account and every order, frozen goods and money included.
    async fn everything(&self) -> Vec<String> {
        use mysql_async::prelude::Queryable as _;
        let mut all = Vec::new();
        for (service, sql) in [
            ("order", "SELECT CONCAT_WS(' ', id, sku, qty, user, cents) FROM orders ORDER BY id"),
            ("stock", "SELECT CONCAT_WS(' ', sku, bucket, on_hand, available, frozen) FROM stock ORDER BY 1"),
            ("payment", "SELECT CONCAT_WS(' ', sku, on_hand, available, frozen) FROM balance ORDER BY sku"),
        ] {
            let url = format!("mysql://root@127.0.0.1:{}/{service}", self.demo.database_port(service));
            let rows: Vec<String> = mysql_async::Conn::from_url(url).await.unwrap().query(sql).await.unwrap();
            assert!(!rows.is_empty());
            all.extend(rows);
        }
        all
    }
}

/// One after the other, in one shop.
#[tokio::test]
async fn what_the_doors_say() {
    let shop = Shop::open();
    bad_input_gets_a_clear_answer_and_changes_nothing(&shop).await;
    wrong_methods_and_paths_get_a_clear_answer(&shop).await;
    a_request_id_belongs_to_one_wish_of_one_user(&shop).await;
    a_refusal_is_repeated_too(&shop).await;
    the_grpc_door_says_the_same(&shop).await;
    without_a_coordinator_it_is_unavailable_and_the_wish_can_be_repeated(&shop).await;
}

async fn bad_input_gets_a_clear_answer_and_changes_nothing(shop: &Shop) {
    let before = shop.everything().await;
    let long = "x".repeat(65);
    let with = |name: &str, value: Value| {
        let mut wish = json!({ "sku": "T00101", "qty": 2, "user": 5 });
        wish[name] = value;
        wish.to_string()
    };
    let (bad, missing, conflict) = (StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::CONFLICT);
    for (body, status, reason) in [
        (r#"{"sku":"T00101","user":5}"#.to_owned(), bad, "missing field `qty`"),
        (r#"{"qty":2,"user":5}"#.to_owned(), bad, "missing field `sku`"),
        (r#"{"sku":"T00101","qty":2}"#.to_owned(), bad, "missing field `user`"),
        (with("qty", json!(0)), bad, "qty must be from 1 to 10000, not 0"),
        (with("qty", json!(-1)), bad, "qty must be from 1 to 10000, not -1"),
        (with("qty", json!(i64::MIN)), bad, "qty must be from 1 to 10000"),
        (with("qty", json!(10_001)), bad, "qty must be from 1 to 10000, not 10001"),
        (with("qty", json!(i64::MAX)), bad, "qty must be from 1 to 10000"),
        (with("qty", json!(u64::MAX)), bad, "invalid value"),
        (r#"{"sku":"T00101","qty":123456789012345678901234567890,"user":5}"#.to_owned(), bad, "invalid type"),
        (with("qty", json!(1.5)), bad, "invalid type"),
        (with("qty", json!("2")), bad, "invalid type"),
        (with("qty", Value::Null), bad, "invalid type"),
        (with("user", json!(0)), bad, "user must be 1 or more"),
        (with("user", json!(-5)), bad, "invalid value"),
        (with("user", json!(u64::from(u32::MAX) + 1)), bad, "invalid value"),
        (with("user", json!(77_777)), conflict, "there is no user 77777"),
        (with("sku", json!("")), bad, "sku must have from 1 to 64 characters"),
        (with("sku", json!(long)), bad, "sku must have from 1 to 64 characters"),
        (with("sku", json!("T99999")), missing, "there is no T99999"),
        (with("sku", json!("t00101")), missing, "there is no t00101"),
        (with("sku", json!("'; DROP TABLE orders; --")), missing, "there is no '"),
        (with("sku", json!("\u{0}")), missing, "there is no \u{0}"),
        (with("request_id", json!("")), bad, "request_id must have from 1 to 64 bytes"),
        (with("request_id", json!(long)), bad, "request_id must have from 1 to 64 bytes"),
        (with("colour", json!("red")), bad, "unknown field `colour`"),
        (String::new(), bad, "EOF"),
        ("sku=T00101&qty=2&user=5".to_owned(), bad, "expected value"),
        (r#"{"sku":"T00101","qty":2,"user":5"#.to_owned(), bad, "EOF"),
        (r#"["T00101", 2, 5, "one", "more"]"#.to_owned(), bad, "trailing characters"),
        ("[".repeat(4_000), bad, "invalid type"),
    ] {
        let (got, answer) = shop.post(body.clone()).await;
        assert_eq!(got, status, "{body}: {answer}");
        assert!(answer["error"].as_str().unwrap().contains(reason), "{body}: {answer}");
    }
    let (status, answer) = shop.post("x".repeat(5_000)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer["error"].as_str().unwrap().contains("length limit exceeded"), "{answer}");
    assert_eq!(shop.everything().await, before);
}

async fn wrong_methods_and_paths_get_a_clear_answer(shop: &Shop) {
    let no_order = "/orders/01a1fe15-3fa3-8000-8000-040000000000";
    for (method, path, status) in [
        (Method::GET, "/orders", StatusCode::METHOD_NOT_ALLOWED),
        (Method::PUT, "/orders", StatusCode::METHOD_NOT_ALLOWED),
        (Method::DELETE, no_order, StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/", StatusCode::NOT_FOUND),
        (Method::POST, "/order", StatusCode::NOT_FOUND),
        (Method::GET, no_order, StatusCode::NOT_FOUND),
        (Method::GET, "/orders/7", StatusCode::NOT_FOUND),
        (Method::GET, "/orders/%00", StatusCode::NOT_FOUND),
        // Not UTF-8.
        (Method::GET, "/orders/%ff", StatusCode::BAD_REQUEST),
    ] {
        let (got, answer) = shop.ask(method.clone(), path).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        assert!(answer["error"].is_string(), "{method} {path}: {answer}");
    }
}

async fn a_request_id_belongs_to_one_wish_of_one_user(shop: &Shop) {
    let wish = |qty: i64, user: u32| json!({ "sku": "T00101", "qty": qty, "user": user }).to_string();
    let key = [("idempotency-key", "one")];
    let (status, first) = shop.post_with(&key, wish(2, 5)).await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    let (_, order) = shop.ask(Method::GET, &format!("/orders/{}", first["id"].as_str().unwrap())).await;
    assert_eq!(order, first);
    // The header is as good as the field.
    let same = json!({ "sku": "T00101", "qty": 2, "user": 5, "request_id": "one" });
    assert_eq!(shop.post(same.to_string()).await, (StatusCode::CREATED, first.clone()));
    assert_eq!(shop.post_with(&key, same.to_string()).await, (StatusCode::CREATED, first.clone()));
    let (status, answer) = shop.post_with(&[("idempotency-key", "other")], same.to_string()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    let (status, answer) = shop.post_with(&key, wish(3, 5)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    // Another user's is another request; and without an id, each is.
    let (status, other) = shop.post_with(&key, wish(2, 6)).await;
    assert_eq!(status, StatusCode::CREATED, "{other}");
    let (status, more) = shop.post(wish(2, 5)).await;
    assert_eq!(status, StatusCode::CREATED, "{more}");
    assert!(first["id"] != other["id"] && first["id"] != more["id"] && other["id"] != more["id"]);
}

async fn a_refusal_is_repeated_too(shop: &Shop) {
    let wish = json!({ "sku": "T00110", "qty": 9_999, "user": 5, "request_id": "too-many" }).to_string();
    let (status, first) = shop.post(wish.clone()).await;
    assert_eq!(status, StatusCode::CONFLICT, "{first}");
    assert_eq!(shop.post(wish.clone()).await, (StatusCode::CONFLICT, first.clone()));
    // Also when the coordinator has it on disk only.
    let channel = Endpoint::from_shared(shop.demo.url("coordinator")).unwrap().connect().await.unwrap();
    let mut operator = OperatorClient::new(channel);
    until("no transaction is in the coordinator's memory", async || {
        let status = operator.get_status(GetStatusRequest {}).await.unwrap().into_inner();
        Ok::<_, std::io::Error>((status.live_transactions == 0).then_some(()))
    })
    .await
    .unwrap();
    assert_eq!(shop.post(wish).await, (StatusCode::CONFLICT, first));
}

async fn without_a_coordinator_it_is_unavailable_and_the_wish_can_be_repeated(shop: &Shop) {
    shop.demo.kill9("coordinator");
    let wish = json!({ "sku": "T00101", "qty": 1, "user": 5 });
    let url = format!("{}/orders", shop.door());
    let response = shop.http.post(url).body(wish.to_string()).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["request_id"].as_str().unwrap().len(), 32, "{answer}");
}

async fn the_grpc_door_says_the_same(shop: &Shop) {
    let mut orders = OrdersClient::connect(shop.door()).await.unwrap();
    let wish = PlaceRequest { sku: "T00101".into(), qty: 2, user: 5, request_id: "grpc".into() };
    let placed = orders.place(wish.clone()).await.unwrap().into_inner();
    let order = placed.order.unwrap();
    assert!(!placed.delivering);
    let request = GetRequest { id: order.id.clone() };
    assert_eq!(orders.get(request).await.unwrap().into_inner().order.as_ref(), Some(&order));
    let http = json!({ "sku": "T00101", "qty": 2, "user": 5, "request_id": "grpc" });
    let (_, same) = shop.post(http.to_string()).await;
    assert_eq!(same["id"], order.id);
    for (wish, code) in [
        (PlaceRequest { qty: 0, ..wish.clone() }, Code::InvalidArgument),
        (PlaceRequest { sku: "T99999".into(), ..wish.clone() }, Code::NotFound),
        (PlaceRequest { qty: 3, ..wish.clone() }, Code::AlreadyExists),
        (PlaceRequest { user: 77_777, ..wish.clone() }, Code::FailedPrecondition),
    ] {
        let refused = orders.place(wish.clone()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{wish:?}: {refused}");
    }
    let refused = orders.get(GetRequest { id: "7".into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
}
