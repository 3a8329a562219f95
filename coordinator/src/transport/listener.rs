//! Connections, as they come in.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::http;
use futures_util::{Stream, StreamExt as _, stream};
use rustix::net::sockopt;
use rustix::process::{Resource, getrlimit};
use rustls::ServerConfig;
use tls_listener::{AsyncAccept, AsyncTls};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};
use tonic::transport::server::{Connected, TlsConnectInfo};

use crate::config::Server;
use crate::metrics::{DoorMetrics, Metrics, Refused};

/// How long a caller may take to agree on how to encrypt.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait where none can be accepted: most often there are too many, and some have to end first.
const PAUSE: Duration = Duration::from_millis(100);
/// The log says that connections are refused no more often than this.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// After so long without a byte from a caller its machine is asked for a sign of life, so often, and so many times.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 6);

/// What is shown to callers, and asked of them; what is stored there holds for the next connection.
pub(crate) type ShownTls = Arc<ArcSwap<ServerConfig>>;

/// How many connections there may be, and how long one may be silent.
pub(crate) struct ConnectionLimits {
    max: AtomicUsize,
    first_call: Duration,
    metrics: Arc<DoorMetrics>,
}

impl ConnectionLimits {
    pub(crate) fn new(server: &Server, metrics: &Metrics) -> Arc<Self> {
        let limits = ConnectionLimits {
            max: AtomicUsize::default(),
            first_call: Duration::from_millis(server.first_call_timeout_ms),
            metrics: Arc::clone(&metrics.door),
        };
        limits.configure(server);
        Arc::new(limits)
    }

    /// So many there may be from now on. Those that are open stay so.
    pub(crate) fn configure(&self, server: &Server) {
        let max = server.max_connections.min(files_for_connections());
        if self.max.swap(max, Ordering::Relaxed) != max && max < server.max_connections {
            tracing::info!(
                max,
                wanted = server.max_connections,
                "fewer connections are taken than server.max_connections allows: the process may not have so many files \
                 open (ulimit -n, LimitNOFILE)"
            );
        }
        self.metrics.connections_max.set(i64::try_from(max).unwrap_or(i64::MAX));
    }

    /// `None`: there are as many as there may be.
    fn admit(&self, stream: TcpStream) -> Option<Connection> {
        let open = usize::try_from(self.metrics.connections.get()).unwrap_or(0);
        if open >= self.max.load(Ordering::Relaxed) {
            self.metrics.connections_refused.at(Refused::TooMany).inc();
            return None;
        }
        Some(Connection {
            stream: prepared(stream),
            place: Place::take(&self.metrics),
            silence: Some(Box::pin(tokio::time::sleep(self.first_call))),
            called: Called::default(),
        })
    }
}

/// So many of the files that the process may open: the log, participants and databases need some too.
fn files_for_connections() -> usize {
    match getrlimit(Resource::Nofile).current {
        Some(files) => usize::try_from(files / 4 * 3).unwrap_or(usize::MAX).max(1),
        None => usize::MAX,
    }
}

/// Unencrypted ones.
pub(super) fn plain(
    listener: TcpListener,
    limits: Arc<ConnectionLimits>,
) -> impl Stream<Item = io::Result<Connection>> {
    let mut listener = Patient::new(listener, limits);
    stream::poll_fn(move |context| {
        let (connection, _) = ready!(Pin::new(&mut listener).poll_accept(context))?;
        Poll::Ready(Some(Ok(connection)))
    })
}

/// Each once its handshake is done. One whose handshake fails is nobody's business but the caller's.
pub(super) fn encrypted(
    listener: TcpListener,
    tls: ShownTls,
    limits: Arc<ConnectionLimits>,
) -> impl Stream<Item = io::Result<TlsStream<Connection>>> {
    let metrics = Arc::clone(&limits.metrics);
    let connections = tls_listener::builder(Handshakes(tls))
        .handshake_timeout(HANDSHAKE_TIMEOUT)
        .listen(Patient::new(listener, limits));
    connections.filter_map(move |connection| {
        std::future::ready(match connection {
            Ok((connection, _)) => Some(Ok(connection)),
            Err(tls_listener::Error::ListenerError(error)) => Some(Err(error)),
            Err(error) => {
                metrics.connections_refused.at(Refused::Handshake).inc();
                tracing::debug!(%error, "a caller's TLS handshake failed");
                None
            }
        })
    })
}

/// Without delay, and with somebody who notices when the caller's machine is gone. One that has broken already shows that soon
/// enough.
fn prepared(stream: TcpStream) -> TcpStream {
    let (idle, interval, count) = KEEP_ALIVE;
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_tcp_keepidle(&stream, idle);
    let _ = sockopt::set_tcp_keepintvl(&stream, interval);
    let _ = sockopt::set_tcp_keepcnt(&stream, count);
    let _ = sockopt::set_socket_keepalive(&stream, true);
    stream
}

/// A caller's connection, which is closed if no call comes on it.
pub(super) struct Connection {
    stream: TcpStream,
    place: Place,
    /// Until the first call.
    silence: Option<Pin<Box<Sleep>>>,
    called: Called,
}

/// One of the connections that there may be; it is free again when this is dropped.
struct Place(Arc<DoorMetrics>);

impl Place {
    fn take(metrics: &Arc<DoorMetrics>) -> Self {
        metrics.connections.inc();
        Place(Arc::clone(metrics))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// Whether there was a call on a connection; in the extensions of each call.
#[derive(Debug, Clone, Default)]
pub(super) struct Called(Arc<AtomicBool>);

/// Notes that there was a call on the connection that this one came by.
pub(super) fn note_call<B>(request: http::Request<B>) -> http::Request<B> {
    let extensions = request.extensions();
    let encrypted = || extensions.get::<TlsConnectInfo<Called>>().map(TlsConnectInfo::get_ref);
    if let Some(Called(called)) = extensions.get::<Called>().or_else(encrypted) {
        called.store(true, Ordering::Relaxed);
    }
    request
}

impl Connected for Connection {
    type ConnectInfo = Called;

    fn connect_info(&self) -> Called {
        self.called.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(silence) = &mut this.silence {
            if this.called.0.load(Ordering::Relaxed) {
                this.silence = None;
            } else if silence.as_mut().poll(context).is_ready() {
                this.place.0.connections_refused.at(Refused::Silent).inc();
                tracing::debug!("a connection is closed: no call came on it");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no call came in time")));
            }
        }
        Pin::new(&mut this.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Shakes hands as it is configured at the moment.
#[derive(Clone)]
struct Handshakes(ShownTls);

impl AsyncTls<Connection> for Handshakes {
    type Stream = TlsStream<Connection>;
    type Error = io::Error;
    type AcceptFuture = Accept<Connection>;

    fn accept(&self, connection: Connection) -> Self::AcceptFuture {
        TlsAcceptor::from(self.0.load_full()).accept(connection)
    }
}

/// Waits a little where no connection can be accepted. Told about such an error, those above would try again at once, for ever.
/// One too many is closed at once: left waiting, its caller would not know that another coordinator might serve it, and those
/// that wait would be in the way of whoever comes later.
struct Patient {
    listener: TcpListener,
    limits: Arc<ConnectionLimits>,
    pause: Option<Pin<Box<Sleep>>>,
    /// When it was last told that there are too many.
    told: Option<Instant>,
}

impl Patient {
    fn new(listener: TcpListener, limits: Arc<ConnectionLimits>) -> Self {
        Patient { listener, limits, pause: None, told: None }
    }

    fn tell_of_too_many(&mut self) {
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            tracing::warn!(
                max = self.limits.max.load(Ordering::Relaxed),
                "connections are refused: there are as many as there may be (server.max_connections)"
            );
        }
    }
}

impl AsyncAccept for Patient {
    type Connection = Connection;
    type Address = SocketAddr;
    type Error = io::Error;

    fn poll_accept(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(Connection, SocketAddr), io::Error>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(TcpListener::poll_accept(&self.listener, context)) {
                Ok((stream, from)) => match self.limits.admit(stream) {
                    Some(connection) => return Poll::Ready(Ok((connection, from))),
                    None => self.tell_of_too_many(),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted; trying again in a moment");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_whose_machine_is_gone_will_be_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = ConnectionLimits::new(&Server::default(), &Metrics::default());
        let mut connections = Box::pin(plain(listener, limits));
        let _caller = TcpStream::connect(address).await.unwrap();
        let connection = connections.next().await.unwrap().unwrap();
        let stream = &connection.stream;
        assert!(sockopt::socket_keepalive(stream).unwrap() && stream.nodelay().unwrap());
        let set =
            (sockopt::tcp_keepidle(stream), sockopt::tcp_keepintvl(stream), sockopt::tcp_keepcnt(stream));
        assert_eq!((set.0.unwrap(), set.1.unwrap(), set.2.unwrap()), KEEP_ALIVE);
    }
}
