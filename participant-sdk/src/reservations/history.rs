//! Reservations as they stand in the database, for ever.

use std::fmt;
use std::str::FromStr;

use concord_protocol::{BranchId, Gtid};
use serde::{Deserialize, Serialize};

use super::error::ReservationError;
use super::rows::Reader;
use super::{Key, Reservations};
use crate::local::LocalTransaction;

/// How a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Frozen.
    Pending,
    /// Taken out of the stock, all or a part of it.
    Confirmed,
    /// Given back by Cancel.
    Cancelled,
    /// Given back by [`Reservations::expire`].
    Expired,
}

impl State {
    const ALL: [(State, &'static str); 4] = [
        (State::Pending, "pending"),
        (State::Confirmed, "confirmed"),
        (State::Cancelled, "cancelled"),
        (State::Expired, "expired"),
    ];
}

/// As in the database.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = State::ALL.iter().find(|(state, _)| state == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

impl FromStr for State {
    type Err = ReservationError;

    fn from_str(text: &str) -> Result<Self, ReservationError> {
        let state = State::ALL.iter().find(|(_, name)| *name == text).map(|(state, _)| *state);
        state.ok_or_else(|| ReservationError::Corrupt(format!("{text:?} is no state of a reservation")))
    }
}

/// What a branch reserved of one SKU in one bucket. Rows are never deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Of which SKU.
    pub sku: String,
    /// In which bucket of it.
    pub bucket: i16,
    /// How much was frozen.
    pub quantity: i64,
    /// How much of it was confirmed.
    pub confirmed: i64,
    /// How it stands.
    pub state: State,
    /// When it was frozen: UTC, by the database's clock, such as `2026-07-29 12:00:00.000`. So are the others.
    pub reserved_at: String,
    /// When it is overdue.
    pub expires_at: String,
    /// When it ended.
    pub ended_at: Option<String>,
}

impl Reservations {
    /// Reads what a branch reserved, and what became of it, by SKU and bucket.
    ///
    /// # Errors
    /// [`ReservationError::Database`].
    pub async fn history<T: LocalTransaction>(
        &self,
        tx: &mut T,
        gtid: Gtid,
        branch: BranchId,
    ) -> Result<Vec<Reservation>, ReservationError> {
        self.rows_of(tx, Key { gtid, branch }, "").await
    }

    pub(crate) async fn rows_of<T: LocalTransaction>(
        &self,
        tx: &mut T,
        key: Key,
        locking: &str,
    ) -> Result<Vec<Reservation>, ReservationError> {
        let sql = format!(
            "SELECT sku, bucket, quantity, confirmed, CAST(state AS CHAR), CAST(reserved_at AS CHAR), \
             CAST(expires_at AS CHAR), CAST(ended_at AS CHAR) FROM {} FORCE INDEX (PRIMARY) \
             WHERE gtid = ? AND branch = ? ORDER BY sku, bucket {locking}",
            self.reservations_table()
        );
        let rows = tx.query(&sql, key.params().into()).await?;
        rows.iter()
            .map(|row| {
                let mut row = Reader::new(self.reservations_table(), row);
                Ok(Reservation {
                    sku: row.text()?,
                    bucket: row.number()?,
                    quantity: row.number()?,
                    confirmed: row.number()?,
                    state: row.text()?.parse()?,
                    reserved_at: row.text()?,
                    expires_at: row.text()?,
                    ended_at: row.optional_text()?,
                })
            })
            .collect()
    }
}
