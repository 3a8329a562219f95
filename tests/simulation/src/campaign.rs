//! Many runs, on all cores.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::figures::Faults;
use crate::scenario::Scenario;
use crate::world::locked;
use crate::{Options, Outcome, run};

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// The seeds.
    pub seeds: Range<u64>,
    /// How each is run.
    pub options: Options,
    /// On so many threads.
    pub jobs: usize,
    /// Stop after so many failing seeds.
    pub failures_max: usize,
}

/// Sums over all runs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    /// Runs.
    pub seeds: u64,
    /// Simulated time in hours.
    pub simulated_hours: f64,
    /// Transactions that took effect.
    pub committed: u64,
    /// Transactions that left no effect.
    pub rolled_back: u64,
    /// What went wrong on purpose.
    pub faults: Faults,
    /// Claims that did not hold, in all runs together.
    pub violations: u64,
    /// Real time in seconds.
    pub seconds: f64,
}

#[derive(Default)]
struct Sums {
    figures: Figures,
    simulated_ms: u64,
    failures: Vec<(u64, Outcome)>,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Sums.
    pub figures: Figures,
    /// The runs that failed, by seed.
    pub failures: Vec<(u64, Outcome)>,
}

impl Campaign {
    /// Runs it. `progress` is told now and then how many runs are done.
    pub fn run(&self, progress: &(dyn Fn(u64) + Sync)) -> Report {
        let started = Instant::now();
        let next = AtomicU64::new(self.seeds.start);
        let sums = Mutex::new(Sums::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| self.work(&next, &sums, progress));
            }
        });
        let Sums { mut figures, simulated_ms, mut failures } =
            sums.into_inner().unwrap_or_else(|error| error.into_inner());
        figures.simulated_hours = Duration::from_millis(simulated_ms).as_secs_f64() / 3_600.0;
        figures.seconds = started.elapsed().as_secs_f64();
        failures.sort_by_key(|(seed, _)| *seed);
        Report { figures, failures }
    }

    fn work(&self, next: &AtomicU64, sums: &Mutex<Sums>, progress: &(dyn Fn(u64) + Sync)) {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !self.seeds.contains(&seed) {
                return;
            }
            let outcome = run(&Scenario::new(seed), self.options);
            let mut sums = locked(sums);
            let Sums { figures, simulated_ms, failures } = &mut *sums;
            figures.seeds += 1;
            figures.committed += outcome.committed;
            figures.rolled_back += outcome.rolled_back;
            figures.violations += outcome.violations.len() as u64;
            figures.faults.add(&outcome.faults);
            *simulated_ms += outcome.simulated_ms;
            if !outcome.violations.is_empty() {
                failures.push((seed, outcome));
                if failures.len() >= self.failures_max {
                    next.store(self.seeds.end, Ordering::Relaxed);
                }
            }
            let done = figures.seeds;
            drop(sums);
            progress(done);
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Faults {
            lost,
            repeated,
            delayed,
            partitions,
            connections,
            participants,
            twins,
            databases,
            coordinators,
            clocks,
            pauses,
            stores,
            frozen,
            stores_away,
            take_overs,
            fenced,
            leases_lost,
            passed_on,
        } = self.faults;
        write!(
            f,
            "{} seeds in {:.0} s: {:.0} simulated hours, {} transactions committed, {} rolled back; messages: \
             {lost} lost, {repeated} repeated, {delayed} late; {partitions} partitions, {connections} connections \
             broken; killed: {coordinators} coordinators, {participants} participants, {databases} databases; {twins} participants doubled; \
             {stores} store failures, {clocks} clock jumps, {pauses} pauses; on shared stores: {frozen} coordinators \
             stopped for a while, {stores_away} databases killed, {take_overs} take-overs, {fenced} fenced writes, \
             {leases_lost} leases lost, {passed_on} calls passed on; {} violations",
            self.seeds, self.seconds, self.simulated_hours, self.committed, self.rolled_back, self.violations,
        )
    }
}
