//! The way to several coordinators that share a store. Any of them answers any call.

mod credentials;
mod likely;

use std::future::poll_fn;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Code, Status};

pub use self::credentials::{Credentials, EndpointError, InvalidToken};
pub use self::likely::{LikelyCause, root_cause};
pub use crate::names::Place;
use crate::names::{self, Name};

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
    places: watch::Receiver<Arc<[Place]>>,
    /// Counts on; modulo their number, the one that is called.
    current: Arc<AtomicUsize>,
    credentials: Credentials,
}

impl Coordinators {
    /// The way to the coordinators at these addresses, with commas between them: `http://a:7600,http://b:7600`. It begins
    /// with any of them, and connects at the first call. A host name that has several addresses stands for a
    /// coordinator at each, and is looked up again every five seconds.
    ///
    /// # Errors
    /// One is not a URL.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn connect_lazy(urls: &str) -> Result<Self, EndpointError> {
        Coordinators::connect_lazy_with(urls, Credentials::new())
    }

    /// As [`Coordinators::connect_lazy`], for coordinators that want to know who calls: `https://a:7600,https://b:7600`.
    ///
    /// # Errors
    /// One is not a URL; the certificates cannot be used; or a token would go over `http://` beyond this machine
    /// ([`Credentials::allow_insecure`]).
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn connect_lazy_with(urls: &str, credentials: Credentials) -> Result<Self, EndpointError> {
        let mut first = Vec::new();
        for url in urls.split(',').map(str::trim) {
            let endpoint = endpoint(url, None, &credentials)?;
            let name = Name::of(endpoint.uri());
            first.push((Place { url: url.to_owned(), channel: endpoint.connect_lazy() }, name));
        }
        let (found, seen) = watch::channel(first.iter().map(|(place, _)| place.clone()).collect());
        if first.iter().any(|(_, name)| name.is_some()) {
            let credentials = credentials.clone();
            let connect = move |url: &str, name: &Name| {
                let endpoint = endpoint(url, Some(name.host()), &credentials).ok()?;
                Some(endpoint.origin(name.uri().clone()).connect_lazy())
            };
            tokio::spawn(names::follow(first, found, Arc::new(names::look_up), connect));
        }
        Ok(Coordinators { credentials, ..Coordinators::following(seen) })
    }

    /// The way to those that somebody else finds, in a registry of services, say, and changes as they come and go.
    pub fn following(places: watch::Receiver<Arc<[Place]>>) -> Self {
        let any = RandomState::new().build_hasher().finish() as usize;
        Coordinators { places, current: Arc::new(AtomicUsize::new(any)), credentials: Credentials::new() }
    }

    /// Shows the token of these credentials with each call. What else is in them is for who makes the channels.
    pub fn with_token_of(self, credentials: Credentials) -> Self {
        Coordinators { credentials, ..self }
    }

    /// The way to one of them alone.
    pub fn only(&self, place: Place) -> Self {
        Coordinators { credentials: self.credentials.clone(), ..Coordinators::to(place) }
    }

    fn to(place: Place) -> Self {
        Coordinators::following(watch::channel(Arc::from([place])).1)
    }

    /// Those that there are now.
    pub fn places(&self) -> Arc<[Place]> {
        Arc::clone(&self.places.borrow())
    }

    /// What is shown to the coordinator at `place`, which may be one of those that `following` was given.
    fn authorization(&self, place: &Place) -> Result<Option<http::HeaderValue>, Status> {
        let Some(value) = self.credentials.authorization()? else { return Ok(None) };
        // Of a channel from elsewhere nobody knows the URL.
        if let Ok(url) = place.url.parse() {
            self.credentials.check(&url).map_err(|why| Status::failed_precondition(why.to_string()))?;
        }
        Ok(Some(value))
    }

    /// Resolves when there may be others than at the last call; never, when that cannot be.
    pub async fn changed(&mut self) {
        if self.places.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl From<Channel> for Coordinators {
    fn from(channel: Channel) -> Self {
        Coordinators::to(Place { url: String::new(), channel })
    }
}

fn endpoint(url: &str, host: Option<&str>, credentials: &Credentials) -> Result<Endpoint, EndpointError> {
    Ok(credentials
        .endpoint(url, host)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE))
}

impl Service<http::Request<Body>> for Coordinators {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let (turn, current) = (self.current.load(Ordering::Relaxed), Arc::clone(&self.current));
        let places = self.places();
        let Some(place) = turn.checked_rem(places.len()).and_then(|number| places.get(number)) else {
            return Box::pin(async { Err(Status::unavailable("there is no coordinator")) });
        };
        match self.authorization(place) {
            Ok(None) => {}
            Ok(Some(value)) => drop(request.headers_mut().insert(http::header::AUTHORIZATION, value)),
            Err(status) => return Box::pin(std::future::ready(Err(status))),
        }
        let mut channel = place.channel.clone();
        let (url, credentials) = (place.url.clone(), self.credentials.clone());
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
                    turn,
                    turn.wrapping_add(1),
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
            }
            answer.map_err(|error| broken(error, &url, &credentials))
        })
    }
}

/// A call that broke on its way is one that nobody answered, whatever gRPC calls it: a coordinator that stops closes its
/// connections in good order, for one, which it has as an internal error.
fn broken(error: Error, url: &str, credentials: &Credentials) -> Status {
    let error = Arc::new(error);
    let mut status = Status::from_error(Box::new(Arc::clone(&error)));
    let code = match status.code() {
        Code::Internal | Code::Unknown | Code::Cancelled => Code::Unavailable,
        code => code,
    };
    let told = match status.message() {
        "transport error" => root_cause(&error),
        told => told.to_owned(),
    };
    let told = match credentials.likely_cause(url, &error) {
        Some((cause, true)) => format!("{told}: {cause}{}", cause.remedy()),
        Some((cause, false)) => format!("{told}; if it is always so, maybe {cause}{}", cause.remedy()),
        None => told,
    };
    status = Status::new(code, told);
    status.set_source(error);
    status
}
