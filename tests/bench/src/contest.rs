//! What is run in turn, on the same machine, and how one compares with the other.
//!
//! Ours, baseline, ours, baseline …: what else the machine does meanwhile falls on both. Ratios are taken round by
//! round, and the median counts.

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use crate::load::{Load, Run, Target, histogram, ms};
use crate::processor_time::{ProcessorTime, Watched};
use crate::setup::Setup;

/// One of those that were run in turn.
#[derive(Debug)]
pub(crate) struct Side {
    /// One of each round.
    pub(crate) runs: Vec<Run>,
    pub(crate) used: ProcessorTime,
}

impl Side {
    /// Of the rounds' rates, the median.
    pub(crate) fn per_second(&self) -> f64 {
        median(&self.rates())
    }

    fn rates(&self) -> Vec<f64> {
        self.runs.iter().map(Run::per_second).collect()
    }

    pub(crate) fn transactions(&self) -> u64 {
        self.runs.iter().map(|run| run.transactions).sum()
    }

    /// A quantile of all rounds' latencies together, in milliseconds.
    pub(crate) fn ms(&self, quantile: f64) -> Result<f64> {
        Ok(ms(&self.latency()?, quantile))
    }

    fn latency(&self) -> Result<Histogram<u64>> {
        let mut all = histogram()?;
        for run in &self.runs {
            all.add(&run.latency)?;
        }
        Ok(all)
    }

    /// Syncs of the coordinator's log, where there is one.
    pub(crate) fn syncs_per_transaction(&self) -> Option<f64> {
        let syncs: Option<u64> = self.runs.iter().map(|run| run.syncs).sum();
        Some(syncs? as f64 / self.transactions() as f64)
    }

    /// How its rates compare with another's.
    pub(crate) fn against(&self, other: &Side) -> Ratio {
        Ratio::of(&self.rates(), &other.rates())
    }

    /// What this one needs more than another: quantiles in milliseconds, round by round, the median.
    pub(crate) fn added_ms(&self, other: &Side, quantile: f64) -> f64 {
        let added = |(ours, theirs): (&Run, &Run)| ours.ms(quantile) - theirs.ms(quantile);
        median(&self.runs.iter().zip(&other.runs).map(added).collect::<Vec<_>>())
    }

    /// How quantiles of latency compare, round by round.
    pub(crate) fn latency_against(&self, other: &Side, quantile: f64) -> Ratio {
        let of = |side: &Side| side.runs.iter().map(|run| run.ms(quantile)).collect::<Vec<_>>();
        Ratio::of(&of(self), &of(other))
    }

    pub(crate) fn processor_time(&self) -> String {
        self.used.per_transaction(self.transactions())
    }
}

/// Of each round one against the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Ratio {
    pub(crate) fn of(ours: &[f64], theirs: &[f64]) -> Ratio {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Ratio { median: median(&ratios), least, most }
    }

    /// `rounds 0.76 … 0.87`
    pub(crate) fn rounds(&self) -> String {
        format!("rounds {:.2} … {:.2}", self.least, self.most)
    }
}

/// The middle one, or what is halfway between the middle two. Not a number when there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
    (middle(sorted.len().saturating_sub(1) / 2) + middle(sorted.len() / 2)) / 2.0
}

/// Lets each take the load once to warm up, for half the span, and then `rounds` times in turn.
pub(crate) async fn contest<const N: usize>(
    setup: &Setup,
    what: &str,
    targets: [&mut dyn Target; N],
    load: Load,
    rounds: usize,
    watched: &Watched,
) -> Result<[Side; N]> {
    setup.progress.stage(what, N * (rounds + 1));
    let mut taking_part = targets.map(|target| (target, Vec::new(), ProcessorTime::default()));
    for (target, ..) in &mut taking_part {
        setup.progress.step(&format!("{}, warm-up", target.name()));
        target.run(Load { span: load.span / 2, ..load }).await.with_context(|| target.name().to_owned())?;
    }
    for round in 1..=rounds {
        for (target, runs, used) in &mut taking_part {
            setup.progress.step(&format!("{}, round {round} of {rounds}", target.name()));
            let before = watched.look()?;
            runs.push(target.run(load).await.with_context(|| target.name().to_owned())?);
            used.add(&before, &watched.look()?);
        }
    }
    Ok(taking_part.map(|(_, runs, used)| Side { runs, used }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn side(rates: &[u64]) -> Side {
        let run = |rate: &u64| Run {
            transactions: rate * 2,
            elapsed: Duration::from_secs(2),
            latency: histogram().unwrap(),
            syncs: Some(*rate),
        };
        Side { runs: rates.iter().map(run).collect(), used: ProcessorTime::default() }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was busy in the last rounds: the medians of the rates are as 45 to 50.
        let (ours, baseline) = (side(&[80, 10, 45]), side(&[100, 20, 50]));
        let ratio = ours.against(&baseline);
        assert_eq!((ratio.median, ratio.least, ratio.most), (0.8, 0.5, 0.9));
    }

    #[test]
    fn the_median_of_an_even_number_is_halfway_between_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 10.0]), 3.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn syncs_are_counted_by_transaction() {
        assert_eq!(side(&[30, 50]).syncs_per_transaction(), Some(0.5));
        let mut without = side(&[30, 50]);
        without.runs[1].syncs = None;
        assert_eq!(without.syncs_per_transaction(), None);
    }
}
