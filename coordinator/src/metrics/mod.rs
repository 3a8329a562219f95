//! What the coordinator counts and measures while it works; docs/metrics.md says what each of it means.
//!
//! This is at the bottom: engine, store and transport note here what they do, by handles that they have; nothing is
//! looked up by name meanwhile. What can be seen by looking (how many transactions are live, whose breaker is open)
//! nobody has to note: `scrape` looks.

mod labels;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use concord_protocol::{Kind, Outcome, Verb};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

pub(crate) use labels::{
    BreakerState, By, CallFailure, CallPhase, Denial, Label, Mode, Protocol, Reason, Refused, Turned,
};

/// Upper bounds, in seconds: from a tenth of a millisecond, which a fast disk takes for a sync, to what somebody waits
/// for who has given up.
const SECONDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

/// What one coordinator counts and measures. A copy is the same one.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    pub(crate) engine: Arc<EngineMetrics>,
    pub(crate) log: Arc<LogMetrics>,
    pub(crate) calls: Arc<CallMetrics>,
    pub(crate) door: Arc<DoorMetrics>,
    pub(crate) certificates: CertificateMetrics,
    /// 1: the configuration that was read last, or a file that it names, cannot be used.
    pub(crate) configuration_refused: Gauge,
}

/// Of transactions.
#[derive(Debug)]
pub(crate) struct EngineMetrics {
    pub(crate) begun: By<Mode, Counter>,
    pub(crate) denied: By<Denial, Counter>,
    pub(crate) resumed: Counter,
    pub(crate) rollbacks: By<Reason, Counter>,
    pub(crate) ended: By<(Protocol, Outcome), Counter>,
    /// Branches that ended against the decision.
    pub(crate) heuristic: Counter,
    /// Branches that will not be confirmed or cancelled.
    pub(crate) refused: Counter,
    pub(crate) calls: By<Verb, Counter>,
    pub(crate) calls_failed: By<Verb, Counter>,
    pub(crate) begin_to_decision: By<(Protocol, Mode), Histogram>,
    pub(crate) decision_to_end: By<(Protocol, Outcome), Histogram>,
    pub(crate) phase_one: By<(Kind, Mode), Histogram>,
    pub(crate) phase_two: By<(Kind, Outcome), Histogram>,
    /// From handing a forced record to the store until it is durable.
    pub(crate) forced: Histogram,
}

impl Default for EngineMetrics {
    fn default() -> Self {
        EngineMetrics {
            begun: By::new(Counter::default),
            denied: By::new(Counter::default),
            resumed: Counter::default(),
            rollbacks: By::new(Counter::default),
            ended: By::new(Counter::default),
            heuristic: Counter::default(),
            refused: Counter::default(),
            calls: By::new(Counter::default),
            calls_failed: By::new(Counter::default),
            begin_to_decision: By::new(seconds),
            decision_to_end: By::new(seconds),
            phase_one: By::new(seconds),
            phase_two: By::new(seconds),
            forced: seconds(),
        }
    }
}

/// Of the store's log.
#[derive(Debug)]
pub(crate) struct LogMetrics {
    pub(crate) sync: Histogram,
    /// Records of one commit.
    pub(crate) batch: Histogram,
}

impl Default for LogMetrics {
    fn default() -> Self {
        LogMetrics { sync: seconds(), batch: Histogram::new(exponential_buckets(1.0, 2.0, 14)) }
    }
}

/// Of calls to participants, on their way.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    pub(crate) failed: By<CallFailure, Counter>,
    pub(crate) breaker_openings: Counter,
}

impl Default for CallMetrics {
    fn default() -> Self {
        CallMetrics { failed: By::new(Counter::default), breaker_openings: Counter::default() }
    }
}

/// Of calls to this coordinator.
#[derive(Debug)]
pub(crate) struct DoorMetrics {
    pub(crate) turned_away: By<Turned, Counter>,
    /// Those that are open.
    pub(crate) connections: Gauge,
    /// How many there may be.
    pub(crate) connections_max: Gauge,
    pub(crate) connections_refused: By<Refused, Counter>,
}

impl Default for DoorMetrics {
    fn default() -> Self {
        DoorMetrics {
            turned_away: By::new(Counter::default),
            connections: Gauge::default(),
            connections_max: Gauge::default(),
            connections_refused: By::new(Counter::default),
        }
    }
}

/// When certificates expire, in seconds since 1970, by the keys of the files that they are in. A copy is the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct CertificateMetrics(Arc<Mutex<BTreeMap<&'static str, i64>>>);

impl CertificateMetrics {
    /// What was read; of other files stays what it is.
    pub(crate) fn note(&self, expiry: impl IntoIterator<Item = (&'static str, i64)>) {
        self.expiry().extend(expiry);
    }

    fn expiry(&self) -> MutexGuard<'_, BTreeMap<&'static str, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EncodeMetric for CertificateMetrics {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (file, expires) in &*self.expiry() {
            ConstGauge::new(*expires).encode(encoder.encode_family(&[("file", *file)])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

impl Metrics {
    /// Names everything, for one scrape.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.engine.register(registry);
        self.log.register(registry);
        self.calls.register(registry);
        self.door.register(registry);
        let help = "When the first certificate in the file expires, since 1970";
        let expiry = self.certificates.clone();
        registry.register_with_unit("certificate_expires_timestamp", help, Unit::Seconds, expiry);
        let help = "Whether the configuration that was read last, or a file that it names, cannot be used";
        registry.register("configuration_refused", help, self.configuration_refused.clone());
    }

    /// Of a histogram without labels.
    #[cfg(test)]
    pub(crate) fn count_and_sum(&self, name: &str) -> [f64; 2] {
        let mut registry = Registry::default();
        self.register(&mut registry);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        ["count", "sum"].map(|suffix| {
            let start = format!("{name}_{suffix} ");
            page.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
        })
    }
}

impl EngineMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("transactions_begun", "Transactions begun", self.begun.clone());
        let help = "Requests to begin a transaction that were turned away";
        registry.register("transactions_turned_away", help, self.denied.clone());
        let help =
            "Transactions of an earlier life, or of a coordinator that was gone, that this one went on with";
        registry.register("transactions_resumed", help, self.resumed.clone());
        registry.register(
            "transactions_ended",
            "Transactions all of whose branches have ended",
            self.ended.clone(),
        );
        registry.register("rollbacks", "Decisions to roll back", self.rollbacks.clone());
        let help = "Branches that ended against the decision";
        registry.register("heuristic_branches", help, self.heuristic.clone());
        let help = "Times that a TCC branch refused to be confirmed or cancelled";
        registry.register("refused_branches", help, self.refused.clone());
        registry.register("calls", "Calls to branches", self.calls.clone());
        registry.register("calls_failed", "Calls to branches without an answer", self.calls_failed.clone());
        let help = "From the beginning of a transaction until its decision could be told";
        registry.register_with_unit("begin_to_decision", help, Unit::Seconds, self.begin_to_decision.clone());
        let help = "From the decision until every branch of the transaction had ended";
        registry.register_with_unit("decision_to_end", help, Unit::Seconds, self.decision_to_end.clone());
        let help = "From the first calls of phase one until a branch had voted";
        registry.register_with_unit("phase_one", help, Unit::Seconds, self.phase_one.clone());
        let help = "From the decision until a branch had ended, as its participant said";
        registry.register_with_unit("phase_two", help, Unit::Seconds, self.phase_two.clone());
        let help = "From handing a record that something waits for to the store, until it was durable";
        registry.register_with_unit("log_forced", help, Unit::Seconds, self.forced.clone());
    }
}

impl LogMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register_with_unit("log_sync", "Syncs of the log", Unit::Seconds, self.sync.clone());
        registry.register(
            "log_batch_records",
            "Records written by one commit of the log",
            self.batch.clone(),
        );
    }
}

impl CallMetrics {
    fn register(&self, registry: &mut Registry) {
        let help = "Calls to branches without an answer, by what was in the way";
        registry.register("call_failures", help, self.failed.clone());
        let help = "Times that a participant's circuit breaker opened";
        registry.register("breaker_openings", help, self.breaker_openings.clone());
    }
}

impl DoorMetrics {
    fn register(&self, registry: &mut Registry) {
        let help = "Calls to the coordinator that were turned away, because of who made them";
        registry.register("callers_turned_away", help, self.turned_away.clone());
        let help = "Connections that callers have open to the coordinator";
        registry.register("connections", help, self.connections.clone());
        let help = "Connections that callers may have open";
        registry.register("connections_max", help, self.connections_max.clone());
        let help = "Connections that were closed before there was a call on them";
        registry.register("connections_refused", help, self.connections_refused.clone());
    }
}
