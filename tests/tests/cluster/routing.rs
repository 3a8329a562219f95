//! Any coordinator answers any call.

use super::support::*;

on_each_store!(any_coordinator_answers, a_key_is_one_transaction_wherever_it_is_sent);

async fn any_coordinator_answers(shared: Shared) -> Result<()> {
    let mut scene = Scene::set(shared).await?;
    let world = &mut scene.world;
    let (name, _) = world.transfer(1, 100);
    let begin = BeginRequest { name: name.clone(), timeout_ms: 60_000, ..BeginRequest::default() };
    let begun = world.coordinator.api().begin(begin).await?.into_inner();
    // They join through whichever coordinator they talk to.
    let entry = |account| concord_tests::Entry { transfer: name.clone(), account, amount: 100 };
    world.one.join(&begun.gtid, "debit", &entry(1)).await?;
    world.two.join(&begun.gtid, "credit", &entry(1)).await?;
    let [second, third] = [&world.peers[0], &world.peers[1]];
    let get = GetRequest { gtid: begun.gtid.clone() };
    let seen = second.api().get(get.clone()).await?.into_inner().transaction.unwrap();
    ensure!(seen.branches.len() == 2 && seen.state() == TransactionState::Active, "{seen:?}");
    // Once the first coordinator's records are in the store.
    until("it is listed by all", async || {
        for (coordinator, oldest_first) in [(second, false), (third, false), (second, true), (third, true)] {
            let request = ListRequest { name: name.clone(), oldest_first, ..ListRequest::default() };
            let listed = coordinator.api().list(request.clone()).await?.into_inner().transactions;
            let [one] = listed.as_slice() else { return Ok(None) };
            ensure!(one.gtid == begun.gtid && one.state() == TransactionState::Active, "{one:?}");
            let after = ListRequest { page_token: begun.gtid.clone(), ..request };
            let others = coordinator.api().list(after).await?.into_inner().transactions;
            ensure!(others.is_empty(), "{others:?}");
        }
        Ok(Some(()))
    })
    .await?;
    let mut watched = third.api().watch(WatchRequest { gtid: begun.gtid.clone() }).await?.into_inner();
    ensure!(watched.message().await?.is_some_and(|first| first.transaction.is_some()));
    let commit = CommitRequest { gtid: begun.gtid.clone(), ..CommitRequest::default() };
    let ended = third.api().commit(commit.clone()).await?.into_inner().transaction.unwrap();
    ensure!(ended.state() == TransactionState::Committed, "{ended:?}");
    // A repeat, and what has ended, from any of them.
    for coordinator in world.coordinators() {
        let ended = coordinator.api().commit(commit.clone()).await?.into_inner().transaction.unwrap();
        ensure!(ended.state() == TransactionState::Committed, "{ended:?}");
        let seen = coordinator.api().get(get.clone()).await?.into_inner().transaction.unwrap();
        ensure!(seen.history.iter().any(|event| event.kind == "decided"), "{seen:?}");
        let inquired = InquireRequest { gtids: vec![begun.gtid.clone()], ..InquireRequest::default() };
        let standing = coordinator.api().inquire(inquired).await?.into_inner();
        ensure!(standing.outcomes == [i32::from(concord_proto::v1::Outcome::Committed)], "{standing:?}");
    }
    scene.world.audit(&[Transfer { name, outcome: Outcome::Committed }]).await
}

async fn a_key_is_one_transaction_wherever_it_is_sent(shared: Shared) -> Result<()> {
    let scene = Scene::set(shared).await?;
    let mut transfers = Vec::new();
    for _ in 0..10 {
        let request = scene.transfer();
        // At the same moment, while the first to come is under way.
        let calls = scene.world.coordinators().map(|coordinator| {
            let (mut api, request) = (coordinator.api(), request.clone());
            async move { api.execute(request).await }
        });
        let answers = futures_util::future::join_all(calls).await;
        let mut gtids = Vec::new();
        for answer in answers {
            let transaction = answer?.into_inner().transaction.unwrap();
            ensure!(transaction.state() == TransactionState::Committed, "{transaction:?}");
            gtids.push(transaction.gtid);
        }
        gtids.dedup();
        ensure!(gtids.len() == 1, "{gtids:?}");
        transfers.push(Transfer { name: request.name.clone(), outcome: Outcome::Committed });
        // Another request under the same key.
        let other = ExecuteRequest { name: "another".into(), ..request };
        for coordinator in scene.world.coordinators() {
            let refused = concord_tests::refusal(coordinator.api().execute(other.clone()).await);
            ensure!(refused.1 == "IDEMPOTENCY_KEY_REUSED", "{refused:?}");
        }
    }
    scene.world.audit(&transfers).await
}
