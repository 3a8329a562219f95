//! Putting a participant together and serving it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::participant_server::ParticipantServer as Generated;
use concord_xa::{Database, Isolation, Options, ServerInfo, XaError};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint, Server, server::Router};

use crate::handler::{Action, FromPayload, HandlerError, Reply};
use crate::participant::Core;
use crate::recovery::{SweepError, Swept};
use crate::registration::BranchBuilder;
use crate::service::ParticipantService;
use crate::slots::Slots;
use crate::xa_branch::XaBranch;
use concord_protocol::Gtid;

/// Replies to the coordinator and requests from it are small, but for payloads.
const MESSAGE_OVERHEAD_BYTES: usize = 64 * 1024;

/// Why a participant cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Something was not said, or said wrongly, to the builder.
    #[error("{0}")]
    Setting(String),
    /// The database cannot be reached or used.
    #[error(transparent)]
    Database(#[from] XaError),
    /// The port cannot be served.
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Collects what a participant needs.
#[must_use]
pub struct Builder {
    database: String,
    options: Options,
    coordinator: String,
    channel: Option<Channel>,
    address: String,
    actions: HashMap<String, Arc<Action>>,
    twice: Option<String>,
    payload_max_bytes: usize,
    recovery_interval: Duration,
    safety_interval: Duration,
}

impl Builder {
    /// The participant's own database: `mysql://user:password@host:port/database`.
    pub fn database(mut self, url: impl Into<String>) -> Self {
        self.database = url.into();
        self
    }

    /// How to use the database: numbers of sessions, time-outs, what the start-up check overlooks.
    pub fn database_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Isolation of branches; unset: the server's default.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.options.isolation = Some(isolation);
        self
    }

    /// Sessions for branches, at most (default 128). Past it branches are refused.
    pub fn sessions_max(mut self, sessions: usize) -> Self {
        self.options.sessions_max = sessions;
        self
    }

    /// Accepts a database that may lose acknowledged commits when it crashes. For tests only.
    pub fn allow_relaxed_durability(mut self) -> Self {
        self.options.leniency.allow_relaxed_durability = true;
        self
    }

    /// A table that may have an engine without transactions. Branches must not write to it.
    pub fn ignore_table(mut self, table: impl Into<String>) -> Self {
        self.options.leniency.ignore_tables.push(table.into());
        self
    }

    /// The coordinator: `http://host:port`.
    pub fn coordinator(mut self, url: impl Into<String>) -> Self {
        self.coordinator = url.into();
        self
    }

    /// A ready connection to the coordinator, for TLS and the like; instead of [`Builder::coordinator`].
    pub fn coordinator_channel(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    /// Where the coordinator reaches this participant, as its allow-list has it: `http://host:port`.
    pub fn address(mut self, url: impl Into<String>) -> Self {
        self.address = url.into();
        self
    }

    /// Registers a handler that works in an XA branch. `payload` is read as the handler wants it:
    /// [`bytes::Bytes`], [`crate::Json`] or [`crate::Proto`].
    pub fn xa<P, R, F, Fut>(self, name: &str, handler: F) -> Self
    where
        P: FromPayload + 'static,
        R: Into<Reply>,
        F: Fn(XaBranch, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    {
        self.action(name, Action::new(handler, false))
    }

    /// As [`Builder::xa`], for a handler that only reads. The database refuses writes, and the branch always
    /// leaves at the vote.
    pub fn xa_read_only<P, R, F, Fut>(self, name: &str, handler: F) -> Self
    where
        P: FromPayload + 'static,
        R: Into<Reply>,
        F: Fn(XaBranch, P) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    {
        self.action(name, Action::new(handler, true))
    }

    fn action(mut self, name: &str, action: Arc<Action>) -> Self {
        if self.actions.insert(name.to_owned(), action).is_some() {
            self.twice = Some(name.to_owned());
        }
        self
    }

    /// The largest payload taken, in bytes (default 1 MiB).
    pub fn payload_max_bytes(mut self, bytes: usize) -> Self {
        self.payload_max_bytes = bytes;
        self
    }

    /// How often to look for branches left in doubt (default 10 s), and how long a branch that this process
    /// prepared is left to the coordinator (default 30 s).
    pub fn recovery(mut self, interval: Duration, safety: Duration) -> Self {
        (self.recovery_interval, self.safety_interval) = (interval, safety);
        self
    }

    /// Connects to the database, checks it, creates the barrier table, and starts recovery. The coordinator
    /// need not be up.
    ///
    /// # Errors
    /// [`StartError`], with what to change.
    pub async fn build(self) -> Result<ParticipantServer, StartError> {
        let setting = |what: String| Err(StartError::Setting(what));
        if let Some(name) = self.twice {
            return setting(format!("two handlers are called {name:?}"));
        }
        if let Some(name) = self.actions.keys().find(|name| name.is_empty() || name.len() > 128) {
            return setting(format!("a handler's name has from 1 to 128 bytes: {name:?}"));
        }
        if self.address.is_empty() || self.address.len() > 256 {
            return setting("address() must say where the coordinator reaches this participant".into());
        }
        let channel = match self.channel {
            Some(channel) => channel,
            None => Endpoint::from_shared(self.coordinator.clone())
                .map_err(|error| StartError::Setting(format!("coordinator {:?}: {error}", self.coordinator)))?
                .connect_timeout(Duration::from_secs(5))
                .tcp_nodelay(true)
                .connect_lazy(),
        };
        let database = Database::connect(&self.database, self.options).await?;
        if database.server_info().database.is_none() {
            return setting("the database URL must name a database: .../name".into());
        }
        database.migrate().await?;
        let core = Arc::new(Core {
            database,
            coordinator: CoordinatorClient::new(channel),
            address: self.address,
            actions: self.actions,
            slots: Slots::default(),
            cluster: AtomicU64::new(0),
        });
        let (every, safety) = (self.recovery_interval, self.safety_interval);
        let recovery = tokio::spawn({
            let core = Arc::clone(&core);
            async move { core.recover_for_ever(every, safety).await }
        });
        let payload_max_bytes = self.payload_max_bytes;
        let participant = Participant { core: Arc::clone(&core), safety };
        Ok(ParticipantServer {
            participant,
            service: ParticipantService { core, payload_max_bytes },
            recovery,
        })
    }
}

/// A participant that is ready to be called. Dropped, it stops recovering.
pub struct ParticipantServer {
    participant: Participant,
    service: ParticipantService,
    recovery: JoinHandle<()>,
}

impl ParticipantServer {
    /// Starts to put one together.
    pub fn builder() -> Builder {
        Builder {
            database: String::new(),
            options: Options::default(),
            coordinator: String::new(),
            channel: None,
            address: String::new(),
            actions: HashMap::new(),
            twice: None,
            payload_max_bytes: 1024 * 1024,
            recovery_interval: Duration::from_secs(10),
            safety_interval: Duration::from_secs(30),
        }
    }

    /// The gRPC service, to be added to a server of one's own.
    pub fn service(&self) -> Generated<ParticipantService> {
        let limit = self.service.payload_max_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES);
        Generated::new(self.service.clone()).max_decoding_message_size(limit)
    }

    /// A handle for branches that a service of one's own begins.
    pub fn participant(&self) -> Participant {
        self.participant.clone()
    }

    /// Serves until Ctrl-C or SIGTERM.
    ///
    /// # Errors
    /// [`StartError::Serve`] when the port cannot be had.
    pub async fn serve(self, listen: SocketAddr) -> Result<(), StartError> {
        self.serve_until(listen, terminated()).await
    }

    /// Serves until `stop` is ready; then takes no new calls, finishes those under way, rolls open branches
    /// back, and leaves prepared ones to the database.
    ///
    /// # Errors
    /// [`StartError::Serve`] when the port cannot be had.
    pub async fn serve_until(
        self,
        listen: SocketAddr,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StartError> {
        let served = self.router().await.serve_with_shutdown(listen, stop).await;
        self.shutdown().await;
        Ok(served?)
    }

    /// The service and gRPC health, to which more services may be added.
    pub async fn router(&self) -> Router {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<Generated<ParticipantService>>().await;
        Server::builder().tcp_nodelay(true).add_service(health_service).add_service(self.service())
    }

    /// Stops recovery, rolls open branches back and lets go of prepared ones, so that others can end them.
    pub async fn shutdown(self) {
        self.recovery.abort();
        self.participant.core.release_all().await;
    }
}

impl Drop for ParticipantServer {
    fn drop(&mut self) {
        self.recovery.abort();
    }
}

/// A participant, as the rest of its process sees it. Cheap to clone.
#[derive(Clone)]
pub struct Participant {
    pub(crate) core: Arc<Core>,
    safety: Duration,
}

impl Participant {
    /// What the database server is.
    pub fn server_info(&self) -> &ServerInfo {
        self.core.database.server_info()
    }

    /// The participant's database, for work outside any global transaction.
    pub fn database(&self) -> &Database {
        &self.core.database
    }

    /// Joins a global transaction with a branch of one's own: see [`BranchBuilder::run`].
    pub fn branch(&self, gtid: Gtid) -> BranchBuilder {
        BranchBuilder::new(Arc::clone(&self.core), gtid)
    }

    /// Ends branches left in doubt, now.
    ///
    /// # Errors
    /// When the database or the coordinator cannot be asked.
    pub async fn recover(&self) -> Result<Swept, SweepError> {
        self.core.sweep(self.safety).await
    }
}

async fn terminated() {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = interrupted => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = interrupted.await;
}
