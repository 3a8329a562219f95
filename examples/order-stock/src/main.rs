//! An order is a row in one database, goods frozen in a second and money frozen in a third: all of it happens, or
//! none.
//!
//! `order-stock` shows it: it starts three database servers, the order, stock and payment services and a
//! coordinator, places orders, and loses, repeats, delays and kills what it can. [`order`], [`stock`] and
//! [`payment`] are the parts to copy; [`demo`] is the show.

mod coordinator;
mod demo;
mod fill;
mod order;
mod payment;
mod stock;
mod switches;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// As in the `concord` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Watch orders, stock and money stay together across three real databases, whatever is lost or killed.
///
/// Starts three private database servers, an order, a stock and a payment service and a coordinator, each a
/// process of its own; places seven orders with accidents and many at once; checks that nothing was oversold and
/// nothing stays frozen. Leaves nothing behind. The first run on a machine may fetch a database server, without
/// root.
#[derive(Debug, Parser)]
#[command(name = "order-stock", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
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
    /// The order service alone, until SIGTERM: with a database and a coordinator of yours (deploy/compose)
    Order(order::OrderArgs),
    /// The stock service alone, until SIGTERM: with a database and a coordinator of yours (deploy/compose)
    Stock(stock::StockArgs),
    /// The payment service alone, until SIGTERM: with a database and a coordinator of yours (deploy/compose)
    Payment(payment::PaymentArgs),
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
        Service::Order(args) => order::serve(args).await?,
        Service::Stock(args) => stock::serve(args).await?,
        Service::Payment(args) => payment::serve(args).await?,
        Service::Serve(args) => coordinator::serve(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// To standard error, which is a file in the demo's directory.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
}
