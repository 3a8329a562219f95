//! Counting.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// What can go wrong; and what comes of it where coordinators share a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A message was lost.
    Lost,
    /// A message came twice.
    Repeated,
    /// A message came late: after others that were sent after it.
    Delayed,
    /// A connection between two places was cut.
    Partition,
    /// A connection to a database broke.
    Connection,
    /// A participant was killed.
    Participant,
    /// A participant got a second process.
    Twin,
    /// A database server was killed.
    Database,
    /// A coordinator was killed, at some time or before or after an effect.
    Coordinator,
    /// The wall clock of a coordinator jumped, or of a shared store's database.
    Clock,
    /// Everything stood still for a while.
    Pause,
    /// A coordinator's store failed.
    Store,
    /// A coordinator stood still while the others went on.
    Frozen,
    /// The database of a shared store was killed.
    StoreAway,
    /// A coordinator took over from a life of another, or of its own.
    TakeOver,
    /// A write was refused, for its coordinator had been taken over from.
    Fenced,
    /// A coordinator lost its lease, by its own clock.
    LeaseLost,
    /// A coordinator passed a call on to another.
    PassedOn,
}

const FAULTS: usize = Fault::PassedOn as usize + 1;

/// Counts of one run.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    faults: [AtomicU64; FAULTS],
}

impl Counts {
    pub(crate) fn count(&self, fault: Fault) {
        self.faults[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what was counted elsewhere.
    pub(crate) fn add(&self, fault: Fault, count: u64) {
        self.faults[fault as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> Faults {
        let of = |fault: Fault| self.faults[fault as usize].load(Ordering::Relaxed);
        Faults {
            lost: of(Fault::Lost),
            repeated: of(Fault::Repeated),
            delayed: of(Fault::Delayed),
            partitions: of(Fault::Partition),
            connections: of(Fault::Connection),
            participants: of(Fault::Participant),
            twins: of(Fault::Twin),
            databases: of(Fault::Database),
            coordinators: of(Fault::Coordinator),
            clocks: of(Fault::Clock),
            pauses: of(Fault::Pause),
            stores: of(Fault::Store),
            frozen: of(Fault::Frozen),
            stores_away: of(Fault::StoreAway),
            take_overs: of(Fault::TakeOver),
            fenced: of(Fault::Fenced),
            leases_lost: of(Fault::LeaseLost),
            passed_on: of(Fault::PassedOn),
        }
    }
}

/// Faults by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Messages lost.
    pub lost: u64,
    /// Messages that came twice.
    pub repeated: u64,
    /// Messages that came late, after others that were sent later.
    pub delayed: u64,
    /// Connections cut between two places.
    pub partitions: u64,
    /// Database connections broken.
    pub connections: u64,
    /// Participants killed.
    pub participants: u64,
    /// Participants that had two processes for a while.
    pub twins: u64,
    /// Database servers killed.
    pub databases: u64,
    /// Coordinators killed.
    pub coordinators: u64,
    /// Jumps of wall clocks, of coordinators and of shared stores' databases.
    pub clocks: u64,
    /// Times when everything stood still.
    pub pauses: u64,
    /// Failures of coordinators' stores.
    pub stores: u64,
    /// Times when a coordinator stood still while the others went on.
    pub frozen: u64,
    /// Databases of shared stores killed.
    pub stores_away: u64,
    /// Lives of coordinators that were taken over.
    pub take_overs: u64,
    /// Writes refused, for their coordinators had been taken over from.
    pub fenced: u64,
    /// Leases that coordinators lost by their own clocks.
    pub leases_lost: u64,
    /// Calls that coordinators passed on to others.
    pub passed_on: u64,
}

impl Faults {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Faults) {
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.delayed += other.delayed;
        self.partitions += other.partitions;
        self.connections += other.connections;
        self.participants += other.participants;
        self.twins += other.twins;
        self.databases += other.databases;
        self.coordinators += other.coordinators;
        self.clocks += other.clocks;
        self.pauses += other.pauses;
        self.stores += other.stores;
        self.frozen += other.frozen;
        self.stores_away += other.stores_away;
        self.take_overs += other.take_overs;
        self.fenced += other.fenced;
        self.leases_lost += other.leases_lost;
        self.passed_on += other.passed_on;
    }
}
