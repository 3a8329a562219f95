//! What group commit is worth: durable appends per second by one writer and by 64, and plain SQLite with one
//! transaction for each append, all in one run and on one disk, because only their ratios mean something on
//! another machine.
//!
//! `cargo bench -p concord-coordinator --bench store [-- DIRECTORY]`; the files go to a new directory in
//! DIRECTORY, or where the build's files are. Not to /tmp by default: that may be memory, which syncs nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use concord_coordinator::store::{Durability, Entry, SqliteStore, Store, UnixMillis};
use concord_proto::store::{Begun, BranchSpec, Decided, Ended, Record, record::Kind};
use concord_protocol::{Epoch, Gtid};
use prost::Message as _;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SPAN: Duration = Duration::from_secs(4);

/// What one run measured.
struct Measured {
    appends: u64,
    elapsed: Duration,
    syncs: u64,
    records: u64,
    latencies: Vec<Duration>,
}

impl Measured {
    fn per_second(&self) -> f64 {
        self.appends as f64 / self.elapsed.as_secs_f64()
    }

    fn print(&mut self, name: &str) {
        self.latencies.sort_unstable();
        let at = |part: f64| self.latencies[((self.latencies.len() - 1) as f64 * part) as usize];
        println!(
            "{name:<34} {:>8.0} appends/s {:>7.1} records/sync {:>9.4} syncs/append  p50 {:>8.2?}  p99 {:>8.2?}  max {:>8.2?}",
            self.per_second(),
            self.records as f64 / self.syncs as f64,
            self.syncs as f64 / self.appends as f64,
            at(0.5),
            at(0.99),
            at(1.0),
        );
    }
}

fn main() -> Result<()> {
    let base = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let base = base.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let directory = tempfile::Builder::new().prefix("store-bench-").tempdir_in(base)?;

    let mut plain = one_by_one(&directory.path().join("plain.db"))?;
    plain.print("plain SQLite, one by one");
    let mut alone = run(&directory.path().join("1"), 1)?;
    alone.print("Concord's store, 1 writer");
    let mut many = run(&directory.path().join("64"), 64)?;
    many.print("Concord's store, 64 writers");

    println!();
    println!("1 writer / plain SQLite      {:>6.2}", alone.per_second() / plain.per_second());
    println!("64 writers / plain SQLite    {:>6.2}", many.per_second() / plain.per_second());
    println!("64 writers / 1 writer        {:>6.2}", many.per_second() / alone.per_second());
    Ok(())
}

/// A whole transaction of two branches: the forced append before the commits leave, and the lazy one at the end.
fn transaction(gtid: Gtid) -> (Vec<Entry>, Vec<Entry>) {
    let entry = |kind| Entry { gtid, at: UnixMillis(gtid.unix_ms()), record: Record { kind: Some(kind) } };
    let branches = (1..=2).map(|branch_id| BranchSpec {
        branch_id,
        participant: format!("bank-{branch_id}"),
        action: "transfer".into(),
        ..BranchSpec::default()
    });
    let begun = Begun {
        name: "transfer".into(),
        timeout_ms: 30_000,
        branches: branches.collect(),
        ..Begun::default()
    };
    let decided = Decided { commit: true, branches: vec![1, 2], ..Decided::default() };
    let ended = Ended { committed: true, ..Ended::default() };
    (vec![entry(Kind::Begun(begun)), entry(Kind::Decided(decided))], vec![entry(Kind::Ended(ended))])
}

/// Each writer waits for its forced append before it makes the next; the lazy ones it leaves behind.
fn run(directory: &Path, writers: u64) -> Result<Measured> {
    let store = Arc::new(SqliteStore::open(directory)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let started = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| runtime.spawn(write(Arc::clone(&store), writer, writers, started)))
        .collect();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(runtime.block_on(task)??);
    }
    let elapsed = started.elapsed();
    let counters = store.counters();
    runtime.block_on(store.close())?;
    let appends = latencies.len() as u64;
    Ok(Measured { appends, elapsed, syncs: counters.syncs, records: counters.records, latencies })
}

async fn write(
    store: Arc<SqliteStore>,
    writer: u64,
    writers: u64,
    started: Instant,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    for n in (writer..).step_by(writers as usize) {
        if started.elapsed() > SPAN {
            break;
        }
        let (forced, lazy) =
            transaction(Gtid::compose(1 + started.elapsed().as_millis() as u64, store.epoch(), n));
        let before = Instant::now();
        store.append(forced, Durability::Forced).await?;
        latencies.push(before.elapsed());
        drop(store.append(lazy, Durability::Lazy));
    }
    Ok(latencies)
}

/// The least that a coordinator without group commit would do: the same bytes in one table without indexes,
/// and a synced SQL transaction for each decision.
fn one_by_one(file: &Path) -> Result<Measured> {
    let mut connection = rusqlite::Connection::open(file)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 8000;
         CREATE TABLE record (seq INTEGER PRIMARY KEY, gtid BLOB, at_ms INTEGER, body BLOB);",
    )?;
    let started = Instant::now();
    let (mut latencies, mut last) = (Vec::new(), Vec::new());
    while started.elapsed() < SPAN {
        let gtid = Gtid::compose(1 + started.elapsed().as_millis() as u64, Epoch(1), latencies.len() as u64);
        let (forced, lazy) = transaction(gtid);
        let before = Instant::now();
        let transaction = connection.transaction()?;
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO record (gtid, at_ms, body) VALUES (?1, ?2, ?3)")?;
            for entry in last.iter().chain(&forced) {
                insert.execute((entry.gtid.to_bytes(), entry.at.0 as i64, entry.record.encode_to_vec()))?;
            }
        }
        transaction.commit()?;
        latencies.push(before.elapsed());
        last = lazy;
    }
    let appends = latencies.len() as u64;
    Ok(Measured { appends, elapsed: started.elapsed(), syncs: appends, records: 3 * appends - 1, latencies })
}
