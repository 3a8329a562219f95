//! Everything that a run runs on: coordinators, participants, a database server for each of these, one for what
//! coordinators share, and the links between them.
//!
//! ```text
//!   clients ──link──▶ coordinator ──link──▶ participant-0 ──link──▶ database-0
//!   (harness)          │    ▲  └───link──▶ participant-1 ──link──▶ database-1 …
//!                      │    └──link── participants                    ▲
//!                      └──────────────────────link (sweeper)──────────┘
//! ```
//!
//! Each of several coordinators has all of these links, one to the store, and one to each of the others.

mod database;
pub mod namespace;
pub mod network;
mod store;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use concord_sandbox::{Address, Flavor, Server, ServerOptions, Service};
use concord_seeded_bugs::SWITCH;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use network::{Caller, Firewall, Network, Node};

pub use database::{DATABASE, DatabaseAudit, Goods, JournalRow, Opening};
pub use store::{StoreKind, StoreServer};

/// A process that does not start for so long, with everything else mended, never will.
pub const START_MAX: Duration = Duration::from_secs(60);
/// How long a coordinator on a shared store may be silent.
pub const LEASE: Duration = Duration::from_secs(3);
/// The exit code of a coordinator whose store has failed, or that has lost its lease.
const STORE_FAILED: i32 = 3;
/// After how long a supervisor starts a coordinator that has ended in that way.
const SUPERVISED_EVERY: Duration = Duration::from_secs(1);

/// How a cluster is built.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Which product.
    pub flavor: Flavor,
    /// Database servers, and participants.
    pub databases: usize,
    /// Coordinators; with a store several may share it.
    pub coordinators: usize,
    /// Where coordinators keep their state. None: in a directory.
    pub store: Option<StoreKind>,
    /// Whether branches are SERIALIZABLE.
    pub serializable: bool,
    /// What is in the tables at the beginning.
    pub opening: Opening,
}

/// Processes and links. Dropped, everything ends.
#[derive(Debug)]
pub struct Cluster {
    /// Whoever makes a fault on a process or server holds it meanwhile, so that one fault does not undo another.
    coordinators: Vec<Mutex<Service>>,
    participants: Vec<Mutex<Service>>,
    databases: Vec<Mutex<Server>>,
    store: Option<Mutex<StoreServer>>,
    network: Network,
    addresses: Addresses,
    opening: Opening,
    /// Whether coordinators may have stopped because of a fault of the harness's.
    store_may_fail: AtomicBool,
}

/// Where nodes find each other.
#[derive(Debug)]
struct Addresses {
    /// The coordinators, as clients find them.
    coordinators: Vec<String>,
    /// The participants, as coordinators find them.
    participants: Vec<String>,
    /// The coordinators, without a link.
    direct: Vec<String>,
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
        let store = match options.store {
            Some(kind) => Some(StoreServer::start(kind).await?),
            None => None,
        };
        let firewall = namespace::is_inside().then(Firewall::set_up).transpose()?;
        let plan = Plan { options: &options, directory, logs: &logs, program: std::env::current_exe()? };
        let own = (0..options.coordinators).map(|_| Address::reserve()).collect::<Result<Vec<_>, _>>()?;
        let mut network = Network::new(firewall);
        let mut addresses = Addresses {
            coordinators: Vec::new(),
            participants: Vec::new(),
            direct: own.iter().map(Address::url).collect(),
        };
        for (number, own) in own.iter().enumerate() {
            let link = network.connect(Node::Clients, Node::Coordinator(number), own.socket().port())?;
            addresses.coordinators.push(link.url());
        }
        let mut participants = Vec::new();
        for (number, server) in servers.iter().enumerate() {
            let (url, service) = plan.participant(&mut network, number, server, &own)?;
            addresses.participants.push(url);
            participants.push(Mutex::new(service));
        }
        let mut coordinators = Vec::new();
        let ports: Vec<u16> = own.iter().map(|own| own.socket().port()).collect();
        for (number, own) in own.into_iter().enumerate() {
            let mut config = coordinator_config(&own);
            config += &plan.store(&mut network, number, &ports, store.as_ref())?;
            config += &plan.resources(&mut network, number, &servers, &addresses)?;
            fs::write(plan.config_file(number), config)?;
            let arguments = vec!["coordinator".into(), "--config".into(), plan.config_file(number).into()];
            coordinators.push(Mutex::new(plan.service(Node::Coordinator(number), arguments, own)));
        }
        let cluster = Cluster {
            coordinators,
            participants,
            databases: servers.into_iter().map(Mutex::new).collect(),
            store: store.map(Mutex::new),
            network,
            addresses,
            opening: options.opening,
            store_may_fail: AtomicBool::default(),
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

    /// The coordinators as clients find them, through their links: with commas between them.
    pub fn coordinator_urls(&self) -> String {
        self.addresses.coordinators.join(",")
    }

    /// The coordinators without a link, for the looks of the harness itself.
    pub fn coordinators_direct(&self) -> &[String] {
        &self.addresses.direct
    }

    /// A participant as the coordinator finds it.
    pub fn participant_url(&self, number: usize) -> &str {
        &self.addresses.participants[number]
    }

    /// Coordinators and participants.
    pub fn processes(&self) -> impl Iterator<Item = Node> {
        let participants = 0..self.participants.len();
        self.coordinators().chain(participants.map(Node::Participant))
    }

    /// Coordinators.
    pub fn coordinators(&self) -> impl Iterator<Item = Node> + use<> {
        (0..self.coordinators.len()).map(Node::Coordinator)
    }

    /// The process of a node, for one fault alone. A coordinator that has stopped because of a fault is started again, as
    /// a supervisor would: it may have noticed late.
    ///
    /// # Errors
    /// When the node is no process of ours; when it does not start.
    pub async fn process(&self, node: Node) -> Result<MutexGuard<'_, Service>> {
        let process = match node {
            Node::Coordinator(number) => self.coordinators.get(number),
            Node::Participant(number) => self.participants.get(number),
            Node::Clients | Node::Database(_) | Node::Store => None,
        };
        let mut process = process.with_context(|| format!("{node} is no process of ours"))?.lock().await;
        if self.has_given_up(node, &mut process)? {
            start_persistently(&mut process, START_MAX).await?;
        }
        Ok(process)
    }

    /// Whether a process is a coordinator that has ended by itself, and may.
    ///
    /// # Errors
    /// When the system cannot be asked.
    pub fn has_given_up(&self, node: Node, process: &mut Service) -> Result<bool> {
        let store_failed = process.exited()?.is_some_and(|status| status.code() == Some(STORE_FAILED));
        let may_fail = self.store_may_fail.load(Ordering::Relaxed);
        Ok(store_failed && may_fail && matches!(node, Node::Coordinator(_)))
    }

    /// From now on coordinators may stop because their store does not do what it should.
    pub fn store_may_fail(&self) {
        self.store_may_fail.store(true, Ordering::Relaxed);
    }

    /// Starts coordinators that have given up, for ever.
    ///
    /// # Errors
    /// When one does not start.
    pub async fn supervise(&self) -> Result<Infallible> {
        let supervised = self.coordinators().map(|node| async move {
            loop {
                tokio::time::sleep(SUPERVISED_EVERY).await;
                drop(self.process(node).await?);
            }
        });
        futures_util::future::select_all(supervised.map(Box::pin)).await.0
    }

    /// The server that holds what coordinators share, if they share anything.
    pub fn store(&self) -> Option<&Mutex<StoreServer>> {
        self.store.as_ref()
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

/// What a cluster is made after.
struct Plan<'a> {
    options: &'a ClusterOptions,
    directory: &'a Path,
    logs: &'a Path,
    program: PathBuf,
}

impl Plan<'_> {
    fn config_file(&self, coordinator: usize) -> PathBuf {
        self.directory.join(format!("coordinator-{coordinator}.toml"))
    }

    /// Coordinators as callers, but for one of them.
    fn coordinators(&self, without: Option<usize>) -> Vec<Caller> {
        let callers = (0..self.options.coordinators).filter(|number| Some(*number) != without);
        let caller = |number| Caller {
            node: Node::Coordinator(number),
            last_argument: self.config_file(number).display().to_string(),
        };
        callers.map(caller).collect()
    }

    /// A participant and its links; answers with its address, as coordinators know it.
    fn participant(
        &self,
        network: &mut Network,
        number: usize,
        server: &Server,
        coordinators: &[Address],
    ) -> Result<(String, Service)> {
        let (address, node) = (Address::reserve()?, Node::Participant(number));
        let url = network.connect_all(&self.coordinators(None), node, address.socket().port())?;
        let to_coordinators: Vec<String> = (0..)
            .zip(coordinators)
            .map(|(to, one)| Ok(network.connect(node, Node::Coordinator(to), one.socket().port())?.url()))
            .collect::<Result<_>>()?;
        let to_database = network.connect(node, Node::Database(number), server.port())?.port();
        let mut arguments: Vec<OsString> = vec!["participant".into()];
        for (flag, value) in [
            ("--listen", address.to_string()),
            ("--address", url.clone()),
            ("--database", database::url(to_database)),
            ("--coordinator", to_coordinators.join(",")),
        ] {
            arguments.extend([flag.into(), value.into()]);
        }
        // The others are called at their address alone.
        if number.is_multiple_of(2) {
            arguments.push("--attached".into());
        }
        if self.options.serializable {
            arguments.push("--serializable".into());
        }
        Ok((url, self.service(node, arguments, address)))
    }

    /// Where a coordinator keeps its state, as its configuration says it, and how the others reach it.
    fn store(
        &self,
        network: &mut Network,
        number: usize,
        ports: &[u16],
        store: Option<&StoreServer>,
    ) -> Result<String> {
        let Some(store) = store else {
            return Ok(format!("[store]\ndata_dir = {:?}\n", self.directory.join("coordinator-data")));
        };
        let node = Node::Coordinator(number);
        let link = network.connect(node, Node::Store, store.port())?;
        let mut config = format!("[store]\nurl = {:?}\n", store.url(link.port()));
        let others = self.coordinators(Some(number));
        config += &format!("[cluster]\nname = \"{node}\"\nlease_ms = {}\n", LEASE.as_millis());
        if !others.is_empty() {
            let url = network.connect_all(&others, node, ports[number])?;
            config += &format!("address = {:?}\n", url.trim_start_matches("http://"));
        }
        Ok(config)
    }

    /// The databases that a coordinator's sweeper looks at.
    fn resources(
        &self,
        network: &mut Network,
        number: usize,
        servers: &[Server],
        addresses: &Addresses,
    ) -> Result<String> {
        let mut config = String::new();
        for (database, server) in servers.iter().enumerate() {
            let link = network.connect(Node::Coordinator(number), Node::Database(database), server.port())?;
            config += &format!(
                "[[resource]]\nname = \"database-{database}\"\nurl = {:?}\nparticipants = [{:?}]\n",
                database::url(link.port()),
                addresses.participants[database],
            );
        }
        Ok(config)
    }

    fn service(&self, node: Node, arguments: Vec<OsString>, address: Address) -> Service {
        let name = node.to_string();
        let log = self.logs.join(format!("{name}.log"));
        let service = Service::new(&name, self.program.clone(), arguments, address, log);
        // A bug on purpose is on in the processes, and not in the harness.
        match std::env::var_os(SWITCH) {
            Some(bug) => service.env(SWITCH, bug),
            None => service,
        }
    }
}

/// Short times, so that much happens in a minute.
fn coordinator_config(address: &Address) -> String {
    format!(
        r#"[server]
listen = "{address}"
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
