//! The rows of one SKU.
//!
//! An SKU has one row, bucket 0, which is its *home*. Split, it has lanes as well: buckets −1, −2 and so on.
//! Buyers draw on lanes, each on one at random, and on the home only when a lane runs low. Rows are locked in
//! ascending order, so that the home is last, and whoever holds a lane may always wait for the home.

use super::error::ReservationError;
use super::rows::Reader;
use super::{Reservations, items::QUANTITY_MAX};
use crate::local::{LocalError, LocalTransaction, SqlValue};

/// Into how many buckets an SKU can be split.
pub const BUCKETS_MAX: u16 = 1_024;

/// The bucket that every SKU has.
pub(crate) const HOME: i16 = 0;
/// Below every bucket: where locking begins when all are to be locked.
pub(crate) const LOWEST: i16 = i16::MIN;

/// A buyer goes on to draw on a lane that has so many times what is wanted: more than those who wait for it at the
/// same time are likely to want.
const PLENTY: i64 = 16;

/// Rows of one statement, at most; a statement has at most 65,535 parameters.
const ROWS_PER_STATEMENT: usize = 1_024;

/// NOWAIT, and somebody holds a row.
const NOWAIT_MYSQL: u16 = 3572;
const NOWAIT_MARIADB: u16 = 1205;

/// One row of the items table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) number: i16,
    pub(crate) on_hand: i64,
    pub(crate) available: i64,
    pub(crate) frozen: i64,
    /// What was added, less what was removed: a sum that means something over all buckets together only.
    pub(crate) received: i64,
    /// What was confirmed: as above.
    pub(crate) sold: i64,
}

/// Rows of one SKU, from some bucket up to its home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stock {
    /// Ascending. Never empty.
    rows: Vec<Bucket>,
    /// How many lanes are in use, or 1 when there is only the home. Lanes below are retired: nothing is put
    /// into them, but what was frozen in them before may come back.
    buckets: u16,
    /// How many lanes have rows, in use or retired.
    lanes: usize,
}

/// How much a lane must have to be drawn on without further thought.
pub(crate) fn plenty(wanted: i64) -> i64 {
    // At most 16 times a checked quantity.
    PLENTY * wanted
}

impl Stock {
    pub(crate) fn buckets(&self) -> u16 {
        self.buckets
    }

    /// Whether all rows are here. Rows that came into being while somebody waited for the home, which is read
    /// last, are missing: whoever reads rows in order does not look back.
    fn is_complete(&self) -> bool {
        self.rows.len() == self.lanes + 1
    }

    /// The sum of a figure over all rows.
    pub(crate) fn sum(&self, figure: impl Fn(&Bucket) -> i64) -> i64 {
        // Each is at most QUANTITY_MAX, but for the sums of movements: these have the whole range.
        self.rows.iter().map(figure).fold(0, i64::saturating_add)
    }

    pub(crate) fn available(&self) -> i64 {
        self.sum(|row| row.available)
    }

    /// What is available in the given bucket and those above.
    pub(crate) fn available_from(&self, bucket: i16) -> i64 {
        self.sum(|row| if row.number >= bucket { row.available } else { 0 })
    }

    /// Whether some lane will soon not have plenty, or there are goods in rows that nobody picks.
    pub(crate) fn is_low(&self, wanted: i64) -> bool {
        if self.buckets == 1 {
            return self.available() > self.available_from(HOME);
        }
        let lanes = self.rows.iter().filter(|row| self.is_used(row.number) && row.number != HOME);
        lanes.into_iter().any(|row| row.available < 2 * plenty(wanted))
    }

    fn is_used(&self, number: i16) -> bool {
        number == HOME || (self.buckets > 1 && i32::from(number) >= -i32::from(self.buckets))
    }

    /// Takes from as few buckets as may be. Answers which, and how much of each; there must be enough.
    fn freeze(&mut self, wanted: i64) -> Vec<(i16, i64)> {
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

    /// Spreads `available` evenly over the home and, with more than one bucket, so many lanes. What is frozen
    /// stays where it is, because the reservations say where. All rows must be here.
    pub(crate) fn spread(&mut self, available: i64, buckets: u16) {
        self.buckets = buckets;
        let lanes = if buckets > 1 { i16::try_from(buckets).unwrap_or(i16::MAX) } else { 0 };
        for number in -lanes..=HOME {
            if let Err(place) = self.rows.binary_search_by_key(&number, |row| row.number) {
                let (on_hand, available, frozen, received, sold) = (0, 0, 0, 0, 0);
                self.rows.insert(place, Bucket { number, on_hand, available, frozen, received, sold });
            }
        }
        self.lanes = self.rows.len() - 1;
        let (received, sold) = (self.sum(|row| row.received), self.sum(|row| row.sold));
        let used = i64::from(lanes) + 1;
        let (share, rest) = (available / used, available % used);
        for row in &mut self.rows {
            row.available = match row.number {
                number if number < -lanes => 0,
                number => share + i64::from(-i64::from(number) < rest),
            };
            row.on_hand = row.available + row.frozen;
            (row.received, row.sold) = if row.number == HOME { (received, sold) } else { (0, 0) };
        }
    }

    /// Spreads what is available, unless even then some lane would be low.
    fn level(&mut self, wanted: i64) {
        let mut even = self.clone();
        even.spread(self.available(), self.buckets);
        if !even.is_low(wanted) {
            *self = even;
        }
    }

    /// Books a movement of goods from or to the outside. All rows must be here.
    pub(crate) fn receive(&mut self, sku: &str, quantity: i64) -> Result<(), ReservationError> {
        let on_hand = i128::from(self.sum(|row| row.on_hand)) + i128::from(quantity);
        self.spread(self.available(), self.buckets);
        let received = self.rows.last_mut().and_then(|home| {
            home.received = home.received.checked_add(quantity)?;
            Some(())
        });
        if on_hand > i128::from(QUANTITY_MAX) || received.is_none() {
            return Err(ReservationError::TooMuch { sku: sku.to_owned(), on_hand });
        }
        self.spread(self.available() + quantity, self.buckets);
        Ok(())
    }
}

/// How rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Locking {
    None,
    Wait,
    NoWait,
}

impl Reservations {
    /// Reads an SKU without locking anything. None: there is no such SKU.
    pub(crate) async fn look<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
    ) -> Result<Option<Stock>, ReservationError> {
        self.read(tx, sku, LOWEST, Locking::None).await
    }

    /// Locks the rows of an SKU in ascending order, and reads them.
    pub(crate) async fn lock<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        from: i16,
    ) -> Result<Option<Stock>, ReservationError> {
        self.read(tx, sku, from, Locking::Wait).await
    }

    /// As [`Reservations::lock`], of an SKU that must be there. From [`LOWEST`] up, all its rows.
    pub(crate) async fn locked<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        from: i16,
    ) -> Result<Stock, ReservationError> {
        match self.lock(tx, sku, from).await? {
            None => Err(ReservationError::UnknownSku(sku.to_owned())),
            Some(stock) if from > LOWEST || stock.is_complete() => Ok(stock),
            Some(_) => self.locked_at_once(tx, sku).await,
        }
    }

    /// Locks all rows of an SKU and waits for none of them: for those who may hold one already.
    pub(crate) async fn locked_at_once<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
    ) -> Result<Stock, ReservationError> {
        // The second time the home is ours, and nobody makes lanes who does not have it.
        for _ in 0..2 {
            match self.read(tx, sku, LOWEST, Locking::NoWait).await {
                Ok(Some(stock)) if stock.is_complete() => return Ok(stock),
                Ok(Some(_)) => {}
                Ok(None) => return Err(ReservationError::UnknownSku(sku.to_owned())),
                Err(ReservationError::Database(LocalError::Server {
                    code: NOWAIT_MYSQL | NOWAIT_MARIADB,
                    ..
                })) => return Err(ReservationError::Busy(sku.to_owned())),
                Err(error) => return Err(error),
            }
        }
        Err(ReservationError::Corrupt(format!("{} lacks rows of {sku}", self.items_table())))
    }

    async fn read<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        from: i16,
        locking: Locking,
    ) -> Result<Option<Stock>, ReservationError> {
        // Without the hint a small table may be read from end to end, and with it other SKUs be waited for.
        let sql = format!(
            "SELECT bucket, on_hand, available, frozen, received, sold, buckets, lanes FROM {} FORCE INDEX (PRIMARY) \
             WHERE sku = ? AND bucket >= ? ORDER BY bucket {}",
            self.items_table(),
            match locking {
                Locking::None => "",
                Locking::Wait => "FOR UPDATE",
                Locking::NoWait => "FOR UPDATE NOWAIT",
            }
        );
        let rows = tx.query(&sql, vec![sku.into(), from.into()]).await?;
        let mut stock = Stock { rows: Vec::with_capacity(rows.len()), buckets: 1, lanes: 0 };
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
            // The last row's count, which is the home's.
            (stock.buckets, stock.lanes) = (row.number()?, row.number()?);
        }
        Ok(Some(stock).filter(|stock| !stock.rows.is_empty()))
    }

    /// Freezes out of rows that have been locked, and have enough. With `level`, they are all of the SKU's, and
    /// what is left is spread anew if that helps.
    pub(crate) async fn freeze_locked<T: LocalTransaction>(
        &self,
        tx: &mut T,
        sku: &str,
        mut stock: Stock,
        wanted: i64,
        level: bool,
    ) -> Result<Vec<(i16, i64)>, ReservationError> {
        let before = stock.rows.clone();
        let taken = stock.freeze(wanted);
        if level {
            if stock.is_low(wanted) {
                stock.level(wanted);
            }
            self.splits().learn(sku, stock.buckets, stock.is_low(wanted));
        }
        stock.rows.retain(|row| !before.contains(row));
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
                "INSERT INTO {} (sku, bucket, buckets, lanes, on_hand, available, frozen, received, sold) VALUES {} \
                 ON DUPLICATE KEY UPDATE buckets = VALUES(buckets), lanes = VALUES(lanes), on_hand = VALUES(on_hand), \
                 available = VALUES(available), frozen = VALUES(frozen), received = VALUES(received), \
                 sold = VALUES(sold)",
                self.items_table(),
                vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?)"; rows.len()].join(", ")
            );
            let params = rows.iter().flat_map(|row| {
                let figures = [row.on_hand, row.available, row.frozen, row.received, row.sold];
                let lanes = u16::try_from(stock.lanes).unwrap_or(u16::MAX);
                let key: [SqlValue; 4] = [sku.into(), row.number.into(), stock.buckets.into(), lanes.into()];
                key.into_iter().chain(figures.map(SqlValue::from))
            });
            tx.execute(&sql, params.collect()).await?;
        }
        Ok(())
    }
}
