//! What can be wrong with a reservation.

use concord_protocol::{BranchId, Gtid};

use super::history::State;
use super::items::{ITEMS_MAX, QUANTITY_MAX, SKU_MAX_CHARS};
use super::stock::BUCKETS_MAX;
use crate::local::LocalError;

/// Why a call did nothing. The local transaction should be rolled back.
///
/// In a handler, `?` makes a refusal of what [`ReservationError::is_refusal`] says is one, and a failure, which
/// the coordinator repeats, of the rest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReservationError {
    /// The name is not fit for a table.
    #[error("{0:?} is no name for reservations: from 1 to 48 of a-z, 0-9 and _, a letter first")]
    Name(String),
    /// The list of items is empty.
    #[error("there are no items")]
    NoItems,
    /// The list of items is too long.
    #[error("there are {0} items; {ITEMS_MAX} at most")]
    TooManyItems(usize),
    /// Not something that an SKU can be.
    #[error(
        "{0:?} is no SKU: from 1 to {SKU_MAX_CHARS} characters, no control characters, no spaces around it"
    )]
    Sku(String),
    /// A quantity that is zero, negative or too large, alone or as the sum of its SKU.
    #[error("the quantity of {sku} is {quantity}, which is not from 1 to {QUANTITY_MAX}")]
    Quantity {
        /// Of which SKU.
        sku: String,
        /// What was asked for.
        quantity: i128,
    },
    /// There is no such SKU.
    #[error("there is no SKU {0}")]
    UnknownSku(String),
    /// Not enough is available.
    #[error("not enough of {sku}: {wanted} wanted, {available} available")]
    Short {
        /// Of which SKU.
        sku: String,
        /// How much was asked for.
        wanted: i64,
        /// How much there was.
        available: i64,
    },
    /// There is enough, but in rows that others hold, and to wait for them could be a deadlock. Begin the
    /// transaction again.
    #[error("{0} is being rearranged, try again")]
    Busy(String),
    /// The stock would be larger than the library counts.
    #[error("there would be {on_hand} of {sku}; {QUANTITY_MAX} at most")]
    TooMuch {
        /// Of which SKU.
        sku: String,
        /// What there would be.
        on_hand: i128,
    },
    /// Into how many buckets an SKU cannot be split.
    #[error("an SKU has from 1 to {BUCKETS_MAX} buckets, not {0}")]
    Buckets(u16),
    /// The branch has no reservation.
    #[error("branch {branch} of {gtid} has reserved nothing")]
    NothingReserved {
        /// The global transaction.
        gtid: Gtid,
        /// The branch in it.
        branch: BranchId,
    },
    /// The branch's reservation has ended.
    #[error("the reservation of branch {branch} of {gtid} is {state}, not pending")]
    NotPending {
        /// The global transaction.
        gtid: Gtid,
        /// The branch in it.
        branch: BranchId,
        /// How it ended.
        state: State,
    },
    /// The branch's reservation is not past its time.
    #[error("the reservation of branch {branch} of {gtid} is not overdue")]
    NotOverdue {
        /// The global transaction.
        gtid: Gtid,
        /// The branch in it.
        branch: BranchId,
    },
    /// More was to be confirmed than had been reserved.
    #[error("{wanted} of {sku} to confirm, but {reserved} reserved")]
    MoreThanReserved {
        /// Of which SKU.
        sku: String,
        /// How much was to be confirmed.
        wanted: i64,
        /// How much the branch had reserved.
        reserved: i64,
    },
    /// The tables are not there, not ours, or of another version: [`super::Reservations::migrate`] says more.
    #[error("{0}")]
    Schema(String),
    /// The tables hold what this library does not write. The audit says more.
    #[error("{0}")]
    Corrupt(String),
    /// What the database said. Try again if it says so.
    #[error(transparent)]
    Database(#[from] LocalError),
}

impl ReservationError {
    /// Whether to try again is of no use: a matter of the business, not of a database that has troubles.
    pub fn is_refusal(&self) -> bool {
        !matches!(
            self,
            ReservationError::Busy(_)
                | ReservationError::Schema(_)
                | ReservationError::Corrupt(_)
                | ReservationError::Database(_)
        )
    }
}
