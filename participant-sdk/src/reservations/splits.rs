//! What this process knows of SKUs that are split.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::stock::HOME;

/// SKUs remembered, at most; then all are forgotten, which costs each one statement.
const REMEMBERED_MAX: usize = 100_000;

/// SKUs that are split, or low. Nothing is wrong when this is out of date, because another process has split an
/// SKU or added to it; it takes a statement or two more then.
#[derive(Debug, Default)]
pub(crate) struct Splits(Mutex<HashMap<String, Split>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    buckets: u16,
    low: bool,
}

impl Splits {
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
