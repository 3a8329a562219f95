//! None, too many, of the wrong kind, or at an address that may not be called.

use concord_proto::v1::*;
use concord_sandbox::{Flavor, Server, ServerOptions};
use concord_tests::{Bank, CoordinatorOptions, Entry, Participant, ParticipantOptions};

use super::support::*;

#[tokio::test]
async fn no_branches() {
    let alone = Alone::start().await;
    assert_eq!(refusal(alone.execute(execute(Vec::new())).await), invalid());
    alone.untouched().await;
    let gtid = alone.begin().await;
    assert_eq!(refusal(alone.commit(&gtid).await), refused(Code::FailedPrecondition, "NO_BRANCHES"));
    // It is as it was: it can be rolled back, and others can still join.
    alone.join(&gtid, "a").await;
    assert_eq!(alone.rollback(&gtid).await.unwrap().state(), TransactionState::RollingBack);
}

#[tokio::test]
async fn an_address_off_the_allow_list() {
    let allowed = r#"http://127.0.0.1:1,http://*.bank.test:7101"#;
    let alone = Alone::start_with(CoordinatorOptions::new().set("participants.allow", allowed)).await;
    let denied = refused(Code::PermissionDenied, "PARTICIPANT_NOT_ALLOWED");
    let addresses = [
        "http://127.0.0.1:2",
        "https://127.0.0.1:1",
        "http://127.0.0.1",
        "http://localhost:1",
        "http://127.0.0.1:1/path",
        "http://127.0.0.1:1?query",
        "http://user@127.0.0.1:1",
        "http://127.0.0.1:1@elsewhere.test",
        "http://bank.test:7101",
        "http://a.bank.test:7101.elsewhere.test",
        "http://[::ffff:127.0.0.1]:1",
        "http://2130706433:1",
        "ftp://127.0.0.1:1",
        "127.0.0.1:1",
        "not an address",
    ];
    for address in addresses {
        let at = BranchRequest { participant: address.into(), ..branch() };
        assert_eq!(refusal(alone.execute(execute(vec![branch(), at])).await), denied, "{address}");
    }
    alone.untouched().await;
    let gtid = alone.begin().await;
    for address in addresses {
        let joined = alone.coordinator.api().register_branch(register(&gtid, address, "key")).await;
        assert_eq!(refusal(joined), denied, "{address}");
    }
    alone.coordinator.api().register_branch(register(&gtid, "http://a.bank.test:7101", "key")).await.unwrap();
}

#[tokio::test]
async fn branches_of_the_wrong_kind() {
    let alone = Alone::start().await;
    let gtid = alone.begin().await;
    let of = |kind: i32| BranchRequest { kind, ..branch() };
    let join = |kind: i32| RegisterBranchRequest { kind, ..register(&gtid, ABSENT, "key") };
    // A TCC branch that its participant registers must say whom to confirm or cancel; an XA branch must not.
    let tcc = BranchKind::Tcc.into();
    assert_eq!(refusal(alone.coordinator.api().register_branch(join(tcc)).await), invalid());
    let told = RegisterBranchRequest { action: "reserve".into(), ..join(BranchKind::Xa.into()) };
    assert_eq!(refusal(alone.coordinator.api().register_branch(told).await), invalid());
    for kind in [0, 17, -1] {
        assert_eq!(refusal(alone.execute(execute(vec![branch(), of(kind)])).await), invalid());
        assert_eq!(refusal(alone.coordinator.api().register_branch(join(kind)).await), invalid());
    }
    let status = alone.coordinator.status().await.unwrap();
    assert_eq!((status.begun, status.calls), (1, 0), "only the one that was begun above");
}

/// A thousand branches in one real database; one more is refused at the door.
#[tokio::test]
async fn a_thousand_branches() {
    let server = Server::start(ServerOptions::new(Flavor::MySql)).await.unwrap();
    let bank = Bank::open(&server, "thousand", 1, 0).await.unwrap();
    let alone = Alone::start_with(CoordinatorOptions::new().set("calls.timeout_ms", 60_000)).await;
    // Fewer sessions than branches: they queue for them.
    let options = ParticipantOptions { session_wait_ms: 60_000, ..ParticipantOptions::default() };
    let url = alone.coordinator.url();
    let directory = alone.coordinator.data_dir().parent().unwrap().to_path_buf();
    let participant =
        Participant::start("participant", PROGRAMS, &directory, &bank.url(), &url, &options).await.unwrap();
    let branches = |count: usize| -> Vec<BranchRequest> {
        let one = |number: usize| {
            let entry = Entry { transfer: format!("branch-{number}"), account: 1, amount: 0 };
            concord_tests::branch(&participant.url(), "insert", &entry)
        };
        (1..=count).map(one).collect()
    };
    assert_eq!(refusal(alone.execute(execute(branches(1_001))).await), invalid());
    alone.untouched().await;
    let request =
        ExecuteRequest { timeout_ms: 120_000, wait: Wait::Completed.into(), ..execute(branches(1_000)) };
    let done = alone.execute(request).await.unwrap();
    assert_eq!(done.state(), TransactionState::Committed, "{}", done.reason);
    assert_eq!(done.branches.len(), 1_000);
    let ledger = bank.ledger().await.unwrap();
    assert_eq!(ledger.len(), 1_000);
    assert!(ledger.values().all(|rows| *rows == 1));
    assert_eq!(bank.in_doubt(alone.coordinator.status().await.unwrap().cluster_id).await.unwrap(), 0);

    // The same at a registration: the thousand and first is refused, the others stay.
    let gtid = alone.begin().await;
    for number in 1..=1_000 {
        assert_eq!(alone.join(&gtid, &number.to_string()).await, number);
    }
    let late = alone.coordinator.api().register_branch(register(&gtid, ABSENT, "1001")).await;
    assert_eq!(refusal(late), invalid());
    assert_eq!(alone.join(&gtid, "1000").await, 1_000, "a repeat is not one more");
}
