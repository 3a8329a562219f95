//! A shop: reservations in a database of its own.
#![allow(unreachable_pub)] // Each file is a module of the test binary, and `pub` is how modules share.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub use concord_participant::reservations::*;
pub use concord_participant::{BranchId, Gtid, LocalDatabase, LocalError, LocalTransaction, SqlValue};
use concord_protocol::Epoch;
pub use concord_sandbox::{Flavor, Server, ServerOptions};
use mysql_async::{Opts, OptsBuilder, Pool};

fn start(flavor: Flavor) -> Server {
    // A thread of its own: the blocking twin must not run inside a runtime.
    std::thread::spawn(move || Server::start_blocking(ServerOptions::new(flavor)).expect("a database server"))
        .join()
        .expect("the server starts")
}

static MYSQL: LazyLock<Server> = LazyLock::new(|| start(Flavor::MySql));
static MARIADB: LazyLock<Server> = LazyLock::new(|| start(Flavor::MariaDb));

static NAMES: AtomicU32 = AtomicU32::new(0);
static SEQUENCE: AtomicU64 = AtomicU64::new(1);

pub const FIRST: BranchId = BranchId::FIRST;

/// Another global transaction.
pub fn gtid() -> Gtid {
    Gtid::compose(1_700_000_000_000, Epoch(1), SEQUENCE.fetch_add(1, Ordering::Relaxed))
}

/// The URL of a new database.
pub async fn database(flavor: Flavor) -> String {
    let server = match flavor {
        Flavor::MySql => &MYSQL,
        Flavor::MariaDb => &MARIADB,
    };
    let name = format!("r{}", NAMES.fetch_add(1, Ordering::Relaxed));
    server.create_database(&name).await.expect("a database");
    server.url(&name)
}

pub type Result<T> = std::result::Result<T, ReservationError>;

/// Each call in a local transaction of its own.
#[derive(Debug, Clone)]
pub struct Shop<D> {
    pub database: D,
    pub stock: Reservations,
}

impl Shop<Pool> {
    pub async fn new(flavor: Flavor) -> Self {
        Shop::on(pool(&database(flavor).await, "READ COMMITTED"), "stock").await
    }
}

pub fn pool(url: &str, isolation: &str) -> Pool {
    let setup = format!("SET SESSION TRANSACTION ISOLATION LEVEL {isolation}");
    Pool::new(OptsBuilder::from_opts(Opts::from_url(url).unwrap()).setup(vec![setup]))
}

/// Runs `$call` on a transaction, and commits or rolls back.
macro_rules! in_transaction {
    ($shop:expr, $tx:ident => $call:expr) => {{
        let mut $tx = $shop.database.begin().await.expect("a transaction");
        match $call.await {
            Ok(value) => $tx.commit().await.map(|()| value).map_err(ReservationError::from),
            Err(error) => {
                $tx.rollback().await.expect("a rollback");
                Err(error)
            }
        }
    }};
}

impl<D: LocalDatabase> Shop<D> {
    pub async fn on(database: D, name: &str) -> Self {
        let stock = Reservations::named(name).unwrap();
        stock.migrate(&database).await.expect("the tables");
        Shop { database, stock }
    }

    /// Another process with the same database.
    pub fn another_process(&self) -> Self {
        let stock = Reservations::named(self.stock.name()).unwrap();
        Shop { database: self.database.clone(), stock }
    }

    pub async fn with(self, sku: &str, quantity: i64) -> Self {
        self.add(sku, quantity).await.unwrap();
        self
    }

    pub async fn add(&self, sku: &str, quantity: i64) -> Result<()> {
        in_transaction!(self, tx => self.stock.add(&mut tx, sku, quantity))
    }

    pub async fn remove(&self, sku: &str, quantity: i64) -> Result<()> {
        in_transaction!(self, tx => self.stock.remove(&mut tx, sku, quantity))
    }

    pub async fn split(&self, sku: &str, buckets: u16) -> Result<()> {
        in_transaction!(self, tx => self.stock.split(&mut tx, sku, buckets))
    }

    pub async fn reserve(&self, gtid: Gtid, items: &[(&str, i64)]) -> Result<()> {
        in_transaction!(self, tx => self.stock.reserve(&mut within(&mut tx, gtid), items))
    }

    pub async fn confirm(&self, gtid: Gtid) -> Result<()> {
        in_transaction!(self, tx => self.stock.confirm(&mut within(&mut tx, gtid)))
    }

    pub async fn confirm_part(&self, gtid: Gtid, items: &[(&str, i64)]) -> Result<()> {
        in_transaction!(self, tx => self.stock.confirm_part(&mut within(&mut tx, gtid), items))
    }

    pub async fn cancel(&self, gtid: Gtid) -> Result<()> {
        in_transaction!(self, tx => self.stock.cancel(&mut within(&mut tx, gtid)))
    }

    pub async fn expire(&self, gtid: Gtid) -> Result<()> {
        in_transaction!(self, tx => self.stock.expire(&mut tx, gtid, FIRST))
    }

    pub async fn overdue(&self, limit: u32) -> Vec<Overdue> {
        in_transaction!(self, tx => self.stock.overdue(&mut tx, limit)).unwrap()
    }

    pub async fn history(&self, gtid: Gtid) -> Vec<Reservation> {
        in_transaction!(self, tx => self.stock.history(&mut tx, gtid, FIRST)).unwrap()
    }

    pub async fn item(&self, sku: &str) -> Option<Item> {
        in_transaction!(self, tx => self.stock.item(&mut tx, sku)).unwrap()
    }

    pub async fn audit(&self) -> Audit {
        in_transaction!(self, tx => self.stock.audit(&mut tx)).unwrap()
    }

    /// Available and frozen.
    pub async fn figures(&self, sku: &str) -> (i64, i64) {
        let item = self.item(sku).await.expect("the SKU");
        (item.available, item.frozen)
    }

    pub async fn audit_is_clean(&self) {
        let audit = self.audit().await;
        assert!(audit.is_clean(), "{audit}");
    }

    /// SQL behind the library's back.
    pub async fn sql(&self, sql: &str) -> std::result::Result<u64, LocalError> {
        let mut tx = self.database.begin().await.expect("a transaction");
        let done = tx.execute(sql, Vec::new()).await;
        tx.commit().await.expect("a commit");
        done
    }

    pub async fn query(&self, sql: &str) -> Vec<Vec<SqlValue>> {
        let mut tx = self.database.begin().await.expect("a transaction");
        let rows = tx.query(sql, Vec::new()).await.expect("rows");
        tx.commit().await.expect("a commit");
        rows
    }
}

pub fn within<T: LocalTransaction>(transaction: &mut T, gtid: Gtid) -> Within<'_, T> {
    Within { transaction, gtid, branch: FIRST }
}

/// Why it was refused, in words; it must be a refusal.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.expect_err("a refusal");
    assert!(error.is_refusal(), "{error}");
    error.to_string()
}

/// Makes two tests of one: MySQL and MariaDB.
#[macro_export]
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($flavor:ident) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            async fn run($flavor: Flavor) $body
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mysql() { run(Flavor::MySql).await }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb() { run(Flavor::MariaDb).await }
        }
    )*};
}
