//! From every state, without further faults, everything ends well (I8).
//!
//! One fair order of what is left to happen is enough: every other order leads to states from which this is
//! checked as well. Calls that nobody waits for may arrive in the end, or never: all must be well before each.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, PoisonError};

use concord_protocol::{Decision, State, Timer};

use crate::action::Action;
use crate::claim::Claim;
use crate::configuration::{Configuration, Faults};
use crate::coordinator::Who;
use crate::message::{Index, Message, branch_id};
use crate::participant::{Choice, Rm};
use crate::world::World;

/// More than any world here can need; one that takes more steps goes round in circles.
const STEPS_MAX: usize = 1_000;
const SHARDS: usize = 64;

/// Worlds from which all ends well, by their digests: most runs soon come to one that is known.
pub(crate) struct Known([Mutex<HashSet<u64, BuildHasherDefault<Identity>>>; SHARDS]);

impl Known {
    pub(crate) fn new() -> Self {
        Known(std::array::from_fn(|_| Mutex::default()))
    }

    fn shard(&self, digest: u64) -> std::sync::MutexGuard<'_, HashSet<u64, BuildHasherDefault<Identity>>> {
        // The low bits choose the bucket.
        let shard = usize::try_from(digest >> 58).unwrap_or(0);
        self.0[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn contains(&self, digest: u64) -> bool {
        self.shard(digest).contains(&digest)
    }

    fn insert(&self, digest: u64) {
        self.shard(digest).insert(digest);
    }
}

/// Whether everything ends well from here on, without further faults.
pub(crate) fn ends_well(world: &World, rules: &Configuration, known: &Known) -> bool {
    let mut passed = Vec::new();
    let mut world = without_faults(world);
    for _ in 0..STEPS_MAX {
        let digest = world.digest();
        if known.contains(digest) {
            passed.into_iter().for_each(|digest| known.insert(digest));
            return true;
        }
        passed.push(digest);
        match step(&mut world, rules) {
            Step::Done => {
                passed.into_iter().for_each(|digest| known.insert(digest));
                return true;
            }
            Step::Went(_) => {}
            Step::Stuck => return false,
        }
    }
    false
}

/// The run that [`ends_well`] makes, for people; the last world, and what is wrong with it.
pub(crate) fn run(world: &World, rules: &Configuration) -> (World, Vec<Action>, Option<Claim>) {
    let mut world = without_faults(world);
    let mut actions = Vec::new();
    let mut seen = HashSet::new();
    // Once round is enough to read.
    while seen.insert(world.digest()) {
        match step(&mut world, rules) {
            Step::Done => return (world, actions, None),
            Step::Went(action) => actions.push(action),
            Step::Stuck => break,
        }
    }
    let claim = world.broken.unwrap_or(Claim::Resolution);
    (world, actions, Some(claim))
}

fn without_faults(world: &World) -> World {
    let mut world = world.clone();
    world.left = Faults::default();
    world
}

enum Step {
    /// Nothing is left to happen, and all is well.
    Done,
    Went(Action),
    /// A claim is broken, or nothing more happens and all is not well.
    Stuck,
}

fn step(world: &mut World, rules: &Configuration) -> Step {
    if world.broken.is_some() {
        return Step::Stuck;
    }
    let action = match next(world, rules) {
        Some(action) => action,
        None if !world.has_ended_well() => return Step::Stuck,
        None => match late_call(world) {
            Some(action) => action,
            None => return Step::Done,
        },
    };
    world.apply(action, rules);
    Step::Went(action)
}

/// What happens next, of all that must happen some time. The late one can help nobody, and so it ends at once.
fn next(world: &World, rules: &Configuration) -> Option<Action> {
    if world.late.is_some() {
        return Some(Action::LateEnds);
    }
    if !world.owner.waiting.is_empty() {
        return Some(Action::Sync(Who::Owner));
    }
    let awaited = |message: &&Message| !matches!(message, Message::Call { caller: None, .. });
    if let Some(message) = world.network.iter().find(awaited) {
        return Some(Action::Deliver(*message, Choice::Yes));
    }
    let timers = &world.owner.timers;
    if let Some(timer) = timers.iter().find(|timer| **timer != Timer::Deadline) {
        return Some(Action::Fire(Who::Owner, *timer));
    }
    let transaction = world.owner.transaction.as_ref();
    if world.owner.is_parked() {
        return Some(acknowledgement(world).unwrap_or(Action::Retry(Who::Owner)));
    }
    // The initiator may never come back. Nobody else's work needs the deadline.
    if transaction.is_some_and(|transaction| transaction.state() == State::Active)
        && timers.contains(&Timer::Deadline)
    {
        return Some(Action::Fire(Who::Owner, Timer::Deadline));
    }
    if let Some(index) = world.indices().find(|index| world.participant(*index).rm == Rm::Worked) {
        return Some(Action::Expire(index));
    }
    let answered =
        |index: &Index| world.is_in_doubt(*index) && world.verdict(Who::Owner, *index, rules).is_some();
    world.indices().find(answered).map(|index| Action::Inquire(Who::Owner, index))
}

/// A branch that ended against the decision, and was forced to, waits for the operator to say that he knows.
fn acknowledgement(world: &World) -> Option<Action> {
    let transaction = world.owner.transaction.as_ref()?;
    let waits = |index: &Index| {
        let branch = transaction.branch(branch_id(*index));
        world.participant(*index).forced && branch.is_some_and(|b| b.is_parked() && b.state().has_ended())
    };
    let against = match transaction.decision()? {
        Decision::Commit => Decision::Rollback,
        Decision::Rollback => Decision::Commit,
    };
    world.indices().find(waits).map(|index| Action::Resolve(Who::Owner, index, against))
}

fn late_call(world: &World) -> Option<Action> {
    world.network.first().map(|message| Action::Deliver(*message, Choice::Yes))
}

/// A hasher for what is a hash already.
#[derive(Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
