//! The engine: live transactions in memory, driven by the protocol core.
//!
//! Data flows one way: transport → engine → protocol → effects → store and outbound calls. A live transaction
//! is a lock around the protocol's state (`live`); whoever brings an event (a request, a reply, a timer, the
//! log's acknowledgement) takes the lock, steps the protocol, and hands out the effects (`driver`).

mod clock;
mod driver;
mod error;
mod listing;
mod live;
mod orders;
mod participants;
mod record;
mod registry;
mod settings;
mod snapshot;
mod timers;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use concord_protocol::{
    BranchId, ClusterId, Decision, Epoch, Event, Gtid, Millis, Options, Refusal, Transaction, Vote,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub use error::EngineError;
pub use listing::{Page, TransactionFilter};
pub use orders::{Order, Stuck};
pub use participants::{BranchCall, CallResult, Participants};
pub use record::HistoryEvent;
pub use settings::{Backoff, Settings};
pub use snapshot::{BranchSnapshot, BranchSpec, Grade, Header, Snapshot};

use self::clock::{Clock, GtidIssuer};
use self::driver::{Counts, Driver, count};
use self::live::{Live, LiveState};
use self::registry::Registry;
use self::timers::{TimerKey, Timers};
use crate::store::{Store, StoreError, UnixMillis};

/// When a call that ends a transaction answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// When the decision is durable.
    Decided,
    /// When every branch has ended.
    Completed,
}

/// How a transaction is begun.
#[derive(Debug, Clone, Default)]
pub struct BeginRequest {
    /// For people.
    pub name: String,
    /// Milliseconds; 0: the default.
    pub timeout_ms: u32,
    /// Empty: none.
    pub idempotency_key: String,
}

/// A branch that the coordinator is to run.
#[derive(Debug, Clone)]
pub struct BranchRequest {
    /// Where the participant listens.
    pub participant: String,
    /// The handler's name.
    pub action: String,
    /// Its argument.
    pub payload: Bytes,
}

/// A participant joins.
#[derive(Debug, Clone)]
pub struct RegisterRequest {
    /// Which transaction.
    pub gtid: Gtid,
    /// Where the participant listens.
    pub participant: String,
    /// Chosen by the participant: a repeat answers with the same branch.
    pub registration_key: String,
}

/// How many milliseconds a transaction has left, and what was begun or joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted<T> {
    /// What was made.
    pub id: T,
    /// Milliseconds until an undecided transaction is rolled back.
    pub remaining_ms: u32,
}

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

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Statistics {
    pub live: usize,
    pub parked: usize,
    pub begun: u64,
    pub committed: u64,
    pub rolled_back: u64,
    pub heuristic: u64,
    pub calls: u64,
    pub calls_failed: u64,
    pub log: crate::store::Counters,
}

/// The engine. Dropping it stops its background tasks; calls under way end on their own.
pub struct Engine {
    driver: Arc<Driver>,
    issuer: GtidIssuer,
    stopping: AtomicBool,
    failed: watch::Receiver<Option<StoreError>>,
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
        let (leaving, leaving_out) = mpsc::unbounded_channel();
        let (failed_in, failed) = watch::channel(None);
        let issuer = GtidIssuer::new(store.epoch());
        let driver = Arc::new(Driver {
            settings,
            participants,
            registry: Registry::new(),
            clock: Clock::start(),
            timers: Timers::default(),
            leaving,
            failed: failed_in,
            counts: Counts::default(),
            voting: AtomicUsize::new(0),
            store,
        });
        let tasks = vec![
            tokio::spawn(Arc::clone(&driver).run_timers()).abort_handle(),
            tokio::spawn(Arc::clone(&driver).run_leaving(leaving_out)).abort_handle(),
        ];
        let engine = Engine { driver, issuer, stopping: AtomicBool::new(false), failed, tasks };
        engine.recover().await?;
        Ok(engine)
    }

    async fn recover(&self) -> Result<(), StoreError> {
        let stored = self.driver.store.load_live().await?;
        let mut recovered = Vec::with_capacity(stored.len());
        // All are understood before the first is resumed: a damaged store stops the start with nothing done.
        for one in &stored {
            let rebuilt = record::rebuild(one, self.driver.settings.park_after_attempts)?;
            recovered.push(Arc::new(Live::recovered(one.gtid, rebuilt)));
        }
        if !recovered.is_empty() {
            tracing::info!(transactions = recovered.len(), "resuming unfinished transactions");
        }
        for live in &recovered {
            self.driver.registry.insert(Arc::clone(live), usize::MAX);
        }
        for live in &recovered {
            self.driver.step_or_log(live, Event::Resume);
        }
        Ok(())
    }

    /// Begins a transaction that its initiator drives.
    ///
    /// # Errors
    /// [`EngineError`]; nothing has begun then.
    pub async fn begin(&self, request: BeginRequest) -> Result<Admitted<Gtid>, EngineError> {
        let header = self.header(request, Grade::EarlyVote, &[])?;
        let _held = self.driver.registry.hold_key(&header.idempotency_key).await;
        if let Some(first) = self.find_first(&header).await? {
            return Ok(Admitted { id: first.gtid, remaining_ms: self.remaining_ms(first.gtid) });
        }
        let remaining_ms = header.timeout_ms;
        let live = self.admit(header, Vec::new())?;
        Ok(Admitted { id: live.gtid, remaining_ms })
    }

    /// Runs a whole transaction. It goes on if the caller stops waiting.
    ///
    /// # Errors
    /// [`EngineError`]; a refusal by a branch is an outcome, not an error.
    pub async fn execute(
        &self,
        request: BeginRequest,
        grade: Grade,
        branches: Vec<BranchRequest>,
        wait: Wait,
        until: Option<Instant>,
    ) -> Result<Snapshot, EngineError> {
        self.check_branches(&branches)?;
        let header = self.header(request, grade, &branches)?;
        let held = self.driver.registry.hold_key(&header.idempotency_key).await;
        let live = match self.find_first(&header).await? {
            Some(first) => match self.driver.registry.get(first.gtid) {
                Some(live) => live,
                None => return Ok(first),
            },
            None => self.admit(header, branches)?,
        };
        drop(held);
        self.outcome(&live, wait, until).await
    }

    /// A participant joins.
    ///
    /// # Errors
    /// [`Refusal::NotActive`] once commit or rollback has begun.
    pub async fn register(&self, request: RegisterRequest) -> Result<Admitted<BranchId>, EngineError> {
        let RegisterRequest { gtid, participant, registration_key } = request;
        self.check_participant(&participant)?;
        let live = self.live_or_why_not(gtid).await?;
        let mut state = live.lock();
        let remaining_ms = self.remaining(state.transaction.options().deadline);
        let known = state.specs.iter().position(|spec| {
            *spec.registration_key == *registration_key && *spec.participant == *participant
        });
        if let Some(id) = known.and_then(|index| u32::try_from(index + 1).ok()) {
            return Ok(Admitted { id: BranchId(id), remaining_ms });
        }
        let limit = self.driver.settings.branches_max;
        if state.specs.len() >= limit {
            return Err(invalid("gtid", format!("the transaction has {limit} branches, which is the limit")));
        }
        state.specs.push(BranchSpec {
            participant: participant.into(),
            action: "".into(),
            registration_key: registration_key.into(),
        });
        state.extras.push(live::BranchExtra::default());
        if let Err(refusal) = self.driver.step_locked(&live, &mut state, Event::Register) {
            state.specs.pop();
            state.extras.pop();
            return Err(EngineError::Refused { gtid, refusal });
        }
        let id = BranchId(u32::try_from(state.specs.len()).unwrap_or(u32::MAX));
        Ok(Admitted { id, remaining_ms })
    }

    /// A participant votes unasked.
    ///
    /// # Errors
    /// [`EngineError::RolledBack`] to a yes that came too late: the participant must roll back.
    pub async fn vote(
        &self,
        gtid: Gtid,
        branch: BranchId,
        vote: Vote,
        reason: String,
    ) -> Result<(), EngineError> {
        let live = self.live_or_why_not(gtid).await?;
        let mut state = live.lock();
        if let Some(extra) = state.extra(branch)
            && !reason.is_empty()
        {
            extra.last_error = reason.into();
        }
        self.driver
            .step_locked(&live, &mut state, Event::Voted { branch, vote })
            .map_err(|refusal| refused(gtid, refusal, &state.reason))
    }

    /// Commits.
    ///
    /// # Errors
    /// [`EngineError::RolledBack`] when that is its outcome.
    pub async fn commit(
        &self,
        gtid: Gtid,
        wait: Wait,
        until: Option<Instant>,
    ) -> Result<Snapshot, EngineError> {
        let snapshot = match self.find(gtid).await? {
            Found::Live(live) => {
                {
                    let mut state = live.lock();
                    let step = self.driver.step_locked(&live, &mut state, Event::Commit);
                    step.map_err(|refusal| refused(gtid, refusal, &state.reason))?;
                }
                self.outcome(&live, wait, until).await?
            }
            Found::Ended(snapshot) => snapshot,
        };
        match snapshot.decision() {
            Some(Decision::Commit) => Ok(snapshot),
            _ => Err(EngineError::RolledBack { gtid, reason: snapshot.reason }),
        }
    }

    /// Rolls back.
    ///
    /// # Errors
    /// [`Refusal::AlreadyCommitted`] when that is its outcome.
    pub async fn rollback(
        &self,
        gtid: Gtid,
        reason: String,
        wait: Wait,
        until: Option<Instant>,
    ) -> Result<Snapshot, EngineError> {
        let snapshot = match self.find(gtid).await? {
            Found::Live(live) => {
                {
                    let mut state = live.lock();
                    state.request_reason = reason;
                    let step = self.driver.step_locked(&live, &mut state, Event::Rollback);
                    step.map_err(|refusal| EngineError::Refused { gtid, refusal })?;
                }
                self.outcome(&live, wait, until).await?
            }
            Found::Ended(snapshot) => snapshot,
        };
        match snapshot.decision() {
            Some(Decision::Rollback) => Ok(snapshot),
            _ => Err(EngineError::Refused { gtid, refusal: Refusal::AlreadyCommitted }),
        }
    }

    /// What became of a transaction, for a participant that holds a branch in doubt. Presumed abort: what is
    /// unknown, and of an epoch that has ended, was rolled back.
    ///
    /// # Errors
    /// [`EngineError::Store`] when the store cannot be read.
    pub async fn inquire(&self, gtid: Gtid) -> Result<Verdict, EngineError> {
        if let Some(live) = self.driver.registry.get(gtid) {
            return Ok(match live.lock().told {
                Some(Decision::Commit) => Verdict::Committed,
                Some(Decision::Rollback) => Verdict::RolledBack,
                None => Verdict::Undecided,
            });
        }
        if let Some(stored) = self.driver.store.get(gtid).await? {
            let ended = record::snapshot(&stored, record::rebuild(&stored, None)?);
            return Ok(match ended.decision() {
                Some(Decision::Commit) => Verdict::Committed,
                Some(Decision::Rollback) => Verdict::RolledBack,
                None => Verdict::Undecided,
            });
        }
        if gtid.epoch() < self.epoch() {
            return Ok(Verdict::RolledBack);
        }
        // Of our own epoch it would be known; of a later one, the store was set back to an older state. Any
        // doubt wins: leave it alone.
        tracing::warn!(%gtid, epoch = %self.epoch(), "asked about a transaction that this coordinator cannot know");
        Ok(Verdict::Undecided)
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
        let counts = &self.driver.counts;
        let all = self.driver.registry.newest_first(None);
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            live: all.len(),
            parked: all.iter().filter(|live| live.lock().transaction.is_parked()).count(),
            begun: read(&counts.begun),
            committed: read(&counts.committed),
            rolled_back: read(&counts.rolled_back),
            heuristic: read(&counts.heuristic),
            calls: read(&counts.calls),
            calls_failed: read(&counts.calls_failed),
            log: self.driver.store.counters(),
        }
    }

    /// Resolves when the store has failed: the process must end.
    pub async fn store_failed(&self) -> StoreError {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await {
            Ok(error) => error.clone().unwrap_or(StoreError::Closed),
            Err(_) => StoreError::Closed,
        }
    }

    /// Takes no new transactions from now on, and waits until the live ones have ended or `grace` is over.
    pub async fn drain(&self, grace: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        let registry = &self.driver.registry;
        let drained = async {
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
        };
        if tokio::time::timeout(grace, drained).await.is_err() {
            tracing::warn!(
                transactions = registry.len(),
                "leaving unfinished transactions to the next start"
            );
        }
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
        let before = UnixMillis::now().0.saturating_sub(Millis::from(retention).0);
        self.driver.store.purge(UnixMillis(before), limit).await
    }

    // ---- small things ----

    /// Builds the header of a new transaction.
    fn header(
        &self,
        request: BeginRequest,
        grade: Grade,
        branches: &[BranchRequest],
    ) -> Result<Header, EngineError> {
        let settings = &self.driver.settings;
        let BeginRequest { name, timeout_ms, idempotency_key } = request;
        let timeout_max = u32::try_from(settings.timeout_max.as_millis()).unwrap_or(u32::MAX);
        if timeout_ms > timeout_max {
            return Err(invalid("timeout_ms", format!("{timeout_ms} is over the limit of {timeout_max}")));
        }
        let content_hash = match idempotency_key.is_empty() {
            true => Vec::new(),
            false => content_hash(&name, timeout_ms, grade, branches),
        };
        let timeout_ms = match timeout_ms {
            0 => u32::try_from(settings.timeout_default.as_millis()).unwrap_or(timeout_max),
            given => given,
        };
        Ok(Header { name, timeout_ms, grade, idempotency_key, content_hash, begun_at: UnixMillis::now() })
    }

    /// The transaction that the same key began before. The caller holds the key.
    async fn find_first(&self, header: &Header) -> Result<Option<Snapshot>, EngineError> {
        let key = &header.idempotency_key;
        if key.is_empty() {
            return Ok(None);
        }
        let first = match self.driver.registry.by_key(key) {
            Some(live) => live.snapshot(),
            None => match self.driver.store.find_key(key.clone()).await? {
                Some(gtid) => match self.find(gtid).await? {
                    Found::Live(live) => live.snapshot(),
                    Found::Ended(snapshot) => snapshot,
                },
                None => return Ok(None),
            },
        };
        if first.header.content_hash != header.content_hash {
            return Err(EngineError::KeyReused { key: key.clone(), gtid: first.gtid });
        }
        Ok(Some(first))
    }

    /// Makes a new transaction live; a coordinator-driven one starts at once.
    fn admit(&self, header: Header, branches: Vec<BranchRequest>) -> Result<Arc<Live>, EngineError> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(EngineError::ShuttingDown);
        }
        if let Some(error) = self.failed.borrow().clone() {
            return Err(EngineError::Store(error));
        }
        let driver = &self.driver;
        let options = Options {
            coordinator_driven: !branches.is_empty(),
            grade: header.grade,
            deadline: driver.clock.now().plus(Millis(header.timeout_ms.into())),
            park_after_attempts: driver.settings.park_after_attempts,
        };
        let driven = options.coordinator_driven;
        let transaction = match u32::try_from(branches.len()) {
            Ok(count) if driven => Transaction::with_branches(options, count),
            _ => Transaction::begin(options),
        };
        let branches = branches.into_iter().map(|branch| {
            let spec = BranchSpec {
                participant: branch.participant.into(),
                action: branch.action.into(),
                registration_key: "".into(),
            };
            (spec, branch.payload)
        });
        let live = Arc::new(Live::new(self.issuer.issue(), header, transaction, branches.collect()));
        let limit = driver.settings.live_transactions_max;
        if !driver.registry.insert(Arc::clone(&live), limit) {
            return Err(EngineError::TooManyLive(limit));
        }
        count(&driver.counts.begun);
        driver.timers.set((options.deadline, live.gtid, TimerKey::Deadline));
        if driven {
            driver.step_or_log(&live, Event::Execute);
        }
        Ok(live)
    }

    /// Waits for an outcome. At `until` it settles for the decision; before that is taken it waits on.
    async fn outcome(
        &self,
        live: &Arc<Live>,
        wait: Wait,
        until: Option<Instant>,
    ) -> Result<Snapshot, EngineError> {
        // A parked transaction will not complete by itself: "committed, still delivering" is the answer then.
        let enough = |state: &LiveState, late: bool| {
            let decided_will_do = late || wait == Wait::Decided || state.transaction.is_parked();
            (state.completed || decided_will_do && state.told.is_some()).then_some(())
        };
        let late = async {
            sleep_until(until).await;
            live.when(|state| enough(state, true)).await;
        };
        tokio::select! {
            () = live.when(|state| enough(state, false)) => {}
            () = late => {}
            error = self.store_failed() => return Err(EngineError::Store(error)),
        }
        Ok(live.snapshot())
    }

    async fn find(&self, gtid: Gtid) -> Result<Found, EngineError> {
        if let Some(live) = self.driver.registry.get(gtid) {
            return Ok(Found::Live(live));
        }
        if let Some(stored) = self.driver.store.get(gtid).await? {
            return Ok(Found::Ended(record::snapshot(&stored, record::rebuild(&stored, None)?)));
        }
        Err(match gtid.epoch() < self.epoch() {
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

    fn check_participant(&self, participant: &str) -> Result<(), EngineError> {
        match self.driver.participants.permits(participant) {
            true => Ok(()),
            false => Err(EngineError::NotAllowed(participant.to_owned())),
        }
    }

    fn check_branches(&self, branches: &[BranchRequest]) -> Result<(), EngineError> {
        let settings = &self.driver.settings;
        if branches.is_empty() {
            return Err(invalid("branches", "a transaction needs at least one".into()));
        }
        if branches.len() > settings.branches_max {
            let (count, max) = (branches.len(), settings.branches_max);
            return Err(invalid("branches", format!("{count} are over the limit of {max}")));
        }
        let bytes: usize = branches.iter().map(|branch| branch.payload.len()).sum();
        if bytes > settings.payload_bytes_max {
            let max = settings.payload_bytes_max;
            return Err(invalid(
                "branches.payload",
                format!("{bytes} bytes in all are over the limit of {max}"),
            ));
        }
        branches.iter().try_for_each(|branch| self.check_participant(&branch.participant))
    }

    fn remaining(&self, deadline: Millis) -> u32 {
        u32::try_from(self.driver.until(deadline).as_millis()).unwrap_or(u32::MAX)
    }

    fn remaining_ms(&self, gtid: Gtid) -> u32 {
        self.driver.registry.get(gtid).map_or(0, |live| self.remaining(live.deadline()))
    }
}

/// Where a transaction was found.
enum Found {
    Live(Arc<Live>),
    Ended(Snapshot),
}

fn refused(gtid: Gtid, refusal: Refusal, reason: &str) -> EngineError {
    match refusal {
        Refusal::AlreadyRolledBack => EngineError::RolledBack { gtid, reason: reason.to_owned() },
        refusal => EngineError::Refused { gtid, refusal },
    }
}

fn invalid(field: &'static str, problem: String) -> EngineError {
    EngineError::Invalid { field, problem }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What makes two requests the same. Every part is preceded by its length, so no two requests hash alike by
/// moving bytes from one field to the next.
fn content_hash(name: &str, timeout_ms: u32, grade: Grade, branches: &[BranchRequest]) -> Vec<u8> {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(name.as_bytes());
    part(&timeout_ms.to_be_bytes());
    part(&[u8::from(grade == Grade::Strict)]);
    for branch in branches {
        part(branch.participant.as_bytes());
        part(branch.action.as_bytes());
        part(&branch.payload);
    }
    hash.finalize().to_vec()
}
