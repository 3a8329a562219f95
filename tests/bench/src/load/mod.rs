//! Load, and what comes of it.
//!
//! A closed loop keeps a number of callers busy, each with one transaction at a time. An open loop starts
//! transactions at times that were fixed beforehand, and counts each one's latency from that time: a stall then
//! shows in every transaction that should have started meanwhile, and not only in those that were under way
//! (coordinated omission).

mod closed;
mod open;
mod through;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use concord_proto::v1::GetStatusRequest;
use concord_proto::v1::operator_client::OperatorClient;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hdrhistogram::Histogram;
use tonic::transport::Channel;

pub(crate) use open::{Arrivals, Schedule};
pub(crate) use through::{Through, through, through_each};

/// Runs one transaction after the other.
pub(crate) trait Caller: Send + 'static {
    /// Runs one transaction to its end. That it did not commit is an error.
    fn call(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// What is asked of callers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) shape: Shape,
    /// No transaction starts after this time.
    pub(crate) span: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// So many callers, all the time.
    Closed(usize),
    /// All callers there are, at the times of these arrivals.
    Open(Arrivals),
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) transactions: u64,
    /// Until the last one had ended.
    pub(crate) elapsed: Duration,
    /// Of each transaction, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// Of the coordinator's log, where there is one.
    pub(crate) syncs: Option<u64>,
}

impl Run {
    pub(crate) fn per_second(&self) -> f64 {
        self.transactions as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn ms(&self, quantile: f64) -> f64 {
        ms(&self.latency, quantile)
    }
}

/// A quantile of a histogram of microseconds, in milliseconds.
pub(crate) fn ms(latency: &Histogram<u64>, quantile: f64) -> f64 {
    latency.value_at_quantile(quantile) as f64 / 1_000.0
}

/// One of those that take part in a contest.
pub(crate) trait Target: Send {
    fn name(&self) -> &str;
    fn run(&mut self, load: Load) -> BoxFuture<'_, Result<Run>>;
}

/// Callers of one kind.
pub(crate) struct Callers<C> {
    name: String,
    callers: Vec<C>,
    log: Log,
}

/// Whose syncs are counted.
enum Log {
    Nobodys,
    /// Of these coordinators.
    Of(Vec<OperatorClient<Channel>>),
    /// Of a log in this process; answers how many there were so far.
    Here(Box<dyn Fn() -> u64 + Send + Sync>),
}

impl<C: Caller> Callers<C> {
    pub(crate) fn new(name: &str, callers: Vec<C>) -> Self {
        Callers { name: name.to_owned(), callers, log: Log::Nobodys }
    }

    /// Counts the syncs of a log in this process, of which `syncs` answers how many there were so far.
    pub(crate) fn counting(self, syncs: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Callers { log: Log::Here(Box::new(syncs)), ..self }
    }

    async fn apply(&mut self, load: Load) -> Result<Run> {
        let syncs = self.syncs().await?;
        let mut run = match load.shape {
            Shape::Closed(callers) => closed::run(&mut self.callers, callers, load.span).await?,
            Shape::Open(arrivals) => open::run(&mut self.callers, arrivals, load.span).await?,
        };
        ensure!(run.transactions > 0, "{}: nothing ended in {:?}", self.name, load.span);
        run.syncs = self.syncs().await?.zip(syncs).map(|(after, before)| after - before);
        Ok(run)
    }

    async fn syncs(&mut self) -> Result<Option<u64>> {
        Ok(match &mut self.log {
            Log::Nobodys => None,
            Log::Of(operators) => {
                let mut syncs = 0;
                for operator in operators {
                    syncs += operator.get_status(GetStatusRequest {}).await?.into_inner().log_syncs;
                }
                Some(syncs)
            }
            Log::Here(syncs) => Some(syncs()),
        })
    }
}

impl<C: Caller> Target for Callers<C> {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&mut self, load: Load) -> BoxFuture<'_, Result<Run>> {
        self.apply(load).boxed()
    }
}

/// When transactions are to start.
trait Starts: Clone + Send + 'static {
    /// Waits for the next one and answers the time from which it counts; `None` when there is none any more.
    fn next(&self) -> impl Future<Output = Option<Instant>> + Send;
}

/// Lets the callers work until there are no more starts, and gives them back.
async fn work<C: Caller, S: Starts>(callers: &mut Vec<C>, count: usize, starts: &S) -> Result<Run> {
    ensure!(count <= callers.len(), "{count} callers are wanted, {} are there", callers.len());
    let begun = Instant::now();
    let workers = callers.drain(..count).map(|mut caller| {
        let starts = starts.clone();
        tokio::spawn(async move {
            let mut latency = histogram()?;
            while let Some(start) = starts.next().await {
                caller.call().await?;
                latency.record(u64::try_from(start.elapsed().as_micros())?)?;
            }
            anyhow::Ok((caller, latency))
        })
    });
    let mut latency = histogram()?;
    for worker in workers.collect::<Vec<_>>() {
        let (caller, of_one) = worker.await.context("a caller died")??;
        latency.add(of_one)?;
        callers.push(caller);
    }
    Ok(Run { transactions: latency.len(), elapsed: begun.elapsed(), latency, syncs: None })
}

/// Of microseconds, to three digits.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new(3)?)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Hands out these.
    #[derive(Clone)]
    struct Given(Arc<Mutex<Vec<Instant>>>);

    impl Starts for Given {
        async fn next(&self) -> Option<Instant> {
            self.0.lock().unwrap().pop()
        }
    }

    struct Idle;

    impl Caller for Idle {
        async fn call(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn latency_counts_from_the_start_that_was_intended() {
        let late = Duration::from_secs(2);
        let intended = Instant::now().checked_sub(late).unwrap();
        let starts = Given(Arc::new(Mutex::new(vec![intended; 3])));
        let run = work(&mut vec![Idle, Idle], 2, &starts).await.unwrap();
        assert_eq!(run.transactions, 3);
        // A bucket of the histogram is a thousandth wide.
        assert!(run.latency.min() as f64 >= late.as_micros() as f64 * 0.999, "{}", run.latency.min());
    }

    #[test]
    fn quantiles_are_in_milliseconds() {
        let mut latency = histogram().unwrap();
        for us in 1..=1_000 {
            latency.record(us).unwrap();
        }
        assert!((ms(&latency, 0.5) - 0.5).abs() < 0.001, "{}", ms(&latency, 0.5));
        assert!((ms(&latency, 0.99) - 0.99).abs() < 0.001, "{}", ms(&latency, 0.99));
    }

    #[tokio::test]
    async fn callers_that_are_not_there_are_an_error() {
        let starts = Given(Arc::default());
        assert!(work(&mut vec![Idle], 2, &starts).await.is_err());
    }
}
