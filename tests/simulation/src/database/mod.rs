//! A database server with XA, as far as Concord depends on one.
//!
//! [`Server`] is a plain state machine: statements of numbered sessions in, answers out, no time and no chance of
//! its own. `tests/conformance.rs` puts the same statements to real MySQL and MariaDB and compares. `Host` runs a
//! server in the simulated world, where sessions wait for locks, lose their connections and are killed.

mod host;
mod rows;
mod server;
mod session;
mod xa;

use concord_protocol::Gtid;
use concord_xa::Xid;

pub(crate) use host::Host;
pub use rows::{Key, Row};
pub use server::{Server, SessionId, Stop};
pub(crate) use session::{DbError, Failure, Own, Session};

/// Which server it behaves like (docs/xa.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// PREPARE detaches the branch from its session: any session may end it.
    MySql,
    /// A prepared branch stays with its session until that disconnects: others are told that it does not exist.
    MariaDb,
}

/// Error codes of both servers.
pub mod code {
    /// A marker row was refused: the statement before it matched another number of rows.
    pub const BAD_NULL: u16 = 1048;
    /// The row is there already.
    pub const DUPLICATE: u16 = 1062;
    /// KILL of a session that is not there.
    pub const NO_SUCH_THREAD: u16 = 1094;
    /// Waited too long for a lock.
    pub const LOCK_WAIT: u16 = 1205;
    /// Chosen as a deadlock's victim; its transaction has rolled back.
    pub const DEADLOCK: u16 = 1213;
    /// A guard has failed: the statement before it matched another number of rows.
    pub const GUARD: u16 = 1242;
    /// XAER_NOTA: there is no such branch, or another session holds it.
    pub const NOTA: u16 = 1397;
    /// XAER_INVAL: not a thing to ask for.
    pub const INVAL: u16 = 1398;
    /// XAER_RMFAIL: not in this state.
    pub const RMFAIL: u16 = 1399;
    /// XAER_OUTSIDE: the session has a transaction of another kind.
    pub const OUTSIDE: u16 = 1400;
    /// XA_RBROLLBACK: the branch has rolled back.
    pub const RBROLLBACK: u16 = 1402;
    /// XAER_DUPID: there is a branch of this name.
    pub const DUPID: u16 = 1440;
    /// XA_RBDEADLOCK: the branch was a deadlock's victim.
    pub const RBDEADLOCK: u16 = 1614;
    /// CHECK constraint violated.
    pub const CHECK: u16 = 3819;
}

/// States of a barrier row, as the SDK writes them.
pub mod barrier {
    /// An XA branch's marker.
    pub const MARKER: u8 = 1;
    /// Rolled back or cancelled before it came.
    pub const TOMBSTONE: u8 = 2;
    /// TCC: tried.
    pub const TRIED: u8 = 3;
    /// TCC: confirmed.
    pub const CONFIRMED: u8 = 4;
    /// TCC: cancelled.
    pub const CANCELLED: u8 = 5;
    /// TCC: refused.
    pub const REFUSED: u8 = 6;
}

/// A schema on a server; each participant has its own.
pub type Schema = u8;

/// One thing that a session asks of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    /// `XA START`.
    XaStart(Xid),
    /// `XA END`.
    XaEnd(Xid),
    /// `XA PREPARE`.
    XaPrepare(Xid),
    /// `XA COMMIT`.
    XaCommit(Xid),
    /// `XA COMMIT … ONE PHASE`.
    XaCommitOnePhase(Xid),
    /// `XA ROLLBACK`.
    XaRollback(Xid),
    /// `XA RECOVER`.
    XaRecover,
    /// `BEGIN`.
    Begin,
    /// `COMMIT`.
    Commit,
    /// `ROLLBACK`.
    Rollback,
    /// Changes an account, unless balance or frozen would become negative: then it matches no row.
    Change {
        /// Which one; it must exist.
        account: (Schema, u32),
        /// Added to its balance.
        balance: i64,
        /// Added to what is frozen of it.
        frozen: i64,
    },
    /// Reads an account, as last committed or changed by the session itself.
    Read((Schema, u32)),
    /// Adds a row to the ledger.
    Note(Note),
    /// Fails with [`code::GUARD`] unless the statement before it matched so many rows.
    Guard(u64),
    /// Inserts an XA branch's barrier row, with the session's id. Given a number, fails with [`code::BAD_NULL`]
    /// unless the statement before it matched so many rows.
    Marker(Schema, Gtid, u32, Option<u64>),
    /// `INSERT INTO concord_barrier … ON DUPLICATE KEY UPDATE`: writes a barrier row of state `new`; a row in state
    /// tried becomes `tried`, where that is given. One row affected: it is new. Two: it has changed.
    Barrier {
        /// Whose branch, in which schema.
        schema: Schema,
        /// Of which transaction.
        gtid: Gtid,
        /// Which branch.
        branch: u32,
        /// The state that a new row gets.
        new: u8,
        /// What becomes of a row in state tried.
        tried: Option<u8>,
        /// A row that is there always changes (its counter does): two rows affected.
        touch: bool,
    },
    /// Reads a barrier row: as last committed, or whoever has changed it (READ UNCOMMITTED).
    Look(Schema, Gtid, u32, Isolation),
    /// `UPDATE concord_barrier`: makes a row in state tried confirmed. One row affected: it was.
    Confirm(Schema, Gtid, u32),
    /// `KILL`.
    Kill(SessionId),
    /// What `information_schema.processlist` says of a session.
    Process(SessionId),
}

/// What a read sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// What others have committed.
    Committed,
    /// Whatever is there.
    Uncommitted,
}

/// A row of the ledger: what was done to an account, by which handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Note {
    /// Whose work.
    pub xid: Xid,
    /// The number of the transaction in the scenario.
    pub transaction: u32,
    /// Which of its branches, from 0.
    pub part: u32,
    /// Which handler.
    pub deed: Deed,
    /// The account.
    pub account: (Schema, u32),
    /// What was added to its balance.
    pub balance: i64,
    /// What was added to what is frozen of it.
    pub frozen: i64,
}

/// The handlers that leave a trace in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// An XA branch's work.
    Work,
    /// TCC.
    Try,
    /// TCC.
    Confirm,
    /// TCC.
    Cancel,
}

/// What a statement answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Rows that it matched.
    Affected(u64),
    /// To a read.
    Found(Option<Row>),
    /// To `XA RECOVER`.
    Prepared(Vec<Xid>),
    /// To [`Statement::Process`]: whether it is at work; None when there is no such session.
    Process(Option<bool>),
}

impl Answer {
    /// Rows matched; 0 for a read.
    pub fn affected(&self) -> u64 {
        match self {
            Answer::Affected(count) => *count,
            _ => 0,
        }
    }
}
