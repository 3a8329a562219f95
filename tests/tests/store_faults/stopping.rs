//! SIGTERM: what is under way is finished, or left to the next start, and the exit code says that all is well.

use super::stub::*;

struct Stopping {
    coordinator: Coordinator,
    stub: Stub,
    running: tokio::task::JoinHandle<Result<Transaction, tonic::Status>>,
    _directory: TempDir,
}

/// A transaction whose participant keeps the coordinator waiting; the coordinator is told to stop.
async fn stop_amid(options: CoordinatorOptions, in_phase_two: bool) -> Stopping {
    let directory = TempDir::with_prefix("concord-store-faults-").unwrap();
    let mut coordinator = Coordinator::start(PROGRAMS, directory.path(), options).await.unwrap();
    let stub = Stub::start().await;
    let mut api = coordinator.api();
    let wait = if in_phase_two { Wait::Decided } else { Wait::Completed };
    let request = ExecuteRequest { wait: wait.into(), ..stub.request() };
    stub.open(false);
    let running = tokio::spawn(async move {
        api.execute(request).await.map(|answer| answer.into_inner().transaction.unwrap())
    });
    stub.asked(2).await;
    if in_phase_two {
        // Votes pass, commits do not.
        stub.let_votes_pass();
        stub.told(2).await;
    }
    coordinator.process().terminate().unwrap();
    until("it stops", async || Ok(coordinator.api().begin(BeginRequest::default()).await.err().map(drop)))
        .await
        .unwrap();
    Stopping { coordinator, stub, running, _directory: directory }
}

#[tokio::test]
async fn votes_that_are_awaited_are_awaited() {
    let mut stopping = stop_amid(CoordinatorOptions::new(), false).await;
    assert_eq!(stopping.coordinator.process().exited().unwrap(), None);
    stopping.stub.open(true);
    let transaction = stopping.running.await.unwrap().unwrap();
    assert_eq!(transaction.state(), TransactionState::Committed);
    assert_eq!(stopping.coordinator.process().ended().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn decisions_are_delivered() {
    let mut stopping = stop_amid(CoordinatorOptions::new(), true).await;
    let transaction = stopping.running.await.unwrap().unwrap();
    assert_eq!(transaction.state(), TransactionState::Committing, "its initiator does not wait");
    // No call keeps it: only the participants that have not answered.
    for _ in 0..50 {
        let refused = concord_tests::refusal(stopping.coordinator.api().begin(BeginRequest::default()).await);
        assert_eq!(refused, (tonic::Code::Unavailable, "SHUTTING_DOWN".to_owned()));
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    stopping.stub.open(true);
    assert_eq!(stopping.coordinator.process().ended().await.unwrap().code(), Some(0));
    // Nothing is left for the next start.
    stopping.coordinator.restart().await.unwrap();
    stopping.coordinator.drained().await.unwrap();
    let status = stopping.coordinator.status().await.unwrap();
    assert_eq!((status.committed, status.calls), (0, 0));
}

#[tokio::test]
async fn what_takes_too_long_is_left_to_the_next_start() {
    let options = CoordinatorOptions::new().set("shutdown.grace_ms", 200);
    let mut stopping = stop_amid(options, true).await;
    assert_eq!(stopping.coordinator.process().ended().await.unwrap().code(), Some(0));
    let log = stopping.coordinator.process().log();
    assert!(log.contains("leaving transactions to the next start"), "{log}");
    let transaction = stopping.running.await.unwrap().unwrap();
    assert_eq!(transaction.state(), TransactionState::Committing);
    stopping.stub.open(true);
    stopping.coordinator.restart().await.unwrap();
    stopping.coordinator.drained().await.unwrap();
    let listed = stopping.coordinator.api().list(ListRequest::default()).await.unwrap().into_inner();
    let states: Vec<_> = listed.transactions.iter().map(Transaction::state).collect();
    assert_eq!(states, [TransactionState::Committed]);
}
