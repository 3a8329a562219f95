//! System calls that fail, each in its turn: while a store that was not closed is opened, written to with checkpoints
//! in between, purged and closed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::RngExt as _;
use tempfile::TempDir;

use super::super::*;
use super::history::History;
use super::{is_whole, sample, say};
use crate::store::conformance::{begun, gtid, run};

const DIRECTORY: &str = "CONCORD_STORE_FAULT_DIRECTORY";
/// Transactions that the child adds to those of the past.
const NEW: std::ops::Range<u64> = 100..112;
/// Errors, by their numbers on Linux.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What fails, and how.
#[derive(Debug, Clone, Copy)]
struct Fault {
    call: &'static str,
    error: i32,
    /// Of so many such calls one fails, in the short form.
    one_in: u32,
}

#[test]
fn a_sync_that_fails() {
    each_in_its_turn(Fault { call: "sync", error: EIO, one_in: 1 });
}

#[test]
fn a_write_that_fails_half_way() {
    assert_eq!(each_in_its_turn(Fault { call: "write", error: EIO, one_in: 2 }), 0);
}

#[test]
fn a_write_for_which_there_is_no_room() {
    assert_eq!(each_in_its_turn(Fault { call: "write", error: ENOSPC, one_in: 2 }), 0);
}

#[test]
fn a_file_that_cannot_be_cut() {
    assert_eq!(each_in_its_turn(Fault { call: "truncate", error: EIO, one_in: 1 }), 0);
}

/// What came of a child.
#[derive(Debug)]
struct Played {
    /// The file with which the call failed, if the child came to it.
    failed: Option<PathBuf>,
    /// How many transactions were acknowledged.
    acknowledged: u64,
    errors: Vec<String>,
}

/// Everybody is told of each. But for syncs of the directory: SQLite makes one when it has opened its log, once for each
/// connection, and takes no notice of how that goes. The store has made its own before, and does. Answers how many those
/// were.
fn each_in_its_turn(fault: Fault) -> usize {
    let (history, files, _) = History::play();
    let shim = shim();
    let mut random = sample();
    let (mut failed, mut ignored) = (0, 0);
    for at in 1.. {
        if !is_whole() && at > 1 && !random.random_ratio(1, fault.one_in) {
            continue;
        }
        let directory = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
        files.write(directory.path());
        let played = play(&shim, directory.path(), fault, at);
        let what = format!("{} no. {at} fails with error {}: {played:?}", fault.call, fault.error);
        let Some(file) = played.failed else {
            assert!(played.errors.is_empty() && played.acknowledged == NEW.end - NEW.start, "{what}");
            break;
        };
        match played.errors.as_slice() {
            [] => {
                assert_eq!(file, directory.path(), "nobody is told: {what}");
                ignored += 1;
            }
            [first, later @ ..] => {
                failed += 1;
                assert!(first.contains(&directory.path().display().to_string()), "{what}");
                assert!(later.iter().all(|later| later == first), "it goes on: {what}");
            }
        }
        look(&history, directory.path(), played.acknowledged, &what);
    }
    say(&format!("each {} fails: {failed} reported, {ignored} not", fault.call));
    assert!(failed >= 5, "only {failed}");
    ignored
}

/// All is there that was acknowledged, and at most one more.
fn look(history: &History, directory: &Path, acknowledged: u64, what: &str) {
    let store = SqliteStore::open(directory).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut live: Vec<_> = run(store.load_live()).unwrap().into_iter().map(|live| live.gtid).collect();
    let new = live.split_off(history.live().len());
    assert_eq!(live, history.live(), "{what}");
    assert!(
        (acknowledged..=acknowledged + 1).contains(&(new.len() as u64)),
        "{} are left: {what}",
        new.len()
    );
    assert!(NEW.map(gtid).take(new.len()).eq(new), "{what}");
}

fn play(shim: &Path, directory: &Path, fault: Fault, at: u32) -> Played {
    let told = directory.join("told");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "store::sqlite::faults::calls::task", "--nocapture", "--test-threads=1"]);
    child.env("LD_PRELOAD", shim).env(DIRECTORY, directory);
    child.env("FAULT_CALL", fault.call).env("FAULT_AT", at.to_string()).env("FAULT_TOLD", &told);
    child.env("FAULT_ERROR", fault.error.to_string()).env("FAULT_PATH", directory);
    let output = child.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "no. {at} of {fault:?}: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let said =
        |about: &str| text.lines().filter_map(|line| line.strip_prefix(about)).map(str::to_owned).collect();
    let acknowledged: Vec<String> = said("acknowledged ");
    let failed = std::fs::read_to_string(told).ok().map(PathBuf::from);
    Played { failed, acknowledged: acknowledged.len() as u64, errors: said("error: ") }
}

/// Not a test: what the child does.
#[test]
fn task() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    println!();
    let options = Options { log_pages_max: 15, lazy_delay: Duration::ZERO, ..Options::default() };
    let store = match SqliteStore::open_with(Path::new(&directory), options) {
        Ok(store) => store,
        Err(error) => return println!("error: {error}"),
    };
    run(async {
        for n in NEW {
            match store.append(vec![begun(n, &"x".repeat(500), "")], Durability::Forced).await {
                Ok(()) => println!("acknowledged {n}"),
                Err(error) => println!("error: {error}"),
            }
        }
        for result in [store.purge(UnixMillis(20), 5).await.map(drop), store.close().await] {
            if let Err(error) = result {
                println!("error: {error}");
            }
        }
    });
}

/// `failing.c`, compiled.
fn shim() -> PathBuf {
    static SHIM: std::sync::OnceLock<(TempDir, PathBuf)> = std::sync::OnceLock::new();
    let (_, shim) = SHIM.get_or_init(|| {
        let directory = TempDir::new().unwrap();
        let (source, shim) = (directory.path().join("failing.c"), directory.path().join("failing.so"));
        std::fs::write(&source, include_str!("failing.c")).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(&source).arg("-ldl");
        assert!(compiler.status().unwrap().success(), "the C compiler fails");
        (directory, shim)
    });
    shim.clone()
}
