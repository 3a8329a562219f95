//! The demo: what it starts, what it does to it, and what it finds.
//!
//! [`stage`] starts everything, [`scenarios`] and [`storm`] place orders, [`audit`] looks at what came of them,
//! [`report`] tells.

pub(crate) mod audit;
pub(crate) mod books;
pub(crate) mod catalog;
pub(crate) mod customer;
pub(crate) mod observer;
pub(crate) mod part;
pub(crate) mod record;
pub(crate) mod report;
pub(crate) mod say;
pub(crate) mod scenarios;
pub(crate) mod stage;
pub(crate) mod storm;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use clap::builder::RangedI64ValueParser;
use concord_sandbox::Flavor;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use catalog::{BUYERS_MAX, CUSTOMER, HOT};
use part::Part;
use report::{Failure, Report};
use stage::Stage;
use storm::Load;

/// Lines of each log that are shown when something fails.
const LOG_TAIL_LINES: usize = 15;

/// What the demo can be told.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The services' database: mysql or mariadb [default: mysql if it can be had, else mariadb]
    #[arg(long)]
    pub db: Option<Flavor>,
    /// Random orders
    #[arg(long, default_value_t = 2_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub orders: u64,
    /// Buyers, each with one order at a time
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = RangedI64ValueParser::<u32>::new().range(1..=i64::from(BUYERS_MAX)))]
    pub buyers: u32,
    /// Buckets into which the hot SKU is split, so that as many buyers do not wait for each other
    #[arg(long, default_value_t = 16, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1_024))]
    pub buckets: u16,
    /// The random orders are the same for the same seed [default: a random one]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Kill -9 the coordinator and the stock service in the middle of the random orders
    #[arg(long)]
    pub chaos: bool,
    /// Write the results as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Leave everything running until Ctrl-C, and say how to look at it
    #[arg(long)]
    pub keep: bool,
    /// Run this `concord` program as the coordinator, not the one that is built in
    #[arg(long, value_name = "PROGRAM")]
    pub concord: Option<PathBuf>,
}

/// Runs the demo, and leaves nothing behind, however it ends.
///
/// # Errors
/// When it cannot even begin.
pub(crate) async fn run(mut options: Options) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    if let Some(program) = &options.concord {
        options.concord =
            Some(program.canonicalize().with_context(|| format!("find {}", program.display()))?);
    }
    let dir = run_dir()?;
    let mut stage = None;
    // Ctrl-C drops what is under way; the processes end as `stage` is dropped, before the directory goes.
    let code = tokio::select! {
        code = signals.next() => {
            println!("\ninterrupted: ending all processes");
            code
        }
        result = perform(&options, dir.path(), &mut stage) => conclude(&options, dir.path(), stage.as_ref(), result)?,
    };
    if let (true, Some(stage)) = (options.keep, &stage) {
        tell_how_to_look(stage, dir.path());
        signals.next().await;
    }
    if let Some(stage) = stage {
        stage.remove().await?;
    }
    Ok(code)
}

async fn perform(options: &Options, dir: &Path, place: &mut Option<Stage>) -> Result<Report> {
    say::headline("Concord: orders, stock and money in three databases");
    let stage = place.insert(Stage::build(options, dir).await?);
    stage.describe(options);
    let mut record = Vec::new();
    let scenarios = scenarios::run(stage, options.orders, &mut record).await?;
    let Options { orders, buyers, chaos, .. } = *options;
    let seed = options.seed.unwrap_or_else(rand::random);
    say::headline(format!(
        "8  {} random orders by {buyers} buyers, half of them for {HOT}",
        say::thousands(i64::try_from(orders)?)
    ));
    say::line(format!("The same again with --seed {seed}"));
    if chaos {
        say::line("Meanwhile the coordinator is killed -9, then the stock service.");
    }
    let storm = storm::run(stage, Load { orders, buyers, seed, chaos }, &mut record).await?;
    say::line(format!("Done in {:.1} s.", storm.seconds));
    let audit = audit::run(stage, options, &record).await?;
    let server = stage.books(Part::Order).server();
    let database = report::Database { flavor: server.flavor().id(), version: server.version().to_string() };
    Ok(Report { ok: audit.passed(), database, scenarios, storm, audit })
}

/// Shows how it went, and where it went wrong.
fn conclude(
    options: &Options,
    dir: &Path,
    stage: Option<&Stage>,
    result: Result<Report>,
) -> Result<ExitCode> {
    let passed = match result {
        Ok(report) => {
            report.print()?;
            if let Some(path) = &options.json {
                report::write_json(path, &report)?;
            }
            report.ok
        }
        Err(error) => {
            let error = format!("{error:#}");
            eprintln!("\nfailed: {error}");
            if let Some(path) = &options.json {
                report::write_json(path, &Failure { ok: false, error })?;
            }
            false
        }
    };
    if passed {
        return Ok(ExitCode::SUCCESS);
    }
    show_logs(dir, stage)?;
    Ok(ExitCode::FAILURE)
}

fn show_logs(dir: &Path, stage: Option<&Stage>) -> Result<()> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            logs.push((name, String::from_utf8_lossy(&fs::read(&path)?).into_owned()));
        }
    }
    logs.sort();
    logs.extend(stage.into_iter().flat_map(Stage::server_logs));
    for (name, text) in logs {
        eprintln!("\nthe end of the log: {name}");
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].iter().for_each(|line| eprintln!("   {line}"));
    }
    Ok(())
}

fn tell_how_to_look(stage: &Stage, dir: &Path) {
    let (coordinator, door) = (stage.coordinator.address(), stage.part(Part::Order).process.address());
    let wish = |more: &str| format!("'{{\"sku\":\"T00101\",\"qty\":2,\"user\":{CUSTOMER}{more}}}'");
    let mysql = |part: Part, sql: &str| {
        let books = stage.books(part);
        format!("mysql -h 127.0.0.1 -P {} -u root {} -e '{sql}'", books.server().port(), books.database())
    };
    let concord = "cargo run --release --bin concord --";
    let pid = |part: Part| stage.part(part).process.pid();
    let [order, stock, payment] = Part::ALL.map(pid);
    say::headline("Everything is left running until Ctrl-C.");
    say::line(format!(
        "Processes: order {order}, stock {stock}, payment {payment}, coordinator {}",
        stage.coordinator.pid()
    ));
    say::headline("To order something:");
    for command in [
        format!("curl -d {} http://{door}/orders", wish("")),
        format!("curl -d {} http://{door}/orders", wish(",\"request_id\":\"mine\"")),
        format!("curl http://{door}/orders/ID"),
        format!("grpcurl -plaintext -d {} {door} orderstock.v1.Orders/Place", wish("")),
        format!("grpcurl -plaintext {door} describe orderstock.v1.Orders"),
    ] {
        say::line(command);
    }
    say::headline("To look at what came of it (an order's ID is its global transaction's):");
    for command in [
        format!("{concord} tx list --address http://{coordinator}"),
        format!("{concord} tx get ID --address http://{coordinator}"),
        format!("grpcurl -plaintext -d '{{\"gtid\":\"ID\"}}' {coordinator} concord.v1.Coordinator/Get"),
        mysql(Part::Order, "SELECT * FROM orders"),
        mysql(Part::Stock, "SELECT * FROM stock"),
        mysql(Part::Payment, "SELECT * FROM balance"),
        format!("ls {}", dir.display()),
    ] {
        say::line(command);
    }
    say::line(
        "An order that is not delivered everywhere within 10 s is answered 202: it stands all the same.",
    );
    let hold = stage.part(Part::Stock).file(crate::switches::HOLD_PHASE_TWO);
    say::line(format!("While there is a file {}, the stock service turns Confirm away.", hold.display()));
}

/// A directory on a real disk where there is one: `/tmp` is memory on many systems, and a sync costs nothing
/// there.
fn run_dir() -> Result<TempDir> {
    let make = |base: &Path| tempfile::Builder::new().prefix("concord-order-stock-").tempdir_in(base);
    if std::env::var_os("TMPDIR").is_none()
        && let Ok(dir) = make(Path::new("/var/tmp"))
    {
        return Ok(dir);
    }
    make(&std::env::temp_dir()).context("make a directory for logs and data")
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them, and gives the exit code that a shell would.
    async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.interrupt.recv() => ExitCode::from(130),
            _ = self.terminate.recv() => ExitCode::from(143),
            _ = self.hangup.recv() => ExitCode::from(129),
        }
    }
}
