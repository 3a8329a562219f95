//! Two-phase commit on MySQL (8.0.29 and later) and MariaDB (10.5 and later).
//!
//! [`Database::begin`] opens a [`Branch`]; statements run in it; [`Branch::prepare`] gives the [`Vote`]; the
//! [`PreparedBranch`] is committed or rolled back. Any other process does the same with
//! [`Database::recover`], [`Database::commit`] and [`Database::rollback`].
//!
//! What the servers do, and the rules that follow, are in docs/xa.md; comments cite it by number. X/Open's
//! "Distributed Transaction Processing: The XA Specification" (1991) is where the verbs come from.

pub mod barrier;
mod branch;
mod database;
mod error;
mod prepared;
mod resolve;
mod resource;
pub mod server;
mod session;
mod statement;
mod trip;
mod xid;

pub use barrier::{BARRIER_TABLE, REPLY_MAX_BYTES};
pub use branch::{Branch, Vote};
pub use database::{Database, InDoubt, Isolation, Options, branch_setup};
pub use error::XaError;
pub use mysql_async::{
    FromRowError, Params, Row, Value, from_row, from_row_opt, prelude::FromRow, prelude::FromValue,
};
pub use prepared::PreparedBranch;
pub use resolve::{Holding, Resolution, Trace};
pub use resource::ResourceManager;
pub use server::{Fault, Flavor, Leniency, ServerInfo};
pub use statement::inline;
pub use xid::{FORMAT_ID, RawXid, Xid};
