//! One seed, one run: without that no failure could be looked at twice.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use concord_simulation::scenario::Scenario;
use concord_simulation::{Options, run};

const TOLD: Options = Options { mutant: None, transcript: true, strict_keys: false };

#[test]
fn the_same_seed_gives_the_same_transcript_byte_for_byte() {
    for seed in 0..20 {
        let scenario = Scenario::new(seed);
        let (first, second) = (run(&scenario, TOLD), run(&scenario, TOLD));
        assert!(!first.transcript.is_empty());
        assert!(first.transcript == second.transcript, "seed {seed} gave two different runs");
        assert_eq!(first.simulated_ms, second.simulated_ms);
    }
}

#[test]
fn whether_it_is_written_down_makes_no_difference() {
    for seed in 0..10 {
        let scenario = Scenario::new(seed);
        let (told, silent) = (run(&scenario, TOLD), run(&scenario, Options::default()));
        assert_eq!((told.simulated_ms, told.faults), (silent.simulated_ms, silent.faults), "seed {seed}");
    }
}
