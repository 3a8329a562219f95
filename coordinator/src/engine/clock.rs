//! Time: monotonic for deadlines, wall clock for history, and the two together for gtids.

use std::sync::Mutex;
use std::time::Duration;

use concord_protocol::{Epoch, Gtid, Millis};

use tokio::time::Instant;

use crate::store::UnixMillis;

/// The coordinator's clock. Its zero point is the start of the process.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Clock { start: Instant::now() }
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

    /// A gtid greater than any before it in this epoch. The pair (time, sequence) only grows, also when the
    /// wall clock goes back: that is what makes it unique.
    pub(crate) fn issue(&self) -> Gtid {
        let UnixMillis(now) = UnixMillis::now();
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
        let issued: Vec<Gtid> = (0..10_000).map(|_| issuer.issue()).collect();
        assert!(issued.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(issued.iter().all(|gtid| gtid.epoch() == Epoch(3)));
    }

    #[test]
    fn gtids_grow_while_the_clock_stands_in_the_past() {
        let issuer = GtidIssuer::new(Epoch(3));
        let far = 1 << 47;
        *issuer.last.lock().unwrap() = (far, Gtid::SEQUENCE_MAX);
        let (first, second) = (issuer.issue(), issuer.issue());
        assert_eq!(first, Gtid::compose(far + 1, Epoch(3), 0));
        assert_eq!(second, Gtid::compose(far + 1, Epoch(3), 1));
    }
}
