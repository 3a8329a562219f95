//! What only this store can be asked: files, locks, other processes, full disks, damage.

use std::fs;
use std::path::PathBuf;

use rusqlite::Connection;
use tempfile::TempDir;

use super::directory::{length, wal_file};
use super::*;
use crate::store::conformance::{Crash, Subject, begun, decided, ended, gtid, registered, run};
use crate::store::row::checksum;

/// A data directory, for the suite.
pub(in crate::store) struct SqliteSubject(TempDir);

impl Subject for SqliteSubject {
    type Store = SqliteStore;

    fn create() -> (Self, SqliteStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path()).unwrap();
        (SqliteSubject(directory), store)
    }

    /// Copies what is on disk. A power failure also cuts the log, somewhere behind what was synced of it; that
    /// is exact as long as the log only grows, that is, for less than 32 MiB.
    fn crash(self, store: SqliteStore, how: Crash) -> (Self, SqliteStore) {
        store.queue.hold();
        let left = tempfile::tempdir().unwrap();
        for name in ["concord.db", "concord.db-wal", "concord.acknowledged"] {
            fs::copy(self.0.path().join(name), left.path().join(name)).unwrap();
        }
        if let Crash::Power(part) = how {
            let wal = left.path().join("concord.db-wal");
            let written = length(&wal);
            let synced = store.faults.synced_length.load(Ordering::SeqCst).min(written);
            let kept = synced + (written - synced) * u64::from(part) / 255;
            fs::File::options().write(true).open(&wal).unwrap().set_len(kept).unwrap();
        }
        drop(store);
        let store = SqliteStore::open(left.path()).unwrap();
        (SqliteSubject(left), store)
    }

    fn reopen(&self, store: SqliteStore) -> SqliteStore {
        // The lock is free before the old one is dropped.
        let new = SqliteStore::open(self.0.path()).unwrap();
        drop(store);
        new
    }

    fn hold(store: &SqliteStore) {
        store.queue.hold();
    }

    fn release(store: &SqliteStore) {
        store.queue.release();
    }

    fn fail_next_sync(store: &SqliteStore) {
        store.faults.fail_sync.store(true, Ordering::SeqCst);
    }
}

async fn force(store: &SqliteStore, entries: Vec<Entry>) {
    store.append(entries, Durability::Forced).await.unwrap();
}

/// A directory with two live transactions and an ended one, closed.
fn sample() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    run(async {
        force(&store, vec![begun(1, "marker-one", "key"), decided(1, true)]).await;
        force(&store, vec![begun(2, "marker-two", "")]).await;
        force(&store, vec![begun(3, "marker-three", ""), ended(3, 30, true)]).await;
        store.close().await.unwrap();
    });
    let file = directory.path().join("concord.db");
    (directory, file)
}

#[test]
fn syncs_and_batches_are_measured() {
    let (directory, metrics) = (tempfile::tempdir().unwrap(), Metrics::default());
    let store = SqliteStore::open_measured(directory.path(), &metrics).unwrap();
    run(async {
        for number in 1..=3 {
            force(&store, vec![begun(number, "", ""), decided(number, true)]).await;
        }
    });
    let Counters { syncs, records, commits } = store.counters();
    assert_eq!((syncs, records), (3, 6));
    let [count, seconds] = metrics.count_and_sum("log_sync_seconds");
    assert_eq!(count, syncs as f64);
    assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
    assert_eq!(metrics.count_and_sum("log_batch_records"), [commits as f64, records as f64]);
}

/// See `checkpoints`.
#[test]
fn checkpoints_may_be_made_beside_commits() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
}

#[test]
fn rule_8_a_second_owner_in_this_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = SqliteStore::open(directory.path()).unwrap();
    let error = SqliteStore::open(directory.path()).unwrap_err();
    let own = std::process::id();
    assert!(matches!(error, StoreError::InUse { pid: Some(pid), .. } if pid == own), "{error}");
    assert!(error.to_string().contains(&format!("(process {own})")), "{error}");
    run(async { force(&first, vec![begun(1, "", "")]).await });
    drop(first);
    let second = SqliteStore::open(directory.path()).unwrap();
    assert_eq!(second.epoch(), Epoch(2), "the refused one did not raise it");
}

/// What the process before has left in the log may never have been synced: it is acted on once it is safe, or not at all.
#[test]
fn it_is_not_opened_while_a_reader_keeps_the_log_from_being_moved() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    run(force(&store, vec![begun(1, "", "")]));
    let left = tempfile::tempdir().unwrap();
    for name in ["concord.db", "concord.db-wal", "concord.acknowledged"] {
        fs::copy(directory.path().join(name), left.path().join(name)).unwrap();
    }
    drop(store);
    let reader = Connection::open(left.path().join("concord.db")).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM record").unwrap();
    let refused = SqliteStore::open(left.path()).unwrap_err();
    assert!(refused.to_string().contains("another program has been reading it"), "{refused}");
    reader.execute_batch("COMMIT").unwrap();
    let store = SqliteStore::open(left.path()).unwrap();
    assert_eq!((run(store.load_live()).unwrap().len(), store.epoch()), (1, Epoch(2)));
}

#[test]
fn a_store_that_failed_keeps_its_lock_until_it_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    SqliteSubject::fail_next_sync(&store);
    run(async { store.append(vec![begun(1, "", "")], Durability::Forced).await }).unwrap_err();
    assert!(matches!(SqliteStore::open(directory.path()), Err(StoreError::InUse { .. })));
    drop(store);
    SqliteStore::open(directory.path()).unwrap();
}

#[test]
fn rule_10_a_newer_schema_is_refused_and_left_alone() {
    let (directory, file) = sample();
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = fs::read(&file).unwrap();
    let error = SqliteStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 99, known: 3, .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn rule_10_an_older_schema_is_migrated() {
    const NEXT: &[&str] = &[
        schema::MIGRATIONS[0],
        schema::MIGRATIONS[1],
        schema::MIGRATIONS[2],
        "ALTER TABLE ended ADD COLUMN note TEXT;",
    ];
    let (directory, file) = sample();
    let store =
        SqliteStore::open_with(directory.path(), Options { migrations: NEXT, ..Options::default() }).unwrap();
    assert_eq!(run(store.load_live()).unwrap().len(), 2);
    drop(store);
    Connection::open(&file).unwrap().query_row("SELECT count(note) FROM ended", [], |_| Ok(())).unwrap();
    let error = SqliteStore::open(directory.path()).unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 4, known: 3, .. }), "{error}");
}

#[test]
fn rule_10_a_migration_that_fails_changes_nothing() {
    const BROKEN: &[&str] = &[
        schema::MIGRATIONS[0],
        schema::MIGRATIONS[1],
        schema::MIGRATIONS[2],
        "DROP TABLE record; SELECT no_such_function();",
    ];
    let (directory, _file) = sample();
    let options = Options { migrations: BROKEN, ..Options::default() };
    assert!(matches!(SqliteStore::open_with(directory.path(), options), Err(StoreError::Open { .. })));
    assert_eq!(run(SqliteStore::open(directory.path()).unwrap().load_live()).unwrap().len(), 2);
}

#[test]
fn files_of_others_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("concord.db");
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    let error = SqliteStore::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("database of another program"), "{error}");

    fs::write(&file, "not a database, but longer than the header of one would be. ".repeat(10)).unwrap();
    let error = SqliteStore::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("not an SQLite database"), "{error}");

    let error = SqliteStore::open(&file).unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
}

/// Changes the closed file with SQL, and answers what opening it then says.
fn refused(sql: &str) -> String {
    let (directory, file) = sample();
    let connection = Connection::open(&file).unwrap();
    assert!(connection.execute(sql, []).unwrap() > 0, "{sql}: changed nothing");
    drop(connection);
    let before = fs::read(&file).unwrap();
    let error = SqliteStore::open(directory.path()).expect_err(sql).to_string();
    assert!(error.contains("concord.db"), "{error}");
    assert!(fs::read(&file).unwrap() == before, "{sql}: what was refused is changed");
    error
}

/// Changes the closed file with SQL and seals it anew, and answers what reading it then says.
fn damaged(sql: &str) -> String {
    let (directory, file) = sample();
    let connection = Connection::open(&file).unwrap();
    assert!(connection.execute(sql, []).unwrap() > 0, "{sql}: changed nothing");
    let reseal =
        "UPDATE seal SET (records, checksums) = (SELECT count(*), coalesce(sum(crc), 0) FROM record)";
    assert_eq!(connection.execute(reseal, []).unwrap(), 1);
    drop(connection);
    let store = match SqliteStore::open(directory.path()) {
        Ok(store) => store,
        Err(error) => return error.to_string(),
    };
    let result = run(async {
        store.load_live().await?;
        store.list_ended(Filter { limit: 10, ..Filter::default() }).await?;
        store.get(gtid(3)).await
    });
    result.expect_err(sql).to_string()
}

#[test]
fn damage_is_noticed() {
    for column in ["at_ms = at_ms + 1", "crc = crc + 4", "seq = seq + 64", "epoch = epoch + 1"] {
        let error = damaged(&format!("UPDATE record SET {column} WHERE seq = 1"));
        assert!(error.contains("checksum"), "{column}: {error}");
    }
    // Still a valid record: only the checksum tells.
    let error = damaged(
        "UPDATE record SET body = CAST(replace(body, 'marker-one', 'marker-ome') AS BLOB) WHERE seq = 0",
    );
    assert!(error.contains(&gtid(1).to_string()) && error.contains("checksum"), "{error}");
    // A record that moved to another transaction.
    let error = damaged("UPDATE record SET gtid = (SELECT max(gtid) FROM record) WHERE seq = 0");
    assert!(error.contains("checksum"), "{error}");
    assert!(damaged("UPDATE ended SET committed = 0").contains("outcome"));
    assert!(damaged("UPDATE ended SET rows = x''").contains("outcome"));
    assert!(damaged("UPDATE ended SET rows = x'ff'").contains("told apart"));
    assert!(damaged("UPDATE ended SET records = records + 1").contains("some of its records are missing"));
    assert!(
        damaged("UPDATE ended SET checksums = checksums - 1").contains("some of its records are missing")
    );
    // Two transactions in one place, and one in another's.
    assert!(damaged("UPDATE ended SET gtid = (SELECT min(gtid) FROM record)").contains("still in the log"));
    assert!(
        damaged("UPDATE ended SET gtid = CAST(replace(gtid, x'03', x'04') AS BLOB)").contains("checksum")
    );
    let marker = damaged(
        "UPDATE ended SET rows = CAST(replace(CAST(rows AS TEXT), 'marker-three', 'marker-thref') AS BLOB)",
    );
    assert!(marker.contains("checksum") || marker.contains("told apart"), "{marker}");
    assert!(damaged("UPDATE meta SET value = x'0000000000000000' WHERE key = 'epoch'").contains("epoch"));
    assert!(damaged("UPDATE meta SET crc = crc + 1 WHERE key = 'cluster_id'").contains("cluster_id"));
    assert!(damaged("DELETE FROM meta WHERE key = 'epoch'").contains("missing"));
}

#[test]
fn what_is_missing_is_noticed() {
    // Of a live transaction: the decision, everything, its place in the index.
    assert!(refused("DELETE FROM record WHERE seq = 1").contains("live transactions have 2 records"));
    assert!(refused("DELETE FROM record WHERE seq = 2").contains("and should have 3"));
    assert!(refused("DELETE FROM record").contains("have 0 records"));
    // One too many.
    let again = "INSERT INTO record SELECT gtid, epoch + 9, seq, at_ms, crc, body FROM record WHERE seq = 0";
    assert!(refused(again).contains("have 4 records"));
    assert!(refused("UPDATE seal SET commits = commits - 1").contains("only 3 are there"));
    assert!(refused("DELETE FROM seal").contains("concord.db"));
}

/// The sample as a program of schema version 1 or 2 would have left it.
fn older_sample(version: usize) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("concord.db");
    let connection = Connection::open(&file).unwrap();
    schema::MIGRATIONS[..version].iter().for_each(|sql| connection.execute_batch(sql).unwrap());
    connection.pragma_update(None, "user_version", version as i64).unwrap();
    connection.pragma_update(None, "application_id", 0x436e_6364).unwrap();
    let entries = [
        begun(1, "marker-one", "key"),
        decided(1, true),
        begun(2, "marker-two", ""),
        begun(3, "marker-three", "other"),
        ended(3, 30, true),
    ];
    let mut before_end = seal::Sum::default();
    for (seq, entry) in (0..).zip(entries) {
        let row = Row::from(entry);
        let crc = checksum(row.gtid, 1, seq, row.at, &row.body);
        if row.gtid == gtid(3) && seq == 3 {
            before_end.add(crc);
        }
        let values = rusqlite::params![row.gtid.to_bytes(), 1, seq, row.at, crc, row.body];
        connection.execute("INSERT INTO record VALUES (?1, ?2, ?3, ?4, ?5, ?6)", values).unwrap();
    }
    for (n, name, key, ended) in [
        (1, "marker-one", Some("key"), None),
        (2, "marker-two", None, None),
        (3, "marker-three", Some("other"), Some(30)),
    ] {
        connection
            .execute(
                "INSERT INTO txn (gtid, name, key, committed, ended_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                rusqlite::params![gtid(n).to_bytes(), name, key, ended.map(|_: i64| 1), ended],
            )
            .unwrap();
    }
    if version > 1 {
        let seal::Sum { records, checksums } = before_end;
        connection
            .execute("UPDATE txn SET records = ?1, checksums = ?2 WHERE committed = 1", [records, checksums])
            .unwrap();
        let live = "UPDATE seal SET commits = 4, (records, checksums) =
            (SELECT count(*), sum(crc) FROM record WHERE gtid <> ?1)";
        connection.execute(live, [gtid(3).to_bytes()]).unwrap();
    }
    (directory, file)
}

#[test]
fn rule_10_what_older_versions_have_written_is_all_there() {
    for version in [1, 2] {
        let (directory, file) = older_sample(version);
        let store = SqliteStore::open(directory.path()).unwrap();
        run(async {
            let live = store.load_live().await.unwrap();
            assert_eq!(
                live.iter().map(|one| (one.gtid, one.records.len())).collect::<Vec<_>>(),
                [(gtid(1), 2), (gtid(2), 1)]
            );
            let listed = store.list_ended(Filter { limit: 9, ..Filter::default() }).await.unwrap();
            assert_eq!(listed.len(), 1);
            assert_eq!(listed[0].records.len(), 2);
            assert_eq!(store.find_key("key".into()).await.unwrap(), Some(gtid(1)));
            assert_eq!(store.find_key("other".into()).await.unwrap(), Some(gtid(3)));
            force(&store, vec![ended(1, 40, true)]).await;
            assert_eq!(store.purge(UnixMillis(35), 9).await.unwrap(), 1);
            assert_eq!(store.get(gtid(3)).await.unwrap(), None);
            assert_eq!(store.find_key("other".into()).await.unwrap(), None);
            store.close().await.unwrap();
        });
        // From now on it has a seal.
        Connection::open(&file).unwrap().execute("DELETE FROM record", []).unwrap();
        assert!(refused_open(&directory).contains("and should have 1"), "version {version}");
    }
}

#[test]
fn rule_10_damage_of_an_older_version_is_not_taken_over() {
    // Not listed: it would be taken for live. And listed with nothing: it would be gone.
    for (sql, told) in
        [("DELETE FROM txn WHERE committed = 1", "NOT NULL"), ("DELETE FROM record WHERE seq > 2", "")]
    {
        let (directory, file) = older_sample(2);
        assert!(Connection::open(&file).unwrap().execute(sql, []).unwrap() > 0);
        match SqliteStore::open(directory.path()) {
            Err(error) => assert!(!told.is_empty() && error.to_string().contains(told), "{sql}: {error}"),
            Ok(store) => assert!(matches!(run(store.get(gtid(3))), Err(StoreError::Corrupt { .. })), "{sql}"),
        }
    }
}

#[test]
fn an_ended_transaction_whose_row_is_hidden_is_missed() {
    let (directory, file) = sample();
    let root: i64 = Connection::open(&file)
        .unwrap()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'ended'", [], |row| row.get(0))
        .unwrap();
    // The head of its only page says that it has no rows (SQLite's file format, 1.6).
    let mut bytes = fs::read(&file).unwrap();
    let cells = usize::try_from(root - 1).unwrap() * 4_096 + 3;
    assert_eq!(bytes[cells..cells + 2], [0, 1]);
    bytes[cells + 1] = 0;
    fs::write(&file, bytes).unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    let error = run(store.get(gtid(3))).unwrap_err().to_string();
    assert!(error.contains("its records are missing"), "{error}");
    assert_eq!(run(store.get(gtid(4))).unwrap(), None);
}

#[test]
fn an_older_copy_is_refused() {
    let (directory, file) = sample();
    let older = fs::read(&file).unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    run(force(&store, vec![ended(1, 9, true)]));
    drop(store);
    fs::write(&file, &older).unwrap();
    let error = refused_open(&directory);
    assert!(error.contains("only 4 are there") && error.contains("older backup"), "{error}");
    assert!(fs::read(&file).unwrap() == older);
    // As the message says.
    fs::remove_file(directory.path().join("concord.acknowledged")).unwrap();
    assert_eq!(run(SqliteStore::open(directory.path()).unwrap().load_live()).unwrap().len(), 2);
    // All is gone: neither is that a new store.
    fs::remove_file(&file).unwrap();
    assert!(refused_open(&directory).contains("only 0 are there"));
}

#[test]
fn what_a_forced_append_of_nothing_covers_is_missed_too() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    run(async {
        force(&store, vec![begun(1, "", "")]).await;
        let wal = wal_file(&directory.path().join("concord.db"));
        let before = length(&wal);
        store.append(vec![decided(1, true)], Durability::Lazy).await.unwrap();
        force(&store, vec![]).await;
        store.queue.hold();
        let left = tempfile::tempdir().unwrap();
        for name in ["concord.db", "concord.db-wal", "concord.acknowledged"] {
            fs::copy(directory.path().join(name), left.path().join(name)).unwrap();
        }
        let wal = fs::File::options().write(true).open(wal_file(&left.path().join("concord.db"))).unwrap();
        wal.set_len(before).unwrap();
        assert!(refused_open(&left).contains("3 commits were acknowledged, and only 2 are there"));
    });
}

#[test]
fn a_damaged_watermark_is_refused() {
    let (directory, _file) = sample();
    let path = directory.path().join("concord.acknowledged");
    let whole = fs::read(&path).unwrap();
    let mut all: Vec<Vec<u8>> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
    for bit in 0..8 * whole.len() {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        all.push(flipped);
    }
    for damaged in all {
        fs::write(&path, &damaged).unwrap();
        let error = refused_open(&directory);
        assert!(error.contains("concord.acknowledged: it is damaged; nothing is lost with it"), "{error}");
    }
    fs::write(&path, whole).unwrap();
    SqliteStore::open(directory.path()).unwrap();
}

fn refused_open(directory: &TempDir) -> String {
    SqliteStore::open(directory.path()).expect_err("it is damaged").to_string()
}

#[test]
fn a_flipped_bit_on_disk_is_noticed() {
    let (directory, file) = sample();
    let mut bytes = fs::read(&file).unwrap();
    let marker = b"marker-two";
    let places: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(marker)).collect();
    assert_eq!(places.len(), 1);
    for place in places {
        bytes[place + 3] ^= 0x10;
    }
    fs::write(&file, bytes).unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    let error = run(store.get(gtid(2))).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { gtid: named, .. } if named == gtid(2)), "{error}");
    assert!(run(store.get(gtid(1))).unwrap().is_some(), "the others can still be read");
    assert!(matches!(run(store.load_live()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_full_database_is_final_and_says_so() {
    // The limit holds for the connection that runs the migration, which is the writer.
    const SMALL: &[&str] =
        &[schema::MIGRATIONS[0], schema::MIGRATIONS[1], schema::MIGRATIONS[2], "PRAGMA max_page_count = 40;"];
    let directory = tempfile::tempdir().unwrap();
    let options = Options { migrations: SMALL, ..Options::default() };
    let store = SqliteStore::open_with(directory.path(), options).unwrap();
    let (acknowledged, error) = run(fill(&store));
    let text = error.to_string();
    assert!(matches!(error, StoreError::Failed(_)) && text.contains("the disk is full"), "{text}");
    assert!(text.contains("concord.db"), "{text}");
    assert!(acknowledged > 10, "{acknowledged}");
    let later = run(store.append(vec![ended(1, 1, true)], Durability::Lazy)).unwrap_err();
    assert_eq!(later.to_string(), text, "the first reason stays");
    drop(store);
    let store = SqliteStore::open_with(directory.path(), options).unwrap();
    assert_eq!(run(store.load_live()).unwrap().len() as u64, acknowledged);
}

/// Appends until it fails; answers how many were acknowledged.
async fn fill(store: &SqliteStore) -> (u64, StoreError) {
    for n in 0.. {
        if let Err(error) = store.append(vec![begun(n, &"x".repeat(1_000), "")], Durability::Forced).await {
            return (n, error);
        }
    }
    unreachable!()
}

#[test]
fn lazy_appends_wait_for_company_and_go_with_the_next_forced_one() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { lazy_delay: Duration::from_secs(3_600), ..Options::default() };
    let store = SqliteStore::open_with(directory.path(), options).unwrap();
    run(async {
        let mut lazy = store.append(vec![begun(1, "", "")], Durability::Lazy);
        tokio::time::timeout(Duration::from_millis(200), &mut lazy).await.expect_err("it should wait");
        force(&store, vec![begun(2, "", "")]).await;
        lazy.await.unwrap();
        assert_eq!(store.counters(), Counters { syncs: 1, records: 2, commits: 1 });
        // Many do not wait.
        let many = store.append((0..2_000).map(|n| registered(n, 1)).collect(), Durability::Lazy);
        many.await.unwrap();
        assert_eq!(store.counters(), Counters { syncs: 1, records: 2_002, commits: 2 });
        // Nor do those before a purge, which would else not see them.
        drop(store.append(vec![ended(1, 5, true)], Durability::Lazy));
        assert_eq!(store.purge(UnixMillis(10), 10).await.unwrap(), 1);
    });
}

#[test]
fn checkpoints_keep_the_log_short_and_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { log_pages_max: 20, ..Options::default() };
    let store = SqliteStore::open_with(directory.path(), options).unwrap();
    let text = "x".repeat(500);
    run(async {
        for n in 0..1_000 {
            let durability = if n % 3 == 0 { Durability::Forced } else { Durability::Lazy };
            drop(store.append(vec![begun(n, &text, "")], durability));
            if n % 10 == 0 {
                force(&store, vec![]).await;
            }
        }
        force(&store, vec![begun(1_000, "", "")]).await;
    });
    let log = length(&wal_file(&directory.path().join("concord.db")));
    assert!(log < 100 * 4_096, "{log} bytes");
    // As `kill -9` leaves it, in the middle of things.
    let (_medium, store) = SqliteSubject(directory).crash(store, Crash::Kill);
    let live = run(store.load_live()).unwrap();
    assert_eq!(live.len(), 1_001);
}

#[test]
fn a_reader_that_takes_long_neither_blocks_nor_is_disturbed() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open_with(directory.path(), Options { log_pages_max: 20, ..Options::default() })
        .unwrap();
    run(async {
        force(&store, vec![begun(0, "", "")]).await;
        let (started, has_started) = oneshot::channel();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let slow = store.readers.run(move |connection| {
            let before = reader::load_live(connection)?.len();
            started.send(()).unwrap();
            wait.recv().unwrap();
            Ok((before, reader::load_live(connection)?.len()))
        });
        has_started.await.unwrap();
        for n in 1..300 {
            force(&store, vec![begun(n, &"x".repeat(500), "")]).await;
        }
        assert_eq!(store.load_live().await.unwrap().len(), 300);
        go_on.send(()).unwrap();
        assert_eq!(slow.await.unwrap(), (1, 1), "one read sees one state");
    });
}

#[test]
fn every_listing_walks_an_index_and_sorts_nothing() {
    let (_directory, file) = sample();
    let connection = Connection::open(file).unwrap();
    for name in [None, Some(String::new()), Some("x".to_owned())] {
        for committed in [None, Some(true), Some(false)] {
            let filter = Filter { name: name.clone(), committed, ..Filter::default() };
            let mut plan =
                connection.prepare(&format!("EXPLAIN QUERY PLAN {}", reader::list_sql(&filter))).unwrap();
            let mut rows = plan.query(rusqlite::params![vec![0u8], 1, committed, name]).unwrap();
            while let Some(row) = rows.next().unwrap() {
                let step: String = row.get("detail").unwrap();
                assert!(step.starts_with("SEARCH"), "{filter:?}: {step}");
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn the_directory_is_created_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("some/where/new");
    let store = SqliteStore::open(&directory).unwrap();
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    drop(store);
    let pid = fs::read_to_string(directory.join("concord.lock")).unwrap();
    assert_eq!(pid.trim(), std::process::id().to_string());
}

/// Tests that need a process of its own, to kill it or to let its system calls fail.
#[cfg(unix)]
mod process {
    use std::io::{BufRead as _, BufReader};
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;

    const DIRECTORY: &str = "CONCORD_STORE_TEST_DIRECTORY";
    const TASK: &str = "CONCORD_STORE_TEST_TASK";

    /// This very test binary, made to run `child` and nothing else. `shell` runs it as `"$@"`.
    fn child(shell: &str, directory: &Path, task: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", shell, "sh"]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "store::sqlite::tests::process::task", "--nocapture", "--test-threads=1"]);
        command.env(DIRECTORY, directory).env(TASK, task).stdout(Stdio::piped());
        command
    }

    /// What a child says, without what the test harness says. Lines of ours begin with a colon.
    fn said(output: &[u8]) -> Vec<String> {
        let text = String::from_utf8_lossy(output);
        text.lines().filter_map(|line| line.split_once(": ").map(|(_, said)| said.to_owned())).collect()
    }

    /// Not a test: what children do.
    #[test]
    fn task() {
        let (Ok(directory), Ok(task)) = (std::env::var(DIRECTORY), std::env::var(TASK)) else { return };
        // Checkpoints among the appends that are interrupted, and none among those that are counted.
        let log_pages_max = if task == "append" { 30 } else { 8_000 };
        let options = Options { log_pages_max, ..Options::default() };
        let store = match SqliteStore::open_with(Path::new(&directory), options) {
            Ok(store) => store,
            Err(error) => return println!("\n: {error}"),
        };
        match task.as_str() {
            "append" => run(append_forever(&store)),
            "fill" => {
                let (acknowledged, error) = run(fill(&store));
                println!("\n: {acknowledged}\n: {error}");
                let later = run(store.append(vec![ended(1, 1, true)], Durability::Forced)).unwrap_err();
                println!(": {later}");
            }
            count => {
                for n in 0..count.parse().unwrap() {
                    run(async {
                        store.append(vec![begun(n, "", "")], Durability::Lazy).await.unwrap();
                        force(&store, vec![decided(n, true)]).await;
                    });
                }
                println!("\n: {}", store.counters().syncs);
            }
        }
        // Leaves without a word, as a crash does.
        std::process::exit(0);
    }

    /// Appends lazily and forced by turns, and says how many forced ones were acknowledged.
    async fn append_forever(store: &SqliteStore) {
        let first = store.load_live().await.unwrap().len() as u64;
        println!();
        for n in (first..).step_by(3) {
            drop(store.append(vec![begun(n, &"x".repeat(700), "")], Durability::Lazy));
            drop(store.append(vec![begun(n + 1, "", "")], Durability::Forced));
            force(store, vec![begun(n + 2, "", "")]).await;
            println!(": {}", n + 3);
        }
    }

    #[test]
    fn rule_8_a_second_process_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _store = SqliteStore::open(directory.path()).unwrap();
        let output = child("exec \"$@\"", directory.path(), "0").output().unwrap();
        let said = said(&output.stdout);
        let expected = format!("is in use by another coordinator (process {})", std::process::id());
        assert!(said.iter().any(|line| line.contains(&expected)), "{said:?}");
    }

    #[test]
    fn what_a_killed_process_acknowledged_is_there() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..4u64 {
            let mut child = child("exec \"$@\"", directory.path(), "append").spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut acknowledged = 0;
            let enough = 40 + 17 * round;
            for line in
                lines.by_ref().map(Result::unwrap).filter(|line| line.starts_with(": ")).take(enough as usize)
            {
                acknowledged = line[2..].parse().unwrap();
            }
            child.kill().unwrap();
            // What it could still say before it died.
            for line in lines.map_while(Result::ok).filter(|line| line.starts_with(": ")) {
                acknowledged = line[2..].parse().unwrap_or(acknowledged);
            }
            child.wait().unwrap();
            let store = SqliteStore::open(directory.path()).unwrap();
            assert_eq!(store.epoch(), Epoch(2 * round as u32 + 2));
            let live: Vec<_> = run(store.load_live()).unwrap().into_iter().map(|live| live.gtid).collect();
            assert_eq!(
                live,
                (0..live.len() as u64).map(gtid).collect::<Vec<_>>(),
                "only a suffix may be missing"
            );
            assert!(live.len() as u64 >= acknowledged, "{} left of {acknowledged}", live.len());
        }
    }

    #[test]
    fn a_write_that_fails_is_final() {
        let directory = tempfile::tempdir().unwrap();
        // With the signal ignored, a write beyond the limit fails with EFBIG.
        let output =
            child("trap '' XFSZ; ulimit -f 400; exec \"$@\"", directory.path(), "fill").output().unwrap();
        assert_failed(directory.path(), &said(&output.stdout));
    }

    #[test]
    fn a_sync_that_fails_is_final() {
        let directory = tempfile::tempdir().unwrap();
        let shell = "exec strace -f -qq -o /dev/null -e trace=fsync,fdatasync \
                     -e inject=fsync,fdatasync:error=EIO:when=13+ \"$@\"";
        if !can_trace() {
            return eprintln!("skipped: strace is not installed, or may not trace");
        }
        let output = child(shell, directory.path(), "fill").output().unwrap();
        assert_failed(directory.path(), &said(&output.stdout));
    }

    fn assert_failed(directory: &Path, said: &[String]) {
        let [acknowledged, error, later] = said else { panic!("it said {said:?}") };
        assert!(error.contains("takes no more records") && error.contains("concord.db"), "{error}");
        assert!(error.contains("the disk, or the file system, reports an error"), "{error}");
        assert_eq!(error, later);
        let acknowledged: usize = acknowledged.parse().unwrap();
        assert!(acknowledged > 3, "{acknowledged}");
        let store = SqliteStore::open(directory).unwrap();
        let live = run(store.load_live()).unwrap();
        // The one that failed may have reached the disk; nothing that came after it may.
        assert!((acknowledged..=acknowledged + 1).contains(&live.len()), "{} of {acknowledged}", live.len());
        assert!(live.iter().all(|live| live.records.len() == 1));
    }

    #[test]
    fn the_counted_syncs_are_those_that_the_kernel_sees() {
        if !can_trace() {
            return eprintln!("skipped: strace is not installed, or may not trace");
        }
        let traced = |count: &str| {
            let directory = tempfile::tempdir().unwrap();
            let log = directory.path().join("trace");
            let shell =
                format!("exec strace -f -qq -o '{}' -e trace=fsync,fdatasync,msync \"$@\"", log.display());
            let output = child(&shell, &directory.path().join("data"), count).output().unwrap();
            assert_eq!(said(&output.stdout), [count]);
            fs::read_to_string(&log).unwrap().lines().filter(|line| line.contains("sync(")).count()
        };
        assert_eq!(traced("7"), traced("0") + 7, "seven forced and seven lazy appends, each awaited");
    }

    fn can_trace() -> bool {
        let mut trace = Command::new("strace");
        trace.args(["-qq", "-o", "/dev/null", "true"]).stderr(Stdio::null());
        trace.status().is_ok_and(|status| status.success())
    }
}
