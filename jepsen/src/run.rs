//! One run: clients and nemesis at work, then everything is mended, drained, read and judged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clojure_reader::edn::Edn;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{GetStatusRequest, ListRequest, TransactionState};
use concord_sandbox::Flavor;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::check::{self, AUDIT, Findings, STATUS, Status};
use crate::client::Client;
use crate::cluster::network::Node;
use crate::cluster::{Cluster, ClusterOptions, StoreKind};
use crate::history::{Operation, Process, Type};
use crate::nemesis::{self, Kind, Settings};
use crate::recorder::Recorder;
use crate::workload::{Generator, Workload, edn};

/// After the faults stop, everything has ended within so much time, or never will.
pub const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Between two looks at what has not ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a coordinator on a shared store logs for each life that it takes over from.
const TAKING_OVER: &str = "took over from a coordinator that is gone";
/// Transactions that have not ended, told by name.
const UNENDED_TOLD: u32 = 10;

/// What is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which operations.
    pub workload: Workload,
    /// Which faults.
    pub nemeses: Vec<Kind>,
    /// On which product.
    pub flavor: Flavor,
    /// How many databases, and participants.
    pub databases: usize,
    /// How many coordinators; several share a store.
    pub coordinators: usize,
    /// What holds the store that coordinators share. None: the only coordinator keeps its own.
    pub store: Option<StoreKind>,
    /// For how long clients are at work.
    pub time: Duration,
    /// How many clients.
    pub concurrency: u32,
    /// Operations a second, of all clients together.
    pub rate: u32,
    /// From one fault to the next, on average.
    pub interval: Duration,
    /// The same seed draws the same operations and faults.
    pub seed: u64,
}

/// What a run has come to.
#[derive(Debug)]
pub struct Outcome {
    /// Everything that happened.
    pub history: Vec<Operation>,
    /// What the checkers say.
    pub findings: Findings,
    /// How often a coordinator has taken over from another, or from an earlier life of its own; 0 where nothing is shared.
    pub take_overs: usize,
}

/// Makes a run whose history and logs go into `directory`. `progress` is told about it several times a second: how much
/// of the time is over, and how many operations went well, failed and are not known.
///
/// # Errors
/// When the cluster does not start, or the harness itself fails. What Concord does wrong is no error but a finding.
pub async fn run(
    options: &Options,
    directory: &Path,
    progress: &(dyn Fn(Duration, [usize; 3]) + Sync),
) -> Result<Outcome> {
    let cluster = ClusterOptions {
        flavor: options.flavor,
        databases: options.databases,
        coordinators: options.coordinators,
        store: options.store,
        serializable: options.workload.is_serializable(),
        opening: options.workload.opening(),
    };
    let cluster = Arc::new(Cluster::start(cluster, directory).await?);
    let recorder = Arc::new(Recorder::create(&directory.join("history.edn"))?);
    let result = at_work(options, &cluster, &recorder, progress).await;
    for number in 0..cluster.databases() {
        let log = directory.join(format!("logs/database-{number}.log"));
        fs::write(log, cluster.database(number).lock().await.log_tail())?;
    }
    if let Some(store) = cluster.store() {
        fs::write(directory.join("logs/store.log"), store.lock().await.log_tail())?;
    }
    result?;
    let history = recorder.finish()?;
    let take_overs = take_overs(&cluster, directory)?;
    let mut findings = check::check(&history)?;
    for kind in &options.nemeses {
        if !history
            .iter()
            .any(|one| one.process == Process::Nemesis && one.f == format!("start-{}", kind.name()))
        {
            findings.vacuous.push(format!("the nemesis {} did nothing", kind.name()));
        }
    }
    if take_overs == 0 && options.nemeses.iter().any(|kind| kind.ends_coordinators()) {
        findings.vacuous.push("no coordinator has taken over from another".to_owned());
    }
    Ok(Outcome { history, findings, take_overs })
}

/// As coordinators tell it in their logs.
fn take_overs(cluster: &Cluster, directory: &Path) -> Result<usize> {
    let mut count = 0;
    for node in cluster.coordinators() {
        let log = fs::read(directory.join(format!("logs/{node}.log")))?;
        count += String::from_utf8_lossy(&log).matches(TAKING_OVER).count();
    }
    Ok(count)
}

async fn at_work(
    options: &Options,
    cluster: &Arc<Cluster>,
    recorder: &Arc<Recorder>,
    progress: &(dyn Fn(Duration, [usize; 3]) + Sync),
) -> Result<()> {
    let faults = nemesis::plan(&Settings {
        seed: options.seed,
        kinds: options.nemeses.clone(),
        time: options.time,
        interval: options.interval,
        databases: options.databases,
        sharing: options.store.map(|_| options.coordinators),
    });
    let started = Instant::now();
    let mut clients = clients(options, cluster, recorder, started + options.time)?;
    let nemesis = nemesis::unleash(cluster, recorder, faults);
    let watch = async {
        loop {
            progress(started.elapsed(), recorder.outcomes());
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let work = async {
        nemesis.await?;
        while let Some(client) = clients.join_next().await {
            client?;
        }
        finish(cluster, recorder, options).await
    };
    tokio::select! {
        result = work => result,
        failed = cluster.supervise() => failed.map(|never| match never {}),
        () = watch => Ok(()),
    }
}

fn clients(
    options: &Options,
    cluster: &Arc<Cluster>,
    recorder: &Arc<Recorder>,
    end: Instant,
) -> Result<JoinSet<()>> {
    let mut clients = JoinSet::new();
    let interval =
        Duration::from_secs(1).mul_f64(f64::from(options.concurrency) / f64::from(options.rate.max(1)));
    for number in 0..i64::from(options.concurrency) {
        let generator = Generator::new(options.workload, options.databases, options.seed, number);
        let place = (number, i64::from(options.concurrency));
        clients.spawn(Client::new(cluster, recorder, generator, place)?.run(interval, end));
    }
    Ok(clients)
}

/// Everything is mended by now: waits until all has ended, and reads what there is.
async fn finish(cluster: &Arc<Cluster>, recorder: &Recorder, options: &Options) -> Result<()> {
    cluster.network().verify()?;
    let started = Instant::now();
    let mut silent = silent(cluster, options.nemeses.contains(&Kind::Bury)).await?;
    let (id, mut told) = drain(cluster, started).await?;
    told.silent.append(&mut silent);
    told.drained_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    // Readers of their own, after all clients.
    let reader = Process::Client(-1);
    let record = |kind, f, value| recorder.record(reader, kind, f, value, None);
    record(Type::Invoke, STATUS, Edn::Nil);
    record(Type::Ok, STATUS, edn(&told));
    for number in 0..cluster.databases() {
        record(Type::Invoke, AUDIT, Edn::Int(i64::try_from(number)?));
        let audit = cluster.audit(number, id).await;
        let audit = audit.with_context(|| format!("read database {number}"))?;
        record(Type::Ok, AUDIT, edn(&audit));
    }
    Ok(())
}

/// Processes that have ended by themselves.
async fn silent(cluster: &Cluster, one_is_buried: bool) -> Result<Vec<String>> {
    let mut silent = Vec::new();
    for node in cluster.processes() {
        let mut process = cluster.process(node).await?;
        let buried = one_is_buried && matches!(node, Node::Participant(_));
        match process.exited()? {
            Some(status) => silent.push(format!("{node} has ended by itself: {status}")),
            None if process.pid() == 0 && !buried => silent.push(format!("{node} is not running")),
            None => {}
        }
    }
    Ok(silent)
}

/// Waits until no coordinator has a transaction that has not ended, nor has the store that they share, and no database
/// lists a branch of theirs; or the time is up. Answers with the cluster's id, too.
async fn drain(cluster: &Cluster, started: Instant) -> Result<(u64, Status)> {
    let channel =
        |url: &String| Ok(Endpoint::from_shared(url.clone())?.timeout(Duration::from_secs(5)).connect_lazy());
    let channels = cluster.coordinators_direct().iter().map(channel).collect::<Result<Vec<_>>>()?;
    let (id, mut status) = loop {
        let looked = look(cluster, &channels).await;
        let late = started.elapsed() > DRAIN_MAX;
        match looked {
            Ok((id, status, residue)) if late || is_drained(&status, residue) => break (id, status),
            Err(error) if late => return Err(error).context("look for what has not ended"),
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    };
    if status.live > 0 {
        for channel in &channels {
            // Who does not answer is told of already.
            status.unended.extend(unended(channel).await.unwrap_or_default());
        }
    }
    Ok((id, status))
}

fn is_drained(status: &Status, residue: u64) -> bool {
    status.silent.is_empty() && status.live + status.orphaned + residue == 0
}

/// What all coordinators say, added up, with the cluster's id, and how much the databases have that is open.
async fn look(cluster: &Cluster, channels: &[Channel]) -> Result<(u64, Status, u64)> {
    let (mut told, mut id) = (Status::default(), None);
    for (node, channel) in cluster.coordinators().zip(channels) {
        let asked = OperatorClient::new(channel.clone()).get_status(GetStatusRequest {}).await;
        let status = match asked {
            Ok(status) => status.into_inner(),
            Err(error) => {
                told.silent.push(format!("{node} does not answer: {}", error.message()));
                continue;
            }
        };
        id = Some(status.cluster_id);
        told.live += status.live_transactions;
        told.parked += status.parked_transactions;
        told.heuristic += status.heuristic_branches;
        told.refused += status.refused_branches;
    }
    let id = id.with_context(|| format!("no coordinator answers: {:?}", told.silent))?;
    if let Some(store) = cluster.store() {
        told.orphaned = store.lock().await.open_transactions().await.context("look into the store")?;
    }
    let mut residue = 0;
    for number in 0..cluster.databases() {
        residue += cluster.residue(number, id).await?;
    }
    Ok((id, told, residue))
}

async fn unended(channel: &Channel) -> Result<Vec<String>> {
    let states = [
        TransactionState::Active,
        TransactionState::Preparing,
        TransactionState::Committing,
        TransactionState::RollingBack,
    ];
    let request = ListRequest {
        states: states.map(i32::from).to_vec(),
        page_size: UNENDED_TOLD,
        ..ListRequest::default()
    };
    let listed = CoordinatorClient::new(channel.clone()).list(request).await?.into_inner().transactions;
    let tell = |one: &concord_proto::v1::Transaction| {
        let last =
            one.branches.iter().map(|branch| branch.last_error.as_str()).find(|error| !error.is_empty());
        format!("{} ({}, {:?}; {})", one.gtid, one.name, one.state(), last.unwrap_or("no error"))
    };
    Ok(listed.iter().map(tell).collect())
}

/// Where the run goes if nobody says: `target/jepsen/WORKLOAD-NEMESIS-DB-SEED`, and between the last two, as
/// `3-postgres`, how many coordinators share what.
pub fn default_directory(options: &Options, nemesis: &str) -> PathBuf {
    let nemesis = nemesis.replace(',', "-");
    let sharing = options.store.map(|store| format!("{}-{store}-", options.coordinators)).unwrap_or_default();
    let name = format!("{}-{nemesis}-{}-{sharing}{}", options.workload.name(), options.flavor, options.seed);
    Path::new("target/jepsen").join(name.to_lowercase())
}
