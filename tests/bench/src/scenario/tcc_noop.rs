//! TCC with participants that do nothing: what the coordinator and its log alone are capable of.
//!
//! `Execute` with two branches makes five calls and two forced writes. The echo makes the same five calls, with two
//! durable appends of as many bytes. Four of the five travel on the participants' streams; what that is worth is measured
//! with two more participants, which are called at their addresses.

use anyhow::Result;
use concord_proto::v1::ExecuteRequest;
use concord_sandbox::Service;
use tempfile::TempDir;

use super::open_loop::open_loop;
use super::side_by_side::branch;
use crate::baseline::echo;
use crate::contest::{Side, contest, median};
use crate::load::{Callers, Load, Shape, Target, Through, through};
use crate::outcome::{Bound, Outcome};
use crate::processor_time::Watched;
use crate::report::{Curve, plot};
use crate::service;
use crate::setup::{MANY, Setup};

const NAME: &str = "tcc-noop";
const RATIO: Bound = Bound::AtLeast(0.7);
/// Wanted where the echo makes it possible.
const PER_SECOND: f64 = 5_000.0;

pub(crate) async fn measure(setup: &Setup) -> Result<Vec<Outcome>> {
    let stage = Stage::set_up().await?;
    let [mut ours, mut single, mut echo] = stage.callers(setup.callers())?;
    let watched = stage.watched();
    let (mut outcomes, mut curve) = (Vec::new(), Curve::new("no-op TCC", "Concord", "gRPC echo"));
    let mut reached = 0.0;
    for &concurrency in setup.concurrencies() {
        let load = Load { shape: Shape::Closed(concurrency), span: setup.span() };
        let rounds = if concurrency == MANY { setup.rounds() } else { setup.rounds_of_a_point() };
        let what = format!("{NAME}, {concurrency} at a time");
        let targets: [&mut dyn Target; 3] = [&mut ours, &mut single, &mut echo];
        let [ours, single, echo] = contest(setup, &what, targets, load, rounds, &watched).await?;
        outcomes.push(closed(concurrency, &ours, &echo)?);
        curve.add(concurrency, &ours, &echo)?;
        if concurrency == MANY {
            reached = ours.per_second().min(echo.per_second());
            outcomes.push(
                Outcome::throughput(&format!("{NAME}, by streams against single calls"), &ours, &single)?
                    .at(concurrency)
                    .detail(&format!("by single calls {}", single.processor_time())),
            );
        }
    }
    let targets: [&mut dyn Target; 2] = [&mut ours, &mut echo];
    outcomes.push(open_loop(setup, NAME, targets, reached, &watched).await?);
    outcomes.push(rpc(&stage, setup).await?);
    plot(&setup.plots, NAME, &curve)?;
    Ok(outcomes)
}

fn closed(concurrency: usize, ours: &Side, echo: &Side) -> Result<Outcome> {
    let outcome = Outcome::throughput(NAME, ours, echo)?.at(concurrency);
    if concurrency != MANY {
        return Ok(outcome);
    }
    let times = format!("through Concord {}; echo {}", ours.processor_time(), echo.processor_time());
    let outcome = outcome.ratio_wanted(RATIO).detail(&times);
    Ok(match echo.per_second() >= PER_SECOND {
        true => outcome.ours_wanted(Bound::AtLeast(PER_SECOND)),
        false => outcome.detail("the echo does not reach 5,000 tx/s here"),
    })
}

/// One call over loopback, as a measure for other figures.
async fn rpc(stage: &Stage, setup: &Setup) -> Result<Outcome> {
    let mut rounds = Vec::new();
    for _ in 0..setup.rounds_of_a_point() {
        rounds.push(echo::rpc_ms(&stage.participants[0].url()).await?);
    }
    Ok(Outcome::figure("one unary call over loopback, p50", median(&rounds), "ms").at(1))
}

/// Two participants, the coordinator, and the echo. Fields are dropped in this order.
struct Stage {
    coordinator: Service,
    echo: Service,
    participants: [Service; 2],
    /// They are not attached.
    listening: [Service; 2],
    _directory: TempDir,
}

impl Stage {
    async fn set_up() -> Result<Stage> {
        let directory = Setup::directory()?;
        let path = directory.path();
        let coordinator = service::coordinator(path).await?;
        let noop = async |name, coordinators: &[&Service]| service::noop(name, path, coordinators).await;
        let participants = [noop("noop-1", &[&coordinator]).await?, noop("noop-2", &[&coordinator]).await?];
        let listening = [noop("noop-3", &[]).await?, noop("noop-4", &[]).await?];
        let file = format!("--file={}", path.join("echo").display());
        let [a, b] = [participants[0].url(), participants[1].url()];
        let echo = service::start("echo", "echo", path, &[file, "--participants".to_owned(), a, b]).await?;
        Ok(Stage { coordinator, echo, participants, listening, _directory: directory })
    }

    /// Of the coordinator with participants that are attached, of the same with others, and of the echo.
    fn callers(&self, count: usize) -> Result<[Callers<Through>; 3]> {
        let branch = |participant: &Service| branch(&participant.url());
        let callers = |name: &str, service: &Service, participants: &[Service; 2]| {
            let branches = participants.iter().map(branch).collect();
            let request = ExecuteRequest { branches, ..ExecuteRequest::default() };
            through(name, &service.url(), count, move || request.clone())
        };
        Ok([
            callers("Concord", &self.coordinator, &self.participants)?,
            callers("Concord by single calls", &self.coordinator, &self.listening)?,
            callers("gRPC echo", &self.echo, &self.participants)?,
        ])
    }

    fn watched(&self) -> Watched {
        Watched::new([
            ("coordinator", vec![self.coordinator.pid()]),
            ("echo", vec![self.echo.pid()]),
            ("participants", self.participants.iter().chain(&self.listening).map(Service::pid).collect()),
        ])
    }
}
