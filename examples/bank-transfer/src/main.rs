//! Money moves between two banks, each a service with a database server of its own, through Concord.
//!
//! `bank-transfer` shows it: it starts two database servers, two banks and a coordinator, moves money, and
//! kills whoever is in the middle of it. [`bank`] is the part to copy; [`demo`] is the show.

mod bank;
mod coordinator;
mod demo;
mod hold;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// As in the `concord` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Watch money move atomically between two real database servers, whatever is killed meanwhile.
///
/// Starts two private database servers, two bank services and a coordinator, each a process of its own; runs
/// four transfers with accidents and many at random; checks that no money was made or lost. Leaves nothing
/// behind. The first run on a machine may fetch a database server, without root.
#[derive(Debug, Parser)]
#[command(name = "bank-transfer", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
#[command(after_help = "\
Exit codes: 0 everything held, 1 an invariant is broken or something failed, 2 bad usage, 130 Ctrl-C.")]
struct Cli {
    /// None: the demo, which starts its processes by the others.
    #[command(subcommand)]
    service: Option<Service>,
    #[command(flatten)]
    options: demo::Options,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// A bank alone, until SIGTERM: with a database and a coordinator of yours (deploy/compose)
    Bank(bank::BankArgs),
    /// The coordinator
    #[command(hide = true)]
    Serve(coordinator::ServeArgs),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(run(cli));
    // Interrupted while a database server is being fetched, nobody waits for that.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let Some(service) = cli.service else { return demo::run(cli.options).await };
    start_log();
    match service {
        Service::Bank(args) => bank::serve(args).await?,
        Service::Serve(args) => coordinator::serve(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// To standard error, which is a file in the demo's directory.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
