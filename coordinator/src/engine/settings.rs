//! What the engine can be told. `config` says where each value comes from; this is what it means.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How the engine behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Transactions in memory at the most; past it, [`super::EngineError::TooManyLive`].
    pub live_transactions_max: usize,
    /// Branches of one transaction at the most.
    pub branches_max: usize,
    /// Payload bytes of one transaction at the most.
    pub payload_bytes_max: usize,
    /// Time until an undecided transaction is rolled back, when the initiator does not say.
    pub timeout_default: Duration,
    /// The longest that an initiator may ask for.
    pub timeout_max: Duration,
    /// When failed calls are made again.
    pub backoff: Backoff,
    /// After how many failed phase-two calls a branch is parked; `None`: never.
    pub park_after_attempts: Option<u32>,
    /// What those tenants may have that have limits of their own, by name.
    pub tenants: Arc<HashMap<String, TenantLimits>>,
}

/// What one tenant may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantLimits {
    /// Transactions that have not ended.
    pub live_transactions_max: Option<usize>,
    /// Transactions begun in a second, and so many at once after a while without any.
    pub begins_per_second: Option<u32>,
}

/// Exponential, capped, jittered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Backoff {
    /// How long to wait after `attempts` failures (from 1): between half of and the whole exponential pause,
    /// as `chance` (from 0 to 1) will have it, so that branches that failed together do not come back together.
    pub fn pause(&self, attempts: u32, chance: f64) -> Duration {
        let doublings = attempts.saturating_sub(1).min(31);
        let whole = self.first.saturating_mul(1 << doublings).min(self.max);
        whole.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_never_vanish() {
        let backoff = Backoff { first: Duration::from_millis(50), max: Duration::from_secs(30) };
        for attempts in [1, 2, 5, 10, 31, 32, u32::MAX] {
            let whole =
                Duration::from_millis(50).saturating_mul(1 << (attempts - 1).min(20)).min(backoff.max);
            for chance in [0.0, 0.3, 1.0, f64::MAX] {
                let pause = backoff.pause(attempts, chance);
                assert!(pause <= whole && pause >= whole / 2, "{attempts}: {pause:?}");
            }
        }
    }
}
