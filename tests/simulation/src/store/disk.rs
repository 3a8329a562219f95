//! A coordinator's log on a simulated disk: a writer with a queue and group commit, whose writes and syncs take
//! time and can be cut short.
//!
//! It keeps the contract of [`concord_coordinator::store`]. What a crash leaves is what was synced, and of the rest
//! any beginning, whole appends only: the log's checksums make a torn one count as missing.

use std::sync::Arc;
use std::time::Duration;

use concord_coordinator::store::{
    Counters, Durability, Entry, Filter, MemoryStore, Store, StoreError, Stored, UnixMillis,
};
use concord_protocol::{ClusterId, Epoch, Gtid};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::Process;
use crate::dice::Roll;
use crate::figures::Fault;
use crate::life::Life;
use crate::mutant::Mutant;
use crate::world::World;

/// The store as one life of the coordinator has it open.
pub(crate) struct DiskStore {
    process: Process,
    /// What can be read, and how much of it is synced.
    disk: MemoryStore,
    is_shared: bool,
}

impl DiskStore {
    /// Opens what a disk holds.
    pub(crate) fn open(world: &Arc<World>, life: &Arc<Life>, number: u8, disk: MemoryStore) -> Arc<Self> {
        let process = Process::new(world, life, number);
        let is_shared = world.scenario.coordinator.is_shared;
        let store = Arc::new(DiskStore { process, disk, is_shared });
        let (writer, world) = (Arc::clone(&store), Arc::clone(world));
        tokio::spawn(async move { writer.process.life.within(writer.write_forever(&world)).await });
        store
    }

    /// What the disk holds after a crash, and in the next epoch: all that is synced and, of the rest, some.
    pub(crate) fn crash(&self, roll: &mut Roll) -> MemoryStore {
        let mut state = self.process.queue.lock();
        self.disk.pause();
        for append in state.writing.drain(..) {
            drop(self.disk.append(append.entries, append.durability));
        }
        let lost_at_most = self.disk.unsynced() as u64;
        let survivors = usize::try_from(roll.between(0..=lost_at_most)).unwrap_or(0);
        self.disk.crash(survivors)
    }

    async fn write_forever(&self, world: &Arc<World>) {
        let lazy = Duration::from_millis(world.scenario.coordinator.lazy_ms);
        loop {
            self.process.queue.wait_for_work(lazy).await;
            let forced = self.process.queue.take();
            self.write(world, forced).await;
        }
    }

    async fn write(&self, world: &Arc<World>, forced: bool) {
        let (life, coordinator) = (&self.process.life, world.coordinator(self.process.number));
        let commit = coordinator.next_commit();
        let mut roll = world.dice.of(0x5709E).of(coordinator.name(commit)).roll();
        let longest_ms = if forced { world.scenario.coordinator.sync_ms } else { 1 };
        world.pause(roll.between(0..=longest_ms)).await;
        if let Some(survives) = world.store_fails_at(self.process.number, commit) {
            world.figures.count(Fault::Store);
            return self.fail(survives);
        }
        if !coordinator.effect(world, life, "sync") {
            return;
        }
        let mut waiting = Vec::new();
        {
            let mut state = self.process.queue.lock();
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
        if !coordinator.effect_done(world, life) {
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
        // The crash that must follow decides how much of it is there; if any.
        self.disk.pause();
        for entries in self.process.queue.fail(&error) {
            if survives {
                drop(self.disk.append(entries, Durability::Lazy));
            }
        }
    }

    /// A read, which takes its time; cut off with the life that asks.
    fn read<T: Send + 'static>(
        &self,
        answer: BoxFuture<'static, Result<T, StoreError>>,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let (world, life) = (self.process.world.clone(), Arc::clone(&self.process.life));
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

impl Store for DiskStore {
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
        self.process.append(entries, durability)
    }

    fn expect(&self, forced_soon: usize) {
        self.process.queue.expect(forced_soon);
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
