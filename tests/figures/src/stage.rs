//! Two databases, two banks, a coordinator.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use concord_coordinator::config::Config;
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::operator_client::OperatorClient;
use concord_proto::v1::{
    BranchKind, BranchRequest, ExecuteRequest, GetStatusRequest, GetStatusResponse, Wait,
};
use concord_sandbox::{Address, Flavor, Server, ServerOptions, Service, parent_gone};
use mysql_async::prelude::Queryable as _;
use tonic::transport::{Channel, Endpoint};

use crate::bank::Share;

/// Accounts of each bank. Many, so that transfers seldom wait for each other: this measures the coordinator.
pub(crate) const ACCOUNTS: u32 = 10_000;
const DATABASE: &str = "bank";
/// Held branches keep a session each on MariaDB.
const SESSIONS_MAX: usize = 1_500;

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArgs {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    data_dir: PathBuf,
}

/// The real coordinator with its default configuration, but for the address and the directory.
pub(crate) async fn coordinate(args: CoordinatorArgs) -> Result<()> {
    let mut config = Config::default();
    config.server.listen = args.listen;
    config.store.data_dir = args.data_dir;
    concord_coordinator::serve::run(config, parent_gone()).await?;
    Ok(())
}

/// Starts a coordinator in `directory`.
pub(crate) async fn coordinator(directory: &std::path::Path) -> Result<Service> {
    let address = Address::reserve()?;
    let arguments = [
        "coordinator".to_owned(),
        format!("--listen={}", address),
        format!("--data-dir={}", directory.join("concord-data").display()),
    ];
    let log = directory.join("coordinator.log");
    let mut coordinator = Service::new("coordinator", std::env::current_exe()?, arguments, address, log);
    coordinator.start().await?;
    Ok(coordinator)
}

/// A connection that is made when it is first used, and again when it broke.
pub(crate) fn channel(url: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect_lazy())
}

/// Everything that a figure needs. Fields are dropped in this order.
pub(crate) struct Stage {
    pub(crate) banks: [Service; 2],
    pub(crate) coordinator: Service,
    pub(crate) databases: [Server; 2],
    pub(crate) flavor: Flavor,
    pub(crate) hold: PathBuf,
    _directory: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn set_up(flavor: Flavor, binlog: bool) -> Result<Stage> {
        // Not the system's temporary directory: that may be memory, where syncs cost nothing.
        let directory = tempfile::Builder::new().prefix("concord-figures-").tempdir_in("/var/tmp")?;
        let path = directory.path();
        let coordinator = coordinator(path).await?;
        let hold = path.join("hold");
        let databases = [database(flavor, binlog).await?, database(flavor, binlog).await?];
        let mut banks = Vec::new();
        for (index, database) in databases.iter().enumerate() {
            let address = Address::reserve()?;
            let arguments = [
                "bank".to_owned(),
                format!("--listen={}", address),
                format!("--database={}", database.url(DATABASE)),
                format!("--coordinator={}", coordinator.url()),
                format!("--hold={}", hold.display()),
                format!("--sessions-max={SESSIONS_MAX}"),
            ];
            let (name, log) = (format!("bank-{index}"), path.join(format!("bank-{index}.log")));
            let mut bank = Service::new(&name, std::env::current_exe()?, arguments, address, log);
            bank.start().await?;
            banks.push(bank);
        }
        let banks = <[Service; 2]>::try_from(banks).ok().context("two banks")?;
        Ok(Stage { banks, coordinator, databases, flavor, hold, _directory: directory })
    }

    pub(crate) fn client(&self) -> Result<CoordinatorClient<Channel>> {
        Ok(CoordinatorClient::new(channel(&self.coordinator.url())?))
    }

    pub(crate) async fn status(&self) -> Result<GetStatusResponse> {
        let mut operator = OperatorClient::new(channel(&self.coordinator.url())?);
        Ok(operator.get_status(GetStatusRequest {}).await?.into_inner())
    }

    /// A random transfer from one bank to the other.
    pub(crate) fn random_transfer(&self) -> Result<ExecuteRequest> {
        let account = || rand::random_range(1..=ACCOUNTS);
        self.transfer([account(), account()], Wait::Completed)
    }

    /// A transfer from an account of one bank to an account of the other.
    pub(crate) fn transfer(&self, accounts: [u32; 2], wait: Wait) -> Result<ExecuteRequest> {
        let amount = rand::random_range(1..10);
        let branch = |bank: usize, amount: i64| -> Result<BranchRequest> {
            let share = Share { account: accounts[bank], amount };
            Ok(BranchRequest {
                kind: BranchKind::Xa.into(),
                participant: self.banks[bank].url(),
                action: "book".into(),
                payload: serde_json::to_vec(&share)?.into(),
            })
        };
        let branches = vec![branch(0, -amount)?, branch(1, amount)?];
        Ok(ExecuteRequest { branches, wait: wait.into(), timeout_ms: 60_000, ..ExecuteRequest::default() })
    }

    /// Branches listed by XA RECOVER, on both databases together.
    pub(crate) async fn in_doubt(&self) -> Result<usize> {
        let mut count = 0;
        for database in &self.databases {
            let mut connection = mysql_async::Conn::from_url(database.url(DATABASE)).await?;
            count += connection.query::<mysql_async::Row, _>("XA RECOVER").await?.len();
            connection.disconnect().await?;
        }
        Ok(count)
    }

    /// Processor time used so far.
    pub(crate) fn cost(&self) -> Result<Cost> {
        Cost::so_far(&self.databases, &self.banks, &self.coordinator)
    }

    pub(crate) fn urls(&self) -> [String; 2] {
        [self.databases[0].url(DATABASE), self.databases[1].url(DATABASE)]
    }
}

async fn database(flavor: Flavor, binlog: bool) -> Result<Server> {
    let server = Server::start(ServerOptions::new(flavor).binlog(binlog)).await?;
    server.create_database(DATABASE).await?;
    let mut connection = mysql_async::Conn::from_url(server.url(DATABASE)).await?;
    connection
        .query_drop(
            "CREATE TABLE account (id INT UNSIGNED PRIMARY KEY, balance BIGINT NOT NULL) ENGINE = InnoDB",
        )
        .await?;
    connection
        .query_drop(
            "CREATE TABLE ledger (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, account INT UNSIGNED NOT NULL, \
             amount BIGINT NOT NULL) ENGINE = InnoDB",
        )
        .await?;
    for chunk in (1..=ACCOUNTS).collect::<Vec<_>>().chunks(1_000) {
        let rows: Vec<String> = chunk.iter().map(|id| format!("({id}, 1000000)")).collect();
        connection.query_drop(format!("INSERT INTO account VALUES {}", rows.join(", "))).await?;
    }
    connection.disconnect().await?;
    Ok(server)
}

/// Processor time, in seconds.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Cost {
    databases: f64,
    services: f64,
    coordinator: f64,
    /// This process: the initiator, or the bare client.
    client: f64,
}

impl Cost {
    /// What was used so far.
    pub(crate) fn so_far(databases: &[Server], services: &[Service], coordinator: &Service) -> Result<Cost> {
        let mut cost = Cost {
            coordinator: cpu_seconds(coordinator.pid())?,
            client: cpu_seconds(std::process::id())?,
            ..Cost::default()
        };
        for database in databases {
            cost.databases += cpu_seconds(database.pid().context("a private server")?)?;
        }
        for service in services {
            cost.services += cpu_seconds(service.pid())?;
        }
        Ok(cost)
    }

    /// Adds what was used between two looks.
    pub(crate) fn add(&mut self, before: Cost, after: Cost) {
        self.databases += after.databases - before.databases;
        self.services += after.services - before.services;
        self.coordinator += after.coordinator - before.coordinator;
        self.client += after.client - before.client;
    }

    pub(crate) fn total(&self) -> f64 {
        self.databases + self.services + self.coordinator + self.client
    }

    pub(crate) fn per_transfer(&self, transfers: f64) -> String {
        let us = |seconds: f64| format!("{:.0}", seconds * 1e6 / transfers);
        let parts = [
            ("databases", self.databases),
            ("services", self.services),
            ("coordinator", self.coordinator),
            ("client", self.client),
        ];
        let used = parts.iter().filter(|(_, seconds)| *seconds > 0.0005 * self.total());
        let parts: Vec<String> = used.map(|(name, seconds)| format!("{name} {}", us(*seconds))).collect();
        format!("{} us ({})", us(self.total()), parts.join(", "))
    }
}

/// Processor time of a process so far, in seconds.
fn cpu_seconds(pid: u32) -> Result<f64> {
    /// What /proc counts in, on every Linux that Rust runs on.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The program's name is in brackets and may hold spaces; user and system time are fields 14 and 15.
    let (_, after) = stat.rsplit_once(')').context("no name")?;
    let fields: Vec<f64> =
        after.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(fields.iter().sum::<f64>() / TICKS_PER_SECOND)
}
