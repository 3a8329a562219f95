//! gRPC: the services that the coordinator answers, on the same port as JSON (`gateway`) and a `console`; and its calls
//! to participants.
//! The types of tonic stay in here and in `concord-proto`.

mod attachment;
mod breaker;
mod call;
mod console;
mod convert;
mod coordinator;
mod gateway;
mod guard;
mod listener;
mod operator;
mod outbound;
mod peers;
mod probes;

use std::sync::Arc;
use std::time::Duration;

use concord_proto::FILE_DESCRIPTOR_SET;
use concord_proto::v1::attachment_server::AttachmentServer;
use concord_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use concord_proto::v1::operator_server::{Operator, OperatorServer};
use tokio::net::TcpListener;
use tonic::server::NamedService as _;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::util::MapRequestLayer;

pub use breaker::BreakerSettings;
pub(crate) use convert::transaction;
pub use coordinator::PageSizes;
pub(crate) use guard::Guard;
pub(crate) use listener::{ConnectionLimits, ShownTls};
pub(crate) use outbound::http::post_json;
pub use outbound::{GrpcParticipants, OutboundSettings};
pub(crate) use peers::Peers;
pub(crate) use probes::Page;

use self::attachment::AttachmentService;
use self::coordinator::CoordinatorService;
use self::operator::OperatorService;
use crate::config::Config;
use crate::ending::Ending;
use crate::engine::Engine;
use crate::resource::Resources;
use crate::store::UnixMillis;

/// Room for names and framing beside the payloads of a request.
const REQUEST_OVERHEAD_BYTES: usize = 1 << 20;
/// Answers of a participant in one message.
const ANSWERS_BYTES_MAX: usize = 4 << 20;
/// How often a silent peer is asked for a sign of life, and how long it has to give one.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Calls of one connection at a time; one more waits for one of them to end.
const CALLS_OF_A_CONNECTION_MAX: u32 = 10_000;

/// The services without a server around them, for fuzzing: the operator's has neither resources nor participants.
#[doc(hidden)]
pub fn doors(engine: Arc<Engine>, pages: PageSizes) -> (impl Coordinator, impl Operator) {
    let resources = Arc::new(Resources::new(&Config::default(), engine.cluster_id()));
    let peers = Arc::<Peers>::default();
    let outbound = OutboundSettings::default();
    let participants = GrpcParticipants::new(engine.cluster_id(), outbound, engine.metrics());
    let operator = OperatorService {
        engine: Arc::clone(&engine),
        peers: Arc::clone(&peers),
        resources,
        participants: Arc::new(participants),
        ending: Arc::new(Ending::new(Duration::ZERO)),
        started_at: UnixMillis(0),
    };
    (CoordinatorService { engine, peers, pages }, operator)
}

/// What the gRPC server needs.
pub(crate) struct Services {
    pub(crate) engine: Arc<Engine>,
    pub(crate) participants: Arc<GrpcParticipants>,
    pub(crate) resources: Arc<Resources>,
    pub(crate) ending: Arc<Ending>,
    pub(crate) pages: PageSizes,
    /// Payload bytes of one transaction at the most.
    pub(crate) payload_bytes_max: usize,
    pub(crate) started_at: UnixMillis,
    /// What `/metrics` answers.
    pub(crate) metrics: Page,
    pub(crate) guard: Arc<Guard>,
    /// `None`: no TLS.
    pub(crate) tls: Option<ShownTls>,
    pub(crate) limits: Arc<ConnectionLimits>,
    pub(crate) peers: Arc<Peers>,
}

/// Tells health checks whether the server takes new transactions.
pub(crate) async fn report_health(health: &HealthReporter, serving: bool) {
    let status = match serving {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    };
    // The empty name stands for the server as a whole.
    for name in ["", CoordinatorServer::<CoordinatorService>::NAME, OperatorServer::<OperatorService>::NAME] {
        health.set_service_status(name, status).await;
    }
}

/// Serves until `shutdown` resolves, then lets calls in progress finish.
///
/// # Errors
/// When the server cannot be set up or breaks down.
pub(crate) async fn serve(
    listener: TcpListener,
    services: Services,
    health: HealthReporter,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let Services { engine, participants, resources, ending, pages, payload_bytes_max, started_at, .. } =
        services;
    let Services { metrics, guard, tls, limits, peers, .. } = services;
    let coordinator = CoordinatorService { engine: Arc::clone(&engine), peers: Arc::clone(&peers), pages };
    let probes = probes::router(Arc::clone(&engine), metrics, &guard);
    let operator = OperatorService {
        engine,
        peers,
        resources,
        participants: Arc::clone(&participants),
        ending,
        started_at,
    };
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // ErrorInfo, so that callers can read the reason of an error.
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    report_health(&health, true).await;
    let request_bytes_max = payload_bytes_max.saturating_add(REQUEST_OVERHEAD_BYTES);
    let methods =
        Routes::new(CoordinatorServer::new(coordinator).max_decoding_message_size(request_bytes_max))
            .add_service(
                AttachmentServer::new(AttachmentService { participants })
                    .max_decoding_message_size(ANSWERS_BYTES_MAX),
            )
            .add_service(OperatorServer::new(operator))
            .add_service(HealthServer::new(HealthService::from_health_reporter(health)))
            .add_service(reflection)
            .prepare();
    let methods = methods.into_axum_router();
    // Base64 is four characters for three bytes.
    let web = gateway::router(methods.clone(), &guard, request_bytes_max.saturating_mul(4) / 3);
    let mut web = web.merge(console::router()).merge(probes);
    if listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback()) {
        web = web.layer(axum::middleware::from_fn(gateway::only_local_names));
    }
    let grpc = guard.before(methods).layer(axum::middleware::from_fn(gateway::only_grpc));
    let all = grpc.merge(web).fallback(gateway::unknown);
    let server = Server::builder()
        // A participant that vanished without closing its stream is noticed by its silence.
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(CALLS_OF_A_CONNECTION_MAX)
        // JSON; gRPC is HTTP/2 in any case.
        .accept_http1(true)
        .layer(MapRequestLayer::new(listener::note_call))
        .add_routes(all.into());
    match tls {
        None => server.serve_with_incoming_shutdown(listener::plain(listener, limits), shutdown).await?,
        Some(tls) => {
            let connections = listener::encrypted(listener, tls, limits);
            server.serve_with_incoming_shutdown(connections, shutdown).await?;
        }
    }
    Ok(())
}
