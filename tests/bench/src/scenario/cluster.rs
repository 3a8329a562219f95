//! Coordinators that share a store: what it costs against the embedded one, what two of them cost each other, and how long
//! it takes until one that was killed is taken over from.

mod footprint;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use concord_proto::Coordinators;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{ExecuteRequest, GetRequest, GetStatusRequest, TransactionState};
use concord_sandbox::{Flavor, Postgres, PostgresOptions, Server, ServerOptions, Service};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::task::JoinSet;
use tonic::Code;

use super::side_by_side::branch;
use crate::contest::{contest, median};
use crate::crowd;
use crate::load::{Load, Shape, Target, through, through_each};
use crate::outcome::{Bound, Outcome};
use crate::processor_time::Watched;
use crate::service::{self, channel};
use crate::setup::{MANY, Setup};

/// Of the coordinators that are killed.
const LEASE: Duration = Duration::from_secs(2);
/// Transactions, each with a branch in doubt, that are taken over each time.
const HELD: usize = 1_000;
/// Callers meanwhile.
const CALLERS: usize = 8;

/// On PostgreSQL.
pub(crate) async fn measure(setup: &Setup) -> Result<Vec<Outcome>> {
    let server = Postgres::start(PostgresOptions::default()).await?;
    for database in ["alone", "shared"] {
        server.create_database(database).await?;
    }
    let outcomes = throughput(setup, [server.url("alone"), server.url("shared")], None).await?;
    Ok(outcomes.into_iter().map(|outcome| outcome.detail("the store is in PostgreSQL")).collect())
}

pub(crate) async fn measure_on(setup: &Setup, flavor: Flavor) -> Result<Vec<Outcome>> {
    let server = Server::start(ServerOptions::new(flavor)).await?;
    for database in ["alone", "shared", "killed"] {
        server.create_database(database).await?;
    }
    let urls = [server.url("alone"), server.url("shared")];
    let mut outcomes = throughput(setup, urls, server.pid()).await?;
    outcomes.push(take_overs(setup, &server.url("killed")).await?);
    Ok(outcomes.into_iter().map(|outcome| outcome.on(flavor)).collect())
}

/// One coordinator with the embedded store, one with a shared store for itself, and two with one store. `server`: the process
/// of a MySQL or MariaDB server with the stores, of which all that it does is known.
async fn throughput(
    setup: &Setup,
    [alone, shared]: [String; 2],
    server: Option<u32>,
) -> Result<Vec<Outcome>> {
    let directory = Setup::directory()?;
    let path = directory.path();
    let embedded = coordinator(path, "embedded", &[]).await?;
    let meter = alone.clone();
    let alone = coordinator(path, "alone", &[format!("--store={alone}")]).await?;
    let shared = [format!("--store={shared}")];
    let both = [coordinator(path, "first", &shared).await?, coordinator(path, "second", &shared).await?];
    let all = [&embedded, &alone, &both[0], &both[1]];
    let participants =
        [service::noop("noop-1", path, &all).await?, service::noop("noop-2", path, &all).await?];
    let branches = participants.iter().map(|participant| branch(&participant.url())).collect();
    let request = ExecuteRequest { branches, ..ExecuteRequest::default() };
    let request = move || request.clone();
    let mut of_embedded = through("embedded", &embedded.url(), MANY, request.clone())?;
    let mut of_alone = through("on a shared store", &alone.url(), MANY, request.clone())?;
    let mut of_both = through_each("two on one", &both.each_ref().map(Service::url), MANY, request)?;
    let targets: [&mut dyn Target; 3] = [&mut of_embedded, &mut of_alone, &mut of_both];
    let watched = Watched::new([
        ("embedded", vec![embedded.pid()]),
        ("on a shared store", vec![alone.pid()]),
        ("two on one", both.iter().map(Service::pid).collect()),
        ("participants", participants.iter().map(Service::pid).collect()),
        ("store", server.into_iter().collect()),
    ]);
    let stored = async |meter: &str| match server {
        Some(_) => footprint::read(meter, &[&alone, &both[0], &both[1]]).await.map(Some),
        None => Ok(None),
    };
    let before = stored(&meter).await?;
    let load = Load { shape: Shape::Closed(MANY), span: setup.span() };
    let [of_embedded, of_alone, of_both] =
        contest(setup, "cluster", targets, load, setup.rounds(), &watched).await?;
    let after = stored(&meter).await?;
    let footprint = before.zip(after).map(|(before, after)| after.since(&before)).unwrap_or_default();
    let times = |side: &crate::contest::Side| side.processor_time();
    Ok(vec![
        Outcome::throughput("cluster, a shared store against the embedded one", &of_alone, &of_embedded)?
            .at(MANY)
            .ratio_wanted(Bound::AtLeast(0.3))
            .syncs_wanted(Bound::AtMost(0.2))
            .detail(&format!("shared {}; embedded {}", times(&of_alone), times(&of_embedded)))
            .detail(&footprint),
        Outcome::throughput("cluster, two coordinators against one", &of_both, &of_alone)?
            .at(MANY)
            .ratio_wanted(Bound::AtLeast(0.9))
            .detail(&format!("two {}; one {}", times(&of_both), times(&of_alone))),
    ])
}

async fn coordinator(path: &Path, name: &str, arguments: &[String]) -> Result<Service> {
    let directory = path.join(name);
    std::fs::create_dir_all(&directory)?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    service::coordinator_with(&directory, &arguments).await
}

/// Of two coordinators the one that has a thousand transactions in hand is killed, again and again, under load.
async fn take_overs(setup: &Setup, store: &str) -> Result<Outcome> {
    let rounds = if setup.quick { 5 } else { 100 };
    let directory = Setup::directory()?;
    let path = directory.path();
    let arguments = [format!("--store={store}"), format!("--lease-ms={}", LEASE.as_millis())];
    let mut pair =
        [coordinator(path, "one", &arguments).await?, coordinator(path, "other", &arguments).await?];
    let both = [&pair[0], &pair[1]];
    let participants =
        [service::noop("noop-1", path, &both).await?, service::noop("noop-2", path, &both).await?];
    let dead = service::never_confirms("never-confirms", path).await?;
    setup.progress.stage(&format!("cluster, {HELD} are decided"), 0);
    let branches = [&participants[0], &dead].map(|participant| branch(&participant.url())).to_vec();
    let request = ExecuteRequest { branches, ..ExecuteRequest::default() };
    crowd::decide(&CoordinatorClient::new(channel(&pair[0].url())?), &request, HELD).await?;
    let load = KeyedLoad::start(&pair, &participants)?;
    let mut seconds = Vec::new();
    setup.progress.stage("cluster, take-overs", rounds);
    for round in 0..rounds {
        setup.progress.step("kill -9");
        let (holder, other) = (round % 2, (round + 1) % 2);
        pair[holder].kill9()?;
        let start = Instant::now();
        let mut operator = OperatorClient::new(channel(&pair[other].url())?);
        while operator.get_status(GetStatusRequest {}).await?.into_inner().live_transactions < HELD as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        seconds.push(start.elapsed().as_secs_f64());
        pair[holder].start().await?;
    }
    let (answered, repeated) = load.end(&pair).await?;
    seconds.sort_by(f64::total_cmp);
    let p99 = seconds[(seconds.len() * 99).div_ceil(100).saturating_sub(1)];
    let name = format!("cluster, take-over of {HELD} in doubt, p99");
    Ok(Outcome::figure(&name, p99, "s")
        .ours_wanted(Bound::AtMost(LEASE.as_secs_f64() + 2.0))
        .detail(&format!(
            "lease {} s; {rounds} take-overs, median {:.2} s",
            LEASE.as_secs(),
            median(&seconds)
        ))
        .detail(&format!(
            "meanwhile {answered} answered as committed, all on record; {repeated} calls repeated"
        )))
}

/// Callers that repeat what was not answered, with the same key, at whichever coordinator answers.
struct KeyedLoad {
    stop: Arc<AtomicBool>,
    callers: JoinSet<Result<(Vec<String>, usize)>>,
}

impl KeyedLoad {
    fn start(coordinators: &[Service; 2], participants: &[Service; 2]) -> Result<KeyedLoad> {
        let (stop, mut callers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
        let urls = coordinators.each_ref().map(Service::url).join(",");
        let branches: Vec<_> = participants.iter().map(|participant| branch(&participant.url())).collect();
        for caller in 0..CALLERS {
            let (stop, branches) = (Arc::clone(&stop), branches.clone());
            let client = CoordinatorClient::new(Coordinators::connect_lazy(&urls)?);
            callers.spawn(async move { call_on(caller, client, branches, &stop).await });
        }
        Ok(KeyedLoad { stop, callers })
    }

    /// Stops it; every transaction that was answered as committed must be on record as that. Answers how many there were,
    /// and how many calls had to be repeated.
    async fn end(mut self, coordinators: &[Service; 2]) -> Result<(usize, usize)> {
        self.stop.store(true, Ordering::Relaxed);
        let (mut gtids, mut repeated) = (Vec::new(), 0);
        while let Some(caller) = self.callers.join_next().await {
            let (of_one, repeats) = caller??;
            gtids.extend(of_one);
            repeated += repeats;
        }
        let count = gtids.len();
        let client = CoordinatorClient::new(channel(&coordinators[0].url())?);
        stream::iter(gtids)
            .map(|gtid| {
                let mut client = client.clone();
                async move {
                    let found =
                        client.get(GetRequest { gtid }).await?.into_inner().transaction.unwrap_or_default();
                    ensure!(
                        found.state() == TransactionState::Committed,
                        "answered as committed, but: {found:?}"
                    );
                    Ok(())
                }
            })
            .buffer_unordered(MANY)
            .try_collect::<()>()
            .await?;
        Ok((count, repeated))
    }
}

async fn call_on(
    caller: usize,
    mut client: CoordinatorClient<Coordinators>,
    branches: Vec<concord_proto::v1::BranchRequest>,
    stop: &AtomicBool,
) -> Result<(Vec<String>, usize)> {
    let (mut gtids, mut repeated) = (Vec::new(), 0);
    for number in 0.. {
        let idempotency_key = format!("caller {caller}, number {number}");
        let request =
            ExecuteRequest { branches: branches.clone(), idempotency_key, ..ExecuteRequest::default() };
        let done = loop {
            if stop.load(Ordering::Relaxed) {
                return Ok((gtids, repeated));
            }
            match client.execute(request.clone()).await {
                Ok(done) => break done.into_inner().transaction.unwrap_or_default(),
                Err(status)
                    if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled) =>
                {
                    repeated += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(status) => return Err(status.into()),
            }
        };
        // Undecided when its coordinator died: rolled back.
        if done.state() == TransactionState::Committed {
            gtids.push(done.gtid);
        }
    }
    Ok((gtids, repeated))
}
