//! Transfers per second through the coordinator, against the same SQL by a bare XA client; and what they cost
//! in syncs of the coordinator's log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use crate::bare::Client;
use crate::contest::Contestant;
use crate::load::{self, Run};
use crate::stage::Stage;
use crate::{Bound, Line};

const CONCURRENCY: usize = 64;
/// Transfers one after the other, for the syncs at concurrency 1.
const SEQUENTIAL: usize = 500;

pub(crate) async fn measure(stage: &Stage, transfers: usize, rounds: usize) -> Result<Vec<Line>> {
    let line = |figure: &str, value: f64, unit, wanted, detail: String| Line {
        figure: figure.to_owned(),
        database: stage.flavor.to_string(),
        value,
        unit,
        wanted,
        detail,
    };
    through(stage, 1, 100).await?; // Everything is warm and connected after this.
    let one = syncs(stage, 1, SEQUENTIAL).await?;
    let mut clients = bare_clients(stage).await?;
    run_bare(&mut clients, transfers / 2, true).await?;
    through(stage, CONCURRENCY, transfers / 2).await?;
    let before = stage.status().await?;
    let latency = Histogram::new(3)?;
    let mut contest = Contest {
        concord: Contestant::default(),
        same: Contestant::default(),
        plain: Contestant::default(),
        latency,
    };
    for _ in 0..rounds {
        contest.round(stage, &mut clients, transfers).await?;
    }
    let after = stage.status().await?;
    let count = (rounds * transfers) as f64;
    let many = (after.log_syncs - before.log_syncs) as f64 / count;
    ensure!(stage.in_doubt().await? == 0, "branches were left in doubt");
    let Contest { concord, same, plain, latency } = &contest;
    let ms = |quantile| latency.value_at_quantile(quantile) as f64 / 1_000.0;
    let (ratio_same, detail_same) = concord.against(same);
    let (ratio_plain, detail_plain) = concord.against(plain);
    let costs = [("through Concord", concord), ("bare", same), ("without markers", plain)];
    let costs = costs.map(|(name, one)| format!("{name} {}", one.cost.per_transfer(count)));
    Ok(vec![
        line("log syncs per transfer, 1 at a time", one, "syncs", Some(Bound::AtMost(1.0)), String::new()),
        line("log syncs per transfer, 64 at a time", many, "syncs", Some(Bound::AtMost(0.2)), String::new()),
        line(
            "through Concord / bare client, same SQL",
            ratio_same,
            "ratio",
            Some(Bound::AtLeast(0.6)),
            detail_same,
        ),
        line("through Concord / bare, no marker rows", ratio_plain, "ratio", None, detail_plain),
        line("p99 latency at 64 at a time", ms(0.99), "ms", None, format!("p50 {:.1} ms", ms(0.5))),
        line(
            "processor time, bare client / Concord",
            same.cost.total() / concord.cost.total(),
            "ratio",
            None,
            format!("per transfer: {}", costs.join("; ")),
        ),
    ])
}

/// What is run in turn, on the same databases.
struct Contest {
    concord: Contestant,
    /// A bare client with the same SQL.
    same: Contestant,
    /// A bare client without the marker rows.
    plain: Contestant,
    latency: Histogram<u64>,
}

impl Contest {
    async fn round(&mut self, stage: &Stage, clients: &mut Vec<Client>, transfers: usize) -> Result<()> {
        let started = stage.cost()?;
        let run = through(stage, CONCURRENCY, transfers).await?;
        self.latency.add(&run.latency)?;
        self.concord.rates.push(run.per_second);
        let second = stage.cost()?;
        self.same.rates.push(run_bare(clients, transfers, true).await?);
        let third = stage.cost()?;
        self.plain.rates.push(run_bare(clients, transfers, false).await?);
        self.concord.cost.add(started, second);
        self.same.cost.add(second, third);
        self.plain.cost.add(third, stage.cost()?);
        Ok(())
    }
}

async fn syncs(stage: &Stage, concurrency: usize, transfers: usize) -> Result<f64> {
    let before = stage.status().await?;
    through(stage, concurrency, transfers).await?;
    let after = stage.status().await?;
    Ok((after.log_syncs - before.log_syncs) as f64 / transfers as f64)
}

/// Runs transfers through the coordinator.
async fn through(stage: &Stage, concurrency: usize, transfers: usize) -> Result<Run> {
    let requests: Result<Vec<_>> = (0..transfers).map(|_| stage.random_transfer()).collect();
    load::execute(&stage.client()?, concurrency, requests?).await
}

async fn bare_clients(stage: &Stage) -> Result<Vec<Client>> {
    let urls = stage.urls();
    let mut clients = Vec::new();
    for number in 0..CONCURRENCY {
        clients.push(Client::connect(&urls, number).await?);
    }
    Ok(clients)
}

/// Runs transfers by bare clients; answers how many a second.
async fn run_bare(clients: &mut Vec<Client>, transfers: usize, marker: bool) -> Result<f64> {
    let left = Arc::new(AtomicUsize::new(transfers));
    let start = Instant::now();
    let workers = clients.drain(..).map(|mut client| {
        let left = Arc::clone(&left);
        tokio::spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                client.transfer(marker).await?;
            }
            anyhow::Ok(client)
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut back = Vec::new();
    for worker in workers {
        back.push(worker.await??);
    }
    let per_second = transfers as f64 / start.elapsed().as_secs_f64();
    clients.extend(back);
    Ok(per_second)
}
