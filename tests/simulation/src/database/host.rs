//! A server at work in the simulated world: sessions wait for locks, are killed, and die with the server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::session::{DbError, Failure, Trip};
use super::{Answer, Flavor, Server, SessionId, Statement, Stop, code};
use crate::life::Life;
use crate::world::World;

/// How long the server takes to notice that a connection has gone, at the most, in milliseconds.
const NOTICE_MS_MAX: u64 = 2_000;

/// A server process, and the disk that outlives it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) number: u8,
    state: Mutex<State>,
    /// Woken when a lock has been given up.
    released: Notify,
}

#[derive(Debug)]
struct State {
    server: Server,
    life: Arc<Life>,
    sessions: BTreeMap<SessionId, Arc<Life>>,
    started: Instant,
    crashes: u64,
}

impl Host {
    pub(crate) fn new(number: u8, flavor: Flavor) -> Arc<Self> {
        let state = State {
            server: Server::new(flavor),
            life: Life::begin(),
            sessions: BTreeMap::new(),
            started: Instant::now(),
            crashes: 0,
        };
        Arc::new(Host { number, state: Mutex::new(state), released: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the server, or prepares it for the run, from outside the world.
    pub(crate) fn inspect<T>(&self, look: impl FnOnce(&mut Server) -> T) -> T {
        look(&mut self.lock().server)
    }

    /// Whether branches are detached at PREPARE.
    pub(crate) fn detaches_on_prepare(&self) -> bool {
        self.lock().server.flavor == Flavor::MySql
    }

    pub(crate) fn is_up(&self) -> bool {
        !self.lock().life.is_over()
    }

    /// How long it has been up, in milliseconds.
    pub(crate) fn uptime_ms(&self) -> u64 {
        u64::try_from(self.lock().started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// kill -9.
    pub(crate) fn crash(&self, world: &World) {
        let mut state = self.lock();
        state.life.end();
        state.sessions.clear();
        state.crashes += 1;
        let mut roll = world.dice.of(0xDB).of(self.number.into()).of(state.crashes).roll();
        state.server.crash(|_| roll.chance(0.5));
    }

    pub(crate) fn start(&self) {
        let mut state = self.lock();
        state.life = Life::begin();
        state.started = Instant::now();
    }

    /// A new session, served until its connection goes, it is killed, or the server dies.
    pub(super) fn open(
        self: &Arc<Self>,
        world: &Arc<World>,
    ) -> Option<(SessionId, mpsc::UnboundedSender<Trip>)> {
        let mut state = self.lock();
        if state.life.is_over() {
            return None;
        }
        let id = state.server.connect();
        let (to_server, trips) = mpsc::unbounded_channel();
        let session = Life::begin();
        state.sessions.insert(id, Arc::clone(&session));
        let server = Arc::clone(&state.life);
        drop(state);
        let (host, world) = (Arc::clone(self), Arc::clone(world));
        tokio::spawn(async move {
            let served = server.within(session.within(async {
                host.serve(&world, id, trips).await;
                let mut roll = world.dice.of(0xD15C).of(world.now_ms()).of(id.into()).roll();
                world.pause(roll.mostly_short(NOTICE_MS_MAX)).await;
            }));
            if served.await.is_some() {
                host.close(id);
            }
        });
        Some((id, to_server))
    }

    fn close(&self, id: SessionId) {
        let mut state = self.lock();
        state.sessions.remove(&id);
        state.server.disconnect(id);
        drop(state);
        self.released.notify_waiters();
    }

    /// Runs what the client sends, to the end of each batch even if the client has gone meanwhile.
    async fn serve(&self, world: &World, id: SessionId, mut trips: mpsc::UnboundedReceiver<Trip>) {
        while let Some(Trip { batch, lock_wait, answer }) = trips.recv().await {
            self.lock().server.set_at_work(id, true);
            let result = self.run_batch(world, id, &batch, lock_wait).await;
            self.lock().server.set_at_work(id, false);
            // Nobody waits any more: no matter, it is done.
            let _ = answer.send(result);
        }
    }

    async fn run_batch(
        &self,
        world: &World,
        id: SessionId,
        batch: &[Statement],
        lock_wait: Duration,
    ) -> Result<Vec<Answer>, Failure> {
        let mut roll = world.dice.of(0xBA7C).of(world.now_ms()).of(id.into()).roll();
        // Now and then the server is slow, and others come in between two statements.
        let slow = roll.chance(world.scenario.weather.slow_server);
        let mut done = Vec::with_capacity(batch.len());
        for statement in batch {
            if slow {
                world.pause(roll.mostly_short(200)).await;
            }
            match self.run(world, id, statement, lock_wait).await {
                Ok(answer) => done.push(answer),
                Err(code) => return Err(Failure { done, error: DbError::Server(code) }),
            }
        }
        Ok(done)
    }

    async fn run(
        &self,
        world: &World,
        id: SessionId,
        statement: &Statement,
        lock_wait: Duration,
    ) -> Result<Answer, u16> {
        let until = Instant::now() + lock_wait;
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // From here on no release is missed.
            released.as_mut().enable();
            match self.step(world, id, statement) {
                Ok(answer) => return Ok(answer),
                Err(Stop::Error(code)) => return Err(code),
                Err(Stop::Blocked) => {}
            }
            tokio::select! {
                biased;
                () = released => {}
                () = tokio::time::sleep_until(until) => {
                    self.lock().server.stop_waiting(id);
                    self.released.notify_waiters();
                    return Err(code::LOCK_WAIT);
                }
            }
        }
    }

    fn step(&self, world: &World, id: SessionId, statement: &Statement) -> Result<Answer, Stop> {
        let mut state = self.lock();
        state.server.set_time(world.now_ms());
        let releases = state.server.releases();
        let mut result = state.server.execute(id, statement);
        if result == Err(Stop::Blocked) && state.server.is_deadlocked(id) {
            state.server.fall_victim(id);
            result = Err(Stop::Error(code::DEADLOCK));
        }
        let released = state.server.releases() > releases;
        for killed in state.server.take_killed() {
            if let Some(session) = state.sessions.get(&killed) {
                session.end();
            }
        }
        drop(state);
        if result != Ok(Answer::Prepared(Vec::new())) {
            world.say(|| format!("database {} session {id}: {statement:?} -> {result:?}", self.number));
        }
        if released {
            self.released.notify_waiters();
        }
        result
    }
}
