//! Spans of time as people say them.

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Milliseconds as `870ms`, `3.2s`, `4m 10s`, `2h 5m` or `3d 4h`. What is negative, by a skew between two
/// clocks, is `0ms`.
pub(in crate::cli) fn span(ms: i64) -> String {
    match ms {
        ..0 => "0ms".to_owned(),
        0..SECOND => format!("{ms}ms"),
        SECOND..MINUTE => format!("{}.{}s", ms / SECOND, ms % SECOND / 100),
        MINUTE..HOUR => pair(ms, (MINUTE, "m"), (SECOND, "s")),
        HOUR..DAY => pair(ms, (HOUR, "h"), (MINUTE, "m")),
        DAY.. => pair(ms, (DAY, "d"), (HOUR, "h")),
    }
}

fn pair(ms: i64, (large, large_name): (i64, &str), (small, small_name): (i64, &str)) -> String {
    match ms % large / small {
        0 => format!("{}{large_name}", ms / large),
        rest => format!("{}{large_name} {rest}{small_name}", ms / large),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let said = [
            (-5, "0ms"),
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1.0s"),
            (3_299, "3.2s"),
            (59_999, "59.9s"),
            (60_000, "1m"),
            (250_000, "4m 10s"),
            (2 * HOUR + 5 * MINUTE, "2h 5m"),
            (3 * DAY + 4 * HOUR, "3d 4h"),
            (i64::MAX, "106751991167d 7h"),
        ];
        for (ms, expected) in said {
            assert_eq!(span(ms), expected);
        }
    }
}
