//! A store with a past, and what it may answer after that.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use concord_proto::store::Record;
use concord_proto::store::record::Kind;
use tempfile::TempDir;

use super::super::*;
use crate::store::conformance::{begun, decided, ended, gtid, registered, run};

/// Transactions of the past. Enough for trees of several pages.
const TRANSACTIONS: u64 = 48;
/// Of these, those that are on record when the store is closed once: the others are in the log only.
const BEFORE: u64 = 36;

/// The records of every transaction.
pub(super) type State = BTreeMap<Gtid, Vec<(UnixMillis, Record)>>;

/// Files as a crash leaves them.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) store: Vec<u8>,
    pub(super) log: Vec<u8>,
    pub(super) watermark: Vec<u8>,
}

impl Files {
    fn names(directory: &Path) -> [PathBuf; 3] {
        ["concord.db", "concord.db-wal", "concord.acknowledged"].map(|name| directory.join(name))
    }

    fn read(directory: &Path) -> Files {
        let [store, log, watermark] = Files::names(directory).map(|file| fs::read(file).unwrap_or_default());
        Files { store, log, watermark }
    }

    pub(super) fn write(&self, directory: &Path) {
        let [store, log, watermark] = Files::names(directory);
        fs::write(store, &self.store).unwrap();
        fs::write(log, &self.log).unwrap();
        fs::write(watermark, &self.watermark).unwrap();
    }
}

/// What a store did, and what it may be like afterwards.
#[derive(Debug)]
pub(super) struct History {
    /// After the last acknowledgement, and after the lazy append since.
    possible: Vec<State>,
    /// The log only grows from one to the next.
    pub(super) moments: Vec<Moment>,
    /// Where it is played.
    directory: TempDir,
}

/// The moment of an acknowledgement.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) files: Files,
    pub(super) state: State,
}

/// What came of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The store does not open.
    Refused,
    /// It opens and does not load: the coordinator does not start.
    NotLoaded,
    /// It loads; something else cannot be read.
    NotRead,
    /// A key that was used is not known. See the module `sqlite`.
    KeyUnknown,
    /// Everything is there.
    Whole,
}

impl History {
    /// Plays it, and answers with what a `kill -9` leaves, and with what a clean end leaves.
    pub(super) fn play() -> (History, Files, Files) {
        let directory = in_memory();
        let mut state = State::new();
        let store = open(directory.path());
        for n in 0..BEFORE {
            append(&store, &mut state, transaction(n), Durability::Forced);
        }
        run(store.close()).unwrap();
        drop(store);
        let store = open(directory.path());
        let mut moments = Vec::new();
        for n in BEFORE..TRANSACTIONS {
            append(&store, &mut state, transaction(n), Durability::Forced);
            moments.push(Moment { files: Files::read(directory.path()), state: state.clone() });
        }
        let mut possible = vec![state.clone()];
        append(&store, &mut state, vec![ended(TRANSACTIONS - 1, 99, true)], Durability::Lazy);
        possible.push(state);
        store.queue.hold();
        let crashed = Files::read(directory.path());
        drop(store);
        let closed = Files::read(directory.path());
        assert!(crashed.log.len() > 50 * 4_096 && closed.log.is_empty(), "{}", crashed.log.len());
        assert!(closed.store.len() > 15 * 4_096, "{}", closed.store.len());
        (History { possible, moments, directory: in_memory() }, crashed, closed)
    }

    /// The transactions that are live in the end.
    pub(super) fn live(&self) -> Vec<Gtid> {
        let last = self.possible.last().map(live_of).unwrap_or_default();
        last.into_iter().map(|live| live.gtid).collect()
    }

    /// Opens a store with these files and asks it everything.
    ///
    /// # Panics
    /// When it answers anything that is wrong.
    pub(super) fn judge(&self, files: &Files, what: &str) -> Verdict {
        self.judge_by(&self.possible, files, what)
    }

    /// The same, where the answers are to be those of one of these.
    pub(super) fn judge_by(&self, possible: &[State], files: &Files, what: &str) -> Verdict {
        files.write(self.directory.path());
        let store = match SqliteStore::open(self.directory.path()) {
            Ok(store) => store,
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("concord."), "{what}: {error}");
                let left = Files::read(self.directory.path());
                // Where all was there that must be, the epoch may have been raised before SQLite stumbles.
                let is_missed = error.contains("were acknowledged") || error.contains("should have");
                let is_changed = left.store != files.store || left.log != files.log;
                assert!(!(is_missed && is_changed), "{what}: not left alone: {error}");
                return Verdict::Refused;
            }
        };
        run(question(&store, possible, what))
    }
}

async fn question(store: &SqliteStore, possible: &[State], what: &str) -> Verdict {
    let Ok(live) = store.load_live().await else { return Verdict::NotLoaded };
    let mut read = BTreeMap::new();
    for gtid in possible[0].keys() {
        read.insert(gtid, store.get(*gtid).await);
    }
    let differences = |state: &State| {
        let is_other = |(gtid, records): &(&Gtid, &Vec<_>)| {
            read[gtid].as_ref().is_ok_and(|found| found.as_ref().map(|found| &found.records) != Some(records))
        };
        let mut others: Vec<_> = state.iter().filter(is_other).map(|(gtid, _)| gtid.to_string()).collect();
        if live != live_of(state) {
            others.push(format!("{} live", live.len()));
        }
        others
    };
    let is_possible = possible.iter().any(|state| differences(state).is_empty());
    assert!(is_possible, "{what}: it answers wrongly about {:?}", differences(&possible[0]));
    if read.values().any(Result::is_err) {
        return Verdict::NotRead;
    }
    for n in 0..possible[0].len() as u64 {
        match store.find_key(format!("key {n}")).await {
            Ok(Some(found)) => assert_eq!(found, gtid(n), "{what}"),
            Ok(None) => return Verdict::KeyUnknown,
            Err(_) => return Verdict::NotRead,
        }
    }
    Verdict::Whole
}

/// Decided, or refused; some have ended.
fn transaction(n: u64) -> Vec<Entry> {
    let commit = !n.is_multiple_of(3);
    let mut entries = vec![
        begun(n, &format!("transaction {n} {}", "x".repeat(150)), &format!("key {n}")),
        registered(n, 1),
        registered(n, 2),
        decided(n, commit),
    ];
    if n % 4 == 1 {
        entries.push(ended(n, n, commit));
    }
    entries
}

fn append(store: &SqliteStore, state: &mut State, entries: Vec<Entry>, durability: Durability) {
    for entry in &entries {
        state.entry(entry.gtid).or_default().push((entry.at, entry.record.clone()));
    }
    run(store.append(entries, durability)).unwrap();
}

fn has_ended(records: &[(UnixMillis, Record)]) -> bool {
    records.iter().any(|(_, record)| matches!(record.kind, Some(Kind::Ended(_))))
}

fn live_of(state: &State) -> Vec<Stored> {
    let live = state.iter().filter(|(_, records)| !has_ended(records));
    live.map(|(gtid, records)| Stored { gtid: *gtid, records: records.clone() }).collect()
}

fn open(directory: &Path) -> SqliteStore {
    SqliteStore::open_with(directory, Options { lazy_delay: Duration::ZERO, ..Options::default() }).unwrap()
}

/// Where a sync costs nothing, if there is such a place: thousands of stores are opened.
fn in_memory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}
