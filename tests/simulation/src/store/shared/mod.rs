//! A coordinator's store in a database that it shares with another (as `coordinator/src/store/sql`, statement by
//! statement; what that says of fencing, leases, terms and keys is done here in the same order).

mod lease;
mod server;
mod tables;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use concord_coordinator::store::{
    Counters, Durability, Entry, Filter, Owner, Reign, Store, StoreError, Stored, UnixMillis, Walk,
};
use concord_protocol::{ClusterId, Epoch, Gtid};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use self::lease::Lease;
use self::server::Link;
pub(crate) use self::server::Server;
use self::tables::Batch;
use super::Process;
use crate::figures::Fault;
use crate::life::Life;
use crate::mutant::Mutant;
use crate::world::{CLUSTER, World, locked};

/// The lease is renewed so many times while it lasts.
const RENEWALS: u32 = 3;
/// Between two tries to write.
const PAUSE_MS: u64 = 50;

/// What can be wrong with the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The connection broke, or could not be made.
    Broken,
    /// No answer while the lease lasted.
    Silent,
    /// Another life has taken over.
    Fenced(Epoch),
    /// Anything else.
    Refused(String),
}

impl Problem {
    fn read(self) -> StoreError {
        StoreError::Read(format!("{self:?}").into())
    }

    fn failed(self) -> StoreError {
        StoreError::Failed(format!("{self:?}").into())
    }
}

/// Where others reach a coordinator.
fn address(coordinator: u8) -> String {
    format!("coordinator-{coordinator}")
}

pub(crate) fn coordinator_number(address: &str) -> Option<u8> {
    address.strip_prefix("coordinator-")?.parse().ok()
}

/// The store as one life of a coordinator has it open.
pub(crate) struct SharedStore(Arc<Opened>);

struct Opened {
    process: Process,
    server: Arc<Server>,
    epoch: Epoch,
    /// With what records are marked.
    term: AtomicU64,
    /// The epochs whose live transactions have been handed out.
    adopted: Mutex<BTreeSet<Epoch>>,
    lease: Lease,
    /// Commits made so far.
    commits: AtomicU64,
    /// The number of the next record.
    seq: AtomicU64,
}

impl SharedStore {
    /// Begins a life, and takes over from earlier ones of this coordinator and from those whose leases have run out.
    pub(crate) async fn open(
        world: &Arc<World>,
        server: &Arc<Server>,
        life: &Arc<Life>,
        number: u8,
    ) -> Result<Self, Problem> {
        let link = Link { world: Arc::clone(world), number, server: Arc::clone(server), slow_ms: 0 };
        let lease = Lease::new(world, number);
        let lease_ms = world.scenario.coordinator.lease_ms;
        let opening = async {
            let epoch = link.ask(move |tables| tables.begin(number, lease_ms)).await?;
            let raise = !world.has(Mutant::TermNotRaised);
            link.ask(move |tables| tables.take_over(epoch, Some(number), raise)).await??;
            let owned = link.ask(move |tables| tables.owned(epoch)).await?;
            let term = link.ask(move |tables| tables.term(epoch)).await??;
            Ok((epoch, owned, term))
        };
        let (epoch, owned, term) = lease.while_held(world, opening).await?;
        world.say(|| format!("store {number}: epoch {epoch}, term {term}, owns {owned:?}"));
        let opened = Arc::new(Opened {
            process: Process::new(world, life, number),
            server: Arc::clone(server),
            epoch,
            term: AtomicU64::new(term),
            adopted: Mutex::new(owned.into_iter().collect()),
            lease,
            commits: AtomicU64::new(0),
            seq: AtomicU64::new(0),
        });
        let writer = (Arc::clone(&opened), Arc::clone(world));
        tokio::spawn(async move { writer.0.process.life.within(writer.0.write_forever(&writer.1)).await });
        let keeper = (Arc::clone(&opened), Arc::clone(world));
        tokio::spawn(async move { keeper.0.process.life.within(keeper.0.keep(&keeper.1)).await });
        Ok(SharedStore(opened))
    }

    /// What reads, or may be done twice; cut off with the life that asks.
    fn read<T, Fut>(
        &self,
        read: impl Fn(Link) -> Fut + Send + Sync + 'static,
    ) -> BoxFuture<'static, Result<T, StoreError>>
    where
        T: Send + 'static,
        Fut: Future<Output = Result<T, Problem>> + Send + 'static,
    {
        let opened = Arc::clone(&self.0);
        let Some(world) = opened.process.world.upgrade() else { return std::future::pending().boxed() };
        async move {
            let twice = async {
                match read(opened.slow_link(&world)).await {
                    // It was an old connection; a new one is made.
                    Err(Problem::Broken) => read(opened.slow_link(&world)).await,
                    result => result,
                }
            };
            match opened.process.life.within(opened.lease.while_held(&world, twice)).await {
                Some(result) => result.map_err(Problem::read),
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

impl Opened {
    fn link(&self, world: &Arc<World>) -> Link {
        let server = Arc::clone(&self.server);
        Link { world: Arc::clone(world), number: self.process.number, server, slow_ms: 0 }
    }

    fn slow_link(&self, world: &Arc<World>) -> Link {
        let slow_ms = if world.is_healed() { 0 } else { world.scenario.coordinator.slow_read_ms };
        Link { slow_ms, ..self.link(world) }
    }

    /// Nothing more is written, and the process is to end.
    fn fail(&self, world: &World, problem: Problem) {
        let number = self.process.number;
        world.say(|| format!("store {number}: fails: {problem:?}"));
        if matches!(problem, Problem::Silent | Problem::Broken) {
            world.figures.count(Fault::LeaseLost);
        }
        self.process.queue.fail(&problem.failed());
    }

    /// Renews the lease until it is lost.
    async fn keep(&self, world: &Arc<World>) {
        let (epoch, lease_ms) = (self.epoch, world.scenario.coordinator.lease_ms);
        loop {
            world.pause(lease_ms / u64::from(RENEWALS)).await;
            if self.process.queue.failure().is_some() {
                return;
            }
            let (start, link) = (self.lease.now(world), self.link(world));
            let renewal = async { link.ask(move |tables| tables.renew(epoch, lease_ms)).await? };
            match self.lease.while_held(world, renewal).await {
                Ok(()) => self.lease.renewed(start),
                Err(Problem::Broken) if self.lease.is_held(world) => {}
                Err(problem) => return self.fail(world, problem),
            }
        }
    }

    async fn write_forever(&self, world: &Arc<World>) {
        let lazy = Duration::from_millis(world.scenario.coordinator.lazy_ms);
        loop {
            self.process.queue.wait_for_work(lazy).await;
            let forced = self.process.queue.take();
            if let Err(problem) = self.write(world, forced).await {
                return self.fail(world, problem);
            }
        }
    }

    /// Commits what was taken from the queue.
    async fn write(&self, world: &Arc<World>, forced: bool) -> Result<(), Problem> {
        let (process, coordinator) = (&self.process, world.coordinator(self.process.number));
        let commit = coordinator.next_commit();
        if world.store_fails_at(process.number, commit).is_some() {
            world.figures.count(Fault::Store);
            return Err(Problem::Refused("the simulated database refuses it".into()));
        }
        if !coordinator.effect(world, &process.life, "commit") {
            return std::future::pending().await;
        }
        let entries = process.queue.lock().writing.iter().flat_map(|append| append.entries.clone()).collect();
        self.commit(world, entries).await?;
        let written = std::mem::take(&mut process.queue.lock().writing);
        world.say(|| {
            let (number, count) = (process.number, written.len());
            format!("store {number}: commit {commit}, {count} appends, forced: {forced}")
        });
        if !coordinator.effect_done(world, &process.life) {
            return std::future::pending().await;
        }
        for append in written {
            // Nobody waits any more: no matter, it is written.
            let _ = append.done.send(Ok(()));
        }
        Ok(())
    }

    /// Commits entries, exactly once; tries again while the lease lasts.
    async fn commit(&self, world: &Arc<World>, entries: Vec<Entry>) -> Result<(), Problem> {
        if entries.is_empty() {
            return Ok(());
        }
        let batch = Batch {
            epoch: self.epoch,
            commits: self.commits.load(Ordering::Relaxed),
            term: self.term.load(Ordering::Relaxed),
            seq: self.seq.load(Ordering::Relaxed),
            entries,
            unfenced: world.has(Mutant::NoFenceInTheStore) || world.has(Mutant::LeaseByWallClock),
        };
        loop {
            let (batch, link) = (batch.clone(), self.link(world));
            let count = batch.entries.len() as u64;
            let commit = async { link.ask(move |tables| tables.commit(batch)).await? };
            match self.lease.while_held(world, commit).await {
                Ok(()) => {
                    self.commits.fetch_add(1, Ordering::Relaxed);
                    self.seq.fetch_add(count, Ordering::Relaxed);
                    return Ok(());
                }
                Err(Problem::Broken) if self.lease.is_held(world) => world.pause(PAUSE_MS).await,
                Err(problem) => return Err(problem),
            }
        }
    }

    /// As `SqlStore::take_over`.
    async fn take_over(&self, link: Link) -> Result<Vec<Stored>, Problem> {
        let own = self.epoch;
        let raise = !link.world.has(Mutant::TermNotRaised);
        link.ask(move |tables| tables.take_over(own, None, raise)).await??;
        // Also those that were taken over by a try whose answer was lost.
        let mut new = link.ask(move |tables| tables.owned(own)).await?;
        new.retain(|epoch| !locked(&self.adopted).contains(epoch));
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let term = link.ask(move |tables| tables.term(own)).await??;
        self.term.store(term, Ordering::Relaxed);
        let issuers = new.clone();
        let live = link.ask(move |tables| tables.live(&issuers, true)).await?;
        let number = self.process.number;
        link.world.say(|| format!("store {number}: takes over {new:?}, {} live, term {term}", live.len()));
        locked(&self.adopted).extend(new);
        Ok(live)
    }
}

impl Store for SharedStore {
    fn cluster_id(&self) -> ClusterId {
        CLUSTER
    }

    fn epoch(&self) -> Epoch {
        self.0.epoch
    }

    fn append(
        &self,
        entries: Vec<Entry>,
        durability: Durability,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        self.0.process.append(entries, durability)
    }

    fn expect(&self, forced_soon: usize) {
        self.0.process.queue.expect(forced_soon);
    }

    fn load_live(&self) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        let own = self.0.epoch;
        self.read(move |link| async move {
            let owned = link.ask(move |tables| tables.owned(own)).await?;
            link.ask(move |tables| tables.live(&owned, true)).await
        })
    }

    fn get(&self, gtid: Gtid) -> BoxFuture<'static, Result<Option<Stored>, StoreError>> {
        self.read(move |link| async move {
            let live = link.ask(move |tables| tables.get_live(gtid)).await?;
            // It may have ended since: what is said here wins.
            let ended = link.ask(move |tables| tables.get_ended(gtid)).await?;
            Ok(ended.or(live))
        })
    }

    fn list_ended(&self, filter: Filter) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        self.read(move |link| {
            let filter = filter.clone();
            async move { link.ask(move |tables| tables.list_ended(&filter)).await }
        })
    }

    fn find_key(&self, key: String) -> BoxFuture<'static, Result<Option<Gtid>, StoreError>> {
        self.read(move |link| {
            let key = key.clone();
            async move { link.ask(move |tables| tables.find_key(&key)).await }
        })
    }

    fn claim_key(
        &self,
        key: String,
        gtid: Gtid,
        gone: Option<Gtid>,
    ) -> BoxFuture<'static, Result<Gtid, StoreError>> {
        let key: Arc<str> = key.into();
        self.read(move |link| {
            let key = Arc::clone(&key);
            async move {
                if link.world.has(Mutant::KeyNotClaimed) {
                    return Ok(gtid);
                }
                if let Some(gone) = gone {
                    let key = Arc::clone(&key);
                    link.ask(move |tables| tables.pass_key(&key, gone, gtid)).await?;
                }
                loop {
                    let (taken, found) = (Arc::clone(&key), Arc::clone(&key));
                    link.ask(move |tables| tables.take_key(&taken, gtid)).await?;
                    if let Some(owner) = link.ask(move |tables| tables.find_key(&found)).await? {
                        return Ok(owner);
                    }
                }
            }
        })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn reign(&self, epoch: Epoch) -> BoxFuture<'static, Result<Reign, StoreError>> {
        let own = self.0.epoch;
        if locked(&self.0.adopted).contains(&epoch) {
            return async move { Ok(Reign { owner: Owner::Us, is_over: epoch != own }) }.boxed();
        }
        self.read(move |link| async move { link.ask(move |tables| tables.reign(epoch, own)).await })
    }

    fn take_over(&self) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        if let Some(error) = self.0.process.queue.failure() {
            return async { Err(error) }.boxed();
        }
        let opened = Arc::clone(&self.0);
        self.read(move |link| {
            let opened = Arc::clone(&opened);
            async move { opened.take_over(link).await }
        })
    }

    fn list_live_elsewhere(
        &self,
        walk: Walk,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        let adopted: Vec<Epoch> = locked(&self.0.adopted).iter().copied().collect();
        self.read(move |link| {
            let adopted = adopted.clone();
            async move {
                let mut live = link.ask(move |tables| tables.live(&adopted, false)).await?;
                match walk {
                    Walk::Back(before) => {
                        live.retain(|stored| before.is_none_or(|before| stored.gtid < before));
                        live.reverse();
                    }
                    Walk::Forth(after) => {
                        live.retain(|stored| after.is_none_or(|after| stored.gtid > after));
                    }
                }
                live.truncate(limit);
                Ok(live)
            }
        })
    }

    fn members(&self) -> BoxFuture<'static, Result<Vec<Epoch>, StoreError>> {
        self.read(move |link| async move { link.ask(|tables| tables.alive()).await })
    }

    fn purge(&self, before: UnixMillis, limit: usize) -> BoxFuture<'static, Result<usize, StoreError>> {
        self.read(move |link| async move { link.ask(move |tables| tables.purge(before, limit)).await })
    }

    fn counters(&self) -> Counters {
        let (commits, records) = (self.0.commits.load(Ordering::Relaxed), self.0.seq.load(Ordering::Relaxed));
        Counters { syncs: commits, records, commits }
    }

    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        // Everything that is queued: an empty append that is forced waits for it.
        let written = self.append(Vec::new(), Durability::Forced);
        let epoch = self.0.epoch;
        let released =
            self.read(move |link| async move { link.ask(move |tables| tables.release(epoch)).await });
        async move {
            written.await?;
            // That the lease runs out by itself takes a little longer, and no more.
            let _ = released.await;
            Ok(())
        }
        .boxed()
    }
}
