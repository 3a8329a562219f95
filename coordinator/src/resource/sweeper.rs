//! The sweeper: ends branches that were left in doubt, according to the log, also when their participant's
//! process never comes back.
//!
//! What it may touch: branches that bear our format id and our cluster, whose transaction is decided or can no
//! longer be (presumed abort), and that have been there for the safety interval: what a living participant is
//! just about to end is left to it. Any doubt wins: everything else is left alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use concord_crash_points::crash_point;
use concord_proto::trace::TraceId;
use concord_protocol::{BranchId, ClusterId, Decision, Gtid, Outcome};
use concord_seeded_bugs::seeded_bug;
use concord_xa::{Database, Holding, InDoubt, Resolution, XaError, Xid};
use futures_util::future::join_all;
use tokio::time::Instant;
use tracing::field::{DisplayValue, display};

use super::{Resource, SESSIONS_MAX, Sighting, Status};
use crate::engine::{Engine, Verdict};
use crate::metrics::Label as _;
use crate::store::UnixMillis;

/// What the sweeper asks of a database. A simulation has its own.
pub trait Branches: Sync {
    /// Whether a branch lives in this database; see [`Database::holding`].
    fn holding(&self, xid: &Xid) -> impl Future<Output = Result<Holding, XaError>> + Send;
    /// Commits a prepared branch; see [`Database::commit`].
    fn commit(&self, xid: &Xid) -> impl Future<Output = Resolution> + Send;
    /// Rolls a branch back; see [`Database::rollback`].
    fn rollback(&self, xid: &Xid) -> impl Future<Output = Resolution> + Send;
}

impl Branches for Database {
    fn holding(&self, xid: &Xid) -> impl Future<Output = Result<Holding, XaError>> + Send {
        Database::holding(self, xid)
    }

    fn commit(&self, xid: &Xid) -> impl Future<Output = Resolution> + Send {
        Database::commit(self, xid)
    }

    fn rollback(&self, xid: &Xid) -> impl Future<Output = Resolution> + Send {
        Database::rollback(self, xid)
    }
}

/// The sweeper of one database, and what it has seen there.
#[derive(Debug)]
pub struct Sweeper {
    name: String,
    cluster: ClusterId,
    participants: Vec<String>,
    status: Mutex<Status>,
}

impl Resource {
    /// One look at the database, and whatever follows from it.
    pub(super) async fn sweep(&self, engine: &Engine, safety_interval: Duration) {
        let Ok((database, mut listed)) = self.recover().await else { return };
        if !engine.looks_after(&self.config.name).await {
            // What another coordinator looks after; what this one has decided itself it still gets ended.
            listed.clear();
        }
        self.sweeper.sweep(engine, &database, &listed, safety_interval).await;
    }
}

impl Sweeper {
    /// A sweeper of the database called `name`, in which the branches of these participants live.
    pub fn new(name: String, cluster: ClusterId, participants: Vec<String>) -> Self {
        Sweeper { name, cluster, participants, status: Mutex::default() }
    }

    /// Ends what has to be ended of what is `listed` as prepared, and of what the engine cannot get ended.
    pub async fn sweep(
        &self,
        engine: &Engine,
        database: &impl Branches,
        listed: &[InDoubt],
        safety_interval: Duration,
    ) {
        if seeded_bug!("no-sweeper") {
            return;
        }
        let due = self.sighted(listed, safety_interval);
        let stuck = self.stuck(engine, safety_interval);
        let others = stuck.keys().filter(|xid| !due.contains(xid)).copied();
        let work: Vec<_> = due.iter().map(|xid| (*xid, true)).chain(others.map(|xid| (xid, false))).collect();
        for some in work.chunks(SESSIONS_MAX) {
            let end = |(xid, listed): &(Xid, bool)| {
                self.end(engine, database, *xid, *listed, stuck.get(xid).copied())
            };
            join_all(some.iter().map(end)).await;
        }
        self.status().swept_at = Some(UnixMillis::now());
    }

    /// Notes what is listed; answers with our branches that have been there for the safety interval.
    fn sighted(&self, listed: &[InDoubt], safety_interval: Duration) -> Vec<Xid> {
        let now = Sighting { monotonic: Instant::now(), wall: UnixMillis::now() };
        let ours: Vec<Xid> = listed.iter().filter_map(|one| self.ours(one)).collect();
        let mut status = self.status();
        status.in_doubt_foreign = listed.len() - ours.len();
        // What is no longer listed has ended; if it comes back (a restarted server may bring back a branch
        // whose rollback it had acknowledged) its interval begins anew.
        status.seen = ours.iter().map(|xid| (*xid, status.seen.get(xid).copied().unwrap_or(now))).collect();
        let due = |xid: &Xid| {
            status.seen.get(xid).is_some_and(|sighting| sighting.monotonic.elapsed() >= safety_interval)
                || seeded_bug!("no-safety-interval")
        };
        ours.into_iter().filter(due).collect()
    }

    /// Branches of participants that live in this database, asked to end for the safety interval and not ended: the
    /// participant does not answer.
    fn stuck(&self, engine: &Engine, safety_interval: Duration) -> BTreeMap<Xid, Decision> {
        let stuck = engine.stuck(safety_interval).into_iter();
        let here = stuck.filter(|stuck| self.participants.iter().any(|one| **one == *stuck.participant));
        here.map(|stuck| (self.xid(stuck.gtid, stuck.branch), stuck.decision)).collect()
    }

    /// Our branch, if Concord made this name for this coordinator. Anything else is never touched.
    pub(super) fn ours(&self, listed: &InDoubt) -> Option<Xid> {
        listed.xid.filter(|xid| xid.cluster == self.cluster || seeded_bug!("foreign-xids"))
    }

    fn xid(&self, gtid: Gtid, branch: BranchId) -> Xid {
        Xid { cluster: self.cluster, gtid, branch }
    }

    /// `stuck`: what its participant has been asked in vain. That may be the fence of a one-phase commit, about which an
    /// inquiry would learn nothing.
    async fn end(
        &self,
        engine: &Engine,
        database: &impl Branches,
        xid: Xid,
        listed: bool,
        stuck: Option<Decision>,
    ) {
        // Found listed, it may live in another database of the same server, whose barrier table alone proves anything
        // about it. Where there is no such table, the server's own answer must do.
        if listed {
            match database.holding(&xid).await {
                Ok(Holding::Here(_) | Holding::NoTable) => {}
                Ok(Holding::Elsewhere) => return,
                Err(error) => {
                    tracing::warn!(
                        gtid = %xid.gtid, trace_id = traced(engine, xid), branch_id = %xid.branch, %error,
                        "a branch in doubt cannot be looked at yet"
                    );
                    return;
                }
            }
        }
        let verdict = match stuck {
            Some(decision) => Ok(Some(decision).into()),
            None => engine.inquire_branch(xid.gtid, Some(xid.branch)).await.map(|standing| standing.verdict),
        };
        crash_point!("coordinator/sweeper/before");
        let resolution = match verdict {
            Ok(Verdict::Committed) => database.commit(&xid).await,
            Ok(Verdict::RolledBack) => database.rollback(&xid).await,
            Ok(Verdict::Undecided) if seeded_bug!("sweeper-guesses") => database.rollback(&xid).await,
            Ok(Verdict::Undecided) => return,
            Err(error) => {
                tracing::warn!(
                    gtid = %xid.gtid, branch_id = %xid.branch, %error,
                    "the log cannot be asked about a branch in doubt"
                );
                return;
            }
        };
        crash_point!("coordinator/sweeper/after");
        self.note(engine, xid, resolution);
    }

    fn note(&self, engine: &Engine, xid: Xid, resolution: Resolution) {
        let (resource, trace_id) = (&self.name, traced(engine, xid));
        let outcome = match resolution {
            Resolution::Committed { .. } => {
                self.status().committed += 1;
                Outcome::Committed
            }
            Resolution::RolledBack { .. } => {
                self.status().rolled_back += 1;
                Outcome::RolledBack
            }
            // No trace to a commit would be a heuristic rollback if this is the branch's own database; that
            // the participant itself must say.
            Resolution::NoTrace { reason } | Resolution::Undecided { reason } => {
                tracing::warn!(
                    gtid = %xid.gtid, trace_id, branch_id = %xid.branch, %resource, %reason,
                    "a branch in doubt could not be ended yet"
                );
                return;
            }
        };
        tracing::info!(
            gtid = %xid.gtid, trace_id, branch_id = %xid.branch, %resource, outcome = outcome.value(),
            "ended a branch that was left in doubt"
        );
        self.status().seen.remove(&xid);
        engine.swept(xid.gtid, xid.branch, outcome);
    }

    pub(super) fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The trace that a branch's transaction belongs to, for log lines.
fn traced(engine: &Engine, xid: Xid) -> Option<DisplayValue<TraceId>> {
    engine.trace_id(xid.gtid).map(display)
}
