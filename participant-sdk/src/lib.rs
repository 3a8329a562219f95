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
//! Work that must be held for longer than a database transaction should last is reserved first, and used up or given
//! back later: Try, Confirm, Cancel. Three handlers, each in a local transaction together with the barrier, which sees
//! to it that each takes effect at most once, whatever is lost, repeated or overtaken on the way:
//!
//! ```no_run
//! use concord_participant::{HandlerError, Json, MySql, ParticipantServer, SqlValue, TccBranch};
//!
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     sku: String,
//!     qty: u32,
//! }
//!
//! async fn reserve(mut tcc: TccBranch<MySql>, Json(order): Json<Order>) -> Result<(), HandlerError> {
//!     let sql = "UPDATE stock SET available = available - ?, frozen = frozen + ? WHERE sku = ? AND available >= ?";
//!     let qty = SqlValue::from(order.qty);
//!     match tcc.execute(sql, vec![qty.clone(), qty.clone(), order.sku.into(), qty]).await? {
//!         1 => Ok(()),
//!         _ => Err(HandlerError::refused("out of stock")), // any other error: Try is called again
//!     }
//! }
//!
//! async fn sell(mut tcc: TccBranch<MySql>, Json(order): Json<Order>) -> Result<(), HandlerError> {
//!     tcc.execute("UPDATE stock SET frozen = frozen - ? WHERE sku = ?", vec![order.qty.into(), order.sku.into()]).await?;
//!     Ok(())
//! }
//!
//! async fn give_back(mut tcc: TccBranch<MySql>, Json(order): Json<Order>) -> Result<(), HandlerError> {
//!     let sql = "UPDATE stock SET available = available + ?, frozen = frozen - ? WHERE sku = ?";
//!     tcc.execute(sql, vec![order.qty.into(), order.qty.into(), order.sku.into()]).await?;
//!     Ok(())
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! ParticipantServer::builder()
//!     .database("mysql://shop@127.0.0.1:3306/shop")
//!     .coordinator("http://127.0.0.1:7600")
//!     .address("http://127.0.0.1:7102")
//!     .tcc("order", reserve, sell, give_back)
//! #   .build().await?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Builder::tcc_on`] does the same on a pool that the service has already, of mysql_async or (feature `sqlx`) of
//! sqlx; [`reservations`] has the tables and these three handlers ready-made.
//!
//! Inside a gRPC service of one's own: [`gtid_of`] the request, then [`Participant::branch`] and
//! [`BranchBuilder::run`], or [`Participant::tcc_branch`] and [`TccBuilder::run`].

mod attachment;
mod builder;
#[doc(hidden)]
pub mod door;
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
mod trace;
mod xa_branch;

pub use attachment::attach;
pub use builder::{Builder, StartError};
pub use concord_proto::{Coordinators, Credentials, EndpointError, InvalidToken, TraceContext};
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
pub use server::{Participant, ParticipantServer};
pub use service::ParticipantService;
pub use tcc::{TccBranch, TccHandler};
pub use xa_branch::XaBranch;

/// The service in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
