//! What a scenario found out, and what was wanted.

use anyhow::Result;
use concord_sandbox::Flavor;
use serde::Serialize;

use crate::contest::{Ratio, Side};

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    /// The scenario, and which of its figures.
    pub(crate) name: String,
    /// `None` where no database takes part.
    pub(crate) database: Option<Flavor>,
    /// How many callers at a time.
    pub(crate) concurrency: Option<usize>,
    pub(crate) ours: f64,
    pub(crate) baseline: Option<f64>,
    /// Ours by the baseline, the median of the rounds.
    pub(crate) ratio: Option<f64>,
    /// Of ours and the baseline.
    pub(crate) unit: &'static str,
    /// In milliseconds, as the others.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) baseline_p50: Option<f64>,
    pub(crate) baseline_p99: Option<f64>,
    /// Syncs of the coordinator's log.
    pub(crate) syncs_per_tx: Option<f64>,
    pub(crate) baseline_syncs_per_tx: Option<f64>,
    pub(crate) wanted: Vec<Wanted>,
    pub(crate) detail: String,
}

impl Outcome {
    /// A figure of its own, without a baseline.
    pub(crate) fn figure(name: &str, ours: f64, unit: &'static str) -> Outcome {
        Outcome {
            name: name.to_owned(),
            database: None,
            concurrency: None,
            ours,
            baseline: None,
            ratio: None,
            unit,
            p50: None,
            p99: None,
            baseline_p50: None,
            baseline_p99: None,
            syncs_per_tx: None,
            baseline_syncs_per_tx: None,
            wanted: Vec::new(),
            detail: String::new(),
        }
    }

    /// Throughput of ours against that of a baseline.
    ///
    /// # Errors
    /// When latencies cannot be added up.
    pub(crate) fn throughput(name: &str, ours: &Side, baseline: &Side) -> Result<Outcome> {
        let ratio = ours.against(baseline);
        let outcome = Outcome::figure(name, ours.per_second(), "tx/s");
        outcome.compared(ratio, baseline.per_second(), ours, baseline)
    }

    /// A quantile of the latency of ours against that of a baseline.
    ///
    /// # Errors
    /// When latencies cannot be added up.
    pub(crate) fn latency(name: &str, quantile: f64, ours: &Side, baseline: &Side) -> Result<Outcome> {
        let ratio = ours.latency_against(baseline, quantile);
        let outcome = Outcome::figure(name, ours.ms(quantile)?, "ms");
        outcome.compared(ratio, baseline.ms(quantile)?, ours, baseline)
    }

    fn compared(self, ratio: Ratio, theirs: f64, ours: &Side, baseline: &Side) -> Result<Outcome> {
        Ok(Outcome {
            baseline: Some(theirs),
            ratio: Some(ratio.median),
            p50: Some(ours.ms(0.5)?),
            p99: Some(ours.ms(0.99)?),
            baseline_p50: Some(baseline.ms(0.5)?),
            baseline_p99: Some(baseline.ms(0.99)?),
            syncs_per_tx: ours.syncs_per_transaction(),
            baseline_syncs_per_tx: baseline.syncs_per_transaction(),
            detail: ratio.rounds(),
            ..self
        })
    }

    /// Processor time of a transaction, all processes together, against that of a baseline.
    pub(crate) fn processor_time(name: &str, ours: &Side, baseline: &Side) -> Outcome {
        let us = |side: &Side| side.used.total() * 1e6 / side.transactions() as f64;
        let (of_ours, of_baseline) = (us(ours), us(baseline));
        let figure = Outcome::figure(&format!("{name}, processor time"), of_ours, "us/tx");
        let outcome = Outcome { baseline: Some(of_baseline), ratio: Some(of_ours / of_baseline), ..figure };
        let [ours, baseline] = [ours, baseline].map(Side::processor_time);
        outcome.detail(&format!("through Concord {ours}")).detail(&format!("baseline {baseline}"))
    }

    pub(crate) fn on(self, database: Flavor) -> Outcome {
        Outcome { database: Some(database), ..self }
    }

    pub(crate) fn at(self, concurrency: usize) -> Outcome {
        Outcome { concurrency: Some(concurrency), ..self }
    }

    /// Adds to the detail.
    pub(crate) fn detail(mut self, more: &str) -> Outcome {
        if !self.detail.is_empty() {
            self.detail.push_str("; ");
        }
        self.detail.push_str(more);
        self
    }

    /// Adds what the ratio must be.
    pub(crate) fn ratio_wanted(self, bound: Bound) -> Outcome {
        self.wanted(Of::Ratio, bound)
    }

    /// Adds what ours must be.
    pub(crate) fn ours_wanted(self, bound: Bound) -> Outcome {
        self.wanted(Of::Ours, bound)
    }

    /// Adds what syncs for a transaction must be.
    pub(crate) fn syncs_wanted(self, bound: Bound) -> Outcome {
        self.wanted(Of::SyncsPerTx, bound)
    }

    fn wanted(mut self, of: Of, bound: Bound) -> Outcome {
        self.wanted.push(Wanted { of, bound });
        self
    }

    /// Whether everything that is wanted is there.
    pub(crate) fn reached(&self) -> bool {
        self.wanted.iter().all(|Wanted { of, bound }| {
            let value = match of {
                Of::Ours => Some(self.ours),
                Of::Ratio => self.ratio,
                Of::SyncsPerTx => self.syncs_per_tx,
            };
            value.is_some_and(|value| bound.holds(value))
        })
    }
}

/// What something must be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Wanted {
    pub(crate) of: Of,
    #[serde(flatten)]
    pub(crate) bound: Bound,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Of {
    Ours,
    Ratio,
    SyncsPerTx,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    /// Nothing holds for what is not a number.
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(bound) => value <= bound,
            Bound::AtLeast(bound) => value >= bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_up_to_itself() {
        let figure = || Outcome::figure("x", 5.0, "ms");
        assert!(figure().reached());
        assert!(figure().ours_wanted(Bound::AtMost(5.0)).reached());
        assert!(!figure().ours_wanted(Bound::AtMost(4.9)).reached());
        assert!(figure().ours_wanted(Bound::AtLeast(5.0)).reached());
        assert!(!figure().ours_wanted(Bound::AtLeast(5.1)).reached());
    }

    #[test]
    fn all_bounds_must_hold_and_a_ratio_must_be_there() {
        let figure = Outcome { ratio: Some(0.8), ..Outcome::figure("x", 5.0, "tx/s") };
        let reached = figure.clone().ratio_wanted(Bound::AtLeast(0.7)).ours_wanted(Bound::AtLeast(5.0));
        assert!(reached.reached());
        assert!(!reached.clone().ours_wanted(Bound::AtLeast(6.0)).reached());
        assert!(!Outcome { ratio: Some(0.6), ..reached.clone() }.reached());
        assert!(!Outcome { ratio: Some(f64::NAN), ..reached.clone() }.reached());
        assert!(!Outcome { ratio: None, ..reached.clone() }.reached());
        let synced = reached.syncs_wanted(Bound::AtMost(0.2));
        assert!(!synced.reached());
        assert!(Outcome { syncs_per_tx: Some(0.2), ..synced }.reached());
    }
}
