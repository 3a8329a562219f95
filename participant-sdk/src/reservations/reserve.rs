//! Try: freezing what is available.
//!
//! # Why this does not deadlock
//!
//! Every call locks rows of the items table in ascending order of (sku, bucket), and of one SKU either a single
//! bucket or, if it takes several, all of them. A bucket that was tried and had too little is not held: under
//! READ COMMITTED the server releases the lock of a row that an UPDATE did not match (MySQL manual, "Transaction
//! Isolation Levels"; tested). Under REPEATABLE READ it would be held, out of order.

use super::error::ReservationError;
use super::items::Items;
use super::{BranchTransaction, Key, Reservations};
use crate::local::{LocalTransaction, SqlValue};

/// Rows of one INSERT, at most; a statement has at most 65,535 parameters.
const ROWS_PER_STATEMENT: usize = 1_024;

/// Taken from one bucket.
struct Frozen<'a> {
    sku: &'a str,
    bucket: u16,
    quantity: i64,
}

impl Reservations {
    /// Freezes items for a branch: what Try does. Several of the same SKU are summed. To call it again for the
    /// same branch adds to what it has reserved, but SKUs that are reserved in several calls may deadlock with
    /// those of others: put all of them into one call.
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
    ) -> Result<Vec<(u16, i64)>, ReservationError> {
        let buckets = self.splits().of(sku);
        let guess = rand::random_range(0..buckets);
        if self.freeze_in(tx, sku, guess, buckets, wanted).await? {
            return Ok(vec![(guess, wanted)]);
        }
        // Short, unknown, or split by another process. Nothing of this SKU is locked now, nor by the look.
        let Some(stock) = self.look(tx, sku).await? else {
            return Err(ReservationError::UnknownSku(sku.to_owned()));
        };
        let short = |available| ReservationError::Short { sku: sku.to_owned(), wanted, available };
        if stock.available() < wanted {
            return Err(short(stock.available()));
        }
        if let Some(bucket) = stock.one_with(wanted)
            && self.freeze_in(tx, sku, bucket, stock.buckets(), wanted).await?
        {
            return Ok(vec![(bucket, wanted)]);
        }
        match self.lock(tx, sku).await? {
            None => Err(ReservationError::UnknownSku(sku.to_owned())),
            Some(stock) if stock.available() < wanted => Err(short(stock.available())),
            Some(stock) => self.freeze_locked(tx, sku, stock, wanted).await,
        }
    }

    /// Freezes out of one bucket, if it has enough and the SKU has as many buckets as was thought.
    async fn freeze_in<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        bucket: u16,
        buckets: u16,
        wanted: i64,
    ) -> Result<bool, ReservationError> {
        let sql = format!(
            "UPDATE {} FORCE INDEX (PRIMARY) SET available = available - ?, frozen = frozen + ? \
             WHERE sku = ? AND bucket = ? AND buckets = ? AND available >= ?",
            self.items_table()
        );
        let params =
            vec![wanted.into(), wanted.into(), sku.into(), bucket.into(), buckets.into(), wanted.into()];
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

/// A CHECK constraint is violated.
const CHECK_MYSQL: u16 = 3819;
const CHECK_MARIADB: u16 = 4025;
