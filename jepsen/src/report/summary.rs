//! Counts and percentiles of a run: what `result.json` and `result.edn` hold.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Run, faults, latency_s};
use crate::Anomaly;
use crate::history::{Call, Type};
use crate::verdict::{Claim, Verdict};

/// A day: longer latencies count as this.
const LONGEST_US: u64 = 86_400_000_000;

/// A run in numbers.
#[derive(Debug, Serialize)]
pub(super) struct Summary<'a> {
    title: &'a str,
    verdict: Verdict,
    vacuous: &'a [String],
    claims: &'a [Claim],
    anomalies: &'a [Anomaly],
    /// How long the history is.
    seconds: f64,
    pub operations: Vec<Operations<'a>>,
    pub faults: Vec<Faults<'a>>,
    parameters: BTreeMap<&'a str, &'a str>,
    command: &'a str,
}

/// Operations of one `:f`.
#[derive(Debug, Serialize)]
pub(super) struct Operations<'a> {
    pub f: &'a str,
    pub ok: u64,
    pub fail: u64,
    /// Those whose outcome nobody knows, with those that never ended.
    pub info: u64,
    /// Of those that are ok; none when there are none.
    pub latency_ms: Option<Percentiles>,
}

/// Of latencies, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// Faults of one kind.
#[derive(Debug, Serialize)]
pub(super) struct Faults<'a> {
    pub kind: &'a str,
    pub count: usize,
    /// Of all of them together.
    pub seconds: f64,
}

impl<'a> Summary<'a> {
    pub(super) fn of(run: &'a Run<'a>) -> Summary<'a> {
        let report = run.report;
        Summary {
            title: &report.title,
            verdict: report.verdict,
            vacuous: &report.vacuous,
            claims: &report.claims,
            anomalies: &report.anomalies,
            seconds: thousandths(run.end_s),
            operations: operations(run),
            faults: of_kinds(run),
            parameters: report.parameters.iter().map(|(name, value)| (&**name, &**value)).collect(),
            command: &report.command,
        }
    }
}

impl Percentiles {
    /// None of nothing.
    pub(super) fn of(latencies_s: impl IntoIterator<Item = f64>) -> Option<Percentiles> {
        let mut micros = Histogram::<u64>::new_with_bounds(1, LONGEST_US, 3).ok()?;
        let mut max = 0.0_f64;
        for latency in latencies_s {
            micros.saturating_record((latency * 1e6) as u64);
            max = max.max(latency);
        }
        let ms = |quantile| micros.value_at_quantile(quantile) as f64 / 1e3;
        (!micros.is_empty()).then(|| Percentiles { p50: ms(0.5), p99: ms(0.99), max: thousandths(max * 1e3) })
    }
}

/// Without the digits that only arithmetic has made.
fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn operations<'a>(run: &Run<'a>) -> Vec<Operations<'a>> {
    let mut by_f: BTreeMap<&str, Vec<&Call<'_>>> = BTreeMap::new();
    for call in &run.calls {
        by_f.entry(&call.invoked.f).or_default().push(call);
    }
    let of = |(f, calls): (&'a str, Vec<&Call<'_>>)| {
        let ended = |outcome| calls.iter().filter(move |call| call.outcome() == outcome);
        Operations {
            f,
            ok: ended(Type::Ok).count() as u64,
            fail: ended(Type::Fail).count() as u64,
            info: ended(Type::Info).count() as u64,
            latency_ms: Percentiles::of(ended(Type::Ok).filter_map(|call| latency_s(call))),
        }
    };
    by_f.into_iter().map(of).collect()
}

fn of_kinds<'a>(run: &'a Run<'_>) -> Vec<Faults<'a>> {
    let of = |kind| {
        let these = run.faults.iter().filter(|fault| fault.kind == kind);
        let seconds = thousandths(these.clone().map(|fault| fault.end_s - fault.start_s).sum());
        Faults { kind, count: these.count(), seconds }
    };
    faults::kinds(&run.faults).into_iter().map(of).collect()
}
