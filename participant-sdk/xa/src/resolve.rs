//! Phase two from any session, and what the answers prove (docs/xa.md rules 8, 9, 16 and 17).

use std::time::Duration;

use bytes::Bytes;
use concord_crash_points::crash_point;
use concord_seeded_bugs::seeded_bug;
use mysql_async::from_row_opt;

use crate::barrier::{Entry, Evidence, STATE_MARKER, STATE_TOMBSTONE, entry};
use crate::database::Database;
use crate::error::{XaError, code};
use crate::xid::Xid;

/// How a branch ended, as far as it is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// The database said so, or the marker row proves it.
    Committed {
        /// What the handler answered, where the marker row was read.
        reply: Bytes,
    },
    /// The database said so, or a tombstone proves it.
    RolledBack {
        /// Why, when it is known. For people.
        reason: String,
    },
    /// There is no trace of the branch: neither prepared, nor a marker, nor a tombstone. In the database
    /// that holds the branch's barrier table this is a rollback, and to a commit a heuristic one.
    NoTrace {
        /// What was looked at. For people.
        reason: String,
    },
    /// Nothing is proved yet: call again later.
    Undecided {
        /// Why. For people.
        reason: String,
    },
}

impl Resolution {
    pub(crate) fn rolled_back(reason: impl Into<String>) -> Self {
        Resolution::RolledBack { reason: reason.into() }
    }

    fn undecided(reason: impl ToString) -> Self {
        Resolution::Undecided { reason: reason.to_string() }
    }

    fn of(entry: Entry) -> Self {
        match entry.state {
            STATE_MARKER => Resolution::Committed { reply: entry.reply },
            STATE_TOMBSTONE => Resolution::rolled_back("rolled back before"),
            // Not evidence of how an XA branch ended.
            state => Resolution::Undecided {
                reason: format!("this branch is a TCC branch (its row has state {state}), not an XA branch"),
            },
        }
    }
}

/// What the database knows of a branch whose PREPARE was lost or is long ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trace {
    /// Prepared, and waiting for phase two; with the reply that the handler gave.
    Prepared {
        /// What the handler answered; empty where it cannot be read.
        reply: Bytes,
    },
    /// It has ended.
    Ended(Resolution),
    /// No trace, and no session is at work on it: it is not prepared. A late duplicate could still come,
    /// unless [`Database::fence`] is called.
    None,
    /// It cannot be found out now.
    Unknown {
        /// Why. For people.
        reason: String,
    },
}

/// Whether a branch that the server lists as prepared lives in this database: a server lists those of all its
/// databases, and only the barrier table of the branch's own can prove anything about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Its marker row is here, not committed, and was written so long ago by the server's clock.
    Here(Duration),
    /// It has no unfinished row here: it belongs to another database, or has just ended.
    Elsewhere,
    /// There is no barrier table here that would tell.
    NoTable,
}

/// What an error of XA COMMIT or XA ROLLBACK says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// XAER_NOTA: resolved, or attached to another session. Evidence is needed. Also: the connection broke.
    Unknown,
    /// The database rolled it back by itself.
    RolledBack,
    /// Not done; it will work later.
    Undecided,
}

pub(crate) fn classify(error: &XaError) -> Answer {
    match error {
        XaError::Server { code: code::XAER_NOTA, .. } | XaError::Connection(_) | XaError::TimedOut { .. } => {
            Answer::Unknown
        }
        // Our prepared branches have always written something: the marker row at least (rule 17).
        XaError::Server { code: code::XA_RBROLLBACK | code::XA_RBDEADLOCK | code::XA_RBTIMEOUT, .. } => {
            Answer::RolledBack
        }
        _ => Answer::Undecided,
    }
}

/// How often phase two looks again before it answers that it does not know.
const ROUNDS: u32 = 4;
/// Between two looks at a session that is being ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Looks at a session that is being ended.
const LOOKS: u32 = 100;

impl Database {
    /// Commits a prepared branch from a session in autocommit. Answers [`Resolution::Committed`] only when
    /// the database said OK or the marker row proves it.
    pub async fn commit(&self, xid: &Xid) -> Resolution {
        let sql = format!("XA COMMIT {}", xid.to_sql());
        let mut reason = String::new();
        for _ in 0..ROUNDS {
            crash_point!("xa/commit/before");
            let answer = self.control(&sql).await;
            crash_point!("xa/commit/after");
            match answer {
                Ok(_) => return Resolution::Committed { reply: Bytes::new() },
                Err(error) if error.code() == Some(code::XAER_NOTA) && seeded_bug!("nota-is-success") => {
                    return Resolution::Committed { reply: Bytes::new() };
                }
                Err(error) if error.code() != Some(code::XAER_NOTA) => {
                    return match classify(&error) {
                        Answer::RolledBack => Resolution::rolled_back(error.to_string()),
                        _ => Resolution::undecided(error),
                    };
                }
                Err(_) => {}
            }
            match self.look(xid).await {
                Err(error) => return Resolution::undecided(error),
                Ok(Evidence::Committed(entry)) => return Resolution::of(entry),
                // Where branches are detached at PREPARE, someone else is committing it right now.
                Ok(Evidence::Uncommitted(_)) if self.0.server.detaches_on_prepare => {
                    reason = "another session is ending the branch".into();
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(Evidence::Uncommitted(entry)) => match self.end_owner(xid, &entry, false).await {
                    Ok(()) => reason = "another session holds the branch".into(),
                    Err(why) => return Resolution::Undecided { reason: why },
                },
                Ok(evidence) => return self.unproved(xid, &evidence).await,
            }
        }
        Resolution::Undecided { reason }
    }

    /// XAER_NOTA and no row.
    async fn unproved(&self, xid: &Xid, evidence: &Evidence) -> Resolution {
        match self.is_listed(xid).await {
            Err(error) => Resolution::undecided(error),
            Ok(true) => {
                Resolution::undecided("the branch is attached to another session, which is not known")
            }
            Ok(false) if *evidence == Evidence::NoTable => Resolution::undecided(
                "XAER_NOTA, and this database has no barrier table that would prove how the branch ended",
            ),
            Ok(false) => Resolution::NoTrace { reason: "XAER_NOTA, no marker row and not prepared".into() },
        }
    }

    /// Rolls a branch back, prepared or not yet there, from a session in autocommit; and leaves a tombstone,
    /// so that a branch that arrives later is refused by its marker row (docs/xa.md rule 9).
    pub async fn rollback(&self, xid: &Xid) -> Resolution {
        let sql = format!("XA ROLLBACK {}", xid.to_sql());
        let mut rolled_back = false;
        let mut reason = String::new();
        for round in 0..ROUNDS {
            crash_point!("xa/rollback/before");
            let answer = self.control(&sql).await;
            crash_point!("xa/rollback/after");
            match answer {
                Ok(_) => rolled_back = true,
                Err(error) => match (error.code(), classify(&error)) {
                    (Some(code::XAER_NOTA), _) => {}
                    (_, Answer::RolledBack) => rolled_back = true,
                    _ => return Resolution::undecided(error),
                },
            }
            match self.look(xid).await {
                Err(error) => return Resolution::undecided(error),
                Ok(Evidence::Committed(entry)) => return Resolution::of(entry),
                // Where branches are detached at PREPARE, this one is being ended by someone, whose session is
                // not the one in the row; or else it has hung before PREPARE, and then its session is.
                Ok(Evidence::Uncommitted(_)) if self.0.server.detaches_on_prepare && round < 2 => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                Ok(Evidence::Uncommitted(entry)) => {
                    if let Err(why) = self.end_owner(xid, &entry, true).await {
                        return Resolution::Undecided { reason: why };
                    }
                    reason = "another session holds the branch".into();
                    continue;
                }
                Ok(Evidence::NoTable) if rolled_back => return Resolution::rolled_back(""),
                Ok(Evidence::NoTable) => return self.unproved(xid, &Evidence::NoTable).await,
                Ok(Evidence::Absent) => {}
            }
            if seeded_bug!("no-tombstone") {
                return Resolution::rolled_back("");
            }
            match self.tombstone(xid).await {
                Ok(Some(entry)) => return Resolution::of(entry),
                Ok(None) => reason = "the tombstone could not be read back".into(),
                // The branch has arrived in between.
                Err(error) if error.code().is_some() && error.retryable() => reason = error.to_string(),
                Err(error) => return Resolution::undecided(error),
            }
        }
        Resolution::Undecided { reason }
    }

    /// Makes sure that a branch that is not prepared never takes effect, and says how it stands: committed in
    /// one phase, or rolled back, for the reason given.
    pub async fn fence(&self, xid: &Xid, why: &str) -> Resolution {
        match self.rollback(xid).await {
            Resolution::RolledBack { .. } | Resolution::NoTrace { .. } => Resolution::rolled_back(why),
            other => other,
        }
    }

    /// Whether an unfinished branch lives in this database. Recovery asks before it ends what it found listed.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn holding(&self, xid: &Xid) -> Result<Holding, XaError> {
        Ok(match self.look(xid).await? {
            Evidence::Uncommitted(entry) => Holding::Here(Duration::from_secs_f64(entry.age_s.max(0.0))),
            Evidence::Committed(_) | Evidence::Absent => Holding::Elsewhere,
            Evidence::NoTable => Holding::NoTable,
        })
    }

    /// How a branch ended, judging by its committed row alone. None: there is no such row.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn recorded(&self, xid: &Xid) -> Result<Option<Resolution>, XaError> {
        Ok(match self.look(xid).await? {
            Evidence::Committed(entry) => Some(Resolution::of(entry)),
            _ => None,
        })
    }

    /// Finds out what became of a branch whose PREPARE was lost (docs/xa.md rule 7), or that an earlier life
    /// of this process may have prepared. `connection_id`: the session that may still be at work, if known.
    ///
    /// A session that still holds the branch without having prepared it is ended. Where XA RECOVER is not
    /// allowed, the session that wrote the marker row is ended in any case, because nothing else tells whether
    /// it has prepared.
    pub async fn settle(&self, xid: &Xid, connection_id: Option<u32>) -> Trace {
        if let Some(id) = connection_id
            && !self.end_session(id).await
        {
            return Trace::Unknown { reason: "its session cannot be ended".into() };
        }
        for _ in 0..ROUNDS {
            let entry = match self.look(xid).await {
                Err(error) => return Trace::Unknown { reason: error.to_string() },
                Ok(Evidence::NoTable) => {
                    return Trace::Unknown { reason: "this database has no barrier table".into() };
                }
                Ok(Evidence::Absent) => return Trace::None,
                Ok(Evidence::Committed(entry)) => return Trace::Ended(Resolution::of(entry)),
                Ok(Evidence::Uncommitted(entry)) => entry,
            };
            // A row that is visible but not committed: prepared, or about to be, or about to go.
            match self.recover().await {
                Ok(list) if list.iter().any(|branch| branch.xid == Some(*xid)) => {
                    return Trace::Prepared { reply: entry.reply };
                }
                // Not allowed to list; but without a session at work on it only a prepared branch keeps a row.
                Err(XaError::Server { .. }) => match self.owner_state(&entry).await {
                    Err(error) => return Trace::Unknown { reason: error.to_string() },
                    // Nothing but prepared branches outlives the server.
                    Ok(Owner::Older) => return self.prepared_if_still_there(xid).await,
                    // Not in the list may mean another user's: KILL tells the difference.
                    Ok(Owner::Gone) => match u32::try_from(entry.connection_id) {
                        Ok(id) if self.end_session(id).await => {
                            return self.prepared_if_still_there(xid).await;
                        }
                        _ => return Trace::Unknown { reason: "its session cannot be ended".into() },
                    },
                    Ok(Owner::Idle | Owner::AtWork) => {}
                },
                Ok(_) => {}
                Err(error) => return Trace::Unknown { reason: error.to_string() },
            }
            if let Err(reason) = self.end_owner(xid, &entry, true).await {
                return Trace::Unknown { reason };
            }
        }
        Trace::Unknown { reason: "another session is still at work on the branch".into() }
    }

    async fn prepared_if_still_there(&self, xid: &Xid) -> Trace {
        match self.look(xid).await {
            Ok(Evidence::Uncommitted(entry)) => Trace::Prepared { reply: entry.reply },
            Ok(Evidence::Committed(entry)) => Trace::Ended(Resolution::of(entry)),
            Ok(Evidence::Absent) => Trace::None,
            Ok(Evidence::NoTable) => Trace::Unknown { reason: "the barrier table has gone".into() },
            Err(error) => Trace::Unknown { reason: error.to_string() },
        }
    }

    pub(crate) async fn look(&self, xid: &Xid) -> Result<Evidence, XaError> {
        let mut session = self.0.control.acquire().await?;
        let evidence = self.0.barrier.look(&mut session, self.0.options.control_timeout, xid).await?;
        if evidence != Evidence::NoTable {
            session.give_back();
        }
        Ok(evidence)
    }

    /// Writes the tombstone unless there is a row, and reads what is there.
    async fn tombstone(&self, xid: &Xid) -> Result<Option<Entry>, XaError> {
        crash_point!("xa/tombstone/before");
        let results = self.control(&self.0.barrier.tombstone_sql(xid, 0)).await?;
        crash_point!("xa/tombstone/after");
        results.into_iter().nth(1).map_or(Ok(None), entry)
    }

    /// Ends the session that holds an uncommitted row, so that the branch is detached (if prepared) or rolled
    /// back (if not). Err: it must be left alone for now; why.
    async fn end_owner(&self, xid: &Xid, entry: &Entry, even_at_work: bool) -> Result<(), String> {
        if self.0.own.contains(entry.connection_id) {
            return Err("a session of this process holds the branch".into());
        }
        let id = entry.connection_id;
        let state = self.owner_state(entry).await.map_err(|error| error.to_string())?;
        match state {
            Owner::Gone => return Ok(()),
            Owner::AtWork if !even_at_work => return Err(format!("session {id} is at work on the branch")),
            Owner::Older => return Err(format!("the branch is not held by session {id} of today")),
            Owner::Idle | Owner::AtWork => {}
        }
        tracing::warn!(
            gtid = %xid.gtid, branch_id = %xid.branch, connection_id = id,
            "ending a session that holds a branch which must be resolved"
        );
        let Ok(id) = u32::try_from(id) else { return Err(format!("no session can have the id {id}")) };
        if self.end_session(id).await { Ok(()) } else { Err(format!("session {id} cannot be ended")) }
    }

    async fn owner_state(&self, entry: &Entry) -> Result<Owner, XaError> {
        let sql = format!(
            "SHOW GLOBAL STATUS LIKE 'Uptime'; \
             SELECT command FROM information_schema.processlist WHERE id = {}",
            entry.connection_id
        );
        let mut results = self.control(&sql).await?.into_iter();
        let mut row = || results.next().and_then(|outcome| outcome.rows.into_iter().next());
        let uptime =
            row().and_then(|row| from_row_opt::<(String, f64)>(row).ok()).map_or(0.0, |(_, value)| value);
        // Connection ids start again when the server does: a row from before names someone else by now.
        // Uptime is a difference of whole seconds, off by one either way: a row written in the last two seconds
        // before a restart is not told apart.
        if entry.age_s > uptime + 1.0 {
            return Ok(Owner::Older);
        }
        let Some(command) = row().and_then(|row| from_row_opt::<String>(row).ok()) else {
            return Ok(Owner::Gone);
        };
        Ok(if command == "Sleep" { Owner::Idle } else { Owner::AtWork })
    }

    /// KILLs a session and waits until it is gone. True: it is gone.
    pub async fn end_session(&self, id: u32) -> bool {
        let sql = format!("KILL {id}");
        for _ in 0..LOOKS {
            match self.control(&sql).await {
                // Only this says that it is gone, whoever it belonged to.
                Err(XaError::Server { code: code::NO_SUCH_THREAD, .. }) => return true,
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(error) => {
                    tracing::warn!(connection_id = id, %error, "a session cannot be ended");
                    return false;
                }
            }
        }
        false
    }
}

/// The session named in an uncommitted row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Gone,
    Idle,
    AtWork,
    /// The row is older than the server's start, so the id means someone else.
    Older,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: u16) -> XaError {
        XaError::Server { code, state: "XA100".into(), message: String::new() }
    }

    #[test]
    fn rule_16_these_leave_a_commit_undecided() {
        for code in [1205, 3197, 1290, 1399, 1400, 1053, 1836] {
            assert_eq!(classify(&server(code)), Answer::Undecided, "{code}");
        }
        // 2006 and 2013 are the driver's words for a lost connection: look for evidence.
        assert_eq!(classify(&XaError::Connection(String::new())), Answer::Unknown);
        assert_eq!(classify(&XaError::TimedOut { ms: 1 }), Answer::Unknown);
    }

    #[test]
    fn rule_17_these_are_heuristic_rollbacks() {
        for code in [1402, 1614, 1613] {
            assert_eq!(classify(&server(code)), Answer::RolledBack, "{code}");
        }
        assert_eq!(classify(&server(1397)), Answer::Unknown);
    }
}
