//! How many transactions each tenant begins in a second.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use concord_protocol::Millis;

/// One bucket for each tenant: it fills as time passes, and holds a second's worth.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<String, Bucket>>);

#[derive(Debug)]
struct Bucket {
    /// In thousandths of a transaction.
    filled: u64,
    at: Millis,
}

impl Rates {
    /// Whether one more may begin now.
    pub(crate) fn take(&self, tenant: &str, per_second: u32, now: Millis) -> bool {
        const ONE: u64 = 1_000;
        let full = u64::from(per_second) * ONE;
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(tenant) {
            buckets.insert(tenant.to_owned(), Bucket { filled: full, at: now });
        }
        let Some(bucket) = buckets.get_mut(tenant) else { return true };
        // A thousandth of a second's worth in each millisecond.
        let since = now.0.saturating_sub(bucket.at.0).saturating_mul(per_second.into());
        bucket.filled = bucket.filled.saturating_add(since).min(full);
        bucket.at = now;
        match bucket.filled.checked_sub(ONE) {
            Some(left) => {
                bucket.filled = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_in_a_second_and_no_tenant_at_the_cost_of_another() {
        let rates = Rates::default();
        let at = |tenant, ms| (0..100).filter(|_| rates.take(tenant, 10, Millis(ms))).count();
        assert_eq!(at("shop", 0), 10, "a second's worth at once");
        assert_eq!(at("shop", 99), 0);
        assert_eq!(at("shop", 100), 1);
        assert_eq!(at("bank", 100), 10);
        assert_eq!(at("shop", 600), 5);
        assert_eq!(at("shop", 1_000_000), 10, "what was not used is not saved up");
        let steady: usize = (1..=1_000).map(|ms| usize::from(rates.take("slow", 3, Millis(ms)))).sum();
        assert_eq!(steady, 3 + 2, "what it began with, and what came in 999 ms");
        assert!(!Rates::default().take("none", 0, Millis(5)));
    }
}
