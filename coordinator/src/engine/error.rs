//! Why the engine refused.

use concord_protocol::{Gtid, Refusal};

use crate::store::StoreError;

/// Why the engine did not do what it was asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// There is no record of it.
    #[error("no transaction {0} is on record")]
    UnknownGtid(Gtid),
    /// The protocol forbids it now.
    #[error("transaction {gtid}: {refusal}")]
    Refused {
        /// Which transaction.
        gtid: Gtid,
        /// Why.
        refusal: Refusal,
    },
    /// It has rolled back, so it cannot commit, nor take a yes.
    #[error("transaction {gtid} has rolled back: {reason}")]
    RolledBack {
        /// Which transaction.
        gtid: Gtid,
        /// Why it did.
        reason: String,
    },
    /// The caller's time is up, and nothing is decided yet. The transaction goes on.
    #[error(
        "transaction {0} is not decided yet; it goes on: ask again with the same idempotency key, or Watch it"
    )]
    StillUndecided(Gtid),
    /// The same key came with another request before.
    #[error("idempotency key {key:?} was used for another request (transaction {gtid})")]
    KeyReused {
        /// The key.
        key: String,
        /// What it was used for.
        gtid: Gtid,
    },
    /// A value is outside its limits.
    #[error("{field}: {problem}")]
    Invalid {
        /// The request's field.
        field: &'static str,
        /// What is wrong, with the limit.
        problem: String,
    },
    /// The address is not on the allow-list.
    #[error(
        "participant {0:?} is not on the coordinator's allow-list ([participants] allow; or, with service://, a [[service]] of that name)"
    )]
    NotAllowed(String),
    /// As many transactions are live as may be.
    #[error("{0} transactions are live, which is the limit; try again later")]
    TooManyLive(usize),
    /// As many of one tenant are live as may be.
    #[error("{limit} transactions of the tenant {tenant:?} are live, which is its limit; try again later")]
    TenantTooMany {
        /// The tenant.
        tenant: String,
        /// How many it may have.
        limit: usize,
    },
    /// One tenant begins more than it may.
    #[error("the tenant {tenant:?} may begin {limit} transactions a second; try again a little later")]
    TenantTooFast {
        /// The tenant.
        tenant: String,
        /// How many it may begin in a second.
        limit: u32,
    },
    /// The coordinator is stopping.
    #[error("the coordinator is shutting down; try another or try again")]
    ShuttingDown,
    /// Another coordinator has it in hand.
    #[error(
        "transaction {0} is in the hands of another coordinator, which this one may be unable to reach (its log says so); ask \
         that one, or ask again"
    )]
    Elsewhere(Gtid),
    /// The store failed. If that was a write, whether the transaction committed will be known after the restart.
    #[error("{0}{next}", next = what_next(.0))]
    Store(#[from] StoreError),
}

/// What whoever asked can do.
fn what_next(error: &StoreError) -> &'static str {
    match error {
        StoreError::Failed(_) | StoreError::Closed => {
            "; the outcome will be known when the coordinator has been restarted"
        }
        StoreError::Read(_) => "; ask again",
        // They say it themselves.
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use concord_protocol::Epoch;

    use super::*;

    #[test]
    fn only_of_a_write_that_failed_a_restart_will_tell() {
        let said = |error: StoreError| EngineError::from(error).to_string();
        let restart = "; the outcome will be known when the coordinator has been restarted";
        for error in [StoreError::Failed("disk full".into()), StoreError::Closed] {
            assert_eq!(said(error.clone()), format!("{error}{restart}"));
        }
        assert_eq!(said(StoreError::Read("disk".into())), "cannot read the store: disk; ask again");
        let corrupt = StoreError::Corrupt { gtid: Gtid::compose(1, Epoch(1), 7), reason: "no end".into() };
        assert_eq!(said(corrupt.clone()), corrupt.to_string());
    }
}
