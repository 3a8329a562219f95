//! Transfers between two banks through the coordinator, against the same SQL by a bare XA client.

use anyhow::{Result, ensure};
use concord_sandbox::{Flavor, Service};

use super::open_loop::open_loop;
use crate::bank_stage::BankStage;
use crate::baseline::append_log::sync_ms;
use crate::baseline::bare_local::{BareLocal, bare_local};
use crate::baseline::bare_xa::{BareXa, bare_xa};
use crate::baseline::echo::rpc_ms;
use crate::contest::{Ratio, Side, contest, median};
use crate::load::{Callers, Load, Shape, Target, Through, through};
use crate::outcome::{Bound, Outcome};
use crate::processor_time::Watched;
use crate::report::{Curve, plot};
use crate::service;
use crate::setup::{MANY, Setup};

const NAME: &str = "xa-transfer";
/// Calls between client, coordinator and banks that are made one after the other, at most.
const CALLS: f64 = 5.0;

/// Of the bare client's throughput.
fn ratio_wanted(flavor: Flavor) -> Bound {
    match flavor {
        // Here the database is the bound, with its binary log.
        Flavor::MySql => Bound::AtLeast(0.9),
        Flavor::MariaDb => Bound::AtLeast(0.7),
    }
}

/// Those that have their turns.
struct TakingPart {
    concord: Callers<Through>,
    /// A bare client with the same SQL.
    same: Callers<BareXa>,
    /// One without the marker rows.
    plain: Callers<BareXa>,
    /// One local transaction instead of two branches.
    local: Callers<BareLocal>,
    watched: Watched,
}

impl TakingPart {
    async fn connect(stage: &BankStage, callers: usize) -> Result<TakingPart> {
        let (transfers, urls) = (stage.transfers(), stage.urls());
        Ok(TakingPart {
            concord: through("Concord", &stage.coordinator.url(), callers, move || transfers.random())?,
            same: bare_xa("bare XA", &urls, callers, true).await?,
            plain: bare_xa("bare XA, no marker rows", &urls, MANY, false).await?,
            local: bare_local("one local transaction", &urls[0], MANY).await?,
            watched: stage.watched()?,
        })
    }

    async fn all(&mut self, setup: &Setup, concurrency: usize) -> Result<[Side; 4]> {
        let load = Load { shape: Shape::Closed(concurrency), span: setup.span() };
        let targets: [&mut dyn Target; 4] =
            [&mut self.concord, &mut self.same, &mut self.plain, &mut self.local];
        let what = format!("{NAME}, {concurrency} at a time");
        contest(setup, &what, targets, load, setup.rounds(), &self.watched).await
    }

    async fn two(&mut self, setup: &Setup, concurrency: usize) -> Result<[Side; 2]> {
        let load = Load { shape: Shape::Closed(concurrency), span: setup.span() };
        let targets: [&mut dyn Target; 2] = [&mut self.concord, &mut self.same];
        let what = format!("{NAME}, {concurrency} at a time");
        contest(setup, &what, targets, load, setup.rounds_of_a_point(), &self.watched).await
    }
}

pub(crate) async fn measure_on(setup: &Setup, flavor: Flavor) -> Result<Vec<Outcome>> {
    setup.progress.stage(&format!("{NAME}, {flavor} starts"), 0);
    let stage = BankStage::set_up(flavor, setup.binlog).await?;
    let noop = service::noop("noop", stage.path(), &[]).await?;
    let mut taking_part = TakingPart::connect(&stage, setup.callers()).await?;
    let mut curve = Curve::new(&format!("XA transfer, {flavor}"), "Concord", "bare XA client");
    let (mut outcomes, mut reached) = (Vec::new(), 0.0);
    for &concurrency in setup.concurrencies() {
        if concurrency != 1 && concurrency != MANY {
            let [ours, same] = taking_part.two(setup, concurrency).await?;
            curve.add(concurrency, &ours, &same)?;
            outcomes.push(Outcome::throughput(NAME, &ours, &same)?.at(concurrency));
            continue;
        }
        let mut limits = Limits::default();
        limits.look(&stage, &noop).await?;
        let sides = taking_part.all(setup, concurrency).await?;
        limits.look(&stage, &noop).await?;
        let [ours, same, ..] = &sides;
        curve.add(concurrency, ours, same)?;
        if concurrency == MANY {
            reached = ours.per_second().min(same.per_second());
        }
        outcomes.extend(of_all(concurrency, &sides, flavor)?.map(|outcome| outcome.at(concurrency)));
        if concurrency == 1 {
            outcomes.push(limits.added(ours, same).at(1));
        }
    }
    let TakingPart { concord, same, watched, .. } = &mut taking_part;
    outcomes.push(open_loop(setup, NAME, [concord, same], reached, watched).await?);
    ensure!(stage.in_doubt().await? == 0, "branches were left in doubt");
    plot(&setup.plots, &format!("{NAME}-{}", flavor.id()), &curve)?;
    Ok(outcomes.into_iter().map(|outcome| outcome.on(flavor)).collect())
}

fn of_all(
    concurrency: usize,
    [ours, same, plain, local]: &[Side; 4],
    flavor: Flavor,
) -> Result<[Outcome; 4]> {
    let mut against_same = Outcome::throughput(NAME, ours, same)?;
    against_same = match concurrency {
        MANY => against_same.ratio_wanted(ratio_wanted(flavor)).syncs_wanted(Bound::AtMost(0.2)),
        _ => against_same.syncs_wanted(Bound::AtMost(1.0)),
    };
    let without = format!("without marker rows {}", plain.processor_time());
    let local_time = format!("as one local transaction {}", local.processor_time());
    Ok([
        against_same,
        Outcome::throughput(&format!("{NAME}, bare without marker rows"), ours, plain)?,
        Outcome::throughput(&format!("{NAME}, bare as one local transaction"), ours, local)?,
        Outcome::processor_time(NAME, ours, same).detail(&without).detail(&local_time),
    ])
}

/// What the machine needs for what coordination adds, in milliseconds.
#[derive(Default)]
struct Limits {
    sync: Vec<f64>,
    rpc: Vec<f64>,
}

impl Limits {
    async fn look(&mut self, stage: &BankStage, noop: &Service) -> Result<()> {
        for _ in 0..3 {
            self.sync.push(sync_ms(stage.path())?);
            self.rpc.push(rpc_ms(&noop.url()).await?);
        }
        Ok(())
    }

    /// What Concord adds to the median latency, against one sync and five calls.
    fn added(&self, ours: &Side, bare: &Side) -> Outcome {
        let (sync, rpc) = (median(&self.sync), median(&self.rpc));
        let (added, allowed) = (ours.added_ms(bare, 0.5), sync + CALLS * rpc);
        let Ratio { median: ratio, .. } = Ratio::of(&[added], &[allowed]);
        let figure = Outcome::figure(&format!("{NAME}, added p50 by one sync and five calls"), added, "ms");
        let outcome = Outcome { baseline: Some(allowed), ratio: Some(ratio), ..figure };
        outcome
            .ratio_wanted(Bound::AtMost(1.0))
            .detail(&format!("a sync of a page {sync:.3} ms, a unary call over loopback {rpc:.3} ms"))
    }
}
