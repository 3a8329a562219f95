//! Time: monotonic for deadlines, wall clock for history, and the two together for gtids.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
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

    /// Random bits, drawn anew by each call, that nobody can work out from those before.
    fn unguessable(&self) -> u64;
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

    fn unguessable(&self) -> u64 {
        // Made for secrets: ChaCha, seeded by the system.
        rand::rng().random()
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

    /// See [`Surroundings::unguessable`].
    pub(crate) fn unguessable(&self) -> u64 {
        self.surroundings.unguessable()
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

/// The highest sequence that the first gtid of a millisecond gets: half of them, so that the other half is left for those
/// that follow.
const START_MAX: u64 = Gtid::SEQUENCE_MAX / 2;
/// The longest step from one gtid of a millisecond to the next: 2^24, so that the other half is enough for 131,072 of them.
const STEP_MAX: u64 = 1 << 24;

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
    ///
    /// Who knows a gtid may ask for it, take part in it and vote, so that nobody shall find one by counting on from
    /// another: a millisecond begins at a random sequence and goes on in random steps (RFC 9562, 6.2, method 2).
    pub(crate) fn issue(&self, clock: &Clock) -> Gtid {
        let (UnixMillis(now), random) = (clock.wall(), clock.unguessable());
        let (start, step) = (random % (START_MAX + 1), 1 + random % STEP_MAX);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = match *last {
            (ms, _) if now > ms => (now, start),
            (ms, sequence) if sequence > Gtid::SEQUENCE_MAX - step => (ms + 1, start),
            (ms, sequence) => (ms, sequence + step),
        };
        Gtid::compose(last.0, self.epoch, last.1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// A wall clock that stands.
    struct Standing(u64);

    impl Surroundings for Standing {
        fn wall_clock(&self) -> UnixMillis {
            UnixMillis(self.0)
        }

        fn chance(&self) -> f64 {
            Machine.chance()
        }

        fn unguessable(&self) -> u64 {
            Machine.unguessable()
        }
    }

    fn sequence(gtid: Gtid) -> u64 {
        u128::from_be_bytes(gtid.to_bytes()) as u64 & Gtid::SEQUENCE_MAX
    }

    #[test]
    fn gtids_only_grow() {
        let (issuer, clock) = (GtidIssuer::new(Epoch(3)), Clock::start(Arc::new(Machine)));
        let issued: Vec<Gtid> = (0..10_000).map(|_| issuer.issue(&clock)).collect();
        assert!(issued.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(issued.iter().all(|gtid| gtid.epoch() == Epoch(3)));
    }

    #[test]
    fn gtids_grow_while_the_clock_stands_in_the_past() {
        let (issuer, clock) = (GtidIssuer::new(Epoch(3)), Clock::start(Arc::new(Machine)));
        let far = 1 << 47;
        *issuer.last.lock().unwrap() = (far, Gtid::SEQUENCE_MAX);
        let (first, second) = (issuer.issue(&clock), issuer.issue(&clock));
        assert_eq!((first.unix_ms(), second.unix_ms()), (far + 1, far + 1));
        assert!(first < second);
    }

    #[test]
    fn a_millisecond_holds_as_many_as_can_be_begun_in_it() {
        let (issuer, clock) = (GtidIssuer::new(Epoch(3)), Clock::start(Arc::new(Standing(7))));
        assert!((0..=START_MAX / STEP_MAX).all(|_| issuer.issue(&clock).unix_ms() == 7));
    }

    #[test]
    fn nobody_finds_a_gtid_by_counting_on_from_another() {
        let clock = Clock::start(Arc::new(Standing(7)));
        let starts: HashSet<u64> =
            (0..100).map(|_| sequence(GtidIssuer::new(Epoch(3)).issue(&clock))).collect();
        assert_eq!(starts.len(), 100, "of 100 out of 2^41");
        let issuer = GtidIssuer::new(Epoch(3));
        let issued: Vec<u64> = (0..101).map(|_| sequence(issuer.issue(&clock))).collect();
        let steps: HashSet<u64> = issued.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.len() > 95, "of 100 out of 2^24: {}", steps.len());
    }
}
