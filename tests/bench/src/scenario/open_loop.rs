//! Latency under load that does not wait: arrivals at a fixed rate, which both sides can bear.

use anyhow::Result;

use crate::contest::contest;
use crate::load::{Arrivals, Load, Shape, Target};
use crate::outcome::Outcome;
use crate::processor_time::Watched;
use crate::setup::Setup;

/// Of what closed loops have reached.
const SHARE: f64 = 0.6;

/// The p99 of ours against that of a baseline, both at a share of `per_second`, which the slower one has reached in a
/// closed loop.
///
/// # Errors
/// Those of the callers.
pub(super) async fn open_loop(
    setup: &Setup,
    name: &str,
    targets: [&mut dyn Target; 2],
    per_second: f64,
    watched: &Watched,
) -> Result<Outcome> {
    let per_second = (per_second * SHARE).floor();
    let arrivals = Arrivals { per_second, schedule: setup.arrivals };
    let load = Load { shape: Shape::Open(arrivals), span: setup.span() * 2 };
    let what = format!("{name}, open loop");
    let [ours, baseline] = contest(setup, &what, targets, load, setup.rounds_of_a_point(), watched).await?;
    let name = format!("{name}, p99, open loop at {per_second:.0}/s");
    Outcome::latency(&name, 0.99, &ours, &baseline)
}
