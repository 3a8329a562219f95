//! `concord serve`: puts store, engine, sweeper and server together, and takes them apart again in order.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use futures_util::Stream;
use tokio::net::TcpListener;
use tonic_health::server::HealthReporter;

use crate::alert;
use crate::config::{Cluster, Config, Reading};
use crate::ending::Ending;
use crate::engine::{Backoff, Census, Engine, Machine, Participants, Settings, Surroundings, TenantLimits};
use crate::metrics::Metrics;
use crate::reload::Running;
use crate::resource::Resources;
use crate::scrape;
use crate::security::{Callers, Concern, Exposed, FileError, Files, check_exposure};
use crate::store::{Member, SqlStore, SqliteStore, Store, StoreError, UnixMillis};
use crate::supervisor;
use crate::trace::{ExportError, Tracer};
use crate::transport::{
    self, ConnectionLimits, GrpcParticipants, Guard, OutboundSettings, Page, PageSizes, Peers, Services,
};

/// Ended transactions deleted in one step, so that purging never holds up the log for long.
const PURGE_STEP: usize = 500;
/// So many times as long as a step took.
const PURGE_REST: u32 = 4;
/// How often to look for something to purge.
const PURGE_INTERVAL: Duration = Duration::from_secs(10);
/// How often to look for coordinators that are gone, where leases are long.
const TAKE_OVER_INTERVAL: Duration = Duration::from_secs(1);
/// How long calls in progress may take once everything has drained.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// Why the coordinator stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// Others would not know where to reach this coordinator.
    #[error("it listens on {0}, which is no address that other coordinators can reach: set cluster.address")]
    NoAddress(SocketAddr),
    /// Others could reach what nobody guards.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// A certificate, a key or a file of tokens cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store could not be opened, or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Spans cannot be exported as configured.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The gRPC server broke down.
    #[error("the gRPC server broke down: {0}")]
    Server(Box<dyn std::error::Error + Send + Sync>),
}

impl ServeError {
    /// The process's exit code: 3 when the store failed or could not be opened, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            ServeError::Store(_) => 3,
            _ => 1,
        }
    }
}

/// From now on a panic in any thread ends the process as `kill -9` would, once it has been logged. What a panic leaves
/// half done cannot be trusted, and a coordinator that has lost one of its tasks may not show it; the log on disk can
/// be, and the next start goes on from it.
pub fn end_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a bug in the coordinator; it ends, and goes on from its log at the next start");
        std::process::abort();
    }));
}

/// Runs a coordinator until `shutdown` resolves or something fails that it cannot go on without.
///
/// # Errors
/// [`ServeError`]; everything acknowledged is on disk all the same.
pub async fn run(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    run_in(config, Arc::new(Machine), tokio_stream::pending(), shutdown).await
}

/// As [`run`], with another wall clock than the machine's, which is what a test of jumping clocks needs; and with what the
/// configuration is to be from time to time. At each of `wanted` the files that it names are read again as well.
///
/// # Errors
/// As [`run`].
pub async fn run_in(
    config: Config,
    surroundings: Arc<dyn Surroundings>,
    wanted: impl Stream<Item = Reading> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    // What is wrong with the configuration is said before anything is touched.
    check_exposure(&config)?;
    check_address(&config)?;
    let files = Files::read(&config, &None);
    let (concerns, expiry) = (files.concerns(SystemTime::now()), files.expiry());
    let (outbound_tls, tenants) = (files.outbound_tls?, files.tenants?);
    let callers = Callers::new(files.tokens?, files.jwt?);
    let tls = files.server_tls?.map(|tls| Arc::new(ArcSwap::new(tls.config)));
    tell(&concerns);
    let metrics = Metrics::default();
    metrics.certificates.note(expiry);
    let guard = Guard::new(callers, &metrics);
    let limits = ConnectionLimits::new(&config.server, &metrics);
    let (store, listener) = match config.store.url {
        // The store first: its lock is what keeps a second coordinator out.
        None => (open_embedded(&config, &metrics).await?, listen(&config).await?),
        Some(_) => {
            let listener = listen(&config).await?;
            (open_shared(&config, &metrics, listener.1).await?, listener)
        }
    };
    let (listener, listening) = listener;
    let participants = GrpcParticipants::new(
        store.cluster_id(),
        OutboundSettings::new(&config, outbound_tls.clone()),
        &metrics,
    );
    let (cluster, epoch) = (store.cluster_id(), store.epoch());
    let participants = Arc::new(participants);
    let calls: Arc<dyn Participants> = Arc::<GrpcParticipants>::clone(&participants);
    let tracer = Tracer::start(&config.tracing)?;
    let spans = tracer.clone();
    let engine = Engine::start_in(
        store,
        calls,
        settings(&config, tenants.unwrap_or_default()),
        surroundings,
        metrics,
        tracer,
    )
    .await?;
    let engine = Arc::new(engine);
    let resources = Arc::new(Resources::new(&config, cluster));
    let place = match &config.store.url {
        None => config.store.data_dir.display().to_string(),
        Some(url) => url.to_string(),
    };
    tracing::info!(%listening, store = place, %cluster, %epoch, "coordinator ready");
    supervisor::ready();
    let lease = Duration::from_millis(config.cluster.lease_ms);
    let background = [
        tokio::spawn(supervisor::live()),
        tokio::spawn(alert::watch(Arc::clone(&engine), config.alert.clone(), Arc::clone(&participants))),
        tokio::spawn(take_over_forever(Arc::clone(&engine), lease)),
        tokio::spawn(call_again_forever(Arc::clone(&engine), Arc::clone(&participants))),
        tokio::spawn(Arc::clone(&resources).sweep_forever(Arc::clone(&engine))),
        tokio::spawn(purge_forever(Arc::clone(&engine), Duration::from_millis(config.store.retention_ms))),
    ];
    let started_at = UnixMillis::now();
    let peers = Arc::new(Peers::new(tls.is_some().then_some(outbound_tls), config.security.allow_insecure));
    let metrics = Page {
        content_type: scrape::CONTENT_TYPE,
        content: {
            let (engine, participants, resources) =
                (Arc::clone(&engine), Arc::clone(&participants), Arc::clone(&resources));
            Arc::new(move || scrape::text(&engine, &participants, &resources, started_at))
        },
    };
    let services = Services {
        engine: Arc::clone(&engine),
        participants: Arc::clone(&participants),
        resources,
        ending: Arc::new(Ending::new(Duration::from_millis(config.shutdown.grace_ms))),
        pages: PageSizes { default: config.limits.page_size_default, max: config.limits.page_size_max },
        payload_bytes_max: config.limits.payload_bytes_max,
        started_at,
        metrics,
        guard: Arc::clone(&guard),
        tls: tls.clone(),
        limits: Arc::clone(&limits),
        peers: Arc::clone(&peers),
    };
    let running = Running {
        metrics: engine.metrics().clone(),
        engine: Arc::clone(&engine),
        participants,
        peers,
        guard,
        limits,
        tls,
    };
    let following = tokio::spawn(running.follow(config, wanted));
    let result = serve_until(listener, services, shutdown).await;
    following.abort();
    background.iter().for_each(tokio::task::JoinHandle::abort);
    // After a failure there is nothing left to write: the store has refused everything since.
    match result {
        Ok(()) => {
            engine.close().await?;
            engine.abandon_traces();
            spans.stop().await;
            tracing::info!("coordinator stopped");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn serve_until(
    listener: TcpListener,
    services: Services,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let (engine, participants) = (Arc::clone(&services.engine), Arc::clone(&services.participants));
    let ending = Arc::clone(&services.ending);
    let health = HealthReporter::new();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    // Boxed, because it is large.
    let mut server = Box::pin(transport::serve(listener, services, health.clone(), async {
        // A dropped sender stops the server as well.
        let _ = stopped.await;
    }));
    // It may come during a drain that an operator has ordered, and is an order like any other.
    let signal = async {
        shutdown.await;
        ending.order(None);
        std::future::pending::<Infallible>().await
    };
    tokio::pin!(signal);
    tokio::select! {
        result = &mut server => return result.map_err(ServeError::Server),
        error = engine.store_failed() => return Err(error.into()),
        never = &mut signal => match never {},
        () = ending.ordered() => {}
    }
    supervisor::stopping();
    engine.stop_beginning();
    tracing::info!("stopping: no new transactions");
    transport::report_health(&health, false).await;
    // Calls go on being answered meanwhile: initiators still commit, participants still vote.
    tokio::select! {
        result = &mut server => return result.map_err(ServeError::Server),
        error = engine.store_failed() => return Err(error.into()),
        never = &mut signal => match never {},
        () = ending.over(&engine) => {}
    }
    let Census { undecided, decided, parked, .. } = engine.census();
    match (undecided + decided + parked, engine.is_shared()) {
        (0, _) => {}
        (_, false) => {
            tracing::warn!(
                undecided,
                decided,
                parked,
                "leaving transactions to the next start, which rolls back what is undecided"
            );
        }
        (_, true) => {
            tracing::info!(undecided, decided, parked, "leaving transactions to the other coordinators");
        }
    }
    participants.detach_all();
    drop(stop);
    match tokio::time::timeout(LAST_CALLS, server).await {
        Ok(result) => result.map_err(ServeError::Server),
        // Somebody keeps a stream open; it ends with the process.
        Err(_) => Ok(()),
    }
}

/// Whether coordinators that share a store can be told where to reach this one.
///
/// # Errors
/// [`ServeError::NoAddress`].
pub fn check_address(config: &Config) -> Result<(), ServeError> {
    match config.store.url {
        None => Ok(()),
        Some(_) => address_for_others(&config.cluster, config.server.listen).map(drop),
    }
}

/// Where other coordinators reach this one, which listens here.
fn address_for_others(cluster: &Cluster, listening: SocketAddr) -> Result<String, ServeError> {
    match cluster.address.as_str() {
        "" if listening.ip().is_unspecified() => Err(ServeError::NoAddress(listening)),
        "" => Ok(listening.to_string()),
        address => Ok(address.to_owned()),
    }
}

/// Opens the store in a directory of this machine.
async fn open_embedded(config: &Config, metrics: &Metrics) -> Result<Arc<dyn Store>, ServeError> {
    let (data_dir, metrics) = (config.store.data_dir.clone(), metrics.clone());
    open(move || Ok(Arc::new(SqliteStore::open_measured(&data_dir, &metrics)?))).await
}

/// Opens the store in a database, which other coordinators may have open too.
async fn open_shared(
    config: &Config,
    metrics: &Metrics,
    listening: SocketAddr,
) -> Result<Arc<dyn Store>, ServeError> {
    let Config { store, cluster, .. } = config;
    let address = address_for_others(cluster, listening)?;
    let name = if cluster.name.is_empty() { address.clone() } else { cluster.name.clone() };
    let member = Member { name, address, lease: Duration::from_millis(cluster.lease_ms) };
    let url = store.url.as_ref().map(|url| url.with_password().to_owned()).unwrap_or_default();
    let metrics = metrics.clone();
    open(move || Ok(Arc::new(SqlStore::open_measured(&url, member, &metrics)?))).await
}

async fn open(
    open: impl FnOnce() -> Result<Arc<dyn Store>, StoreError> + Send + 'static,
) -> Result<Arc<dyn Store>, ServeError> {
    let opened = tokio::task::spawn_blocking(open).await;
    Ok(opened.map_err(|error| ServeError::Server(error.into()))??)
}

async fn listen(config: &Config) -> Result<(TcpListener, SocketAddr), ServeError> {
    let address = config.server.listen;
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let listening = listener.local_addr().map_err(failed)?;
    Ok((listener, listening))
}

/// Looks for coordinators whose lease has run out, for ever; not all coordinators at the same moment.
async fn take_over_forever(engine: Arc<Engine>, lease: Duration) {
    let every = (lease / 3).min(TAKE_OVER_INTERVAL);
    loop {
        tokio::time::sleep(every.mul_f64(0.5 + rand::random::<f64>())).await;
        match engine.take_over().await {
            Ok(0) => {}
            Ok(transactions) => tracing::warn!(transactions, "took over from a coordinator that was gone"),
            Err(error) => tracing::warn!(%error, "cannot look for coordinators that are gone"),
        }
    }
}

/// Has those that answer again called at once, for ever.
async fn call_again_forever(engine: Arc<Engine>, participants: Arc<GrpcParticipants>) {
    loop {
        for address in participants.returned().await {
            engine.call_again(&address);
        }
    }
}

/// Deletes old history in small steps, for ever. After each it rests, so that what is live has the most of the store.
async fn purge_forever(engine: Arc<Engine>, retention: Duration) {
    loop {
        let start = Instant::now();
        match engine.purge(retention, PURGE_STEP).await {
            Ok(PURGE_STEP) => tokio::time::sleep(PURGE_REST * start.elapsed()).await,
            Ok(_) => tokio::time::sleep(PURGE_INTERVAL).await,
            Err(error) => {
                tracing::warn!(%error, "cannot purge old history");
                tokio::time::sleep(PURGE_INTERVAL).await;
            }
        }
    }
}

/// Logs what will not work for long, or is no secret.
pub(crate) fn tell(concerns: &[Concern]) {
    concerns.iter().for_each(|concern| tracing::warn!(%concern, "a file needs somebody to look after it"));
}

pub(crate) fn settings(config: &Config, tenants: Arc<HashMap<String, TenantLimits>>) -> Settings {
    let ms = Duration::from_millis;
    Settings {
        live_transactions_max: config.limits.live_transactions_max,
        branches_max: config.limits.branches_max,
        payload_bytes_max: config.limits.payload_bytes_max,
        timeout_default: ms(config.transaction.timeout_default_ms),
        timeout_max: ms(config.transaction.timeout_max_ms),
        backoff: Backoff {
            first: ms(config.phase_two.backoff_first_ms),
            max: ms(config.phase_two.backoff_max_ms),
        },
        park_after_attempts: Some(config.phase_two.park_after_attempts).filter(|limit| *limit > 0),
        tenants,
    }
}
