//! Many random transfers at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use concord_proto::v1::{Transaction, Wait};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::task::JoinSet;

use super::account::{Account, Bank, Transfer};
use super::initiator::Initiator;
use super::record::Outcome;
use super::stage::Stage;
use crate::bank::{INSUFFICIENT_FUNDS, OPENING_BALANCE};

/// Amounts go a little above what is in an account at first, so that some transfers are refused.
const AMOUNT_MAX: i64 = OPENING_BALANCE + OPENING_BALANCE / 10;
/// Times that a transfer is tried anew when it was rolled back for another reason than a lack of money: as a
/// rule two transfers that wait for each other's accounts at two banks, which only a time-out ends.
const ANEW_MAX: u32 = 10;

/// How much is to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Transfers in all.
    pub transfers: u64,
    /// At the same time.
    pub concurrency: u64,
    /// At each bank.
    pub accounts: u32,
    /// Kill the coordinator and a bank in the middle.
    pub chaos: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Storm {
    /// Transfers asked for.
    pub transfers: u64,
    /// At the same time.
    pub concurrency: u64,
    /// Transfers that happened.
    pub committed: u64,
    /// Transfers refused for lack of funds.
    pub refused: u64,
    /// Transactions rolled back for another reason, and tried anew.
    pub tried_anew: u64,
    /// Calls whose outcome was unknown, repeated with the same idempotency key.
    pub calls_repeated: u64,
    /// From the first call to the last answer.
    pub seconds: f64,
    /// Transfers per second, refused ones included.
    pub transfers_per_second: f64,
    /// Committed transfers per second.
    pub committed_per_second: f64,
    /// Of committed transfers, from the first call to the answer.
    pub latency_ms: Latency,
    /// Syncs of the coordinator's log per transaction; absent when the coordinator was killed meanwhile.
    pub log_syncs_per_transaction: Option<f64>,
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

/// What the workers share.
struct Shared {
    initiator: Arc<Initiator>,
    load: Load,
    next: AtomicU64,
    tried_anew: AtomicU64,
    bar: ProgressBar,
}

/// What one worker has seen.
struct Seen {
    outcomes: Vec<Outcome>,
    latency_us: Histogram<u64>,
}

/// Sends the transfers, and adds what the coordinator answered to the record.
///
/// # Errors
/// When a transfer ends neither committed nor refused.
pub(crate) async fn run(stage: &mut Stage, load: Load, record: &mut Vec<Outcome>) -> Result<Storm> {
    let initiator = Arc::clone(&stage.initiator);
    let (log_before, repeats_before) = (initiator.status().await?, initiator.repeats());
    let bar = ProgressBar::new(load.transfers).with_style(style()?);
    let (next, tried_anew) = (AtomicU64::new(0), AtomicU64::new(0));
    let shared = Arc::new(Shared { initiator, load, next, tried_anew, bar });
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..load.concurrency.min(load.transfers) {
        workers.spawn(work(Arc::clone(&shared)));
    }
    let (seen, ()) = tokio::try_join!(gather(workers), disturb(stage, &shared))?;
    let seconds = started.elapsed().as_secs_f64();
    shared.bar.finish_and_clear();
    let committed = seen.outcomes.iter().filter(|outcome| outcome.committed).count() as u64;
    let tried_anew = shared.tried_anew.load(Ordering::Relaxed);
    let log_after = stage.initiator.status().await?;
    let transactions = (load.transfers + tried_anew) as f64;
    let syncs = || (log_after.log_syncs - log_before.log_syncs) as f64 / transactions;
    let latency = |quantile| seen.latency_us.value_at_quantile(quantile) as f64 / 1_000.0;
    record.extend(seen.outcomes);
    Ok(Storm {
        transfers: load.transfers,
        concurrency: load.concurrency,
        committed,
        refused: load.transfers - committed,
        tried_anew,
        calls_repeated: stage.initiator.repeats() - repeats_before,
        seconds,
        transfers_per_second: load.transfers as f64 / seconds,
        committed_per_second: committed as f64 / seconds,
        latency_ms: Latency { p50: latency(0.5), p99: latency(0.99), max: latency(1.0) },
        log_syncs_per_transaction: (log_after.epoch == log_before.epoch).then(syncs),
    })
}

async fn gather(mut workers: JoinSet<Result<Seen>>) -> Result<Seen> {
    let mut all = Seen { outcomes: Vec::new(), latency_us: Histogram::new(3)? };
    while let Some(worker) = workers.join_next().await {
        let seen = worker.context("a worker died")??;
        all.outcomes.extend(seen.outcomes);
        all.latency_us.add(&seen.latency_us)?;
    }
    Ok(all)
}

/// Sends one transfer after the other, until there are no more to send.
async fn work(shared: Arc<Shared>) -> Result<Seen> {
    let mut seen = Seen { outcomes: Vec::new(), latency_us: Histogram::new(3)? };
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= shared.load.transfers {
            return Ok(seen);
        }
        let started = Instant::now();
        let outcome = settle(&shared, random_transfer(number, shared.load.accounts)).await?;
        if outcome.committed {
            seen.latency_us.record(u64::try_from(started.elapsed().as_micros())?)?;
        }
        seen.outcomes.push(outcome);
        shared.bar.inc(1);
    }
}

/// Sends a transfer until it is committed, or refused for lack of funds. Rolled back for any other reason, it
/// is tried anew, as another transaction and so with another key.
async fn settle(shared: &Shared, first: Transfer) -> Result<Outcome> {
    let mut transfer = first.clone();
    for attempt in 1..=ANEW_MAX {
        let answer = shared.initiator.transfer(&transfer, Wait::Completed).await?;
        let outcome = Outcome::new(transfer, &answer);
        if outcome.committed || is_out_of_funds(&answer) {
            return Ok(outcome);
        }
        shared.tried_anew.fetch_add(1, Ordering::Relaxed);
        transfer = Transfer { key: format!("{}/{attempt}", first.key), ..first.clone() };
        if attempt == ANEW_MAX {
            bail!(
                "transfer {} was rolled back {ANEW_MAX} times, at last because: {}",
                first.key,
                answer.reason
            );
        }
    }
    bail!("a transfer was never tried")
}

fn is_out_of_funds(transaction: &Transaction) -> bool {
    transaction.reason.contains(INSUFFICIENT_FUNDS)
}

fn random_transfer(number: u64, accounts: u32) -> Transfer {
    let from = if rand::random() { Bank::A } else { Bank::B };
    let account = |bank| Account { bank, number: rand::random_range(1..=accounts) };
    Transfer {
        key: format!("random-{number}"),
        from: account(from),
        to: account(from.other()),
        amount: rand::random_range(1..=AMOUNT_MAX),
    }
}

/// With `--chaos`: kills the coordinator after a third of the transfers, bank B after two thirds.
async fn disturb(stage: &mut Stage, shared: &Shared) -> Result<()> {
    if !shared.load.chaos {
        return Ok(());
    }
    let Load { transfers, .. } = shared.load;
    reached(shared, transfers / 3).await;
    stage.coordinator.kill9()?;
    shared.bar.set_message("coordinator killed -9");
    stage.coordinator.start().await?;
    shared.bar.set_message("coordinator back");
    reached(shared, transfers * 2 / 3).await;
    let bank = &mut stage.banks[Bank::B.index()].process;
    bank.kill9()?;
    shared.bar.set_message("bank B killed -9");
    bank.start().await?;
    shared.bar.set_message("bank B back");
    Ok(())
}

async fn reached(shared: &Shared, count: u64) {
    while shared.bar.position() < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn style() -> Result<ProgressStyle> {
    let template = "   {bar:40} {human_pos}/{human_len} transfers  {per_sec}  {msg}";
    Ok(ProgressStyle::with_template(template)?)
}
