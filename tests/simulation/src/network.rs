//! What becomes of messages: lost, late, repeated, in another order, or cut off by a partition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::dice::Dice;
use crate::figures::Fault;
use crate::scenario::Weather;
use crate::world::World;

/// Where messages come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// All initiators.
    Initiators,
    /// A coordinator.
    Coordinator(u8),
    /// The database of the store that coordinators share.
    Store,
    /// A participant.
    Participant(u8),
    /// A database server.
    Database(u8),
}

/// A call from one place to another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) from: Place,
    pub(crate) to: Place,
    /// What it is about, a transaction's number as a rule: its fate has to do with no other's.
    pub(crate) about: u64,
    /// Which of the calls about that.
    pub(crate) what: u64,
    /// Whether the network may bring it twice. Not where a second one is another request by design.
    pub(crate) repeatable: bool,
}

/// A call without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Whether it may have arrived.
    pub(crate) maybe_arrived: bool,
}

/// What happened at the other end.
#[derive(Debug)]
pub(crate) enum Delivered<T> {
    Answer(T),
    /// Nobody listens there: the connection was refused.
    Nobody,
    /// Whoever was at work on it died.
    Died,
}

impl<T> From<Option<T>> for Delivered<T> {
    fn from(answer: Option<T>) -> Self {
        answer.map_or(Delivered::Died, Delivered::Answer)
    }
}

/// What becomes of a round trip to a database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TripFate {
    pub(crate) there_ms: u64,
    pub(crate) back_ms: u64,
    pub(crate) trouble: Option<Trouble>,
}

/// Where the connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The server never sees it.
    OnTheWay,
    /// It is done, and nobody hears of it.
    OnTheWayBack,
}

/// What becomes of a round trip to the database of a shared store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreTrip {
    /// When it arrives. None: never.
    pub(crate) there_ms: Option<u64>,
    pub(crate) back: Back,
}

/// What the client hears of it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Back {
    /// The answer, so long after it arrived.
    Answer(u64),
    /// The connection breaks, so long after it was sent; it may arrive after that.
    Broken(u64),
    /// Nothing, ever.
    Silence,
}

/// What becomes of a call: when its copies arrive, and when the answer to the first does.
struct Fate {
    copies: Vec<u64>,
    back_ms: Option<u64>,
}

/// The network.
#[derive(Debug)]
pub(crate) struct Network {
    dice: Dice,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    weather: Weather,
    blocked: BTreeSet<(Place, Place)>,
    /// Messages of each name so far, so that each has its own fate.
    sent: BTreeMap<(u64, u64), u64>,
    /// Copies that have not arrived.
    under_way: usize,
}

impl Network {
    pub(crate) fn new(dice: Dice, weather: Weather) -> Self {
        let state = State { weather, blocked: BTreeSet::new(), sent: BTreeMap::new(), under_way: 0 };
        Network { dice, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nothing goes wrong. What is under way still arrives when it does.
    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        state.weather = state.weather.calm();
        state.blocked.clear();
    }

    /// Cuts a connection, in one direction.
    pub(crate) fn cut(&self, from: Place, to: Place) {
        self.lock().blocked.insert((from, to));
    }

    /// Puts it back.
    pub(crate) fn mend(&self, from: Place, to: Place) {
        self.lock().blocked.remove(&(from, to));
    }

    pub(crate) fn is_cut(&self, from: Place, to: Place) -> bool {
        self.lock().blocked.contains(&(from, to))
    }

    /// Copies of messages that have not arrived yet.
    pub(crate) fn under_way(&self) -> usize {
        self.lock().under_way
    }

    /// What becomes of a coordinator's round trip to the database of its store, which takes up to `slow_ms` more.
    pub(crate) fn store_trip(&self, world: &World, coordinator: u8, slow_ms: u64) -> StoreTrip {
        let about = 4_000_000 + u64::from(coordinator);
        let number = self.number(about, 0);
        let mut roll = self.dice.of(about).of(number).roll();
        let weather = self.lock().weather;
        let span = |roll: &mut crate::dice::Roll| {
            if roll.chance(weather.store_stall) {
                world.figures.count(Fault::Delayed);
                return roll.mostly_short(weather.late_ms);
            }
            roll.between(0..=weather.database_ms)
        };
        let (there_ms, back_ms) = (span(&mut roll) + roll.between(0..=slow_ms), span(&mut roll));
        let (from, to) = (Place::Coordinator(coordinator), Place::Store);
        let breaks = roll.chance(weather.break_connection);
        let arrives = !(self.is_cut(from, to) || breaks && roll.chance(0.5));
        let back = if self.is_cut(from, to) || self.is_cut(to, from) {
            if roll.chance(0.5) { Back::Silence } else { Back::Broken(back_ms) }
        } else if breaks {
            world.figures.count(Fault::Connection);
            Back::Broken(back_ms)
        } else {
            Back::Answer(back_ms)
        };
        StoreTrip { there_ms: arrives.then_some(there_ms), back }
    }

    /// The number of the next message of this name, from 1.
    pub(crate) fn number(&self, about: u64, what: u64) -> u64 {
        let mut state = self.lock();
        let count = state.sent.entry((about, what)).or_default();
        *count += 1;
        *count
    }

    fn fate(&self, world: &World, message: &Message) -> Fate {
        let number = self.number(message.about, message.what);
        let mut roll = self.dice.of(message.about).of(message.what).of(number).roll();
        let weather = self.lock().weather;
        let mut copies = Vec::with_capacity(2);
        if roll.chance(weather.lose) || self.is_cut(message.from, message.to) {
            world.figures.count(Fault::Lost);
        } else {
            copies.push(self.delay(world, &mut roll, &weather));
        }
        if message.repeatable && roll.chance(weather.repeat) {
            world.figures.count(Fault::Repeated);
            copies.push(roll.mostly_short(weather.late_ms));
        }
        let mut back_ms = Some(self.delay(world, &mut roll, &weather));
        if roll.chance(weather.lose) {
            world.figures.count(Fault::Lost);
            back_ms = None;
        }
        Fate { copies, back_ms }
    }

    fn delay(&self, world: &World, roll: &mut crate::dice::Roll, weather: &Weather) -> u64 {
        if roll.chance(weather.stall) {
            world.figures.count(Fault::Delayed);
            return roll.mostly_short(weather.late_ms);
        }
        roll.between(0..=weather.latency_ms)
    }

    /// What becomes of a round trip between a client and its database.
    pub(crate) fn trip(&self, world: &World, from: Place, to: Place, about: u64) -> TripFate {
        let Place::Database(server) = to else {
            return TripFate { there_ms: 0, back_ms: 0, trouble: Some(Trouble::OnTheWay) };
        };
        // Names apart from those of calls.
        let what = 1_000 + u64::from(server);
        let number = self.number(about, what);
        let mut roll = self.dice.of(about).of(what).of(number).roll();
        let weather = self.lock().weather;
        let (there_ms, back_ms) =
            (roll.between(0..=weather.database_ms), roll.between(0..=weather.database_ms));
        let trouble = if roll.chance(weather.break_connection) {
            world.figures.count(Fault::Connection);
            Some(if roll.chance(0.5) { Trouble::OnTheWay } else { Trouble::OnTheWayBack })
        } else if self.is_cut(from, to) {
            Some(Trouble::OnTheWay)
        } else {
            None
        };
        TripFate { there_ms, back_ms, trouble }
    }
}

/// Counts as under way as long as it is there.
pub(crate) struct UnderWay(Arc<World>);

impl UnderWay {
    pub(crate) fn new(world: &Arc<World>) -> Self {
        world.network.lock().under_way += 1;
        UnderWay(Arc::clone(world))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.network.lock().under_way -= 1;
    }
}

/// Makes a call. `deliver` does at the other end what the message asks for, once for each copy that arrives; the
/// caller gets the answer to the first.
///
/// # Errors
/// [`Lost`], after `limit` at the latest.
pub(crate) async fn call<T, F, Fut>(
    world: &Arc<World>,
    message: Message,
    limit: Duration,
    deliver: F,
) -> Result<T, Lost>
where
    T: Send + 'static,
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Delivered<T>> + Send + 'static,
{
    let fate = world.network.fate(world, &message);
    let several = fate.copies.len() > 1;
    let (answer, mut answered) = mpsc::unbounded_channel();
    let deliver = Arc::new(deliver);
    for (index, delay_ms) in fate.copies.into_iter().enumerate() {
        let first = (index == 0).then(|| answer.clone());
        let under_way = UnderWay::new(world);
        let (world, deliver) = (Arc::clone(world), Arc::clone(&deliver));
        tokio::spawn(async move {
            world.pause(delay_ms).await;
            drop(under_way);
            let delivered = deliver().await;
            let (Some(first), Some(back_ms)) = (first, fate.back_ms) else { return };
            world.pause(back_ms).await;
            if !world.network.is_cut(message.to, message.from) {
                // The caller may have given up.
                let _ = first.send(delivered);
            }
        });
    }
    // Whoever waits for a message that is not coming waits until the limit.
    let outcome = tokio::time::timeout(limit, answered.recv()).await;
    drop(answer);
    match outcome {
        Ok(Some(Delivered::Answer(value))) => Ok(value),
        Ok(Some(Delivered::Nobody)) => Err(Lost { maybe_arrived: several }),
        Ok(Some(Delivered::Died) | None) | Err(_) => Err(Lost { maybe_arrived: true }),
    }
}
