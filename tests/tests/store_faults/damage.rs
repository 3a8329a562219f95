//! Files that are damaged: the coordinator has everything that it acknowledged, or it does not start and says why.

use std::path::Path;

use rand::RngExt as _;

use super::stub::*;

/// Transactions that are decided and not delivered.
const DECIDED: usize = 12;
/// Stores with a flipped bit; every one is a start.
const FLIPPED: usize = 24;
const FILES: [&str; 3] = ["concord.db", "concord.db-wal", "concord.acknowledged"];

/// What was found after a kill -9, with the transactions that were acknowledged.
struct Found {
    coordinator: Coordinator,
    stub: Stub,
    acknowledged: Vec<String>,
    files: [Vec<u8>; 3],
    _directory: TempDir,
}

/// A coordinator that dies with decisions that nobody has heard.
async fn killed() -> Found {
    let directory = TempDir::with_prefix("concord-store-faults-").unwrap();
    let mut coordinator =
        Coordinator::start(PROGRAMS, directory.path(), CoordinatorOptions::new()).await.unwrap();
    let stub = Stub::start().await;
    stub.open(false);
    stub.let_votes_pass();
    let mut acknowledged = Vec::new();
    for _ in 0..DECIDED {
        let request = ExecuteRequest { wait: Wait::Decided.into(), ..stub.request() };
        let transaction = coordinator.api().execute(request).await.unwrap().into_inner().transaction.unwrap();
        assert_eq!(transaction.state(), TransactionState::Committing);
        acknowledged.push(transaction.gtid);
    }
    coordinator.kill9().unwrap();
    let files = FILES.map(|name| std::fs::read(coordinator.data_dir().join(name)).unwrap());
    Found { coordinator, stub, acknowledged, files, _directory: directory }
}

fn put_back(directory: &Path, files: &[Vec<u8>; 3]) {
    for (name, bytes) in FILES.iter().zip(files) {
        std::fs::write(directory.join(name), bytes).unwrap();
    }
}

/// Starts it with these files. Answers whether it came up, and then has everything; else it has said why.
async fn starts(found: &mut Found, files: &[Vec<u8>; 3], what: &str) -> bool {
    let Found { coordinator, acknowledged, .. } = found;
    put_back(coordinator.data_dir(), files);
    coordinator.launch().unwrap();
    let up = async || {
        if let Some(status) = coordinator.process().exited()? {
            return Ok(Some(Err(status)));
        }
        Ok(coordinator.status().await.ok().map(Ok))
    };
    match until("it starts, or does not", up).await.unwrap() {
        Err(status) => {
            let log = coordinator.process().log();
            let last = log.lines().last().unwrap_or_default();
            assert_eq!(status.code(), Some(3), "{what}: {log}");
            assert!(last.starts_with("error: ") && !log.contains("panicked"), "{what}: {log}");
            false
        }
        Ok(_) => {
            for gtid in acknowledged {
                let found =
                    coordinator.api().get(GetRequest { gtid: gtid.clone() }).await.unwrap().into_inner();
                assert_eq!(found.transaction.unwrap().state(), TransactionState::Committing, "{what}");
            }
            coordinator.kill9().unwrap();
            true
        }
    }
}

/// In the end everything is delivered.
async fn ends_well(mut found: Found) {
    put_back(found.coordinator.data_dir(), &found.files);
    found.coordinator.restart().await.unwrap();
    found.stub.open(true);
    found.coordinator.drained().await.unwrap();
    for gtid in &found.acknowledged {
        let request = GetRequest { gtid: gtid.clone() };
        let answer = found.coordinator.api().get(request).await.unwrap().into_inner();
        assert_eq!(answer.transaction.unwrap().state(), TransactionState::Committed);
    }
}

#[tokio::test]
async fn a_log_that_was_cut() {
    let mut found = killed().await;
    let whole = found.files.clone();
    for cut in [1, 4_096, 20_000, whole[1].len()] {
        let mut files = whole.clone();
        files[1].truncate(whole[1].len() - cut);
        assert!(!starts(&mut found, &files, &format!("cut by {cut} bytes")).await, "cut by {cut} bytes");
        let log = found.coordinator.process().log();
        assert!(log.contains("commits were acknowledged, and only"), "{log}");
        let left = std::fs::read(found.coordinator.data_dir().join(FILES[1])).unwrap();
        assert!(left == files[1], "what is left of it is evidence");
    }
    ends_well(found).await;
}

#[tokio::test]
async fn bits_that_flipped() {
    let mut found = killed().await;
    let whole = found.files.clone();
    let mut refused = 0;
    for _ in 0..FLIPPED {
        let mut files = whole.clone();
        let file = rand::rng().random_range(0..2);
        let at = rand::rng().random_range(0..files[file].len());
        let bit = rand::rng().random_range(0..8);
        files[file][at] ^= 1 << bit;
        let what = format!("bit {bit} of byte {at} of {}", FILES[file]);
        refused += usize::from(!starts(&mut found, &files, &what).await);
    }
    println!("{refused} of {FLIPPED} refused");
    assert!(refused > 0);
    ends_well(found).await;
}
