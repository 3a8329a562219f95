//! Phase two from any session, and what the answers prove (docs/xa.md rules 8, 9, 16 and 17).

use std::sync::Arc;

use concord_xa::{Resolution, Trace, Xid};

use super::{Entry, Evidence, Resource};
use crate::database::{Answer, DbError, SessionId, Statement, barrier, code};
use crate::mutant::Mutant;
use crate::world::World;

/// How often phase two looks again before it answers that it does not know.
const ROUNDS: u32 = 4;
/// Between two looks at a session that is being ended, in milliseconds.
const LOOK_AGAIN_MS: u64 = 10;
/// Looks at a session that is being ended.
const LOOKS: u32 = 100;

/// What an error of XA COMMIT or XA ROLLBACK says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// XAER_NOTA, or the connection broke: evidence is needed.
    Unknown,
    /// The database rolled it back by itself.
    RolledBack,
    /// Not done; it will work later.
    Undecided,
}

pub(crate) fn classify(error: DbError) -> Verdict {
    match error {
        DbError::Server(code::NOTA) | DbError::Lost | DbError::TimedOut => Verdict::Unknown,
        DbError::Server(code::RBROLLBACK | code::RBDEADLOCK) => Verdict::RolledBack,
        DbError::Server(_) => Verdict::Undecided,
    }
}

pub(crate) fn committed() -> Resolution {
    Resolution::Committed { reply: Default::default() }
}

pub(crate) fn rolled_back(reason: &str) -> Resolution {
    Resolution::RolledBack { reason: reason.into() }
}

fn undecided(error: DbError) -> Resolution {
    Resolution::Undecided { reason: format!("{error:?}") }
}

fn proved_by(entry: Entry) -> Resolution {
    if entry.state == barrier::MARKER { committed() } else { rolled_back("rolled back before") }
}

impl Resource {
    /// Commits a prepared branch from a session in autocommit. Committed only when the database said OK or the
    /// marker row proves it.
    pub(crate) async fn commit(&self, world: &Arc<World>, xid: &Xid) -> Resolution {
        let mut reason = String::new();
        for _ in 0..ROUNDS {
            match self.control(world, world.about(xid.gtid), vec![Statement::XaCommit(*xid)]).await {
                Ok(_) => return committed(),
                Err(DbError::Server(code::NOTA)) if world.has(Mutant::NotaIsSuccess) => return committed(),
                Err(DbError::Server(code::NOTA)) => {}
                Err(error) => {
                    return match classify(error) {
                        Verdict::RolledBack => rolled_back("by the database"),
                        _ => undecided(error),
                    };
                }
            }
            match self.look(world, xid).await {
                Err(error) => return undecided(error),
                Ok(Evidence::Committed(entry)) => return proved_by(entry),
                // Where branches are detached at PREPARE, someone else is committing it right now.
                Ok(Evidence::Uncommitted(_)) if self.host.detaches_on_prepare() => {
                    reason = "another session is ending the branch".into();
                    world.pause(LOOK_AGAIN_MS).await;
                }
                Ok(Evidence::Uncommitted(entry)) => match self.end_owner(world, &entry, false).await {
                    Ok(()) => reason = "another session holds the branch".into(),
                    Err(why) => return Resolution::Undecided { reason: why },
                },
                Ok(Evidence::Absent) => return self.unproved(world, xid).await,
            }
        }
        Resolution::Undecided { reason }
    }

    /// XAER_NOTA and no row.
    async fn unproved(&self, world: &Arc<World>, xid: &Xid) -> Resolution {
        match self.recover(world, world.about(xid.gtid)).await {
            Err(error) => undecided(error),
            Ok(listed) if listed.contains(xid) => Resolution::Undecided {
                reason: "the branch is attached to a session that is not known".into(),
            },
            Ok(_) => Resolution::NoTrace { reason: "XAER_NOTA, no marker row and not prepared".into() },
        }
    }

    /// Rolls a branch back, prepared or not yet there, and leaves a tombstone (docs/xa.md rule 9).
    pub(crate) async fn rollback(&self, world: &Arc<World>, xid: &Xid) -> Resolution {
        let mut reason = String::new();
        for round in 0..ROUNDS {
            match self.control(world, world.about(xid.gtid), vec![Statement::XaRollback(*xid)]).await {
                Ok(_) | Err(DbError::Server(code::NOTA)) => {}
                Err(error) if classify(error) == Verdict::RolledBack => {}
                Err(error) => return undecided(error),
            }
            match self.look(world, xid).await {
                Err(error) => return undecided(error),
                Ok(Evidence::Committed(entry)) => return proved_by(entry),
                // Where branches are detached at PREPARE, this one is being ended by someone, whose session is not
                // the one in the row; or else it has hung before PREPARE, and then its session is.
                Ok(Evidence::Uncommitted(_)) if self.host.detaches_on_prepare() && round < 2 => {
                    world.pause(LOOK_AGAIN_MS).await;
                    continue;
                }
                Ok(Evidence::Uncommitted(entry)) => {
                    if let Err(why) = self.end_owner(world, &entry, true).await {
                        return Resolution::Undecided { reason: why };
                    }
                    reason = "another session holds the branch".into();
                    continue;
                }
                Ok(Evidence::Absent) => {}
            }
            match self.tombstone(world, xid).await {
                Ok(Some(entry)) => return proved_by(entry),
                Ok(None) => reason = "the tombstone could not be read back".into(),
                // The branch has arrived in between.
                Err(DbError::Server(code::LOCK_WAIT | code::DEADLOCK)) => {
                    reason = "the branch has arrived".into()
                }
                Err(error) => return undecided(error),
            }
        }
        Resolution::Undecided { reason }
    }

    /// Makes sure that a branch that is not prepared never takes effect, and says how it stands.
    pub(crate) async fn fence(&self, world: &Arc<World>, xid: &Xid, why: &str) -> Resolution {
        if world.has(Mutant::NoFence) {
            return rolled_back(why);
        }
        match self.rollback(world, xid).await {
            Resolution::RolledBack { .. } | Resolution::NoTrace { .. } => rolled_back(why),
            other => other,
        }
    }

    /// How a branch ended, judging by its committed row alone.
    pub(crate) async fn recorded(
        &self,
        world: &Arc<World>,
        xid: &Xid,
    ) -> Result<Option<Resolution>, DbError> {
        Ok(match self.look(world, xid).await? {
            Evidence::Committed(entry) => Some(proved_by(entry)),
            _ => None,
        })
    }

    /// Finds out what became of a branch whose PREPARE was lost, or that an earlier life of this process may have
    /// prepared (docs/xa.md rule 7). `connection`: the session that may still be at work, if known.
    pub(crate) async fn settle(&self, world: &Arc<World>, xid: &Xid, connection: Option<SessionId>) -> Trace {
        let unknown = |reason: &str| Trace::Unknown { reason: reason.into() };
        if let Some(id) = connection
            && !self.end_session(world, id).await
        {
            return unknown("its session cannot be ended");
        }
        for _ in 0..ROUNDS {
            let entry = match self.look(world, xid).await {
                Err(error) => return unknown(&format!("{error:?}")),
                Ok(Evidence::Absent) => return Trace::None,
                Ok(Evidence::Committed(entry)) => return Trace::Ended(proved_by(entry)),
                Ok(Evidence::Uncommitted(entry)) => entry,
            };
            // A row that is visible but not committed: prepared, or about to be, or about to go.
            match self.recover(world, world.about(xid.gtid)).await {
                Ok(listed) if listed.contains(xid) => {
                    return Trace::Prepared { reply: Default::default() };
                }
                Ok(_) => {}
                Err(error) => return unknown(&format!("{error:?}")),
            }
            if let Err(reason) = self.end_owner(world, &entry, true).await {
                return Trace::Unknown { reason };
            }
        }
        unknown("another session is still at work on the branch")
    }

    /// Ends the session that holds an uncommitted row. Err: it must be left alone for now; why.
    async fn end_owner(&self, world: &Arc<World>, entry: &Entry, even_at_work: bool) -> Result<(), String> {
        let id = entry.connection;
        if self.own.contains(id) {
            return Err("a session of this process holds the branch".into());
        }
        let process = self.control(world, u64::from(id), vec![Statement::Process(id)]).await;
        let at_work = match process.map_err(|error| format!("{error:?}"))?.into_iter().next() {
            Some(Answer::Process(at_work)) => at_work,
            _ => return Err("the session cannot be looked at".into()),
        };
        // Session numbers start again when the server does: a row from before names someone else by now.
        if entry.age_ms > self.host.uptime_ms() + 1_000 {
            return Err(format!("the branch is not held by session {id} of today"));
        }
        match at_work {
            None => return Ok(()),
            Some(true) if !even_at_work => return Err(format!("session {id} is at work on the branch")),
            Some(_) => {}
        }
        world.say(|| {
            format!("{:?}: ends session {id}, which holds a branch that must be resolved", self.from)
        });
        if self.end_session(world, id).await { Ok(()) } else { Err(format!("session {id} cannot be ended")) }
    }

    /// KILLs a session and waits until it is gone. True: it is gone.
    pub(crate) async fn end_session(&self, world: &Arc<World>, id: SessionId) -> bool {
        for _ in 0..LOOKS {
            match self.control(world, u64::from(id), vec![Statement::Kill(id)]).await {
                Err(DbError::Server(code::NO_SUCH_THREAD)) => return true,
                Ok(_) => world.pause(LOOK_AGAIN_MS).await,
                Err(_) => return false,
            }
        }
        false
    }
}
