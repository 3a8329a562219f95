//! Rows, the locks on them, and the transactions that hold these.

use std::collections::{BTreeMap, BTreeSet};

use concord_protocol::Gtid;

use super::{Flavor, Isolation, Note, Schema};

/// Names a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Of the accounts.
    Account(Schema, u32),
    /// Of the barrier table.
    Barrier(Schema, Gtid, u32),
}

/// A row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// Of the accounts.
    Account {
        /// What may be spent.
        balance: i64,
        /// What is reserved.
        frozen: i64,
    },
    /// Of the barrier table.
    Barrier {
        /// See [`super::barrier`].
        state: u8,
        /// The session that wrote it.
        connection: u32,
        /// When, by the server's clock.
        created_ms: u64,
    },
}

/// A transaction, local or of a branch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) changes: BTreeMap<Key, Option<Row>>,
    pub(super) notes: Vec<Note>,
    locks: BTreeSet<Key>,
    /// The row that it waits for, and the transaction that is in its way.
    waits_for: Option<(Key, TransactionId)>,
}

impl Transaction {
    pub(super) fn has_written(&self) -> bool {
        !self.changes.is_empty() || !self.notes.is_empty()
    }
}

/// Numbers a transaction within its server.
pub(super) type TransactionId = u64;

#[derive(Debug, Clone, Default)]
struct Lock {
    exclusive: Option<TransactionId>,
    shared: BTreeSet<TransactionId>,
    /// Requests that wait, the first to come first.
    queue: Vec<(TransactionId, Mode)>,
}

impl Lock {
    /// Whether what it holds is enough.
    fn is_held(&self, id: TransactionId, mode: Mode) -> bool {
        self.exclusive == Some(id) || (mode == Mode::Shared && self.shared.contains(&id))
    }

    /// Who holds the row in a way that a request has to wait for.
    fn holder_against(&self, id: TransactionId, mode: Mode) -> Option<TransactionId> {
        let other = |holder: &TransactionId| *holder != id;
        self.exclusive.filter(other).or_else(|| match mode {
            Mode::Exclusive => self.shared.iter().copied().find(other),
            Mode::Shared => None,
        })
    }

    /// Who waits for the row, and has to be served before a request that comes after.
    fn waiting_before(&self, id: TransactionId, mode: Mode, flavor: Flavor) -> Option<TransactionId> {
        // MySQL lets who has the row shared go past those who wait for him.
        let passes = flavor == Flavor::MySql && self.shared.contains(&id);
        let stays_behind = |theirs: Mode| theirs.conflicts(mode) && !(passes && theirs == Mode::Exclusive);
        Some(self.queue.iter().find(|(_, theirs)| stays_behind(*theirs))?.0)
    }

    fn give(&mut self, id: TransactionId, mode: Mode) {
        match mode {
            Mode::Exclusive => self.exclusive = Some(id),
            Mode::Shared => drop(self.shared.insert(id)),
        }
    }

    fn leave_queue(&mut self, id: TransactionId) -> bool {
        let place = self.queue.iter().position(|(waiting, _)| *waiting == id);
        place.map(|place| self.queue.remove(place)).is_some()
    }

    fn is_free(&self) -> bool {
        self.exclusive.is_none() && self.shared.is_empty() && self.queue.is_empty()
    }
}

/// How a row is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// To change it.
    Exclusive,
    /// Left behind by an INSERT that met a duplicate.
    Shared,
}

impl Mode {
    fn conflicts(self, other: Mode) -> bool {
        self == Mode::Exclusive || other == Mode::Exclusive
    }
}

/// A lock was not granted: the transaction waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotGranted;

/// Everything that is stored.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    flavor: Flavor,
    committed: BTreeMap<Key, Row>,
    pub(super) notes: Vec<Note>,
    transactions: BTreeMap<TransactionId, Transaction>,
    locks: BTreeMap<Key, Lock>,
    last: TransactionId,
    releases: u64,
}

impl Rows {
    pub(super) fn new(flavor: Flavor) -> Self {
        Rows {
            flavor,
            committed: BTreeMap::new(),
            notes: Vec::new(),
            transactions: BTreeMap::new(),
            locks: BTreeMap::new(),
            last: 0,
            releases: 0,
        }
    }

    pub(super) fn insert_committed(&mut self, key: Key, row: Row) {
        self.committed.insert(key, row);
    }

    pub(super) fn committed(&self) -> &BTreeMap<Key, Row> {
        &self.committed
    }

    pub(super) fn begin(&mut self) -> TransactionId {
        self.last += 1;
        self.transactions.insert(self.last, Transaction::default());
        self.last
    }

    pub(super) fn transaction(&self, id: TransactionId) -> Option<&Transaction> {
        self.transactions.get(&id)
    }

    /// How often a lock, or a place in a queue, has been given up.
    pub(super) fn releases(&self) -> u64 {
        self.releases
    }

    pub(super) fn open_transactions(&self) -> usize {
        self.transactions.len()
    }

    /// Makes its changes permanent, and gives up its locks.
    pub(super) fn commit(&mut self, id: TransactionId) {
        let Some(transaction) = self.end(id) else { return };
        for (key, row) in transaction.changes {
            match row {
                Some(row) => self.committed.insert(key, row),
                None => self.committed.remove(&key),
            };
        }
        self.notes.extend(transaction.notes);
    }

    /// Forgets its changes, and gives up its locks. Answers what it was.
    pub(super) fn roll_back(&mut self, id: TransactionId) -> Option<Transaction> {
        let written = self.transactions.get(&id)?.changes.keys();
        let new: Vec<Key> = written.filter(|key| !self.committed.contains_key(key)).copied().collect();
        new.iter().for_each(|key| self.forget_row(key));
        self.end(id)
    }

    /// With a row its queue goes: whoever stood there asks again.
    fn forget_row(&mut self, key: &Key) {
        let queue = self.locks.remove(key).map(|lock| lock.queue).unwrap_or_default();
        for (id, _) in queue {
            self.transactions.entry(id).and_modify(|transaction| transaction.waits_for = None);
        }
        self.releases += 1;
    }

    fn end(&mut self, id: TransactionId) -> Option<Transaction> {
        self.stop_waiting(id);
        let transaction = self.transactions.remove(&id)?;
        transaction.locks.iter().for_each(|key| self.release(id, key));
        Some(transaction)
    }

    /// After a restart: the transaction is there again, with locks on what it changed only.
    pub(super) fn restore(&mut self, transaction: Transaction) -> TransactionId {
        let id = self.begin();
        let locks: BTreeSet<Key> = transaction.changes.keys().copied().collect();
        for key in &locks {
            self.locks.entry(*key).or_default().exclusive = Some(id);
        }
        self.transactions.insert(id, Transaction { locks, waits_for: None, ..transaction });
        id
    }

    /// Takes every transaction out; their locks go with them.
    pub(super) fn take_transactions(&mut self) -> BTreeMap<TransactionId, Transaction> {
        self.locks.clear();
        std::mem::take(&mut self.transactions)
    }

    pub(super) fn lock(&mut self, id: TransactionId, key: Key, mode: Mode) -> Result<(), NotGranted> {
        let lock = self.locks.entry(key).or_default();
        if lock.is_held(id, mode) {
            return Ok(());
        }
        if lock.queue.iter().any(|(waiting, _)| *waiting == id) {
            return Err(NotGranted);
        }
        let before = lock.holder_against(id, mode).or_else(|| lock.waiting_before(id, mode, self.flavor));
        let Some(transaction) = self.transactions.get_mut(&id) else { return Ok(()) };
        if let Some(other) = before {
            lock.queue.push((id, mode));
            transaction.waits_for = Some((key, other));
            return Err(NotGranted);
        }
        lock.give(id, mode);
        transaction.locks.insert(key);
        Ok(())
    }

    /// Gives those who wait for a row what they can have by now, the first to come first. MySQL looks at the holders
    /// only: who wants to share the row goes past those who do not.
    fn grant(&mut self, key: &Key) {
        let Some(lock) = self.locks.get_mut(key) else { return };
        for (id, mode) in std::mem::take(&mut lock.queue) {
            let Some(transaction) = self.transactions.get_mut(&id) else { continue };
            let before = lock.holder_against(id, mode).or_else(|| match self.flavor {
                Flavor::MySql => None,
                Flavor::MariaDb => lock.waiting_before(id, mode, self.flavor),
            });
            transaction.waits_for = before.map(|other| (*key, other));
            if before.is_some() {
                lock.queue.push((id, mode));
            } else {
                lock.give(id, mode);
                transaction.locks.insert(*key);
            }
        }
    }

    pub(super) fn holds(&self, id: TransactionId, key: Key) -> bool {
        self.locks.get(&key).is_some_and(|lock| lock.exclusive == Some(id))
    }

    /// Gives an exclusive lock back, by whoever holds it.
    pub(super) fn unlock(&mut self, key: Key) {
        self.give_up(&key, |lock| lock.exclusive.take().is_some());
    }

    /// Gives all its locks back, if it has written nothing.
    pub(super) fn unlock_unless_written(&mut self, id: TransactionId) {
        let Some(transaction) = self.transactions.get_mut(&id) else { return };
        if !transaction.has_written() {
            let locks = std::mem::take(&mut transaction.locks);
            locks.iter().for_each(|key| self.release(id, key));
        }
    }

    /// One lock after the other, the last first: in between, others may get theirs.
    fn release(&mut self, id: TransactionId, key: &Key) {
        self.give_up(key, |lock| lock.exclusive.take_if(|holder| *holder == id).is_some());
        self.give_up(key, |lock| lock.shared.remove(&id));
    }

    /// The transaction's statement has ended: it waits no more.
    pub(super) fn stop_waiting(&mut self, id: TransactionId) {
        let waits_for = self.transactions.get_mut(&id).and_then(|transaction| transaction.waits_for.take());
        if let Some((key, _)) = waits_for {
            self.give_up(&key, |lock| lock.leave_queue(id));
        }
    }

    /// Lets others have what is given up, if `what` says that there was something.
    fn give_up(&mut self, key: &Key, what: impl FnOnce(&mut Lock) -> bool) {
        let Some(lock) = self.locks.get_mut(key) else { return };
        if !what(lock) {
            return;
        }
        if lock.is_free() {
            self.locks.remove(key);
        }
        self.releases += 1;
        self.grant(key);
    }

    /// Whether whom it waits for waits, in the end, for it.
    pub(super) fn is_deadlocked(&self, id: TransactionId) -> bool {
        let next = |at: &TransactionId| Some(self.transactions.get(at)?.waits_for?.1);
        // It may wait for a circle that it is no part of.
        std::iter::successors(next(&id), next).take(self.transactions.len()).any(|at| at == id)
    }

    /// A row as `id` sees it: its own change, or what is committed.
    pub(super) fn see(&self, id: Option<TransactionId>, key: Key) -> Option<Row> {
        let own = id.and_then(|id| self.transactions.get(&id)?.changes.get(&key));
        own.copied().unwrap_or_else(|| self.committed.get(&key).copied())
    }

    /// A row as a read of this isolation sees it.
    pub(super) fn look(&self, id: Option<TransactionId>, key: Key, isolation: Isolation) -> Option<Row> {
        let changed_by = match isolation {
            Isolation::Committed => None,
            Isolation::Uncommitted => self.locks.get(&key).and_then(|lock| lock.exclusive),
        };
        let changed = changed_by.and_then(|holder| self.transactions.get(&holder)?.changes.get(&key));
        changed.copied().unwrap_or_else(|| self.see(id, key))
    }

    /// Every row that a read of this isolation sees.
    pub(super) fn all(&self, isolation: Isolation) -> BTreeMap<Key, Row> {
        let mut all = self.committed.clone();
        if isolation == Isolation::Uncommitted {
            for (key, row) in self.transactions.values().flat_map(|transaction| &transaction.changes) {
                match row {
                    Some(row) => all.insert(*key, *row),
                    None => all.remove(key),
                };
            }
        }
        all
    }

    /// Changes a row that the transaction has locked.
    pub(super) fn change(&mut self, id: TransactionId, key: Key, row: Option<Row>) {
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.changes.insert(key, row);
        }
    }

    pub(super) fn note(&mut self, id: TransactionId, note: Note) {
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.notes.push(note);
        }
    }
}

impl From<NotGranted> for super::Stop {
    fn from(NotGranted: NotGranted) -> Self {
        super::Stop::Blocked
    }
}
