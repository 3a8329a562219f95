//! The engine: live transactions in memory, driven by the protocol core.
//!
//! Data flows one way: transport → engine → protocol → effects → store and outbound calls. A live transaction
//! is a lock around the protocol's state (`live`); whoever brings an event (a request, a reply, a timer, the
//! log's acknowledgement) takes the lock, steps the protocol, and hands out the effects (`driver`).

mod admission;
mod census;
mod clock;
#[cfg(feature = "crash-points")]
mod crash;
mod driver;
mod error;
mod failure;
mod listing;
mod live;
mod measure;
mod orders;
mod participants;
mod rates;
pub(crate) mod record;
mod registry;
mod requests;
mod settings;
mod snapshot;
mod timers;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use concord_crash_points::crash_point;
use concord_proto::trace::TraceId;
use concord_protocol::{
    BranchId, BranchState, ClusterId, Decision, Epoch, Event, Gtid, Millis, Outcome, Refusal,
};
use concord_seeded_bugs::seeded_bug;
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

pub use census::{Census, InState};
pub use clock::{Machine, Surroundings};
pub use error::EngineError;
pub use listing::{Page, TransactionFilter};
pub use orders::{Order, Stuck};
pub use participants::{BranchCall, CallResult, Participants};
pub use record::HistoryEvent;
pub use requests::{Admitted, BeginRequest, BranchRequest, RegisterRequest, Wait};
pub use settings::{Backoff, Settings, TenantLimits};
pub use snapshot::{BranchSnapshot, BranchSpec, Grade, Header, Kind, Snapshot};

use self::clock::{Clock, GtidIssuer};
use self::driver::Driver;
use self::failure::Failure;
use self::live::Live;
use self::rates::Rates;
use self::registry::Registry;
use self::timers::Timers;
use crate::metrics::Metrics;
use crate::store::{Owner, Store, StoreError, Stored, UnixMillis};
use crate::trace::{Trace, Tracer};

/// What a participant is told about a branch that it found in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Leave it alone and ask again.
    Undecided,
    /// Commit it.
    Committed,
    /// Roll it back.
    RolledBack,
}

/// How a transaction stands, for a participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What is to become of a branch found in doubt.
    pub verdict: Verdict,
    /// Every branch has ended: nothing more will be asked about it.
    pub ended: bool,
}

impl From<Option<Decision>> for Verdict {
    fn from(decision: Option<Decision>) -> Self {
        match decision {
            Some(Decision::Commit) => Verdict::Committed,
            Some(Decision::Rollback) => Verdict::RolledBack,
            None => Verdict::Undecided,
        }
    }
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Statistics {
    pub live: usize,
    pub stopping: bool,
    pub parked: usize,
    pub branches_in_doubt: usize,
    pub oldest_begun_at: Option<UnixMillis>,
    pub begun: u64,
    pub committed: u64,
    pub rolled_back: u64,
    pub heuristic: u64,
    pub refused: u64,
    pub calls: u64,
    pub calls_failed: u64,
    pub log: crate::store::Counters,
}

/// The engine. Dropping it stops its background tasks; calls under way end on their own.
pub struct Engine {
    driver: Arc<Driver>,
    issuer: GtidIssuer,
    stopping: AtomicBool,
    tasks: Vec<AbortHandle>,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Engine {
    /// Starts the engine on an opened store: every live transaction is loaded and goes on where the log says.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when a live transaction cannot be understood: guessing could break a promise.
    pub async fn start(
        store: Arc<dyn Store>,
        participants: Arc<dyn Participants>,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        let (metrics, tracer) = (Metrics::default(), Tracer::default());
        Self::start_in(store, participants, settings, Arc::new(Machine), metrics, tracer).await
    }

    /// As [`Engine::start`], with another wall clock and other random numbers than the machine's, counting and tracing here.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub async fn start_in(
        store: Arc<dyn Store>,
        participants: Arc<dyn Participants>,
        settings: Settings,
        surroundings: Arc<dyn Surroundings>,
        metrics: Metrics,
        tracer: Tracer,
    ) -> Result<Self, StoreError> {
        let (leaving, leaving_out) = mpsc::unbounded_channel();
        let issuer = GtidIssuer::new(store.epoch());
        let driver = Arc::new(Driver {
            settings: ArcSwap::from_pointee(settings),
            participants,
            registry: Registry::new(),
            clock: Clock::start(surroundings),
            timers: Timers::default(),
            leaving,
            failed: Failure::default(),
            metrics,
            tracer,
            voting: AtomicUsize::new(0),
            rates: Rates::default(),
            store,
        });
        let tasks = vec![
            tokio::spawn(Arc::clone(&driver).run_timers()).abort_handle(),
            tokio::spawn(Arc::clone(&driver).run_leaving(leaving_out)).abort_handle(),
        ];
        let engine = Engine { driver, issuer, stopping: AtomicBool::new(false), tasks };
        engine.recover().await?;
        Ok(engine)
    }

    /// Behaves so from now on. What has begun keeps its deadline, and parks when it was to.
    pub fn configure(&self, settings: Settings) {
        self.driver.settings.store(Arc::new(settings));
    }

    /// What those tenants may have that have limits.
    pub fn tenants(&self) -> Arc<HashMap<String, TenantLimits>> {
        Arc::clone(&self.driver.settings.load().tenants)
    }

    async fn recover(&self) -> Result<(), StoreError> {
        let stored = match seeded_bug!("recovery-forgets") {
            true => Vec::new(),
            false => self.driver.store.load_live().await?,
        };
        crash_point!("coordinator/recovery/loaded");
        self.resume(stored)
    }

    /// Takes over from coordinators that are gone, and goes on with their transactions where the log says. Answers how
    /// many there are. Nobody calls it twice at a time.
    ///
    /// # Errors
    /// [`StoreError::Read`] when the store could not be asked; it may be called again.
    pub async fn take_over(&self) -> Result<usize, StoreError> {
        let stored = self.driver.store.take_over().await;
        let taken = stored.and_then(|stored| {
            let count = stored.len();
            self.resume(stored).map(|()| count)
        });
        if let Err(error @ (StoreError::Failed(_) | StoreError::Corrupt { .. })) = &taken {
            self.driver.fail(error.clone());
        }
        taken
    }

    /// Goes on with live transactions of coordinators that are gone.
    fn resume(&self, stored: Vec<Stored>) -> Result<(), StoreError> {
        let mut recovered = Vec::with_capacity(stored.len());
        // All are understood before the first is resumed: a damaged store stops the start with nothing done.
        for one in stored {
            let mut rebuilt = record::rebuild(
                &one,
                self.driver.settings.load().park_after_attempts,
                self.driver.clock.now(),
            )?;
            for (spec, _) in &mut rebuilt.branches {
                self.driver.registry.share_names(spec);
            }
            recovered.push(Arc::new(Live::recovered(one.gtid, rebuilt)));
        }
        self.driver.metrics.engine.resumed.inc_by(recovered.len() as u64);
        if !recovered.is_empty() {
            tracing::info!(transactions = recovered.len(), "resuming unfinished transactions");
        }
        for live in &recovered {
            // What has begun goes on, however many there are.
            let _ = self.driver.registry.insert(Arc::clone(live), [None, None]);
        }
        for live in &recovered {
            crash_point!("coordinator/recovery/resume");
            self.driver.step_or_log(live, Event::Resume);
            crash_point!("coordinator/recovery/resumed");
        }
        crash_point!("coordinator/recovery/done");
        Ok(())
    }

    /// Who answers for a transaction; `None`: this coordinator.
    ///
    /// # Errors
    /// [`EngineError::Store`] when the store cannot be read.
    pub async fn owner_elsewhere(&self, gtid: Gtid) -> Result<Option<String>, EngineError> {
        if gtid.epoch() == self.epoch() || self.driver.registry.get(gtid).is_some() {
            return Ok(None);
        }
        Ok(match self.driver.store.reign(gtid.epoch()).await?.owner {
            Owner::Us => None,
            Owner::Other { address } => Some(address),
        })
    }

    /// Whether it is for this coordinator to look after what is shared and has this name: of those that are alive, one
    /// has the highest hash (rendezvous hashing). For a while after one has come or gone it may be two, or none; and it is
    /// not this one once its lease has run out.
    pub async fn looks_after(&self, name: &str) -> bool {
        let weight = |epoch: Epoch| {
            let mut hasher = DefaultHasher::new();
            (name, epoch).hash(&mut hasher);
            (hasher.finish(), epoch)
        };
        match self.driver.store.members().await {
            Ok(members) => members.into_iter().max_by_key(|member| weight(*member)) == Some(self.epoch()),
            Err(error) => {
                tracing::warn!(%error, "cannot find out which coordinators there are");
                false
            }
        }
    }

    /// What became of a transaction. Presumed abort: what is unknown, and of an epoch that has ended, was rolled
    /// back.
    ///
    /// # Errors
    /// [`EngineError::Store`] when the store cannot be read.
    pub async fn inquire(&self, gtid: Gtid) -> Result<Standing, EngineError> {
        self.inquire_branch(gtid, None).await
    }

    /// As [`Engine::inquire`], for somebody who holds this branch in doubt. Only a branch whose yes was counted may
    /// commit: one that voted read-only has ended, and is found prepared only if a duplicate of its call has run
    /// when its participant had forgotten the first.
    ///
    /// # Errors
    /// [`EngineError::Store`] when the store cannot be read.
    pub async fn inquire_branch(
        &self,
        gtid: Gtid,
        branch: Option<BranchId>,
    ) -> Result<Standing, EngineError> {
        let standing = |decision, state: Option<BranchState>, ended| Standing {
            verdict: match (decision, branch, state) {
                (Some(_), Some(_), None | Some(BranchState::ReadOnly))
                    if !seeded_bug!("answers-for-all-branches") =>
                {
                    Verdict::RolledBack
                }
                (None, ..) if seeded_bug!("undecided-is-rolled-back") => Verdict::RolledBack,
                _ => decision.into(),
            },
            ended,
        };
        if let Some(live) = self.driver.registry.get(gtid) {
            let state = live.lock();
            let known = branch.and_then(|id| state.transaction.branch(id)).map(|branch| branch.state());
            // It leaves memory once its end is on record: before that a restart would deliver it again.
            return Ok(standing(state.told, known, false));
        }
        // Asked first: what it does not write before it is over, it never will.
        let is_over = self.is_over(gtid.epoch()).await?;
        if let Some(stored) = self.driver.store.get(gtid).await? {
            let snapshot = record::snapshot(&stored)?;
            let known = snapshot.branches.iter().find(|one| Some(one.id) == branch).map(|one| one.state);
            return Ok(standing(snapshot.decision(), known, snapshot.state.is_terminal()));
        }
        if seeded_bug!("unknown-is-committed") {
            return Ok(Standing { verdict: Verdict::Committed, ended: true });
        }
        if is_over || seeded_bug!("store-asked-first") && self.is_over(gtid.epoch()).await? {
            return Ok(Standing { verdict: Verdict::RolledBack, ended: true });
        }
        // Of our own epoch it would be known; of another coordinator's, it may yet be decided; of a later one, the store
        // was set back to an older state. Any doubt wins: leave it alone. Whoever asks could fill the log with this.
        tracing::debug!(%gtid, epoch = %self.epoch(), "asked about a transaction that this coordinator cannot know");
        Ok(Standing { verdict: Verdict::Undecided, ended: false })
    }

    /// The identity of the store, as it stands in every XID.
    pub fn cluster_id(&self) -> ClusterId {
        self.driver.store.cluster_id()
    }

    /// This life of the coordinator.
    pub fn epoch(&self) -> Epoch {
        self.driver.store.epoch()
    }

    /// Counts since the start.
    pub fn statistics(&self) -> Statistics {
        let counts = &self.driver.metrics.engine;
        let registry = &self.driver.registry;
        let ended = |wanted| counts.ended.sum(|(_, outcome)| outcome == wanted);
        let Census { stopping, parked, branches_in_doubt, .. } = self.census();
        Statistics {
            live: registry.len(),
            stopping,
            parked,
            branches_in_doubt,
            oldest_begun_at: registry.oldest().map(|live| live.header.begun_at),
            begun: counts.begun.sum(|_| true),
            committed: ended(Outcome::Committed),
            rolled_back: ended(Outcome::RolledBack),
            heuristic: counts.heuristic.get(),
            refused: counts.refused.get(),
            calls: counts.calls.sum(|_| true),
            calls_failed: counts.calls_failed.sum(|_| true),
            log: self.driver.store.counters(),
        }
    }

    /// The trace that a live transaction belongs to, if any.
    pub fn trace_id(&self, gtid: Gtid) -> Option<TraceId> {
        self.driver.registry.get(gtid)?.lock().trace.as_deref().map(Trace::id)
    }

    /// Ends the spans of what is live, which tell then that it has not ended.
    pub(crate) fn abandon_traces(&self) {
        for live in self.driver.registry.newest_first() {
            live.lock().trace = None;
        }
    }

    /// Where it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.driver.metrics
    }

    /// Resolves when the store has failed: the process must end.
    pub async fn store_failed(&self) -> StoreError {
        self.driver.failed.wait().await
    }

    /// Whether transactions may begin: the store can be written, and nobody has told the coordinator to stop. Recovery was
    /// done when the engine started.
    pub fn is_ready(&self) -> bool {
        !self.stopping.load(Ordering::SeqCst) && self.driver.failed.wait().now_or_never().is_none()
    }

    /// Begins no transaction from now on.
    pub fn stop_beginning(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Resolves when no transaction is live. Others may begin, unless they are [kept out](Engine::stop_beginning).
    pub async fn drained(&self) {
        let registry = &self.driver.registry;
        loop {
            let left = registry.left.notified();
            tokio::pin!(left);
            // From here on no departure is missed.
            left.as_mut().enable();
            if registry.len() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Whether other coordinators go on with what this one leaves behind.
    pub fn is_shared(&self) -> bool {
        self.driver.store.is_shared()
    }

    /// Closes the store. What is decided goes on after the next start; what is not is rolled back then.
    ///
    /// # Errors
    /// [`StoreError`] when the last records could not be written.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.driver.store.close().await
    }

    /// Deletes at most `limit` transactions that ended longer than `retention` ago; answers how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn purge(&self, retention: Duration, limit: usize) -> Result<usize, StoreError> {
        let before = self.driver.clock.wall().0.saturating_sub(Millis::from(retention).0);
        self.driver.store.purge(UnixMillis(before), limit).await
    }

    /// Whether no coordinator of this epoch can write any more.
    async fn is_over(&self, epoch: Epoch) -> Result<bool, StoreError> {
        match epoch == self.epoch() {
            true => Ok(false),
            false => Ok(self.driver.store.reign(epoch).await?.is_over),
        }
    }

    /// Whose transaction this is, if it is on record; empty: nobody's in particular.
    ///
    /// # Errors
    /// [`EngineError::Store`] when the store cannot be read.
    pub async fn tenant_of(&self, gtid: Gtid) -> Result<Option<String>, EngineError> {
        if let Some(live) = self.driver.registry.get(gtid) {
            return Ok(Some(live.header.tenant.clone()));
        }
        let stored = self.driver.store.get(gtid).await?;
        Ok(stored.map(|stored| record::snapshot(&stored)).transpose()?.map(|snapshot| snapshot.header.tenant))
    }

    /// Where a branch of a live transaction is, if there is such a branch.
    pub fn participant_of(&self, gtid: Gtid, branch: BranchId) -> Option<Arc<str>> {
        let live = self.driver.registry.get(gtid)?;
        let state = live.lock();
        state.spec(branch).map(|spec| Arc::clone(&spec.participant))
    }

    async fn find(&self, gtid: Gtid) -> Result<Found, EngineError> {
        if let Some(live) = self.driver.registry.get(gtid) {
            return Ok(Found::Live(live));
        }
        let is_over = self.is_over(gtid.epoch()).await?;
        if let Some(stored) = self.driver.store.get(gtid).await? {
            let snapshot = record::snapshot(&stored)?;
            return match snapshot.state.is_terminal() {
                true => Ok(Found::Ended(Box::new(snapshot))),
                false => Err(EngineError::Elsewhere(gtid)),
            };
        }
        Err(match is_over || seeded_bug!("store-asked-first") && self.is_over(gtid.epoch()).await? {
            // Presumed abort; and for ever, for nobody can decide it any more.
            true => EngineError::RolledBack {
                gtid,
                reason: "no decision is on record, and the coordinator has restarted since it began".into(),
            },
            false => EngineError::UnknownGtid(gtid),
        })
    }

    /// A live transaction, or the error that says what became of it.
    async fn live_or_why_not(&self, gtid: Gtid) -> Result<Arc<Live>, EngineError> {
        match self.find(gtid).await? {
            Found::Live(live) => Ok(live),
            Found::Ended(ended) if ended.decision() == Some(Decision::Rollback) => {
                Err(EngineError::RolledBack { gtid, reason: ended.reason })
            }
            Found::Ended(_) => Err(EngineError::Refused { gtid, refusal: Refusal::NotActive }),
        }
    }
}

/// Where a transaction was found.
enum Found {
    Live(Arc<Live>),
    Ended(Box<Snapshot>),
}

fn invalid(field: &'static str, problem: String) -> EngineError {
    EngineError::Invalid { field, problem }
}
