//! A store in memory, for tests: it forgets what was not synced when the test says "crash".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use concord_proto::store::{Record, record::Kind};
use concord_protocol::{ClusterId, Epoch, Gtid};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::{Counters, Durability, Entry, Filter, Owner, Reign, Store, StoreError, Stored, UnixMillis};

/// A store that keeps the whole contract but for the medium: its "disk" is another part of memory, and a
/// [crash](Self::crash) leaves what is on that disk.
///
/// A test can [pause](Self::pause) it, to see what happens while nothing becomes durable, and make it
/// [fail](Self::fail_next).
#[derive(Debug)]
pub struct MemoryStore {
    cluster_id: ClusterId,
    epoch: Epoch,
    is_shared: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What a crash leaves.
    synced: Content,
    /// What was written since, oldest first; a crash leaves a prefix of it.
    unsynced: Vec<Operation>,
    /// What can be read: `synced` and `unsynced`.
    written: Content,
    /// What was appended while the store was paused.
    waiting: Vec<Waiting>,
    paused: bool,
    fail_next: Option<Arc<str>>,
    over: Option<StoreError>,
    counters: Counters,
    /// Epochs of other coordinators, and whether they are over.
    others: BTreeMap<Epoch, bool>,
}

/// One append, or one purge: what is on disk as a whole or not at all.
#[derive(Debug, Clone)]
enum Operation {
    Append(Vec<Entry>),
    Purge { before: UnixMillis, limit: usize },
}

#[derive(Debug)]
struct Waiting {
    operation: Operation,
    forced: bool,
    /// Answers the number of transactions that were purged.
    done: oneshot::Sender<Result<usize, StoreError>>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// A new, empty store, in its first epoch.
    pub fn new() -> Self {
        Self::with_cluster_id(ClusterId(rand::random()))
    }

    /// A new, empty store whose identity the test knows.
    pub fn with_cluster_id(cluster_id: ClusterId) -> Self {
        MemoryStore { cluster_id, epoch: Epoch(1), is_shared: false, state: Mutex::default() }
    }

    /// The same, as one that other coordinators could share: so the engine is as careful as it has to be there.
    pub fn shared(self) -> Self {
        MemoryStore { is_shared: true, ..self }
    }

    /// From now on appends wait.
    pub fn pause(&self) {
        self.lock().paused = true;
    }

    /// Writes all that waits, in one commit, and goes on.
    pub fn resume(&self) {
        let mut state = self.lock();
        state.paused = false;
        let waiting = std::mem::take(&mut state.waiting);
        state.commit(waiting);
    }

    /// The next commit fails, and with it the store.
    pub fn fail_next(&self, reason: &str) {
        self.lock().fail_next = Some(reason.into());
    }

    /// An epoch of another coordinator, which is over from the second time on that this store is asked about it.
    pub fn ends_soon(&self, epoch: Epoch) {
        self.lock().others.insert(epoch, false);
    }

    /// How many appends (and purges) a crash could lose now.
    pub fn unsynced(&self) -> usize {
        let state = self.lock();
        state.unsynced.len() + state.waiting.len()
    }

    /// Pulls the plug, and gives back the store as it is found after the restart: all that was synced, and of
    /// what was not, the first `survivors` appends. Whatever waited for this store gets
    /// [`StoreError::Closed`], although in a real crash nobody would be left to hear it.
    pub fn crash(&self, survivors: usize) -> MemoryStore {
        let mut state = self.lock();
        let state = &mut *state;
        let waiting = std::mem::take(&mut state.waiting);
        let mut disk = state.synced.clone();
        let lost = state.unsynced.iter().chain(waiting.iter().map(|waiting| &waiting.operation));
        for operation in lost.take(survivors) {
            disk.apply(operation);
        }
        state.over = Some(StoreError::Closed);
        for waiting in waiting {
            let _ = waiting.done.send(Err(StoreError::Closed));
        }
        MemoryStore {
            cluster_id: self.cluster_id,
            epoch: Epoch(self.epoch.0.saturating_add(1)),
            is_shared: self.is_shared,
            state: Mutex::new(State { written: disk.clone(), synced: disk, ..State::default() }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&self, operation: Operation, forced: bool) -> BoxFuture<'static, Result<usize, StoreError>> {
        let (done, result) = oneshot::channel();
        let mut state = self.lock();
        let waiting = Waiting { operation, forced, done };
        if let Some(error) = &state.over {
            let _ = waiting.done.send(Err(error.clone()));
        } else if state.paused {
            state.waiting.push(waiting);
        } else {
            state.commit(vec![waiting]);
        }
        drop(state);
        Box::pin(async move { result.await.unwrap_or(Err(StoreError::Closed)) })
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Content) -> T,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        let state = self.lock();
        let value = match &state.over {
            Some(StoreError::Closed) => Err(StoreError::Closed),
            // A store that failed can still be read.
            _ => Ok(read(&state.written)),
        };
        Box::pin(async move { value })
    }
}

impl State {
    fn commit(&mut self, batch: Vec<Waiting>) {
        if batch.is_empty() {
            return;
        }
        if let Some(reason) = self.fail_next.take() {
            self.over = Some(StoreError::Failed(reason));
        }
        if let Some(error) = &self.over {
            for waiting in batch {
                let _ = waiting.done.send(Err(error.clone()));
            }
            return;
        }
        let forced = batch.iter().any(|waiting| waiting.forced);
        let mut answers = Vec::new();
        for Waiting { operation, done, .. } in batch {
            if let Operation::Append(entries) = &operation {
                self.counters.records += entries.len() as u64;
            }
            answers.push((done, self.written.apply(&operation)));
            self.unsynced.push(operation);
        }
        self.counters.commits += 1;
        if forced {
            self.sync();
            self.counters.syncs += 1;
        }
        for (done, count) in answers {
            let _ = done.send(Ok(count));
        }
    }

    fn sync(&mut self) {
        for operation in self.unsynced.drain(..) {
            self.synced.apply(&operation);
        }
    }
}

impl Store for MemoryStore {
    fn cluster_id(&self) -> ClusterId {
        self.cluster_id
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }

    fn append(
        &self,
        entries: Vec<Entry>,
        durability: Durability,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let result = self.submit(Operation::Append(entries), durability == Durability::Forced);
        Box::pin(async move { result.await.map(|_| ()) })
    }

    fn load_live(&self) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        self.read(|content| content.live.iter().filter_map(|gtid| content.get(*gtid)).collect())
    }

    fn get(&self, gtid: Gtid) -> BoxFuture<'static, Result<Option<Stored>, StoreError>> {
        self.read(|content| content.get(gtid))
    }

    fn list_ended(&self, filter: Filter) -> BoxFuture<'static, Result<Vec<Stored>, StoreError>> {
        self.read(|content| content.list_ended(&filter))
    }

    fn find_key(&self, key: String) -> BoxFuture<'static, Result<Option<Gtid>, StoreError>> {
        self.read(|content| content.keys.get(&key).and_then(|gtids| gtids.first().copied()))
    }

    fn reign(&self, epoch: Epoch) -> BoxFuture<'static, Result<Reign, StoreError>> {
        let reign = match self.lock().others.get_mut(&epoch) {
            Some(is_over) => {
                let owner = Owner::Other { address: "elsewhere".into() };
                Reign { owner, is_over: std::mem::replace(is_over, true) }
            }
            None => Reign { owner: Owner::Us, is_over: epoch < self.epoch },
        };
        Box::pin(async move { Ok(reign) })
    }

    fn purge(&self, before: UnixMillis, limit: usize) -> BoxFuture<'static, Result<usize, StoreError>> {
        self.submit(Operation::Purge { before, limit }, false)
    }

    fn counters(&self) -> Counters {
        self.lock().counters
    }

    fn close(&self) -> BoxFuture<'static, Result<(), StoreError>> {
        self.resume();
        let mut state = self.lock();
        let result = match &state.over {
            None | Some(StoreError::Closed) => Ok(()),
            Some(error) => Err(error.clone()),
        };
        if result.is_ok() {
            state.sync();
            state.over = Some(StoreError::Closed);
        }
        Box::pin(async move { result })
    }
}

/// Transactions, and what they are looked up by.
#[derive(Debug, Clone, Default)]
struct Content {
    transactions: BTreeMap<Gtid, Transaction>,
    live: BTreeSet<Gtid>,
    keys: BTreeMap<String, BTreeSet<Gtid>>,
}

#[derive(Debug, Clone, Default)]
struct Transaction {
    records: Vec<(UnixMillis, Record)>,
    name: String,
    key: String,
    /// When, and whether committed.
    ended: Option<(UnixMillis, bool)>,
}

impl Content {
    /// Answers the number of transactions that were purged.
    fn apply(&mut self, operation: &Operation) -> usize {
        match operation {
            Operation::Append(entries) => {
                for entry in entries {
                    self.append(entry);
                }
                0
            }
            Operation::Purge { before, limit } => self.purge(*before, *limit),
        }
    }

    fn append(&mut self, entry: &Entry) {
        let transaction = self.transactions.entry(entry.gtid).or_default();
        match &entry.record.kind {
            Some(Kind::Begun(begun)) => {
                transaction.name.clone_from(&begun.name);
                let old = std::mem::replace(&mut transaction.key, begun.idempotency_key.clone());
                forget_key(&mut self.keys, &old, entry.gtid);
                if !begun.idempotency_key.is_empty() {
                    self.keys.entry(begun.idempotency_key.clone()).or_default().insert(entry.gtid);
                }
            }
            Some(Kind::Ended(ended)) => {
                transaction.ended.get_or_insert((entry.at, ended.committed));
            }
            _ => {}
        }
        transaction.records.push((entry.at, entry.record.clone()));
        if transaction.ended.is_some() {
            self.live.remove(&entry.gtid);
        } else {
            self.live.insert(entry.gtid);
        }
    }

    fn purge(&mut self, before: UnixMillis, limit: usize) -> usize {
        let mut ended: Vec<(UnixMillis, Gtid)> = self
            .transactions
            .iter()
            .filter_map(|(gtid, transaction)| transaction.ended.map(|(at, _)| (at, *gtid)))
            .filter(|(at, _)| *at < before)
            .collect();
        ended.sort_unstable();
        ended.truncate(limit);
        for (_, gtid) in &ended {
            if let Some(transaction) = self.transactions.remove(gtid) {
                forget_key(&mut self.keys, &transaction.key, *gtid);
            }
        }
        ended.len()
    }

    fn get(&self, gtid: Gtid) -> Option<Stored> {
        self.transactions.get(&gtid).map(|transaction| Stored { gtid, records: transaction.records.clone() })
    }

    fn list_ended(&self, filter: &Filter) -> Vec<Stored> {
        self.transactions
            .iter()
            .rev()
            .filter(|(gtid, transaction)| {
                transaction
                    .ended
                    .is_some_and(|(_, committed)| filter.committed.is_none_or(|wanted| wanted == committed))
                    && filter.name.as_ref().is_none_or(|name| *name == transaction.name)
                    && filter.before.is_none_or(|before| **gtid < before)
            })
            .take(filter.limit)
            .filter_map(|(gtid, _)| self.get(*gtid))
            .collect()
    }
}

fn forget_key(keys: &mut BTreeMap<String, BTreeSet<Gtid>>, key: &str, gtid: Gtid) {
    if let Some(gtids) = keys.get_mut(key) {
        gtids.remove(&gtid);
        if gtids.is_empty() {
            keys.remove(key);
        }
    }
}
