//! Values outside their limits. Each limit is tried from both sides.

use concord_proto::v1::*;
use concord_tests::CoordinatorOptions;
use tokio_stream::StreamExt as _;

use super::support::*;

fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

#[tokio::test]
async fn text_beyond_its_limit() {
    let alone = Alone::start().await;
    let mut api = alone.coordinator.api();
    let begin = |name, idempotency_key| BeginRequest { name, idempotency_key, timeout_ms: 0 };
    assert_eq!(refusal(api.begin(begin(long(129), "".into())).await), invalid());
    assert_eq!(refusal(api.begin(begin("".into(), long(129))).await), invalid());
    // Bytes are counted, not characters.
    assert_eq!(refusal(api.begin(begin("é".repeat(65), "".into())).await), invalid());

    let spoiled = |spoil: fn(&mut BranchRequest)| {
        let mut second = branch();
        spoil(&mut second);
        execute(vec![branch(), second])
    };
    let spoilers: [fn(&mut BranchRequest); 4] = [
        |branch| branch.action = long(129),
        |branch| branch.action.clear(),
        |branch| branch.participant = format!("http://127.0.0.1:1/{}", long(257)),
        |branch| branch.participant.clear(),
    ];
    for spoil in spoilers {
        assert_eq!(refusal(alone.execute(spoiled(spoil)).await), invalid());
    }
    let named = ExecuteRequest { name: long(129), ..execute(vec![branch()]) };
    assert_eq!(refusal(alone.execute(named).await), invalid());
    let keyed = ExecuteRequest { idempotency_key: long(129), ..execute(vec![branch()]) };
    assert_eq!(refusal(alone.execute(keyed).await), invalid());
    alone.untouched().await;

    let gtid = api.begin(begin(long(128), long(128))).await.unwrap().into_inner().gtid;
    assert_eq!(refusal(api.register_branch(register(&gtid, ABSENT, &long(65))).await), invalid());
    assert_eq!(refusal(api.register_branch(register(&gtid, ABSENT, "")).await), invalid());
    assert_eq!(refusal(api.register_branch(register(&gtid, "", "key")).await), invalid());
    api.register_branch(register(&gtid, ABSENT, &long(64))).await.unwrap();
    let vote =
        |reason| ReportVoteRequest { gtid: gtid.clone(), branch_id: 1, vote: Vote::ReadOnly.into(), reason };
    assert_eq!(refusal(api.report_vote(vote(long(1025))).await), invalid());
    api.report_vote(vote(long(1024))).await.unwrap();
    let rollback = |reason| RollbackRequest { gtid: gtid.clone(), reason, ..Default::default() };
    assert_eq!(refusal(api.rollback(rollback(long(1025))).await), invalid());
    let mut operator = alone.coordinator.operator();
    let retry = RetryRequest { gtid: gtid.clone(), operator: long(129) };
    assert_eq!(refusal(operator.retry(retry).await), invalid());
    let park = ParkRequest { gtid: gtid.clone(), operator: "ada".into(), reason: long(1025) };
    assert_eq!(refusal(operator.park(park).await), invalid());
    let rollback_by = RollbackRequest { gtid: gtid.clone(), operator: long(129), ..Default::default() };
    assert_eq!(refusal(api.rollback(rollback_by).await), invalid());
    let ended = api.rollback(rollback(long(1024))).await.unwrap().into_inner().transaction.unwrap();
    assert_eq!(ended.reason, long(1024));
}

#[tokio::test]
async fn payload_beyond_its_limit() {
    let alone = Alone::start_with(CoordinatorOptions::new().set("limits.payload_bytes_max", 10_000)).await;
    let with = |sizes: [usize; 2]| {
        let payload = |size| BranchRequest { payload: vec![7; size].into(), ..branch() };
        ExecuteRequest { timeout_ms: 100, ..execute(sizes.map(payload).into()) }
    };
    assert_eq!(refusal(alone.execute(with([10_001, 0])).await), invalid());
    assert_eq!(refusal(alone.execute(with([5_000, 5_001])).await), invalid(), "all branches together");
    alone.untouched().await;
    // Beyond what the server reads at all, gRPC itself refuses.
    let status = alone.execute(with([4 << 20, 0])).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    alone.untouched().await;
    let taken = alone.execute(with([5_000, 5_000])).await.unwrap();
    assert!(taken.reason.contains("timed out"), "{taken:?}");
}

#[tokio::test]
async fn numbers_beyond_their_limits() {
    let alone = Alone::start().await;
    let mut api = alone.coordinator.api();
    let begin = |timeout_ms| BeginRequest { timeout_ms, ..BeginRequest::default() };
    for timeout_ms in [86_400_001, u32::MAX] {
        assert_eq!(refusal(api.begin(begin(timeout_ms)).await), invalid());
        let executed = ExecuteRequest { timeout_ms, ..execute(vec![branch()]) };
        assert_eq!(refusal(alone.execute(executed).await), invalid());
    }
    let gtids = vec![String::new(); 1_001];
    assert_eq!(refusal(api.inquire(InquireRequest { gtids, ..Default::default() }).await), invalid());
    alone.untouched().await;
    api.begin(begin(86_400_000)).await.unwrap();
}

#[tokio::test]
async fn lists_that_cannot_be_given() {
    let alone = Alone::start().await;
    let mut api = alone.coordinator.api();
    for _ in 0..3 {
        alone.begin().await;
    }
    let list = |page_size, page_token: &str, states: &[i32]| ListRequest {
        page_size,
        page_token: page_token.into(),
        states: states.into(),
        ..ListRequest::default()
    };
    assert_eq!(refusal(api.list(list(1_001, "", &[])).await), invalid());
    assert_eq!(refusal(api.list(list(u32::MAX, "", &[])).await), invalid());
    for token in ["x", "1", "0192f6a0-8c00-7000-8000-040000000001", "' OR 1=1", &long(100_000)] {
        assert_eq!(refusal(api.list(list(0, token, &[])).await), invalid(), "{token:.40}");
    }
    for state in [0, 7, -1, i32::MAX] {
        assert_eq!(refusal(api.list(list(0, "", &[1, state])).await), invalid(), "{state}");
    }
    // And what can: two pages, the second the last one.
    let first = api.list(list(2, "", &[])).await.unwrap().into_inner();
    let second = api.list(list(2, &first.next_page_token, &[])).await.unwrap().into_inner();
    assert_eq!((first.transactions.len(), second.transactions.len()), (2, 1));
    assert_eq!(second.next_page_token, "");
    assert_eq!(api.list(list(1_000, "", &[1])).await.unwrap().into_inner().transactions.len(), 3);
}

#[tokio::test]
async fn past_the_limit_of_live_transactions() {
    let alone = Alone::start_with(CoordinatorOptions::new().set("limits.live_transactions_max", 3)).await;
    let mut begun = Vec::new();
    for _ in 0..3 {
        begun.push(alone.begin().await);
    }
    let exhausted = refused(Code::ResourceExhausted, "TOO_MANY_LIVE_TRANSACTIONS");
    let mut api = alone.coordinator.api();
    assert_eq!(refusal(api.begin(BeginRequest::default()).await), exhausted);
    assert_eq!(refusal(alone.execute(execute(vec![branch()])).await), exhausted);
    let gtid = begun.remove(0);
    let mut changes = api.watch(WatchRequest { gtid: gtid.clone() }).await.unwrap().into_inner();
    alone.rollback(&gtid).await.unwrap();
    while changes.next().await.is_some() {}
    // It leaves memory when its end is written.
    concord_tests::until("there is room again", async || {
        Ok(api.begin(BeginRequest::default()).await.ok().map(drop))
    })
    .await
    .unwrap();
}
