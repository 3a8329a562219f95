//! One run: clients and nemesis at work, then everything is mended, drained, read and judged.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clojure_reader::edn::Edn;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{GetStatusRequest, GetStatusResponse, ListRequest, TransactionState};
use concord_sandbox::Flavor;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::check::{self, AUDIT, Findings, STATUS, Status};
use crate::client::Client;
use crate::cluster::network::Node;
use crate::cluster::{Cluster, ClusterOptions};
use crate::history::{Operation, Process, Type};
use crate::nemesis::{self, Kind, Settings};
use crate::recorder::Recorder;
use crate::workload::{Generator, Workload, edn};

/// After the faults stop, everything has ended within so much time, or never will.
pub const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Between two looks at what has not ended.
const LOOK_EVERY: Duration = Duration::from_millis(100);
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
    result?;
    let history = recorder.finish()?;
    let mut findings = check::check(&history)?;
    for kind in &options.nemeses {
        if !history
            .iter()
            .any(|one| one.process == Process::Nemesis && one.f == format!("start-{}", kind.name()))
        {
            findings.vacuous.push(format!("the nemesis {} did nothing", kind.name()));
        }
    }
    Ok(Outcome { history, findings })
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
        Ok::<(), anyhow::Error>(())
    };
    tokio::select! {
        result = work => result?,
        () = watch => {}
    }
    finish(cluster, recorder, options).await
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
    let channel = Endpoint::from_shared(cluster.coordinator_direct().to_owned())?
        .timeout(Duration::from_secs(5))
        .connect_lazy();
    cluster.network().verify()?;
    let started = Instant::now();
    let silent = silent(cluster, options.nemeses.contains(&Kind::Bury)).await?;
    let (status, told) = drain(cluster, &channel, started).await?;
    let told = Status {
        silent,
        drained_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        ..told
    };
    // Readers of their own, after all clients.
    let reader = Process::Client(-1);
    let record = |kind, f, value| recorder.record(reader, kind, f, value, None);
    record(Type::Invoke, STATUS, Edn::Nil);
    record(Type::Ok, STATUS, edn(&told));
    for number in 0..cluster.databases() {
        record(Type::Invoke, AUDIT, Edn::Int(i64::try_from(number)?));
        let audit = cluster.audit(number, status.cluster_id).await;
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

/// Waits until the coordinator has no transaction that has not ended and no database lists a branch of its, or the time
/// is up.
async fn drain(
    cluster: &Cluster,
    channel: &Channel,
    started: Instant,
) -> Result<(GetStatusResponse, Status)> {
    let mut operator = OperatorClient::new(channel.clone());
    let status = loop {
        let asked = operator.get_status(GetStatusRequest {}).await.map(tonic::Response::into_inner);
        let late = started.elapsed() > DRAIN_MAX;
        match asked {
            Ok(status) if late || is_drained(cluster, &status).await? => break status,
            Err(error) if late => return Err(error).context("the coordinator does not answer"),
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    };
    let unended = if status.live_transactions > 0 { unended(channel).await? } else { Vec::new() };
    let told = Status {
        live: status.live_transactions,
        parked: status.parked_transactions,
        heuristic: status.heuristic_branches,
        refused: status.refused_branches,
        unended,
        ..Status::default()
    };
    Ok((status, told))
}

async fn is_drained(cluster: &Cluster, status: &GetStatusResponse) -> Result<bool> {
    if status.live_transactions > 0 {
        return Ok(false);
    }
    for number in 0..cluster.databases() {
        let audit = cluster.residue(number, status.cluster_id).await?;
        if audit > 0 {
            return Ok(false);
        }
    }
    Ok(true)
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

/// Where the run goes if nobody says: `target/jepsen/WORKLOAD-NEMESIS-DB-SEED`.
pub fn default_directory(options: &Options, nemesis: &str) -> PathBuf {
    let nemesis = nemesis.replace(',', "-");
    let name = format!("{}-{nemesis}-{}-{}", options.workload.name(), options.flavor, options.seed);
    Path::new("target/jepsen").join(name.to_lowercase())
}
