//! Gtids that nobody issued, calls in the wrong state, repeats, and keys used twice.

use concord_proto::v1::*;
use concord_protocol::{Epoch, Gtid};

use super::support::*;

/// A well-formed gtid that was not issued, of the coordinator's present life or another.
async fn stranger(alone: &Alone, epochs_on: i64) -> String {
    let epoch = i64::from(alone.coordinator.status().await.unwrap().epoch) + epochs_on;
    Gtid::compose(1_700_000_000_000, Epoch(u32::try_from(epoch).unwrap()), 7).to_string()
}

/// Every call that names a transaction, as the status that it is refused with.
async fn every_call(alone: &Alone, gtid: &str) -> Vec<(&'static str, Refusal)> {
    let mut api = alone.coordinator.api();
    let mut operator = alone.coordinator.operator();
    let gtid = || gtid.to_owned();
    let (why, who) = (|| "because".to_owned(), || "an operator".to_owned());
    vec![
        ("RegisterBranch", refusal(api.register_branch(register(&gtid(), ABSENT, "key")).await)),
        ("ReportVote", refusal(alone.vote(&gtid(), 1, Vote::Yes).await)),
        ("Commit", refusal(alone.commit(&gtid()).await)),
        ("Rollback", refusal(alone.rollback(&gtid()).await)),
        ("Get", refusal(api.get(GetRequest { gtid: gtid() }).await)),
        ("Watch", refusal(api.watch(WatchRequest { gtid: gtid() }).await.map(drop))),
        ("Retry", refusal(operator.retry(RetryRequest { gtid: gtid(), operator: who() }).await)),
        ("Park", {
            let request = ParkRequest { gtid: gtid(), operator: who(), reason: why() };
            refusal(operator.park(request).await)
        }),
        ("Resolve", {
            let outcome = TransactionState::RolledBack.into();
            let request =
                ResolveRequest { gtid: gtid(), branch_id: 0, outcome, operator: who(), reason: why() };
            refusal(operator.resolve(request).await)
        }),
    ]
}

#[tokio::test]
async fn unknown_gtid() {
    let alone = Alone::start().await;
    let gtid = stranger(&alone, 0).await;
    for (call, found) in every_call(&alone, &gtid).await {
        assert_eq!(found, refused(Code::NotFound, "UNKNOWN_GTID"), "{call}");
    }
    alone.untouched().await;
}

/// Presumed abort: of an earlier life and not on record means rolled back, for ever.
#[tokio::test]
async fn a_gtid_of_an_earlier_life() {
    let alone = Alone::start().await;
    let gtid = stranger(&alone, -1).await;
    for (call, found) in every_call(&alone, &gtid).await {
        let expected = match call {
            // They ask what is on record, and nothing is.
            "Get" | "Watch" => refused(Code::NotFound, "UNKNOWN_GTID"),
            _ => refused(Code::Aborted, "ROLLED_BACK"),
        };
        assert_eq!(found, expected, "{call}");
    }
    let gtids = vec![gtid, stranger(&alone, 0).await, stranger(&alone, 1).await];
    let answer = alone
        .coordinator
        .api()
        .inquire(InquireRequest { gtids, ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let outcomes: Vec<_> = answer.outcomes().collect();
    assert_eq!(outcomes, [Outcome::RolledBack, Outcome::Undecided, Outcome::Undecided]);
    alone.untouched().await;
}

#[tokio::test]
async fn malformed_gtid() {
    let alone = Alone::start().await;
    let huge = "0".repeat(100_000);
    let malformed = [
        "",
        "x",
        "0192f6a0-8c00-7000-8000-040000000001", // version 7
        "0192f6a08c0080008000040000000001",     // without hyphens
        "{0192f6a0-8c00-8000-8000-04000000001}",
        " 192f6a0-8c00-8000-8000-040000000001",
        "0192f6a0-8c00-8000-8000-04000000000é",
        "'; DROP TABLE account; -- 0123456789",
        &huge,
    ];
    for gtid in malformed {
        for (call, found) in every_call(&alone, gtid).await {
            assert_eq!(found, invalid(), "{call} of {:.50?}", gtid);
        }
        let gtids = vec![gtid.to_owned()];
        assert_eq!(
            refusal(alone.coordinator.api().inquire(InquireRequest { gtids, ..Default::default() }).await),
            invalid()
        );
    }
    alone.untouched().await;
}

#[tokio::test]
async fn commit_repeated_and_contradicted() {
    let alone = Alone::start().await;
    let gtid = alone.ready_to_commit().await;
    for _ in 0..3 {
        assert_eq!(alone.commit(&gtid).await.unwrap().state(), TransactionState::Committed);
    }
    let already = refused(Code::FailedPrecondition, "ALREADY_COMMITTED");
    assert_eq!(refusal(alone.rollback(&gtid).await), already);
    let late = alone.coordinator.api().register_branch(register(&gtid, ABSENT, "late")).await;
    assert_eq!(refusal(late), refused(Code::FailedPrecondition, "TRANSACTION_NOT_ACTIVE"));
    alone.coordinator.drained().await.unwrap();
    assert_eq!(refusal(alone.rollback(&gtid).await), already, "from the history as well");
    assert_eq!(alone.commit(&gtid).await.unwrap().state(), TransactionState::Committed);
}

#[tokio::test]
async fn commit_after_rollback() {
    let alone = Alone::start().await;
    let gtid = alone.ready_to_commit().await;
    for _ in 0..2 {
        assert_eq!(alone.rollback(&gtid).await.unwrap().state(), TransactionState::RolledBack);
    }
    let rolled_back = refused(Code::Aborted, "ROLLED_BACK");
    assert_eq!(refusal(alone.commit(&gtid).await), rolled_back);
    assert_eq!(refusal(alone.vote(&gtid, 1, Vote::Yes).await), rolled_back, "a late yes");
    alone.coordinator.drained().await.unwrap();
    assert_eq!(refusal(alone.commit(&gtid).await), rolled_back, "from the history as well");
}

#[tokio::test]
async fn commit_after_a_restart() {
    let mut alone = Alone::start().await;
    let committed = alone.ready_to_commit().await;
    alone.commit(&committed).await.unwrap();
    let begun = alone.ready_to_commit().await;
    alone.coordinator.stop().await.unwrap();
    alone.coordinator.restart().await.unwrap();
    assert_eq!(alone.commit(&committed).await.unwrap().state(), TransactionState::Committed);
    assert_eq!(refusal(alone.commit(&begun).await), refused(Code::Aborted, "ROLLED_BACK"));
}

#[tokio::test]
async fn wrong_states() {
    let alone = Alone::start().await;
    let mut operator = alone.coordinator.operator();
    let gtid = alone.begin().await;
    let empty = refused(Code::FailedPrecondition, "NO_BRANCHES");
    assert_eq!(refusal(alone.commit(&gtid).await), empty);
    assert_eq!(alone.join(&gtid, "a").await, 1);
    assert_eq!(alone.join(&gtid, "b").await, 2);
    assert_eq!(alone.join(&gtid, "a").await, 1, "a repeated registration is the same branch");
    for branch in [0, 3, u32::MAX] {
        let found = refusal(alone.vote(&gtid, branch, Vote::Yes).await);
        assert_eq!(found, refused(Code::NotFound, "UNKNOWN_BRANCH"), "{branch}");
    }
    alone.vote(&gtid, 1, Vote::ReadOnly).await.unwrap();
    alone.vote(&gtid, 1, Vote::ReadOnly).await.unwrap();
    let conflict = refused(Code::FailedPrecondition, "VOTE_CONFLICT");
    assert_eq!(refusal(alone.vote(&gtid, 1, Vote::Yes).await), conflict);
    assert_eq!(refusal(alone.vote(&gtid, 2, Vote::Unspecified).await), invalid());

    let undecided = refused(Code::FailedPrecondition, "NOT_DECIDED");
    let park = |operator: &str| ParkRequest {
        gtid: gtid.clone(),
        operator: operator.into(),
        ..ParkRequest::default()
    };
    assert_eq!(refusal(operator.park(park("an operator")).await), undecided);
    assert_eq!(refusal(operator.park(park("")).await), invalid(), "somebody has to answer for it");
    let resolve = |branch_id, outcome: TransactionState, reason: &str| ResolveRequest {
        gtid: gtid.clone(),
        branch_id,
        outcome: outcome.into(),
        operator: "an operator".into(),
        reason: reason.into(),
    };
    let (done, active) = (TransactionState::Committed, TransactionState::Active);
    assert_eq!(refusal(operator.resolve(resolve(1, done, "because")).await), undecided);
    assert_eq!(refusal(operator.resolve(resolve(1, done, "")).await), invalid(), "a reason is required");
    assert_eq!(refusal(operator.resolve(resolve(1, active, "because")).await), invalid(), "not an outcome");

    let unknown = ListInDoubtRequest { resource: "elsewhere".into() };
    assert_eq!(
        refusal(operator.list_in_doubt(unknown).await),
        invalid(),
        "a resource that is not configured"
    );
    alone.vote(&gtid, 2, Vote::No).await.unwrap();
    assert_eq!(refusal(alone.commit(&gtid).await), refused(Code::Aborted, "ROLLED_BACK"));
    alone.coordinator.drained().await.unwrap();
}

#[tokio::test]
async fn an_idempotency_key_used_twice() {
    let mut alone = Alone::start().await;
    let reused = refused(Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED");
    let begin = |name: &str, timeout_ms| BeginRequest {
        name: name.into(),
        timeout_ms,
        idempotency_key: "one key".into(),
    };
    let mut api = alone.coordinator.api();
    let first = api.begin(begin("a", 60_000)).await.unwrap().into_inner().gtid;
    let again = api.begin(begin("a", 60_000)).await.unwrap().into_inner().gtid;
    assert_eq!(first, again);
    assert_eq!(refusal(api.begin(begin("b", 60_000)).await), reused, "another name");
    assert_eq!(refusal(api.begin(begin("a", 60_001)).await), reused, "another timeout");
    let executed = ExecuteRequest {
        name: "a".into(),
        timeout_ms: 60_000,
        idempotency_key: "one key".into(),
        ..execute(vec![branch(), branch()])
    };
    assert_eq!(refusal(alone.execute(executed.clone()).await), reused, "with branches");

    // Of an Execute: rolled back, because nobody is there before its time is over.
    let executed = ExecuteRequest { idempotency_key: "another".into(), timeout_ms: 200, ..executed };
    let outcome = alone.execute(executed.clone()).await.unwrap();
    // No call has reached anyone, so there is nobody to be told.
    assert_eq!(outcome.state(), TransactionState::RolledBack);
    for changed in [
        ExecuteRequest { grade: Grade::Strict.into(), ..executed.clone() },
        ExecuteRequest { branches: vec![branch()], ..executed.clone() },
        ExecuteRequest {
            branches: vec![branch(), BranchRequest { payload: "x".into(), ..branch() }],
            ..executed.clone()
        },
        ExecuteRequest {
            branches: vec![branch(), BranchRequest { action: "credit".into(), ..branch() }],
            ..executed.clone()
        },
    ] {
        assert_eq!(refusal(alone.execute(changed).await), reused);
    }
    // A restart changes nothing of that.
    alone.coordinator.kill9().unwrap();
    alone.coordinator.restart().await.unwrap();
    assert_eq!(alone.execute(executed.clone()).await.unwrap().gtid, outcome.gtid);
    let changed = ExecuteRequest { name: "c".into(), ..executed };
    assert_eq!(refusal(alone.execute(changed).await), reused);
}
