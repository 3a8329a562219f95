//! The rows of one SKU: one, or as many as it has buckets.

use rand::seq::IteratorRandom as _;

use super::error::ReservationError;
use super::rows::Reader;
use super::{Reservations, items::QUANTITY_MAX};
use crate::local::{LocalTransaction, SqlValue};

/// Into how many buckets an SKU can be split.
pub const BUCKETS_MAX: u16 = 1_024;

/// Rows of one statement, at most; a statement has at most 65,535 parameters.
const ROWS_PER_STATEMENT: usize = 1_024;

/// One row of the items table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) number: u16,
    pub(crate) on_hand: i64,
    pub(crate) available: i64,
    pub(crate) frozen: i64,
    /// What was added, less what was removed: a sum that means something over all buckets together only.
    pub(crate) received: i64,
    /// What was confirmed: as above.
    pub(crate) sold: i64,
}

/// All rows of one SKU.
///
/// Buckets from `buckets` up are retired: nothing is put into them any more, but what was frozen in them before
/// may come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stock {
    /// Bucket 0 first. Never empty.
    rows: Vec<Bucket>,
    buckets: u16,
}

impl Stock {
    pub(crate) fn buckets(&self) -> u16 {
        self.buckets
    }

    /// The sum of a figure over all buckets.
    pub(crate) fn sum(&self, figure: impl Fn(&Bucket) -> i64) -> i64 {
        // Each is at most QUANTITY_MAX, but for the sums of movements: these have the whole range.
        self.rows.iter().map(figure).fold(0, i64::saturating_add)
    }

    pub(crate) fn available(&self) -> i64 {
        self.sum(|row| row.available)
    }

    /// A bucket that has so much by itself.
    pub(crate) fn one_with(&self, wanted: i64) -> Option<u16> {
        let roomy = self.rows.iter().filter(|row| row.available >= wanted);
        roomy.choose(&mut rand::rng()).map(|row| row.number)
    }

    /// Takes from as few buckets as may be. Answers which, and how much of each; there must be enough.
    fn freeze(&mut self, wanted: i64) -> Vec<(u16, i64)> {
        let mut left = wanted;
        let mut taken = Vec::new();
        let mut fullest: Vec<&mut Bucket> = self.rows.iter_mut().collect();
        fullest.sort_by_key(|row| std::cmp::Reverse(row.available));
        for row in fullest {
            let part = row.available.min(left);
            if part == 0 {
                break;
            }
            row.available -= part;
            row.frozen += part;
            left -= part;
            taken.push((row.number, part));
        }
        taken
    }

    /// Spreads `available` evenly over `buckets` buckets. What is frozen stays where it is, because the
    /// reservations say where.
    pub(crate) fn spread(&mut self, available: i64, buckets: u16) {
        let (received, sold) = (self.sum(|row| row.received), self.sum(|row| row.sold));
        for number in 0..buckets {
            if let Err(place) = self.rows.binary_search_by_key(&number, |row| row.number) {
                let (on_hand, available, frozen, received, sold) = (0, 0, 0, 0, 0);
                self.rows.insert(place, Bucket { number, on_hand, available, frozen, received, sold });
            }
        }
        let (share, rest) = (available / i64::from(buckets), available % i64::from(buckets));
        for row in &mut self.rows {
            row.available = match row.number {
                number if number >= buckets => 0,
                number => share + i64::from(i64::from(number) < rest),
            };
            row.on_hand = row.available + row.frozen;
            (row.received, row.sold) = if row.number == 0 { (received, sold) } else { (0, 0) };
        }
        self.buckets = buckets;
    }

    /// Books a movement of goods from or to the outside.
    pub(crate) fn receive(&mut self, sku: &str, quantity: i64) -> Result<(), ReservationError> {
        let on_hand = i128::from(self.sum(|row| row.on_hand)) + i128::from(quantity);
        let received = self.rows.first_mut().and_then(|row| {
            row.received = row.received.checked_add(quantity)?;
            Some(row.received)
        });
        if on_hand > i128::from(QUANTITY_MAX) || received.is_none() {
            return Err(ReservationError::TooMuch { sku: sku.to_owned(), on_hand });
        }
        self.spread(self.available() + quantity, self.buckets);
        Ok(())
    }
}

impl Reservations {
    /// Reads an SKU without locking anything. None: there is no such SKU.
    pub(crate) async fn look<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
    ) -> Result<Option<Stock>, ReservationError> {
        self.read(tx, sku, "").await
    }

    /// Locks all rows of an SKU, the first bucket first, and reads them.
    pub(crate) async fn lock<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
    ) -> Result<Option<Stock>, ReservationError> {
        self.read(tx, sku, "FOR UPDATE").await
    }

    async fn read<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        locking: &str,
    ) -> Result<Option<Stock>, ReservationError> {
        // Without the hint a small table may be read from end to end, and with it other SKUs be waited for.
        let sql = format!(
            "SELECT bucket, on_hand, available, frozen, received, sold, buckets FROM {} FORCE INDEX (PRIMARY) \
             WHERE sku = ? ORDER BY bucket {locking}",
            self.items_table()
        );
        let rows = tx.query(&sql, vec![sku.into()]).await?;
        let mut stock = Stock { rows: Vec::with_capacity(rows.len()), buckets: 1 };
        for row in &rows {
            let mut row = Reader::new(self.items_table(), row);
            stock.rows.push(Bucket {
                number: row.number()?,
                on_hand: row.number()?,
                available: row.number()?,
                frozen: row.number()?,
                received: row.number()?,
                sold: row.number()?,
            });
            stock.buckets = row.number()?;
        }
        if stock.rows.is_empty() {
            return Ok(None);
        }
        self.splits().learn(sku, stock.buckets);
        Ok(Some(stock))
    }

    /// Freezes, out of whatever buckets it takes; they must have been locked.
    pub(crate) async fn freeze_locked<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        mut stock: Stock,
        wanted: i64,
    ) -> Result<Vec<(u16, i64)>, ReservationError> {
        let taken = stock.freeze(wanted);
        stock.rows.retain(|row| taken.iter().any(|(number, _)| *number == row.number));
        self.write(tx, sku, &stock).await?;
        Ok(taken)
    }

    /// Writes rows of an SKU that have been locked.
    pub(crate) async fn write<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        stock: &Stock,
    ) -> Result<(), ReservationError> {
        for rows in stock.rows.chunks(ROWS_PER_STATEMENT) {
            let sql = format!(
                "INSERT INTO {} (sku, bucket, buckets, on_hand, available, frozen, received, sold) VALUES {} \
                 ON DUPLICATE KEY UPDATE buckets = VALUES(buckets), on_hand = VALUES(on_hand), \
                 available = VALUES(available), frozen = VALUES(frozen), received = VALUES(received), \
                 sold = VALUES(sold)",
                self.items_table(),
                vec!["(?, ?, ?, ?, ?, ?, ?, ?)"; rows.len()].join(", ")
            );
            let params = rows.iter().flat_map(|row| {
                let figures = [row.on_hand, row.available, row.frozen, row.received, row.sold];
                let key: [SqlValue; 3] = [sku.into(), row.number.into(), stock.buckets.into()];
                key.into_iter().chain(figures.map(SqlValue::from))
            });
            tx.execute(&sql, params.collect()).await?;
        }
        Ok(())
    }
}
