//! The live transactions, by gtid and by idempotency key.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use concord_protocol::Gtid;
use tokio::sync::Notify;

use super::live::Live;

/// Keys are looked up under one of these locks, so that two calls with one key cannot both find nothing.
const KEY_SHARDS: usize = 64;

type Keys = HashMap<String, Gtid>;

pub(crate) struct Registry {
    by_gtid: Mutex<BTreeMap<Gtid, Arc<Live>>>,
    keys: [tokio::sync::Mutex<()>; KEY_SHARDS],
    by_key: Mutex<Keys>,
    /// Woken when a transaction has left.
    pub(crate) left: Notify,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Registry {
            by_gtid: Mutex::default(),
            keys: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            by_key: Mutex::default(),
            left: Notify::new(),
        }
    }

    pub(crate) fn get(&self, gtid: Gtid) -> Option<Arc<Live>> {
        self.lock().get(&gtid).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Adds a transaction unless `limit` are live.
    pub(crate) fn insert(&self, live: Arc<Live>, limit: usize) -> bool {
        let mut by_gtid = self.lock();
        if by_gtid.len() >= limit {
            return false;
        }
        let key = &live.header.idempotency_key;
        if !key.is_empty() {
            self.lock_keys().insert(key.clone(), live.gtid);
        }
        by_gtid.insert(live.gtid, live);
        true
    }

    pub(crate) fn remove(&self, gtid: Gtid) {
        if let Some(live) = self.lock().remove(&gtid)
            && !live.header.idempotency_key.is_empty()
        {
            self.lock_keys().remove(&live.header.idempotency_key);
        }
        self.left.notify_waiters();
    }

    /// Holds the key for one caller, from looking it up to inserting its transaction. Without a key there is
    /// nothing to hold.
    pub(crate) async fn hold_key(&self, key: &str) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if key.is_empty() {
            return None;
        }
        // The same in every run: a key chosen to share a lock with others waits for them, and no more.
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let shard = hasher.finish() as usize % KEY_SHARDS;
        Some(self.keys[shard].lock().await)
    }

    pub(crate) fn by_key(&self, key: &str) -> Option<Arc<Live>> {
        let gtid = self.lock_keys().get(key).copied()?;
        self.get(gtid)
    }

    /// Live transactions issued before `before`, newest first.
    pub(crate) fn newest_first(&self, before: Option<Gtid>) -> Vec<Arc<Live>> {
        let by_gtid = self.lock();
        match before {
            Some(gtid) => by_gtid.range(..gtid).rev().map(|(_, live)| Arc::clone(live)).collect(),
            None => by_gtid.values().rev().map(Arc::clone).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Gtid, Arc<Live>>> {
        self.by_gtid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_keys(&self) -> MutexGuard<'_, Keys> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
