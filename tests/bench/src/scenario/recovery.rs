//! kill -9 of the coordinator, and what comes after it.
//!
//! With many live transactions: the time until it serves again, and what they need in memory. With decided
//! transactions that no participant has been told of: the time until XA RECOVER is empty on both databases.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{GetStatusRequest, GetStatusResponse, TransactionState};
use concord_sandbox::{Flavor, Service, until};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::bank_stage::{BankStage, SESSIONS_MAX};
use crate::baseline::bare_xa::{commit_prepared, leave_prepared};
use crate::contest::median;
use crate::crowd;
use crate::outcome::{Bound, Outcome};
use crate::service::{self, channel};
use crate::setup::{MANY, Setup};

/// So many are held at most before the banks are started anew: on MariaDB each keeps a session.
const HELD_MAX: usize = SESSIONS_MAX * 2 / 3;
/// For the end of recovery: far more than it takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Live transactions.
pub(crate) async fn measure(setup: &Setup) -> Result<Vec<Outcome>> {
    let live = if setup.quick { 10_000 } else { 100_000 };
    let directory = Setup::directory()?;
    let mut coordinator = service::coordinator(directory.path()).await?;
    setup.progress.stage(&format!("recovery, {live} live transactions begin"), 0);
    let client = CoordinatorClient::new(channel(&coordinator.url())?);
    // Some first, so that buffers and connections are not counted.
    crowd::begin(&client, live / 100).await?;
    let before = crowd::resident_bytes(coordinator.pid())?;
    crowd::begin(&client, live).await?;
    let after = crowd::resident_bytes(coordinator.pid())?;
    let each = after.saturating_sub(before) as f64 / live as f64 / 1024.0;
    let memory =
        format!("{} branches each; {} MiB before, {} MiB after", crowd::BRANCHES, before >> 20, after >> 20);
    let mut seconds = Vec::new();
    setup.progress.stage(&format!("recovery, {live} live transactions"), setup.rounds_of_a_point());
    for _ in 0..setup.rounds_of_a_point() {
        setup.progress.step("kill -9");
        coordinator.kill9()?;
        let start = Instant::now();
        coordinator.start().await?;
        serving(&coordinator).await?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    let each_time: Vec<String> = seconds.iter().map(|seconds| format!("{seconds:.2}")).collect();
    Ok(vec![
        Outcome::figure(&format!("memory per live transaction, {live} live"), each, "KiB")
            .ours_wanted(Bound::AtMost(4.0))
            .detail(&memory),
        Outcome::figure(&format!("restart with {live} live transactions"), median(&seconds), "s")
            .ours_wanted(Bound::AtMost(2.0))
            .detail(&format!(
                "from the start of its process until it is SERVING; each: {} s",
                each_time.join(", ")
            )),
    ])
}

/// Returns when the coordinator's health service says so.
async fn serving(coordinator: &Service) -> Result<()> {
    let mut health = HealthClient::new(channel(&coordinator.url())?);
    until("the coordinator serves", async || {
        let answer = health.check(HealthCheckRequest::default()).await?.into_inner();
        Ok::<_, anyhow::Error>((answer.status == ServingStatus::Serving as i32).then_some(()))
    })
    .await
}

/// Decided transactions.
pub(crate) async fn measure_on(setup: &Setup, flavor: Flavor) -> Result<Vec<Outcome>> {
    let decided = if setup.quick { HELD_MAX } else { 10_000 };
    setup.progress.stage(&format!("recovery, {flavor} starts"), 0);
    let mut stage = BankStage::set_up(flavor, setup.binlog).await?;
    decide(setup, &mut stage, decided).await?;
    let held = stage.in_doubt().await?;
    ensure!(held == 2 * decided, "{held} branches are in doubt, not {}", 2 * decided);
    stage.coordinator.kill9()?;
    hold_commits(&stage, false).await?;
    setup.progress.stage(&format!("recovery of {decided} decided transactions"), 0);
    let start = Instant::now();
    stage.coordinator.start().await?;
    let listening = start.elapsed().as_secs_f64();
    let status =
        tokio::time::timeout(PATIENCE, drained(&stage, held)).await.context("recovery has no end")??;
    let seconds = start.elapsed().as_secs_f64();
    let bare = bare_recovery(setup, &stage, decided).await?;
    let name = format!("recovery of {decided} decided transactions");
    let (ours, bare) = (held as f64 / seconds, held as f64 / bare);
    let figure = Outcome::figure(&name, ours, "branches/s").on(flavor).ours_wanted(Bound::AtLeast(1_000.0));
    let times = format!(
        "{held} branches in {seconds:.2} s, of which {listening:.2} s until it listens; {} calls, {} of them failed",
        status.calls, status.calls_failed
    );
    Ok(vec![Outcome { baseline: Some(bare), ratio: Some(ours / bare), ..figure }.detail(&times)])
}

/// As many branches, left prepared and committed by bare clients, which know what to do. Answers how many seconds the
/// commits take.
async fn bare_recovery(setup: &Setup, stage: &BankStage, count: usize) -> Result<f64> {
    setup.progress.stage(&format!("recovery of {count} transactions by bare clients"), 0);
    let prepared = leave_prepared(&stage.urls(), u32::try_from(count)?).await?;
    let held = stage.in_doubt().await?;
    ensure!(held == 2 * count, "{held} branches are in doubt, not {}", 2 * count);
    let took = commit_prepared(&stage.urls(), prepared).await?;
    ensure!(stage.in_doubt().await? == 0, "bare clients have left branches in doubt");
    Ok(took.as_secs_f64())
}

/// Executes transfers of which no bank learns that they are decided.
async fn decide(setup: &Setup, stage: &mut BankStage, count: usize) -> Result<()> {
    setup.progress.stage("recovery, transfers are decided", count.div_ceil(HELD_MAX));
    hold_commits(stage, true).await?;
    // Each on accounts of its own: they hold their locks until the end.
    let accounts: Vec<u32> = (1..=u32::try_from(count)?).collect();
    for (number, some) in accounts.chunks(HELD_MAX).enumerate() {
        setup.progress.step("the next thousand");
        if number > 0 {
            // Prepared branches are let go by their sessions when their bank is gone.
            for bank in &mut stage.banks {
                bank.kill9()?;
                bank.start().await?;
            }
        }
        let (client, transfers) = (stage.client()?, stage.transfers());
        stream::iter(some.iter().map(|id| transfers.decided([*id, *id])))
            .map(|request| {
                let mut client = client.clone();
                async move {
                    let done = client.execute(request).await?.into_inner().transaction.unwrap_or_default();
                    ensure!(done.state() == TransactionState::Committing, "not held: {done:?}");
                    anyhow::Ok(())
                }
            })
            .buffer_unordered(MANY)
            .try_collect::<()>()
            .await?;
    }
    Ok(())
}

/// From now on banks turn commits away, or do not any more.
async fn hold_commits(stage: &BankStage, hold: bool) -> Result<()> {
    match hold {
        true => std::fs::write(&stage.hold, "")?,
        false => std::fs::remove_file(&stage.hold)?,
    }
    // Until the banks have looked.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Ok(())
}

/// Returns when nothing is in doubt any more. The databases are asked only when the coordinator has made as many calls
/// as it takes: to list thousands of branches again and again would hold up their end.
async fn drained(stage: &BankStage, branches: usize) -> Result<GetStatusResponse> {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let mut operator = OperatorClient::new(channel(&stage.coordinator.url())?);
    loop {
        let status = operator.get_status(GetStatusRequest {}).await?.into_inner();
        let enough = status.calls.saturating_sub(status.calls_failed) >= branches as u64;
        if enough && stage.in_doubt().await? == 0 {
            return Ok(status);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
