//! `sandbox`: private MySQL and MariaDB servers from the command line.

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use concord_sandbox::{Environment, Flavor, Located, Server, ServerOptions, fetch, locate_cached, sweep};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// Private MySQL and MariaDB servers for demos, tests and benches.
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

#[derive(Args)]
struct Up {
    /// mysql or mariadb.
    #[arg(long, default_value = "mysql")]
    db: Flavor,
    /// How many servers.
    #[arg(short, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    n: u16,
    /// Run without a binary log.
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
    /// mysql or mariadb; both if not given.
    #[arg(long)]
    db: Option<Flavor>,
}

impl Which {
    fn flavors(&self) -> Vec<Flavor> {
        self.db.map_or_else(|| Flavor::ALL.to_vec(), |flavor| vec![flavor])
    }
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
    for server in &servers {
        let url = server.url(up.database.as_deref().unwrap_or_default());
        if up.json {
            println!(
                "{}",
                json!({
                    "flavor": server.flavor(),
                    "version": server.version(),
                    "url": url,
                    "port": server.port(),
                    "pid": server.pid(),
                    "data_dir": server.data_dir(),
                })
            );
        } else {
            let pid = server.pid().map(|pid| format!(", pid {pid}")).unwrap_or_default();
            println!("{url}   {} {}{pid}", server.flavor(), server.version());
        }
    }
    eprintln!("Ctrl-C ends {}.", if servers.len() == 1 { "it" } else { "them" });
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn start_all(up: &Up) -> Result<Vec<Server>> {
    let mut options = ServerOptions::new(up.db).binlog(!up.no_binlog).keep_data(up.keep_data);
    options.args.clone_from(&up.arg);
    let mut starting = JoinSet::new();
    for _ in 0..up.n {
        let (options, database) = (options.clone(), up.database.clone());
        starting.spawn(async move {
            let server = Server::start(options).await?;
            if let Some(database) = database {
                server.create_database(&database).await?;
            }
            Ok::<_, concord_sandbox::Error>(server)
        });
    }
    let mut servers = Vec::new();
    while let Some(started) = starting.join_next().await {
        servers.push(started??);
    }
    servers.sort_by_key(Server::port);
    Ok(servers)
}

fn fetch_all(which: &Which) -> Result<()> {
    let env = Environment::from_process();
    for flavor in which.flavors() {
        let installation = fetch(&env, flavor)?;
        println!("{flavor} {} is in {}", installation.version, env.cache_dir.display());
    }
    Ok(())
}

fn print_where(which: &Which, as_json: bool) -> Result<()> {
    let env = Environment::from_process();
    let mut rows = Vec::new();
    for flavor in which.flavors() {
        let located = locate_cached(&env, flavor);
        if as_json {
            rows.push(row(flavor, &located));
            continue;
        }
        match located {
            Ok(Located::External(external)) => {
                println!("{flavor} {}: the server named by CONCORD_TEST_MYSQL_URL", external.version);
            }
            Ok(Located::Installed(found)) => {
                let source = format!("{:?}", found.source).to_lowercase();
                println!("{flavor} {}: {} ({source})", found.version, found.program.display());
            }
            Err(error) if env.apt_dir.is_some() => {
                println!("{flavor}: would be fetched through apt, if this machine has it ({error})");
            }
            Err(error) => println!("{flavor}: {error}"),
        }
    }
    if as_json {
        let all = json!({ "cache_dir": env.cache_dir, "run_dir": env.run_dir, "servers": rows });
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

/// `found` is null where there is nothing yet, and `reason` says why.
fn row(flavor: Flavor, located: &concord_sandbox::Result<Located>) -> Value {
    match located {
        Ok(found) => json!({ "flavor": flavor, "found": found, "reason": null }),
        Err(error) => json!({ "flavor": flavor, "found": null, "reason": error.to_string() }),
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
