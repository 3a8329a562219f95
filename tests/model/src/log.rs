//! The coordinators' log: what is written, and how much of it would survive.

use concord_protocol::{Forced, Record};

use crate::mutant::Mutant;

/// A list of records, appended to by one coordinator after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Log {
    pub(crate) records: Vec<Record>,
    /// So many records are on disk for certain. Of the others a crash may lose any suffix.
    pub(crate) synced: usize,
    /// How many there were when another coordinator took over.
    pub(crate) taken_over_at: usize,
}

/// A forced record whose writer waits to hear that it is durable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Acknowledgement {
    /// The length of the log that makes it durable.
    pub(crate) length: usize,
    pub(crate) forced: Forced,
}

impl Log {
    pub(crate) fn append(&mut self, record: Record, forced: Option<Forced>) -> Option<Acknowledgement> {
        self.records.push(record);
        forced.map(|forced| Acknowledgement { length: self.records.len(), forced })
    }

    /// So many records are on disk, at least.
    pub(crate) fn sync(&mut self, length: usize) {
        self.synced = self.synced.max(length);
    }

    /// A crash: of the log, `kept` records are found again.
    pub(crate) fn crash(&mut self, kept: usize) {
        self.records.truncate(kept);
        self.synced = self.records.len();
        self.taken_over_at = self.taken_over_at.min(kept);
    }

    /// In the order in which they are found by whoever reads them back.
    pub(crate) fn read(&self, mutant: Option<Mutant>) -> Vec<Record> {
        let mut records = self.records.clone();
        if mutant == Some(Mutant::KeepsItsTerm) {
            records.rotate_left(self.taken_over_at);
        }
        records
    }

    pub(crate) fn is_durable(&self, wanted: impl Fn(&Record) -> bool) -> bool {
        self.records[..self.synced].iter().any(wanted)
    }
}
