//! The coordinator's log: what is written, and how much of it would survive.

use concord_protocol::{Forced, Record};

/// An append-only list of records.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Log {
    pub(crate) records: Vec<Record>,
    /// So many records are on disk for certain. Of the others a crash may lose any suffix.
    pub(crate) synced: usize,
    /// Forced records that wait, oldest first, each with the length of the log that makes it durable.
    pub(crate) waiting: Vec<(usize, Forced)>,
}

impl Log {
    pub(crate) fn append(&mut self, record: Record, forced: Option<Forced>) {
        self.records.push(record);
        self.waiting.extend(forced.map(|forced| (self.records.len(), forced)));
    }

    /// The oldest forced record becomes durable, with everything before it.
    pub(crate) fn sync(&mut self) -> Option<Forced> {
        if self.waiting.is_empty() {
            return None;
        }
        let (length, forced) = self.waiting.remove(0);
        self.synced = self.synced.max(length);
        Some(forced)
    }

    /// A crash: of the log, `kept` records are found again.
    pub(crate) fn crash(&mut self, kept: usize) {
        self.records.truncate(kept);
        self.synced = self.records.len();
        self.waiting.clear();
    }

    pub(crate) fn is_durable(&self, wanted: impl Fn(&Record) -> bool) -> bool {
        self.records[..self.synced].iter().any(wanted)
    }
}
