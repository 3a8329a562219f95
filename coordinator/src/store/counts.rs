//! What a store counts and measures of its log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Counters;
use crate::metrics::{LogMetrics, Metrics};

/// See [`Counters`].
#[derive(Debug, Default)]
pub(in crate::store) struct Counts {
    syncs: AtomicU64,
    records: AtomicU64,
    commits: AtomicU64,
    metrics: Arc<LogMetrics>,
}

impl Counts {
    pub(in crate::store) fn new(metrics: &Metrics) -> Arc<Self> {
        Arc::new(Counts { metrics: Arc::clone(&metrics.log), ..Counts::default() })
    }

    pub(in crate::store) fn add(&self, more: Counters) {
        self.syncs.fetch_add(more.syncs, Ordering::Relaxed);
        self.records.fetch_add(more.records, Ordering::Relaxed);
        self.commits.fetch_add(more.commits, Ordering::Relaxed);
    }

    /// One commit has written so many records.
    pub(in crate::store) fn measure_batch(&self, records: usize) {
        self.metrics.batch.observe(records as f64);
    }

    /// One sync has taken so long.
    pub(in crate::store) fn measure_sync(&self, span: Duration) {
        self.metrics.sync.observe(span.as_secs_f64());
    }
}

impl From<&Counts> for Counters {
    fn from(counts: &Counts) -> Self {
        Counters {
            syncs: counts.syncs.load(Ordering::Relaxed),
            records: counts.records.load(Ordering::Relaxed),
            commits: counts.commits.load(Ordering::Relaxed),
        }
    }
}
