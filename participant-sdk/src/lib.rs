//! What a service embeds to take part in Concord's distributed transactions.
//!
//! A service author writes handlers, and nothing about XIDs, votes, retries or recovery:
//!
//! ```no_run
//! use concord_participant::{HandlerError, Json, ParticipantServer, Reply, XaBranch};
//!
//! #[derive(serde::Deserialize)]
//! struct Transfer {
//!     account: u64,
//!     amount: u64,
//! }
//!
//! async fn debit(mut xa: XaBranch, Json(t): Json<Transfer>) -> Result<Reply, HandlerError> {
//!     xa.queue_or_refuse(
//!         "UPDATE account SET balance = balance - ? WHERE id = ? AND balance >= ?",
//!         (t.amount, t.account, t.amount),
//!         1, // row exactly, or
//!         "insufficient funds",
//!     )?;
//!     Ok(Reply::empty())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     ParticipantServer::builder()
//!         .database("mysql://bank@127.0.0.1:3306/bank")
//!         .coordinator("http://127.0.0.1:7600")
//!         .address("http://127.0.0.1:7101")
//!         .xa("debit", debit)
//!         .build()
//!         .await?
//!         .serve("127.0.0.1:7101".parse()?)
//!         .await?;
//!     Ok(())
//! }
//! ```
//!
//! Inside a gRPC service of one's own: [`gtid_of`] the request, then [`Participant::branch`] and
//! [`BranchBuilder::run`].

mod handler;
mod horizon;
mod link;
mod local;
mod participant;
mod phase_two;
mod purge;
mod recovery;
mod registration;
pub mod reservations;
mod server;
mod service;
mod slots;
mod tcc;
mod xa_branch;

pub use concord_protocol::{BranchId, ClusterId, Gtid};
pub use concord_xa::{
    Database, FromRow, FromValue, Isolation, Leniency, Options, Params, Row, Value, XaError,
};
pub use handler::{FromPayload, HandlerError, Json, Proto, Reply};
#[cfg(feature = "sqlx")]
pub use local::SqlxTransaction;
pub use local::{LocalDatabase, LocalError, LocalTransaction, MySql, MySqlTransaction, SqlValue};
pub use purge::PurgeError;
pub use recovery::{SweepError, Swept};
pub use registration::{BranchBuilder, BranchError, TccBuilder, gtid_of};
pub use server::{Builder, Participant, ParticipantServer, StartError};
pub use service::ParticipantService;
pub use tcc::{TccBranch, TccHandler};
pub use xa_branch::XaBranch;

/// The service in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
