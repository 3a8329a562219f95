//! Two databases, two banks, a coordinator.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use concord_proto::v1::coordinator_client::CoordinatorClient;
use concord_proto::v1::{BranchKind, BranchRequest, ExecuteRequest, Wait};
use concord_sandbox::{Flavor, Server, ServerOptions, Service};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::processor_time::Watched;
use crate::service::bank::{ACCOUNTS, Share};
use crate::service::{self, channel};
use crate::setup::Setup;

const DATABASE: &str = "bank";
/// Held branches keep a session each on MariaDB.
pub(crate) const SESSIONS_MAX: usize = 1_500;

/// Fields are dropped in this order.
pub(crate) struct BankStage {
    pub(crate) banks: [Service; 2],
    pub(crate) coordinator: Service,
    pub(crate) databases: [Server; 2],
    /// While this file is there, banks turn commits away.
    pub(crate) hold: PathBuf,
    directory: TempDir,
}

impl BankStage {
    pub(crate) async fn set_up(flavor: Flavor, binlog: bool) -> Result<BankStage> {
        let directory = Setup::directory()?;
        let path = directory.path();
        let coordinator = service::coordinator(path).await?;
        let hold = path.join("hold");
        let databases = [database(flavor, binlog).await?, database(flavor, binlog).await?];
        let mut banks = Vec::new();
        for (index, database) in databases.iter().enumerate() {
            let arguments = [
                format!("--database={}", database.url(DATABASE)),
                format!("--coordinator={}", coordinator.url()),
                format!("--hold={}", hold.display()),
                format!("--sessions-max={SESSIONS_MAX}"),
            ];
            banks.push(service::start("bank", &format!("bank-{index}"), path, &arguments).await?);
        }
        let banks = <[Service; 2]>::try_from(banks).ok().context("two banks")?;
        Ok(BankStage { banks, coordinator, databases, hold, directory })
    }

    pub(crate) fn client(&self) -> Result<CoordinatorClient<Channel>> {
        Ok(CoordinatorClient::new(channel(&self.coordinator.url())?))
    }

    /// Makes transfers from one bank to the other.
    pub(crate) fn transfers(&self) -> Transfers {
        Transfers { banks: [self.banks[0].url(), self.banks[1].url()] }
    }

    /// Branches listed by XA RECOVER, on both databases together.
    pub(crate) async fn in_doubt(&self) -> Result<usize> {
        let mut count = 0;
        for url in self.urls() {
            let mut connection = Conn::from_url(url).await?;
            count += connection.query::<mysql_async::Row, _>("XA RECOVER").await?.len();
            connection.disconnect().await?;
        }
        Ok(count)
    }

    pub(crate) fn watched(&self) -> Result<Watched> {
        let databases: Option<Vec<u32>> = self.databases.iter().map(Server::pid).collect();
        Ok(Watched::new([
            ("databases", databases.context("a private server")?),
            ("banks", self.banks.iter().map(Service::pid).collect()),
            ("coordinator", vec![self.coordinator.pid()]),
        ]))
    }

    pub(crate) fn urls(&self) -> [String; 2] {
        [self.databases[0].url(DATABASE), self.databases[1].url(DATABASE)]
    }

    /// Where the coordinator has its log.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Makes transfers from one bank to the other.
#[derive(Debug, Clone)]
pub(crate) struct Transfers {
    banks: [String; 2],
}

impl Transfers {
    /// Between random accounts.
    pub(crate) fn random(&self) -> ExecuteRequest {
        self.request(Share::random_pair(), Wait::Completed)
    }

    /// Between these accounts, done when it is decided.
    pub(crate) fn decided(&self, accounts: [u32; 2]) -> ExecuteRequest {
        self.request(Share::pair(accounts), Wait::Decided)
    }

    fn request(&self, shares: [Share; 2], wait: Wait) -> ExecuteRequest {
        let branch = |(bank, share): (&String, Share)| BranchRequest {
            kind: BranchKind::Xa.into(),
            participant: bank.clone(),
            action: "book".into(),
            payload: serde_json::json!(share).to_string().into(),
        };
        let branches = self.banks.iter().zip(shares).map(branch).collect();
        ExecuteRequest { branches, wait: wait.into(), timeout_ms: 60_000, ..ExecuteRequest::default() }
    }
}

async fn database(flavor: Flavor, binlog: bool) -> Result<Server> {
    let server = Server::start(ServerOptions::new(flavor).binlog(binlog)).await?;
    server.create_database(DATABASE).await?;
    let mut connection = Conn::from_url(server.url(DATABASE)).await?;
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
