//! Calls to a service that speaks HTTP.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode as Code};
use axum::response::{IntoResponse as _, Redirect, Response as HttpResponse};
use concord_protocol::{BranchId, ClusterId, Epoch, Gtid, Outcome, Reply, Verb, Vote};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::{GrpcParticipants, OutboundSettings};
use crate::config::{AllowList, Service};
use crate::engine::{BranchCall, CallResult, Participants as _};
use crate::metrics::Metrics;
use crate::transport::BreakerSettings;

/// What was asked: the path, the headers of ours, the body.
type Asked = Arc<Mutex<Vec<(String, Vec<String>, Vec<u8>)>>>;

fn own_headers(headers: &HeaderMap) -> Vec<String> {
    let names =
        ["concord-gtid", "concord-branch-id", "concord-cluster-id", "concord-remaining-ms", "content-type"];
    let told = |name: &&str| Some(format!("{name}: {}", headers.get(*name)?.to_str().unwrap()));
    names.iter().filter_map(told).collect()
}

/// Answers by the action.
async fn answer(State(asked): State<Asked>, request: HttpRequest) -> HttpResponse {
    let path = request.uri().path().to_owned();
    let headers = own_headers(request.headers());
    let action = path.split('/').nth(3).unwrap_or_default().to_owned();
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap().to_vec();
    asked.lock().unwrap().push((path, headers, body));
    match action.as_str() {
        "yes" => "a reply".into_response(),
        "nothing" => Code::NO_CONTENT.into_response(),
        "no" => (Code::CONFLICT, r#"{"type": "about:blank", "detail": "sold out"}"#).into_response(),
        "text" => (Code::CONFLICT, " sold out\n").into_response(),
        "mute" => Code::CONFLICT.into_response(),
        "wait" => Code::TOO_EARLY.into_response(),
        "accepted" => Code::ACCEPTED.into_response(),
        "broken" => (Code::INTERNAL_SERVER_ERROR, "x".repeat(5_000)).into_response(),
        "elsewhere" => Redirect::temporary("/api/shop/yes/try").into_response(),
        "endless" => "x".repeat(300 << 10).into_response(),
        "never" => std::future::pending().await,
        _ => Code::NOT_FOUND.into_response(),
    }
}

async fn service() -> (SocketAddr, Asked) {
    let process = Process::at("127.0.0.1:0".parse().unwrap()).await;
    // It is served for as long as the test lasts.
    std::mem::forget(process.stop);
    (process.address, process.asked)
}

/// A process of a service.
struct Process {
    address: SocketAddr,
    asked: Asked,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

impl Process {
    async fn at(address: SocketAddr) -> Process {
        let listener = TcpListener::bind(address).await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Asked::default());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&asked));
        let (stop, stopped) = oneshot::channel::<()>();
        let server = axum::serve(listener, router).with_graceful_shutdown(async { drop(stopped.await) });
        let served = tokio::spawn(async move { server.await.unwrap() });
        Process { address, asked, stop, served }
    }

    fn times_asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    async fn stop(self) -> SocketAddr {
        drop(self.stop);
        self.served.await.unwrap();
        self.address
    }
}

fn participants() -> GrpcParticipants {
    participants_with(OutboundSettings::default())
}

fn participants_with(settings: OutboundSettings) -> GrpcParticipants {
    let settings = OutboundSettings {
        allow: AllowList::parse(["http://127.0.0.1:*/*"]).unwrap(),
        call_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(500),
        in_flight_max: 2,
        breaker: BreakerSettings { failures_before_open: 3, open_for: Duration::from_secs(60) },
        ..settings
    };
    GrpcParticipants::new(ClusterId(0xabc), settings, &Metrics::default())
}

fn gtid() -> Gtid {
    Gtid::compose(1, Epoch(1), 1)
}

async fn call(
    all: &GrpcParticipants,
    at: SocketAddr,
    verb: Verb,
    action: &str,
    payload: &'static [u8],
) -> CallResult {
    let participant = format!("http://{at}/api/shop");
    all.call(branch_call(&participant, 2, verb, action, payload)).await
}

fn branch_call(
    participant: &str,
    branch: u32,
    verb: Verb,
    action: &str,
    payload: &'static [u8],
) -> BranchCall {
    BranchCall {
        gtid: gtid(),
        branch: BranchId(branch),
        verb,
        participant: participant.into(),
        action: action.into(),
        payload: payload.into(),
        repeated: false,
        remaining_ms: 1_000,
        trace: None,
    }
}

#[tokio::test]
async fn it_is_told_what_it_needs() {
    let ((address, asked), all) = (service().await, participants());
    let result = call(&all, address, Verb::Try, "yes", br#"{"sku": 7}"#).await;
    assert_eq!((result.reply, &result.payload[..]), (Reply::Vote(Vote::Yes), &b"a reply"[..]));
    let result = call(&all, address, Verb::Confirm, "a/../b c", b"\xff").await;
    assert!(matches!(result.reply, Reply::Failed { maybe_arrived: true }), "{result:?}");
    let asked = asked.lock().unwrap();
    let branch = [
        format!("concord-gtid: {}", gtid()),
        "concord-branch-id: 2".into(),
        "concord-cluster-id: 0000000000000abc".into(),
    ];
    let (path, headers, body) = &asked[0];
    assert_eq!((path.as_str(), &body[..]), ("/api/shop/yes/try", &br#"{"sku": 7}"#[..]));
    assert_eq!(headers[..3], branch);
    assert_eq!(headers[3..], ["concord-remaining-ms: 1000", "content-type: application/json"]);
    let (path, headers, body) = &asked[1];
    assert_eq!((path.as_str(), &body[..]), ("/api/shop/a%2F..%2Fb%20c/confirm", &b"\xff"[..]));
    assert_eq!(headers[..3], branch);
    assert_eq!(headers[3..], ["content-type: application/octet-stream"]);
}

#[tokio::test]
async fn its_answers_are_understood() {
    let ((address, _), all) = (service().await, participants());
    let unknown = Reply::Failed { maybe_arrived: true };
    let (committed, rolled_back) = (Reply::Ended(Outcome::Committed), Reply::Ended(Outcome::RolledBack));
    let cases = [
        (Verb::Try, "yes", Reply::Vote(Vote::Yes), ""),
        (Verb::Try, "nothing", Reply::Vote(Vote::Yes), ""),
        (Verb::Try, "no", Reply::Vote(Vote::No), "sold out"),
        (Verb::Try, "text", Reply::Vote(Vote::No), "sold out"),
        (Verb::Try, "mute", Reply::Vote(Vote::No), "HTTP 409 Conflict"),
        (Verb::Try, "wait", unknown, "UNAVAILABLE: not yet (HTTP 425)"),
        (Verb::Try, "accepted", unknown, "UNKNOWN: HTTP 202 Accepted"),
        (Verb::Try, "elsewhere", unknown, "UNKNOWN: HTTP 307 Temporary Redirect"),
        (
            Verb::Try,
            "endless",
            unknown,
            "OUT_OF_RANGE: its reply is cut off or too long: length limit exceeded",
        ),
        (Verb::Try, "anything", unknown, "UNKNOWN: HTTP 404 Not Found"),
        (Verb::Confirm, "yes", committed, ""),
        (Verb::Confirm, "no", Reply::Refused, "sold out"),
        (Verb::Confirm, "wait", unknown, "UNAVAILABLE: not yet (HTTP 425)"),
        (Verb::Cancel, "nothing", rolled_back, ""),
        (Verb::Cancel, "no", Reply::Refused, "sold out"),
        (Verb::Cancel, "anything", unknown, "UNKNOWN: HTTP 404 Not Found"),
        (Verb::Cancel, "never", unknown, "DEADLINE_EXCEEDED: no answer within 500 ms"),
    ];
    for (verb, action, reply, reason) in cases {
        let result = call(&all, address, verb, action, b"").await;
        assert_eq!((result.reply, result.reason.as_str()), (reply, reason), "{verb:?} {action}");
        if reply == unknown {
            assert_eq!(all.list()[0].last_error, reason, "{verb:?} {action}");
        }
    }
    let broken = call(&all, address, Verb::Try, "broken", b"").await;
    assert_eq!(broken.reply, unknown);
    assert!(broken.reason.starts_with("UNKNOWN: HTTP 500 Internal Server Error: xxx"), "{}", broken.reason);
    assert!(broken.reason.len() < 1_100, "a page of errors is cut short");
}

#[tokio::test]
async fn who_cannot_be_reached_has_seen_nothing_of_it() {
    let all = participants();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for _ in 0..3 {
        let result = call(&all, free, Verb::Try, "yes", b"").await;
        assert_eq!(result.reply, Reply::Failed { maybe_arrived: false }, "{result:?}");
        assert!(result.reason.contains("onnection refused"), "{}", result.reason);
    }
    let result = call(&all, free, Verb::Confirm, "yes", b"").await;
    assert!(result.reason.contains("breaker open"), "{}", result.reason);
    let known = all.list();
    assert!(known[0].breaker_open && known[0].last_error.contains("onnection refused"), "{known:?}");
}

#[tokio::test]
async fn xa_takes_more_than_this() {
    let ((address, asked), all) = (service().await, participants());
    let result = call(&all, address, Verb::WorkAndPrepare, "yes", b"").await;
    assert_eq!(result.reply, Reply::Vote(Vote::No));
    assert!(result.reason.contains("TCC branches only"), "{}", result.reason);
    let result = call(&all, address, Verb::Try, "..", b"").await;
    assert_eq!(result.reply, Reply::Vote(Vote::No));
    assert_eq!(asked.lock().unwrap().len(), 0, "nothing was sent");
}

#[tokio::test]
async fn of_several_processes_one_stands_in_for_another_that_is_gone() {
    let anywhere = "127.0.0.1:0".parse().unwrap();
    let [one, two] = [Process::at(anywhere).await, Process::at(anywhere).await];
    let addresses = [&one, &two].map(|process| format!("http://{}/api/shop", process.address));
    let shop = Service { name: "shop".to_owned(), addresses: addresses.to_vec() };
    let all = participants_with(OutboundSettings { services: vec![shop], ..OutboundSettings::default() });
    let confirm = async |branch| {
        // One that was closed just now may have taken a call: that is not made elsewhere, but by its repetition.
        for _ in 0..10 {
            let call = branch_call("service://shop", branch, Verb::Confirm, "yes", b"");
            match all.call(call).await.reply {
                Reply::Ended(Outcome::Committed) => return,
                Reply::Failed { maybe_arrived: true } => {}
                other => panic!("branch {branch}: {other:?}"),
            }
        }
        panic!("branch {branch} is not confirmed");
    };
    for branch in 1..=40 {
        confirm(branch).await;
    }
    assert!(one.times_asked() > 0 && two.times_asked() > 0, "each has its share");
    let (before, gone) = (two.times_asked(), one.stop().await);
    for branch in 1..=40 {
        confirm(branch).await;
    }
    assert_eq!(two.times_asked(), before + 40);
    let [known] = all.list().try_into().unwrap();
    let passed_over: Vec<_> = known.addresses.iter().filter(|known| known.passed_over).collect();
    assert!(passed_over.len() == 1 && passed_over[0].address.contains(&gone.to_string()), "{known:?}");
}
