//! What the initiator was told.

use concord_proto::v1::Transaction;

use super::account::Transfer;
use super::initiator::is_committed;

/// The coordinator's last word on one transfer.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// What was asked for.
    pub transfer: Transfer,
    /// The transaction.
    pub gtid: String,
    /// Whether the money moved.
    pub committed: bool,
}

impl Outcome {
    /// From the coordinator's answer.
    pub(crate) fn new(transfer: Transfer, answer: &Transaction) -> Outcome {
        Outcome { transfer, gtid: answer.gtid.clone(), committed: is_committed(answer) }
    }
}
