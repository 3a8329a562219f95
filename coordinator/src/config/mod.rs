//! Configuration: what can be set, within which limits, and where each value came from.
//!
//! ```text
//!   defaults  <  TOML file  <  environment  <  flags
//!   mod.rs       file.rs       environment.rs   (cli)
//!        \          |              |            /
//!         keys.rs: one table of keys: name, limits, meaning
//!                        |
//!              load.rs: Loaded = Config + the origin of each value
//!                        |
//!              render.rs: `config show`, `config example`
//! ```
//!
//! `keys.rs` is the only place that knows the names: reading, the environment's names, the error texts, and
//! the two printed forms all follow from it. A key that is not in it is refused, and the nearest one named.

mod allow_list;
mod changes;
mod environment;
mod environment_file;
mod error;
mod file;
mod keys;
mod load;
mod nearest;
mod render;
mod resource;
mod service;
#[cfg(test)]
mod tests;
mod webhook;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub use allow_list::{AllowList, PatternError};
pub use changes::{Change, Reading};
pub use environment_file::environment_file;
pub use error::ConfigError;
pub use keys::secret_keys;
pub use load::{Flag, FlagValue, Loaded, Sources};
pub use render::example;
pub(crate) use resource::name_problem;
pub use resource::{DatabaseUrl, DatabaseUrlError, Resource};
pub use service::Service;
pub use webhook::WebhookUrl;

/// Everything that `concord serve` can be told.
///
/// A `Config` that came from [`Config::load`] or [`Config::from_toml`] is within the limits given here; one
/// put together by hand is checked by nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Where the server listens.
    pub server: Server,
    /// Who may call it.
    pub security: Security,
    /// Where the log is kept, and for how long.
    pub store: Store,
    /// How coordinators that share a store know each other.
    pub cluster: Cluster,
    /// What is refused at the door.
    pub limits: Limits,
    /// How long a transaction may stay undecided.
    pub transaction: Transaction,
    /// Calls to participants, in either phase.
    pub calls: Calls,
    /// Retries of what has been decided.
    pub phase_two: PhaseTwo,
    /// When a participant that fails is left in peace for a while.
    pub breaker: Breaker,
    /// Whom the coordinator may call.
    pub participants: Participants,
    /// Ending branches that were left in doubt.
    pub sweeper: Sweeper,
    /// Databases that the coordinator may reach itself, by their unique names.
    pub resources: Vec<Resource>,
    /// Participants that run in several places, by their unique names.
    pub services: Vec<Service>,
    /// Whom to tell when transactions need somebody.
    pub alert: Alert,
    /// How the server stops.
    pub shutdown: Shutdown,
    /// What the server says about itself.
    pub log: Log,
    /// Where spans of transactions go.
    pub tracing: Tracing,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Address and port of the gRPC services. Port 0 lets the system choose.
    pub listen: SocketAddr,
    /// PEM file of the certificate for TLS, with those between it and its authority. `None`: no TLS.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub tls_key: Option<PathBuf>,
    /// PEM file of the authorities of callers' certificates. `None`: callers need none.
    pub tls_client_ca: Option<PathBuf>,
    /// Connections at a time; one more is closed at once. From 1 to 1 million.
    pub max_connections: usize,
    /// Milliseconds that a new connection may be open without a call. From 100 to 3,600,000.
    pub first_call_timeout_ms: u64,
}

impl Default for Server {
    fn default() -> Self {
        Server {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7600)),
            tls_certificate: None,
            tls_key: None,
            tls_client_ca: None,
            max_connections: 10_000,
            first_call_timeout_ms: 30_000,
        }
    }
}

/// `[security]`: with neither `tokens` nor `jwks`, whoever reaches the coordinator may do everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// TOML file of bearer tokens: hashes, names and roles.
    pub tokens: Option<PathBuf>,
    /// TOML file of what tenants may have.
    pub tenants: Option<PathBuf>,
    /// JWKS file (RFC 7517): the keys by which JSON web tokens are known to be genuine.
    pub jwks: Option<PathBuf>,
    /// Who must have issued them. Empty: anyone with a key.
    pub jwt_issuer: String,
    /// For whom they must have been issued.
    pub jwt_audience: String,
    /// The claim with the roles; dots lead into objects.
    pub jwt_roles_claim: String,
    /// Whether JSON web tokens without a tenant are turned away.
    pub jwt_require_tenant: bool,
    /// Whether it may listen beyond this machine without TLS and without knowing its callers.
    pub allow_insecure: bool,
}

impl Default for Security {
    fn default() -> Self {
        Security {
            tokens: None,
            tenants: None,
            jwks: None,
            jwt_issuer: String::new(),
            jwt_audience: String::new(),
            jwt_roles_claim: "roles".to_owned(),
            jwt_require_tenant: false,
            allow_insecure: false,
        }
    }
}

/// `[store]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Directory of the store; created when missing. Relative to the working directory.
    pub data_dir: PathBuf,
    /// A database that holds the store instead, and may be shared with other coordinators.
    pub url: Option<DatabaseUrl>,
    /// Milliseconds that an ended transaction stays in the history. From 60,000 to 10 years.
    pub retention_ms: u64,
}

impl Default for Store {
    fn default() -> Self {
        Store { data_dir: PathBuf::from("./concord-data"), url: None, retention_ms: 7 * DAY_MS }
    }
}

/// `[cluster]`: of no account where the store is not shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// This coordinator's name, which it has again after a restart and no other has. Empty: its address. At most 128
    /// bytes.
    pub name: String,
    /// Where other coordinators reach this one: host and port. Empty: where it listens. At most 255 bytes.
    pub address: String,
    /// Milliseconds that a coordinator may be silent before others take over. From 1,000 to 600,000.
    pub lease_ms: u64,
}

impl Default for Cluster {
    fn default() -> Self {
        Cluster { name: String::new(), address: String::new(), lease_ms: 10_000 }
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of payload in one transaction, all branches together. From 1 to 64 MiB.
    pub payload_bytes_max: usize,
    /// Branches of one transaction. From 1 to 1,000.
    pub branches_max: usize,
    /// Transactions that have not ended; the next one is refused with RESOURCE_EXHAUSTED. From 1 to 10
    /// million.
    pub live_transactions_max: usize,
    /// Transactions in one answer to List that asks for no number. From 1 to 1,000.
    pub page_size_default: u32,
    /// Most transactions in one answer to List. From 1 to 1,000.
    pub page_size_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            payload_bytes_max: 1 << 20,
            branches_max: 1000,
            live_transactions_max: 200_000,
            page_size_default: 50,
            page_size_max: 1000,
        }
    }
}

/// `[transaction]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Milliseconds until an undecided transaction is rolled back, when its initiator names no time. From 1 to
    /// `timeout_max_ms`.
    pub timeout_default_ms: u64,
    /// The longest time in milliseconds that an initiator may ask for. From 1 to 86,400,000 (one day).
    pub timeout_max_ms: u64,
}

impl Default for Transaction {
    fn default() -> Self {
        Transaction { timeout_default_ms: 30_000, timeout_max_ms: DAY_MS }
    }
}

/// `[calls]`; what it says of TLS holds for all whom the coordinator calls: participants, other coordinators, and the alert's
/// receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// Milliseconds after which a call to a participant counts as lost, in either phase. From 1 to 600,000.
    pub timeout_ms: u64,
    /// Milliseconds to wait for a connection to a participant. From 1 to 600,000.
    pub connect_timeout_ms: u64,
    /// Calls of each phase to one participant at a time; the others wait for their turn. From 1 to 100,000.
    pub in_flight_max: usize,
    /// PEM file of authorities to be trusted besides the public ones.
    pub tls_ca: Option<PathBuf>,
    /// PEM file of the certificate that is shown to those who ask for one.
    pub tls_certificate: Option<PathBuf>,
    /// PEM file of its key.
    pub tls_key: Option<PathBuf>,
}

impl Default for Calls {
    fn default() -> Self {
        Calls {
            timeout_ms: 10_000,
            connect_timeout_ms: 2_000,
            // As many as the SDK has sessions for; and gRPC servers commonly take 100 to 250 calls at a time.
            in_flight_max: 128,
            tls_ca: None,
            tls_certificate: None,
            tls_key: None,
        }
    }
}

/// `[phase_two]`: a decision is delivered until it arrives. Each wait is the one before doubled, with jitter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseTwo {
    /// Milliseconds from the first failed call to the second. From 1 to 3,600,000.
    pub backoff_first_ms: u64,
    /// The longest wait between two calls, in milliseconds. From `backoff_first_ms` to 3,600,000.
    pub backoff_max_ms: u64,
    /// Failed calls after which a branch is parked for an operator. 0: never. At most 1,000,000.
    pub park_after_attempts: u32,
}

impl Default for PhaseTwo {
    fn default() -> Self {
        PhaseTwo { backoff_first_ms: 50, backoff_max_ms: 30_000, park_after_attempts: 0 }
    }
}

/// `[breaker]`: one per participant, so that a dead one costs the others nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row after which the breaker opens and calls fail at once. 0: there is no breaker. At most
    /// 1,000,000.
    pub failures_before_open: u32,
    /// Milliseconds that it stays open before one call may try again. From 1 to 600,000.
    pub open_ms: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { failures_before_open: 5, open_ms: 1_000 }
    }
}

/// `[participants]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Participants {
    /// The addresses that the coordinator may call; by default those of this machine. At most 1,000 patterns.
    pub allow: AllowList,
}

/// `[sweeper]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweeper {
    /// Milliseconds between two sweeps of a resource. From 100 to 3,600,000.
    pub interval_ms: u64,
    /// Milliseconds for which an in-doubt branch must have been seen before the sweeper rolls it back. From 0
    /// to 86,400,000.
    pub safety_interval_ms: u64,
}

impl Default for Sweeper {
    fn default() -> Self {
        Sweeper { interval_ms: 5_000, safety_interval_ms: 10_000 }
    }
}

/// `[alert]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Where it is told, by POST. `None`: nowhere.
    pub url: Option<WebhookUrl>,
    /// Milliseconds after which a transaction that has not ended takes too long. From 1,000 to 86,400,000.
    pub older_than_ms: u64,
}

impl Default for Alert {
    fn default() -> Self {
        Alert { url: None, older_than_ms: 300_000 }
    }
}

/// `[shutdown]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// Milliseconds that calls in progress get to finish after SIGTERM or SIGINT. From 0 to 3,600,000.
    pub grace_ms: u64,
}

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown { grace_ms: 10_000 }
    }
}

/// `[log]`: what is written to standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// Directives as of tracing's `EnvFilter`, e.g. `info,concord_coordinator::engine=debug`. At most 1,024
    /// bytes.
    pub filter: String,
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// `[tracing]`: spans of transactions, for OpenTelemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// The collector's URL, for OTLP over gRPC. Empty: nothing is exported.
    pub otlp_endpoint: String,
    /// What this coordinator is called in traces. From 1 to 128 bytes.
    pub service_name: String,
    /// Of a million transactions that came without a trace, so many are exported. At most 1,000,000.
    pub sampled_per_million: u32,
}

impl Default for Tracing {
    fn default() -> Self {
        Tracing {
            otlp_endpoint: String::new(),
            service_name: "concord".to_owned(),
            sampled_per_million: 1_000_000,
        }
    }
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl Config {
    /// Puts the layers together. Every problem found is in the error, not only the first.
    ///
    /// # Errors
    /// A source cannot be read, names an unknown key, or sets a value outside its limits.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        load::load(sources)
    }

    /// The defaults with `text` on top of them; `name` stands for the file in errors. Reads nothing else.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(text: &str, name: &str) -> Result<Config, ConfigError> {
        load::load_text(text, name).map(|loaded| loaded.config)
    }
}
