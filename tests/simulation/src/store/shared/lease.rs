//! A coordinator's lease, as it counts it itself (as `coordinator/src/store/sql/lease.rs`).

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::Problem;
use crate::mutant::Mutant;
use crate::world::{World, locked};

/// Until when others leave this coordinator alone at least, by its monotonic clock: counted from before the renewal was
/// sent, while the database counts from when it was made.
#[derive(Debug)]
pub(super) struct Lease {
    number: u8,
    lasts: Duration,
    until: Mutex<Until>,
}

#[derive(Debug, Clone, Copy)]
struct Until {
    monotonic: Instant,
    /// With [`Mutant::LeaseByWallClock`] only.
    wall_ms: u64,
}

impl Lease {
    /// Of this coordinator, from now on.
    pub(super) fn new(world: &World, number: u8) -> Self {
        let lasts = Duration::from_millis(world.scenario.coordinator.lease_ms);
        let until = Mutex::new(Until { monotonic: Instant::now(), wall_ms: 0 });
        let lease = Lease { number, lasts, until };
        lease.renewed(lease.now(world));
        lease
    }

    /// To be told to [`Self::renewed`], if the renewal that is sent now is made.
    pub(super) fn now(&self, world: &World) -> (Instant, u64) {
        (Instant::now(), world.coordinator(self.number).wall_ms(world))
    }

    pub(super) fn renewed(&self, (start, wall_ms): (Instant, u64)) {
        let lasts_ms = u64::try_from(self.lasts.as_millis()).unwrap_or(u64::MAX);
        *locked(&self.until) = Until { monotonic: start + self.lasts, wall_ms: wall_ms + lasts_ms };
    }

    pub(super) fn is_held(&self, world: &World) -> bool {
        Instant::now() < self.until(world)
    }

    /// Waits no longer than the lease lasts.
    pub(super) async fn while_held<T>(
        &self,
        world: &World,
        work: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        match tokio::time::timeout_at(self.until(world), work).await {
            Ok(result) => result,
            Err(_) => Err(Problem::Silent),
        }
    }

    fn until(&self, world: &World) -> Instant {
        let Until { monotonic, wall_ms } = *locked(&self.until);
        if world.has(Mutant::LeaseByWallClock) {
            let now_ms = world.coordinator(self.number).wall_ms(world);
            return Instant::now() + Duration::from_millis(wall_ms.saturating_sub(now_ms));
        }
        monotonic
    }
}
