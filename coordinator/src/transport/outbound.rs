//! Calls to participants: on a stream that the participant has opened, or else over a connection of our own.

mod connections;
pub(crate) mod http;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use concord_crash_points::crash_point;
use concord_proto::names::{self, LookUp, Name, Place};
use concord_proto::v1::answer::Response;
use concord_proto::v1::call::Request;
use concord_proto::v1::participant_client::ParticipantClient;
use concord_proto::{Credentials, EndpointError, TraceContext, v1};
use concord_protocol::{ClusterId, Reply};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, Semaphore};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Status, TimeoutExpired};

use self::connections::{Connections, Destination};
use self::http::{HttpClient, HttpService};
use super::attachment::Attachment;
use super::breaker::{Breaker, BreakerSettings};
use super::convert::timestamp;
use super::{KEEP_ALIVE, call};
use crate::config::{AllowList, Config, Service};
use crate::engine::{BranchCall, CallResult, Participants};
use crate::metrics::{BreakerState, CallFailure, CallMetrics, CallPhase, Label as _, Metrics};
use crate::security::OutboundTls;
use crate::store::UnixMillis;

/// Participants kept; past it those that nobody uses at the moment are forgotten, and connections to them closed.
const PARTICIPANTS_MAX: usize = 1024;
/// A reply larger than this is refused: handlers may answer 64 KiB.
const REPLY_BYTES_MAX: usize = 256 << 10;

/// How participants are called.
#[derive(Debug, Clone)]
pub struct OutboundSettings {
    /// Whom the coordinator may call.
    pub allow: AllowList,
    /// Those whom it may call by a name, and where they are.
    pub services: Vec<Service>,
    /// How long one call may take.
    pub call_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How many calls of each phase one participant gets at a time; the others wait for their turn.
    pub in_flight_max: usize,
    /// One per participant.
    pub breaker: BreakerSettings,
    /// What is shown to those whose address begins with `https`, and who is trusted.
    pub(crate) tls: OutboundTls,
}

impl OutboundSettings {
    /// As `config` says.
    pub(crate) fn new(config: &Config, tls: OutboundTls) -> Self {
        let ms = Duration::from_millis;
        OutboundSettings {
            allow: config.participants.allow.clone(),
            services: config.services.clone(),
            call_timeout: ms(config.calls.timeout_ms),
            connect_timeout: ms(config.calls.connect_timeout_ms),
            in_flight_max: config.calls.in_flight_max,
            breaker: BreakerSettings {
                failures_before_open: config.breaker.failures_before_open,
                open_for: ms(config.breaker.open_ms),
            },
            tls,
        }
    }

    /// The service of which this is the address.
    fn service(&self, address: &str) -> Option<&Service> {
        let name = AllowList::service(address)?;
        self.services.iter().find(|service| service.name == name)
    }

    /// By gRPC to `url`, whose host stands behind `name`.
    fn connect(&self, url: &str, name: Option<&Name>) -> Result<(Uri, Connection), EndpointError> {
        let mut endpoint = endpoint(url, name.map(Name::host), &self.tls)?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            // A peer that vanished without closing is noticed by its silence.
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        if let Some(name) = name {
            endpoint = endpoint.origin(name.uri().clone());
        }
        let client = ParticipantClient::new(endpoint.connect_lazy());
        Ok((endpoint.uri().clone(), Connection::Grpc(client.max_decoding_message_size(REPLY_BYTES_MAX))))
    }
}

impl Default for OutboundSettings {
    /// As a configuration that says nothing.
    fn default() -> Self {
        OutboundSettings::new(&Config::default(), OutboundTls::default())
    }
}

/// Participants, by address, each with its streams, its connections, and one breaker.
pub struct GrpcParticipants {
    settings: ArcSwap<OutboundSettings>,
    cluster_id: ClusterId,
    metrics: Arc<CallMetrics>,
    known: Mutex<HashMap<Arc<str>, Arc<Participant>>>,
    closed: AtomicBool,
    /// For all that are called by POST, with what it shows and trusts; made when it is needed.
    http: Mutex<Option<(OutboundTls, HttpClient)>>,
    /// Finds the addresses behind their names.
    look_up: Arc<LookUp>,
    returned: Arc<Returned>,
}

/// The participants that answer again, until somebody has looked.
#[derive(Default)]
struct Returned {
    addresses: Mutex<HashSet<Arc<str>>>,
    more: Notify,
}

impl Returned {
    fn add(&self, address: &Arc<str>) {
        self.lock().insert(Arc::clone(address));
        self.more.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Participant {
    /// Of phase one and of phase two, so that work that waits for locks cannot keep those from being released.
    turns: [Semaphore; 2],
    metrics: Arc<CallMetrics>,
    /// None for one that does not listen, or of which it is not known where.
    connections: ArcSwapOption<Connections>,
    breaker: Breaker,
    attached: Mutex<Vec<Arc<Attachment>>>,
    /// Why the last call that got no answer did not.
    last_error: Mutex<Option<(UnixMillis, String)>>,
    returned: Arc<Returned>,
}

impl Participant {
    fn attached(&self) -> MutexGuard<'_, Vec<Arc<Attachment>>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last_error(&self) -> MutexGuard<'_, Option<(UnixMillis, String)>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls being made in each phase, of which there may be so many.
    fn calls(&self, in_flight_max: usize) -> [usize; 2] {
        self.turns.each_ref().map(|turns| in_flight_max - turns.available_permits())
    }
}

impl GrpcParticipants {
    /// Connects to nobody yet.
    pub fn new(cluster_id: ClusterId, settings: OutboundSettings, metrics: &Metrics) -> Self {
        let metrics = Arc::clone(&metrics.calls);
        let (known, closed) = (Mutex::default(), AtomicBool::new(false));
        GrpcParticipants {
            settings: ArcSwap::from_pointee(settings),
            cluster_id,
            metrics,
            known,
            closed,
            http: Mutex::default(),
            look_up: Arc::new(names::look_up),
            returned: Arc::default(),
        }
    }

    /// Calls them so from now on. How many at a time, and when breakers open, stays as it is.
    pub(crate) fn configure(&self, settings: OutboundSettings) {
        let before = self.settings.swap(Arc::new(settings));
        let now = self.settings.load_full();
        let same_tls = before.tls == now.tls;
        for (address, participant) in &*self.known() {
            if !same_tls || before.service(address) != now.service(address) {
                // What is new was looked at.
                participant.connections.store(self.connect(address).ok().flatten().map(Arc::new));
            }
        }
    }

    /// What is shown to them, and who is trusted.
    pub(crate) fn tls(&self) -> OutboundTls {
        self.settings.load().tls.clone()
    }

    /// For calls by POST: one, with its idle connections, until another configuration shows or trusts something else.
    pub(crate) fn http_client(&self) -> Result<HttpClient, String> {
        let mut http = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = self.settings.load();
        match &*http {
            // What was made while the configuration changed may be of the one before.
            Some((tls, client)) if *tls == settings.tls => Ok(client.clone()),
            _ => {
                let client = http::client(settings.connect_timeout, &settings.tls)?;
                *http = Some((settings.tls.clone(), client.clone()));
                Ok(client)
            }
        }
    }

    /// Counts the participants that were called or have called, and the calls to them.
    pub(crate) fn count(&self) -> ParticipantCounts {
        let in_flight_max = self.settings.load().in_flight_max;
        let (now, mut counts) = (Instant::now(), ParticipantCounts::default());
        for participant in self.known().values() {
            counts.breakers[participant.breaker.state(now).index()] += 1;
            let streams = participant.attached().len();
            counts.streams += streams;
            counts.attached += usize::from(streams > 0);
            for (sum, calls) in counts.calls.iter_mut().zip(participant.calls(in_flight_max)) {
                *sum += calls;
            }
        }
        counts
    }

    /// The participants that were called or have called, by address.
    pub(super) fn list(&self) -> Vec<v1::KnownParticipant> {
        let now = Instant::now();
        let mut list: Vec<_> =
            self.known().iter().map(|(address, one)| self.describe(address, one, now)).collect();
        list.sort_by(|a, b| a.address.cmp(&b.address));
        list
    }

    fn describe(&self, address: &str, participant: &Participant, now: Instant) -> v1::KnownParticipant {
        let calls = participant.calls(self.settings.load().in_flight_max);
        let last_error = participant.last_error().clone();
        let (last_error_at, last_error) = last_error.map(|(at, error)| (timestamp(at), error)).unzip();
        let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
        v1::KnownParticipant {
            address: address.to_owned(),
            streams: number(participant.attached().len()),
            calls_under_way: number(calls.iter().sum()),
            failures: participant.breaker.failures(),
            breaker_open: participant.breaker.state(now) != BreakerState::Closed,
            last_error: last_error.unwrap_or_default(),
            last_error_at,
            addresses: participant.connections.load().as_ref().map(|all| all.describe()).unwrap_or_default(),
        }
    }

    /// Of the coordinator's store.
    pub(super) fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    /// Takes a participant's stream into use. False: the coordinator is stopping.
    pub(super) fn attach(&self, attachment: &Arc<Attachment>) -> Result<bool, String> {
        let participant = self.participant(attachment.address())?;
        let is_first = {
            let mut attached = participant.attached();
            attached.push(Arc::clone(attachment));
            attached.len() == 1
        };
        if participant.breaker.succeeded() || is_first {
            self.returned.add(attachment.address());
        }
        // Looked at after the stream can be seen: either this or `detach_all` finds it.
        Ok(!self.closed.load(Ordering::SeqCst))
    }

    /// Waits for participants that answer again: they have attached, or a breaker has closed. What waits for them need not wait
    /// for its time.
    pub(crate) async fn returned(&self) -> HashSet<Arc<str>> {
        loop {
            let returned = std::mem::take(&mut *self.returned.lock());
            if !returned.is_empty() {
                return returned;
            }
            self.returned.more.notified().await;
        }
    }

    /// Puts no more calls on a stream.
    pub(super) fn detach(&self, attachment: &Attachment) {
        let participant = self.known().get(attachment.address()).map(Arc::clone);
        if let Some(participant) = participant {
            participant.attached().retain(|known| !std::ptr::eq(&**known, attachment));
        }
    }

    #[cfg(test)]
    pub(super) fn attached_to(&self, address: &str) -> Vec<Arc<Attachment>> {
        self.known().get(address).map(|one| one.attached().clone()).unwrap_or_default()
    }

    /// Ends all streams, and takes no more.
    pub(crate) fn detach_all(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let known: Vec<_> = self.known().values().map(Arc::clone).collect();
        for participant in known {
            std::mem::take(&mut *participant.attached()).iter().for_each(|attachment| attachment.close());
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Participant>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn participant(&self, address: &Arc<str>) -> Result<Arc<Participant>, String> {
        let mut known = self.known();
        if let Some(participant) = known.get(address) {
            return Ok(Arc::clone(participant));
        }
        if known.len() >= PARTICIPANTS_MAX {
            known.retain(|_, one| Arc::strong_count(one) > 1 || !one.attached().is_empty());
        }
        let connections = self.connect(address)?.map(Arc::new);
        let settings = self.settings.load();
        let breaker = Breaker::new(settings.breaker);
        let turns = || Semaphore::new(settings.in_flight_max);
        let participant = Arc::new(Participant {
            turns: [turns(), turns()],
            metrics: Arc::clone(&self.metrics),
            connections: connections.into(),
            breaker,
            attached: Mutex::default(),
            last_error: Mutex::default(),
            returned: Arc::clone(&self.returned),
        });
        known.insert(Arc::clone(address), Arc::clone(&participant));
        Ok(participant)
    }

    /// `None`: it does not listen, or it is a service of which nobody has said where it is.
    fn connect(&self, address: &str) -> Result<Option<Connections>, String> {
        let settings = self.settings.load_full();
        let urls = match (AllowList::service(address), settings.service(address)) {
            (Some(_), Some(service)) => service.addresses.clone(),
            (None, _) if !AllowList::is_attached_only(address) => vec![address.to_owned()],
            _ => return Ok(None),
        };
        let first = urls.into_iter().map(|url| self.place(url)).collect::<Result<_, _>>()?;
        let patience = settings.connect_timeout;
        let connect = move |url: &str, name: &Name| {
            let (_, connection) = settings.connect(url, Some(name)).ok()?;
            Some(Destination::new(connection, settings.breaker))
        };
        Ok(Some(Connections::new(first, Arc::clone(&self.look_up), patience, connect)))
    }

    /// The way to `url`, and the name in it that may stand for several.
    fn place(&self, url: String) -> Result<(Place<Arc<Destination>>, Option<Name>), String> {
        let (connection, name) = if AllowList::is_http_service(&url) {
            let address = url.parse().map_err(|error: url::ParseError| error.to_string())?;
            // It looks names up by itself, for each connection that it makes.
            (Connection::Http(Box::new(HttpService { client: self.http_client()?, address })), None)
        } else {
            let connected = self.settings.load().connect(&url, None);
            let (uri, connection) = connected.map_err(|error| error.to_string())?;
            (connection, Name::of(&uri))
        };
        let destination = Destination::new(connection, self.settings.load().breaker);
        Ok((Place { url, channel: destination }, name))
    }
}

/// The way to `url`, by TLS if it begins with `https`. `host`: whose certificate is expected, if that is not the host in the URL.
pub(super) fn endpoint(url: &str, host: Option<&str>, tls: &OutboundTls) -> Result<Endpoint, EndpointError> {
    let mut credentials = Credentials::new();
    if let Some(pem) = &tls.authorities {
        credentials = credentials.trusting(pem);
    }
    if let Some((certificate, key)) = &tls.certificate {
        credentials = credentials.certificate(certificate, key);
    }
    credentials.endpoint(url, host)
}

impl Participants for GrpcParticipants {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, CallResult> {
        let (cluster_id, limit) = (self.cluster_id, self.settings.load().call_timeout);
        match self.participant(&call.participant) {
            Ok(participant) => async move { participant.call(call, cluster_id, limit).await }.boxed(),
            Err(error) => {
                self.metrics.failed.at(CallFailure::Unreachable).inc();
                std::future::ready(CallResult::failed(false, error)).boxed()
            }
        }
    }

    fn permits(&self, participant: &str) -> bool {
        let settings = self.settings.load();
        match AllowList::service(participant) {
            // To say where it is, is to permit it.
            Some(_) => settings.service(participant).is_some(),
            None => settings.allow.permits(participant),
        }
    }
}

/// Participants, counted.
#[derive(Debug, Default)]
pub(crate) struct ParticipantCounts {
    /// By the state of their breakers.
    pub(crate) breakers: [usize; BreakerState::ALL.len()],
    /// Those that have opened a stream.
    pub(crate) attached: usize,
    /// Their streams.
    pub(crate) streams: usize,
    /// Calls whose turn has come, by phase.
    pub(crate) calls: [usize; CallPhase::ALL.len()],
}

/// How a call gets to its participant.
enum Way {
    Stream(Arc<Attachment>),
    Connections(Arc<Connections>),
}

/// To a participant that listens.
enum Connection {
    Grpc(ParticipantClient<Channel>),
    Http(Box<HttpService>),
}

impl Connection {
    async fn send(&self, request: Request, trace: Option<TraceContext>) -> Result<Response, Status> {
        match self {
            Connection::Grpc(client) => send(client.clone(), request, trace.as_ref()).await,
            Connection::Http(service) => service.call(request, trace.as_ref()).await,
        }
    }
}

impl Participant {
    /// Makes a call when its turn comes: after a restart there may be thousands, and a participant that gets them all at
    /// once answers none in time. `limit`: how long it may then take.
    async fn call(&self, mut call: BranchCall, cluster_id: ClusterId, limit: Duration) -> CallResult {
        let phase_two = call.verb.is_phase_two();
        let queued = Instant::now();
        // Never closed.
        let _turn = self.turns[usize::from(phase_two)].acquire().await;
        if !phase_two && queued.elapsed() > Duration::from_millis(call.remaining_ms.into()) {
            let why = "not called: its transaction timed out before its turn came";
            return self.not_called(CallFailure::TooLate, why);
        }
        let Some(way) = self.way(&call) else {
            let why = match AllowList::is_attached_only(&call.participant) {
                true => "not called: it is not attached",
                false => "not called: no [[service]] says where it is",
            };
            return self.not_called(CallFailure::NotAttached, why);
        };
        if !self.breaker.admits(Instant::now()) {
            let why = "not called: it has not answered for a while (breaker open)";
            return self.not_called(CallFailure::BreakerOpen, why);
        }
        let (gtid, branch, verb, repeated) = (call.gtid, call.branch, call.verb, call.repeated);
        crash_point!("coordinator/send", format!("{verb:?}"));
        let (trace, address) = (call.trace.take(), Arc::clone(&call.participant));
        let request = call::request(call, cluster_id);
        let answer = match &way {
            Way::Stream(attachment) => {
                within(limit, limit, Arc::clone(attachment).call(request, trace)).await
            }
            // Boxed, because it is large: calls on streams should not pay for it.
            Way::Connections(all) => Box::pin(all.call(gtid, branch, request, trace, limit)).await,
        };
        match &answer {
            Err(status) if call::tells_of_absence(status) => {
                let is_any_left = matches!(&way, Way::Connections(all) if all.is_any_left());
                if !is_any_left && self.breaker.failed(Instant::now()) {
                    self.metrics.breaker_openings.inc();
                    let why = call::told(status);
                    tracing::warn!(
                        participant = &*address,
                        why,
                        "a participant does not answer; it is left in peace for a while"
                    );
                }
            }
            _ if self.breaker.succeeded() => self.returned.add(&address),
            _ => {}
        }
        answer.and_then(|response| call::result(verb, response)).unwrap_or_else(|status| {
            let result = call::failure(verb, repeated, &status);
            if matches!(result.reply, Reply::Failed { .. }) {
                self.metrics.failed.at(call::what_failed(&status)).inc();
                *self.last_error() = Some((UnixMillis::now(), result.reason.clone()));
            }
            result
        })
    }

    fn not_called(&self, failure: CallFailure, why: &str) -> CallResult {
        self.metrics.failed.at(failure).inc();
        CallResult::failed(false, why)
    }

    /// Of several streams a branch keeps to one as long as that lasts, whichever others come and go (rendezvous hashing):
    /// the process that prepared it finishes it at the least cost.
    fn way(&self, call: &BranchCall) -> Option<Way> {
        let attached = self.attached();
        match attached.iter().max_by_key(|attachment| attachment.weight(call.gtid, call.branch)) {
            Some(attachment) => Some(Way::Stream(Arc::clone(attachment))),
            None => self.connections.load_full().map(Way::Connections),
        }
    }
}

/// What `call` answers within what is `left` of its `limit`.
async fn within(
    left: Duration,
    limit: Duration,
    call: impl Future<Output = Result<Response, Status>>,
) -> Result<Response, Status> {
    tokio::time::timeout(left, call).await.unwrap_or_else(|_| {
        let mut status = Status::deadline_exceeded(format!("no answer within {} ms", limit.as_millis()));
        status.set_source(Arc::new(TimeoutExpired(())));
        Err(status)
    })
}

async fn send(
    mut client: ParticipantClient<Channel>,
    request: Request,
    trace: Option<&TraceContext>,
) -> Result<Response, Status> {
    Ok(match request {
        Request::Work(request) => Response::Work(client.work(traced(request, trace)).await?.into_inner()),
        Request::Prepare(request) => {
            Response::Prepare(client.prepare(traced(request, trace)).await?.into_inner())
        }
        Request::Commit(request) => {
            Response::Commit(client.commit(traced(request, trace)).await?.into_inner())
        }
        Request::Rollback(request) => {
            Response::Rollback(client.rollback(traced(request, trace)).await?.into_inner())
        }
        Request::Try(request) => Response::Try(client.r#try(traced(request, trace)).await?.into_inner()),
        Request::Confirm(request) => {
            Response::Confirm(client.confirm(traced(request, trace)).await?.into_inner())
        }
        Request::Cancel(request) => {
            Response::Cancel(client.cancel(traced(request, trace)).await?.into_inner())
        }
    })
}

fn traced<T>(request: T, trace: Option<&TraceContext>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    if let Some(trace) = trace {
        trace.add_to(request.metadata_mut());
    }
    request
}

#[cfg(test)]
mod tests;
