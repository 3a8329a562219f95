//! Many random orders at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;
use tokio::task::JoinSet;

use super::catalog::{HOT, PRICES};
use super::customer::Customer;
use super::part::Part;
use super::record::Outcome;
use super::stage::Stage;
use crate::order::desk::Wish;

/// How many of an SKU that is not hot one order is about, at most.
const QTY_MAX: i64 = 3;

/// How much is to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Orders in all.
    pub orders: u64,
    /// At the same time.
    pub buyers: u32,
    /// For the random numbers.
    pub seed: u64,
    /// Kill the coordinator and the stock service in the middle.
    pub chaos: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Storm {
    /// Orders asked for.
    pub orders: u64,
    /// At the same time.
    pub buyers: u32,
    /// For the same orders again.
    pub seed: u64,
    /// Orders that stand.
    pub placed: u64,
    /// Orders refused.
    pub refused: u64,
    /// Of these, for want of stock; the rest for want of money.
    pub refused_for_stock: u64,
    /// Requests repeated because it was not known what had come of them.
    pub requests_repeated: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Orders per second, refused ones included.
    pub orders_per_second: f64,
    /// Orders that stand, per second.
    pub placed_per_second: f64,
    /// Of orders that stand, from the first request to the answer, by when everything was delivered.
    pub latency_ms: Latency,
    /// Syncs of the coordinator's log per order; absent when the coordinator was killed meanwhile.
    pub log_syncs_per_order: Option<f64>,
}

/// Milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    /// Half were quicker.
    pub p50: f64,
    /// 99 of 100 were quicker.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// What the buyers share.
struct Shared {
    customer: Arc<Customer>,
    load: Load,
    next: AtomicU64,
    bar: ProgressBar,
}

/// What one buyer has seen.
struct Seen {
    outcomes: Vec<Outcome>,
    latency_us: Histogram<u64>,
}

/// Places the orders, and adds what customers were told to the record.
///
/// # Errors
/// When an order ends neither placed nor refused.
pub(crate) async fn run(stage: &mut Stage, load: Load, record: &mut Vec<Outcome>) -> Result<Storm> {
    let customer = Arc::clone(&stage.customer);
    let (log_before, repeats_before) = (stage.observer.status().await?, customer.repeats());
    let bar = ProgressBar::new(load.orders).with_style(style()?);
    let shared = Arc::new(Shared { customer, load, next: AtomicU64::new(0), bar });
    let started = Instant::now();
    let mut buyers = JoinSet::new();
    for user in 1..=load.buyers {
        buyers.spawn(buy(Arc::clone(&shared), user));
    }
    let (seen, ()) = tokio::try_join!(gather(buyers), disturb(stage, &shared))?;
    let seconds = started.elapsed().as_secs_f64();
    shared.bar.finish_and_clear();
    let placed = seen.outcomes.iter().filter(|outcome| outcome.order.is_some()).count() as u64;
    let short = seen.outcomes.iter().filter(|outcome| outcome.reason.starts_with("not enough of"));
    let refused_for_stock = short.count() as u64;
    let log_after = stage.observer.status().await?;
    let syncs = || (log_after.log_syncs - log_before.log_syncs) as f64 / load.orders as f64;
    let latency = |quantile| seen.latency_us.value_at_quantile(quantile) as f64 / 1_000.0;
    record.extend(seen.outcomes);
    let Load { orders, buyers, seed, .. } = load;
    Ok(Storm {
        orders,
        buyers,
        seed,
        placed,
        refused: orders - placed,
        refused_for_stock,
        requests_repeated: stage.customer.repeats() - repeats_before,
        seconds,
        orders_per_second: orders as f64 / seconds,
        placed_per_second: placed as f64 / seconds,
        latency_ms: Latency { p50: latency(0.5), p99: latency(0.99), max: latency(1.0) },
        log_syncs_per_order: (log_after.epoch == log_before.epoch).then(syncs),
    })
}

async fn gather(mut buyers: JoinSet<Result<Seen>>) -> Result<Seen> {
    let mut all = Seen { outcomes: Vec::new(), latency_us: Histogram::new(3)? };
    while let Some(buyer) = buyers.join_next().await {
        let seen = buyer.context("a buyer died")??;
        all.outcomes.extend(seen.outcomes);
        all.latency_us.add(&seen.latency_us)?;
    }
    Ok(all)
}

/// Places one order after the other, until there are no more to place.
async fn buy(shared: Arc<Shared>, user: u32) -> Result<Seen> {
    let mut seen = Seen { outcomes: Vec::new(), latency_us: Histogram::new(3)? };
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= shared.load.orders {
            return Ok(seen);
        }
        let started = Instant::now();
        let outcome = shared.customer.order(&random_wish(shared.load.seed, number, user)).await?;
        if outcome.order.is_some() {
            seen.latency_us.record(u64::try_from(started.elapsed().as_micros())?)?;
        }
        seen.outcomes.push(outcome);
        shared.bar.inc(1);
    }
}

fn random_wish(seed: u64, number: u64, user: u32) -> Wish {
    let mut random = StdRng::seed_from_u64(seed.wrapping_add(number));
    let (sku, qty) = match random.random() {
        true => (HOT, 1),
        false => (PRICES[random.random_range(..PRICES.len() - 1)].0, random.random_range(1..=QTY_MAX)),
    };
    Wish { sku: sku.to_owned(), qty, user, request_id: Some(format!("random-{number}")) }
}

/// With `--chaos`: kills the coordinator after a third of the orders, the stock service after two thirds.
async fn disturb(stage: &mut Stage, shared: &Shared) -> Result<()> {
    if !shared.load.chaos {
        return Ok(());
    }
    let Load { orders, .. } = shared.load;
    reached(shared, orders / 3).await;
    stage.coordinator.kill9()?;
    shared.bar.set_message("coordinator killed -9");
    stage.coordinator.start().await?;
    shared.bar.set_message("coordinator back");
    reached(shared, orders * 2 / 3).await;
    let stock = &mut stage.parts[Part::Stock.index()].process;
    stock.kill9()?;
    shared.bar.set_message("stock service killed -9");
    stock.start().await?;
    shared.bar.set_message("stock service back");
    Ok(())
}

async fn reached(shared: &Shared, count: u64) {
    while shared.bar.position() < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn style() -> Result<ProgressStyle> {
    let template = "   {bar:40} {human_pos}/{human_len} orders  {per_sec}  {msg}";
    Ok(ProgressStyle::with_template(template)?)
}
