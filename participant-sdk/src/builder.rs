//! Putting a participant together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use concord_proto::{Coordinators, Credentials};
use concord_xa::{Database, Isolation, Options, XaError};
use tonic::transport::{Certificate, Channel, Identity, ServerTlsConfig};

use crate::handler::{Action, FromPayload, HandlerError, Reply};
use crate::horizon::{Horizon, RETENTION};
use crate::link::Link;
use crate::local::{LocalDatabase, MySql};
use crate::participant::Xa;
use crate::server::{Participant, ParticipantServer};
use crate::service::ParticipantService;
use crate::slots::Slots;
use crate::tcc::{Handlers, OpenError, Pending, Tcc, TccHandler, pending};
use crate::xa_branch::XaBranch;

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
    /// A database cannot be used for local transactions, or has no barrier table and cannot be given one.
    #[error("{0}")]
    Local(String),
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
    credentials: Credentials,
    channel: Option<Channel>,
    address: String,
    actions: HashMap<String, Arc<Action>>,
    tcc: Vec<(String, Handlers<MySql>)>,
    tcc_on: Vec<Box<dyn Pending>>,
    tcc_names: HashSet<String>,
    twice: Option<String>,
    payload_max_bytes: usize,
    recovery_interval: Duration,
    safety_interval: Duration,
    purge_interval: Duration,
    retention: Duration,
    tls: Option<ServerTlsConfig>,
}

impl Builder {
    pub(crate) fn new() -> Self {
        Builder {
            database: String::new(),
            options: Options::default(),
            coordinator: String::new(),
            credentials: Credentials::new(),
            channel: None,
            address: String::new(),
            actions: HashMap::new(),
            tcc: Vec::new(),
            tcc_on: Vec::new(),
            tcc_names: HashSet::new(),
            twice: None,
            payload_max_bytes: 1024 * 1024,
            recovery_interval: Duration::from_secs(10),
            safety_interval: Duration::from_secs(30),
            purge_interval: Duration::from_secs(10 * 60),
            retention: RETENTION,
            tls: None,
        }
    }

    /// The participant's own database: `mysql://user:password@host:port/database`. Needed for [`Builder::xa`] and
    /// [`Builder::tcc`]; not for [`Builder::tcc_on`].
    pub fn database(mut self, url: impl Into<String>) -> Self {
        self.database = url.into();
        self
    }

    /// How to use the database: numbers of sessions, time-outs, what the start-up check overlooks.
    pub fn database_options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Isolation of branches; unset: the server's default for XA branches, READ COMMITTED for TCC ([`MySql::connect`]
    /// says why).
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.options.isolation = Some(isolation);
        self
    }

    /// Sessions for XA branches, at most, and as many for TCC (default 128). Past it XA branches are refused, and
    /// TCC calls are put off.
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

    /// The coordinator: `http://host:port`. Of coordinators that share a store all, with commas between them: the
    /// participant attaches to each.
    pub fn coordinator(mut self, url: impl Into<String>) -> Self {
        self.coordinator = url.into();
        self
    }

    /// What is shown to the coordinator, and who is trusted, where it wants to know who calls. Its URL then begins with
    /// `https`.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// A ready connection to the coordinator, instead of [`Builder::coordinator`].
    pub fn coordinator_channel(mut self, channel: Channel) -> Self {
        self.channel = Some(channel);
        self
    }

    /// Where the coordinator reaches this participant, as its allow-list has it: `http://host:port`, or
    /// `attached://name` for one that does not listen ([`ParticipantServer::serve_attached`]).
    pub fn address(mut self, url: impl Into<String>) -> Self {
        self.address = url.into();
        self
    }

    /// Listens with TLS: shows this certificate (PEM, followed by those between it and its authority), and is called only by
    /// who shows one of `client_authorities`, as the coordinator does with its `calls.tls_certificate`. Its address
    /// then begins with `https`.
    pub fn tls(
        mut self,
        certificate: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        client_authorities: impl AsRef<[u8]>,
    ) -> Self {
        let identity = Identity::from_pem(certificate, key);
        let authorities = Certificate::from_pem(client_authorities);
        self.tls = Some(ServerTlsConfig::new().identity(identity).client_ca_root(authorities));
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

    /// Registers the three handlers of a TCC action, which work in a local transaction of the participant's own
    /// database, as does the barrier: each takes effect at most once.
    ///
    /// Try reserves, and refuses with [`HandlerError::refused`] where it cannot; any other error is a failure, and
    /// Try is called again until the transaction times out. Confirm and Cancel are called with the same payload,
    /// and again until they succeed; what they refuse waits for an operator.
    pub fn tcc<P, Q, S>(
        mut self,
        name: &str,
        attempt: impl TccHandler<MySql, P>,
        confirm: impl TccHandler<MySql, Q>,
        cancel: impl TccHandler<MySql, S>,
    ) -> Self {
        self.note_tcc(name);
        self.tcc.push((name.to_owned(), Handlers::new(attempt, confirm, cancel)));
        self
    }

    /// As [`Builder::tcc`], in a database of which the service has a pool: an `mysql_async::Pool`, or with the
    /// feature `sqlx` an `sqlx::MySqlPool`. The pool's connections must have a default database; the barrier table
    /// is created in it. Their isolation is the service's choice; READ COMMITTED serves most handlers best.
    pub fn tcc_on<D: LocalDatabase, P, Q, S>(
        mut self,
        pool: D,
        name: &str,
        attempt: impl TccHandler<D, P>,
        confirm: impl TccHandler<D, Q>,
        cancel: impl TccHandler<D, S>,
    ) -> Self {
        self.note_tcc(name);
        let handlers = Handlers::new(attempt, confirm, cancel);
        self.tcc_on.push(pending(pool, Some((name.to_owned(), handlers))));
        self
    }

    fn note_tcc(&mut self, name: &str) {
        if !self.tcc_names.insert(name.to_owned()) {
            self.twice = Some(name.to_owned());
        }
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

    /// How often rows of the barrier table are purged (default 10 min), and by how much the gtid of a purged row is
    /// older than the newest in the table (default 25 h). Only rows of transactions that have ended are; branches
    /// of gtids that are 4 % less than `retention` older than the newest are refused. So it must be longer than the
    /// longest transaction lasts (24 h), and the interval shorter than those 4 %.
    pub fn purge(mut self, interval: Duration, retention: Duration) -> Self {
        (self.purge_interval, self.retention) = (interval, retention);
        self
    }

    /// Connects to the database, checks it, creates the barrier table, and starts recovery. The coordinator
    /// need not be up.
    ///
    /// # Errors
    /// [`StartError`], with what to change.
    pub async fn build(self) -> Result<ParticipantServer, StartError> {
        self.check().map_err(StartError::Setting)?;
        let coordinators = self.coordinators()?;
        let link = Arc::new(Link::new(coordinators, self.address));
        let horizon = Arc::new(Horizon::new(self.retention));
        let leniency = self.options.leniency.clone();
        let mut databases = self.tcc_on;
        let mut xa = None;
        if !self.database.is_empty() {
            let own = MySql::connect(&self.database, &self.options)?;
            let database = open_xa(&self.database, self.options).await?;
            let (link, horizon) = (Arc::clone(&link), Arc::clone(&horizon));
            xa = Some(Arc::new(Xa {
                database,
                link,
                actions: self.actions,
                slots: Slots::default(),
                horizon,
            }));
            // Ready for TCC even without handlers, so that what they are asked for by mistake can be refused.
            databases.push(pending(own.clone(), None));
            databases.extend(self.tcc.into_iter().map(|action| pending(own.clone(), Some(action))));
        }
        let tcc = Arc::new(Tcc::open(databases, &leniency, Arc::clone(&horizon)).await?);
        let participant = Participant { xa, tcc, link, horizon, safety: self.safety_interval };
        let background = tokio::spawn({
            let (participant, recover, purge) =
                (participant.clone(), self.recovery_interval, self.purge_interval);
            async move { tokio::join!(participant.recover_for_ever(recover), participant.purge_for_ever(purge)) }
        });
        let service = ParticipantService {
            xa: participant.xa.clone(),
            tcc: Arc::clone(&participant.tcc),
            link: Arc::clone(&participant.link),
            payload_max_bytes: self.payload_max_bytes,
        };
        Ok(ParticipantServer { participant, service, background, tls: self.tls })
    }

    /// Whether everything was said, and rightly; else what was not.
    fn check(&self) -> Result<(), String> {
        if let Some(name) = &self.twice {
            return Err(format!("two handlers are called {name:?}"));
        }
        let mut names = self.actions.keys().chain(&self.tcc_names);
        if let Some(name) = names.find(|name| name.is_empty() || name.len() > 128) {
            return Err(format!("a handler's name has from 1 to 128 bytes: {name:?}"));
        }
        if self.address.is_empty() || self.address.len() > 256 {
            return Err("address() must say where the coordinator reaches this participant".into());
        }
        let no_database = self.database.is_empty();
        if no_database && !(self.actions.is_empty() && self.tcc.is_empty()) {
            return Err("database() is needed for the handlers of xa() and tcc()".into());
        }
        if no_database && self.tcc_on.is_empty() {
            return Err(
                "neither database() nor tcc_on() was called: there is nothing to take part with".into()
            );
        }
        Ok(())
    }

    fn coordinators(&self) -> Result<Coordinators, StartError> {
        if let Some(channel) = &self.channel {
            return Ok(Coordinators::from(channel.clone()).with_token_of(self.credentials.clone()));
        }
        Coordinators::connect_lazy_with(&self.coordinator, self.credentials.clone())
            .map_err(|error| StartError::Setting(format!("coordinator {:?}: {error}", self.coordinator)))
    }
}

async fn open_xa(url: &str, options: Options) -> Result<Database, StartError> {
    let database = Database::connect(url, options).await?;
    if database.server_info().database.is_none() {
        return Err(StartError::Setting("the database URL must name a database: .../name".into()));
    }
    Ok(database)
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        StartError::Local(error.to_string())
    }
}
