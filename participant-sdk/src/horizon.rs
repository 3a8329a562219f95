//! How old a branch may be, so that rows of the barrier table can be purged.
//!
//! A row keeps duplicates of its branch's calls out for as long as it is there. Before it is purged, something else
//! must: so no branch begins any more whose gtid is older than every row that may have been purged. Age is measured
//! by the coordinator's clock against itself, as it stands in the gtids: how much older one is than the newest in the
//! table. The clocks of this machine and of the database play no part.
//!
//! - A row may go when its gtid is `retention` older than the newest in the table, and the coordinator says that the
//!   transaction has ended, on every branch: it will not call about it again, but a call of its may still be under
//!   way somewhere.
//! - A branch is refused when its gtid is `retention`, less a margin, older than the newest. The margin is for
//!   processes on the same table, of which each refreshes what it knows as the newest when it purges: one that
//!   knows it later than the other by less than the margin still refuses everything that the other has purged.
//! - Neither is done to gtids of an epoch after the newest one's: a coordinator whose clock was ahead, and that has
//!   been restarted with the right time, goes on where nothing was purged.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use concord_protocol::{Epoch, Gtid};

/// A transaction lasts for 24 hours at most, and the margin is one.
pub(crate) const RETENTION: Duration = Duration::from_secs(25 * 3_600);
/// What the margin is of the retention.
const MARGIN_PART: u32 = 25;

/// How old a branch may be.
#[derive(Debug)]
pub(crate) struct Horizon {
    retention: Duration,
    /// The newest gtid that the barrier table is known to have held.
    newest: Mutex<Option<Gtid>>,
}

impl Default for Horizon {
    fn default() -> Self {
        Horizon::new(RETENTION)
    }
}

impl Horizon {
    pub(crate) fn new(retention: Duration) -> Self {
        Horizon { retention, newest: Mutex::default() }
    }

    /// Takes note of a gtid in the table.
    pub(crate) fn see(&self, gtid: Gtid) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.is_none_or(|known| known.unix_ms() < gtid.unix_ms()) {
            *newest = Some(gtid);
        }
    }

    /// Why a branch is too old to begin, if it is.
    pub(crate) fn too_old(&self, gtid: Gtid) -> Option<String> {
        let newest = (*self.newest.lock().unwrap_or_else(PoisonError::into_inner))?;
        let limit = self.retention - self.retention / MARGIN_PART;
        if gtid.epoch() > newest.epoch() || age(gtid, newest) <= limit {
            return None;
        }
        Some(format!(
            "too old: begun {} s before the newest transaction known here",
            age(gtid, newest).as_secs()
        ))
    }

    /// Below this, rows may go; those of an epoch after `newest`'s not. None: there are none below.
    pub(crate) fn bound(&self, newest: Gtid) -> Option<Gtid> {
        let retention_ms = u64::try_from(self.retention.as_millis()).ok()?;
        let ms = newest.unix_ms().checked_sub(retention_ms)?;
        Some(Gtid::compose(ms, Epoch(0), 0))
    }
}

/// How much older than `newest`.
fn age(gtid: Gtid, newest: Gtid) -> Duration {
    Duration::from_millis(newest.unix_ms().saturating_sub(gtid.unix_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;
    const T: u64 = 1_700_000_000_000;

    fn gtid(ms: u64, epoch: u32) -> Gtid {
        Gtid::compose(ms, Epoch(epoch), 1)
    }

    #[test]
    fn whatever_may_have_been_purged_is_refused_and_a_margin_more() {
        let horizon = Horizon::default();
        assert_eq!(horizon.too_old(gtid(0, 1)), None, "nothing is known, nothing was purged");
        horizon.see(gtid(T, 1));
        let bound = horizon.bound(gtid(T, 1)).unwrap();
        assert_eq!(bound.unix_ms(), T - 25 * HOUR_MS);
        assert!(gtid(bound.unix_ms(), 1) >= bound && gtid(bound.unix_ms() - 1, u32::MAX) < bound);
        assert!(horizon.too_old(gtid(T - 24 * HOUR_MS - 1, 1)).is_some());
        assert_eq!(horizon.too_old(gtid(T - 24 * HOUR_MS, 1)), None, "the longest time-out");
        // What another process may have purged that knows a newest one of almost an hour later.
        let others = horizon.bound(gtid(T + HOUR_MS, 1)).unwrap();
        assert!(horizon.too_old(gtid(others.unix_ms() - 1, 1)).is_some());
    }

    #[test]
    fn the_newest_only_grows() {
        let horizon = Horizon::default();
        horizon.see(gtid(T, 1));
        horizon.see(gtid(1, 1));
        assert!(horizon.too_old(gtid(1, 1)).is_some());
    }

    #[test]
    fn a_coordinator_restarted_with_its_clock_set_back_is_not_locked_out() {
        let horizon = Horizon::default();
        horizon.see(gtid(T + 1_000 * HOUR_MS, 1));
        assert!(horizon.too_old(gtid(T, 1)).is_some());
        assert_eq!(horizon.too_old(gtid(T, 2)), None);
    }
}
