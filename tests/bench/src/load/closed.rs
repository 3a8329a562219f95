//! So many callers, each of which starts a transaction when its last one has ended.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Caller, Run, Starts, work};

/// Keeps `count` of the callers busy for `span`.
pub(super) async fn run<C: Caller>(callers: &mut Vec<C>, count: usize, span: Duration) -> Result<Run> {
    work(callers, count, &Until(Instant::now() + span)).await
}

#[derive(Clone, Copy)]
struct Until(Instant);

impl Starts for Until {
    async fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        (now < self.0).then_some(now)
    }
}
