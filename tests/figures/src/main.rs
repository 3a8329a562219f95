//! Measures what docs/performance.md states: real processes, real databases, ratios taken in one run.
//!
//! `cargo run --release --bin figures`

mod bank;
mod bare;
mod bare_orders;
mod contest;
mod hot;
mod load;
mod memory;
mod orders;
mod recovery;
mod shop;
mod stage;
mod throughput;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use concord_sandbox::Flavor;
use serde::Serialize;

/// As in the `concord` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Concord, and says whether each figure is reached
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    service: Option<Service>,
    /// On which databases
    #[arg(long, value_enum, default_value = "both")]
    db: Databases,
    /// Only these figures
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Figure>,
    /// Transfers in one round of the throughput figure
    #[arg(long, default_value_t = 3_000)]
    transfers: usize,
    /// Orders in one round of the orders figure
    #[arg(long, default_value_t = 2_000)]
    orders: usize,
    /// Rounds of the throughput and the orders figure; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Transactions held between decision and commit for the recovery figure
    #[arg(long, default_value_t = 1_000)]
    in_doubt: usize,
    /// Live transactions for the memory figure
    #[arg(long, default_value_t = 100_000)]
    live: usize,
    /// Run the databases without a binary log
    #[arg(long)]
    no_binlog: bool,
    /// Write the figures to this file as well
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Databases {
    Mysql,
    Mariadb,
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Figure {
    /// Throughput against a bare XA client, and syncs per transaction
    Throughput,
    /// From the coordinator's restart until nothing is in doubt
    Recovery,
    /// Memory per live transaction
    Memory,
    /// Orders by XA and TCC against a bare client
    Orders,
    /// Reservations of one hot SKU in 16 buckets, against one row
    Hot,
}

/// The processes that are measured are this program again.
#[derive(Debug, Subcommand)]
enum Service {
    #[command(hide = true)]
    Bank(bank::BankArgs),
    #[command(hide = true)]
    Shop(shop::ShopArgs),
    #[command(hide = true)]
    Coordinator(stage::CoordinatorArgs),
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Line {
    figure: String,
    database: String,
    value: f64,
    unit: &'static str,
    /// What it must be.
    wanted: Option<Bound>,
    detail: String,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Line {
    fn reached(&self) -> bool {
        match self.wanted {
            Some(Bound::AtMost(bound)) => self.value <= bound,
            Some(Bound::AtLeast(bound)) => self.value >= bound,
            None => true,
        }
    }

    fn print(&self) {
        let (wanted, verdict) = match self.wanted {
            Some(Bound::AtMost(bound)) => {
                (format!("at most {bound}"), if self.reached() { "ok" } else { "MISSED" })
            }
            Some(Bound::AtLeast(bound)) => {
                (format!("at least {bound}"), if self.reached() { "ok" } else { "MISSED" })
            }
            None => (String::new(), ""),
        };
        let Line { figure, database, value, unit, detail, .. } = self;
        println!("{database:8} {figure:42} {value:10.3} {unit:8} {wanted:14} {verdict:6} {detail}");
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::WARN)
        .init();
    match arguments.service {
        Some(Service::Bank(bank)) => return bank::serve(bank).await,
        Some(Service::Shop(shop)) => return shop::serve(shop).await,
        Some(Service::Coordinator(coordinator)) => return stage::coordinate(coordinator).await,
        None => {}
    }
    let lines = measure(&arguments).await?;
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&lines)?)?;
    }
    let missed = lines.iter().filter(|line| !line.reached()).count();
    anyhow::ensure!(missed == 0, "{missed} figures were missed");
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Vec<Line>> {
    let wants = |figure| arguments.only.is_empty() || arguments.only.contains(&figure);
    let flavors: &[Flavor] = match arguments.db {
        Databases::Mysql => &[Flavor::MySql],
        Databases::Mariadb => &[Flavor::MariaDb],
        Databases::Both => &[Flavor::MySql, Flavor::MariaDb],
    };
    let mut lines = Vec::new();
    let mut add = |new: Vec<Line>| {
        new.iter().for_each(Line::print);
        lines.extend(new);
    };
    if wants(Figure::Memory) {
        add(memory::measure(arguments.live).await?);
    }
    for &flavor in flavors {
        if wants(Figure::Orders) {
            add(orders::measure(flavor, !arguments.no_binlog, arguments.orders, arguments.rounds).await?);
        }
        if wants(Figure::Hot) {
            add(hot::measure(flavor, !arguments.no_binlog, arguments.transfers, arguments.rounds).await?);
        }
        if !wants(Figure::Throughput) && !wants(Figure::Recovery) {
            continue;
        }
        let mut stage = stage::Stage::set_up(flavor, !arguments.no_binlog).await?;
        if wants(Figure::Throughput) {
            add(throughput::measure(&stage, arguments.transfers, arguments.rounds).await?);
        }
        if wants(Figure::Recovery) {
            add(recovery::measure(&mut stage, arguments.in_doubt).await?);
        }
    }
    Ok(lines)
}
