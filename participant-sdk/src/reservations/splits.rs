//! What this process knows of SKUs that are split.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// SKUs remembered, at most; then all are forgotten, which costs each one statement.
const REMEMBERED_MAX: usize = 100_000;

/// Numbers of buckets, of the SKUs that have more than one.
///
/// Another process may split an SKU at any time. To rely on a number that is out of date does no harm: each row
/// knows it too, and an UPDATE that was made for another number matches no row.
#[derive(Debug, Default)]
pub(crate) struct Splits(Mutex<HashMap<String, u16>>);

impl Splits {
    /// Into how many buckets an SKU is split, as far as is known.
    pub(crate) fn of(&self, sku: &str) -> u16 {
        self.lock().get(sku).copied().unwrap_or(1)
    }

    /// Remembers what was read.
    pub(crate) fn learn(&self, sku: &str, buckets: u16) {
        let mut known = self.lock();
        if buckets <= 1 {
            known.remove(sku);
        } else if known.get(sku) != Some(&buckets) {
            if known.len() >= REMEMBERED_MAX {
                known.clear();
            }
            known.insert(sku.to_owned(), buckets);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, u16>> {
        // Whatever is in it is only a guess.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
