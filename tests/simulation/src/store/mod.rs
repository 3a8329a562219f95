//! The coordinator's store: on a simulated disk of its own ([`disk`]), or in a database that it shares with another
//! coordinator ([`shared`]). Both keep the contract of [`concord_coordinator::store`].

mod disk;
mod queue;
pub(crate) mod shared;

use std::sync::{Arc, Weak};

use concord_coordinator::store::{Durability, Entry, StoreError};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

pub(crate) use self::disk::DiskStore;
use self::queue::Queue;
pub(crate) use self::shared::{Server, SharedStore};
use crate::life::Life;
use crate::world::World;

/// The process that has a store open, and what it has to write.
struct Process {
    world: Weak<World>,
    life: Arc<Life>,
    /// Which coordinator's.
    number: u8,
    queue: Queue,
}

impl Process {
    fn new(world: &Arc<World>, life: &Arc<Life>, number: u8) -> Self {
        Process { world: Arc::downgrade(world), life: Arc::clone(life), number, queue: Queue::default() }
    }

    fn append(
        &self,
        entries: Vec<Entry>,
        durability: Durability,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let Some(world) = self.world.upgrade() else { return std::future::pending().boxed() };
        let coordinator = world.coordinator(self.number);
        if !coordinator.effect(&world, &self.life, "append") {
            return std::future::pending().boxed();
        }
        world.say(|| {
            let kinds = entries.iter().map(|entry| format!("{:?} {:?}", entry.gtid, entry.record.kind));
            format!("store {}: append {durability:?} {}", self.number, kinds.collect::<Vec<_>>().join("; "))
        });
        let result = self.queue.push(entries, durability);
        coordinator.effect_done(&world, &self.life);
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
}
