//! What `GET /metrics` answers: all that was counted and measured, and what there is to see at this moment.

use concord_protocol::Outcome;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};

use crate::engine::{Census, Engine};
use crate::metrics::{BreakerState, CallPhase, Label};
use crate::resource::Resources;
use crate::store::UnixMillis;
use crate::transport::GrpcParticipants;

/// The `Content-Type` of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics in the text format of OpenMetrics. Looks at every live transaction: with 100,000 of them it takes some
/// milliseconds.
pub fn text(
    engine: &Engine,
    participants: &GrpcParticipants,
    resources: &Resources,
    started_at: UnixMillis,
) -> String {
    let mut registry = Registry::default();
    see_process(&mut registry, started_at);
    let ours = registry.sub_registry_with_prefix("concord");
    ours.register("build", "The program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    see_engine(ours, engine);
    engine.metrics().register(ours);
    see_participants(ours, participants);
    see_resources(ours, resources);
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut page, &registry);
    page
}

/// What was seen, each with its labels.
#[derive(Debug)]
struct Seen<const N: usize, M>(Vec<([(&'static str, String); N], M)>);

impl<const N: usize, M: EncodeMetric + TypedMetric> EncodeMetric for Seen<N, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (labels, metric) in &self.0 {
            metric.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

/// A label, as it is shown.
fn shown<L: Label>(label: L) -> (&'static str, String) {
    (L::NAME, label.value().to_owned())
}

fn see_engine(registry: &mut Registry, engine: &Engine) {
    let Census { states, stopping, limit, parked, outcome_unknown, branches_in_doubt, .. } = engine.census();
    let live = states.iter().map(|one| ([shown(one.state)], ConstGauge::new(one.transactions)));
    registry.register("transactions_live", "Transactions in memory", Seen(live.collect()));
    registry.register("transactions_live_max", "Transactions that may be in memory", ConstGauge::new(limit));
    let oldest = states.iter().map(|one| ([shown(one.state)], ConstGauge::new(one.oldest.as_secs_f64())));
    let help = "The longest time since one of the live transactions began or, once it is decided, since its decision";
    registry.register_with_unit("transactions_oldest_age", help, Unit::Seconds, Seen(oldest.collect()));
    let help = "Live transactions with a branch that waits for an operator";
    registry.register("transactions_parked", help, ConstGauge::new(parked));
    let help = "Live transactions whose only branch commits in one phase and has not answered in time";
    registry.register("transactions_outcome_unknown", help, ConstGauge::new(outcome_unknown));
    let help = "Branches of live transactions that have voted yes and have not ended";
    registry.register("branches_in_doubt", help, ConstGauge::new(branches_in_doubt));
    let help = "The epoch of this life of the coordinator";
    registry.register("epoch", help, ConstGauge::new(u64::from(engine.epoch().0)));
    let help = "Whether the coordinator takes no new transactions, because it is to stop";
    registry.register("stopping", help, ConstGauge::new(usize::from(stopping)));
}

fn see_participants(registry: &mut Registry, participants: &GrpcParticipants) {
    let counts = participants.count();
    let breakers = BreakerState::ALL.iter().zip(counts.breakers);
    let breakers = breakers.map(|(state, count)| ([shown(*state)], ConstGauge::new(count)));
    let help = "Participants' circuit breakers";
    registry.register("breakers", help, Seen(breakers.collect()));
    let help = "Participants that have opened a stream to be called on";
    registry.register("participants_attached", help, ConstGauge::new(counts.attached));
    registry.register("streams", "Streams that participants have opened", ConstGauge::new(counts.streams));
    let calls = CallPhase::ALL.iter().zip(counts.calls);
    let calls = calls.map(|(phase, count)| ([shown(*phase)], ConstGauge::new(count)));
    let help = "Calls to branches that are being made, without those that wait for their turn";
    registry.register("calls_in_flight", help, Seen(calls.collect()));
}

fn see_resources(registry: &mut Registry, resources: &Resources) {
    let views = resources.list();
    let (mut up, mut swept, mut in_doubt, mut ended) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for view in views {
        let name = ("resource", view.name.clone());
        up.push(([name.clone()], ConstGauge::new(usize::from(view.is_reachable()))));
        if let Some(at) = view.swept_at {
            swept.push(([name.clone()], ConstGauge::new(seconds(at))));
        }
        for (whose, count) in [("ours", view.in_doubt_ours), ("foreign", view.in_doubt_foreign)] {
            in_doubt.push(([name.clone(), ("whose", whose.to_owned())], ConstGauge::new(count)));
        }
        for (outcome, count) in
            [(Outcome::Committed, view.committed), (Outcome::RolledBack, view.rolled_back)]
        {
            ended.push(([name.clone(), shown(outcome)], ConstCounter::new(count)));
        }
    }
    let help = "Whether the resource could be reached when it was last tried";
    registry.register("resource_up", help, Seen(up));
    let help = "When the resource was last swept with success, since 1970";
    registry.register_with_unit("resource_swept_timestamp", help, Unit::Seconds, Seen(swept));
    let help = "Branches that the last sweep found prepared on the resource";
    registry.register("resource_in_doubt", help, Seen(in_doubt));
    let help = "Branches that the sweeper has ended on the resource";
    registry.register("sweeper_ended", help, Seen(ended));
}

/// By the names that Prometheus has for every process.
fn see_process(registry: &mut Registry, started_at: UnixMillis) {
    let help = "When the process started, since 1970";
    let started = ConstGauge::new(seconds(started_at));
    registry.register_with_unit("process_start_time", help, Unit::Seconds, started);
    #[cfg(target_os = "linux")]
    if let Ok(process) = procfs::process::Process::myself()
        && let (Ok(stat), Ok(files)) = (process.stat(), process.fd_count())
    {
        let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
        let help = "Processor time used";
        registry.register_with_unit("process_cpu", help, Unit::Seconds, ConstCounter::new(cpu));
        let memory = ConstGauge::new(stat.rss * procfs::page_size());
        registry.register_with_unit("process_resident_memory", "Resident memory", Unit::Bytes, memory);
        registry.register("process_open_fds", "Open files and sockets", ConstGauge::new(files));
    }
}

fn seconds(at: UnixMillis) -> f64 {
    at.0 as f64 / 1_000.0
}
