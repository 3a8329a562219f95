//! Stores that cannot be opened, or must not be.

use std::path::Path;

use super::stub::*;

/// A coordinator that does not start; its exit code and the last line that it wrote.
async fn refused(coordinator: &mut Coordinator) -> (Option<i32>, String) {
    coordinator.launch().unwrap();
    let status = coordinator.process().ended().await.unwrap();
    let log = coordinator.process().log();
    (status.code(), log.lines().last().unwrap_or_default().to_owned())
}

fn described(directory: &Path, name: &str) -> Coordinator {
    Coordinator::new(name, PROGRAMS, directory, CoordinatorOptions::new()).unwrap()
}

#[tokio::test]
async fn a_second_coordinator_on_one_directory() {
    let directory = TempDir::with_prefix("concord-store-faults-").unwrap();
    let mut first = described(directory.path(), "first");
    first.restart().await.unwrap();
    let mut second = described(directory.path(), "second");
    let (code, message) = refused(&mut second).await;
    assert_eq!(code, Some(3), "{message}");
    let (data, pid) = (first.data_dir().display().to_string(), first.process().pid().unwrap());
    assert!(message.contains(&data) && message.contains(&format!("process {pid}")), "{message}");
    // The first has not noticed; after its end the directory is free, however it ended.
    let stub = Stub::start().await;
    let answer = first.api().execute(stub.request()).await.unwrap().into_inner();
    assert_eq!(answer.transaction.unwrap().state(), TransactionState::Committed);
    first.kill9().unwrap();
    second.restart().await.unwrap();
}

#[tokio::test]
async fn a_store_of_a_newer_version() {
    let directory = TempDir::with_prefix("concord-store-faults-").unwrap();
    let mut coordinator = described(directory.path(), "coordinator");
    coordinator.restart().await.unwrap();
    let epoch = coordinator.status().await.unwrap().epoch;
    assert!(coordinator.stop().await.unwrap().success());
    let file = coordinator.data_dir().join("concord.db");
    let set_version = |version: u32| {
        let store = rusqlite::Connection::open(&file).unwrap();
        let before: u32 = store.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        store.pragma_update(None, "user_version", version).unwrap();
        before
    };
    let known = set_version(99);
    let (code, message) = refused(&mut coordinator).await;
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("has schema version 99") && message.contains("concord.db"), "{message}");
    // It has not touched it.
    assert_eq!(set_version(known), 99);
    coordinator.restart().await.unwrap();
    assert_eq!(coordinator.status().await.unwrap().epoch, epoch + 1);
}

#[tokio::test]
async fn what_is_no_store() {
    let directory = TempDir::with_prefix("concord-store-faults-").unwrap();
    let mut coordinator = described(directory.path(), "coordinator");
    let file = directory.path().join("a file");
    std::fs::write(&file, "kept as it is").unwrap();
    for data_dir in [file.clone(), file.join("below")] {
        coordinator.set_data_dir(&data_dir);
        let (code, message) = refused(&mut coordinator).await;
        assert_eq!(code, Some(3), "{message}");
        assert!(message.contains(&data_dir.display().to_string()), "{message}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"kept as it is");

    let garbage = directory.path().join("garbage");
    std::fs::create_dir(&garbage).unwrap();
    std::fs::write(garbage.join("concord.db"), "no database. ".repeat(1_000)).unwrap();
    coordinator.set_data_dir(&garbage);
    let (code, message) = refused(&mut coordinator).await;
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("not an SQLite database"), "{message}");

    let foreign = directory.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    let other = rusqlite::Connection::open(foreign.join("concord.db")).unwrap();
    other.execute_batch("CREATE TABLE precious (value)").unwrap();
    drop(other);
    coordinator.set_data_dir(&foreign);
    let (code, message) = refused(&mut coordinator).await;
    assert_eq!(code, Some(3), "{message}");
    assert!(message.contains("of another program"), "{message}");
}

#[tokio::test]
async fn an_address_that_is_taken() {
    let directory = TempDir::with_prefix("concord-store-faults-").unwrap();
    let mut coordinator = described(directory.path(), "coordinator");
    let taken = tokio::net::TcpListener::bind(coordinator.address()).await.unwrap();
    let (code, message) = refused(&mut coordinator).await;
    assert_eq!(code, Some(1), "the store is well: {message}");
    assert!(message.contains(&format!("cannot listen on {}", coordinator.address())), "{message}");
    drop(taken);
    coordinator.restart().await.unwrap();
}
