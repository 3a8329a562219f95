//! Damage to the store's files, system calls that fail, and what must come of it: everything that was acknowledged is
//! there, or the store refuses to open, or to answer. Never a wrong answer.
//!
//! By default a sample is played, which another `CONCORD_STORE_SEED` draws anew; with `CONCORD_STORE_FAULTS=all` every
//! byte and every bit.

#[cfg(target_os = "linux")]
mod calls;
mod damage;
mod history;

use std::io::Write as _;

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Whether every byte and every bit is to be played.
fn is_whole() -> bool {
    std::env::var("CONCORD_STORE_FAULTS").is_ok_and(|value| value == "all")
}

/// Draws a sample. The seed is printed when its test fails.
fn sample() -> StdRng {
    let seed = std::env::var("CONCORD_STORE_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("CONCORD_STORE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Shows a line also when the test succeeds: the test runner captures what is printed, not what is written.
fn say(line: &str) {
    // Without a reader nobody misses it.
    let _ = writeln!(std::io::stderr(), "store faults: {line}");
}
