//! Crash points in the programs of this crate: `--crash-at ORDER` from the start; `crash-at ORDER`, `crash-at none` and
//! `reached` by lines. Only where they were built with the feature `crash-points`.

use anyhow::Result;
#[cfg(not(feature = "crash-points"))]
use anyhow::bail;

/// Arms a point of this process; `none` disarms.
///
/// # Errors
/// When this is no order, or there are no crash points in this build.
#[cfg(feature = "crash-points")]
pub fn arm(order: &str) -> Result<()> {
    concord_crash_points::arm(if order == "none" { None } else { Some(order.parse()?) });
    Ok(())
}

/// Arms a point of this process; `none` disarms.
///
/// # Errors
/// There are no crash points in this build.
#[cfg(not(feature = "crash-points"))]
pub fn arm(_order: &str) -> Result<()> {
    bail!("built without the feature crash-points")
}

/// Obeys a line, if it is about crash points. Answers to `reached` with the points that were reached since it was last
/// asked, as `NAME=TIMES`.
pub fn obey(line: &str) -> Option<Result<String>> {
    if let Some(order) = line.strip_prefix("crash-at ") {
        return Some(arm(order).map(|()| String::new()));
    }
    (line == "reached").then(reached)
}

#[cfg(feature = "crash-points")]
fn reached() -> Result<String> {
    let counts = concord_crash_points::take_reached();
    let words: Vec<String> = counts.into_iter().map(|(name, times)| format!("{name}={times}")).collect();
    Ok(words.join(" "))
}

#[cfg(not(feature = "crash-points"))]
fn reached() -> Result<String> {
    bail!("built without the feature crash-points")
}
