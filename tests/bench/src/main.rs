//! Measures Concord against what a user would do without it and against the machine's limits: real processes, real
//! databases, ratios taken in one run.
//!
//! `cargo run --release --bin bench -- --help`

mod bank_stage;
mod baseline;
mod contest;
mod crowd;
mod history;
mod load;
mod outcome;
mod processor_time;
mod report;
mod scenario;
mod service;
mod setup;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use concord_sandbox::Flavor;

use load::Schedule;
use report::{JsonFile, Progress, table};
use scenario::Scenario;
use setup::Setup;

/// As in the `concord` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Concord, and says whether each figure is reached
///
/// Exits with 1 when a figure is missed, unless with --quick.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to measure; all if none is given
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// On which databases
    #[arg(long, value_enum, default_value = "both")]
    db: Databases,
    /// About a minute for each scenario and database; a missed figure is no failure
    #[arg(long)]
    quick: bool,
    /// How often each side has its turn; the median of the rounds' ratios counts
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// How long each turn is
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// When transactions arrive in open loops
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: Schedule,
    /// Run the databases without a binary log
    #[arg(long)]
    no_binlog: bool,
    /// Write what was found to this file as well, a JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where plots go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    plot: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the scenarios, and what each is measured against
    List,
    #[command(flatten)]
    Role(service::Role),
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Databases {
    Mysql,
    Mariadb,
    Both,
}

impl Databases {
    fn flavors(self) -> &'static [Flavor] {
        match self {
            Databases::Mysql => &[Flavor::MySql],
            Databases::Mariadb => &[Flavor::MariaDb],
            Databases::Both => &[Flavor::MySql, Flavor::MariaDb],
        }
    }
}

/// A length of time that can be measured in.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3_600.0).contains(&seconds) { Ok(seconds) } else { Err("0.1 to 3600".to_owned()) }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    match arguments.command.take() {
        Some(Command::Role(role)) => role.serve().await,
        Some(Command::List) => {
            list();
            Ok(())
        }
        None => measure(arguments).await,
    }
}

fn list() {
    for scenario in Scenario::value_variants() {
        let value = scenario.to_possible_value();
        let help = value.as_ref().and_then(|value| value.get_help()).map(ToString::to_string);
        println!("{:12} {}", scenario.name(), help.unwrap_or_default());
    }
}

/// What else is going on here: `2 cores, load average 0.52 before the first scenario`.
fn machine() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split_whitespace().next().unwrap_or("?");
    Ok(format!("{cores} cores, load average {load} before the first scenario"))
}

async fn measure(arguments: Arguments) -> Result<()> {
    let setup = Setup {
        quick: arguments.quick,
        rounds: arguments.rounds.map(usize::from),
        seconds: arguments.seconds,
        arrivals: arguments.arrivals,
        binlog: !arguments.no_binlog,
        plots: arguments.plot,
        progress: Progress::new(),
    };
    let scenarios = match arguments.scenarios.as_slice() {
        [] => Scenario::value_variants(),
        chosen => chosen,
    };
    println!("{}", machine()?);
    let mut json = arguments.json.as_deref().map(JsonFile::create).transpose()?;
    let mut missed = Vec::new();
    scenario::measure(&setup, scenarios, arguments.db.flavors(), |outcomes| {
        if outcomes.is_empty() {
            return Ok(());
        }
        setup.progress.print(&table(&outcomes)?);
        if let Some(json) = &mut json {
            json.add(&outcomes)?;
        }
        missed.extend(outcomes.into_iter().filter(|outcome| !outcome.reached()).map(|outcome| outcome.name));
        Ok(())
    })
    .await?;
    setup.progress.done();
    anyhow::ensure!(setup.quick || missed.is_empty(), "missed: {}", missed.join("; "));
    Ok(())
}
