//! Time: monotonic for deadlines, wall clock for history, and the two together for gtids.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use concord_protocol::{Epoch, Gtid, Millis};
use rand::RngExt as _;
use tokio::time::Instant;

use crate::store::UnixMillis;

/// What the engine takes from the machine that it runs on, besides tokio's clock. A simulation brings its own,
/// so that one seed gives one run.
pub trait Surroundings: Send + Sync + 'static {
    /// The wall clock's time. May jump, in both directions.
    fn wall_clock(&self) -> UnixMillis;

    /// A random number from 0 to 1, drawn anew by each call. Spreads retries; nothing rests on its quality.
    fn chance(&self) -> f64;
}

/// The machine's own wall clock and random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine;

impl Surroundings for Machine {
    fn wall_clock(&self) -> UnixMillis {
        UnixMillis::now()
    }

    fn chance(&self) -> f64 {
        rand::rng().random_range(0.0..=1.0)
    }
}

/// The coordinator's clock. Its zero point is the start of the process.
pub(crate) struct Clock {
    start: Instant,
    surroundings: Arc<dyn Surroundings>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("start", &self.start).finish_non_exhaustive()
    }
}

impl Clock {
    pub(crate) fn start(surroundings: Arc<dyn Surroundings>) -> Self {
        Clock { start: Instant::now(), surroundings }
    }

    /// The wall clock's time, for history and for the choice of new gtids.
    pub(crate) fn wall(&self) -> UnixMillis {
        self.surroundings.wall_clock()
    }

    /// See [`Surroundings::chance`].
    pub(crate) fn chance(&self) -> f64 {
        self.surroundings.chance()
    }

    /// Monotonic: deadlines are measured by this, so a change of the wall clock moves none.
    pub(crate) fn now(&self) -> Millis {
        Millis::from(self.start.elapsed())
    }

    /// When a point of [`Clock::now`] is, for a timer.
    pub(crate) fn instant(&self, at: Millis) -> Instant {
        // Saturates: a deadline beyond what the clock can hold is as good as none.
        let far = Duration::from_secs(u64::from(u32::MAX));
        self.start + Duration::from(at).min(far)
    }
}

/// Issues gtids of one epoch.
#[derive(Debug)]
pub(crate) struct GtidIssuer {
    epoch: Epoch,
    last: Mutex<(u64, u64)>,
}

impl GtidIssuer {
    pub(crate) fn new(epoch: Epoch) -> Self {
        GtidIssuer { epoch, last: Mutex::new((0, 0)) }
    }

    /// A gtid greater than any before it in this epoch, at the wall clock's time. The pair (time, sequence)
    /// only grows, also when the wall clock goes back: that is what makes it unique.
    pub(crate) fn issue(&self, UnixMillis(now): UnixMillis) -> Gtid {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = match *last {
            (ms, _) if now > ms => (now, 0),
            (ms, Gtid::SEQUENCE_MAX) => (ms + 1, 0),
            (ms, sequence) => (ms, sequence + 1),
        };
        Gtid::compose(last.0, self.epoch, last.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gtids_only_grow() {
        let issuer = GtidIssuer::new(Epoch(3));
        let issued: Vec<Gtid> = (0..10_000).map(|_| issuer.issue(UnixMillis::now())).collect();
        assert!(issued.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(issued.iter().all(|gtid| gtid.epoch() == Epoch(3)));
    }

    #[test]
    fn gtids_grow_while_the_clock_stands_in_the_past() {
        let issuer = GtidIssuer::new(Epoch(3));
        let far = 1 << 47;
        *issuer.last.lock().unwrap() = (far, Gtid::SEQUENCE_MAX);
        let (first, second) = (issuer.issue(UnixMillis::now()), issuer.issue(UnixMillis::now()));
        assert_eq!(first, Gtid::compose(far + 1, Epoch(3), 0));
        assert_eq!(second, Gtid::compose(far + 1, Epoch(3), 1));
    }
}
