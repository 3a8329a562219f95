//! A shop with one article in stock, as a TCC participant over each driver.
#![allow(unreachable_pub)] // As in support.rs.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use crate::support::*;

/// The driver that the shop's handlers work through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The SDK's own pool.
    Own,
    /// A pool of mysql_async that the service brings.
    MysqlAsync,
    Sqlx,
}

pub const DRIVERS: [Driver; 3] = [Driver::Own, Driver::MysqlAsync, Driver::Sqlx];

/// What a handler is called in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    Try,
    Confirm,
    Cancel,
}

/// What a handler does after its work, instead of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Refuse,
    Fail,
    Panic,
    /// Answers with so many bytes.
    Reply(usize),
    /// Waits for [`Shop::leave`].
    Hold,
    /// Stays in a statement.
    Stay,
    /// Does not let go of its branch.
    Keep,
}

/// What the shop's handlers did, and are to do.
pub struct Probe {
    runs: Mutex<HashMap<(Gtid, Phase), usize>>,
    plans: Mutex<HashMap<(Gtid, Phase), Mode>>,
    pub entered: Notify,
    leave: Semaphore,
}

/// The shop: a database with its stock.
pub struct Shop {
    pub world: World,
    pub driver: Driver,
    pub probe: Arc<Probe>,
}

/// One of the handlers, for any driver.
async fn work<D: LocalDatabase>(
    probe: Arc<Probe>,
    phase: Phase,
    mut tcc: TccBranch<D>,
    payload: Bytes,
) -> Result<Reply, HandlerError> {
    let gtid = tcc.gtid();
    *probe.runs.lock().unwrap().entry((gtid, phase)).or_default() += 1;
    let plan = probe.plans.lock().unwrap().get(&(gtid, phase)).copied();
    let qty: u64 = std::str::from_utf8(&payload)?.parse()?;
    let sql = match phase {
        Phase::Try => {
            "UPDATE stock SET available = available - ?, frozen = frozen + ? WHERE sku = 1 AND available >= ?"
        }
        Phase::Confirm => {
            "UPDATE stock SET sold = sold + ?, frozen = frozen - ? WHERE sku = 1 AND frozen >= ?"
        }
        Phase::Cancel => {
            "UPDATE stock SET available = available + ?, frozen = frozen - ? WHERE sku = 1 AND frozen >= ?"
        }
    };
    if tcc.execute(sql, vec![qty.into(), qty.into(), qty.into()]).await? != 1 {
        return Err(HandlerError::refused("out of stock"));
    }
    match plan {
        None => Ok(format!("{phase:?} {qty}").into()),
        Some(Mode::Refuse) => Err(HandlerError::refused("not today")),
        Some(Mode::Fail) => Err(HandlerError::failed("out of order")),
        Some(Mode::Panic) => panic!("the author's mistake"),
        Some(Mode::Reply(bytes)) => Ok(vec![7u8; bytes].into()),
        Some(Mode::Hold) => {
            probe.entered.notify_one();
            probe.leave.acquire().await?.forget();
            Ok(Reply::empty())
        }
        Some(Mode::Stay) => {
            probe.entered.notify_one();
            tcc.query("SELECT SLEEP(3600)", vec![]).await?;
            Ok(Reply::empty())
        }
        Some(Mode::Keep) => {
            tokio::spawn(async move {
                let _tcc = tcc;
                pending::<()>().await;
            });
            Ok(Reply::empty())
        }
    }
}

fn handler<D: LocalDatabase>(probe: &Arc<Probe>, phase: Phase) -> impl TccHandler<D, Bytes> + use<D> {
    let probe = Arc::clone(probe);
    move |tcc: TccBranch<D>, payload: Bytes| work(Arc::clone(&probe), phase, tcc, payload)
}

impl Shop {
    /// With 100 in stock.
    pub async fn new(flavor: Flavor, driver: Driver) -> Self {
        Shop::on(World::new(flavor).await, driver).await
    }

    pub async fn on(mut world: World, driver: Driver) -> Self {
        let sql = "CREATE TABLE stock (sku INT PRIMARY KEY, available INT NOT NULL, frozen INT NOT NULL, \
                   sold INT NOT NULL) ENGINE=InnoDB; INSERT INTO stock VALUES (1, 100, 0, 0)";
        world.plain.query_drop(sql).await.expect("tables");
        let probe = Probe {
            runs: Mutex::default(),
            plans: Mutex::default(),
            entered: Notify::new(),
            leave: Semaphore::new(0),
        };
        Shop { world, driver, probe: Arc::new(probe) }
    }

    fn bare_builder(&self) -> Builder {
        ParticipantServer::builder()
            .coordinator(&self.world.coordinator)
            .address("http://participant.test:7101")
            .recovery(Duration::from_secs(3_600), Duration::ZERO)
    }

    /// A builder with the action "order" on some pool.
    pub fn builder_on<D: LocalDatabase>(&self, pool: D) -> Builder {
        self.through(self.bare_builder(), pool)
    }

    /// A builder of the participant, with the action "order".
    pub fn builder(&self) -> Builder {
        let builder = self.bare_builder();
        let probe = &self.probe;
        match self.driver {
            Driver::Own => builder
                .database(&self.world.url)
                .database_options(Options { lock_wait: Duration::from_secs(30), ..Options::default() })
                .tcc(
                    "order",
                    handler(probe, Phase::Try),
                    handler(probe, Phase::Confirm),
                    handler(probe, Phase::Cancel),
                ),
            Driver::MysqlAsync => self.through(builder, mysql_async::Pool::new(self.world.url.as_str())),
            Driver::Sqlx => self.through(builder, sqlx::MySqlPool::connect_lazy(&self.world.url).unwrap()),
        }
    }

    fn through<D: LocalDatabase>(&self, builder: Builder, pool: D) -> Builder {
        let probe = &self.probe;
        let [attempt, confirm, cancel] =
            [Phase::Try, Phase::Confirm, Phase::Cancel].map(|phase| handler::<D>(probe, phase));
        builder.tcc_on(pool, "order", attempt, confirm, cancel)
    }

    pub async fn node(&self) -> Node {
        self.world.node_of(self.builder()).await
    }

    /// Reaches the database by a detour.
    pub fn by(&mut self, port: u16) {
        let (server, database) = self.world.url.rsplit_once('/').unwrap();
        let (host, _) = server.rsplit_once(':').unwrap();
        // sqlx encrypts where it can, and then nobody in between can read what is said.
        let readable = if self.driver == Driver::Sqlx { "?ssl-mode=disabled" } else { "" };
        self.world.url = format!("{host}:{port}/{database}{readable}");
    }

    /// What the next handlers of the branch do.
    pub fn plan(&self, gtid: Gtid, phase: Phase, mode: Mode) {
        self.probe.plans.lock().unwrap().insert((gtid, phase), mode);
    }

    pub fn no_plan(&self, gtid: Gtid) {
        self.probe.plans.lock().unwrap().retain(|(planned, _), _| *planned != gtid);
    }

    /// Lets one held handler go on.
    pub fn leave(&self) {
        self.probe.leave.add_permits(1);
    }

    pub fn runs(&self, gtid: Gtid, phase: Phase) -> usize {
        self.probe.runs.lock().unwrap().get(&(gtid, phase)).copied().unwrap_or(0)
    }

    pub fn runs_of_all(&self, gtid: Gtid) -> usize {
        [Phase::Try, Phase::Confirm, Phase::Cancel].into_iter().map(|phase| self.runs(gtid, phase)).sum()
    }

    /// Available, frozen, sold.
    pub async fn stock(&mut self) -> (i64, i64, i64) {
        let row: Option<(i64, i64, i64)> =
            self.world.plain.query_first("SELECT available, frozen, sold FROM stock").await.unwrap();
        row.expect("the article")
    }

    /// Ends what is still at work in the shop's database, as the server would when it notices that nobody waits.
    pub async fn end_statements(&mut self) {
        let sql = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE 'SELECT SLEEP%'";
        let ids: Vec<u64> = self.world.plain.query(sql).await.unwrap();
        for id in ids {
            // It may have gone by itself.
            let _ = self.world.plain.query_drop(format!("KILL {id}")).await;
        }
    }

    /// Waits until no transaction is open in the shop's database: the server notices by itself when a connection is
    /// closed. What it lists is not renewed while it is read more often than every 100 ms. One that was left open
    /// would stay.
    pub async fn no_transaction_stays_open(&mut self) {
        let sql = "SELECT COUNT(*) FROM information_schema.innodb_trx t \
                   JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id WHERE p.db = DATABASE()";
        let looking = async {
            while self.world.plain.query_first(sql).await.unwrap() != Some(0) {
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looking).await.expect("no transaction open");
    }

    /// The states in the barrier table.
    pub async fn barrier(&mut self) -> Vec<u8> {
        self.world.barrier().await
    }
}

pub fn try_of(gtid: Gtid, qty: &str) -> TryRequest {
    TryRequest { branch: context(gtid), work: job("order", qty), remaining_ms: 30_000 }
}

/// Calls a participant, as the coordinator does.
pub struct Caller(pub ParticipantClient<tonic::transport::Channel>);

impl Caller {
    pub async fn attempt(&self, gtid: Gtid, qty: &str) -> Result<TryResponse, Status> {
        self.0.clone().r#try(try_of(gtid, qty)).await.map(Response::into_inner)
    }

    pub async fn confirm_once(&self, gtid: Gtid, qty: &str) -> Result<ConfirmResponse, Status> {
        let request = ConfirmRequest { branch: context(gtid), work: job("order", qty) };
        self.0.clone().confirm(request).await.map(Response::into_inner)
    }

    pub async fn cancel_once(&self, gtid: Gtid, qty: &str) -> Result<CancelResponse, Status> {
        let request = CancelRequest { branch: context(gtid), work: job("order", qty) };
        self.0.clone().cancel(request).await.map(Response::into_inner)
    }
}

/// Asks again while the outcome is not known, as the coordinator does, but after a moment only: the database may be
/// down.
pub async fn patiently<T, F: Future<Output = Result<T, Status>>>(mut call: impl FnMut() -> F) -> T {
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Node {
    pub fn caller(&self) -> Caller {
        Caller(self.client.clone())
    }

    pub async fn attempt(&self, gtid: Gtid, qty: &str) -> Result<TryResponse, Status> {
        self.caller().attempt(gtid, qty).await
    }

    pub async fn confirm_once(&self, gtid: Gtid, qty: &str) -> Result<ConfirmResponse, Status> {
        self.caller().confirm_once(gtid, qty).await
    }

    pub async fn cancel_once(&self, gtid: Gtid, qty: &str) -> Result<CancelResponse, Status> {
        self.caller().cancel_once(gtid, qty).await
    }

    pub async fn confirm(&self, gtid: Gtid, qty: &str) -> ConfirmResponse {
        patiently(|| self.confirm_once(gtid, qty)).await
    }

    pub async fn cancel(&self, gtid: Gtid, qty: &str) -> CancelResponse {
        patiently(|| self.cancel_once(gtid, qty)).await
    }
}

/// Makes six tests of one: MySQL and MariaDB, through each driver.
#[macro_export]
macro_rules! on_every_driver {
    ($($(#[$doc:meta])* async fn $name:ident($flavor:ident, $driver:ident) $body:block)*) => {$(
        $(#[$doc])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            async fn run($flavor: Flavor, $driver: Driver) $body
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mysql_own() { run(Flavor::MySql, Driver::Own).await }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mysql_mysql_async() { run(Flavor::MySql, Driver::MysqlAsync).await }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mysql_sqlx() { run(Flavor::MySql, Driver::Sqlx).await }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb_own() { run(Flavor::MariaDb, Driver::Own).await }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb_mysql_async() { run(Flavor::MariaDb, Driver::MysqlAsync).await }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb_sqlx() { run(Flavor::MariaDb, Driver::Sqlx).await }
        }
    )*};
}
