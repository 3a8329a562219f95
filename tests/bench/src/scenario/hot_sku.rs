//! One hot SKU, bought by many at once: in 16 buckets, against the same in one row.
//!
//! No coordinator: it would hide the difference. A purchase is what a participant's database has to do for it:
//! reserve and commit, then confirm and commit.
//!
//! What buckets gain is the time that a row is held, which is round trips and a commit. On one machine with a fast
//! disk that is little, and the run is soon bound by processor time instead; so it is measured a second time with a
//! database that is a network away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use concord_participant::reservations::{Reservations, Within};
use concord_participant::{
    BranchId, Gtid, LocalDatabase, LocalError, LocalTransaction, MySql, Options, SqlValue,
};
use concord_protocol::Epoch;
use concord_sandbox::{Flavor, Server, ServerOptions};

use crate::contest::contest;
use crate::load::{Caller, Callers, Load, Shape};
use crate::outcome::{Bound, Outcome};
use crate::processor_time::Watched;
use crate::setup::{MANY, Setup};

const NAME: &str = "hot-sku";
const BUCKETS: u16 = 16;
/// Purchases, each with a gtid of its own.
static PURCHASES: AtomicU64 = AtomicU64::new(1);
/// More than is ever bought here.
const UNITS: i64 = 1_000_000_000;
const ONE_ROW: &str = "one-row";
const IN_BUCKETS: &str = "in-buckets";
const DATABASE: &str = "shop";
/// The timer adds up to one more.
const TRIP: Duration = Duration::from_millis(1);

pub(crate) async fn measure_on(setup: &Setup, flavor: Flavor) -> Result<Vec<Outcome>> {
    setup.progress.stage(&format!("{NAME}, {flavor} starts"), 0);
    let server = Server::start(ServerOptions::new(flavor).binlog(setup.binlog)).await?;
    server.create_database(DATABASE).await?;
    let watched = Watched::new([("database", vec![server.pid().context("a private server")?])]);
    let near = MySql::connect(&server.url(DATABASE), &Options::default())?;
    let far = Far { near: near.clone() };
    let outcomes = [
        buckets(setup, NAME, Shop::open(near).await?, &watched).await?,
        buckets(setup, &format!("{NAME}, database 1 ms away"), Shop::open(far).await?, &watched).await?,
    ];
    Ok(outcomes.into_iter().map(|outcome| outcome.on(flavor).at(MANY)).collect())
}

async fn buckets<D: LocalDatabase>(
    setup: &Setup,
    name: &str,
    shop: Shop<D>,
    watched: &Watched,
) -> Result<Outcome> {
    let load = Load { shape: Shape::Closed(MANY), span: setup.span() };
    let (mut in_buckets, mut one_row) = (shop.buyers(IN_BUCKETS), shop.buyers(ONE_ROW));
    let [in_buckets, one_row] =
        contest(setup, name, [&mut in_buckets, &mut one_row], load, setup.rounds(), watched).await?;
    let audit = shop.stock.audit(&mut shop.database.begin().await?).await?;
    ensure!(audit.is_clean() && audit.totals.frozen == 0, "{audit}");
    let times = format!("in buckets {}; one row {}", in_buckets.processor_time(), one_row.processor_time());
    let outcome = Outcome::throughput(name, &in_buckets, &one_row)?;
    Ok(outcome.ratio_wanted(Bound::AtLeast(3.0)).detail(&times))
}

/// Buys one piece after the other.
struct Buyer<D> {
    shop: Shop<D>,
    sku: &'static str,
}

impl<D: LocalDatabase> Caller for Buyer<D> {
    async fn call(&mut self) -> Result<()> {
        self.shop.purchase(self.sku).await
    }
}

#[derive(Clone)]
struct Shop<D> {
    database: D,
    stock: Reservations,
}

impl<D: LocalDatabase> Shop<D> {
    async fn open(database: D) -> Result<Shop<D>> {
        let stock = Reservations::named("stock")?;
        stock.migrate(&database).await?;
        let mut tx = database.begin().await?;
        // The second to open it finds them there.
        for sku in [ONE_ROW, IN_BUCKETS] {
            stock.add(&mut tx, sku, UNITS).await?;
        }
        stock.split(&mut tx, IN_BUCKETS, BUCKETS).await?;
        tx.commit().await?;
        Ok(Shop { database, stock })
    }

    fn buyers(&self, sku: &'static str) -> Callers<Buyer<D>> {
        Callers::new(sku, (0..MANY).map(|_| Buyer { shop: self.clone(), sku }).collect())
    }

    async fn purchase(&self, sku: &str) -> Result<()> {
        let number = PURCHASES.fetch_add(1, Ordering::Relaxed);
        let (gtid, branch) = (Gtid::compose(1_700_000_000_000, Epoch(1), number), BranchId::FIRST);
        let mut tx = self.database.begin().await?;
        let mut within = Within { transaction: &mut tx, gtid, branch };
        self.stock.reserve(&mut within, &[(sku, 1)]).await?;
        tx.commit().await?;
        let mut tx = self.database.begin().await?;
        self.stock.confirm(&mut Within { transaction: &mut tx, gtid, branch }).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// A database to which each round trip takes a millisecond more: that of a service on another machine.
#[derive(Clone)]
struct Far<T> {
    near: T,
}

async fn travel() {
    tokio::time::sleep(TRIP).await;
}

impl<D: LocalDatabase> LocalDatabase for Far<D> {
    type Transaction = Far<D::Transaction>;

    async fn begin(&self) -> Result<Self::Transaction, LocalError> {
        travel().await;
        Ok(Far { near: self.near.begin().await? })
    }
}

impl<T: LocalTransaction> LocalTransaction for Far<T> {
    type Connection = T::Connection;

    fn connection(&self) -> &T::Connection {
        self.near.connection()
    }

    fn connection_mut(&mut self) -> &mut T::Connection {
        self.near.connection_mut()
    }

    async fn execute(&mut self, sql: &str, params: Vec<SqlValue>) -> Result<u64, LocalError> {
        travel().await;
        self.near.execute(sql, params).await
    }

    async fn query(&mut self, sql: &str, params: Vec<SqlValue>) -> Result<Vec<Vec<SqlValue>>, LocalError> {
        travel().await;
        self.near.query(sql, params).await
    }

    async fn commit(self) -> Result<(), LocalError> {
        travel().await;
        self.near.commit().await
    }

    async fn rollback(self) -> Result<(), LocalError> {
        travel().await;
        self.near.rollback().await
    }
}
