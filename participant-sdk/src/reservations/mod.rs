//! Reservations: frozen stock, and frozen money, with the same code.
//!
//! Try freezes, Confirm takes what is frozen out of the stock, Cancel makes it available again:
//!
//! ```no_run
//! use concord_participant::reservations::{ReservationError, Reservations};
//! use concord_participant::{LocalDatabase, LocalTransaction, MySql, TccBranch};
//!
//! # async fn example(database: MySql, mut branch: TccBranch<MySql>) -> Result<(), ReservationError> {
//! let stock = Reservations::named("stock")?;
//! stock.migrate(&database).await?; // the tables `stock` and `stock_reservation`
//!
//! // In handlers, where `branch` is a `TccBranch`:
//! stock.reserve(&mut branch, &[("T00101", 2), ("T00102", 1)]).await?; // Try; or refuses
//! stock.confirm(&mut branch).await?; // Confirm; `confirm_part` gives the rest back
//! stock.cancel(&mut branch).await?; // Cancel
//!
//! // Administration, in local transactions of one's own:
//! let mut tx = database.begin().await?;
//! stock.add(&mut tx, "T00101", 500).await?;
//! stock.split(&mut tx, "T00101", 16).await?; // a hot SKU: 16 rows, so that buyers do not queue
//! tx.commit().await?;
//! println!("{}", stock.audit(&mut database.begin().await?).await?);
//! # Ok(())
//! # }
//! ```
//!
//! With [`Reservations::try_handler`] and its siblings a whole service is one line. For balances an SKU is an
//! account, and a quantity an amount in the smallest unit of the currency.
//!
//! # What holds
//!
//! - `available >= 0`, `frozen >= 0` and `on_hand = available + frozen`, by constraints of the tables.
//! - `frozen` is the sum of the pending reservations, because both change in one local transaction.
//! - A row of a reservation is never deleted: its state moves on, once.
//! - All times are the database's. The clocks of its clients do not matter.
//! - Orders of many SKUs do not deadlock with each other, whatever order they name them in and however often an
//!   SKU is split meanwhile. That needs READ COMMITTED, which the SDK's own pool has; a pool that is given to
//!   [`crate::Builder::tcc_on`] must be set to it. Under REPEATABLE READ some deadlock (on locked gaps, and on rows
//!   that stay locked although they did not match); they fail, are tried again by the coordinator, and nothing is
//!   oversold.
//! - [`ReservationError::Busy`] says that the transaction has to begin again, so as not to risk a deadlock. It is no
//!   refusal, so the coordinator repeats Try. It is seldom: a handful when an SKU is split or sells out under load.
//!
//! # Expiry
//!
//! The coordinator ends every reservation, by Confirm or by Cancel, however long that takes. To expire one
//! whose transaction may still commit would take from a buyer what was promised. [`Reservations::overdue`]
//! therefore only lists, and [`Reservations::expire`] is for transactions of which the coordinator says that
//! they were rolled back. [`Reservations::expire_rolled_back`] asks it.

mod audit;
mod error;
mod goods;
mod handlers;
mod history;
mod items;
mod reserve;
mod rows;
mod schema;
mod settle;
mod splits;
mod stock;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use concord_protocol::{BranchId, Gtid};

pub use audit::{Audit, Figures, Rule, Violation};
pub use error::ReservationError;
pub use goods::Item;
pub use handlers::{ReserveItem, ReserveItems};
pub use history::{Reservation, State};
pub use items::{ITEMS_MAX, QUANTITY_MAX, SKU_MAX_CHARS};
pub use settle::Overdue;
pub use stock::BUCKETS_MAX;
pub use sweep::{Expired, ExpiryError};

use crate::local::{LocalDatabase, LocalTransaction, SqlValue};
use crate::tcc::TccBranch;
use splits::Splits;

/// A pending reservation is overdue after this long.
const HOLD: Duration = Duration::from_secs(15 * 60);
/// A century: for ever.
const HOLD_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Characters of a name, at most: a table's name has 64, and `_reservation` is put after it.
const NAME_MAX: usize = 48;

/// Stock of one kind, or accounts of one kind: a pair of tables. Cheap to clone; clones share what they learn.
#[derive(Debug, Clone)]
pub struct Reservations {
    name: Arc<str>,
    tables: Arc<Tables>,
    hold: Duration,
    splits: Arc<Splits>,
}

/// Names of tables, as they stand in SQL.
#[derive(Debug)]
struct Tables {
    items: String,
    reservations: String,
}

impl Reservations {
    /// Reservations in the tables `name` and `name_reservation` of the local database. Make one per process: it
    /// learns which SKUs are split.
    ///
    /// # Errors
    /// [`ReservationError::Name`] when it is not from 1 to 48 of `a` to `z`, `0` to `9` and `_`, a letter
    /// first. (Servers differ on capitals in the names of tables.)
    pub fn named(name: &str) -> Result<Self, ReservationError> {
        let fits = name.len() <= NAME_MAX && name.starts_with(|first: char| first.is_ascii_lowercase());
        if !fits || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
            return Err(ReservationError::Name(name.chars().take(2 * NAME_MAX).collect()));
        }
        Ok(Reservations {
            name: name.into(),
            tables: Arc::new(Tables {
                items: format!("`{name}`"),
                reservations: format!("`{name}_reservation`"),
            }),
            hold: HOLD,
            splits: Arc::default(),
        })
    }

    /// How long a reservation may be pending before it is overdue: 15 minutes by default, a century at most.
    #[must_use]
    pub fn hold(mut self, hold: Duration) -> Self {
        self.hold = hold.min(HOLD_MAX);
        self
    }

    /// The name, which is also that of the items table.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn items_table(&self) -> &str {
        &self.tables.items
    }

    fn reservations_table(&self) -> &str {
        &self.tables.reservations
    }

    fn splits(&self) -> &Splits {
        &self.splits
    }

    fn hold_us(&self) -> i64 {
        i64::try_from(self.hold.as_micros()).unwrap_or(i64::MAX)
    }
}

/// A branch and the local transaction in which it works. [`TccBranch`] is one; [`Within`] makes one of any local
/// transaction.
pub trait BranchTransaction: Send {
    /// The local transaction.
    type Transaction: LocalTransaction;

    /// The global transaction.
    fn gtid(&self) -> Gtid;

    /// The branch in it.
    fn branch_id(&self) -> BranchId;

    /// The local transaction.
    fn transaction(&mut self) -> &mut Self::Transaction;
}

impl<D: LocalDatabase> BranchTransaction for TccBranch<D> {
    type Transaction = D::Transaction;

    fn gtid(&self) -> Gtid {
        TccBranch::gtid(self)
    }

    fn branch_id(&self) -> BranchId {
        TccBranch::branch_id(self)
    }

    fn transaction(&mut self) -> &mut Self::Transaction {
        TccBranch::transaction(self)
    }
}

/// A branch whose local transaction the caller has begun, and will end: without the SDK's barrier. The caller sees
/// to it that nothing is done twice; two who end the same reservation at the same time may deadlock, and one of
/// them has to begin again.
#[derive(Debug)]
pub struct Within<'a, T> {
    /// The local transaction.
    pub transaction: &'a mut T,
    /// The global transaction.
    pub gtid: Gtid,
    /// The branch in it.
    pub branch: BranchId,
}

impl<T: LocalTransaction> BranchTransaction for Within<'_, T> {
    type Transaction = T;

    fn gtid(&self) -> Gtid {
        self.gtid
    }

    fn branch_id(&self) -> BranchId {
        self.branch
    }

    fn transaction(&mut self) -> &mut T {
        self.transaction
    }
}

/// Whose reservation it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    gtid: Gtid,
    branch: BranchId,
}

impl Key {
    fn of(branch: &impl BranchTransaction) -> Self {
        Key { gtid: branch.gtid(), branch: branch.branch_id() }
    }

    /// For `gtid = ? AND branch = ?`.
    fn params(self) -> [SqlValue; 2] {
        [self.gtid.to_bytes().into(), self.branch.0.into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for name in ["stock", "s", "balance_2", &"a".repeat(NAME_MAX)] {
            assert_eq!(Reservations::named(name).unwrap().name(), name);
        }
        for name in ["", "Stock", "1a", "_a", "a b", "a`; DROP TABLE b", "bücher", &"a".repeat(NAME_MAX + 1)]
        {
            assert!(matches!(Reservations::named(name), Err(ReservationError::Name(_))), "{name:?}");
        }
    }
}
