//! Stores made by hand, sound and damaged, under the eyes of `inspect`.

use std::path::{Path, PathBuf};

use concord_proto::store::{Begun, BranchSpec, Decided, Ended, Record};
use concord_protocol::{Epoch, Gtid};
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::store::{Durability, Entry, Place, SqliteStore, Store as _, UnixMillis};

fn gtid(n: u64) -> Gtid {
    Gtid::compose(1_000 * n, Epoch(1), n)
}

/// The records of a transaction of two XA branches.
fn entries(n: u64, key: &str, rest: &[Kind]) -> Vec<Entry> {
    let branch = |branch_id| BranchSpec {
        branch_id,
        kind: v1::BranchKind::Xa.into(),
        participant: "http://127.0.0.1:7101".into(),
        ..BranchSpec::default()
    };
    let begun = Begun {
        name: format!("transaction-{n}"),
        idempotency_key: key.into(),
        branches: vec![branch(1), branch(2)],
        ..Begun::default()
    };
    let kinds = std::iter::once(Kind::Begun(begun)).chain(rest.iter().cloned());
    let entry =
        |kind| Entry { gtid: gtid(n), at: UnixMillis(1_000 * n), record: Record { kind: Some(kind) } };
    kinds.map(entry).collect()
}

fn decided() -> Kind {
    Kind::Decided(Decided { commit: true, branches: vec![1, 2], ..Decided::default() })
}

fn ended(committed: bool) -> Kind {
    Kind::Ended(Ended { committed, ..Ended::default() })
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn append(store: &SqliteStore, entries: Vec<Entry>) {
    run(store.append(entries, Durability::Forced)).unwrap();
}

/// Opens a store with one transaction that is undecided, one that is committing, and two that have ended.
fn fill(directory: &Path) -> SqliteStore {
    let store = SqliteStore::open(directory).unwrap();
    append(&store, entries(1, "", &[decided(), ended(true)]));
    append(&store, entries(2, "key-2", &[]));
    append(&store, entries(3, "key-3", &[decided()]));
    append(&store, entries(4, "key-4", &[ended(false)]));
    store
}

fn sample() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    run(fill(directory.path()).close()).unwrap();
    let file = directory.path().join("concord.db");
    (directory, file)
}

fn look(place: &Place) -> Inspection {
    inspect(&mut Archive::open_alone(place).unwrap(), || ()).unwrap()
}

fn look_in(directory: &TempDir) -> Inspection {
    look(&Place::Directory(directory.path().to_path_buf()))
}

fn gtids(archive: &mut Archive, span: Span) -> Vec<Gtid> {
    let mut seen = Vec::new();
    archive
        .walk(span, |_, gtid, stored| {
            seen.push(gtid);
            stored.map(|_| ())
        })
        .unwrap();
    seen
}

#[track_caller]
fn expect_sound(found: &Inspection) {
    assert_eq!(found.problems, Vec::<String>::new());
    assert!(found.is_sound());
    assert_eq!((found.live, found.committed, found.rolled_back), (2, 1, 1));
    assert_eq!(found.oldest_live.as_ref().unwrap().gtid, gtid(2).to_string());
    let facts = found.facts.as_ref().unwrap();
    assert_eq!((facts.epoch, facts.live, facts.ended), (Epoch(1), 2, 2));
}

#[test]
fn a_sound_store_is_counted() {
    let (directory, file) = sample();
    let before = std::fs::read(&file).unwrap();
    expect_sound(&look_in(&directory));
    assert_eq!(std::fs::read(&file).unwrap(), before, "looking changes nothing");
    assert_eq!(SqliteStore::open(directory.path()).unwrap().epoch(), Epoch(2), "nor does it begin an epoch");
}

#[test]
fn who_looks_keeps_coordinators_out() {
    let (directory, _) = sample();
    let place = Place::Directory(directory.path().to_path_buf());
    let archive = Archive::open_alone(&place).unwrap();
    assert!(matches!(SqliteStore::open(directory.path()), Err(StoreError::InUse { .. })));
    drop(archive);
    let store = SqliteStore::open(directory.path()).unwrap();
    assert!(matches!(Archive::open_alone(&place), Err(StoreError::InUse { .. })));
    drop(store);
}

#[test]
fn where_there_is_no_store_none_is_made() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().to_path_buf(), directory.path().join("none")] {
        assert!(matches!(Archive::open_alone(&Place::Directory(path)), Err(StoreError::Open { .. })));
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn a_walk_takes_the_span_and_every_transaction_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    // More than are read at a time, live and ended ones mixed.
    for n in 1..=300 {
        append(&store, entries(n, "", &[decided()]));
    }
    for n in (1..=300).filter(|n| n % 2 == 0) {
        append(&store, entries(n, "", &[ended(true)]).split_off(1));
    }
    let mut archive = Archive::open(&Place::Directory(directory.path().to_path_buf())).unwrap();
    assert_eq!(gtids(&mut archive, Span::ALL), (1..=300).map(gtid).collect::<Vec<_>>());
    let span = Span { from: UnixMillis(100_000), until: UnixMillis(200_000) };
    assert_eq!(gtids(&mut archive, span), (100..=200).map(gtid).collect::<Vec<_>>());

    // One that ends while the walk is on its way.
    let mut seen = 0;
    archive
        .walk(Span::ALL, |_, at, stored| {
            if at == gtid(1) {
                append(&store, entries(299, "", &[ended(true)]).split_off(1));
            }
            seen += 1;
            assert!(at != gtid(299) || stored.unwrap().records.len() == 3, "as it is when its turn comes");
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(seen, 300);
}

#[test]
fn a_backup_is_the_store_at_one_moment_and_no_coordinator_starts_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = fill(directory.path());
    let archive = Archive::open(&Place::Directory(directory.path().to_path_buf())).unwrap();
    let backup = directory.path().join("copy.backup");
    archive.back_up(&backup).unwrap();
    // Both the log and the history go on.
    append(&store, entries(2, "", &[ended(false)]).split_off(1));
    append(&store, entries(5, "", &[decided()]));
    expect_sound(&look(&Place::Backup(backup.clone())));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let again = archive.back_up(&backup).unwrap_err();
    assert!(again.to_string().contains("it is there already"), "{again}");
    expect_sound(&look(&Place::Backup(backup.clone())));

    // By whatever name: a data directory of its own, without a watermark that could object.
    let restored = tempfile::tempdir().unwrap();
    std::fs::copy(&backup, restored.path().join("concord.db")).unwrap();
    let refused = SqliteStore::open(restored.path()).unwrap_err();
    assert!(refused.to_string().contains("it is a backup"), "{refused}");
    // And what is no backup is not taken for one: beside its log it would be read without it.
    let store = Place::Backup(directory.path().join("concord.db"));
    assert!(Archive::open(&store).unwrap_err().to_string().contains("it is no backup"));
}

#[test]
fn backups_made_under_load_are_sound() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    let place = Place::Directory(directory.path().to_path_buf());
    let (busy, backups) = (std::sync::atomic::AtomicBool::new(true), tempfile::tempdir().unwrap());
    let stop = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = 0;
            while busy.load(stop) {
                n += 1;
                append(&store, entries(n, &format!("key-{n}"), &[decided()]));
                append(&store, entries(n, "", &[ended(true)]).split_off(1));
            }
            n
        });
        let mut counts = vec![0];
        while counts.len() < 5 {
            let backup = backups.path().join(counts.len().to_string());
            Archive::open(&place).unwrap().back_up(&backup).unwrap();
            let found = look(&Place::Backup(backup));
            assert_eq!(found.problems, Vec::<String>::new());
            counts.push(found.live + found.committed);
        }
        busy.store(false, stop);
        let written = writer.join().unwrap();
        assert!(counts.is_sorted() && counts[4] > counts[1] && written >= counts[4], "{counts:?} {written}");
    });
}

#[test]
fn a_backup_that_fails_leaves_nothing() {
    let (directory, _) = sample();
    let archive = Archive::open(&Place::Directory(directory.path().to_path_buf())).unwrap();
    let left = tempfile::tempdir().unwrap();
    let to = left.path().join("x".repeat(250));
    assert!(matches!(archive.back_up(&to), Err(StoreError::Backup { .. })));
    assert!(archive.back_up(&left.path().join("none/copy")).is_err());
    assert_eq!(std::fs::read_dir(left.path()).unwrap().count(), 0);
}

/// What is found once this was done to the sample.
fn damaged(sql: &str) -> Inspection {
    let (directory, file) = sample();
    let connection = Connection::open(&file).unwrap();
    connection.execute_batch(sql).unwrap();
    drop(connection);
    look_in(&directory)
}

#[test]
fn each_damage_is_found() {
    for (sql, expected) in [
        ("UPDATE record SET body = x'00' WHERE gtid = (SELECT max(gtid) FROM record)", gtid(3).to_string()),
        ("UPDATE record SET at_ms = 7", "its checksum is".into()),
        ("DELETE FROM record", "should have 3".into()),
        ("UPDATE ended SET committed = 1 - committed", "an outcome that its records do not have".into()),
        ("UPDATE ended SET rows = x'00'", gtid(4).to_string()),
        ("UPDATE meta SET value = x'0000000000000009'", "does not match its checksum".into()),
        ("DELETE FROM meta WHERE key = 'epoch'", "its epoch is missing".into()),
        ("DELETE FROM keyed WHERE key = 'key-4'", format!("the idempotency key of {} does not", gtid(4))),
        ("UPDATE keyed SET key = 'other' WHERE key = 'key-2'", format!("key of {} does not", gtid(2))),
        ("INSERT INTO keyed VALUES ('stray', x'0102')", "not on record: 0102".into()),
    ] {
        let found = damaged(sql);
        assert!(!found.is_sound(), "{sql}");
        assert!(
            found.problems.iter().any(|problem| problem.contains(&expected)),
            "{sql}: {:#?}",
            found.problems
        );
    }
}

/// Rows whose checksums hold, and that no run of the protocol has written.
#[test]
fn a_log_that_contradicts_itself_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path()).unwrap();
    append(&store, entries(1, "", &[decided(), decided()]));
    append(&store, entries(2, "", &[decided(), ended(false)]));
    append(&store, entries(3, "", &[decided()]).split_off(1));
    let mut late = entries(4, "", &[]);
    late.iter_mut().for_each(|entry| entry.gtid = Gtid::compose(9_000, Epoch(7), 1));
    append(&store, late);
    run(store.close()).unwrap();
    let found = look_in(&directory);
    let expected = ["cannot stand", "cannot stand", "not its beginning", "issued in epoch 7"];
    assert_eq!(found.problem_count, 4, "{:#?}", found.problems);
    for (problem, expected) in found.problems.iter().zip(expected) {
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn what_was_acknowledged_and_is_gone_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = fill(directory.path());
    // As it is while it is open: all of it in the log, which a crash then leaves cut off.
    let left = tempfile::tempdir().unwrap();
    for name in ["concord.db", "concord.db-wal", "concord.acknowledged"] {
        std::fs::copy(directory.path().join(name), left.path().join(name)).unwrap();
    }
    drop(store);
    expect_sound(&look_in(&left));
    let log = left.path().join("concord.db-wal");
    let length = std::fs::metadata(&log).unwrap().len();
    std::fs::File::options().write(true).open(&log).unwrap().set_len(length - 1).unwrap();
    let found = look_in(&left);
    assert!(
        found.problems.iter().any(|problem| problem.contains("were acknowledged")),
        "{:#?}",
        found.problems
    );
}

#[test]
fn a_store_cut_short_is_found() {
    let (directory, file) = sample();
    let whole = std::fs::read(&file).unwrap();
    for length in [0, 100, 4_096, whole.len() / 2, whole.len() - 4_096] {
        std::fs::write(&file, &whole[..length]).unwrap();
        let place = Place::Directory(directory.path().to_path_buf());
        let found = Archive::open_alone(&place).and_then(|mut archive| inspect(&mut archive, || ()));
        assert!(found.is_err() || found.is_ok_and(|found| !found.is_sound()), "{length}");
    }
}

#[test]
fn an_older_schema_is_not_judged() {
    let (directory, file) = sample();
    Connection::open(&file).unwrap().pragma_update(None, "user_version", 1).unwrap();
    let place = Place::Directory(directory.path().to_path_buf());
    // That version had neither seal nor watermark. With one, the store is not what it was.
    let refused = Archive::open_alone(&place).unwrap_err().to_string();
    assert!(refused.contains("were acknowledged, and only 0 are there"), "{refused}");
    std::fs::remove_file(directory.path().join("concord.acknowledged")).unwrap();
    assert!(matches!(Archive::open_alone(&place), Err(StoreError::OlderSchema { found: 1, known: 3, .. })));
}

#[test]
fn transactions_are_shown_as_get_shows_them() {
    let (directory, _) = sample();
    let mut archive = Archive::open(&Place::Directory(directory.path().to_path_buf())).unwrap();
    let mut states = Vec::new();
    archive
        .walk(Span::ALL, |_, _, stored| {
            let transaction = transaction(&stored?)?;
            states.push((transaction.state().as_str_name(), transaction.history.len()));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let expected = [
        ("TRANSACTION_STATE_COMMITTED", 3),
        ("TRANSACTION_STATE_ACTIVE", 1),
        ("TRANSACTION_STATE_COMMITTING", 2),
        ("TRANSACTION_STATE_ROLLED_BACK", 2),
    ];
    assert_eq!(states, expected);
}
