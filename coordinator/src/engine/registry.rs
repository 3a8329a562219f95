//! The live transactions, by gtid and by idempotency key.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use concord_protocol::Gtid;
use tokio::sync::Notify;

use super::live::Live;
use super::snapshot::{BranchSpec, Header};
use crate::store::Walk;

/// Keys are looked up under one of these locks, so that two calls with one key cannot both find nothing.
const KEY_SHARDS: usize = 64;

/// A listing takes so many at a time: the others need not wait for it.
const LISTED_AT_ONCE: usize = 256;

/// Names that nobody uses any more are forgotten when there are twice as many as were in use, and more than this.
const NAMES_MIN: usize = 1024;

type Keys = HashMap<String, Gtid>;

/// Addresses and actions, of which there are few: all transactions share one copy of each.
#[derive(Default)]
struct Names {
    known: HashSet<Arc<str>>,
    /// How many there are when it is time to forget some.
    limit: usize,
}

impl Names {
    fn share(&mut self, name: &mut Arc<str>) {
        if let Some(known) = self.known.get(name) {
            *name = Arc::clone(known);
            return;
        }
        if self.known.len() >= self.limit {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.limit = NAMES_MIN.max(2 * self.known.len());
        }
        self.known.insert(Arc::clone(name));
    }
}

/// Why there is no room for a transaction, with the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Coordinator(usize),
    Tenant(usize),
}

pub(crate) struct Registry {
    by_gtid: Mutex<BTreeMap<Gtid, Arc<Live>>>,
    /// How many of each tenant are live. Locked while `by_gtid` is.
    of_tenants: Mutex<HashMap<String, usize>>,
    keys: [tokio::sync::Mutex<()>; KEY_SHARDS],
    by_key: Mutex<Keys>,
    names: Mutex<Names>,
    /// Woken when a transaction has left.
    pub(crate) left: Notify,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Registry {
            by_gtid: Mutex::default(),
            of_tenants: Mutex::default(),
            keys: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            by_key: Mutex::default(),
            names: Mutex::default(),
            left: Notify::new(),
        }
    }

    pub(crate) fn get(&self, gtid: Gtid) -> Option<Arc<Live>> {
        self.lock().get(&gtid).cloned()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The one that was issued first.
    pub(crate) fn oldest(&self) -> Option<Arc<Live>> {
        self.lock().first_key_value().map(|(_, live)| Arc::clone(live))
    }

    /// Adds a transaction unless as many are live as `limits` says: in all, and of its tenant.
    pub(crate) fn insert(&self, live: Arc<Live>, limits: [Option<usize>; 2]) -> Result<(), Full> {
        let mut by_gtid = self.lock();
        let [in_all, of_tenant] = limits;
        if let Some(limit) = in_all.filter(|limit| by_gtid.len() >= *limit) {
            return Err(Full::Coordinator(limit));
        }
        let tenant = &live.header.tenant;
        if !tenant.is_empty() {
            let mut of_tenants = self.of_tenants.lock().unwrap_or_else(PoisonError::into_inner);
            let count = of_tenants.get(tenant).copied().unwrap_or_default();
            if let Some(limit) = of_tenant.filter(|limit| count >= *limit) {
                return Err(Full::Tenant(limit));
            }
            of_tenants.insert(tenant.clone(), count + 1);
        }
        let key = &live.header.idempotency_key;
        if !key.is_empty() {
            self.lock_keys().insert(key.clone(), live.gtid);
        }
        by_gtid.insert(live.gtid, live);
        Ok(())
    }

    pub(crate) fn remove(&self, gtid: Gtid) {
        let mut by_gtid = self.lock();
        if let Some(live) = by_gtid.remove(&gtid) {
            let Header { idempotency_key, tenant, .. } = &live.header;
            if !idempotency_key.is_empty() {
                self.lock_keys().remove(idempotency_key);
            }
            if !tenant.is_empty() {
                let mut of_tenants = self.of_tenants.lock().unwrap_or_else(PoisonError::into_inner);
                match of_tenants.get_mut(tenant) {
                    Some(count) if *count > 1 => *count -= 1,
                    _ => drop(of_tenants.remove(tenant)),
                }
            }
        }
        drop(by_gtid);
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

    /// Live transactions, newest first. What leaves meanwhile may be left out.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = Arc<Live>> {
        self.walk(Walk::Back(None))
    }

    /// Live transactions. What leaves meanwhile may be left out.
    pub(crate) fn walk(&self, walk: Walk) -> impl Iterator<Item = Arc<Live>> {
        let mut next = Some(walk);
        std::iter::from_fn(move || {
            let walk = next?;
            let some = self.some(walk);
            next = some.last().map(|last| walk.after(last.gtid));
            Some(some)
        })
        .flatten()
    }

    fn some(&self, walk: Walk) -> Vec<Arc<Live>> {
        let by_gtid = self.lock();
        let end = |gtid: Option<Gtid>| gtid.map_or(Bound::Unbounded, Bound::Excluded);
        let live = |(_, live): (&Gtid, &Arc<Live>)| Arc::clone(live);
        match walk {
            Walk::Back(before) => {
                let range = by_gtid.range((Bound::Unbounded, end(before)));
                range.rev().take(LISTED_AT_ONCE).map(live).collect()
            }
            Walk::Forth(after) => {
                let range = by_gtid.range((end(after), Bound::Unbounded));
                range.take(LISTED_AT_ONCE).map(live).collect()
            }
        }
    }

    /// Lets a branch share its participant's address and its action with those that have the same.
    pub(crate) fn share_names(&self, spec: &mut BranchSpec) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.share(&mut spec.participant);
        names.share(&mut spec.action);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Gtid, Arc<Live>>> {
        self.by_gtid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_keys(&self) -> MutexGuard<'_, Keys> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
