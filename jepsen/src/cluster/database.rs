//! The tables of a participant's database, and what is read from them at the end of a run.

use anyhow::{Context as _, Result};
use concord_participant::reservations::Reservations;
use concord_sandbox::Server;
use concord_xa::{Database, Options};
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, Pool};
use serde::{Deserialize, Serialize};

use crate::node::participant::{STOCK, elements_of, sku};

/// The name of the database on each server.
pub const DATABASE: &str = "jepsen";

/// Rows of one INSERT.
const ROWS_AT_ONCE: usize = 1_000;
/// Branches that Try has opened and nobody has ended.
const OPEN_BRANCHES: &str = "SELECT COUNT(*) FROM concord_barrier WHERE state = 3";

/// What is in each database at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Opening {
    /// Accounts, numbered from 1.
    pub accounts: u32,
    /// The balance of each.
    pub balance: i64,
    /// Empty lists, numbered from 0: appends to lists that are not there lock each other's gaps.
    pub lists: u32,
    /// SKUs, numbered from 1.
    pub skus: u32,
    /// The quantity of each.
    pub quantity: i64,
    /// Into how many buckets each is split.
    pub buckets: u16,
}

/// What is in a database at the end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DatabaseAudit {
    /// Which, from 0.
    pub database: usize,
    /// What was in it at the beginning.
    pub opening: Opening,
    /// Number, balance, held and promised of each account.
    pub accounts: Vec<(u32, i64, i64, i64)>,
    /// Everything that handlers did, in the order in which they did it to a branch.
    pub journal: Vec<JournalRow>,
    /// Every list, with its elements.
    pub lists: Vec<(i64, Vec<i64>)>,
    /// Orders that are still pending.
    pub pending_orders: u64,
    /// The SDK's reservations.
    pub goods: Vec<Goods>,
    /// What the SDK's own audit of its reservations finds.
    pub stock_violations: Vec<String>,
    /// What `XA RECOVER` lists.
    pub in_doubt: Vec<String>,
    /// Branches that Try has opened, and nobody has ended, by the barrier.
    pub open_branches: u64,
    /// Branches that were rolled back or cancelled before they arrived, by the barrier.
    pub tombstones: u64,
}

/// A step that took effect: gtid, branch, operation, part, step, account, and what became of the account's balance.
pub type JournalRow = (String, u32, i64, u32, String, u32, i64);

/// One SKU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goods {
    /// Its number.
    pub sku: u32,
    /// What can be reserved.
    pub available: i64,
    /// What is reserved.
    pub frozen: i64,
    /// All that ever came in.
    pub received: i64,
    /// All that was ever sold.
    pub sold: i64,
}

/// The URL of the database behind a port of this machine's.
pub(super) fn url(port: u16) -> String {
    format!("mysql://root@127.0.0.1:{port}/{DATABASE}")
}

/// Creates the database, its tables and its accounts.
pub(super) async fn create(server: &Server, opening: &Opening) -> Result<()> {
    server.create_database(DATABASE).await?;
    let mut connection = Conn::from_url(server.url(DATABASE)).await?;
    for sql in [
        "CREATE TABLE account (id INT UNSIGNED PRIMARY KEY, balance BIGINT NOT NULL, \
         held BIGINT NOT NULL DEFAULT 0, promised BIGINT NOT NULL DEFAULT 0) ENGINE = InnoDB",
        "CREATE TABLE journal (id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY, \
         gtid CHAR(36) CHARACTER SET ascii NOT NULL, branch INT UNSIGNED NOT NULL, operation BIGINT NOT NULL, \
         part INT UNSIGNED NOT NULL, step VARCHAR(8) CHARACTER SET ascii NOT NULL, account INT UNSIGNED NOT NULL, \
         amount BIGINT NOT NULL) ENGINE = InnoDB",
        "CREATE TABLE list (id BIGINT PRIMARY KEY, elements MEDIUMTEXT CHARACTER SET ascii NOT NULL) ENGINE = InnoDB",
        "CREATE TABLE orders (operation BIGINT PRIMARY KEY, state VARCHAR(10) CHARACTER SET ascii NOT NULL) \
         ENGINE = InnoDB",
    ] {
        connection.query_drop(sql).await?;
    }
    let accounts: Vec<String> =
        (1..=opening.accounts).map(|id| format!("({id}, {})", opening.balance)).collect();
    let lists: Vec<String> = (0..opening.lists).map(|id| format!("({id}, '')")).collect();
    for (columns, rows) in [("account (id, balance)", accounts), ("list (id, elements)", lists)] {
        for rows in rows.chunks(ROWS_AT_ONCE) {
            connection.query_drop(format!("INSERT INTO {columns} VALUES {}", rows.join(", "))).await?;
        }
    }
    Ok(connection.disconnect().await?)
}

/// Brings the goods.
pub(super) async fn fill(server: &Server, opening: &Opening) -> Result<()> {
    let pool = Pool::from_url(server.url(DATABASE))?;
    let stock = Reservations::named(STOCK)?;
    stock.migrate(&pool).await?;
    for number in 1..=opening.skus {
        let mut transaction = concord_participant::LocalDatabase::begin(&pool).await?;
        stock.add(&mut transaction, &sku(number), opening.quantity).await?;
        stock.split(&mut transaction, &sku(number), opening.buckets.max(1)).await?;
        concord_participant::LocalTransaction::commit(transaction).await?;
    }
    Ok(pool.disconnect().await?)
}

/// Reads everything.
pub(super) async fn audit(
    server: &Server,
    number: usize,
    opening: &Opening,
    cluster: u64,
) -> Result<DatabaseAudit> {
    let mut connection = Conn::from_url(server.url(DATABASE)).await?;
    let connection = &mut connection;
    let lists: Vec<(i64, String)> =
        rows(connection, "SELECT id, elements FROM list WHERE elements <> '' ORDER BY id").await?;
    let lists = lists.into_iter().map(|(id, elements)| Ok((id, elements_of(&elements)?)));
    let mut audit = DatabaseAudit {
        database: number,
        opening: *opening,
        accounts: rows(connection, "SELECT id, balance, held, promised FROM account ORDER BY id").await?,
        journal: rows(
            connection,
            "SELECT gtid, branch, operation, part, step, account, amount FROM journal ORDER BY id",
        )
        .await?,
        lists: lists.collect::<Result<_>>()?,
        pending_orders: one(connection, "SELECT COUNT(*) FROM orders WHERE state = 'pending'").await?,
        open_branches: one(connection, OPEN_BRANCHES).await?,
        tombstones: one(connection, "SELECT COUNT(*) FROM concord_barrier WHERE state = 2").await?,
        ..DatabaseAudit::default()
    };
    audit.in_doubt = in_doubt(server, cluster).await?;
    let pool = Pool::from_url(server.url(DATABASE))?;
    let stock = Reservations::named(STOCK)?;
    let mut transaction = concord_participant::LocalDatabase::begin(&pool).await?;
    for number in 1..=opening.skus {
        let item = stock.item(&mut transaction, &sku(number)).await?.context("an SKU has gone")?;
        let (available, frozen) = (item.available, item.frozen);
        audit.goods.push(Goods { sku: number, available, frozen, received: item.received, sold: item.sold });
    }
    let found = stock.audit(&mut transaction).await?;
    audit.stock_violations = found.violations.iter().map(ToString::to_string).collect();
    drop(transaction);
    pool.disconnect().await?;
    Ok(audit)
}

/// How many prepared branches of ours, and open TCC branches, there are.
pub(super) async fn residue(server: &Server, cluster: u64) -> Result<u64> {
    let mut connection = Conn::from_url(server.url(DATABASE)).await?;
    let open = one(&mut connection, OPEN_BRANCHES).await?;
    connection.disconnect().await?;
    Ok(open + in_doubt(server, cluster).await?.len() as u64)
}

/// Branches of this cluster that the server lists as prepared.
async fn in_doubt(server: &Server, cluster: u64) -> Result<Vec<String>> {
    let database = Database::connect(&server.url(DATABASE), Options::default()).await?;
    let listed = database.recover().await?;
    let ours = listed.iter().filter_map(|one| one.xid.filter(|xid| xid.cluster.0 == cluster));
    Ok(ours.map(|xid| xid.to_string()).collect())
}

async fn rows<T: FromRow + Send + 'static>(connection: &mut Conn, sql: &str) -> Result<Vec<T>> {
    connection.query(sql).await.with_context(|| sql.to_owned())
}

async fn one(connection: &mut Conn, sql: &str) -> Result<u64> {
    let row: Option<u64> = connection.query_first(sql).await?;
    row.with_context(|| format!("no number: {sql}"))
}
