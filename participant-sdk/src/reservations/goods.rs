//! Goods that come and go, and how an SKU is laid out. For administrators; safe while orders run.

use serde::{Deserialize, Serialize};

use super::Reservations;
use super::error::ReservationError;
use super::items::{check_quantity, check_sku};
use super::stock::{BUCKETS_MAX, HOME, LOWEST};
use crate::local::LocalTransaction;

/// The figures of one SKU, over all its buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Into how many buckets it is split.
    pub buckets: u16,
    /// What there is: available and frozen.
    pub on_hand: i64,
    /// What can be reserved.
    pub available: i64,
    /// What is reserved.
    pub frozen: i64,
    /// All that was ever added, less what was removed.
    pub received: i64,
    /// All that was ever confirmed.
    pub sold: i64,
}

impl Reservations {
    /// Adds goods, or pays into an account. An SKU that is not known is new.
    ///
    /// # Errors
    /// [`ReservationError::Sku`], [`ReservationError::Quantity`], [`ReservationError::TooMuch`];
    /// [`ReservationError::Database`].
    pub async fn add<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        quantity: i64,
    ) -> Result<(), ReservationError> {
        let quantity = check_quantity(check_sku(sku)?, quantity.into())?;
        if self.lock(tx, sku, LOWEST).await?.is_none() {
            self.create(tx, sku).await?;
        }
        let mut stock = self.locked(tx, sku, LOWEST).await?;
        stock.receive(sku, quantity)?;
        self.write(tx, sku, &stock).await
    }

    /// Removes goods that are not reserved, or pays out.
    ///
    /// # Errors
    /// [`ReservationError::Quantity`], [`ReservationError::UnknownSku`], [`ReservationError::Short`];
    /// [`ReservationError::Database`].
    pub async fn remove<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        quantity: i64,
    ) -> Result<(), ReservationError> {
        let wanted = check_quantity(check_sku(sku)?, quantity.into())?;
        let mut stock = self.locked(tx, sku, LOWEST).await?;
        if stock.available() < wanted {
            let (sku, available) = (sku.to_owned(), stock.available());
            return Err(ReservationError::Short { sku, wanted, available });
        }
        stock.receive(sku, -wanted)?;
        self.write(tx, sku, &stock).await
    }

    /// Reads an SKU's figures; what others have not committed is not in them. None: there is no such SKU.
    ///
    /// # Errors
    /// [`ReservationError::Database`].
    pub async fn item<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
    ) -> Result<Option<Item>, ReservationError> {
        let stock = self.look(tx, sku).await?;
        Ok(stock.map(|stock| Item {
            buckets: stock.buckets(),
            on_hand: stock.sum(|row| row.on_hand),
            available: stock.available(),
            frozen: stock.sum(|row| row.frozen),
            received: stock.sum(|row| row.received),
            sold: stock.sum(|row| row.sold),
        }))
    }

    /// Spreads an SKU evenly over so many buckets, from 1 to [`super::BUCKETS_MAX`], so that as many buyers do
    /// not wait for each other; 1 joins them again. Callers notice nothing, but wait while it commits. What is
    /// frozen stays in the row where it is until its reservation ends. Rows that are no longer needed stay, empty.
    ///
    /// # Errors
    /// [`ReservationError::Buckets`], [`ReservationError::UnknownSku`]; [`ReservationError::Database`].
    pub async fn split<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        buckets: u16,
    ) -> Result<(), ReservationError> {
        if !(1..=BUCKETS_MAX).contains(&buckets) {
            return Err(ReservationError::Buckets(buckets));
        }
        let mut stock = self.locked(tx, check_sku(sku)?, LOWEST).await?;
        stock.spread(stock.available(), buckets);
        self.write(tx, sku, &stock).await?;
        self.splits().learn(sku, buckets, false);
        Ok(())
    }

    /// Makes an SKU without goods, unless somebody else does.
    async fn create<T: LocalTransaction>(&self, tx: &mut T, sku: &str) -> Result<(), ReservationError> {
        let sql = format!(
            "INSERT INTO {} (sku, bucket, buckets, lanes, on_hand, available, frozen, received, sold) \
             VALUES (?, {HOME}, 1, 0, 0, 0, 0, 0, 0) ON DUPLICATE KEY UPDATE buckets = buckets",
            self.items_table()
        );
        tx.execute(&sql, vec![sku.into()]).await?;
        Ok(())
    }
}
