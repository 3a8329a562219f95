//! Confirm, Cancel and expiry: ending a reservation, once.

use concord_protocol::{BranchId, Gtid};

use super::error::ReservationError;
use super::history::{Reservation, State};
use super::items::Items;
use super::rows::Reader;
use super::{BranchTransaction, Key, Reservations};
use crate::local::{LocalTransaction, SqlValue};

/// Rows of one UPDATE, at most; a statement has at most 65,535 parameters.
const ROWS_PER_STATEMENT: usize = 1_024;

/// A branch whose reservation is still pending past its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue {
    /// The global transaction.
    pub gtid: Gtid,
    /// The branch in it.
    pub branch: BranchId,
    /// For how many seconds, by the database's clock.
    pub overdue_s: u64,
}

impl Reservations {
    /// Takes everything that the branch has frozen out of the stock: what Confirm does.
    ///
    /// # Errors
    /// [`ReservationError::NothingReserved`]; [`ReservationError::NotPending`] when the reservation has ended;
    /// then nothing is changed. [`ReservationError::Database`].
    pub async fn confirm<B: BranchTransaction>(&self, branch: &mut B) -> Result<(), ReservationError> {
        let key = Key::of(branch);
        let tx = branch.transaction();
        match self.settle(tx, key, State::Confirmed, "r.quantity", "").await? {
            true => Ok(()),
            false => Err(self.not_pending(tx, key).await?),
        }
    }

    /// Takes a part of what the branch has frozen out of the stock, and makes the rest available again. An SKU
    /// that is not named is given back whole.
    ///
    /// # Errors
    /// As [`Reservations::confirm`]; [`ReservationError::MoreThanReserved`]; what
    /// [`Reservations::reserve`] says of quantities.
    pub async fn confirm_part<B: BranchTransaction, S: AsRef<str> + Sync>(
        &self,
        branch: &mut B,
        items: &[(S, i64)],
    ) -> Result<(), ReservationError> {
        let items = Items::check(items)?;
        let key = Key::of(branch);
        let tx = branch.transaction();
        let reserved = self.rows_of(tx, key, "FOR UPDATE").await?;
        let pending: Vec<_> = reserved.iter().filter(|row| row.state == State::Pending).collect();
        if pending.is_empty() {
            return Err(self.why_not(key, &reserved));
        }
        for rows in allot(&items, &pending)?.chunks(ROWS_PER_STATEMENT) {
            self.mark_confirmed(tx, key, rows).await?;
        }
        match self.settle(tx, key, State::Confirmed, "r.confirmed", "").await? {
            true => Ok(()),
            false => Err(self.why_not(key, &reserved)),
        }
    }

    /// Makes everything that the branch has frozen available again: what Cancel does. A reservation that has
    /// expired is as good as cancelled.
    ///
    /// # Errors
    /// [`ReservationError::NothingReserved`]; [`ReservationError::NotPending`] when it was confirmed or
    /// cancelled; then nothing is changed. [`ReservationError::Database`].
    pub async fn cancel<B: BranchTransaction>(&self, branch: &mut B) -> Result<(), ReservationError> {
        let key = Key::of(branch);
        let tx = branch.transaction();
        if self.settle(tx, key, State::Cancelled, "0", "").await? {
            return Ok(());
        }
        match self.not_pending(tx, key).await? {
            ReservationError::NotPending { state: State::Expired, .. } => Ok(()),
            error => Err(error),
        }
    }

    /// Lists branches whose reservations are pending past their time by the database's clock, the longest
    /// overdue first.
    ///
    /// Being overdue proves nothing: the transaction may still commit. Ask the coordinator.
    ///
    /// # Errors
    /// [`ReservationError::Database`].
    pub async fn overdue<T: LocalTransaction>(
        &self,
        tx: &mut T,
        limit: u32,
    ) -> Result<Vec<Overdue>, ReservationError> {
        let sql = format!(
            "SELECT gtid, branch, TIMESTAMPDIFF(SECOND, MIN(expires_at), UTC_TIMESTAMP(3)) FROM {} \
             WHERE state = 'pending' AND expires_at <= UTC_TIMESTAMP(3) \
             GROUP BY gtid, branch ORDER BY MIN(expires_at), gtid, branch LIMIT {limit}",
            self.reservations_table()
        );
        let rows = tx.query(&sql, Vec::new()).await?;
        rows.iter()
            .map(|row| {
                let mut row = Reader::new(self.reservations_table(), row);
                Ok(Overdue { gtid: row.gtid()?, branch: row.branch()?, overdue_s: row.number()? })
            })
            .collect()
    }

    /// Makes everything that an overdue reservation has frozen available again, and bars its Confirm.
    ///
    /// Only for a transaction of which the coordinator says that it was **rolled back**. One that may still
    /// commit has been promised the goods: its Confirm would then be refused, and wait for an operator. Nothing
    /// is oversold either way.
    ///
    /// # Errors
    /// As [`Reservations::confirm`]; [`ReservationError::NotOverdue`].
    pub async fn expire<T: LocalTransaction>(
        &self,
        tx: &mut T,
        gtid: Gtid,
        branch: BranchId,
    ) -> Result<(), ReservationError> {
        let key = Key { gtid, branch };
        let overdue = "AND r.expires_at <= UTC_TIMESTAMP(3)";
        if self.settle(tx, key, State::Expired, "0", overdue).await? {
            return Ok(());
        }
        let rows = self.rows_of(tx, key, "").await?;
        match rows.iter().any(|row| row.state == State::Pending) {
            true => Err(ReservationError::NotOverdue { gtid, branch }),
            false => Err(self.why_not(key, &rows)),
        }
    }

    /// Ends a branch's pending reservation, in one statement. `confirmed` is the SQL for how much of a row is
    /// taken out of the stock. Answers whether there was anything to end.
    async fn settle<T: LocalTransaction>(
        &self,
        tx: &mut T,
        key: Key,
        state: State,
        confirmed: &str,
        guard: &str,
    ) -> Result<bool, ReservationError> {
        // The join's order and the hints see to it that items are locked one by one, in ascending order.
        let sql = format!(
            "UPDATE {} AS r FORCE INDEX (PRIMARY) STRAIGHT_JOIN {} AS s FORCE INDEX (PRIMARY) \
             ON s.sku = r.sku AND s.bucket = r.bucket \
             SET s.frozen = s.frozen - r.quantity, s.on_hand = s.on_hand - {confirmed}, \
             s.available = s.available + r.quantity - {confirmed}, s.sold = s.sold + {confirmed}, \
             r.confirmed = {confirmed}, r.state = '{state}', r.ended_at = UTC_TIMESTAMP(3) \
             WHERE r.gtid = ? AND r.branch = ? AND r.state = 'pending' {guard}",
            self.reservations_table(),
            self.items_table()
        );
        Ok(tx.execute(&sql, key.params().into()).await? > 0)
    }

    /// Why a branch's reservation cannot be ended.
    pub(crate) async fn not_pending<T: LocalTransaction>(
        &self,
        tx: &mut T,
        key: Key,
    ) -> Result<ReservationError, ReservationError> {
        Ok(self.why_not(key, &self.rows_of(tx, key, "").await?))
    }

    fn why_not(&self, key: Key, reserved: &[Reservation]) -> ReservationError {
        let Key { gtid, branch } = key;
        if reserved.iter().any(|row| row.state == State::Pending) {
            let reason = format!("{} lacks what branch {branch} of {gtid} has reserved", self.items_table());
            return ReservationError::Corrupt(reason);
        }
        match reserved.first() {
            None => ReservationError::NothingReserved { gtid, branch },
            Some(row) => ReservationError::NotPending { gtid, branch, state: row.state },
        }
    }

    async fn mark_confirmed<T: LocalTransaction>(
        &self,
        tx: &mut T,
        key: Key,
        rows: &[(&Reservation, i64)],
    ) -> Result<(), ReservationError> {
        let sql = format!(
            "UPDATE {} FORCE INDEX (PRIMARY) SET confirmed = CASE {} ELSE confirmed END WHERE gtid = ? AND branch = ?",
            self.reservations_table(),
            vec!["WHEN sku = ? AND bucket = ? THEN ?"; rows.len()].join(" ")
        );
        let cases = rows.iter().flat_map(|(row, confirmed)| {
            let case: [SqlValue; 3] = [(&row.sku).into(), row.bucket.into(), (*confirmed).into()];
            case
        });
        tx.execute(&sql, cases.chain(key.params()).collect()).await?;
        Ok(())
    }
}

/// Says how much of each row is confirmed: an SKU may be frozen in several buckets. Rows of which nothing is are
/// left out.
fn allot<'a>(
    items: &Items,
    reserved: &[&'a Reservation],
) -> Result<Vec<(&'a Reservation, i64)>, ReservationError> {
    let mut allotted = Vec::with_capacity(reserved.len());
    for (sku, wanted) in items.iter() {
        let mut left = wanted;
        for &row in reserved.iter().filter(|row| row.sku == sku) {
            let part = row.quantity.min(left);
            left -= part;
            if part > 0 {
                allotted.push((row, part));
            }
        }
        if left > 0 {
            let (sku, reserved) = (sku.to_owned(), wanted - left);
            return Err(ReservationError::MoreThanReserved { sku, wanted, reserved });
        }
    }
    Ok(allotted)
}
