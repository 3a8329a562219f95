//! The table of keys: every name, its limits and its meaning, once.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;
use url::Url;

use super::error::quoted;
use super::{AllowList, Config, DatabaseUrl, LogFormat, WebhookUrl};

/// One key of the configuration.
pub(super) struct Key {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    /// For people: what it does, its unit, its limits. Lines are wrapped by hand.
    pub(super) doc: &'static str,
    pub(super) field: Field,
}

impl Key {
    /// As it stands in errors, on the command line (`--set`) and in the origins: `server.listen`.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// As it stands in the environment: `CONCORD_SERVER_LISTEN`.
    pub(super) fn variable(&self) -> String {
        format!("CONCORD_{}_{}", self.section, self.name).to_ascii_uppercase()
    }
}

/// How a key's value is read from and written to [`Config`].
pub(super) enum Field {
    /// A whole number.
    Integer { get: fn(&Config) -> u64, set: fn(&mut Config, u64), range: RangeInclusive<u64> },
    /// Yes or no.
    Boolean { get: fn(&Config) -> bool, set: fn(&mut Config, bool) },
    /// A string with a password in it: `get` answers without, and errors do not show it. `secret` answers all of it, to be
    /// compared and not shown.
    Secret {
        get: fn(&Config) -> String,
        secret: fn(&Config) -> &str,
        set: fn(&mut Config, &str) -> Result<(), String>,
    },
    /// A string.
    Text { get: fn(&Config) -> String, set: fn(&mut Config, &str) -> Result<(), String> },
    /// Strings.
    List { get: fn(&Config) -> Vec<String>, set: fn(&mut Config, &[String]) -> Result<(), String> },
}

/// Integers that stand in [`Config`].
trait Whole: Copy {
    fn widen(self) -> u64;
    /// The range of the key has been checked before; it fits.
    fn narrow(value: u64) -> Self;
}

macro_rules! whole {
    ($($t:ty),*) => { $(impl Whole for $t {
        fn widen(self) -> u64 {
            self.try_into().unwrap_or(u64::MAX)
        }
        fn narrow(value: u64) -> Self {
            value.try_into().unwrap_or(Self::MAX)
        }
    })* };
}
whole!(u32, usize);

impl Whole for u64 {
    fn widen(self) -> u64 {
        self
    }
    fn narrow(value: u64) -> Self {
        value
    }
}

macro_rules! integer {
    ($section:ident.$name:ident, $range:expr, $doc:literal) => {
        Key {
            section: stringify!($section),
            name: stringify!($name),
            doc: $doc,
            field: Field::Integer {
                get: |config| config.$section.$name.widen(),
                set: |config, value| config.$section.$name = Whole::narrow(value),
                range: $range,
            },
        }
    };
}

/// The path of a file, or nothing.
macro_rules! file {
    ($section:ident.$name:ident, $doc:literal) => {
        Key {
            section: stringify!($section),
            name: stringify!($name),
            doc: $doc,
            field: Field::Text {
                get: |config| shown(config.$section.$name.as_deref()),
                set: |config, text| {
                    config.$section.$name = file_path(text)?;
                    Ok(())
                },
            },
        }
    };
}

/// Any string within [`TEXT_BYTES_MAX`].
macro_rules! text {
    ($section:ident.$name:ident, $doc:literal) => {
        Key {
            section: stringify!($section),
            name: stringify!($name),
            doc: $doc,
            field: Field::Text {
                get: |config| config.$section.$name.clone(),
                set: |config, text| {
                    config.$section.$name = short(text, TEXT_BYTES_MAX)?;
                    Ok(())
                },
            },
        }
    };
}

/// A minute, an hour and a day, in milliseconds.
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Most patterns of `participants.allow`.
const PATTERNS_MAX: usize = 1000;
/// Longest value of `cluster.name` and of `tracing.service_name`, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// Longest value of `cluster.address`, in bytes.
const ADDRESS_BYTES_MAX: usize = 255;
/// Longest value of `log.filter`, in bytes.
const FILTER_BYTES_MAX: usize = 1024;
/// Longest value of a key that holds any text, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Every key, in the order in which people read them; keys of one section stand together. `[[resource]]` and `[[service]]` are
/// not here, see [`RESOURCE_KEYS`] and [`SERVICE_KEYS`].
pub(super) static KEYS: &[Key] = &[
    Key {
        section: "server",
        name: "listen",
        doc: "Address and port of the gRPC services. Port 0 lets the system choose one.",
        field: Field::Text { get: |config| config.server.listen.to_string(), set: set_listen },
    },
    file!(
        server.tls_certificate,
        "PEM file of this server's certificate, followed by those between it and its authority: with it and tls_key the\n\
         server speaks TLS, and nothing else. Both are read again when they change."
    ),
    file!(server.tls_key, "PEM file of the certificate's private key."),
    file!(
        server.tls_client_ca,
        "PEM file of authorities: only callers with a certificate of theirs are let in (mTLS)."
    ),
    integer!(
        server.max_connections,
        1..=1_000_000,
        "Connections at a time, from callers of every kind; one more is closed at once. From 1 to 1000000. Three quarters\n\
         of the files that the process may have open (ulimit -n) are the most, whatever stands here."
    ),
    integer!(
        server.first_call_timeout_ms,
        100..=HOUR,
        "Milliseconds from when a connection comes in until the first call on it has arrived; one that is silent for longer\n\
         is closed. From 100 to 3600000. After a call it may stay open for as long as its caller is there."
    ),
    file!(
        security.tokens,
        "TOML file of bearer tokens, with the roles of who has them (docs/security.md). `concord token new` makes an\n\
         entry. With neither this nor jwks, whoever reaches the server may do everything."
    ),
    file!(
        security.tenants,
        "TOML file of the tenants and of what each may have (docs/security.md). With it, a token of another tenant is none."
    ),
    file!(
        security.jwks,
        "JWKS file (RFC 7517): JSON web tokens that were signed with its keys are taken as well."
    ),
    text!(security.jwt_issuer, "The claim `iss` that such a token must have. Empty: any."),
    text!(
        security.jwt_audience,
        "The claim `aud` that such a token must have. Needed with jwks: a token for another service is none for this one."
    ),
    text!(
        security.jwt_roles_claim,
        "The claim that lists the roles; dots lead into objects, as in realm_access.roles."
    ),
    Key {
        section: "security",
        name: "jwt_require_tenant",
        doc: "Whether a JSON web token must have the claim concord_tenant. Without it, one that has none sees all tenants.",
        field: Field::Boolean {
            get: |config| config.security.jwt_require_tenant,
            set: |config, value| config.security.jwt_require_tenant = value,
        },
    },
    Key {
        section: "security",
        name: "allow_insecure",
        doc: "Whether the server may listen beyond this machine without TLS, or without tokens and client certificates.\n\
              For networks in which everybody may do everything.",
        field: Field::Boolean {
            get: |config| config.security.allow_insecure,
            set: |config, value| config.security.allow_insecure = value,
        },
    },
    Key {
        section: "store",
        name: "data_dir",
        doc: "Directory of the log, created when missing. A relative path starts at the working directory.",
        field: Field::Text { get: |config| config.store.data_dir.display().to_string(), set: set_data_dir },
    },
    Key {
        section: "store",
        name: "url",
        doc: "A database for the log, in place of a directory: mysql://user:password@host:port/database (for MariaDB\n\
              too) or postgres://user:password@host:port/database. Several coordinators may share it (docs/cluster.md).\n\
              sqlite:DIRECTORY is another way to write data_dir.",
        field: Field::Secret {
            get: |config| config.store.url.as_ref().map(DatabaseUrl::to_string).unwrap_or_default(),
            secret: |config| config.store.url.as_ref().map(DatabaseUrl::with_password).unwrap_or_default(),
            set: set_store_url,
        },
    },
    integer!(
        store.retention_ms,
        MINUTE..=3650 * DAY,
        "Milliseconds for which an ended transaction stays in the history.\nFrom 60000 (a minute) to 315360000000 \
         (ten years)."
    ),
    Key {
        section: "cluster",
        name: "name",
        doc: "This coordinator's name among those that share the store: its own, and the same after a restart.\n\
              Empty: its address. At most 128 bytes.",
        field: Field::Text { get: |config| config.cluster.name.clone(), set: set_cluster_name },
    },
    Key {
        section: "cluster",
        name: "address",
        doc: "Where the others reach this coordinator: host and port. Empty: where it listens. At most 255 bytes.",
        field: Field::Text { get: |config| config.cluster.address.clone(), set: set_cluster_address },
    },
    integer!(
        cluster.lease_ms,
        1_000..=600_000,
        "Milliseconds that a coordinator may be silent, in the database's eyes, before others take over what it has\n\
         begun. From 1000 to 600000."
    ),
    integer!(
        limits.payload_bytes_max,
        1..=64 << 20,
        "Bytes of payload in one transaction, all branches together. From 1 to 67108864 (64 MiB)."
    ),
    integer!(limits.branches_max, 1..=1000, "Branches of one transaction. From 1 to 1000."),
    integer!(
        limits.live_transactions_max,
        1..=10_000_000,
        "Transactions that have not ended. One more is refused with RESOURCE_EXHAUSTED. From 1 to 10000000."
    ),
    integer!(
        limits.page_size_default,
        1..=1000,
        "Transactions in one answer to List that asks for no number. From 1 to 1000."
    ),
    integer!(limits.page_size_max, 1..=1000, "Most transactions in one answer to List. From 1 to 1000."),
    integer!(
        transaction.timeout_default_ms,
        1..=DAY,
        "Milliseconds until an undecided transaction is rolled back, when its initiator names no time.\nFrom 1 to \
         transaction.timeout_max_ms."
    ),
    integer!(
        transaction.timeout_max_ms,
        1..=DAY,
        "The longest time in milliseconds that an initiator may ask for. From 1 to 86400000 (a day)."
    ),
    integer!(
        calls.timeout_ms,
        1..=10 * MINUTE,
        "Milliseconds after which a call to a participant counts as lost, in either phase. From 1 to 600000."
    ),
    integer!(
        calls.connect_timeout_ms,
        1..=10 * MINUTE,
        "Milliseconds to wait for a connection to a participant. From 1 to 600000."
    ),
    integer!(
        calls.in_flight_max,
        1..=100_000,
        "Calls of each phase to one participant at a time; the others wait for their turn. From 1 to 100000."
    ),
    file!(
        calls.tls_ca,
        "PEM file of authorities to trust besides the public ones, in calls to participants, other coordinators and\n\
         the receiver of alerts."
    ),
    file!(
        calls.tls_certificate,
        "PEM file of the certificate to show where one is asked for (mTLS), followed by those above it."
    ),
    file!(calls.tls_key, "PEM file of its private key."),
    integer!(
        phase_two.backoff_first_ms,
        1..=HOUR,
        "Milliseconds from the first failed delivery of a decision to the second. Each further wait is twice as\n\
         long, with jitter. From 1 to 3600000 (an hour)."
    ),
    integer!(
        phase_two.backoff_max_ms,
        1..=HOUR,
        "The longest wait between two deliveries, in milliseconds. From phase_two.backoff_first_ms to 3600000."
    ),
    integer!(
        phase_two.park_after_attempts,
        0..=1_000_000,
        "Failed deliveries after which a branch is parked for an operator. 0: never, it is retried for ever.\nAt \
         most 1000000."
    ),
    integer!(
        breaker.failures_before_open,
        0..=1_000_000,
        "Failures in a row after which calls to a participant fail at once, for a while. 0: calls are always\nmade. \
         At most 1000000."
    ),
    integer!(
        breaker.open_ms,
        1..=10 * MINUTE,
        "Milliseconds until a call to such a participant is tried again. From 1 to 600000."
    ),
    Key {
        section: "participants",
        name: "allow",
        doc: "Whom the coordinator may call: scheme://host:port. The port may be *, for any; a host name may begin\n\
              with the label *, for one or more labels, as in https://*.svc.local:7101. At most 1000 patterns.",
        field: Field::List {
            get: |config| config.participants.allow.patterns().map(str::to_owned).collect(),
            set: set_allow,
        },
    },
    integer!(
        sweeper.interval_ms,
        100..=HOUR,
        "Milliseconds between two searches of a resource for branches in doubt. From 100 to 3600000."
    ),
    integer!(
        sweeper.safety_interval_ms,
        0..=DAY,
        "Milliseconds for which a branch must have been seen in doubt before it is rolled back as unknown.\nFrom 0 \
         to 86400000 (a day)."
    ),
    Key {
        section: "alert",
        name: "url",
        doc: "Where to POST a JSON message when a transaction waits for an operator, or takes too long. Empty: nowhere.",
        field: Field::Secret {
            get: |config| config.alert.url.as_ref().map(WebhookUrl::to_string).unwrap_or_default(),
            secret: |config| config.alert.url.as_ref().map(WebhookUrl::secret).unwrap_or_default(),
            set: set_alert_url,
        },
    },
    integer!(
        alert.older_than_ms,
        1_000..=DAY,
        "Milliseconds after which a transaction that has not ended takes too long. From 1000 to 86400000 (a day)."
    ),
    integer!(
        shutdown.grace_ms,
        0..=HOUR,
        "Milliseconds that calls in progress get to finish after SIGTERM or SIGINT. From 0 to 3600000."
    ),
    Key {
        section: "log",
        name: "format",
        doc: "\"text\" for people, \"json\" for machines. Either goes to standard error.",
        field: Field::Text { get: |config| config.log.format.as_str().to_owned(), set: set_format },
    },
    Key {
        section: "log",
        name: "filter",
        doc: "What is logged: error, warn, info, debug or trace, and by part of the program if need be, e.g.\n\
              info,concord_coordinator=debug. CONCORD_LOG is short for this key's own variable.",
        field: Field::Text { get: |config| config.log.filter.clone(), set: set_filter },
    },
    Key {
        section: "tracing",
        name: "otlp_endpoint",
        doc: "Where spans of transactions go: http://host:port or https://host:port of an OpenTelemetry collector, which takes\n\
              OTLP over gRPC. Empty: nowhere (docs/tracing.md).",
        field: Field::Text { get: |config| config.tracing.otlp_endpoint.clone(), set: set_otlp_endpoint },
    },
    Key {
        section: "tracing",
        name: "service_name",
        doc: "What this coordinator is called in traces. From 1 to 128 bytes.",
        field: Field::Text { get: |config| config.tracing.service_name.clone(), set: set_service_name },
    },
    integer!(
        tracing.sampled_per_million,
        0..=1_000_000,
        "Of a million transactions that came without a trace, so many are exported. Others as whoever began their\n\
         trace wants it. At most 1000000."
    ),
];

/// The keys of a `[[resource]]`.
pub(super) const RESOURCE_KEYS: [&str; 3] = ["name", "url", "participants"];

/// The keys of a `[[service]]`.
pub(super) const SERVICE_KEYS: [&str; 2] = ["name", "addresses"];

/// The name of the table `[[service]]`.
pub(super) const SERVICE: &str = "service";

/// The name of the table `[[resource]]`.
pub(super) const RESOURCE: &str = "resource";

/// The key of this section and name.
pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// The keys whose values hold secrets, as `store.url`. Beside them the URL of a `[[resource]]` does.
pub fn secret_keys() -> impl Iterator<Item = String> {
    KEYS.iter().filter(|key| matches!(key.field, Field::Secret { .. })).map(Key::path)
}

/// The sections, each once, in the table's order.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<_> = KEYS.iter().map(|key| key.section).collect();
    sections.dedup();
    sections
}

/// The keys of a section, in the table's order.
pub(super) fn of_section(section: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.section == section)
}

impl LogFormat {
    /// As it is written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

fn set_listen(config: &mut Config, text: &str) -> Result<(), String> {
    config.server.listen = text
        .parse()
        .map_err(|_| "must be an IP address and a port, such as \"127.0.0.1:7600\" or \"[::1]:7600\"")?;
    Ok(())
}

fn set_data_dir(config: &mut Config, text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains('\0') {
        return Err("must be the path of a directory".to_owned());
    }
    config.store.data_dir = PathBuf::from(text);
    Ok(())
}

fn set_store_url(config: &mut Config, text: &str) -> Result<(), String> {
    if let Some(directory) = text.strip_prefix("sqlite:") {
        config.store.url = None;
        return set_data_dir(config, directory);
    }
    config.store.url = match text {
        "" => None,
        url => Some(DatabaseUrl::parse_shared(url).map_err(|error| error.to_string())?),
    };
    Ok(())
}

fn file_path(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "" => Ok(None),
        text if text.contains('\0') => Err("must be the path of a file".to_owned()),
        text => Ok(Some(PathBuf::from(text))),
    }
}

fn shown(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn short(text: &str, bytes_max: usize) -> Result<String, String> {
    match text.len() <= bytes_max {
        true => Ok(text.to_owned()),
        false => Err(format!("must be at most {bytes_max} bytes long")),
    }
}

fn set_cluster_name(config: &mut Config, text: &str) -> Result<(), String> {
    config.cluster.name = short(text, NAME_BYTES_MAX)?;
    Ok(())
}

fn set_cluster_address(config: &mut Config, text: &str) -> Result<(), String> {
    let plain = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if !text.is_empty() && (!plain || text.len() > ADDRESS_BYTES_MAX) {
        return Err("must be a host and a port, such as \"coordinator-1.local:7600\"".to_owned());
    }
    config.cluster.address = text.to_owned();
    Ok(())
}

fn set_allow(config: &mut Config, patterns: &[String]) -> Result<(), String> {
    if patterns.len() > PATTERNS_MAX {
        return Err(format!("has {} patterns; at most {PATTERNS_MAX} are allowed", patterns.len()));
    }
    if let Some(service) = patterns.iter().find(|pattern| AllowList::service(pattern).is_some()) {
        return Err(format!("{} is called if a [[service]] says where it is; leave it out", quoted(service)));
    }
    config.participants.allow = AllowList::parse(patterns).map_err(|error| error.to_string())?;
    Ok(())
}

fn set_alert_url(config: &mut Config, text: &str) -> Result<(), String> {
    config.alert.url = match text {
        "" => None,
        url => Some(WebhookUrl::parse(url)?),
    };
    Ok(())
}

fn set_format(config: &mut Config, text: &str) -> Result<(), String> {
    config.log.format = match text {
        "text" => LogFormat::Text,
        "json" => LogFormat::Json,
        _ => return Err("must be \"text\" or \"json\"".to_owned()),
    };
    Ok(())
}

fn set_filter(config: &mut Config, text: &str) -> Result<(), String> {
    let filter = short(text, FILTER_BYTES_MAX)?;
    EnvFilter::try_new(&filter).map_err(|error| format!("is not a log filter ({error})"))?;
    config.log.filter = filter;
    Ok(())
}

fn set_otlp_endpoint(config: &mut Config, text: &str) -> Result<(), String> {
    let is_place = |url: Url| {
        let plain = url.username().is_empty() && url.password().is_none() && url.path() == "/";
        plain && matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none()
    };
    if !text.is_empty() && !text.parse().is_ok_and(is_place) {
        return Err("must be http://host:port or https://host:port, and nothing more".to_owned());
    }
    config.tracing.otlp_endpoint = text.to_owned();
    Ok(())
}

fn set_service_name(config: &mut Config, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(format!("must have from 1 to {NAME_BYTES_MAX} bytes"));
    }
    config.tracing.service_name = text.to_owned();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_also_in_the_environment() {
        let variables: BTreeSet<_> = KEYS.iter().map(Key::variable).collect();
        assert_eq!(variables.len(), KEYS.len());
        let unique: BTreeSet<_> = sections().into_iter().collect();
        assert_eq!(unique.len(), sections().len(), "keys of one section stand together");
        assert!(!unique.contains(RESOURCE) && !unique.contains(SERVICE));
    }

    #[test]
    fn times_and_sizes_have_their_unit_in_the_name() {
        for key in KEYS {
            let about_time = key.doc.contains("illiseconds");
            assert_eq!(about_time, key.name.ends_with("_ms"), "{}", key.path());
        }
    }

    #[test]
    fn defaults_are_within_their_limits() {
        let config = Config::default();
        for key in KEYS {
            if let Field::Integer { get, range, .. } = &key.field {
                assert!(range.contains(&get(&config)), "{}", key.path());
            }
        }
    }

    #[test]
    fn documented_limits_are_the_limits() {
        for key in KEYS {
            if let Field::Integer { range, .. } = &key.field {
                let above_another_key = key.name == "timeout_default_ms";
                let max = range.end().to_string();
                assert!(above_another_key || key.doc.contains(&max), "{}: {max}", key.path());
            }
        }
    }
}
