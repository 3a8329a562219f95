//! What customers were told.

use crate::order::desk::{Order, Wish};

/// The shop's last word on one wish.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// What was asked for.
    pub wish: Wish,
    /// The global transaction.
    pub id: String,
    /// The order, if there is one.
    pub order: Option<Order>,
    /// Why there is none; empty when there is one.
    pub reason: String,
}
