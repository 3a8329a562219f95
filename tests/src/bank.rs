//! A bank's database: accounts, and a ledger with a row for each branch that took effect.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use concord_sandbox::Server;
use concord_xa::{Database, Options};
use mysql_async::prelude::Queryable as _;
use serde::{Deserialize, Serialize};

/// The payload of `debit`, `credit` and `insert` (XA), `hold` and `promise` (TCC).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The initiator's name for the transfer.
    pub transfer: String,
    /// The account's number, from 1.
    pub account: u32,
    /// Not negative.
    pub amount: i64,
}

impl Entry {
    /// As it goes into a request.
    pub fn payload(&self) -> Vec<u8> {
        // A struct of a string and two numbers has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// One bank, in a database of its own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bank {
    server: Server,
    database: String,
    /// Money in it at the beginning.
    opening_total: i64,
}

impl Bank {
    /// Creates the database, its tables, and accounts 1 … `accounts` with `balance` each.
    ///
    /// # Errors
    /// What the database says.
    pub async fn open(server: &Server, database: &str, accounts: u32, balance: i64) -> Result<Bank> {
        server.create_database(database).await?;
        let opening_total = i64::from(accounts) * balance;
        let bank = Bank { server: server.clone(), database: database.to_owned(), opening_total };
        let rows: Vec<String> = (1..=accounts).map(|id| format!("({id}, {balance})")).collect();
        bank.run(
            "CREATE TABLE account (id INT UNSIGNED PRIMARY KEY, balance BIGINT NOT NULL, \
             held BIGINT NOT NULL DEFAULT 0, promised BIGINT NOT NULL DEFAULT 0, \
             CONSTRAINT never_overdrawn CHECK (balance >= 0 AND held >= 0 AND promised >= 0)) ENGINE = InnoDB",
        )
        .await?;
        // The branch id is in the row, so that a branch that takes effect twice is seen.
        bank.run(
            "CREATE TABLE ledger (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, \
             gtid CHAR(36) CHARACTER SET ascii NOT NULL, branch INT UNSIGNED NOT NULL, \
             transfer VARCHAR(128) NOT NULL, account INT UNSIGNED NOT NULL, amount BIGINT NOT NULL) \
             ENGINE = InnoDB",
        )
        .await?;
        bank.run(&format!("INSERT INTO account (id, balance) VALUES {}", rows.join(", "))).await?;
        Ok(bank)
    }

    /// The server that it is on.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Its URL, for a participant or a resource.
    pub fn url(&self) -> String {
        self.server.url(&self.database)
    }

    /// Runs a statement on a connection of its own.
    ///
    /// # Errors
    /// What the database says.
    pub async fn run(&self, sql: &str) -> Result<()> {
        let mut connection = self.connect().await?;
        connection.query_drop(sql).await.with_context(|| sql.to_owned())?;
        Ok(connection.disconnect().await?)
    }

    async fn connect(&self) -> Result<mysql_async::Conn> {
        let url = self.url();
        mysql_async::Conn::from_url(&url).await.with_context(|| format!("connect to {url}"))
    }

    /// The balance of an account, as committed.
    ///
    /// # Errors
    /// What the database says.
    pub async fn balance(&self, account: u32) -> Result<i64> {
        let mut connection = self.connect().await?;
        let sql = format!("SELECT balance FROM account WHERE id = {account}");
        let balance: Option<i64> = connection.query_first(sql).await?;
        connection.disconnect().await?;
        balance.with_context(|| format!("there is no account {account}"))
    }

    /// Money in it now minus what was in it at the beginning, by its accounts and by its ledger: at quiescence
    /// the two are the same.
    ///
    /// # Errors
    /// What the database says.
    pub async fn gains(&self) -> Result<(i64, i64)> {
        let mut connection = self.connect().await?;
        let sql = "SELECT CAST((SELECT SUM(balance) FROM account) AS SIGNED), \
                   CAST((SELECT COALESCE(SUM(amount), 0) FROM ledger) AS SIGNED)";
        let sums: Option<(i64, i64)> = connection.query_first(sql).await?;
        connection.disconnect().await?;
        let (total, booked) = sums.context("no sums")?;
        Ok((total - self.opening_total, booked))
    }

    /// What a query for one number answers.
    ///
    /// # Errors
    /// What the database says.
    pub async fn count(&self, sql: &str) -> Result<u64> {
        let mut connection = self.connect().await?;
        let count: Option<u64> = connection.query_first(sql).await?;
        connection.disconnect().await?;
        count.context("no number")
    }

    /// How many ledger rows each transfer has.
    ///
    /// # Errors
    /// What the database says.
    pub async fn ledger(&self) -> Result<BTreeMap<String, u64>> {
        let mut connection = self.connect().await?;
        let sql = "SELECT transfer, COUNT(*) FROM ledger GROUP BY transfer";
        let rows: Vec<(String, u64)> = connection.query(sql).await?;
        connection.disconnect().await?;
        Ok(rows.into_iter().collect())
    }

    /// What Try has set aside and nobody has confirmed or cancelled: held money, promised money, open branches.
    ///
    /// # Errors
    /// What the database says.
    pub async fn reserved(&self) -> Result<(i64, i64, u64)> {
        let mut connection = self.connect().await?;
        let sql = "SELECT CAST(SUM(held) AS SIGNED), CAST(SUM(promised) AS SIGNED), \
                   (SELECT COUNT(*) FROM concord_barrier WHERE state = 3) FROM account";
        let sums: Option<(i64, i64, u64)> = connection.query_first(sql).await?;
        connection.disconnect().await?;
        sums.context("no sums")
    }

    /// How many branches of this cluster the server lists as prepared.
    ///
    /// # Errors
    /// What the database says.
    pub async fn in_doubt(&self, cluster: u64) -> Result<usize> {
        let database = Database::connect(&self.url(), Options::default()).await?;
        let listed = database.recover().await?;
        Ok(listed.iter().filter(|one| one.xid.is_some_and(|xid| xid.cluster.0 == cluster)).count())
    }
}
