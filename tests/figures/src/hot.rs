//! One hot SKU, bought by 64 at once: in 16 buckets, against the same in one row.
//!
//! No coordinator: it would hide the difference. A purchase is what a participant's database has to do for it:
//! reserve and commit, then confirm and commit.
//!
//! What buckets gain is the time that a row is held, which is round trips and a commit. On one machine with a fast
//! disk that is little, and the run is soon bound by processor time instead; so it is measured a second time with a
//! database that is a network away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use concord_participant::reservations::{Reservations, Within};
use concord_participant::{
    BranchId, Gtid, LocalDatabase, LocalError, LocalTransaction, MySql, Options, SqlValue,
};
use concord_protocol::Epoch;
use concord_sandbox::{Flavor, Server, ServerOptions};

use crate::load::median;
use crate::{Bound, Line};

const BUYERS: usize = 64;
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

pub(crate) async fn measure(
    flavor: Flavor,
    binlog: bool,
    purchases: usize,
    rounds: usize,
) -> Result<Vec<Line>> {
    let server = Server::start(ServerOptions::new(flavor).binlog(binlog)).await?;
    server.create_database(DATABASE).await?;
    let near = MySql::connect(&server.url(DATABASE), &Options::default())?;
    let far = Far { near: near.clone() };
    let (near, far) = (Shop::open(near).await?, Shop::open(far).await?);
    Ok(vec![
        contest(near, "", flavor, purchases, rounds).await?,
        contest(far, ", database 1 ms away", flavor, purchases / 2, rounds).await?,
    ])
}

async fn contest<D: LocalDatabase>(
    shop: Shop<D>,
    where_it_is: &str,
    flavor: Flavor,
    purchases: usize,
    rounds: usize,
) -> Result<Line> {
    for sku in [ONE_ROW, IN_BUCKETS] {
        shop.buy(sku, purchases / 4).await?;
    }
    let (mut one_row, mut in_buckets) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        one_row.push(shop.buy(ONE_ROW, purchases).await?);
        in_buckets.push(shop.buy(IN_BUCKETS, purchases).await?);
    }
    let audit = shop.stock.audit(&mut shop.database.begin().await?).await?;
    ensure!(audit.is_clean() && audit.totals.frozen == 0, "{audit}");
    let ratios: Vec<f64> = in_buckets.iter().zip(&one_row).map(|(many, one)| many / one).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    Ok(Line {
        figure: format!("hot SKU, {BUCKETS} buckets / one row{where_it_is}"),
        database: flavor.to_string(),
        value: median(&ratios),
        unit: "ratio",
        wanted: Some(Bound::AtLeast(3.0)),
        detail: format!(
            "{:.0}/s against {:.0}/s; rounds {least:.2} … {most:.2}",
            median(&in_buckets),
            median(&one_row)
        ),
    })
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

    /// So many purchases by all buyers together. Answers how many a second. None may fail.
    async fn buy(&self, sku: &'static str, purchases: usize) -> Result<f64> {
        let left = Arc::new(AtomicUsize::new(purchases));
        let start = Instant::now();
        let buyers = (0..BUYERS).map(|_| {
            let (shop, left) = (self.clone(), Arc::clone(&left));
            tokio::spawn(async move {
                let one_less = |left: usize| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                    shop.purchase(sku).await?;
                }
                anyhow::Ok(())
            })
        });
        for buyer in buyers.collect::<Vec<_>>() {
            buyer.await??;
        }
        Ok(purchases as f64 / start.elapsed().as_secs_f64())
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
