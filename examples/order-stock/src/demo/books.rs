//! A service's database as an auditor sees it: past the service and past Concord.

use anyhow::{Context as _, Result};
use concord_participant::reservations::{Audit, Item, Reservation, Reservations};
use concord_participant::{BranchId, Gtid, LocalDatabase as _, LocalTransaction as _};
use concord_sandbox::Server;
use concord_xa::FORMAT_ID;
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, Opts, OptsBuilder, Pool, Row};

use super::part::Part;
use crate::order::desk::Order;

/// One service's database.
#[derive(Debug, Clone)]
pub(crate) struct Books {
    part: Part,
    server: Server,
    database: String,
    pool: Pool,
}

/// What was confirmed of one SKU in one global transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The transaction.
    pub gtid: String,
    /// The SKU, or the account.
    pub sku: String,
    /// How much.
    pub quantity: i64,
}

impl Books {
    /// Creates the service's database.
    ///
    /// # Errors
    /// When the server refuses.
    pub(crate) async fn create(part: Part, server: Server) -> Result<Books> {
        // A server of the user's own may hold anything: its databases are not ours to reuse.
        let database = match server.is_private() {
            true => part.slug().to_owned(),
            false => format!("concord_demo_{}_{}", std::process::id(), part.slug()),
        };
        server.create_database(&database).await?;
        let options = Opts::from_url(&server.url(&database))?;
        let pool = Pool::new(OptsBuilder::from_opts(options).prefer_socket(false));
        Ok(Books { part, server, database, pool })
    }

    /// Where the service finds it.
    pub(crate) fn url(&self) -> String {
        self.server.url(&self.database)
    }

    /// The server that holds it.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Its name on the server.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// Brings goods in, or pays money in.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn bring(&self, reserved: &Reservations, items: &[(String, i64)]) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        for (sku, quantity) in items {
            reserved.add(&mut tx, sku, *quantity).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Splits an SKU over so many rows.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn split(&self, reserved: &Reservations, sku: &str, buckets: u16) -> Result<()> {
        let mut tx = self.pool.begin().await?;
        reserved.split(&mut tx, sku, buckets).await?;
        Ok(tx.commit().await?)
    }

    /// Sets the price of goods, in cents.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn set_prices(&self, prices: &[(&str, i64)]) -> Result<()> {
        let sql = "INSERT INTO price (sku, cents) VALUES (?, ?)";
        Ok(self.connect().await?.exec_batch(sql, prices.iter().copied()).await?)
    }

    /// The figures of an SKU or an account.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn item(&self, reserved: &Reservations, sku: &str) -> Result<Item> {
        let mut tx = self.pool.begin().await?;
        let item = reserved.item(&mut tx, sku).await?;
        tx.rollback().await?;
        item.with_context(|| format!("{}: there is no {sku}", self.part))
    }

    /// What a branch reserved, and what became of it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) async fn history(&self, reserved: &Reservations, gtid: &str) -> Result<Vec<Reservation>> {
        let branch = BranchId(u32::try_from(self.part.index() + 1)?);
        let mut tx = self.pool.begin().await?;
        let history = reserved.history(&mut tx, gtid.parse::<Gtid>()?, branch).await?;
        tx.rollback().await?;
        Ok(history)
    }

    /// The reservations' own audit.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) async fn audit(&self, reserved: &Reservations) -> Result<Audit> {
        let mut tx = self.pool.begin().await?;
        let audit = reserved.audit(&mut tx).await?;
        tx.rollback().await?;
        Ok(audit)
    }

    /// Every SKU or account with what is there of it, frozen or not, and what is frozen.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) async fn items(&self, reserved: &Reservations) -> Result<Vec<(String, i64, i64)>> {
        let sums = "CAST(SUM(on_hand) AS SIGNED), CAST(SUM(frozen) AS SIGNED)";
        self.rows(&format!("SELECT sku, {sums} FROM `{}` GROUP BY sku ORDER BY sku", reserved.name())).await
    }

    /// Everything that was confirmed, ever.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) async fn taken(&self, reserved: &Reservations) -> Result<Vec<Taken>> {
        let rows: Vec<([u8; 16], String, i64)> = self
            .rows(&format!(
                "SELECT gtid, sku, CAST(SUM(confirmed) AS SIGNED) FROM `{}_reservation` \
                 WHERE confirmed > 0 GROUP BY gtid, sku",
                reserved.name()
            ))
            .await?;
        let taken =
            |(gtid, sku, quantity)| Ok(Taken { gtid: Gtid::from_bytes(gtid)?.to_string(), sku, quantity });
        rows.into_iter().map(taken).collect()
    }

    /// Every order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) async fn orders(&self) -> Result<Vec<Order>> {
        let rows: Vec<(String, String, i64, u32, i64)> =
            self.rows("SELECT id, sku, qty, user, cents FROM orders").await?;
        let order = |(id, sku, qty, user, cents)| Order { id, sku, qty, user, cents };
        Ok(rows.into_iter().map(order).collect())
    }

    /// Branches of Concord that this server lists as prepared: in doubt, with their locks held. On a private
    /// server all branches are Concord's, so all are counted.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub(crate) async fn in_doubt(&self) -> Result<usize> {
        let rows: Vec<Row> = self.connect().await?.query("XA RECOVER").await?;
        let private = self.server.is_private();
        Ok(rows.iter().filter(|row| private || row.get::<i64, _>(0) == Some(FORMAT_ID)).count())
    }

    /// Leaves nothing behind on a server that is not ours.
    ///
    /// # Errors
    /// When the server refuses.
    pub(crate) async fn remove(&self) -> Result<()> {
        if !self.server.is_private() {
            let sql = format!("DROP DATABASE IF EXISTS `{}`", self.database);
            self.connect().await?.query_drop(sql).await?;
        }
        Ok(())
    }

    async fn rows<T: FromRow + Send + 'static>(&self, sql: &str) -> Result<Vec<T>> {
        let rows: Vec<Row> =
            self.connect().await?.query(sql).await.with_context(|| format!("{}: {sql}", self.part))?;
        rows.into_iter().map(|row| Ok(mysql_async::from_row_opt(row)?)).collect()
    }

    async fn connect(&self) -> Result<Conn> {
        let connection = self.pool.get_conn().await;
        connection.with_context(|| format!("connect to the database of the {} service", self.part))
    }
}
