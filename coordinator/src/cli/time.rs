//! Times in arguments.

use std::time::SystemTime;

use concord_coordinator::store::UnixMillis;

/// A span of time, up to now, or a point of time.
pub(super) fn parse(text: &str) -> Result<UnixMillis, String> {
    let time = match humantime::parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH),
        Err(_) => humantime::parse_rfc3339_weak(text).map_err(
            |_| "must be a span of time such as 90m, 2h or 7d, or a time such as 2026-11-01T00:00:00Z",
        )?,
    };
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_span_or_a_time() {
        let now = UnixMillis::now().0;
        let ago = parse("2h").unwrap().0;
        assert!((now - 7_201_000..=now - 7_199_000).contains(&ago), "{ago} and {now}");
        assert_eq!(parse("1970-01-01T00:00:01Z").unwrap(), UnixMillis(1_000));
        assert_eq!(parse("1970-01-01 00:00:01").unwrap(), UnixMillis(1_000));
        for wrong in ["", "yesterday", "-2h", "7"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
