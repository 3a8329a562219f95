//! `jepsen run`.

use std::fs;
use std::io::{IsTerminal as _, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use concord_sandbox::Flavor;
use indicatif::{ProgressBar, ProgressStyle};
use jepsen::check::Findings;
use jepsen::cluster::{StoreKind, namespace};
use jepsen::nemesis::Kind;
use jepsen::report::{self, Report};
use jepsen::run::{Options, Outcome};
use jepsen::workload::Workload;

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What clients do
    #[arg(long, value_enum)]
    workload: Workload,
    /// What goes wrong: kinds of faults with commas between them, "all", "cluster" (all that are about coordinators that
    /// share a store) or "none"
    #[arg(long, default_value = "all")]
    nemesis: Nemesis,
    #[command(flatten)]
    common: Common,
    /// Where the history, the report and the logs go; by default a directory of its own under target/jepsen
    #[arg(long)]
    output: Option<PathBuf>,
}

/// Options of `run` and `matrix`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Which database product
    #[arg(long, default_value = "mysql", value_parser = flavor)]
    db: Flavor,
    /// Seconds for which clients are at work: at most two hours, because a history is checked in memory. For longer,
    /// make several runs
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=7200))]
    time: u64,
    /// Clients
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    concurrency: u32,
    /// Operations a second, of all clients together
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Database servers, each with a participant
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    databases: u8,
    /// Coordinators: several share a store
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    coordinators: u8,
    /// Where coordinators keep their state, in a database server of its own; with one coordinator, in files if nobody
    /// says
    #[arg(long, value_enum)]
    store: Option<StoreKind>,
    /// Seconds from one fault to the next, on average
    #[arg(long, default_value_t = 4.0, value_parser = positive)]
    interval: f64,
    /// How links are cut: by the kernel, in a network namespace of the run's own (which takes root and nftables), or by
    /// the harness's proxies alone
    #[arg(long, value_enum, default_value_t)]
    network: Network,
    /// Draws operations and faults; by default another one each time
    #[arg(long)]
    seed: Option<u64>,
}

/// How links are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Network {
    /// By the kernel where that can be
    #[default]
    Auto,
    /// By the kernel
    Namespace,
    /// By proxies
    Proxy,
}

/// The kinds of faults of a run.
#[derive(Debug, Clone)]
pub(crate) struct Nemesis {
    name: String,
    kinds: Vec<Kind>,
    /// Not each was asked for by its name: what cannot be is left out.
    is_all: bool,
}

impl Nemesis {
    /// As it was asked for.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl std::str::FromStr for Nemesis {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kinds, is_all) = match text {
            "all" => (Kind::ALL.to_vec(), true),
            "cluster" => (Kind::CLUSTER.to_vec(), false),
            "none" => (Vec::new(), false),
            _ => (text.split(',').map(kind).collect::<Result<_, _>>()?, false),
        };
        Ok(Nemesis { name: text.to_owned(), kinds, is_all })
    }
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::from_str(text, false).map_err(|_| {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        format!("there is no nemesis {text:?}; there are {}, all, cluster and none", names.join(", "))
    })
}

fn flavor(text: &str) -> Result<Flavor, String> {
    match text {
        "mysql" => Ok(Flavor::MySql),
        "mariadb" => Ok(Flavor::MariaDb),
        _ => Err("it is mysql or mariadb".to_owned()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds >= 0.1 && seconds.is_finite() => Ok(seconds),
        _ => Err("it must be a number of seconds, 0.1 or more".to_owned()),
    }
}

impl Common {
    /// Goes on in a network namespace if that is wanted and can be had.
    pub(crate) fn enter_network(&self) -> Result<()> {
        if namespace::is_inside() || self.network == Network::Proxy {
            return Ok(());
        }
        match namespace::obstacle() {
            None => namespace::enter(self.db, self.store),
            Some(obstacle) if self.network == Network::Namespace => {
                bail!("no network namespace can be had: {obstacle}")
            }
            Some(_) => Ok(()),
        }
    }

    /// The options of a run.
    pub(crate) fn options(&self, workload: Workload, nemesis: &Nemesis) -> Result<Options> {
        let mut kinds = nemesis.kinds.clone();
        let shared = self.store.is_some();
        ensure!(shared || self.coordinators == 1, "several coordinators share a store: --store says which");
        if let Some(kind) = kinds.iter().find(|kind| !kind.is_for(shared)) {
            ensure!(
                nemesis.is_all,
                "the nemesis {} is for coordinators {} a store that they share",
                kind.name(),
                if shared { "without" } else { "with" },
            );
            kinds.retain(|kind| kind.is_for(shared));
        }
        if workload.needs_participants() && kinds.contains(&Kind::Bury) {
            ensure!(
                nemesis.is_all,
                "the workload {} has TCC branches, which only their participant can end: it cannot be buried",
                workload.name()
            );
            kinds.retain(|kind| *kind != Kind::Bury);
        }
        Ok(Options {
            workload,
            nemeses: kinds,
            flavor: self.db,
            databases: usize::from(self.databases),
            coordinators: usize::from(self.coordinators),
            store: self.store,
            time: Duration::from_secs(self.time),
            concurrency: self.concurrency,
            rate: self.rate,
            interval: Duration::from_secs_f64(self.interval),
            seed: self.seed.unwrap_or_else(|| u64::from(rand::random::<u32>())),
        })
    }
}

/// Makes one run.
pub(crate) async fn run(args: RunArgs) -> Result<ExitCode> {
    let options = args.common.options(args.workload, &args.nemesis)?;
    args.common.enter_network()?;
    let directory =
        args.output.unwrap_or_else(|| jepsen::run::default_directory(&options, &args.nemesis.name));
    let findings = make(&options, &args.nemesis.name, &directory).await?;
    print!("{}", super::check::told(&findings));
    println!("\n{}/index.html", directory.display());
    Ok(super::check::exit_code(findings.verdict()))
}

/// Makes a run and writes its report.
pub(crate) async fn make(options: &Options, nemesis: &str, directory: &Path) -> Result<Findings> {
    prepare(directory)?;
    let bar = progress(options);
    let show = |elapsed: Duration, [ok, failed, unknown]: [usize; 3]| {
        bar.set_position(elapsed.as_secs().min(options.time.as_secs()));
        let over = if elapsed > options.time { "; waiting until all has ended" } else { "" };
        bar.set_message(format!("{ok} ok, {failed} failed, {unknown} unknown{over}"));
    };
    // The processes work elsewhere.
    let outcome = jepsen::run::run(options, &std::path::absolute(directory)?, &show).await;
    bar.finish_and_clear();
    let Outcome { history, findings, take_overs } = outcome?;
    let mut parameters = parameters(options, nemesis);
    if let Some(store) = options.store {
        let coordinators = format!("{} on {store}, {take_overs} take-overs", options.coordinators);
        parameters.push(("coordinators".to_owned(), coordinators));
    }
    let report = Report {
        history: &history,
        title: format!("{}, nemesis {nemesis}, {}", options.workload.name(), options.flavor),
        parameters,
        command: command(options, nemesis),
        verdict: findings.verdict(),
        claims: findings.claims.clone(),
        anomalies: findings.anomalies.clone(),
        vacuous: findings.vacuous.clone(),
    };
    report::write(directory, &report)?;
    Ok(findings)
}

/// A run's directory is its own: what an earlier one has left there goes.
fn prepare(directory: &Path) -> Result<()> {
    if directory.exists() {
        let ours = directory.join("history.edn").exists() || directory.join("logs").exists();
        let empty = fs::read_dir(directory)?.next().is_none();
        ensure!(ours || empty, "{} is there, and is not an earlier run's", directory.display());
        fs::remove_dir_all(directory)?;
    }
    Ok(fs::create_dir_all(directory)?)
}

fn parameters(options: &Options, nemesis: &str) -> Vec<(String, String)> {
    let kinds: Vec<&str> = options.nemeses.iter().map(|kind| kind.name()).collect();
    [
        ("workload", options.workload.name().to_owned()),
        ("nemesis", format!("{nemesis} ({})", kinds.join(", "))),
        ("database", format!("{} × {}", options.databases, options.flavor)),
        ("seconds", options.time.as_secs().to_string()),
        ("clients", options.concurrency.to_string()),
        ("operations a second", options.rate.to_string()),
        ("seconds between faults", options.interval.as_secs_f64().to_string()),
        ("links", if namespace::is_inside() { "cut by the kernel" } else { "cut by proxies" }.to_owned()),
        ("seed", options.seed.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// The command that makes the same run again.
fn command(options: &Options, nemesis: &str) -> String {
    let sharing =
        options.store.map(|store| format!(" --coordinators {} --store {store}", options.coordinators));
    let sharing = sharing.unwrap_or_default();
    format!(
        "cargo run --release -p jepsen -- run --workload {} --nemesis {} --db {} --time {} --concurrency {} --rate {} \
         --databases {}{sharing} --interval {} --seed {}",
        options.workload.name(),
        nemesis,
        options.flavor.to_string().to_lowercase(),
        options.time.as_secs(),
        options.concurrency,
        options.rate,
        options.databases,
        options.interval.as_secs_f64(),
        options.seed
    )
}

fn progress(options: &Options) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(options.time.as_secs());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} s  {msg}") {
        bar.set_style(style);
    }
    bar
}
