//! The database server of a shared store. What it has committed it never loses; but it may be away for a while, and the
//! way to it is a network.

use std::sync::{Arc, Mutex};

use concord_protocol::Epoch;
use tokio::sync::oneshot;

use super::Problem;
use super::tables::{Counts, Tables};
use crate::network::{Back, Place, UnderWay};
use crate::world::{World, locked};

#[derive(Debug, Default)]
pub(crate) struct Server(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    tables: Tables,
    away: bool,
    /// How often it has gone away: with it went all connections.
    departures: u64,
    /// How far its clock is off, in milliseconds.
    skew_ms: i64,
}

impl State {
    /// Sets the clock, which began long before the run.
    fn tell_time(&mut self, world: &World) {
        const ORIGIN_MS: u64 = 1_000_000_000;
        self.tables.now_ms = (ORIGIN_MS + world.now_ms()).saturating_add_signed(self.skew_ms);
    }
}

impl Server {
    /// kill -9.
    pub(crate) fn leave(&self) {
        let mut state = locked(&self.0);
        state.away = true;
        state.departures += 1;
    }

    /// It is started again.
    pub(crate) fn come_back(&self) {
        locked(&self.0).away = false;
    }

    /// Its clock jumps.
    pub(crate) fn jump(&self, by_ms: i64) {
        locked(&self.0).skew_ms += by_ms;
    }

    /// Lives whose lease has not run out.
    pub(crate) fn alive(&self, world: &World) -> Vec<Epoch> {
        let mut state = locked(&self.0);
        state.tell_time(world);
        state.tables.alive()
    }

    /// How many transactions have not ended.
    pub(crate) fn unended(&self) -> usize {
        locked(&self.0).tables.unended()
    }

    pub(crate) fn counts(&self) -> Counts {
        locked(&self.0).tables.counts()
    }

    /// Runs an SQL transaction. None: nobody listens.
    fn run<T>(&self, world: &World, work: impl FnOnce(&mut Tables) -> T) -> Option<(u64, T)> {
        let mut state = locked(&self.0);
        if state.away {
            return None;
        }
        state.tell_time(world);
        let value = work(&mut state.tables);
        Some((state.departures, value))
    }

    fn departures(&self) -> u64 {
        locked(&self.0).departures
    }
}

/// A coordinator's way to the server.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) world: Arc<World>,
    pub(super) number: u8,
    pub(super) server: Arc<Server>,
    /// How much longer a round trip takes at the most, in milliseconds.
    pub(super) slow_ms: u64,
}

impl Link {
    /// One round trip. What was sent arrives also if nobody waits for it any more; an answer that is lost without a sign
    /// is waited for for ever.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let fate = self.world.network.store_trip(&self.world, self.number, self.slow_ms);
        let (answer, answered) = oneshot::channel();
        if let Some(there_ms) = fate.there_ms {
            let (link, under_way) = (self.clone(), UnderWay::new(&self.world));
            tokio::spawn(async move {
                link.world.pause(there_ms).await;
                let done = link.server.run(&link.world, work);
                drop(under_way);
                let Back::Answer(back_ms) = fate.back else { return };
                link.world.pause(back_ms).await;
                if link.world.network.is_cut(Place::Store, Place::Coordinator(link.number)) {
                    return;
                }
                let result = match done {
                    Some((departures, value)) if departures == link.server.departures() => Ok(value),
                    _ => Err(Problem::Broken),
                };
                // Nobody waits any more: no matter.
                let _ = answer.send(result);
            });
        }
        if let Back::Broken(after_ms) = fate.back {
            self.world.pause(after_ms).await;
            return Err(Problem::Broken);
        }
        match answered.await {
            Ok(result) => result,
            Err(_) => std::future::pending().await,
        }
    }
}
