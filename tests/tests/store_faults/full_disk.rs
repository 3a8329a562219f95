//! A disk that fills up under load: the coordinator stops, says why, and has lost nothing that it acknowledged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use super::stub::*;

/// Initiators that go on until the coordinator stops.
const INITIATORS: usize = 8;

/// Without root: the system lets no file grow beyond a limit.
#[tokio::test]
async fn files_that_cannot_grow() {
    let directory = TempDir::with_prefix("concord-store-faults-").unwrap();
    let options = CoordinatorOptions::new().set("log.filter", "info");
    let mut coordinator = Coordinator::new("coordinator", PROGRAMS, directory.path(), options).unwrap();
    // 1 MiB: some dozen transactions.
    coordinator.process().limit_files(Some(2_048));
    coordinator.restart().await.unwrap();
    let acknowledged = fill(&mut coordinator, "reports an error; check it before you start again").await;
    coordinator.process().limit_files(None);
    nothing_is_lost(&mut coordinator, &acknowledged).await;
}

/// As root: a file system that is really full.
#[tokio::test]
async fn a_file_system_without_room() {
    let directory = TempDir::with_prefix("concord-store-faults-").unwrap();
    let Some(small) = Tmpfs::mount(directory.path().join("small")) else {
        eprintln!("NOT RUN: only root may mount a small tmpfs; files_that_cannot_grow stands in for it");
        return;
    };
    let options = CoordinatorOptions::new().set("log.filter", "info");
    let mut coordinator = Coordinator::new("coordinator", PROGRAMS, directory.path(), options).unwrap();
    coordinator.set_data_dir(small.path.join("data"));
    coordinator.restart().await.unwrap();
    let acknowledged = fill(&mut coordinator, "the disk is full; make room and start again").await;
    // Nor can it start without room, and says so.
    coordinator.launch().unwrap();
    assert_eq!(coordinator.process().ended().await.unwrap().code(), Some(3));
    assert!(small.make_room(), "the file system cannot be enlarged");
    nothing_is_lost(&mut coordinator, &acknowledged).await;
    coordinator.stop().await.unwrap();
}

/// Runs transactions until the store is full; answers with those that were acknowledged as committed.
async fn fill(coordinator: &mut Coordinator, why: &str) -> Vec<String> {
    let stub = Stub::start().await;
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let initiators: Vec<_> = (0..INITIATORS)
        .map(|_| {
            let (mut api, acknowledged) = (coordinator.api(), Arc::clone(&acknowledged));
            let request = ExecuteRequest { wait: Wait::Decided.into(), ..stub.request() };
            tokio::spawn(async move {
                loop {
                    match api.execute(request.clone()).await {
                        Ok(answer) => {
                            let transaction = answer.into_inner().transaction.unwrap();
                            let committed = [TransactionState::Committing, TransactionState::Committed];
                            assert!(committed.contains(&transaction.state()), "{transaction:?}");
                            acknowledged.lock().unwrap().push(transaction.gtid);
                        }
                        Err(status) => return status,
                    }
                }
            })
        })
        .collect();
    for initiator in initiators {
        let status = initiator.await.unwrap();
        let reason = concord_proto::status::reason(&status);
        match status.code() {
            // Told by the coordinator in its last moment, or by the loss of the connection.
            tonic::Code::Unavailable => {
                assert!(reason.as_deref().is_none_or(|reason| reason == "STORE_FAILED"), "{status:?}")
            }
            tonic::Code::Unknown | tonic::Code::Cancelled | tonic::Code::Internal => {
                assert_eq!(reason, None, "{status:?}");
            }
            _ => panic!("{status:?}"),
        }
    }
    assert_eq!(coordinator.process().ended().await.unwrap().code(), Some(3));
    let log = coordinator.process().log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: the store failed and takes no more records"), "{log}");
    assert!(last.contains(why), "{last}");
    let acknowledged = std::mem::take(&mut *acknowledged.lock().unwrap());
    assert!(acknowledged.len() > INITIATORS, "only {} before it was full", acknowledged.len());
    acknowledged
}

async fn nothing_is_lost(coordinator: &mut Coordinator, acknowledged: &[String]) {
    coordinator.restart().await.unwrap();
    // The stub is still there: what was decided is delivered.
    coordinator.drained().await.unwrap();
    let mut api = coordinator.api();
    for gtid in acknowledged {
        let found = api.get(GetRequest { gtid: gtid.clone() }).await.unwrap().into_inner();
        let transaction = found.transaction.unwrap();
        assert_eq!(transaction.state(), TransactionState::Committed, "{transaction:?}");
    }
    println!("{} acknowledged, none lost", acknowledged.len());
}

/// A small file system. Dropped, it is unmounted.
struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    fn mount(path: PathBuf) -> Option<Tmpfs> {
        std::fs::create_dir(&path).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], &path).then_some(Tmpfs { path })
    }

    fn make_room(&self) -> bool {
        mount(&["-o", "remount,size=64m"], &self.path)
    }
}

fn mount(arguments: &[&str], path: &Path) -> bool {
    Command::new("mount").args(arguments).arg(path).status().is_ok_and(|status| status.success())
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a coordinator may still be there when a test has failed.
        Command::new("umount").arg("-l").arg(&self.path).status().ok();
    }
}
