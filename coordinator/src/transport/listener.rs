//! Connections, as they come in.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::{Stream, StreamExt as _, stream};
use rustls::ServerConfig;
use tls_listener::{AsyncAccept, AsyncTls};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

/// How long a caller may take to agree on how to encrypt.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait where none can be accepted: most often there are too many, and some have to end first.
const PAUSE: Duration = Duration::from_millis(100);

/// What is shown to callers, and asked of them; what is stored there holds for the next connection.
pub(crate) type ServerTls = Arc<ArcSwap<ServerConfig>>;

/// Unencrypted ones.
pub(super) fn plain(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    let mut listener = Patient::new(listener);
    stream::poll_fn(move |context| {
        let (connection, _) = ready!(Pin::new(&mut listener).poll_accept(context))?;
        Poll::Ready(Some(Ok(without_delay(connection))))
    })
}

/// Each once its handshake is done. One whose handshake fails is nobody's business but the caller's.
pub(super) fn encrypted(
    listener: TcpListener,
    tls: ServerTls,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    let connections = tls_listener::builder(Handshakes(tls))
        .handshake_timeout(HANDSHAKE_TIMEOUT)
        .listen(Patient::new(listener));
    connections.filter_map(async |connection| match connection {
        Ok((connection, _)) => Some(Ok(connection)),
        Err(tls_listener::Error::ListenerError(error)) => Some(Err(error)),
        Err(error) => {
            tracing::debug!(%error, "a caller's TLS handshake failed");
            None
        }
    })
}

fn without_delay(connection: TcpStream) -> TcpStream {
    // One that has broken already shows that soon enough.
    let _ = connection.set_nodelay(true);
    connection
}

/// Shakes hands as it is configured at the moment.
#[derive(Clone)]
struct Handshakes(ServerTls);

impl AsyncTls<TcpStream> for Handshakes {
    type Stream = TlsStream<TcpStream>;
    type Error = io::Error;
    type AcceptFuture = Accept<TcpStream>;

    fn accept(&self, connection: TcpStream) -> Self::AcceptFuture {
        TlsAcceptor::from(self.0.load_full()).accept(without_delay(connection))
    }
}

/// Waits a little where no connection can be accepted. Told about such an error, those above would try again at once, for ever.
struct Patient {
    listener: TcpListener,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(listener: TcpListener) -> Self {
        Patient { listener, pause: None }
    }
}

impl AsyncAccept for Patient {
    type Connection = TcpStream;
    type Address = SocketAddr;
    type Error = io::Error;

    fn poll_accept(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(TcpStream, SocketAddr), io::Error>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(TcpListener::poll_accept(&self.listener, context)) {
                Ok(accepted) => return Poll::Ready(Ok(accepted)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted; trying again in a moment");
                    self.pause = Some(Box::pin(tokio::time::sleep(PAUSE)));
                }
            }
        }
    }
}
