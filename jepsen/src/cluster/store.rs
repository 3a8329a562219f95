//! The database server that holds what several coordinators share.

use std::fmt;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use concord_sandbox::{
    Environment, Flavor, Postgres, PostgresOptions, Server, ServerOptions, locate, locate_postgres,
};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tokio_postgres::NoTls;

/// The database in it.
const DATABASE: &str = "concord";

/// Which product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// MySQL
    Mysql,
    /// MariaDB
    Mariadb,
    /// PostgreSQL
    Postgres,
}

impl StoreKind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            StoreKind::Mysql => "mysql",
            StoreKind::Mariadb => "mariadb",
            StoreKind::Postgres => "postgres",
        }
    }

    /// Fetches its program where the machine has none.
    ///
    /// # Errors
    /// When it cannot be had.
    pub fn fetch(self) -> Result<()> {
        let environment = Environment::from_process();
        match self.flavor() {
            Some(flavor) => drop(locate(&environment, flavor)?),
            None => drop(locate_postgres(&environment)?),
        }
        Ok(())
    }

    fn flavor(self) -> Option<Flavor> {
        match self {
            StoreKind::Mysql => Some(Flavor::MySql),
            StoreKind::Mariadb => Some(Flavor::MariaDb),
            StoreKind::Postgres => None,
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A server of the run's own. Dropped, it ends.
#[derive(Debug)]
pub enum StoreServer {
    /// MySQL or MariaDB.
    MySql(Server),
    /// PostgreSQL.
    Postgres(Postgres),
}

impl StoreServer {
    /// Starts one, with an empty database.
    pub(super) async fn start(kind: StoreKind) -> Result<StoreServer> {
        match kind.flavor() {
            Some(flavor) => {
                let server = Server::start(ServerOptions::new(flavor)).await?;
                server.create_database(DATABASE).await?;
                Ok(StoreServer::MySql(server))
            }
            None => {
                let server = Postgres::start(PostgresOptions::default()).await?;
                server.create_database(DATABASE).await?;
                Ok(StoreServer::Postgres(server))
            }
        }
    }

    /// The URL of the database behind a port of this machine's.
    pub(super) fn url(&self, port: u16) -> String {
        match self {
            StoreServer::MySql(_) => format!("mysql://root@127.0.0.1:{port}/{DATABASE}"),
            StoreServer::Postgres(_) => format!("postgres://postgres@127.0.0.1:{port}/{DATABASE}"),
        }
    }

    /// Where it listens.
    pub(super) fn port(&self) -> u16 {
        match self {
            StoreServer::MySql(server) => server.port(),
            StoreServer::Postgres(server) => server.port(),
        }
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill9(&self) -> Result<()> {
        match self {
            StoreServer::MySql(server) => server.kill9()?,
            StoreServer::Postgres(server) => server.kill9(),
        }
        Ok(())
    }

    /// Stops it, as for an upgrade.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&self) -> Result<()> {
        match self {
            StoreServer::MySql(server) => server.stop().await?,
            StoreServer::Postgres(server) => server.stop().await?,
        }
        Ok(())
    }

    /// Starts it again on the same data.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn restart(&self) -> Result<()> {
        match self {
            StoreServer::MySql(server) => server.restart().await?,
            StoreServer::Postgres(server) => server.restart().await?,
        }
        Ok(())
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pause(&self) -> Result<()> {
        match self {
            StoreServer::MySql(server) => server.pause()?,
            StoreServer::Postgres(server) => server.pause()?,
        }
        Ok(())
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it is not running.
    pub fn resume(&self) -> Result<()> {
        match self {
            StoreServer::MySql(server) => server.resume()?,
            StoreServer::Postgres(server) => server.resume()?,
        }
        Ok(())
    }

    /// How many transactions it holds that have not ended.
    ///
    /// # Errors
    /// What the database says.
    pub async fn open_transactions(&self) -> Result<u64> {
        const COUNT: &str = "SELECT COUNT(DISTINCT gtid) FROM concord_record";
        match self {
            StoreServer::MySql(server) => {
                let mut connection = Conn::from_url(server.url(DATABASE)).await?;
                let count: Option<u64> = connection.query_first(COUNT).await?;
                connection.disconnect().await?;
                count.context("no number")
            }
            StoreServer::Postgres(server) => {
                let (client, connection) = tokio_postgres::connect(&server.url(DATABASE), NoTls).await?;
                let count = async move { client.query_one(COUNT, &[]).await?.try_get::<_, i64>(0) };
                // Without its client the connection ends.
                let (count, ()) = tokio::try_join!(count, connection)?;
                Ok(u64::try_from(count)?)
            }
        }
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        match self {
            StoreServer::MySql(server) => server.log_tail(),
            StoreServer::Postgres(server) => server.log_tail(),
        }
    }
}
