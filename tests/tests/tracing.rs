//! Traces across processes: from an initiator through a real coordinator to participants of every sort, and to a collector.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::HeaderMap;
use concord_participant::{TraceContext, attach};
use concord_proto::trace::{TRACEPARENT, TRACESTATE};
use concord_proto::v1::participant_server::{Participant, ParticipantServer};
use concord_proto::v1::*;
use concord_sandbox::Address;
use concord_tests::{Coordinator, CoordinatorOptions, Programs, until};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::json;
use tempfile::TempDir;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

const PROGRAMS: Programs = concord_tests::programs!();
const ATTACHED: &str = "attached://shop";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const STATE: &str = "congo=t61rcWkgMzE,rojo=1";

type Answered<T> = Result<Response<T>, Status>;

#[tokio::test(flavor = "multi_thread")]
async fn the_spans_of_a_transaction_are_a_tree_from_its_initiator_to_every_branch() {
    let mut world = World::start(true).await;
    let gtid = world.execute(Some(caller())).await;
    let spans = world.collector.of(&gtid, 9).await;
    let trace_id = |span: &Span| hex(&span.trace_id);
    assert!(spans.iter().all(|span| trace_id(span) == caller().trace_id().to_string()), "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace_state == STATE));
    let one = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let transaction = one("transaction");
    assert_eq!(hex(&transaction.parent_span_id), caller().span_id().to_string());
    assert_eq!(told(transaction, "concord.outcome"), "committed");
    for (phase, verb) in [("phase one", "try"), ("phase two", "confirm")] {
        assert_eq!(one(phase).parent_span_id, transaction.span_id);
        let calls: Vec<_> = spans.iter().filter(|span| span.name == verb).collect();
        assert_eq!(calls.len(), 3);
        for call in calls {
            assert_eq!(call.parent_span_id, one(phase).span_id);
            // The participant got the id of the very call, whichever way it came.
            let arrived = world.seen.of(&gtid, &told(call, "concord.branch_id"), verb);
            assert_eq!(
                arrived.span_id().to_string(),
                hex(&call.span_id),
                "{}",
                told(call, "concord.participant")
            );
            assert_eq!((arrived.trace_id(), arrived.tracestate()), (caller().trace_id(), STATE));
        }
    }

    // By JSON it is the same.
    let gtid = world.execute_as_json(Some(PARENT)).await;
    let spans = world.collector.of(&gtid, 9).await;
    assert!(spans.iter().all(|span| trace_id(span) == caller().trace_id().to_string()));
    assert_eq!(world.seen.of(&gtid, "1", "try").tracestate(), STATE, "from two headers");

    // One that came without is a trace of its own, and one that is not to be recorded is not.
    let gtid = world.execute(None).await;
    let own = world.collector.of(&gtid, 9).await;
    let root = own.iter().find(|span| span.name == "transaction").unwrap();
    assert!(root.parent_span_id.is_empty() && trace_id(root) != caller().trace_id().to_string());
    let unsampled = TraceContext::parse(&PARENT.replace("-01", "-00"), "").unwrap();
    let gtid = world.execute(Some(unsampled)).await;
    let arrived = world.seen.of(&gtid, "1", "try");
    assert_eq!((arrived.is_sampled(), arrived.trace_id()), (false, caller().trace_id()));

    // The last spans arrive although the coordinator ends at once.
    let last = world.execute(Some(caller())).await;
    assert!(world.coordinator.stop().await.unwrap().success());
    assert_eq!(world.collector.now(&last).len(), 9);
    assert_eq!(world.collector.now(&gtid).len(), 0, "unsampled");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_initiators_place_is_passed_on_as_it_is_or_nothing() {
    let world = World::start(false).await;
    let gtid = world.execute(Some(caller())).await;
    for branch in ["1", "2", "3"] {
        for verb in ["try", "confirm"] {
            assert_eq!(world.seen.of(&gtid, branch, verb), caller(), "{branch} {verb}");
        }
    }
    let gtid = world.execute(None).await;
    assert_eq!(world.seen.anything(&gtid), vec![None; 6]);
    let gtid = world.execute_as_json(Some("00-rubbish")).await;
    assert_eq!(world.seen.anything(&gtid), vec![None; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_driven_belongs_to_the_first_trace_that_it_hears_of() {
    let world = World::start(false).await;
    let mut api = world.coordinator.api();
    let gtid = api.begin(BeginRequest::default()).await.unwrap().into_inner().gtid;
    let join = RegisterBranchRequest {
        gtid: gtid.clone(),
        kind: BranchKind::Tcc.into(),
        participant: ATTACHED.into(),
        registration_key: "key".into(),
        action: "take".into(),
        ..Default::default()
    };
    api.register_branch(join).await.unwrap();
    api.commit(traced(CommitRequest { gtid: gtid.clone(), ..Default::default() }, Some(caller())))
        .await
        .unwrap();
    assert_eq!(world.seen.of(&gtid, "1", "try"), caller());
    assert_eq!(world.seen.of(&gtid, "1", "confirm"), caller());
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_carry_the_trace() {
    let mut world = World::start(false).await;
    let branch = BranchRequest { action: "refuse".into(), ..branch(ATTACHED) };
    let request = ExecuteRequest { branches: vec![branch], ..Default::default() };
    let answer = world.coordinator.api().execute(traced(request, Some(caller()))).await.unwrap().into_inner();
    let gtid = answer.transaction.unwrap().gtid;
    let log = world.coordinator.process().log();
    let line =
        log.lines().find(|line| line.contains("rolling back") && line.contains(&gtid)).expect("a line");
    assert!(line.contains(&format!("gtid={gtid} trace_id={} ", caller().trace_id())), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_stops_nobody_and_is_told_about_once() {
    let nobody = Address::reserve().unwrap();
    let mut world = World::exporting_to(nobody.url(), Collector::start().await).await;
    for _ in 0..20 {
        world.execute(Some(caller())).await;
    }
    let coordinator = &mut world.coordinator;
    until("it complains", async || {
        Ok(coordinator.process().log().contains("could not be exported").then_some(()))
    })
    .await
    .unwrap();
    world.execute(Some(caller())).await;
    assert!(world.coordinator.stop().await.unwrap().success());
    let log = world.coordinator.process().log();
    assert_eq!(log.matches(" lost=").count(), 1, "{log}");
}

fn caller() -> TraceContext {
    TraceContext::parse(PARENT, STATE).unwrap()
}

fn traced<T>(message: T, trace: Option<TraceContext>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(trace) = trace {
        trace.add_to(request.metadata_mut());
    }
    request
}

fn branch(participant: &str) -> BranchRequest {
    BranchRequest {
        kind: BranchKind::Tcc.into(),
        participant: participant.into(),
        action: "take".into(),
        payload: "{}".into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An attribute, as text.
fn told(span: &Span, key: &str) -> String {
    let value = span.attributes.iter().find(|one| one.key == key).and_then(|one| one.value.clone()?.value);
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {span:#?}"),
    }
}

/// A coordinator, and a participant of each sort: on a stream, on a connection, by POST.
struct World {
    coordinator: Coordinator,
    collector: Collector,
    seen: Seen,
    participants: [String; 3],
    _addresses: [Arc<Address>; 2],
    _directory: TempDir,
}

impl World {
    async fn start(export: bool) -> World {
        let collector = Collector::start().await;
        let endpoint = if export { collector.address.url() } else { String::new() };
        World::exporting_to(endpoint, collector).await
    }

    async fn exporting_to(endpoint: String, collector: Collector) -> World {
        let (directory, seen) = (TempDir::new().unwrap(), Seen::default());
        let [grpc, http] = [(); 2].map(|()| Arc::new(Address::reserve().unwrap()));
        let listener = tokio::net::TcpListener::bind(grpc.socket()).await.unwrap();
        let service = Server::builder().add_service(ParticipantServer::new(seen.clone()));
        tokio::spawn(service.serve_with_incoming(TcpListenerStream::new(listener)));
        let listener = tokio::net::TcpListener::bind(http.socket()).await.unwrap();
        let post = axum::routing::post(posted);
        let router = axum::Router::new().route("/shop/take/{verb}", post).with_state(seen.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let participants = [ATTACHED.to_owned(), grpc.url(), format!("{}/shop", http.url())];
        let options = CoordinatorOptions::new()
            .set("participants.allow", format!("attached://*,{},{}/*", grpc.url(), http.url()))
            .set("tracing.otlp_endpoint", endpoint);
        let coordinator = Coordinator::start(PROGRAMS, directory.path(), options).await.unwrap();
        let channel = coordinator.channel();
        tokio::spawn(attach(seen.clone(), channel, ATTACHED.to_owned(), std::future::pending()));
        World { coordinator, collector, seen, participants, _addresses: [grpc, http], _directory: directory }
    }

    /// Has every participant do something; the gtid.
    async fn execute(&self, trace: Option<TraceContext>) -> String {
        let branches = self.participants.iter().map(|participant| branch(participant)).collect();
        let request = ExecuteRequest { branches, ..Default::default() };
        let answer = self.coordinator.api().execute(traced(request, trace)).await.unwrap().into_inner();
        let transaction = answer.transaction.unwrap();
        assert_eq!(transaction.state(), TransactionState::Committed, "{transaction:#?}");
        transaction.gtid
    }

    async fn execute_as_json(&self, traceparent: Option<&str>) -> String {
        let branch = |participant: &String| json!({ "kind": "BRANCH_KIND_TCC", "participant": participant, "action": "take", "payload": "e30=" });
        let branches: Vec<_> = self.participants.iter().map(branch).collect();
        let mut request = reqwest::Client::new()
            .post(format!("{}/v1/execute", self.coordinator.url()))
            .json(&json!({ "branches": branches }));
        if let Some(traceparent) = traceparent {
            // A state may come in several headers.
            request = request.header(TRACEPARENT, traceparent);
            request = STATE.split(',').fold(request, |request, member| request.header(TRACESTATE, member));
        }
        let answer: serde_json::Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["transaction"]["state"], "TRANSACTION_STATE_COMMITTED", "{answer}");
        answer["transaction"]["gtid"].as_str().unwrap().to_owned()
    }
}

/// What came with each call: by gtid, branch and verb.
type Arrived = BTreeMap<(String, String, &'static str), Option<TraceContext>>;

/// Agrees to everything, and remembers what came with it.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Arrived>>);

impl Seen {
    fn note(&self, branch: Option<BranchContext>, verb: &'static str, metadata: &MetadataMap) {
        let BranchContext { gtid, branch_id, .. } = branch.unwrap();
        let has_header = metadata.contains_key(TRACEPARENT) || metadata.contains_key(TRACESTATE);
        let trace = TraceContext::of(metadata);
        assert_eq!(trace.is_some(), has_header, "{metadata:?}");
        self.0.lock().unwrap().insert((gtid, branch_id.to_string(), verb), trace);
    }

    fn of(&self, gtid: &str, branch: &str, verb: &'static str) -> TraceContext {
        let seen = self.0.lock().unwrap();
        seen.get(&(gtid.to_owned(), branch.to_owned(), verb))
            .expect("it was called")
            .clone()
            .expect("a trace")
    }

    fn anything(&self, gtid: &str) -> Vec<Option<TraceContext>> {
        let seen = self.0.lock().unwrap();
        seen.iter().filter(|(key, _)| key.0 == gtid).map(|(_, trace)| trace.clone()).collect()
    }
}

async fn posted(
    State(seen): State<Seen>,
    axum::extract::Path(verb): axum::extract::Path<String>,
    headers: HeaderMap,
) {
    let verb = ["try", "confirm", "cancel"].into_iter().find(|known| *known == verb).unwrap();
    let text = |name| headers[name].to_str().unwrap().to_owned();
    let branch_id = text("concord-branch-id").parse().unwrap();
    let branch = BranchContext { gtid: text("concord-gtid"), branch_id, ..Default::default() };
    seen.note(Some(branch), verb, &MetadataMap::from_headers(headers.clone()));
}

#[tonic::async_trait]
impl Participant for Seen {
    async fn r#try(&self, request: Request<TryRequest>) -> Answered<TryResponse> {
        let TryRequest { branch, work, .. } = request.get_ref().clone();
        self.note(branch, "try", request.metadata());
        let reserved = work.unwrap().action == "take";
        Ok(Response::new(TryResponse { reserved, ..Default::default() }))
    }

    async fn confirm(&self, request: Request<ConfirmRequest>) -> Answered<ConfirmResponse> {
        self.note(request.get_ref().branch.clone(), "confirm", request.metadata());
        let outcome = BranchOutcome::Committed.into();
        Ok(Response::new(ConfirmResponse { outcome, ..Default::default() }))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Answered<CancelResponse> {
        Err(Status::unimplemented("it commits"))
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

/// Takes spans by OTLP.
#[derive(Clone)]
struct Collector {
    address: Arc<Address>,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    async fn start() -> Collector {
        let address = Arc::new(Address::reserve().unwrap());
        let collector = Collector { address: Arc::clone(&address), spans: Arc::default() };
        let listener = tokio::net::TcpListener::bind(address.socket()).await.unwrap();
        let service = Server::builder().add_service(TraceServiceServer::new(collector.clone()));
        tokio::spawn(service.serve_with_incoming(TcpListenerStream::new(listener)));
        collector
    }

    /// Those of a transaction that have come so far.
    fn now(&self, gtid: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap();
        spans.iter().filter(|span| told(span, "concord.gtid") == gtid).cloned().collect()
    }

    /// Those of a transaction, when there are so many.
    async fn of(&self, gtid: &str, count: usize) -> Vec<Span> {
        until("its spans", async || Ok(Some(self.now(gtid)).filter(|spans| spans.len() >= count)))
            .await
            .unwrap()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Answered<ExportTraceServiceResponse> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let name = attributes.iter().find(|one| one.key == "service.name").unwrap();
            assert_eq!(name.value.clone().unwrap().value, Some(Value::StringValue("concord".into())));
            self.spans.lock().unwrap().extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
