//! Expiring the reservations of transactions that were rolled back.
//!
//! The coordinator delivers a Cancel until it is done, so there should be none of these: unless it lost its store,
//! or a Cancel handler forgot to give back what Try had frozen.

use std::collections::HashMap;

use concord_proto::v1::Outcome;
use concord_protocol::Gtid;
use concord_xa::barrier;
use tonic::Status;

use super::error::ReservationError;
use super::{Key, Reservations};
use crate::link::{INQUIRE_MAX, Link};
use crate::local::{LocalDatabase, LocalError, LocalTransaction};
use crate::server::Participant;

/// What [`Reservations::expire_rolled_back`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Expired {
    /// Branches whose reservations have been given back.
    pub expired: usize,
    /// Overdue branches left alone: their transactions are committed, or undecided, or were ended by the
    /// coordinator at this moment.
    pub left: usize,
}

/// Why not all was expired that should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpiryError {
    /// The database did not answer, or not as it should.
    #[error(transparent)]
    Reservations(#[from] ReservationError),
    /// The coordinator did not answer. Try again later.
    #[error("the coordinator could not be asked: {0}")]
    Coordinator(Box<Status>),
}

impl From<LocalError> for ExpiryError {
    fn from(error: LocalError) -> Self {
        ExpiryError::Reservations(error.into())
    }
}

impl Reservations {
    /// Asks the coordinator about overdue reservations, at most 1,000 branches and the longest overdue first, and
    /// expires those whose transactions it says were rolled back. Their rows of the barrier are marked as cancelled
    /// in the same local transaction, so that neither a late Confirm nor a late Cancel runs a handler.
    ///
    /// # Errors
    /// When the database or the coordinator cannot be asked; what was expired before stays so.
    pub async fn expire_rolled_back<D: LocalDatabase>(
        &self,
        database: &D,
        participant: &Participant,
    ) -> Result<Expired, ExpiryError> {
        let mut tx = database.begin().await?;
        let overdue = self.overdue(&mut tx, INQUIRE_MAX as u32).await?;
        tx.rollback().await?;
        let outcomes = ask(participant.link(), overdue.iter().map(|branch| branch.gtid).collect()).await?;
        let mut expired = Expired::default();
        for branch in overdue {
            let rolled_back = outcomes.get(&branch.gtid) == Some(&Outcome::RolledBack);
            let key = Key { gtid: branch.gtid, branch: branch.branch };
            match rolled_back && self.expire_behind_barrier(database, key).await? {
                true => expired.expired += 1,
                false => expired.left += 1,
            }
        }
        Ok(expired)
    }

    /// Answers whether the reservation was expired.
    async fn expire_behind_barrier<D: LocalDatabase>(
        &self,
        database: &D,
        key: Key,
    ) -> Result<bool, ReservationError> {
        use barrier::{STATE_CANCELLED, STATE_CONFIRMED, STATE_MARKER, STATE_TRIED};
        let table = barrier::table_name(None);
        // The barrier's row first, as Confirm and Cancel do.
        let cancel = format!(
            "UPDATE {table} SET state = {STATE_CANCELLED} WHERE gtid = ? AND branch = ? AND state = {STATE_TRIED}"
        );
        let bars = format!(
            "SELECT 1 FROM {table} WHERE gtid = ? AND branch = ? AND state IN ({STATE_MARKER}, {STATE_CONFIRMED})"
        );
        let mut tx = database.begin().await?;
        tx.execute(&cancel, key.params().into()).await?;
        let barred = !tx.query(&bars, key.params().into()).await?.is_empty();
        let expired = match barred {
            true => false,
            false => match self.expire(&mut tx, key.gtid, key.branch).await {
                // Somebody was faster.
                Err(error) if error.is_refusal() => false,
                other => other.map(|()| true)?,
            },
        };
        match expired {
            true => tx.commit().await?,
            false => tx.rollback().await?,
        }
        Ok(expired)
    }
}

/// What the coordinator says of each transaction.
async fn ask(link: &Link, mut gtids: Vec<Gtid>) -> Result<HashMap<Gtid, Outcome>, ExpiryError> {
    gtids.sort_unstable();
    gtids.dedup();
    if gtids.is_empty() {
        return Ok(HashMap::new());
    }
    let verdicts = link.inquire(&gtids).await.map_err(|status| ExpiryError::Coordinator(Box::new(status)))?;
    Ok(gtids.into_iter().zip(verdicts).map(|(gtid, verdict)| (gtid, verdict.outcome)).collect())
}
