//! Everything that a run runs on: a coordinator, participants, a database server for each, and the links between them.
//!
//! ```text
//!   clients ──link──▶ coordinator ──link──▶ participant-0 ──link──▶ database-0
//!   (harness)          │    ▲  └───link──▶ participant-1 ──link──▶ database-1 …
//!                      │    └──link── participants                    ▲
//!                      └──────────────────────link (sweeper)──────────┘
//! ```

mod database;
pub mod namespace;
pub mod network;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use concord_sandbox::{Address, Flavor, Server, ServerOptions, Service};
use concord_seeded_bugs::SWITCH;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use network::{Firewall, Network, Node};

pub use database::{DATABASE, DatabaseAudit, Goods, JournalRow, Opening};

/// A process that does not start for so long, with everything else mended, never will.
pub const START_MAX: Duration = Duration::from_secs(60);
/// The exit code of a coordinator whose store has failed.
const STORE_FAILED: i32 = 3;

/// How a cluster is built.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Which product.
    pub flavor: Flavor,
    /// Database servers, and participants.
    pub databases: usize,
    /// Whether branches are SERIALIZABLE.
    pub serializable: bool,
    /// What is in the tables at the beginning.
    pub opening: Opening,
}

/// Processes and links. Dropped, everything ends.
#[derive(Debug)]
pub struct Cluster {
    /// Whoever makes a fault on a process or server holds it meanwhile, so that one fault does not undo another.
    coordinator: Mutex<Service>,
    participants: Vec<Mutex<Service>>,
    databases: Vec<Mutex<Server>>,
    network: Network,
    addresses: Addresses,
    opening: Opening,
    /// Whether the coordinator may have stopped because its store could not grow.
    disk_was_full: AtomicBool,
}

/// Where nodes find each other.
#[derive(Debug)]
struct Addresses {
    /// The coordinator, as clients find it.
    coordinator: String,
    /// The participants, as the coordinator finds them.
    participants: Vec<String>,
    /// The coordinator, without a link.
    direct: String,
}

impl Cluster {
    /// Starts everything. Logs, the coordinator's data and its configuration go into `directory`.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(options: ClusterOptions, directory: &Path) -> Result<Cluster> {
        let logs = directory.join("logs");
        fs::create_dir_all(&logs)?;
        let starting = (0..options.databases).map(|_| Server::start(ServerOptions::new(options.flavor)));
        let servers = futures_util::future::try_join_all(starting).await?;
        ensure!(
            servers.iter().all(Server::is_private),
            "the servers must be the harness's own, to be killed: unset CONCORD_TEST_MYSQL_URL"
        );
        let creating = servers.iter().map(|server| database::create(server, &options.opening));
        futures_util::future::try_join_all(creating).await?;
        let program = std::env::current_exe().context("find this program's own file")?;
        let firewall = namespace::is_inside().then(Firewall::set_up).transpose()?;
        let mut network = Network::new(firewall);
        let (own, mut others) = (Address::reserve()?, Vec::new());
        let mut addresses = Addresses {
            coordinator: network.connect(Node::Clients, Node::Coordinator, own.socket().port())?.url(),
            participants: Vec::new(),
            direct: own.url(),
        };
        let mut config = coordinator_config(&own, directory);
        for (number, server) in servers.iter().enumerate() {
            let address = Address::reserve()?;
            let node = Node::Participant(number);
            let url = network.connect(Node::Coordinator, node, address.socket().port())?.url();
            let coordinator = network.connect(node, Node::Coordinator, own.socket().port())?.url();
            let to_database = network.connect(node, Node::Database(number), server.port())?.port();
            let sweeper = network.connect(Node::Coordinator, Node::Database(number), server.port())?.port();
            write!(
                config,
                "[[resource]]\nname = \"database-{number}\"\nurl = {:?}\nparticipants = [{url:?}]\n",
                database::url(sweeper)
            )?;
            let mut arguments: Vec<OsString> = vec!["participant".into()];
            for (flag, value) in [
                ("--listen", address.to_string()),
                ("--address", url.clone()),
                ("--database", database::url(to_database)),
                ("--coordinator", coordinator),
            ] {
                arguments.extend([flag.into(), value.into()]);
            }
            // The others are called at their address alone.
            if number % 2 == 0 {
                arguments.push("--attached".into());
            }
            if options.serializable {
                arguments.push("--serializable".into());
            }
            addresses.participants.push(url);
            others.push(service(node, &program, arguments, address, &logs));
        }
        let config_file = directory.join("coordinator.toml");
        fs::write(&config_file, config)?;
        let arguments = vec!["coordinator".into(), "--config".into(), config_file.into()];
        let coordinator = service(Node::Coordinator, &program, arguments, own, &logs);
        let cluster = Cluster {
            coordinator: Mutex::new(coordinator),
            participants: others.into_iter().map(Mutex::new).collect(),
            databases: servers.into_iter().map(Mutex::new).collect(),
            network,
            addresses,
            opening: options.opening,
            disk_was_full: AtomicBool::default(),
        };
        for node in cluster.processes() {
            cluster.process(node).await?.start().await?;
        }
        cluster.fill().await?;
        Ok(cluster)
    }

    /// Puts into the tables of the SDK what is there at the beginning: the participants have created them.
    async fn fill(&self) -> Result<()> {
        for server in &self.databases {
            database::fill(&*server.lock().await, &self.opening).await?;
        }
        Ok(())
    }

    /// How many databases, and participants, there are.
    pub fn databases(&self) -> usize {
        self.databases.len()
    }

    /// The links.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The coordinator as clients find it, through their link.
    pub fn coordinator_url(&self) -> &str {
        &self.addresses.coordinator
    }

    /// The coordinator without a link, for the looks of the harness itself.
    pub fn coordinator_direct(&self) -> &str {
        &self.addresses.direct
    }

    /// A participant as the coordinator finds it.
    pub fn participant_url(&self, number: usize) -> &str {
        &self.addresses.participants[number]
    }

    /// Coordinator and participants.
    pub fn processes(&self) -> impl Iterator<Item = Node> {
        let participants = 0..self.participants.len();
        std::iter::once(Node::Coordinator).chain(participants.map(Node::Participant))
    }

    /// The process of a node, for one fault alone. A coordinator that has stopped because its disk was full is started
    /// again, as a supervisor would: it may have noticed late.
    ///
    /// # Errors
    /// When the node is no process of ours; when it does not start.
    pub async fn process(&self, node: Node) -> Result<MutexGuard<'_, Service>> {
        let process = match node {
            Node::Coordinator => Some(&self.coordinator),
            Node::Participant(number) => self.participants.get(number),
            Node::Clients | Node::Database(_) => None,
        };
        let mut process = process.with_context(|| format!("{node} is no process of ours"))?.lock().await;
        let store_failed = process.exited()?.is_some_and(|status| status.code() == Some(STORE_FAILED));
        if store_failed && node == Node::Coordinator && self.disk_was_full.load(Ordering::Relaxed) {
            start_persistently(&mut process, START_MAX).await?;
        }
        Ok(process)
    }

    /// From now on the coordinator may stop because its store cannot grow.
    pub fn disk_is_full(&self) {
        self.disk_was_full.store(true, Ordering::Relaxed);
    }

    /// A database server.
    pub fn database(&self, number: usize) -> &Mutex<Server> {
        &self.databases[number]
    }

    /// How many prepared branches of ours and open TCC branches a database has.
    ///
    /// # Errors
    /// What the database says.
    pub async fn residue(&self, number: usize, cluster: u64) -> Result<u64> {
        database::residue(&*self.databases[number].lock().await, cluster).await
    }

    /// What is in a database, when nothing goes on any more.
    ///
    /// # Errors
    /// What the database says.
    pub async fn audit(&self, number: usize, cluster: u64) -> Result<DatabaseAudit> {
        database::audit(&*self.databases[number].lock().await, number, &self.opening, cluster).await
    }
}

/// Starts a process, again and again while what it needs is not there, as a supervisor would.
///
/// # Errors
/// When it does not start for very long.
pub async fn start_persistently(process: &mut Service, patience: Duration) -> Result<()> {
    let started = Instant::now();
    loop {
        match process.start().await {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > patience => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

fn service(node: Node, program: &Path, arguments: Vec<OsString>, address: Address, logs: &Path) -> Service {
    let name = node.to_string();
    let log = logs.join(format!("{name}.log"));
    let service = Service::new(&name, program.to_owned(), arguments, address, log);
    // A bug on purpose is on in the processes, and not in the harness.
    match std::env::var_os(SWITCH) {
        Some(bug) => service.env(SWITCH, bug),
        None => service,
    }
}

/// Short times, so that much happens in a minute.
fn coordinator_config(address: &Address, directory: &Path) -> String {
    let data_dir: PathBuf = directory.join("coordinator-data");
    format!(
        r#"[server]
listen = "{address}"
[store]
data_dir = {data_dir:?}
[transaction]
timeout_default_ms = 5000
[calls]
timeout_ms = 2000
connect_timeout_ms = 1000
[phase_two]
backoff_first_ms = 20
backoff_max_ms = 1000
[breaker]
open_ms = 500
[sweeper]
interval_ms = 500
safety_interval_ms = 2000
[log]
filter = "info,concord_coordinator=debug"
"#
    )
}
