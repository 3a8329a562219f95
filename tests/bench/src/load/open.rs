//! Transactions that start at times fixed beforehand, whatever has become of those before them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Caller, Run, Starts, work};

/// How often a transaction arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrivals {
    pub(crate) per_second: f64,
    pub(crate) schedule: Schedule,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Schedule {
    /// One as far from the next as every other.
    Constant,
    /// As by many who do not know of each other.
    Poisson,
}

impl Arrivals {
    /// When they arrive, counted from the beginning. Endless.
    fn times(self) -> impl Iterator<Item = Duration> {
        let mut units = 0.0;
        std::iter::repeat_with(move || {
            units += match self.schedule {
                Schedule::Constant => 1.0,
                // The gaps of a Poisson process are distributed exponentially; the logarithm is of (0, 1].
                Schedule::Poisson => -f64::ln(1.0 - rand::random::<f64>()),
            };
            Duration::from_secs_f64(units / self.per_second)
        })
    }
}

/// Lets transactions arrive for `span`. One for which no caller is free waits for one, and its latency grows.
pub(super) async fn run<C: Caller>(callers: &mut Vec<C>, arrivals: Arrivals, span: Duration) -> Result<Run> {
    let (sender, receiver) = unbounded_channel();
    let clock = tokio::task::spawn_blocking(move || keep_time(arrivals, span, &sender));
    let run = work(callers, callers.len(), &Arrived(Arc::new(Mutex::new(receiver)))).await;
    clock.await?;
    run
}

/// Says when a transaction arrives. A thread of its own: tokio's timers count milliseconds.
fn keep_time(arrivals: Arrivals, span: Duration, arrived: &UnboundedSender<Instant>) {
    let begun = Instant::now();
    for at in arrivals.times().take_while(|at| *at < span) {
        let intended = begun + at;
        std::thread::sleep(intended.saturating_duration_since(Instant::now()));
        if arrived.send(intended).is_err() {
            // All callers have failed.
            return;
        }
    }
}

#[derive(Clone)]
struct Arrived(Arc<Mutex<UnboundedReceiver<Instant>>>);

impl Starts for Arrived {
    async fn next(&self) -> Option<Instant> {
        self.0.lock().await.recv().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(schedule: Schedule) -> impl Iterator<Item = f64> {
        Arrivals { per_second: 200.0, schedule }.times().map(|at| at.as_secs_f64())
    }

    #[test]
    fn constant_arrivals_are_equally_far_apart() {
        let times: Vec<f64> = times(Schedule::Constant).take(1_000).collect();
        for (place, at) in times.iter().enumerate() {
            assert!((at - (place + 1) as f64 / 200.0).abs() < 1e-6, "arrival {place} at {at}");
        }
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        const COUNT: usize = 100_000;
        let times: Vec<f64> = times(Schedule::Poisson).take(COUNT).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // Exponential gaps: the deviation is as large as the mean. Six deviations of either estimate.
        assert!((mean * 200.0 - 1.0).abs() < 0.02, "mean {mean}");
        assert!((variance.sqrt() * 200.0 - 1.0).abs() < 0.03, "deviation {}", variance.sqrt());
    }

    struct Slow;

    impl Caller for Slow {
        async fn call(&mut self) -> Result<()> {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_arrives_while_all_are_busy_is_neither_left_out_nor_taken_for_quick() {
        let arrivals = Arrivals { per_second: 1_000.0, schedule: Schedule::Constant };
        let run = run(&mut vec![Slow], arrivals, Duration::from_millis(50)).await.unwrap();
        // 0.05 is not quite 50 ms, and may be an arrival more or less.
        assert!((49..=50).contains(&run.transactions), "{}", run.transactions);
        // The last one arrived by 50 ms and had 48 of 20 ms each before it.
        assert!(run.latency.max() >= 48 * 20_000 - 50_000, "{}", run.latency.max());
    }
}
