//! A circuit breaker: a participant that does not answer is left in peace for a while, so that a dead one
//! costs the others nothing.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::BreakerState;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row after which it opens. 0: never.
    pub failures_before_open: u32,
    /// How long it stays open before one call may try again.
    pub open_for: Duration,
}

#[derive(Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// While it is open: until when. The first call after that is let through as a probe.
    open_until: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings) -> Self {
        Breaker { settings, state: Mutex::default() }
    }

    /// Whether a call may be made now. A yes while open is the probe: others wait for its result.
    pub(crate) fn admits(&self, now: Instant) -> bool {
        let mut state = self.lock();
        match state.open_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.open_until = Some(now + self.settings.open_for);
                true
            }
        }
    }

    /// Answers whether it was not closed, and is by this.
    pub(crate) fn succeeded(&self) -> bool {
        std::mem::take(&mut *self.lock()).open_until.is_some()
    }

    /// Answers whether it opens by this.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        let limit = self.settings.failures_before_open;
        if limit == 0 || state.failures < limit {
            return false;
        }
        state.open_until.replace(now + self.settings.open_for).is_none()
    }

    /// How many in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.lock().failures
    }

    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        match self.lock().open_until {
            None => BreakerState::Closed,
            Some(until) if now < until => BreakerState::Open,
            Some(_) => BreakerState::HalfOpen,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_failures_in_a_row_lets_one_probe_through_and_closes_on_success() {
        let settings = BreakerSettings { failures_before_open: 3, open_for: Duration::from_secs(1) };
        let (breaker, start) = (Breaker::new(settings), Instant::now());
        breaker.failed(start);
        breaker.failed(start);
        assert!(!breaker.succeeded(), "it was closed");
        breaker.failed(start);
        breaker.failed(start);
        assert!(breaker.admits(start), "a success in between starts the count anew");
        assert_eq!(breaker.state(start), BreakerState::Closed);
        assert!(breaker.failed(start), "opens");
        assert!(!breaker.admits(start));
        assert_eq!(breaker.state(start), BreakerState::Open);
        let later = start + Duration::from_millis(1_001);
        assert_eq!(breaker.state(later), BreakerState::HalfOpen);
        assert!(breaker.admits(later), "the probe");
        assert!(!breaker.admits(later), "others wait for the probe");
        assert!(!breaker.failed(later), "stays open");
        assert!(breaker.succeeded(), "it closes");
        assert_eq!(breaker.state(later), BreakerState::Closed);
        assert!(breaker.admits(later) && breaker.admits(later));
    }

    #[test]
    fn zero_means_no_breaker() {
        let settings = BreakerSettings { failures_before_open: 0, open_for: Duration::from_secs(1) };
        let (breaker, start) = (Breaker::new(settings), Instant::now());
        assert!((0..100).all(|_| !breaker.failed(start)));
        assert!(breaker.admits(start));
    }
}
