//! What this process knows of SKUs that are split.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::stock::HOME;

/// SKUs remembered, at most; then all are forgotten, which costs each one statement.
const REMEMBERED_MAX: usize = 100_000;

/// One call in so many reads the rows first, to find out if another process has split the SKU. A prime, so that
/// callers who go through their SKUs in turn do not always look at the same ones.
const LOOK_EVERY: u32 = 31;

/// SKUs that are split, or low. Nothing is wrong when this is out of date, because another process has split an
/// SKU or added to it; it takes a statement or two more then.
#[derive(Debug, Default)]
pub(crate) struct Splits {
    known: Mutex<HashMap<String, Split>>,
    calls: AtomicU32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    buckets: u16,
    low: bool,
}

impl Splits {
    /// If this call is one of those that read the rows first. The first one of a process is not.
    pub(crate) fn look_first(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed) % LOOK_EVERY == LOOK_EVERY - 1
    }

    /// A bucket that ought to have plenty, one at random. None: the SKU is low.
    pub(crate) fn pick(&self, sku: &str) -> Option<i16> {
        match self.lock().get(sku) {
            Some(Split { low: true, .. }) => None,
            Some(Split { buckets, .. }) => {
                let lanes = i16::try_from(*buckets).unwrap_or(i16::MAX);
                Some(rand::random_range(-lanes..HOME))
            }
            None => Some(HOME),
        }
    }

    /// Remembers what was read.
    pub(crate) fn learn(&self, sku: &str, buckets: u16, low: bool) {
        let mut known = self.lock();
        let split = Split { buckets, low };
        if buckets <= 1 && !low {
            known.remove(sku);
        } else if known.get(sku) != Some(&split) {
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
            known.insert(sku.to_owned(), split);
        }
    }

    /// Remembers that a lane is low.
    pub(crate) fn low(&self, sku: &str) {
        if let Some(split) = self.lock().get_mut(sku) {
            split.low = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Split>> {
        // Whatever is in it is only a guess.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
