//! The small configurations hold, and every bug that is put into what surrounds the core is found by one of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may")]

use clap::ValueEnum as _;
use concord_model::{Extent, Mutant, check, configurations, hunt};

const THREADS: usize = 2;

#[test]
fn every_claim_holds_in_small_worlds() {
    for rules in configurations(Extent::Small) {
        let name = format!("{} {}, {}", rules.kinds_text(), rules.mode, rules.faults);
        let report = check(rules, THREADS);
        if let Some(trace) = &report.broken {
            panic!("{name}\n{trace}");
        }
        assert!(report.is_good(), "{name}: never seen: {:?}", report.missing);
    }
}

#[test]
fn every_bug_is_found() {
    for mutant in Mutant::value_variants() {
        let trace = hunt(Some(*mutant), THREADS).unwrap_or_else(|| panic!("{mutant:?} has survived"));
        // A run to be read: what happened, and what it breaks.
        let text = trace.to_string();
        assert!(text.lines().count() > 3, "{text}");
        assert!(text.ends_with(&format!("BROKEN: {}\n", trace.claim())), "{text}");
    }
}
