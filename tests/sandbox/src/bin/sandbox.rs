//! `sandbox`: private MySQL, MariaDB and PostgreSQL servers from the command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use concord_sandbox::{
    Environment, Flavor, Located, Postgres, PostgresOptions, Product, Server, ServerOptions, Source, fetch,
    fetch_postgres, locate_cached, locate_postgres_cached, sweep,
};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// Private MySQL, MariaDB and PostgreSQL servers for demos, tests and benches.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start servers, print their URLs, and run until Ctrl-C.
    Up(Up),
    /// Obtain servers ahead of time, so that the first test does not wait for them.
    Fetch(Which),
    /// Print which server would be used; fetches and changes nothing.
    Where {
        #[command(flatten)]
        which: Which,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Kill the servers of processes that died without stopping them, and remove their data.
    Sweep,
}

#[derive(Args, Clone)]
struct Up {
    /// mysql, mariadb or postgres.
    #[arg(long, default_value = "mysql")]
    db: Product,
    /// How many servers.
    #[arg(short, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    n: u16,
    /// Run without a binary log; not with postgres, which always has its own kind of log.
    #[arg(long)]
    no_binlog: bool,
    /// Leave the data directories behind.
    #[arg(long)]
    keep_data: bool,
    /// Create this database on each server.
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// A further argument for the servers; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    arg: Vec<String>,
    /// Print one JSON object per server.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Which {
    /// mysql, mariadb or postgres; all if not given.
    #[arg(long)]
    db: Option<Product>,
}

impl Which {
    fn products(&self) -> Vec<Product> {
        self.db.map_or_else(|| Product::ALL.to_vec(), |product| vec![product])
    }
}

/// A server of either kind, to be held until the end.
enum Started {
    Xa(Server),
    Postgres(Postgres),
}

impl Started {
    fn report(&self, database: &str) -> Report {
        match self {
            Started::Xa(server) => Report {
                flavor: server.flavor().into(),
                version: server.version().to_string(),
                url: server.url(database),
                port: server.port(),
                pid: server.pid(),
                data_dir: server.data_dir(),
            },
            Started::Postgres(server) => Report {
                flavor: Product::Postgres,
                version: Product::Postgres.release(server.version()),
                url: server.url(database),
                port: server.port(),
                pid: server.pid(),
                data_dir: Some(server.data_dir()),
            },
        }
    }
}

/// What is printed of a started server.
#[derive(Serialize)]
struct Report {
    flavor: Product,
    version: String,
    url: String,
    port: u16,
    pid: Option<u32>,
    data_dir: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Up(options) => up(options).await,
        Command::Fetch(which) => tokio::task::spawn_blocking(move || fetch_all(&which)).await?,
        Command::Where { which, json } => {
            tokio::task::spawn_blocking(move || print_where(&which, json)).await?
        }
        Command::Sweep => tokio::task::spawn_blocking(print_sweep).await?,
    }
}

async fn up(up: Up) -> Result<()> {
    // Before the servers exist, so that a Ctrl-C in the middle of a start is not lost.
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let servers = tokio::select! {
        servers = start_all(&up) => servers?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let mut reports: Vec<Report> = Vec::new();
    for server in &servers {
        reports.push(server.report(up.database.as_deref().unwrap_or_default()));
    }
    reports.sort_by_key(|report| report.port);
    for report in reports {
        if up.json {
            println!("{}", serde_json::to_string(&report)?);
        } else {
            let pid = report.pid.map(|pid| format!(", pid {pid}")).unwrap_or_default();
            println!("{}   {} {}{pid}", report.url, report.flavor, report.version);
        }
    }
    eprintln!("Ctrl-C ends {}.", if servers.len() == 1 { "it" } else { "them" });
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn start_all(up: &Up) -> Result<Vec<Started>> {
    let mut starting = JoinSet::new();
    for _ in 0..up.n {
        match up.db.flavor() {
            Some(flavor) => starting.spawn(start(flavor, up.clone())),
            None => starting.spawn(start_postgres(up.clone())),
        };
    }
    let mut servers = Vec::new();
    while let Some(started) = starting.join_next().await {
        servers.push(started??);
    }
    Ok(servers)
}

async fn start(flavor: Flavor, up: Up) -> Result<Started> {
    let mut options = ServerOptions::new(flavor).binlog(!up.no_binlog).keep_data(up.keep_data);
    options.args = up.arg;
    let server = Server::start(options).await?;
    if let Some(database) = up.database {
        server.create_database(&database).await?;
    }
    Ok(Started::Xa(server))
}

async fn start_postgres(up: Up) -> Result<Started> {
    anyhow::ensure!(!up.no_binlog, "--no-binlog is for mysql and mariadb: PostgreSQL has no binary log");
    let mut options = PostgresOptions::default().keep_data(up.keep_data);
    options.args = up.arg;
    let server = Postgres::start(options).await?;
    if let Some(database) = up.database {
        server.create_database(&database).await?;
    }
    Ok(Started::Postgres(server))
}

fn fetch_all(which: &Which) -> Result<()> {
    let env = Environment::from_process();
    for product in which.products() {
        let version = match product.flavor() {
            Some(flavor) => fetch(&env, flavor)?.version,
            None => fetch_postgres(&env)?.version,
        };
        println!("{product} {} is in {}", product.release(version), env.cache_dir.display());
    }
    Ok(())
}

fn print_where(which: &Which, as_json: bool) -> Result<()> {
    let env = Environment::from_process();
    let mut rows = Vec::new();
    for product in which.products() {
        let found = look(&env, product);
        if as_json {
            rows.push(row(product, found));
            continue;
        }
        match found {
            Ok(found) => println!("{product} {}", found.line),
            Err(error) if env.apt_dir.is_some() => {
                println!("{product}: would be fetched through apt, if this machine has it ({error})");
            }
            Err(error) => println!("{product}: {error}"),
        }
    }
    if as_json {
        let all = json!({ "cache_dir": env.cache_dir, "run_dir": env.run_dir, "servers": rows });
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

/// A server that would be used, for people and for programs.
struct Found {
    line: String,
    json: Value,
}

fn look(env: &Environment, product: Product) -> concord_sandbox::Result<Found> {
    let from = |version, program: &Path, source: Source| {
        let source = format!("{source:?}").to_lowercase();
        format!("{}: {} ({source})", product.release(version), program.display())
    };
    let Some(flavor) = product.flavor() else {
        let found = locate_postgres_cached(env)?;
        let line = from(found.version, &found.program, found.source);
        return Ok(Found { line, json: json!({ "installed": found }) });
    };
    let located = locate_cached(env, flavor)?;
    let line = match &located {
        Located::External(external) => {
            format!("{}: the server named by CONCORD_TEST_MYSQL_URL", external.version)
        }
        Located::Installed(found) => from(found.version, &found.program, found.source),
    };
    Ok(Found { line, json: json!(located) })
}

/// `found` is null where there is nothing yet, and `reason` says why.
fn row(product: Product, found: concord_sandbox::Result<Found>) -> Value {
    match found {
        Ok(found) => json!({ "flavor": product, "found": found.json, "reason": null }),
        Err(error) => json!({ "flavor": product, "found": null, "reason": error.to_string() }),
    }
}

fn print_sweep() -> Result<()> {
    let swept = sweep(&Environment::from_process())?;
    for swept in &swept {
        let killed = swept.killed_pid.map_or("no process".into(), |pid| format!("killed process {pid}"));
        println!("{}: {killed}", swept.dir.display());
    }
    if swept.is_empty() {
        println!("nothing to sweep");
    }
    Ok(())
}
