//! Closed-loop load: so many callers, each with one transaction at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{ExecuteRequest, TransactionState};
use hdrhistogram::Histogram;
use tonic::transport::Channel;

/// What came of it.
pub(crate) struct Run {
    pub(crate) per_second: f64,
    /// Of each transaction, in microseconds.
    pub(crate) latency: Histogram<u64>,
}

/// Runs every request through the coordinator, `concurrency` at a time. All must commit.
pub(crate) async fn execute(
    client: &CoordinatorClient<Channel>,
    concurrency: usize,
    requests: Vec<ExecuteRequest>,
) -> Result<Run> {
    let count = requests.len();
    let left = Arc::new(AtomicUsize::new(count));
    let requests = Arc::new(requests);
    let start = Instant::now();
    let workers = (0..concurrency).map(|_| {
        let (left, requests, mut client) = (Arc::clone(&left), Arc::clone(&requests), client.clone());
        tokio::spawn(async move {
            let mut latency = Histogram::<u64>::new(3)?;
            while let Ok(number) =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            {
                let sent = Instant::now();
                let done = client.execute(requests[number - 1].clone()).await?.into_inner();
                latency.record(u64::try_from(sent.elapsed().as_micros())?)?;
                let transaction = done.transaction.unwrap_or_default();
                ensure!(transaction.state() == TransactionState::Committed, "not committed: {transaction:?}");
            }
            Ok(latency)
        })
    });
    let mut latency = Histogram::<u64>::new(3)?;
    for worker in workers.collect::<Vec<_>>() {
        latency.add(worker.await??)?;
    }
    Ok(Run { per_second: count as f64 / start.elapsed().as_secs_f64(), latency })
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
