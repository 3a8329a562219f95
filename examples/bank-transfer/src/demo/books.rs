//! A bank's books as its auditor sees them: straight from the database, past the bank's service and past Concord.

use anyhow::{Context as _, Result};
use concord_sandbox::Server;
use concord_xa::FORMAT_ID;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Opts, OptsBuilder, Row};

use super::account::Bank;
use crate::bank::open_accounts;

/// One bank's database.
#[derive(Debug, Clone)]
pub(crate) struct Books {
    bank: Bank,
    server: Server,
    database: String,
}

/// A row of the `transfer` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LedgerRow {
    /// The transaction that wrote it.
    pub gtid: String,
    /// The initiator's name for the transfer.
    pub transfer: String,
    /// The account.
    pub account: u32,
    /// Below zero for a debit.
    pub amount: i64,
}

impl Books {
    /// Creates the bank's database.
    ///
    /// # Errors
    /// When the server refuses.
    pub(crate) async fn create(bank: Bank, server: Server) -> Result<Books> {
        // A server of the user's own may hold anything: its databases are not ours to reuse.
        let database = match server.is_private() {
            true => bank.slug().replace('-', "_"),
            false => format!("concord_demo_{}_{}", std::process::id(), bank.slug().replace('-', "_")),
        };
        server.create_database(&database).await?;
        Ok(Books { bank, server, database })
    }

    /// Where the bank's service finds it.
    pub(crate) fn url(&self) -> String {
        self.server.url(&self.database)
    }

    /// The server that holds it.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Opens accounts 1 to `count`, with as much money in each.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn open_accounts(&self, count: u32, balance: i64) -> Result<()> {
        let mut connection = self.connect().await?;
        open_accounts(&mut connection, count, balance)
            .await
            .with_context(|| format!("open accounts at bank {}", self.bank))?;
        Ok(connection.disconnect().await?)
    }

    /// What an account holds.
    ///
    /// # Errors
    /// When there is no such account.
    pub(crate) async fn balance(&self, account: u32) -> Result<i64> {
        let rows = self.query(&format!("SELECT balance FROM account WHERE id = {account}")).await?;
        let row = rows.into_iter().next().with_context(|| format!("no account {}-{account}", self.bank))?;
        Ok(mysql_async::from_row_opt(row)?)
    }

    /// Every account with its balance.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) async fn balances(&self) -> Result<Vec<(u32, i64)>> {
        self.rows("SELECT id, balance FROM account ORDER BY id").await
    }

    /// Every debit and credit, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) async fn ledger(&self) -> Result<Vec<LedgerRow>> {
        let rows: Vec<(String, String, u32, i64)> =
            self.rows("SELECT gtid, transfer, account, amount FROM transfer ORDER BY id").await?;
        let row = |(gtid, transfer, account, amount)| LedgerRow { gtid, transfer, account, amount };
        Ok(rows.into_iter().map(row).collect())
    }

    /// Branches of Concord that this server lists as prepared: in doubt, with their locks held. On a private
    /// server all branches are Concord's, so all are counted.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub(crate) async fn in_doubt(&self) -> Result<usize> {
        let rows = self.query("XA RECOVER").await?;
        let private = self.server.is_private();
        Ok(rows.iter().filter(|row| private || row.get::<i64, _>(0) == Some(FORMAT_ID)).count())
    }

    /// Leaves nothing behind on a server that is not ours.
    ///
    /// # Errors
    /// When the server refuses.
    pub(crate) async fn remove(&self) -> Result<()> {
        if !self.server.is_private() {
            self.query(&format!("DROP DATABASE IF EXISTS `{}`", self.database)).await?;
        }
        Ok(())
    }

    async fn rows<T: mysql_async::prelude::FromRow>(&self, sql: &str) -> Result<Vec<T>> {
        self.query(sql).await?.into_iter().map(|row| Ok(mysql_async::from_row_opt(row)?)).collect()
    }

    async fn query(&self, sql: &str) -> Result<Vec<Row>> {
        let mut connection = self.connect().await?;
        let rows = connection.query(sql).await.with_context(|| format!("bank {}: {sql}", self.bank))?;
        connection.disconnect().await?;
        Ok(rows)
    }

    async fn connect(&self) -> Result<Conn> {
        let options = Opts::from_url(&self.url())?;
        let options = OptsBuilder::from_opts(options).prefer_socket(false);
        Conn::new(options).await.with_context(|| format!("connect to the database of bank {}", self.bank))
    }
}
