//! A database as the XA driver sees it: control sessions, and the barrier table's evidence.
//!
//! This follows `participant-sdk/xa/src/database.rs`, `barrier.rs` and `resolve.rs` step by step, over simulated
//! sessions. Participants use it, and so does the coordinator's sweeper.

mod resolve;

use std::sync::Arc;
use std::time::Duration;

use concord_xa::{Holding, Xid};

use crate::database::barrier;
use crate::database::{Answer, DbError, Host, Isolation, Own, Row, Schema, Session, SessionId, Statement};
use crate::mutant::Mutant;
use crate::network::Place;
use crate::world::World;

pub(crate) use resolve::{Verdict, classify, committed, rolled_back};

/// How long to wait for an answer in phase two and recovery.
pub(crate) const CONTROL_TIME: Duration = Duration::from_secs(10);
/// `innodb_lock_wait_timeout` of control sessions: phase two must not wait long for a row, it looks again instead.
const CONTROL_LOCK_WAIT: Duration = Duration::from_secs(1);
/// The same of branches.
pub(crate) const BRANCH_LOCK_WAIT: Duration = Duration::from_secs(3);

/// One schema of one server, as one process reaches it. Clones share the process's sessions.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) host: Arc<Host>,
    pub(crate) from: Place,
    pub(crate) schema: Schema,
    pub(crate) own: Arc<Own>,
}

/// One barrier row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) state: u8,
    pub(crate) connection: SessionId,
    pub(crate) age_ms: u64,
}

/// What the barrier table says of one branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// A committed row: a marker (the branch committed) or a tombstone (it was rolled back).
    Committed(Entry),
    /// A row that is not committed: the branch is prepared or under way, or someone is writing a tombstone.
    Uncommitted(Entry),
    /// No row.
    Absent,
}

impl Resource {
    /// A session for a branch.
    pub(crate) async fn session(&self, world: &Arc<World>, about: u64) -> Result<Session, DbError> {
        Session::open(world, &self.host, self.from, about, BRANCH_LOCK_WAIT, &self.own).await
    }

    /// Runs statements on a fresh session in autocommit.
    pub(crate) async fn control(
        &self,
        world: &Arc<World>,
        about: u64,
        batch: Vec<Statement>,
    ) -> Result<Vec<Answer>, DbError> {
        let open = Session::open(world, &self.host, self.from, about, CONTROL_LOCK_WAIT, &self.own);
        let mut session = open.await?;
        session.run_within(world, CONTROL_TIME, batch).await.map_err(|failure| failure.error)
    }

    /// Every branch that the server lists as prepared.
    pub(crate) async fn recover(&self, world: &Arc<World>, about: u64) -> Result<Vec<Xid>, DbError> {
        let answers = self.control(world, about, vec![Statement::XaRecover]).await?;
        Ok(answers
            .into_iter()
            .find_map(|answer| match answer {
                Answer::Prepared(listed) => Some(listed),
                _ => None,
            })
            .unwrap_or_default())
    }

    /// Reads what the table says. The uncommitted state first: a branch that commits in between is then seen as
    /// committed, never as absent.
    pub(crate) async fn look(&self, world: &Arc<World>, xid: &Xid) -> Result<Evidence, DbError> {
        let look = |isolation| Statement::Look(self.schema, xid.gtid, xid.branch.0, isolation);
        let batch = vec![look(Isolation::Uncommitted), look(Isolation::Committed)];
        let answers = self.control(world, world.about(xid.gtid), batch).await?;
        let mut entries = answers.into_iter().map(|answer| entry(world, answer));
        let (uncommitted, committed) = (entries.next().flatten(), entries.next().flatten());
        Ok(match (committed, uncommitted) {
            (Some(entry), _) => Evidence::Committed(entry),
            (None, Some(entry)) => Evidence::Uncommitted(entry),
            (None, None) => Evidence::Absent,
        })
    }

    /// Writes the tombstone unless there is a row, and reads what is there.
    async fn tombstone(&self, world: &Arc<World>, xid: &Xid) -> Result<Option<Entry>, DbError> {
        let (schema, gtid, branch) = (self.schema, xid.gtid, xid.branch.0);
        let insert =
            Statement::Barrier { schema, gtid, branch, new: barrier::TOMBSTONE, tried: None, touch: false };
        let look = Statement::Look(schema, gtid, branch, Isolation::Committed);
        if world.has(Mutant::NoTombstone) {
            return Ok(Some(Entry { state: barrier::TOMBSTONE, connection: 0, age_ms: 0 }));
        }
        let answers = self.control(world, world.about(gtid), vec![insert, look]).await?;
        Ok(answers.into_iter().nth(1).and_then(|answer| entry(world, answer)))
    }

    /// Whether an unfinished branch lives in this schema. Recovery asks before it ends what it found listed.
    pub(crate) async fn holding(&self, world: &Arc<World>, xid: &Xid) -> Result<Holding, DbError> {
        Ok(match self.look(world, xid).await? {
            Evidence::Uncommitted(entry) => Holding::Here(Duration::from_millis(entry.age_ms)),
            Evidence::Committed(_) | Evidence::Absent => Holding::Elsewhere,
        })
    }
}

fn entry(world: &World, answer: Answer) -> Option<Entry> {
    match answer {
        Answer::Found(Some(Row::Barrier { state, connection, created_ms })) => {
            Some(Entry { state, connection, age_ms: world.now_ms().saturating_sub(created_ms) })
        }
        _ => None,
    }
}
