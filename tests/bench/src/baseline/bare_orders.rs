//! The same local SQL transactions as those of an order through Concord, by a bare client: no coordinator, no
//! services, no log, and nobody to clean up after a crash. Once with the barrier's rows, which is exactly the same
//! SQL, and once without.
//!
//! It commits the order's row at once, where the XA branch is prepared first: a sync less. Reservations and pools are
//! the SDK's own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use concord_participant::reservations::{Reservations, Within};
use concord_participant::{
    BranchId, Gtid, LocalDatabase as _, LocalTransaction as _, MySql, MySqlTransaction, Options, SqlValue,
};
use concord_protocol::Epoch;
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

use crate::load::{Caller, Callers};
use crate::service::shop::{INSERT_ORDER, Order, Part};

/// The barrier's own statements, as the SDK writes them.
const TRIED: &str = "INSERT INTO concord_barrier (gtid, branch, state, connection_id, reply) \
                     VALUES (?, ?, 3, 0, '') ON DUPLICATE KEY UPDATE connection_id = connection_id + 1";
const CONFIRMED: &str = "UPDATE concord_barrier SET state = 4 WHERE gtid = ? AND branch = ? AND state = 3";
/// The XA branch's.
const MARKED: &str =
    "INSERT INTO concord_barrier (gtid, branch, state, connection_id, reply) VALUES (?, ?, 1, 0, '')";

/// Orders of this process, each with a gtid of its own.
static ORDERS: AtomicU64 = AtomicU64::new(0);

/// A bare client: a connection to the orders' database, and the SDK's pools of the others.
pub(crate) struct BareOrders {
    orders: Conn,
    stock: (Reservations, MySql),
    payment: (Reservations, MySql),
    barrier: bool,
}

/// Clients of the databases of [`Part::ALL`], which write the barrier's rows or do not.
///
/// # Errors
/// When one cannot connect.
pub(crate) async fn bare_orders(
    name: &str,
    [order, stock, payment]: &[String; 3],
    count: usize,
    barrier: bool,
) -> Result<Callers<BareOrders>> {
    let goods = |part: Part, url: &str| -> Result<_> {
        Ok((Reservations::named(part.slug())?, MySql::connect(url, &Options::default())?))
    };
    let (stock, payment) = (goods(Part::Stock, stock)?, goods(Part::Payment, payment)?);
    let mut clients = Vec::new();
    for _ in 0..count {
        let orders = Conn::from_url(order).await?;
        clients.push(BareOrders { orders, stock: stock.clone(), payment: payment.clone(), barrier });
    }
    Ok(Callers::new(name, clients))
}

/// How many orders all clients of this process have placed.
pub(crate) fn placed() -> u64 {
    ORDERS.load(Ordering::Relaxed)
}

impl Caller for BareOrders {
    async fn call(&mut self) -> Result<()> {
        let (order, barrier) = (Order::random(), self.barrier);
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        // They sort by time, as the coordinator's do.
        let gtid = Gtid::compose(now, Epoch(1), ORDERS.fetch_add(1, Ordering::Relaxed));
        let branch = |number, part| Branch { gtid, id: BranchId(number), part, barrier };
        let (stock, payment) = (branch(2, &self.stock), branch(3, &self.payment));
        tokio::try_join!(
            place(&mut self.orders, gtid, &order, barrier),
            stock.attempt(&order.sku, order.qty),
            payment.attempt(&order.user, order.cents),
        )?;
        tokio::try_join!(stock.confirm(), payment.confirm())?;
        Ok(())
    }
}

/// The order's local transaction, in one round trip.
async fn place(connection: &mut Conn, gtid: Gtid, order: &Order, barrier: bool) -> Result<()> {
    let text = |text: &str| format!("'{text}'");
    let (qty, cents) = (order.qty.to_string(), order.cents.to_string());
    let insert =
        fill_in(INSERT_ORDER, &[text(&gtid.to_string()), text(&order.sku), qty, text(&order.user), cents]);
    let hex: String = gtid.to_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let marker = match barrier {
        true => fill_in(MARKED, &[format!("X'{hex}'"), "1".to_owned()]) + "; ",
        false => String::new(),
    };
    Ok(connection.query_drop(format!("START TRANSACTION; {insert}; {marker}COMMIT")).await?)
}

fn fill_in(sql: &str, values: &[String]) -> String {
    values.iter().fold(sql.to_owned(), |sql, value| sql.replacen('?', value, 1))
}

/// A TCC branch without coordination.
struct Branch<'a> {
    gtid: Gtid,
    id: BranchId,
    part: &'a (Reservations, MySql),
    barrier: bool,
}

impl Branch<'_> {
    async fn attempt(&self, sku: &str, quantity: i64) -> Result<()> {
        let mut tx = self.begin(TRIED).await?;
        self.part.0.reserve(&mut self.within(&mut tx), &[(sku, quantity)]).await?;
        Ok(tx.commit().await?)
    }

    async fn confirm(&self) -> Result<()> {
        let mut tx = self.begin(CONFIRMED).await?;
        self.part.0.confirm(&mut self.within(&mut tx)).await?;
        Ok(tx.commit().await?)
    }

    async fn begin(&self, barrier: &str) -> Result<MySqlTransaction> {
        if !self.barrier {
            return Ok(self.part.1.begin().await?);
        }
        let row: [SqlValue; 2] = [self.gtid.to_bytes().into(), self.id.0.into()];
        let (tx, affected) = self.part.1.begin_with(barrier, row.into()).await?;
        ensure!(affected == 1, "{} rows of the barrier", affected);
        Ok(tx)
    }

    fn within<'t, T>(&self, transaction: &'t mut T) -> Within<'t, T> {
        Within { transaction, gtid: self.gtid, branch: self.id }
    }
}
