//! When two worlds are one: the hash by which the checker tells them apart.
//!
//! Branches of one kind are interchangeable, so each branch is hashed by itself, with everything that concerns it,
//! and the hashes are put in order. The core's state is private to it but for its hash, which is enough.

use std::hash::{BuildHasher as _, Hash, Hasher};

use ahash::RandomState;
use concord_protocol::{BranchId, Forced, Record, Timer, Transaction};

use crate::coordinator::{Coordinator, Who};
use crate::log::Acknowledgement;
use crate::message::{Index, Message, branch_id};
use crate::world::World;

/// Always the same: hashes are compared between threads.
const SEEDS: RandomState = RandomState::with_seeds(1, 2, 3, 4);

impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest());
        self.left.hash(state);
    }
}

impl World {
    /// Everything but how many faults are still to come.
    pub(crate) fn digest(&self) -> u64 {
        let mut branches = [0; 3];
        for index in self.indices() {
            branches[usize::from(index)] = self.branch_digest(index);
        }
        branches.sort_unstable();
        let mut hasher = SEEDS.build_hasher();
        branches.hash(&mut hasher);
        for (who, coordinator) in self.coordinators() {
            coordinator.transaction.as_ref().map(phase).hash(&mut hasher);
            coordinator.timers.contains(&Timer::Deadline).hash(&mut hasher);
            if who == Who::Late {
                self.late_log_digest(coordinator, None).hash(&mut hasher);
            }
        }
        (self.registered, self.told, self.broken, self.log.taken_over_at).hash(&mut hasher);
        self.log_digest(None).hash(&mut hasher);
        hasher.finish()
    }

    fn branch_digest(&self, index: Index) -> u64 {
        let id = branch_id(index);
        let mut hasher = SEEDS.build_hasher();
        self.participant(index).hash(&mut hasher);
        (self.registered > index).hash(&mut hasher);
        for (who, coordinator) in self.coordinators() {
            coordinator.branch_digest(index).hash(&mut hasher);
            if who == Who::Late {
                self.late_log_digest(coordinator, Some(id)).hash(&mut hasher);
            }
        }
        // In any order: the network has none.
        let messages = self.network.iter().filter(|message| message.participant() == index);
        messages.map(message_digest).fold(0, u64::wrapping_add).hash(&mut hasher);
        self.log_digest(Some(id)).hash(&mut hasher);
        hasher.finish()
    }

    /// Of the records about one branch, or about none in particular: what they say, and where they stand.
    ///
    /// What is on disk is there, in whatever order. When neither crash nor take-over is left, nothing can be lost, and only that
    /// matters which the claims look at.
    fn log_digest(&self, branch: Option<BranchId>) -> u64 {
        let log = &self.log;
        let mut sum = u64::from(!log.records.is_empty());
        for (place, record) in log.records.iter().enumerate() {
            let unsynced = (place + 1).saturating_sub(log.synced);
            let waiting = self.owner.waiting.iter().position(|waiting| waiting.length == place + 1);
            let place = match (self.left.crashes + self.left.take_overs, waiting) {
                (0, None) if unsynced > 0 || !is_looked_at(record) => continue,
                (0, Some(turn)) if unsynced > 0 => turn + 1,
                (_, _) => unsynced,
            };
            let forced = waiting.is_some();
            if let Some(said) = said(record, branch) {
                sum = u64::wrapping_add(sum, SEEDS.hash_one((place, forced, said)));
            }
        }
        sum
    }

    /// What the late one may yet hear of a branch, or of none in particular.
    fn late_log_digest(&self, late: &Coordinator, branch: Option<BranchId>) -> u64 {
        let mut sum = 0;
        for (turn, Acknowledgement { length, forced }) in late.waiting.iter().enumerate() {
            let registered = match forced {
                Forced::Registered(id) => Some(*id),
                _ => None,
            };
            if registered == branch {
                let forced = registered.is_none().then_some(forced);
                let unsynced = length.saturating_sub(self.log.synced);
                sum = u64::wrapping_add(sum, SEEDS.hash_one((turn, unsynced, forced)));
            }
        }
        sum
    }
}

impl Coordinator {
    /// What it knows of a branch, and intends.
    fn branch_digest(&self, index: Index) -> u64 {
        let id = branch_id(index);
        let branch = self.transaction.as_ref().and_then(|transaction| transaction.branch(id));
        let retries = self.timers.iter().filter_map(|timer| match timer {
            Timer::Retry { branch, attempts } if *branch == id => Some(SEEDS.hash_one(attempts)),
            _ => None,
        });
        let place = usize::from(index);
        SEEDS.hash_one((branch, retries.fold(0, u64::wrapping_add), self.given_up[place], self.parked[place]))
    }
}

/// Whether a claim looks at it, when nothing can be lost.
fn is_looked_at(record: &Record) -> bool {
    matches!(
        record,
        Record::Begun | Record::Registered { .. } | Record::Delegated(_) | Record::Decided { .. }
    )
}

fn message_digest(message: &Message) -> u64 {
    match *message {
        Message::Call { to: _, verb, repeated, caller, doubled } => {
            SEEDS.hash_one((1, verb, repeated, caller, doubled))
        }
        Message::Reply { from: _, to, verb, reply } => SEEDS.hash_one((2, to, verb, reply)),
        Message::Start { .. } => SEEDS.hash_one(3),
        Message::Report { vote, .. } => SEEDS.hash_one((4, vote)),
    }
}

/// What a record says about a branch (or, of no branch, about the transaction), without the branch's name.
fn said(record: &Record, branch: Option<BranchId>) -> Option<u64> {
    let of = |id: BranchId| branch == Some(id);
    match record {
        Record::Begun => branch.is_none().then(|| SEEDS.hash_one(1)),
        Record::Registered { branch: id, kind } => of(*id).then(|| SEEDS.hash_one((2, kind))),
        Record::Delegated(id) => of(*id).then(|| SEEDS.hash_one(3)),
        Record::Decided { decision, branches, cause: _ } => match branch {
            None => Some(SEEDS.hash_one((4, decision))),
            Some(id) => branches.contains(&id).then(|| SEEDS.hash_one(5)),
        },
        Record::BranchEnded { branch: id, outcome, source, heuristic } => {
            of(*id).then(|| SEEDS.hash_one((6, outcome, source, heuristic)))
        }
        Record::BranchParked(id) => of(*id).then(|| SEEDS.hash_one(7)),
        Record::Retried => branch.is_none().then(|| SEEDS.hash_one(8)),
        Record::Ended(outcome) => branch.is_none().then(|| SEEDS.hash_one((9, outcome))),
    }
}

/// The core's phase, which it does not show in full: what it feeds to a hasher after its options.
fn phase(transaction: &Transaction) -> u64 {
    let mut count = Words::default();
    transaction.options().hash(&mut count);
    let mut words = Words { wanted: count.seen, ..Words::default() };
    transaction.hash(&mut words);
    words.found
}

/// A hasher that keeps one of the words it is fed.
#[derive(Default)]
struct Words {
    wanted: usize,
    seen: usize,
    found: u64,
}

impl Hasher for Words {
    fn write(&mut self, bytes: &[u8]) {
        if self.seen == self.wanted {
            self.found = bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        self.seen += 1;
    }

    fn finish(&self) -> u64 {
        self.found
    }
}
