//! The simulation can fail: each bug on purpose is found, and found soon; and without a bug nothing is.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use clap::ValueEnum as _;
use concord_simulation::campaign::{Campaign, Report};
use concord_simulation::mutant::Mutant;
use concord_simulation::scenario::Scenario;
use concord_simulation::shrink::shrink;
use concord_simulation::{Found, Options, hunt};

/// Seeds within which every bug must be found, should the ones that are known to find it no longer do.
const SEEDS: u64 = 5_000;

fn search(seeds: u64) -> Report {
    let jobs = std::thread::available_parallelism().map_or(1, Into::into);
    Campaign { seeds: 0..seeds, options: Options::default(), jobs, failures_max: 1 }.run(&|_| {})
}

#[test]
fn every_bug_is_found() {
    for mutant in Mutant::value_variants() {
        let found = hunt(*mutant, SEEDS);
        let Found { seed, runs, .. } = found.unwrap_or_else(|| panic!("{mutant:?} is not found"));
        println!("{mutant:?}: found by seed {seed}, after {runs} runs");
    }
}

#[test]
fn without_a_bug_every_claim_holds() {
    let report = search(100);
    let failures: Vec<_> =
        report.failures.iter().map(|(seed, outcome)| (seed, &outcome.violations)).collect();
    assert!(failures.is_empty(), "{failures:?}");
    let figures = report.figures;
    assert_eq!(figures.seeds, 100);
    // Not by doing nothing.
    assert!(figures.committed > 150 && figures.rolled_back > 150, "{figures}");
    let faults = figures.faults;
    let each = [
        faults.lost,
        faults.repeated,
        faults.delayed,
        faults.partitions,
        faults.connections,
        faults.participants,
        faults.twins,
        faults.databases,
        faults.coordinators,
        faults.clocks,
        faults.pauses,
        faults.stores,
        faults.frozen,
        faults.stores_away,
        faults.take_overs,
        faults.fenced,
        faults.leases_lost,
        faults.passed_on,
    ];
    assert!(each.iter().all(|count| *count > 0), "{figures}");
}

#[test]
fn a_failing_run_is_made_smaller_and_fails_alike() {
    let options = Options { mutant: Some(Mutant::NoTombstone), ..Options::default() };
    let Found { seed, outcome, .. } = hunt(Mutant::NoTombstone, SEEDS).unwrap();
    let claims: Vec<_> = outcome.violations.iter().map(|violation| violation.claim).collect();
    let scenario = Scenario::new(seed);
    let (keep, smaller) = shrink(&scenario, outcome, options);
    assert!(smaller.violations.iter().any(|violation| claims.contains(&violation.claim)));
    let reduced = scenario.reduced(&keep);
    assert!(reduced.transactions.len() < scenario.transactions.len(), "{keep:?}");
    let again = concord_simulation::run(&reduced, options);
    assert_eq!(again.violations, smaller.violations);
}
