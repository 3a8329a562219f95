//! Try: freezing what is available.
//!
//! # Why this does not deadlock
//!
//! Rows of the items table are locked in ascending order of (SKU, bucket), by everyone. A row that was tried and
//! had too little counts as locked: under REPEATABLE READ the server keeps it locked, and under READ COMMITTED too
//! if it had to be waited for (tested on MySQL 9.7 and MariaDB 10.11; the manual only says that locks of rows that
//! do not match are released). So after a bucket was tried in vain, only those above it are waited for; those
//! below are taken if nobody holds them, or else the transaction has to begin again. That is seldom: before a lane
//! is empty it is low, and who finds it low locks all rows from the lowest up the next time.

use super::error::ReservationError;
use super::items::Items;
use super::stock::{HOME, LOWEST, Stock, plenty};
use super::{BranchTransaction, Key, Reservations};
use crate::local::{LocalTransaction, SqlValue};

/// Rows of one INSERT, at most; a statement has at most 65,535 parameters.
const ROWS_PER_STATEMENT: usize = 1_024;

/// Taken from one bucket.
struct Frozen<'a> {
    sku: &'a str,
    bucket: i16,
    quantity: i64,
}

impl Reservations {
    /// Freezes items for a branch: what Try does. Several of the same SKU are summed. To call it again for the
    /// same branch adds to what it has reserved, but orders that reserve in several calls may deadlock with each
    /// other: put everything into one. It is not for a branch that has ended; the barrier sees to that.
    ///
    /// # Errors
    /// A refusal when a quantity is not from 1 to [`super::QUANTITY_MAX`], an SKU is unknown or short, or the
    /// branch's reservation has ended; [`ReservationError::Database`].
    pub async fn reserve<B: BranchTransaction, S: AsRef<str> + Sync>(
        &self,
        branch: &mut B,
        items: &[(S, i64)],
    ) -> Result<(), ReservationError> {
        let items = Items::check(items)?;
        let key = Key::of(branch);
        let tx = branch.transaction();
        let mut frozen = Vec::new();
        for (sku, wanted) in items.iter() {
            let taken = self.freeze(tx, sku, wanted).await?;
            frozen.extend(taken.into_iter().map(|(bucket, quantity)| Frozen { sku, bucket, quantity }));
        }
        self.record(tx, key, &frozen).await
    }

    /// Freezes so much of one SKU. Answers out of which buckets.
    async fn freeze<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        wanted: i64,
    ) -> Result<Vec<(i16, i64)>, ReservationError> {
        if self.splits().look_first()
            && let Some(stock) = self.look(tx, sku).await?
        {
            self.splits().learn(sku, stock.buckets(), stock.is_low(wanted));
        }
        let picked = self.splits().pick(sku);
        if let Some(bucket) = picked
            && self.freeze_picked(tx, sku, bucket, wanted).await?
        {
            return Ok(vec![(bucket, wanted)]);
        }
        let Some(seen) = self.look(tx, sku).await? else {
            return Err(ReservationError::UnknownSku(sku.to_owned()));
        };
        if seen.available() < wanted {
            return Err(short(sku, wanted, &seen));
        }
        self.splits().learn(sku, seen.buckets(), seen.is_low(wanted));
        if let Some(bucket) = picked
            && seen.available_from(bucket) >= wanted
        {
            let above = self.locked(tx, sku, bucket).await?;
            if above.available() >= wanted {
                return self.freeze_locked(tx, sku, above, wanted, false).await;
            }
        }
        let all = match picked {
            None => self.locked(tx, sku, LOWEST).await?,
            Some(_) => self.locked_at_once(tx, sku).await?,
        };
        match all.available() >= wanted {
            true => self.freeze_locked(tx, sku, all, wanted, true).await,
            false => Err(short(sku, wanted, &all)),
        }
    }

    /// Freezes out of a bucket that was picked, if it has enough.
    async fn freeze_picked<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        bucket: i16,
        wanted: i64,
    ) -> Result<bool, ReservationError> {
        if bucket == HOME {
            return self.freeze_in(tx, sku, bucket, wanted, wanted).await;
        }
        if self.freeze_in(tx, sku, bucket, wanted, plenty(wanted)).await? {
            return Ok(true);
        }
        self.splits().low(sku);
        self.freeze_in(tx, sku, bucket, wanted, wanted).await
    }

    /// Freezes out of one bucket, if it has at least so much.
    async fn freeze_in<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        bucket: i16,
        wanted: i64,
        least: i64,
    ) -> Result<bool, ReservationError> {
        let sql = format!(
            "UPDATE {} FORCE INDEX (PRIMARY) SET available = available - ?, frozen = frozen + ? \
             WHERE sku = ? AND bucket = ? AND available >= ?",
            self.items_table()
        );
        let params = vec![wanted.into(), wanted.into(), sku.into(), bucket.into(), least.into()];
        Ok(tx.execute(&sql, params).await? == 1)
    }

    /// Writes the reservation's rows.
    async fn record<T: LocalTransaction>(
        &self,
        tx: &mut T,
        key: Key,
        frozen: &[Frozen<'_>],
    ) -> Result<(), ReservationError> {
        for rows in frozen.chunks(ROWS_PER_STATEMENT) {
            // A quantity below zero violates a constraint: what has ended cannot be added to.
            let sql = format!(
                "INSERT INTO {} (gtid, branch, sku, bucket, quantity, reserved_at, expires_at) VALUES {} \
                 ON DUPLICATE KEY UPDATE quantity = IF(state = 'pending', quantity + VALUES(quantity), -1)",
                self.reservations_table(),
                vec![
                    "(?, ?, ?, ?, ?, UTC_TIMESTAMP(3), UTC_TIMESTAMP(3) + INTERVAL ? MICROSECOND)";
                    rows.len()
                ]
                .join(", ")
            );
            let params = rows.iter().flat_map(|row| {
                let (sku, bucket, quantity) = (row.sku.into(), row.bucket.into(), row.quantity.into());
                let params: [SqlValue; 6] = [
                    key.gtid.to_bytes().into(),
                    key.branch.0.into(),
                    sku,
                    bucket,
                    quantity,
                    self.hold_us().into(),
                ];
                params
            });
            match tx.execute(&sql, params.collect()).await {
                Err(error) if matches!(error.code(), Some(CHECK_MYSQL | CHECK_MARIADB)) => {
                    return Err(self.not_pending(tx, key).await?);
                }
                done => done?,
            };
        }
        Ok(())
    }
}

fn short(sku: &str, wanted: i64, stock: &Stock) -> ReservationError {
    ReservationError::Short { sku: sku.to_owned(), wanted, available: stock.available() }
}

/// A CHECK constraint is violated.
const CHECK_MYSQL: u16 = 3819;
const CHECK_MARIADB: u16 = 4025;
