//! The coordinator's log on a simulated disk: a writer with a queue and group commit, whose writes and syncs take
//! time and can be cut short.
//!
//! It keeps the contract of [`concord_coordinator::store`]. What a crash leaves is what was synced, and of the rest
//! any beginning, whole appends only: the log's checksums make a torn one count as missing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use concord_coordinator::store::{
    Counters, Durability, Entry, Filter, MemoryStore, Store, StoreError, Stored, UnixMillis,
};
use concord_protocol::{ClusterId, Epoch, Gtid};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::dice::Roll;
use crate::figures::Fault;
use crate::life::Life;
use crate::mutant::Mutant;
use crate::world::World;

/// A forced append waits for company for so long at the most, as the SQLite store's does.
const COMPANY: Duration = Duration::from_millis(5);

/// The store as one life of the coordinator has it open.
pub(crate) struct SimulatedStore {
    world: Weak<World>,
    life: Arc<Life>,
    /// What can be read, and how much of it is synced.
    disk: MemoryStore,
    state: Mutex<State>,
    arrived: Notify,
    expected: AtomicUsize,
    is_shared: bool,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Append>,
    /// Taken from the queue, and not yet on disk as a whole.
    writing: Vec<Append>,
    over: Option<StoreError>,
}

struct Append {
    entries: Vec<Entry>,
    durability: Durability,
    queued: Instant,
    done: oneshot::Sender<Result<(), StoreError>>,
}

impl SimulatedStore {
    /// Opens what a disk holds.
    pub(crate) fn open(world: &Arc<World>, life: &Arc<Life>, disk: MemoryStore) -> Arc<Self> {
        let store = Arc::new(SimulatedStore {
            world: Arc::downgrade(world),
            life: Arc::clone(life),
            disk,
            state: Mutex::default(),
            arrived: Notify::new(),
            expected: AtomicUsize::new(0),
            is_shared: world.scenario.coordinator.is_shared,
        });
        let (writer, world) = (Arc::clone(&store), Arc::clone(world));
        tokio::spawn(async move { writer.life.within(writer.write_forever(&world)).await });
        store
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the disk holds after a crash, and in the next epoch: all that is synced and, of the rest, some.
    pub(crate) fn crash(&self, roll: &mut Roll) -> MemoryStore {
        let mut state = self.lock();
        self.disk.pause();
        for append in state.writing.drain(..) {
            drop(self.disk.append(append.entries, append.durability));
        }
        let lost_at_most = self.disk.unsynced() as u64;
        let survivors = usize::try_from(roll.between(0..=lost_at_most)).unwrap_or(0);
        self.disk.crash(survivors)
    }

    async fn write_forever(&self, world: &Arc<World>) {
        loop {
            self.wait_for_work(world).await;
            let forced = {
                let mut state = self.lock();
                state.writing = std::mem::take(&mut state.queue).into();
                state.writing.iter().any(|append| append.durability == Durability::Forced)
            };
            self.write(world, forced).await;
        }
    }

    /// As the SQLite store's queue: forced appends go at once, or with a little company if much is expected; lazy
    /// ones wait for a while.
    async fn wait_for_work(&self, world: &World) {
        let lazy = Duration::from_millis(world.scenario.coordinator.lazy_ms);
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let until = {
                let state = self.lock();
                let forced = || state.queue.iter().filter(|append| append.durability == Durability::Forced);
                let company = forced().count().saturating_mul(3) >= self.expected.load(Ordering::Relaxed);
                match (forced().next(), state.queue.front()) {
                    (Some(_), _) if company => return,
                    (Some(first), _) => Some(first.queued + COMPANY),
                    (None, Some(first)) => Some(first.queued + lazy),
                    (None, None) => None,
                }
            };
            match until {
                Some(until) if until <= Instant::now() => return,
                Some(until) => {
                    tokio::select! {
                        biased;
                        () = arrived => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                }
                None => arrived.await,
            }
        }
    }

    async fn write(&self, world: &Arc<World>, forced: bool) {
        let commit = world.coordinator.next_commit();
        let mut roll = world.dice.of(0x5709E).of(commit).roll();
        let longest_ms = if forced { world.scenario.coordinator.sync_ms } else { 1 };
        world.pause(roll.between(0..=longest_ms)).await;
        if let Some(survives) = world.store_fails_at(commit) {
            world.figures.count(Fault::Store);
            return self.fail(survives);
        }
        if !world.coordinator.effect(world, &self.life, "sync") {
            return;
        }
        let mut waiting = Vec::new();
        {
            let mut state = self.lock();
            // All of them become readable, and durable if one is forced, in one commit.
            self.disk.pause();
            let lazily = world.has(Mutant::AcknowledgesBeforeSync);
            let middle = world.has(Mutant::LosesTheMiddle) && state.writing.len() > 2;
            for (index, append) in std::mem::take(&mut state.writing).into_iter().enumerate() {
                let durability = if lazily { Durability::Lazy } else { append.durability };
                if !(middle && index == 1) {
                    drop(self.disk.append(append.entries, durability));
                }
                waiting.push(append.done);
            }
            self.disk.resume();
        }
        world.say(|| format!("store: commit {commit}, {} appends, forced: {forced}", waiting.len()));
        if !world.coordinator.effect_done(world, &self.life) {
            return;
        }
        for done in waiting {
            // Nobody waits any more: no matter, it is written.
            let _ = done.send(Ok(()));
        }
    }

    /// A commit has failed: what it left on disk nobody knows, and nothing more is written.
    fn fail(&self, survives: bool) {
        let error = StoreError::Failed("the simulated disk failed".into());
        let mut state = self.lock();
        state.over = Some(error.clone());
        // The crash that must follow decides how much of it is there; if any.
        self.disk.pause();
        let (writing, queue) = (std::mem::take(&mut state.writing), std::mem::take(&mut state.queue));
        for append in writing {
            if survives {
                drop(self.disk.append(append.entries, append.durability));
            }
            let _ = append.done.send(Err(error.clone()));
        }
        for append in queue {
            let _ = append.done.send(Err(error.clone()));
        }
    }

    /// A read, which takes its time; cut off with the life that asks.
    fn read<T: Send + 'static>(
        &self,
        answer: BoxFuture<'static, Result<T, StoreError>>,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (world, life) = (self.world.clone(), Arc::clone(&self.life));
        async move {
            let read = async {
                if let Some(world) = world.upgrade() {
                    let pause = world.dice.of(0x2EAD).of(world.now_ms()).roll().between(0..=2);
                    world.pause(pause).await;
                }
                answer.await
            };
            match life.within(read).await {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }
}

impl Store for SimulatedStore {
    fn cluster_id(&self) -> ClusterId {
        self.disk.cluster_id()
    }

    fn epoch(&self) -> Epoch {
        self.disk.epoch()
    }

    fn append(
        &self,
        entries: Vec<Entry>,
        durability: Durability,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let Some(world) = self.world.upgrade() else { return std::future::pending().boxed() };
        if !world.coordinator.effect(&world, &self.life, "append") {
            return std::future::pending().boxed();
        }
        world.say(|| {
            let kinds = entries.iter().map(|entry| format!("{:?} {:?}", entry.gtid, entry.record.kind));
            format!("store: append {durability:?} {}", kinds.collect::<Vec<_>>().join("; "))
        });
        let (done, result) = oneshot::channel();
        let mut state = self.lock();
        match &state.over {
            Some(error) => drop(done.send(Err(error.clone()))),
            None => {
                let queued = Instant::now();
                state.queue.push_back(Append { entries, durability, queued, done });
                self.arrived.notify_waiters();
            }
        }
        drop(state);
        world.coordinator.effect_done(&world, &self.life);
        let life = Arc::clone(&self.life);
        async move {
            match life.within(result).await {
                Some(Ok(result)) => result,
                // The writer is gone, and with it the process.
                _ => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn expect(&self, forced_soon: usize) {
        self.expected.store(forced_soon, Ordering::Relaxed);
    }

    fn load_live(&self) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        self.read(self.disk.load_live())
    }

    fn get(&self, gtid: Gtid) -> BoxFuture<'static, Result<Option<Stored>, StoreError>> {
        self.read(self.disk.get(gtid))
    }

    fn list_ended(&self, filter: Filter) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        self.read(self.disk.list_ended(filter))
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }

    fn find_key(&self, key: String) -> BoxFuture<'static, Result<Option<Gtid>, StoreError>> {
        self.read(self.disk.find_key(key))
    }

    fn purge(&self, before: UnixMillis, limit: usize) -> BoxFuture<'static, Result<usize, StoreError>> {
        self.disk.purge(before, limit)
    }

    fn counters(&self) -> Counters {
        self.disk.counters()
    }

    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        // Everything that is queued, and a sync: an empty append that is forced waits for both.
        self.append(Vec::new(), Durability::Forced)
    }
}
