//! Two clocks, compared. No decision rests on them: leases run by the database's clock, deadlines by the monotonic one. But
//! histories are read side by side, and a deadline that goes on after a restart is counted by the wall clock.

use super::Finding;
use crate::cli::view::span;

/// Beyond this a difference is worth a word, in milliseconds.
const APART_MS: i64 = 1_000;

/// `ahead_ms`: of the database's clock before this machine's, known to half of `round_trip_ms`.
pub(super) fn compare(subject: &str, ahead_ms: i64, round_trip_ms: u64) -> Finding {
    let slack = i64::try_from(round_trip_ms).unwrap_or(i64::MAX) / 2;
    let apart = span(ahead_ms.saturating_abs());
    let found = match ahead_ms {
        0.. => format!("its clock is {apart} ahead of this machine's"),
        ..0 => format!("its clock is {apart} behind this machine's"),
    };
    match ahead_ms.saturating_abs().saturating_sub(slack) > APART_MS {
        true => {
            let mend = "synchronize both with NTP: histories of the two cannot be compared, nor deadlines after a restart";
            Finding::warning("clock", subject, found, mend)
        }
        false => Finding::ok("clock", subject, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::Level;

    #[test]
    fn clocks_that_are_apart_are_told() {
        for (ahead_ms, round_trip_ms, level) in [
            (0, 0, Level::Ok),
            (1_000, 0, Level::Ok),
            (1_001, 0, Level::Warning),
            (-1_001, 0, Level::Warning),
            (1_500, 1_000, Level::Ok),
            (i64::MIN, 0, Level::Warning),
        ] {
            assert_eq!(compare("x", ahead_ms, round_trip_ms).level, level, "{ahead_ms} {round_trip_ms}");
        }
        assert_eq!(compare("x", -2_500, 0).found, "its clock is 2.5s behind this machine's");
    }
}
