//! The way to several coordinators that share a store. Any of them answers any call.

use std::future::poll_fn;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Code, Status};

/// How long a coordinator may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often one that is silent during a call is asked for a sign of life, and how long it has to give one.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Calls one coordinator as long as it answers, and the next one after a call that it did not. Give it to the generated
/// clients in place of a [`Channel`]. A call that failed is not repeated: that is for the caller, who knows whether it may
/// be (with an idempotency key, always).
///
/// Give calls their deadlines by gRPC ([`tonic::Request::set_timeout`]): of a call that is merely dropped nobody learns that it
/// was not answered, and the next one goes to the same coordinator, until that has been silent for ten seconds.
#[derive(Debug, Clone)]
pub struct Coordinators {
    channels: Arc<[Channel]>,
    /// Counts on; modulo their number, the one that is called.
    current: Arc<AtomicUsize>,
}

impl Coordinators {
    /// The way to the coordinators at these addresses, with commas between them: `http://a:7600,http://b:7600`. It begins
    /// with any of them, and connects at the first call.
    ///
    /// # Errors
    /// One is not a URL.
    pub fn connect_lazy(urls: &str) -> Result<Self, Error> {
        let channel = |url: &str| {
            let endpoint = Endpoint::from_shared(url.trim().to_owned())?;
            Ok(endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .connect_lazy())
        };
        let channels: Result<Arc<[_]>, Error> = urls.split(',').map(channel).collect();
        let any = RandomState::new().build_hasher().finish() as usize;
        Ok(Coordinators { channels: channels?, current: Arc::new(AtomicUsize::new(any)) })
    }

    /// One channel to each.
    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }
}

impl From<Channel> for Coordinators {
    fn from(channel: Channel) -> Self {
        Coordinators { channels: Arc::new([channel]), current: Arc::default() }
    }
}

impl Service<http::Request<Body>> for Coordinators {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (place, current) = (self.current.load(Ordering::Relaxed), Arc::clone(&self.current));
        let mut channel = self.channels[place % self.channels.len()].clone();
        Box::pin(async move {
            let called = async {
                poll_fn(|context| channel.poll_ready(context)).await?;
                channel.call(request).await
            };
            let answer = called.await;
            let is_unavailable = |answer: &http::Response<Body>| {
                Status::from_header_map(answer.headers())
                    .is_some_and(|status| status.code() == Code::Unavailable)
            };
            if answer.as_ref().map_or(true, is_unavailable) {
                // Unless another call has moved on already.
                let _ = current.compare_exchange(
                    place,
                    place.wrapping_add(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
            answer.map_err(broken)
        })
    }
}

/// A call that broke on its way is one that nobody answered, whatever gRPC calls it: a coordinator that stops closes its
/// connections in good order, for one, which it has as an internal error.
fn broken(error: Error) -> Status {
    let error = Arc::new(error);
    let mut status = Status::from_error(Box::new(Arc::clone(&error)));
    if matches!(status.code(), Code::Internal | Code::Unknown) {
        status = Status::unavailable(status.message());
        status.set_source(error);
    }
    status
}
