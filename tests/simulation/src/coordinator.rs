//! A coordinator's process: the real engine, its store, its way out to participants; killed, stopped for a while, and
//! started again. There is one, or there are two that share a store.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use concord_coordinator::engine::{
    Backoff, BranchCall, CallResult, Engine, Participants, Settings, Surroundings,
};
use concord_coordinator::metrics::Metrics;
use concord_coordinator::store::{MemoryStore, Store, StoreError, UnixMillis};
use concord_coordinator::trace::Tracer;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use crate::dice::Roll;
use crate::figures::Fault;
use crate::life::Life;
use crate::network::{self, Message, Place};
use crate::participant::Job;
use crate::scenario::Moment;
use crate::store::{DiskStore, Server, SharedStore};
use crate::sweeper;
use crate::world::{CLUSTER, World, participant_number};

/// A coordinator's machine: perhaps a disk, and a process that comes and goes.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) number: u8,
    state: Mutex<State>,
    /// Woken when the process has died.
    died: Notify,
    effects: AtomicU64,
    commits: AtomicU64,
    /// How far the wall clock is off, in milliseconds.
    skew_ms: Mutex<i64>,
    chances: AtomicU64,
    gtids: AtomicU64,
}

/// A process that has died is started again after so long, if nobody says otherwise.
const RESTART_MS: u64 = 500;

enum State {
    Down { medium: Option<Medium>, for_ms: u64 },
    Up { life: Arc<Life>, store: Opened, engine: Option<Arc<Engine>> },
}

/// Where a store is, while nobody has it open.
enum Medium {
    Disk(Box<MemoryStore>),
    Shared(Arc<Server>),
}

/// The same, while somebody has.
enum Opened {
    Disk(Arc<DiskStore>),
    Shared(Arc<Server>),
}

impl Opened {
    fn crash(&self, roll: &mut Roll) -> Medium {
        match self {
            Opened::Disk(store) => Medium::Disk(Box::new(store.crash(roll))),
            Opened::Shared(server) => Medium::Shared(Arc::clone(server)),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Down { .. } => "Down",
            State::Up { .. } => "Up",
        })
    }
}

impl Coordinator {
    /// Without a shared store it has a disk of its own.
    pub(crate) fn new(number: u8, shared: Option<&Arc<Server>>) -> Self {
        let medium = match shared {
            Some(server) => Medium::Shared(Arc::clone(server)),
            None => Medium::Disk(Box::new(MemoryStore::with_cluster_id(CLUSTER))),
        };
        Coordinator {
            number,
            state: Mutex::new(State::Down { medium: Some(medium), for_ms: 0 }),
            died: Notify::new(),
            effects: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            skew_ms: Mutex::default(),
            chances: AtomicU64::new(0),
            gtids: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine, while there is one that can be asked.
    pub(crate) fn door(&self) -> Option<(Arc<Life>, Arc<Engine>)> {
        match &*self.lock() {
            State::Up { life, engine: Some(engine), .. } => Some((Arc::clone(life), Arc::clone(engine))),
            _ => None,
        }
    }

    pub(crate) fn next_commit(&self) -> u64 {
        self.commits.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn chance(&self, world: &World) -> f64 {
        let count = self.chances.fetch_add(1, Ordering::Relaxed);
        world.dice.of(0xC1A2CE).of(self.name(count)).roll().fraction()
    }

    fn unguessable(&self, world: &World) -> u64 {
        let count = self.gtids.fetch_add(1, Ordering::Relaxed);
        world.dice.of(0x671D).of(self.name(count)).roll().between(0..=u64::MAX)
    }

    /// What this coordinator does for the time of this number. Names a choice.
    pub(crate) fn name(&self, count: u64) -> u64 {
        u64::from(self.number) << 40 | count
    }

    pub(crate) fn jump(&self, by_ms: i64) {
        *self.skew_ms.lock().unwrap_or_else(PoisonError::into_inner) += by_ms;
    }

    /// What its wall clock says.
    pub(crate) fn wall_ms(&self, world: &World) -> u64 {
        /// Some day in 2024.
        const ORIGIN_MS: u64 = 1_710_000_000_000;
        let skew = *self.skew_ms.lock().unwrap_or_else(PoisonError::into_inner);
        (ORIGIN_MS + world.now_ms()).saturating_add_signed(skew)
    }

    /// The process is about to do something that can be seen from outside. False: it dies before that, or has died
    /// already.
    pub(crate) fn effect(&self, world: &World, life: &Life, what: &str) -> bool {
        if life.is_over() {
            return false;
        }
        let number = self.effects.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(down_ms) = world.dies(self.number, Moment::Before(number)) {
            world.say(|| format!("coordinator {}: dies before effect {number}, {what}", self.number));
            self.kill(world, down_ms);
            return false;
        }
        true
    }

    /// The process has done it. False: it dies now, or has died already.
    pub(crate) fn effect_done(&self, world: &World, life: &Life) -> bool {
        if life.is_over() {
            return false;
        }
        let number = self.effects.load(Ordering::Relaxed);
        if let Some(down_ms) = world.dies(self.number, Moment::After(number)) {
            world.say(|| format!("coordinator {}: dies after effect {number}", self.number));
            self.kill(world, down_ms);
            return false;
        }
        true
    }

    /// kill -9, and a start after so long.
    pub(crate) fn kill(&self, world: &World, down_ms: u64) {
        if self.end(world, down_ms) {
            world.figures.count(Fault::Coordinator);
        }
    }

    /// The process ends, and is started again after so long. False: there is none.
    fn end(&self, world: &World, down_ms: u64) -> bool {
        let mut state = self.lock();
        if let State::Up { life, store, .. } = &*state {
            life.end();
            let mut roll = world.dice.of(0xC4A5).of(self.name(self.effects.load(Ordering::Relaxed))).roll();
            let medium = Some(store.crash(&mut roll));
            let dead = std::mem::replace(&mut *state, State::Down { medium, for_ms: down_ms });
            drop(state);
            // Its background tasks end with it.
            drop(dead);
            world.say(|| format!("coordinator {}: ends", self.number));
            self.died.notify_one();
            return true;
        }
        false
    }

    /// SIGSTOP. Answers what goes on when it is thawed. Its timers go off meanwhile, as they would when it goes on; but
    /// nothing of what follows from them leaves the process, and nothing gets in.
    pub(crate) fn freeze(&self) -> Option<Arc<Life>> {
        let State::Up { life, .. } = &*self.lock() else { return None };
        life.freeze();
        Some(Arc::clone(life))
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        let life = match &*self.lock() {
            State::Up { life, .. } => Arc::clone(life),
            State::Down { .. } => return,
        };
        life.thaw();
    }

    /// Takes no new transactions, waits for the live ones, closes the store, and ends; and starts again.
    pub(crate) async fn stop_in_good_order(&self, world: &World, grace: Duration) {
        let Some((life, engine)) = self.door() else { return };
        world.say(|| format!("coordinator {}: stops", self.number));
        let closed = life.within(async {
            engine.stop_beginning();
            // What has not ended by then goes on elsewhere, or at the next start.
            let _ = tokio::time::timeout(grace, engine.drained()).await;
            engine.close().await
        });
        if let Some(Ok(())) = closed.await {
            self.end(world, 0);
        }
    }

    /// Starts the process, and again whenever it has died.
    pub(crate) async fn supervise(&self, world: &Arc<World>) {
        loop {
            let (medium, for_ms) = match &mut *self.lock() {
                State::Down { medium, for_ms } => (medium.take(), *for_ms),
                State::Up { .. } => (None, 0),
            };
            if let Some(medium) = medium {
                world.pause(for_ms).await;
                self.start(world, medium).await;
            }
            self.died.notified().await;
        }
    }

    async fn start(&self, world: &Arc<World>, medium: Medium) {
        let (life, number) = (Life::begin(), self.number);
        let up = |store| *self.lock() = State::Up { life: Arc::clone(&life), store, engine: None };
        world.say(|| format!("coordinator {number}: starts"));
        let store: Arc<dyn Store> = match medium {
            Medium::Disk(disk) => {
                let store = DiskStore::open(world, &life, number, *disk);
                up(Opened::Disk(Arc::clone(&store)));
                store
            }
            Medium::Shared(server) => {
                up(Opened::Shared(Arc::clone(&server)));
                match life.within(SharedStore::open(world, &server, &life, number)).await {
                    Some(Ok(store)) => Arc::new(store),
                    Some(Err(problem)) => {
                        world.say(|| format!("coordinator {number}: cannot open its store: {problem:?}"));
                        self.end(world, RESTART_MS);
                        return;
                    }
                    None => return,
                }
            }
        };
        let calls = Arc::new(Calls { world: Arc::downgrade(world), life: Arc::clone(&life), number });
        let machine = Arc::new(Machine { world: Arc::downgrade(world), number });
        let engine =
            Engine::start_in(store, calls, settings(world), machine, Metrics::default(), Tracer::default());
        let engine = match life.within(engine).await {
            Some(Ok(engine)) => Arc::new(engine),
            Some(Err(StoreError::Read(_))) => {
                self.end(world, RESTART_MS);
                return;
            }
            Some(Err(error)) => {
                world.violation("start", format!("the coordinator does not start: {error}"));
                return;
            }
            // Killed while it was starting.
            None => return,
        };
        if let State::Up { life: current, engine: door, .. } = &mut *self.lock()
            && Arc::ptr_eq(current, &life)
        {
            *door = Some(Arc::clone(&engine));
        }
        sweeper::start(world, &life, &engine, number);
        if world.server.is_some() {
            let (world, life, engine) = (Arc::clone(world), Arc::clone(&life), Arc::clone(&engine));
            tokio::spawn(async move { life.within(take_over_for_ever(&world, number, &engine)).await });
        }
        let world = Arc::clone(world);
        tokio::spawn(async move {
            // `concord serve` ends with its store.
            if life.within(engine.store_failed()).await.is_some() {
                world.coordinator(number).end(&world, RESTART_MS);
            }
        });
    }

    /// Ends it for good, so that nothing refers to the world any more.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        if let State::Up { life, .. } = &*state {
            life.end();
        }
        let stopped = std::mem::replace(&mut *state, State::Down { medium: None, for_ms: 0 });
        drop(state);
        drop(stopped);
    }
}

/// Looks for coordinators whose lease has run out, as `concord serve` does.
async fn take_over_for_ever(world: &Arc<World>, number: u8, engine: &Engine) {
    let every_ms = (world.scenario.coordinator.lease_ms / 3).min(1_000);
    let coordinator = world.coordinator(number);
    loop {
        let chance = coordinator.chance(world);
        world.pause(every_ms / 2 + (every_ms as f64 * chance) as u64).await;
        // What goes wrong is tried again; when the store has failed, the engine says so.
        let _ = engine.take_over().await;
    }
}

fn settings(world: &World) -> Settings {
    let plan = world.scenario.coordinator;
    Settings {
        live_transactions_max: plan.live_max,
        branches_max: 100,
        payload_bytes_max: 1 << 20,
        timeout_default: Duration::from_secs(30),
        timeout_max: Duration::from_secs(3_600),
        backoff: Backoff {
            first: Duration::from_millis(50),
            max: Duration::from_millis(plan.backoff_max_ms.max(50)),
        },
        park_after_attempts: Some(plan.park_after).filter(|limit| *limit > 0),
        tenants: Default::default(),
    }
}

/// A coordinator's wall clock and random numbers.
struct Machine {
    world: Weak<World>,
    number: u8,
}

impl Surroundings for Machine {
    fn wall_clock(&self) -> UnixMillis {
        let world = self.world.upgrade();
        UnixMillis(world.map_or(0, |world| world.coordinator(self.number).wall_ms(&world)))
    }

    fn chance(&self) -> f64 {
        let Some(world) = self.world.upgrade() else { return 1.0 };
        world.coordinator(self.number).chance(&world)
    }

    fn unguessable(&self) -> u64 {
        let Some(world) = self.world.upgrade() else { return 0 };
        world.coordinator(self.number).unguessable(&world)
    }
}

/// The way out to participants.
struct Calls {
    world: Weak<World>,
    life: Arc<Life>,
    number: u8,
}

impl Participants for Calls {
    fn call(&self, call: BranchCall) -> BoxFuture<'static, CallResult> {
        let Some(world) = self.world.upgrade() else { return std::future::pending().boxed() };
        let (coordinator, number) = (world.coordinator(self.number), self.number);
        if !coordinator.effect(&world, &self.life, "call") {
            return std::future::pending().boxed();
        }
        world.say(|| {
            let BranchCall { gtid, branch, participant, verb, repeated, .. } = &call;
            let again = if *repeated { " (repeated)" } else { "" };
            format!("coordinator {number}: {verb:?}{again} to {participant}, {gtid} branch {branch}")
        });
        // It leaves now: what happens to the coordinator afterwards does not hold it up.
        let sent = tokio::spawn(send(world.clone(), Arc::clone(&self.life), number, call));
        coordinator.effect_done(&world, &self.life);
        let life = Arc::clone(&self.life);
        async move {
            match life.within(sent).await {
                Some(Ok(result)) => result,
                Some(Err(_)) => CallResult::failed(true, "the call was cut off"),
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn permits(&self, participant: &str) -> bool {
        participant_number(participant).is_some()
    }
}

async fn send(world: Arc<World>, life: Arc<Life>, from: u8, call: BranchCall) -> CallResult {
    if life.is_frozen() && life.within(std::future::ready(())).await.is_none() {
        return CallResult::failed(false, "it was never sent");
    }
    let Some(number) = participant_number(&call.participant) else {
        return CallResult::failed(false, "there is no such participant");
    };
    if let Some(job) = Job::read(&call.payload, call.remaining_ms) {
        world.name(call.gtid, job.transaction);
    }
    let message = Message {
        from: Place::Coordinator(from),
        to: Place::Participant(number),
        about: world.about(call.gtid),
        what: 100 * (call.verb as u64 + 1) + u64::from(call.branch.0),
        repeatable: true,
    };
    let (at, limit) = (Arc::clone(&world), world.scenario.call_timeout());
    let called = network::call(&world, message, limit, move || {
        let (world, call) = (Arc::clone(&at), call.clone());
        async move {
            match world.participants.get(usize::from(number)) {
                Some(participant) => participant.handle(&world, &call).await,
                None => network::Delivered::Nobody,
            }
        }
    });
    called.await.unwrap_or_else(|lost| CallResult::failed(lost.maybe_arrived, "no answer"))
}
