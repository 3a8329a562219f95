//! The demo: what it starts, what it does to it, and what it finds.
//!
//! [`stage`] starts everything, [`scenarios`] and [`storm`] move money, [`audit`] looks at what came of it,
//! [`report`] tells.

pub(crate) mod account;
pub(crate) mod audit;
pub(crate) mod books;
pub(crate) mod initiator;
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
use concord_sandbox::Flavor;
use tempfile::TempDir;
use tokio::signal::unix::{Signal, SignalKind, signal};

use report::{Failure, Report};
use stage::Stage;
use storm::Load;

/// Lines of each log that are shown when something fails.
const LOG_TAIL_LINES: usize = 15;

/// What the demo can be told.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// The banks' database: mysql or mariadb [default: mysql if it can be had, else mariadb]
    #[arg(long)]
    pub db: Option<Flavor>,
    /// Random transfers
    #[arg(long, default_value_t = 1_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub transfers: u64,
    /// Random transfers at the same time
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub concurrency: u64,
    /// Accounts at each bank; the fewer, the more transfers wait for each other
    #[arg(long, default_value_t = 1_000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub accounts: u32,
    /// Kill -9 the coordinator and bank B in the middle of the random transfers
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
    say::headline("Concord: a bank transfer between two databases");
    let stage = place.insert(Stage::build(options, dir).await?);
    stage.describe(options);
    let mut record = Vec::new();
    let scenarios = scenarios::run(stage, &mut record).await?;
    let Options { transfers, concurrency, accounts, chaos, .. } = *options;
    say::headline(format!(
        "5  {} random transfers, {concurrency} at a time",
        say::thousands(i64::try_from(transfers)?)
    ));
    if chaos {
        say::line("Meanwhile the coordinator is killed -9, then bank B.");
    }
    let storm = storm::run(stage, Load { transfers, concurrency, accounts, chaos }, &mut record).await?;
    say::line(format!("Done in {:.1} s.", storm.seconds));
    let audit = audit::run(stage, accounts, &record).await?;
    let server = stage.books[0].server();
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
    let address = stage.coordinator.address();
    say::headline("Everything is left running until Ctrl-C. To look at it:");
    for command in [
        format!("cargo run --release --bin concord -- tx list --address http://{address}"),
        format!("cargo run --release --bin concord -- status --address http://{address}"),
        format!("grpcurl -plaintext {address} list"),
        format!("grpcurl -plaintext -d '{{\"page_size\": 3}}' {address} concord.v1.Coordinator/List"),
        format!("mysql --host 127.0.0.1 --port {} --user root bank_a", stage.books[0].server().port()),
        format!("ls {}", dir.display()),
    ] {
        say::line(command);
    }
    say::line(format!("While there is a file {}, bank B turns commits away.", stage.banks[1].hold.display()));
}

/// A directory on a real disk where there is one: `/tmp` is memory on many systems, and a sync costs nothing
/// there.
fn run_dir() -> Result<TempDir> {
    let make = |base: &Path| tempfile::Builder::new().prefix("concord-bank-transfer-").tempdir_in(base);
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
