//! The protocol core.
pub mod ids;
pub use ids::{BranchId, ClusterId, Epoch, Gtid, InvalidId, Millis};
